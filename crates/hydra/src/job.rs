//! Which job of Hydra is deployed, and at which revision.

use std::fmt;
use std::str::FromStr;

/// A revision, and the variable that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// 7 to 40 (or 64) hexadecimal digits, or `latest`.
    pub name: String,
    pub from: String,
}

/// A job of Hydra, printed as `project:jobset:job`, as Hydra itself does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub project: String,
    pub jobset: String,
    pub job: String,
}

impl Job {
    /// The job of the same name in another jobset of the project, if one is named.
    pub(crate) fn in_jobset(&self, name: Option<&str>) -> Self {
        Self {
            jobset: name.unwrap_or(&self.jobset).to_string(),
            ..self.clone()
        }
    }
}

impl FromStr for Job {
    type Err = ();

    /// Reads `project/jobset/job` and `project:jobset:job`. Names: Hydra's `CatalystUtils`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.trim().split(['/', ':']).collect();
        let is_name = |name: &&str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.'))
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '\''))
        };
        match parts[..] {
            [project, jobset, job] if parts.iter().all(is_name) => Ok(Self {
                project: project.to_string(),
                jobset: jobset.to_string(),
                job: job.to_string(),
            }),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.project, self.jobset, self.job)
    }
}
