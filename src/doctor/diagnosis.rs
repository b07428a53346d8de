//! The result of a comparison, as plain data. Its words are in [`crate::messages`].

use super::before::Before;
use super::cause::Cause;
use super::compare::Comparison;
use super::hydra_side::Built;
use super::inputs::Inputs;
use super::our_side::OurSide;
use nix_derivation::StorePath;

/// The finding, with both sides of the comparison.
#[derive(Debug)]
pub struct Diagnosis {
    pub finding: Finding,
    /// The root that this is about.
    pub root: StorePath,
    pub ours: OurSide,
    /// Hydra's build, where there is one to compare with.
    pub build: Option<Box<Built>>,
}

/// The outcome of a comparison.
#[derive(Debug)]
pub enum Finding {
    /// None of so many evaluations that Hydra lists has the revision that is deployed here, and there is
    /// no build to compare with.
    NotEvaluated {
        revision: String,
        jobset: String,
        looked_at: usize,
    },
    /// Hydra has not built it.
    NotBuilt(NotBuilt),
    /// Hydra built this very path.
    Same,
    /// The derivations differ: the causes, likeliest first, and the derivation they were found in.
    Different {
        causes: Vec<Cause>,
        comparison: Comparison,
    },
    /// The derivations cannot be compared, since no binary cache serves Hydra's.
    Unreadable {
        /// Another name or system than Hydra's, where that shows on the build's page.
        causes: Vec<Cause>,
    },
    /// There is no Hydra to compare with; why.
    Alone(String),
    /// The same, of a root that no binary cache has.
    Missing {
        why: String,
        /// What the caches have of all that it is made from, where they all answered.
        inputs: Option<Inputs>,
        /// What differs from the previous image, where that has something of the same name.
        before: Option<Before>,
    },
}

/// Why there is no output of Hydra's build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotBuilt {
    Unfinished,
    Failed,
}
