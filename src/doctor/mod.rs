//! Why a store path that was evaluated here is not the one that Hydra built.
//!
//! Both sides' derivations are walked from the root to where they first differ. Where there is no
//! Hydra to compare with, what can be said from this side is said.

pub mod cause;
pub mod compare;
pub mod hydra_side;
pub mod our_side;
pub mod stores;
pub mod tree;

use crate::config::{Config, Expression, Wanted};
use binary_cache::Caches;
use cause::Cause;
use compare::Comparison;
use hydra::short;
use hydra::{Hydra, revision};
use hydra_side::{Built, HydraSide};
use nix_derivation::StorePath;
use our_side::OurSide;
use std::path::Path;
use stores::{CacheStore, DirectoryStore, Store};

/// What the doctor found. It is printed with its answer first.
#[derive(Debug)]
pub struct Diagnosis {
    pub finding: Finding,
    /// The root that this is about.
    pub root: StorePath,
    pub ours: OurSide,
    /// What Hydra was asked about, where it answered.
    pub build: Option<Box<Built>>,
}

/// The answer.
#[derive(Debug)]
pub enum Finding {
    /// None of so many evaluations that Hydra lists has the revision that is deployed here, and there is
    /// no build to compare with.
    NotEvaluated {
        revision: String,
        jobset: String,
        looked_at: usize,
    },
    /// Hydra has not built it: what it says of the build, in words.
    NotBuilt(String),
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
}

/// What is known here, to be compared.
#[derive(Debug)]
pub struct Evaluated<'a> {
    /// Where the store's paths are on disk.
    pub store: &'a Path,
    pub root: &'a StorePath,
    /// The app's source in the store.
    pub source: &'a StorePath,
    pub source_files: usize,
    pub system: &'a str,
}

/// Compares what was evaluated with what Hydra has, as far as that can be had; `hydra` is the one to
/// ask, or why there is none. The binary caches are opened once it has let us in.
pub fn diagnose(
    evaluated: &Evaluated,
    expression: &Expression,
    config: &Config,
    app_dir: &Path,
    mut hydra: Result<&mut Hydra, String>,
    open_caches: impl FnOnce(Option<&Hydra>) -> Caches,
) -> Diagnosis {
    let mut store = DirectoryStore::new(evaluated.store);
    let derivation = store.deriver(evaluated.root);
    let revision = revision::find(config.hydra.revision.as_ref(), app_dir);
    let mut ours = our_side::look(evaluated, expression, config, app_dir, &mut store);
    ours.derivation.clone_from(&derivation);
    ours.revision = revision
        .ok()
        .filter(|revision| revision.name != "latest")
        .map(|revision| revision.name);
    let mut diagnosis = Diagnosis {
        finding: Finding::Alone(String::new()),
        root: evaluated.root.clone(),
        ours,
        build: None,
    };
    let Some(derivation) = derivation else {
        diagnosis.finding = Finding::Alone("The derivation was not found".to_string());
        return diagnosis;
    };
    let ours = &diagnosis.ours;
    let side = match &mut hydra {
        Ok(hydra) => hydra_side::look(hydra, config, &derivation, ours.revision.as_deref()),
        Err(why) => HydraSide::Unasked(why.clone()),
    };
    diagnosis.finding = match side {
        HydraSide::Unasked(why) => Finding::Alone(why),
        HydraSide::NotEvaluated {
            revision,
            jobset,
            looked_at,
        } => Finding::NotEvaluated {
            revision: short(&revision).to_string(),
            jobset,
            looked_at,
        },
        HydraSide::Built(built) => {
            // It may have signed in meanwhile, which lets us into its binary cache as well.
            let caches = open_caches(hydra.ok().as_deref());
            let finding = against(&built, &derivation, evaluated, ours, &mut store, &caches);
            diagnosis.build = Some(built);
            finding
        }
    };
    diagnosis
}

fn against(
    built: &Built,
    derivation: &StorePath,
    evaluated: &Evaluated,
    ours: &OurSide,
    store: &mut DirectoryStore,
    caches: &Caches,
) -> Finding {
    let root = evaluated.root.to_absolute_path();
    let mut outputs = built.build.outputs.values();
    let is_output = outputs.any(|output| output.path.as_ref() == Some(&root));
    if !built.build.is_finished() {
        return Finding::NotBuilt("Hydra has not finished its build yet".to_string());
    }
    if (built.derivation.as_ref() == Some(derivation) || is_output) && built.build.succeeded() {
        return Finding::Same;
    }
    let theirs = built.derivation.as_ref();
    let mut cache = CacheStore::new(caches);
    let readable = theirs.filter(|theirs| cache.derivation(theirs).is_some());
    let Some(theirs) = readable else {
        if !built.build.succeeded() {
            return Finding::NotBuilt("Hydra's build failed".to_string());
        }
        return Finding::Unreadable {
            causes: cause::of_facts(built, derivation, evaluated),
        };
    };
    let comparison = compare::compare(derivation, theirs, store, &mut cache);
    let causes = cause::of(&comparison, built, ours, store, &mut cache);
    if causes.is_empty() && !built.build.succeeded() {
        return Finding::NotBuilt("Hydra's build failed".to_string());
    }
    Finding::Different { causes, comparison }
}

/// The expression to diagnose: the one that is deployed, or that the app has beside a job.
#[must_use]
pub fn expression(config: &Config) -> Option<&Expression> {
    match &config.wanted {
        Wanted::Expression(expression) => Some(expression),
        Wanted::HydraJob(_, expression) => expression.as_ref(),
        Wanted::StorePath(_) => None,
    }
}
