//! Why Hydra has nothing to deploy.

use crate::api::{Evaluation, InputRevision};
use crate::revision::RevisionError;
use crate::{Job, Revision};
use http_client::HttpError;
use std::fmt;
use std::time::Duration;
use words::duration;

/// Why a question to Hydra was not answered. Printed in one line.
#[derive(Debug)]
pub enum HydraError {
    /// `NIX_HYDRA_URL` is not set, and none of these binary caches is known to be a Hydra.
    NoHydra {
        asked: Vec<String>,
        /// Those of them that may be one but did not answer.
        unreached: Vec<Unreached>,
    },
    /// There was no answer.
    Http { url: String, error: HttpError },
    /// Hydra refused.
    Refused {
        url: String,
        status: u16,
        message: String,
    },
    /// The answer is not one of Hydra's.
    Answer { url: String, reason: String },
    /// A private Hydra, without credentials for it.
    Private { url: String },
    /// It did not accept the credentials.
    SignIn { url: String, message: String },
}

/// A server that did not answer.
#[derive(Debug)]
pub struct Unreached {
    pub url: String,
    pub error: HttpError,
}

impl HydraError {
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Http { error, .. } => error.is_temporary(),
            Self::Refused { status, .. } => *status >= 500,
            _ => false,
        }
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.url, self.error)
    }
}

impl fmt::Display for HydraError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHydra { unreached, .. } if unreached.is_empty() => {
                formatter.write_str("There is no Hydra to ask")
            }
            Self::NoHydra { unreached, .. } => {
                let reasons: Vec<String> = unreached.iter().map(ToString::to_string).collect();
                let reasons = words::list(&reasons);
                write!(
                    formatter,
                    "No binary cache has answered as a Hydra does ({reasons})"
                )
            }
            Self::Http {
                url,
                error: error @ (HttpError::Unauthorized(_) | HttpError::Status(407)),
            } => write!(
                formatter,
                "Hydra cannot be asked without credentials ({url}: {error})"
            ),
            Self::Http { url, error } => {
                write!(formatter, "Hydra did not answer ({url}: {error})")
            }
            Self::Refused { url, message, .. } => {
                write!(formatter, "Hydra refused to answer ({url}: {message})")
            }
            Self::Answer { url, reason } => {
                write!(
                    formatter,
                    "This does not seem to be a Hydra ({url}: {reason})"
                )
            }
            Self::Private { .. } => formatter.write_str("This Hydra is private"),
            Self::SignIn { url, message } => {
                write!(formatter, "Hydra did not let us sign in ({url}: {message})")
            }
        }
    }
}

impl std::error::Error for HydraError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Http { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Why Hydra has nothing to deploy.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error(transparent)]
    Hydra(#[from] HydraError),
    /// It is not known which revision is deployed.
    #[error(transparent)]
    Revision(#[from] RevisionError),
    /// No evaluation has the revision.
    #[error("Hydra has not evaluated the revision")]
    NotEvaluated(Box<NotEvaluated>),
    /// A short revision is the beginning of several.
    #[error("the revision {revision} is the beginning of several")]
    Ambiguous {
        revision: String,
        candidates: Vec<InputRevision>,
    },
    /// `NIX_HYDRA_INPUT` names no input of the newest evaluation, which has `inputs`.
    #[error("the jobset has no input named {input}")]
    NoInput { input: String, inputs: Vec<String> },
    /// The evaluation has no such job.
    #[error("the evaluation has no such job")]
    NoJob(Box<NoJob>),
    /// No build of this job has succeeded.
    #[error("Hydra never built {job}")]
    NoLatest { job: Job, system: String },
    /// The build is not finished.
    #[error("Hydra has not finished {}", .0.page)]
    NotFinished(NotFinished),
    /// The build failed.
    #[error("Hydra's build failed")]
    Failed(Box<Failed>),
    /// It is for another system than the image.
    #[error("{page} is for {system}")]
    System {
        page: String,
        system: String,
        wanted: String,
    },
    /// The build has no output path, or none that can be used.
    #[error("{0} has no output path")]
    NoOutput(String),
}

/// A revision that no evaluation has, and what is known of the reason.
#[derive(Debug)]
pub struct NotEvaluated {
    pub revision: Revision,
    pub page: String,
    pub job: Job,
    /// `NIX_HYDRA_INPUT`.
    pub input: Option<String>,
    /// How many evaluations were searched.
    pub looked_at: usize,
    /// The newest of them.
    pub newest: Option<Newest>,
    pub waited: Duration,
    /// What Hydra does about the jobset at the moment.
    pub doing: String,
    /// The jobset is never evaluated.
    pub disabled: bool,
    /// Hydra has fetched the revision, and will not evaluate it any more.
    pub fetched: Option<Fetched>,
    /// Hydra's error, if its last attempt to fetch or evaluate failed.
    pub error: Option<String>,
}

/// Where a revision that Hydra has fetched is in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// Before the newest evaluation's: a later one was evaluated in its place.
    Before,
    /// After the newest evaluation's: it brought no new builds.
    After,
}

/// The newest evaluation of a jobset.
#[derive(Debug)]
pub struct Newest {
    pub evaluation: u64,
    pub revisions: Vec<InputRevision>,
}

impl Newest {
    pub(crate) fn of(evaluation: &Evaluation) -> Self {
        Self {
            evaluation: evaluation.id,
            revisions: evaluation.revisions(),
        }
    }
}

/// A job that an evaluation does not have.
#[derive(Debug)]
pub struct NoJob {
    pub job: Job,
    pub page: String,
    /// Some of the evaluation's jobs, if they could be listed, and the number of all.
    pub jobs: Option<Vec<String>>,
    pub count: usize,
    /// Hydra's error, if the job could not be evaluated.
    pub error: Option<String>,
}

/// A build that is not finished after `waited`.
#[derive(Debug)]
pub struct NotFinished {
    pub page: String,
    /// What Hydra does about it.
    pub doing: String,
    pub waited: Duration,
    pub finished: Option<Finished>,
}

/// A build that succeeded for an older evaluation of the same revision, with other inputs.
#[derive(Debug)]
pub struct Finished {
    pub evaluation: u64,
    pub page: String,
    /// Its store path.
    pub path: String,
}

impl fmt::Display for Finished {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Evaluation {} has the same revision, with other inputs, and its build has succeeded: {}",
            self.evaluation, self.page
        )
    }
}

/// A build that failed.
#[derive(Debug)]
pub struct Failed {
    pub job: Job,
    pub status: Option<u64>,
    pub system: String,
    pub page: String,
    pub log: String,
    /// The log's last lines, if it could be read.
    pub tail: Option<Vec<String>>,
}

impl DeployError {
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self, Self::Hydra(error) if error.is_temporary())
    }

    /// How long was waited, as a clause, or an empty text.
    #[must_use]
    pub fn waited(waited: Duration) -> String {
        if waited < Duration::from_secs(1) {
            String::new()
        } else {
            format!(", after {}", duration(waited))
        }
    }
}
