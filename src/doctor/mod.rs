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
mod words;

use crate::closure::plan::Caches;
use crate::config::{Config, Expression, Wanted};
use crate::errors::{BuildpackError, hydra_in_short};
use crate::http::Http;
use crate::hydra::deploy::short;
use crate::hydra::{Hydra, revision};
use crate::layers::closure::ClosureLayerError;
use crate::output;
use crate::resolve::source::Source;
use crate::resolve::{self, Resolved};
use bullet_stream::global::print;
use cause::Cause;
use compare::Comparison;
use hydra_side::{Built, HydraSide};
use libcnb::Buildpack;
use libcnb::build::BuildContext;
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

/// Compares `root` with what Hydra has. Nothing where it was not evaluated here.
fn examine<B: Buildpack<Error = BuildpackError>>(
    context: &BuildContext<B>,
    config: &Config,
    resolved: &Resolved,
    root: &StorePath,
    hydra: Option<&mut Hydra>,
    http: &Http,
) -> Result<Option<Diagnosis>, BuildpackError> {
    let (Some(expression), Some(store)) = (expression(config), resolved.store()) else {
        return Ok(None);
    };
    print::bullet("Doctor");
    let source =
        Source::read(&context.app_dir, &config.source_name).map_err(BuildpackError::Source)?;
    let evaluated = Evaluated {
        store,
        root,
        source: &source.path,
        source_files: source.files,
        system: resolve::system(&context.target.arch)?,
    };
    let timer = print::sub_start_timer("Comparing it with Hydra's");
    // Where neither it nor a job is named, a Hydra among the caches may know the name.
    let mut found;
    let hydra = if let Some(hydra) = hydra {
        Ok(hydra)
    } else {
        found = Hydra::find(&config.caches, None, http).map_err(|error| hydra_in_short(&error));
        found.as_mut().map_err(|why| why.clone())
    };
    let open_caches = |hydra: Option<&Hydra>| {
        let mut urls = config.caches.clone();
        if let Some(hydra) = hydra {
            hydra.let_into(&mut urls);
        }
        Caches::open(&urls, config.trust.clone(), http)
    };
    let diagnosis = diagnose(
        &evaluated,
        expression,
        config,
        &context.app_dir,
        hydra,
        open_caches,
    );
    timer.done();
    Ok(Some(diagnosis))
}

/// Compares what was evaluated with what Hydra has, and prints what is found. What was not evaluated
/// is evaluated for this.
pub fn report<B: Buildpack<Error = BuildpackError>>(
    context: &BuildContext<B>,
    config: &Config,
    resolved: &Resolved,
    hydra: Option<&mut Hydra>,
    http: &Http,
) -> libcnb::Result<(), BuildpackError> {
    let own;
    let resolved = match (resolved.store(), expression(config)) {
        (None, Some(expression)) => {
            own = resolve::evaluate_fully(context, config, expression, http)?;
            &own
        }
        _ => resolved,
    };
    let diagnosis = match resolved.roots.first() {
        Some(root) => examine(context, config, resolved, &root.path, hydra, http)?,
        None => None,
    };
    if let Some(diagnosis) = diagnosis {
        let (answer, explanation) = (diagnosis.answer(), diagnosis.explanation());
        output::warning(&format!("{answer}\n\n{explanation}"));
    } else {
        print::bullet("Doctor");
        output::sub_bullet("There is no expression in the app to compare with Hydra's build");
    }
    Ok(())
}

/// Adds to a failed closure why its root is missing, where that can be found out.
pub fn explain<B: Buildpack<Error = BuildpackError>>(
    error: ClosureLayerError,
    context: &BuildContext<B>,
    config: &Config,
    resolved: &Resolved,
    hydra: Option<&mut Hydra>,
    http: &Http,
) -> BuildpackError {
    let ClosureLayerError::Miss { misses, unusable } = error else {
        return BuildpackError::ClosureLayer(error);
    };
    let diagnosis = match (resolve::missing_root(&misses), &config.wanted) {
        (Some(_), Wanted::HydraJob(job, _)) => {
            return BuildpackError::NotKept {
                misses,
                unusable,
                job: job.clone(),
            };
        }
        // Where this fails, the miss is what matters.
        (Some(root), Wanted::Expression(_)) => {
            examine(context, config, resolved, root, hydra, http)
                .ok()
                .flatten()
        }
        _ => None,
    };
    match diagnosis {
        Some(diagnosis) => BuildpackError::Diagnosed {
            misses,
            diagnosis: Box::new(diagnosis),
        },
        None => BuildpackError::ClosureLayer(ClosureLayerError::Miss { misses, unusable }),
    }
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
