//! Which revision of the app is being deployed.

use crate::Revision;
use serde::Serialize;
use std::io;
use std::path::Path;
use std::process::Command;

/// Files that are named in a message about a checkout with changes.
const CHANGES: usize = 5;

/// Why nobody knows which revision is being deployed.
#[derive(Debug, thiserror::Error)]
pub enum RevisionError {
    /// Neither the settings nor the platform name it, and the app has no `.git`.
    #[error("nothing names the revision")]
    Unknown,
    /// `.git` is there, but cannot be read; what `git` said.
    #[error(".git cannot be read: {0}")]
    Git(String),
    /// The checkout differs from its revision: the first files that do, and how many there are.
    #[error("the checkout differs from its revision in {1} files")]
    Changed(Vec<String>, usize),
}

/// The revision that is named, else that of a clean `.git` in the app.
pub fn find(named: Option<&Revision>, app_dir: &Path) -> Result<Revision, RevisionError> {
    if let Some(named) = named {
        return Ok(named.clone());
    }
    if !app_dir.join(".git").exists() {
        return Err(RevisionError::Unknown);
    }
    let changes = changes(app_dir)?;
    if !changes.is_empty() {
        let count = changes.len();
        let shown = changes.into_iter().take(CHANGES).collect();
        return Err(RevisionError::Changed(shown, count));
    }
    let name = git(app_dir, &["rev-parse", "--verify", "HEAD"])?;
    Ok(Revision {
        name: name.trim().to_string(),
        from: ".git".to_string(),
    })
}

/// The commit whose tree is deployed, as flakes see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// All 40 digits.
    revision: String,
    /// When it was committed, in seconds since 1970; nothing where only the platform knows the commit.
    time: Option<u64>,
}

impl Commit {
    /// The commit that is named in full, else that of a clean `.git` in the app.
    #[must_use]
    pub fn find(named: Option<&Revision>, app_dir: &Path) -> Option<Self> {
        let is_whole = |revision: &Revision| {
            revision.name.len() == 40 && revision.name.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let found = match named.filter(|named| is_whole(named)) {
            Some(named) => named.clone(),
            None => find(None, app_dir).ok().filter(is_whole)?,
        };
        Some(Self {
            time: time(&found.name, app_dir),
            revision: found.name,
        })
    }

    /// What the URL of a flake has of it.
    #[must_use]
    pub fn in_url(&self) -> String {
        let time = self.time.map(|time| format!("&lastModified={time}"));
        format!("&rev={}{}", self.revision, time.unwrap_or_default())
    }
}

/// When a revision was committed, if the app's `.git` has it.
fn time(revision: &str, app_dir: &Path) -> Option<u64> {
    // Else git would look for one in the directories above.
    if !app_dir.join(".git").exists() {
        return None;
    }
    let commit = git(app_dir, &["cat-file", "commit", revision]).ok()?;
    let committer = commit
        .lines()
        .find_map(|line| line.strip_prefix("committer "))?;
    // Its end is the time and the time zone.
    committer.rsplit(' ').nth(1)?.parse().ok()
}

/// The files in which a checkout differs from its revision, with those that are in none.
pub fn changes(app_dir: &Path) -> Result<Vec<String>, RevisionError> {
    // With what is ignored: it is deployed all the same, and Hydra never sees it.
    let status = git(
        app_dir,
        &[
            "status",
            "--porcelain=v1",
            "-z",
            "--ignored",
            "--no-renames",
        ],
    )?;
    Ok(status
        .split('\0')
        .filter_map(|entry| entry.get(3..))
        .map(str::to_string)
        .collect())
}

fn git(app_dir: &Path, arguments: &[&str]) -> Result<String, RevisionError> {
    let output = Command::new("git")
        // The directory may belong to another user, and its configuration must not run programs.
        .args(["-c", "safe.directory=*", "-c", "core.fsmonitor=false"])
        .args(["--no-optional-locks", "-C"])
        .arg(app_dir)
        .args(arguments)
        .output()
        .map_err(|error| {
            RevisionError::Git(match error.kind() {
                io::ErrorKind::NotFound => "there is no `git` here to read it".to_string(),
                _ => error.to_string(),
            })
        })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(RevisionError::Git(said.trim().to_string()))
    }
}
