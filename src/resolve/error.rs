//! Why it could not be found out what to deploy.

use super::expression::ExpressionError;
use super::source::SourceError;
use crate::layers::launch_layer::LayerError;
use crate::tools::ToolError;
use hydra::DeployError;
use hydra::HydraError;
use nix_runner::NixError;

/// Why there are no roots, by the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Nix(#[from] NixError),
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    #[error(transparent)]
    Hydra(#[from] DeployError),
    #[error(transparent)]
    NixStore(#[from] LayerError),
    /// The platform could not give the `nix-store` layer; its reason.
    #[error("the nix-store layer cannot be opened: {0}")]
    Platform(String),
    /// The platform names an architecture that this buildpack does not know.
    #[error("the architecture `{0}` is not known")]
    Architecture(String),
}

impl From<HydraError> for ResolveError {
    fn from(error: HydraError) -> Self {
        Self::Hydra(error.into())
    }
}
