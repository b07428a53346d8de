//! The roots by evaluation: real Nix evaluates the app's expression, unless an earlier build did.

use super::ResolveError;
use super::expression::{Evaluator, ExpressionError, NIXPKGS_NIX, Outcome, ROOTS_NIX};
use super::pins;
use super::resolved::{Evaluated, Resolved};
use super::source::Source;
use crate::build::Build;
use crate::config::{Expression, OnMiss};
use crate::layers;
use crate::layers::memo::Key;
use crate::layers::nix_store::NixStoreLayer;
use crate::layers::proot::{PRootLayerError, program_in};
use crate::log;
use crate::root::Root;
use crate::tools::{NixSource, ToolSource};
use bullet_stream::global::print;
use hydra::revision::Commit;
use nix_hydra_start::executable::Machine;
use nix_runner::archive::ArchiveError;
use nix_runner::supply::Supply;
use nix_runner::{Nix, NixError};
use semver::Version;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much an evaluation may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// What an earlier build found out is taken, and nothing is written that need not be.
    Least,
    /// As Hydra does it.
    Full,
}

/// Evaluates an expression with nothing left out that Hydra does, so that its derivations are there.
pub fn evaluate_fully(build: &Build, expression: &Expression) -> Result<Resolved, ResolveError> {
    fully(build, expression, None)
}

/// The same with a Nix that has evaluated before, if there is one, and has what that fetched.
pub(super) fn fully(
    build: &Build,
    expression: &Expression,
    nix: Option<Nix>,
) -> Result<Resolved, ResolveError> {
    let source = Source::read(build.app_dir, &build.config.source_name)?;
    by_evaluation(build, &source, expression, Effort::Full, nix)
}

/// Evaluates the app's expression with real Nix, unless an earlier build did so already.
pub(super) fn by_evaluation(
    build: &Build,
    source: &Source,
    expression: &Expression,
    effort: Effort,
    nix: Option<Nix>,
) -> Result<Resolved, ResolveError> {
    let system = system(build.arch)?;
    let config = build.config;
    // A thorough evaluation is part of the step that needs it.
    if effort == Effort::Least {
        print::bullet("Nix");
    }
    let layer = (build.open_nix_store)().map_err(ResolveError::Platform)?;
    let on_path = std::env::var_os("PATH").and_then(|path| Nix::on_path(&path));
    let tool = NixSource::new(
        config.nix_archive.as_ref(),
        config.evaluator.as_ref(),
        build.arch,
    )?;
    let version = match &on_path {
        Some((_, version)) => version.to_string(),
        None => tool.key(),
    };
    let commit = commit(build, expression);
    let nix_code = [&system, &version, ROOTS_NIX, NIXPKGS_NIX];
    let key = Key::new(&source.path, commit.as_ref(), expression, config, nix_code);
    let key = key.filter(|_| !pins::may_tell_time(source, expression));
    let known = key.as_ref().filter(|_| effort == Effort::Least);
    if let Some(roots) = known.and_then(|key| layers::closure::recall(build.layers_dir, key)) {
        log::sub_bullet(format!(
            "`{}` was evaluated before",
            expression.file.display()
        ));
        print_roots(&roots);
        return Ok(Resolved {
            memo: key,
            ..Resolved::known(roots)
        });
    }

    let mut nix = match nix {
        Some(nix) => nix,
        None => new_nix(build, &layer, &tool, on_path)?,
    };
    let evaluator = Evaluator::new(&nix, source, expression, config, &system)?.at(commit);
    let outcome = evaluate(build, &mut nix, &evaluator, effort)?;
    layer.keep_sources(&nix, &source.path)?;
    print_roots(&outcome.roots);
    for entry in &outcome.unusable {
        log::warning(&format!(
            "{entry}, so Nix looked nothing up in it, and this is evaluated again at each build. \
             If the store path is not Hydra's, this may be why."
        ));
    }
    let key = key.filter(|_| outcome.unusable.is_empty());
    let key = key.filter(|_| outcome.unpinned.is_none());
    if let Some(unpinned) = &outcome.unpinned {
        tell_unpinned(build, source, expression, unpinned);
    }
    Ok(Resolved {
        origin: None,
        roots: outcome.roots,
        memo: key,
        evaluated: Some(Evaluated {
            nix,
            thorough: outcome.thorough,
            derivations: outcome.derivations,
        }),
    })
}

/// The commit that is deployed, where the expression can see it.
fn commit(build: &Build, expression: &Expression) -> Option<Commit> {
    let named = build.config.hydra.revision.as_ref();
    let find = || Commit::find(named, build.app_dir);
    expression.is_flake().then(find).flatten()
}

/// Without a hash Nix cannot tell what it would fetch another time, but a revision pins it as well.
fn tell_unpinned(build: &Build, source: &Source, expression: &Expression, unpinned: &str) {
    let what =
        "The expression fetches something without a hash, so every build evaluates it again.";
    let said = format!("Without a way to the network, Nix says: {unpinned}");
    if pins::by_revision(source, expression, build.config) {
        log::sub_bullet(format!("{what} {said}"));
    } else {
        log::warning(&format!(
            "{what} If no revision pins it either, the store path may differ from Hydra's. {said}"
        ));
    }
}

/// The Nix on PATH, or the pinned one, with the sources that the last evaluation took in its store.
fn new_nix(
    build: &Build,
    layer: &NixStoreLayer,
    tool: &NixSource,
    on_path: Option<(PathBuf, Version)>,
) -> Result<Nix, ResolveError> {
    let supply = Arc::new(Supply::new(build.config.substituters())?);
    std::thread::scope(|scope| {
        scope.spawn(|| layer.restore_sources(supply.store()));
        match on_path {
            Some((bin, version)) => {
                log::sub_bullet(format!("Using Nix {version} on PATH"));
                Ok(Nix::new(bin, Arc::clone(&supply))?)
            }
            None => unpacked_nix(build, layer, tool, &supply),
        }
    })
}

fn unpacked_nix(
    build: &Build,
    layer: &NixStoreLayer,
    tool: &NixSource,
    supply: &Arc<Supply>,
) -> Result<Nix, ResolveError> {
    let unpack = || {
        let packed = layer.nix(tool, supply, build.http)?;
        let timer = print::sub_start_timer("Unpacking it");
        let unpacked = Nix::unpacked(
            &|target| packed.unpack(target),
            &|directory| proot(build, directory),
            Arc::clone(supply),
        );
        timer.done();
        unpacked.map_err(ResolveError::Nix)
    };
    let unpacked = match unpack() {
        Err(ResolveError::Nix(NixError::Archive(error @ ArchiveError::Kept(..)))) => {
            log::warning(&format!(
                "The build cache is not used for Nix, which is fetched anew: {error}."
            ));
            layer.forget_nix();
            unpack()
        }
        unpacked => unpacked,
    };
    let (nix, needs_engine) = unpacked?;
    if let Some(reason) = needs_engine {
        log::sub_bullet(format!(
            "Running it {}, since it cannot run elsewhere than at /nix/store here: {reason}",
            nix.engine().name()
        ));
    }
    Ok(nix)
}

fn evaluate(
    build: &Build,
    nix: &mut Nix,
    evaluator: &Evaluator,
    effort: Effort,
) -> Result<Outcome, ResolveError> {
    let timer = print::sub_start_timer(format!("Evaluating `{}`", evaluator.file().display()));
    let outcome = evaluator.evaluate(nix, effort == Effort::Full);
    timer.done();
    let derivation = match outcome {
        Err(ExpressionError::MustBuild { derivation, .. })
            if build.config.on_miss == OnMiss::Build =>
        {
            derivation
        }
        outcome => return Ok(outcome?),
    };
    log::sub_bullet(format!(
        "{derivation} must be built to evaluate (import from derivation): no binary cache has it"
    ));
    let engine = nix.enable_building(build.hidden_from_builders(), &|directory| {
        proot(build, directory)
    })?;
    let timer = print::sub_start_timer(format!("Building it {engine}, and evaluating again"));
    let outcome = evaluator.evaluate(nix, true);
    timer.done();
    let outcome = outcome?;
    for derivation in &outcome.built {
        log::sub_bullet(format!("Built {derivation}"));
    }
    Ok(outcome)
}

/// Brings PRoot into a directory, or says why not.
pub(super) fn proot(build: &Build, directory: &Path) -> Result<PathBuf, String> {
    let source = ToolSource::proot(build.config.proot.as_ref(), build.buildpack_dir);
    source
        .map_err(PRootLayerError::Tool)
        .and_then(|source| program_in(directory, &source, build.http))
        .map_err(|error| error.to_string())
}

fn print_roots(roots: &[Root]) {
    for root in roots {
        log::deploying(&root.path);
    }
}

/// The processor of an image's architecture.
pub fn machine(arch: &str) -> Result<Machine, ResolveError> {
    match arch {
        "amd64" => Ok(Machine::X86_64),
        "arm64" => Ok(Machine::AARCH64),
        other => Err(ResolveError::Architecture(other.to_string())),
    }
}

/// Nix's name for the system of an image's architecture.
pub fn system(arch: &str) -> Result<String, ResolveError> {
    machine(arch).map(|machine| format!("{machine}-linux"))
}
