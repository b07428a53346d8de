//! Why a store path that was evaluated here is not the one that Hydra built.
//!
//! Both sides' derivations are walked from the root to where they first differ. Without a Hydra to
//! compare with, our own side is examined, and what is missing is compared with what the binary caches
//! and the previous image have. The modules use each other in one direction: [`tree`] < [`stores`] <
//! [`compare`], [`inputs`] < [`our_side`], [`hydra_side`] < [`cause`] < [`before`] < [`diagnosis`].

pub mod before;
pub mod cause;
pub mod compare;
pub mod diagnosis;
pub mod hydra_side;
pub mod inputs;
pub mod our_side;
pub mod stores;
pub mod tree;

pub use diagnosis::{Diagnosis, Finding, NotBuilt};
pub use our_side::Evaluated;

use crate::config::{Config, Expression, Wanted};
use binary_cache::Caches;
use hydra::short;
use hydra::{Hydra, revision};
use hydra_side::{Built, HydraSide};
use nix_derivation::StorePath;
use our_side::OurSide;
use stores::{CacheStore, EvaluatedStore, Store};

/// Compares our evaluation with Hydra's build, as far as its derivations can be read. `hydra` is an
/// error, with the reason, where there is none. `open_caches` is called after Hydra has signed us in.
pub fn diagnose(
    evaluated: &Evaluated,
    config: &Config,
    mut hydra: Result<&mut Hydra, String>,
    open_caches: impl FnOnce(Option<&Hydra>) -> Caches,
) -> Diagnosis {
    let mut store = EvaluatedStore(evaluated.store);
    let derivation = store.deriver(evaluated.root);
    let app_dir = evaluated.source.app.path();
    let revision = revision::known(config.hydra.revision.as_ref(), app_dir);
    let mut ours = our_side::look(evaluated, config, &mut store);
    ours.derivation.clone_from(&derivation);
    ours.revision = revision.map(|revision| revision.name);
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
        HydraSide::Unasked(why) if evaluated.is_missing => {
            let caches = open_caches(None);
            Finding::Missing {
                why,
                inputs: inputs::look(&derivation, &mut store, &caches),
                before: before::look(evaluated, &derivation, ours, &mut store, &caches),
            }
        }
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
            // A session with Hydra is good for its binary cache as well.
            let caches = open_caches(hydra.ok().as_deref());
            let finding = if !built.build.is_finished() {
                Finding::NotBuilt(NotBuilt::Unfinished)
            } else if built.has_made(evaluated.root, &derivation) {
                Finding::Same
            } else {
                compared(&built, &derivation, ours, &mut store, &caches)
            };
            diagnosis.build = Some(built);
            finding
        }
    };
    diagnosis
}

/// The difference between a derivation and that of a build which is finished.
fn compared(
    built: &Built,
    derivation: &StorePath,
    ours: &OurSide,
    store: &mut EvaluatedStore,
    caches: &Caches,
) -> Finding {
    let theirs = built.derivation.as_ref();
    let mut cache = CacheStore::new(caches);
    let readable = theirs.filter(|theirs| cache.derivation(theirs).is_some());
    let Some(theirs) = readable else {
        if !built.build.succeeded() {
            return Finding::NotBuilt(NotBuilt::Failed);
        }
        return Finding::Unreadable {
            causes: cause::of_facts(built, derivation, &ours.system),
        };
    };
    let comparison = compare::compare(derivation, theirs, store, &mut cache);
    let causes = cause::of(&comparison, &built.revisions, ours, store, &mut cache);
    if causes.is_empty() && !built.build.succeeded() {
        return Finding::NotBuilt(NotBuilt::Failed);
    }
    Finding::Different { causes, comparison }
}

/// The expression to diagnose: the deployed one, or the app's own beside a job. `None` for a store path.
pub fn expression(config: &Config) -> Option<&Expression> {
    match &config.wanted {
        Wanted::Expression(expression) => Some(expression),
        Wanted::HydraJob(_, expression) => expression.as_ref(),
        Wanted::StorePath(_) => None,
    }
}
