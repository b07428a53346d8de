//! Finds the roots: the store paths that the user wants deployed.

mod answer;
mod by_evaluation;
mod by_hydra;
pub mod checkout;
mod code;
mod error;
pub mod expression;
pub mod lookups;
mod named_sources;
pub(crate) mod pins;
mod realise;
mod resolved;
mod said;
pub mod source;

pub use self::by_evaluation::{evaluate_fully, machine, system};
pub use self::by_hydra::set_up;
pub use self::error::ResolveError;
pub use self::realise::realise;
pub use self::resolved::{Origin, Resolved};

use self::by_evaluation::{Effort, by_evaluation, fully};
use self::by_hydra::by_hydra;
use self::realise::is_built;
use self::source::{Source, SourceError};
use crate::build::Build;
use crate::config::Wanted;
use crate::log;
use crate::root::Root;
use app_dir::{AppDir, FileError};
use bullet_stream::global::print;
use closure::plan::Miss;
use hydra::Hydra;
use nix_derivation::StorePath;
use std::path::Path;

/// Finds the roots in the cheapest way that the settings allow.
///
/// `hydra` is the one to ask where the settings name a job.
pub fn resolve(build: &Build, hydra: Option<&mut Hydra>) -> Result<Resolved, ResolveError> {
    match &build.config.wanted {
        Wanted::StorePath(path) => {
            print::bullet("Store path of NIX_STORE_PATH");
            log::deploying(path);
            Ok(Resolved::known(vec![Root::from_path(path.clone())]))
        }
        Wanted::HydraJob(job, _) => {
            let (roots, origin) = by_hydra(build, job, hydra)?;
            Ok(Resolved {
                origin: Some(origin),
                ..Resolved::known(roots)
            })
        }
        Wanted::Expression(expression) => {
            print::bullet("Source");
            let source = Source::read(build.app_dir, &build.config.source_name)?;
            check_expression(&source.app, &expression.file)?;
            log::sub_bullet(format!("{} files are {}", source.files, source.path));
            for name in &source.left_out {
                log::sub_bullet(format!("Without `{name}`, which is not from git"));
            }
            for warning in checkout::warnings(&source, expression.is_flake()) {
                log::warning(&warning);
            }
            by_evaluation(build, &source, expression, Effort::Least, None)
        }
    }
}

/// Checks that Nix would find a file, or a directory with one, where the expression is.
fn check_expression(app: &AppDir, file: &Path) -> Result<(), SourceError> {
    match app.open(file) {
        Ok(_) | Err(FileError::Directory) => Ok(()),
        Err(error) => Err(SourceError::Read(app.path().join(file), error.into())),
    }
}

/// The root that a miss is about, if it may be one that Hydra built under another path: every cache
/// answered, and none has it.
pub fn missing_root(misses: &[Miss]) -> Option<&StorePath> {
    let is_root = |miss: &&Miss| miss.wanted_by.is_empty() && miss.is_certain();
    misses.iter().find(is_root).map(|miss| &miss.path)
}

/// Resolves again what no binary cache has, with nothing left out that Hydra does.
///
/// It comes to the same, but for expressions that look for their own copies in the store by a path
/// whose origin they hide. Changes nothing where another evaluation would tell no more.
pub fn resolve_fully(
    build: &Build,
    resolved: &mut Resolved,
    misses: &[Miss],
) -> Result<(), ResolveError> {
    let Wanted::Expression(expression) = &build.config.wanted else {
        return Ok(());
    };
    let missing = match missing_root(misses) {
        Some(_) => "the result",
        None if is_built(build.config, misses) => "all of the result",
        // Neither another evaluation nor a comparison would tell more.
        None => return Ok(()),
    };
    if resolved.store().is_none() {
        print::bullet("Miss");
        log::sub_bullet(format!(
            "No binary cache has {missing}: evaluating again, with every detail"
        ));
        let nix = resolved.evaluated.take().map(|evaluated| evaluated.nix);
        *resolved = fully(build, expression, nix)?;
    }
    Ok(())
}
