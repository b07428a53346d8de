//! The roots, and what is left of their evaluation.

use crate::root::Root;
use nix_runner::Nix;
use std::path::Path;

/// What a thorough evaluation leaves.
#[derive(Debug)]
pub(super) struct Evaluated {
    /// A Nix that has the derivations of the roots in its store.
    pub(super) nix: Nix,
    /// What to build, `/nix/store/….drv!out` for each root; None for a root that is no derivation's
    /// output.
    pub(super) derivations: Vec<Option<String>>,
}

/// The roots, and what is left of their evaluation.
#[derive(Debug)]
pub struct Resolved {
    pub roots: Vec<Root>,
    /// The page of the build on Hydra, where it was asked for one.
    pub page: Option<String>,
    /// None where nothing was evaluated thoroughly.
    pub(super) evaluated: Option<Evaluated>,
}

impl Resolved {
    /// Where the store's paths are on disk in which the roots' derivations are, if there is one.
    #[must_use]
    pub fn store(&self) -> Option<&Path> {
        self.evaluated
            .as_ref()
            .map(|evaluated| evaluated.nix.store())
    }
}
