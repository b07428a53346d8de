//! The roots, and what is left of their evaluation.

use crate::layers::memo::Key;
use crate::root::Root;
use nix_runner::Nix;
use nix_runner::nar_store::NarStore;

/// What an evaluation leaves.
#[derive(Debug)]
pub(super) struct Evaluated {
    /// A Nix that has what was fetched in its store, and the roots' derivations if it was thorough.
    pub(super) nix: Nix,
    pub(super) thorough: bool,
    /// What to build, `/nix/store/….drv!out` for each root; None for a root that is no derivation's
    /// output.
    pub(super) derivations: Vec<Option<String>>,
}

/// Where a build of Hydra's comes from.
#[derive(Debug)]
pub struct Origin {
    /// Its page.
    pub page: String,
    /// The URL of the repository, where it is known.
    pub source: Option<String>,
}

/// The roots, and what is left of their evaluation.
#[derive(Debug)]
pub struct Resolved {
    pub roots: Vec<Root>,
    /// Hydra's build, where it was asked for one.
    pub origin: Option<Origin>,
    /// The key by which the next build recognises the same evaluation; None if it cannot.
    pub memo: Option<Key>,
    /// None where nothing was evaluated.
    pub(super) evaluated: Option<Evaluated>,
}

impl Resolved {
    /// Roots that were not evaluated.
    pub(super) fn known(roots: Vec<Root>) -> Self {
        Self {
            roots,
            origin: None,
            memo: None,
            evaluated: None,
        }
    }

    /// The store in which the roots' derivations are, if there is one.
    pub fn store(&self) -> Option<&NarStore> {
        let evaluated = self.evaluated.as_ref();
        let thorough = evaluated.filter(|evaluated| evaluated.thorough);
        thorough.map(|evaluated| evaluated.nix.store())
    }
}
