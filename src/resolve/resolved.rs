//! The roots, and what is left of their evaluation.

use crate::root::Root;
use nix_runner::Nix;
use nix_runner::nar_store::NarStore;

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
    /// None where nothing was evaluated thoroughly.
    pub(super) evaluated: Option<Evaluated>,
}

impl Resolved {
    /// The store in which the roots' derivations are, if there is one.
    #[must_use]
    pub fn store(&self) -> Option<&NarStore> {
        self.evaluated
            .as_ref()
            .map(|evaluated| evaluated.nix.store())
    }
}
