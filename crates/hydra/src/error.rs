//! Why Hydra has nothing to deploy.

use crate::api::{Evaluation, InputRevision};
use crate::revision::RevisionError;
use crate::{Job, Revision};
use http_client::HttpError;
use std::fmt;
use std::time::Duration;

/// Why a question to Hydra was not answered. Printed in one line.
#[derive(Debug, thiserror::Error)]
pub enum HydraError {
    /// `NIX_HYDRA_URL` is not set, and none of these binary caches is known to be a Hydra.
    #[error("{}", no_hydra(unreached))]
    NoHydra {
        asked: Vec<String>,
        /// Those of them that may be one but did not answer.
        unreached: Vec<Unreached>,
    },
    #[error("Hydra {} ({url}: {error})", unanswered(error))]
    Http {
        url: String,
        #[source]
        error: HttpError,
    },
    #[error("Hydra refused to answer ({url}: {message})")]
    Refused {
        url: String,
        status: u16,
        message: String,
    },
    /// The answer is not one of Hydra's.
    #[error("This does not seem to be a Hydra ({url}: {reason})")]
    Answer { url: String, reason: String },
    /// There are no credentials for it.
    #[error("This Hydra is private")]
    Private { url: String },
    #[error("Hydra did not let us sign in ({url}: {message})")]
    SignIn { url: String, message: String },
}

/// A server that did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {error}")]
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

fn no_hydra(unreached: &[Unreached]) -> String {
    match unreached {
        [] => "There is no Hydra to ask".to_string(),
        unreached => {
            let reasons: Vec<String> = unreached.iter().map(ToString::to_string).collect();
            let reasons = words::list(&reasons);
            format!("No binary cache has answered as a Hydra does ({reasons})")
        }
    }
}

fn unanswered(error: &HttpError) -> &'static str {
    if lacks_credentials(error) {
        "cannot be asked without credentials"
    } else {
        "did not answer"
    }
}

/// Whether a server, or a proxy before it, wants a user and a password.
pub fn lacks_credentials(error: &HttpError) -> bool {
    matches!(error, HttpError::Unauthorized(_) | HttpError::Status(407))
}

/// Why Hydra has nothing to deploy.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error(transparent)]
    Hydra(#[from] HydraError),
    /// It is not known which revision is deployed.
    #[error(transparent)]
    Revision(#[from] RevisionError),
    #[error("Hydra has not evaluated the revision")]
    NotEvaluated(Box<NotEvaluated>),
    #[error("the revision {revision} is the beginning of several")]
    Ambiguous {
        revision: String,
        candidates: Vec<InputRevision>,
    },
    /// `NIX_HYDRA_INPUT` names no input of the newest evaluation, which has `inputs`.
    #[error("the jobset has no input named {input}")]
    NoInput { input: String, inputs: Vec<String> },
    #[error("the evaluation has no such job")]
    NoJob(Box<NoJob>),
    /// No build of this job has succeeded.
    #[error("Hydra never built {job}")]
    NoLatest { job: Job, system: String },
    #[error("Hydra has not finished {}", .0.page)]
    NotFinished(NotFinished),
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
    /// The evaluation's jobs, if they could be listed.
    pub jobs: Option<Vec<String>>,
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
}
