//! Any failure of `detect` or `build`, by the step that failed.

use crate::config::ConfigError;
use crate::doctor::Diagnosis;
use crate::launch::NoProcess;
use crate::launch::hook::HookError;
use crate::launch::procfile::ProcfileError;
use crate::layers::closure::ClosureLayerError;
use crate::layers::proot::PRootLayerError;
use crate::resolve::ResolveError;
use closure::plan::Miss;
use hydra::Job;

/// Any failure of `detect` or `build`. Its words are in [`crate::messages`].
#[derive(Debug, thiserror::Error)]
pub enum BuildpackError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    ClosureLayer(#[from] ClosureLayerError),
    /// A root that Hydra says it has built, but no binary cache has.
    #[error("no binary cache has what Hydra built of {job}")]
    NotKept {
        misses: Vec<Miss>,
        unusable: Vec<binary_cache::Unusable>,
        job: Job,
    },
    /// A root that no binary cache has, and why.
    #[error("no binary cache has the root")]
    Diagnosed {
        misses: Vec<Miss>,
        diagnosis: Box<Diagnosis>,
    },
    #[error(transparent)]
    PRootLayer(#[from] PRootLayerError),
    #[error(transparent)]
    Procfile(#[from] ProcfileError),
    #[error(transparent)]
    NoProcess(#[from] NoProcess),
    #[error(transparent)]
    Hook(#[from] HookError),
}

impl From<BuildpackError> for libcnb::Error<BuildpackError> {
    fn from(error: BuildpackError) -> Self {
        Self::BuildpackError(error)
    }
}
