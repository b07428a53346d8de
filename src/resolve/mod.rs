//! Finds the roots: the store paths that the user wants deployed.

pub mod expression;
pub mod source;

use crate::config::{Config, Expression, Job, Wanted};
use crate::errors::BuildpackError;
use crate::http::Http;
use crate::hydra::{self, Hydra, HydraError, Patience, revision};
use crate::layers;
use crate::nix::{Nix, archive};
use crate::tools::{Tool, ToolSource};
use bullet_stream::global::print;
use expression::evaluate;
use libcnb::Buildpack;
use libcnb::build::BuildContext;
use nix_derivation::StorePath;
use source::Source;
use std::path::Path;

/// A store path to deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub path: StorePath,
    /// The program that the package calls its main one (`meta.mainProgram`).
    pub main_program: Option<String>,
}

impl Root {
    /// A root of which nothing but its path is known.
    #[must_use]
    pub fn from_path(path: StorePath) -> Self {
        Self {
            path,
            main_program: None,
        }
    }
}

/// The roots, and what is left of their evaluation.
#[derive(Debug)]
pub struct Resolved {
    pub roots: Vec<Root>,
    /// A Nix that has the derivations of the roots in its store; nothing where nothing was evaluated.
    evaluated: Option<Nix>,
}

impl Resolved {
    /// Where the store's paths are on disk in which the roots' derivations are, if there is one.
    #[must_use]
    pub fn store(&self) -> Option<&Path> {
        self.evaluated.as_ref().map(Nix::store)
    }
}

/// Finds the roots in the cheapest way that the settings allow.
///
/// `hydra` is the one to ask where the settings name a job.
pub fn resolve<B: Buildpack<Error = BuildpackError>>(
    context: &BuildContext<B>,
    config: &Config,
    hydra: Option<&mut Hydra>,
    http: &Http,
) -> libcnb::Result<Resolved, BuildpackError> {
    let roots = match &config.wanted {
        Wanted::StorePath(path) => {
            print::bullet("Store path");
            print::sub_bullet(format!("{path}, as NIX_STORE_PATH says"));
            vec![Root::from_path(path.clone())]
        }
        Wanted::HydraJob(job, _) => by_hydra(context, config, job, hydra)?,
        Wanted::Expression(expression) => {
            return by_evaluation(context, config, expression, http);
        }
    };
    Ok(Resolved {
        roots,
        evaluated: None,
    })
}

/// Takes what Hydra built of the revision that is deployed.
fn by_hydra<B: Buildpack<Error = BuildpackError>>(
    context: &BuildContext<B>,
    config: &Config,
    job: &Job,
    hydra: Option<&mut Hydra>,
) -> libcnb::Result<Vec<Root>, BuildpackError> {
    let hydra = hydra.ok_or_else(|| BuildpackError::Hydra(HydraError::NoHydra(Vec::new())))?;
    print::bullet("Hydra");
    let settings = &config.hydra;
    let revision = revision::find(settings.revision.as_ref(), &context.app_dir)
        .map_err(|error| BuildpackError::Hydra(HydraError::Revision(error)))?;
    print::sub_bullet(format!(
        "Looking for {job} at {} ({}) on {hydra}",
        revision.name, revision.from
    ));
    let deployed = hydra::deploy::deploy(
        hydra,
        job,
        &revision,
        settings.input.as_deref(),
        system(&context.target.arch)?,
        Patience::of(settings.wait),
        &mut |line| {
            print::sub_bullet(line);
        },
    )
    .map_err(BuildpackError::Hydra)?;
    for path in &deployed.paths {
        print::sub_bullet(path.to_string());
    }
    Ok(deployed.paths.into_iter().map(Root::from_path).collect())
}

/// Evaluates the app's expression with real Nix.
pub fn by_evaluation<B: Buildpack<Error = BuildpackError>>(
    context: &BuildContext<B>,
    config: &Config,
    expression: &Expression,
    http: &Http,
) -> libcnb::Result<Resolved, BuildpackError> {
    let system = system(&context.target.arch)?;
    print::bullet("Source");
    let source =
        Source::read(&context.app_dir, &config.source_name).map_err(BuildpackError::Source)?;
    print::sub_bullet(format!("{} files are {}", source.files, source.path));

    print::bullet("Nix");
    let on_path = std::env::var_os("PATH").and_then(|path| Nix::on_path(&path));
    // Where an unpacked Nix is, as long as it is needed.
    let unpacked;
    let bin = if let Some((bin, version)) = on_path {
        print::sub_bullet(format!("Using Nix {version} on PATH"));
        bin
    } else {
        let tool = ToolSource::find(Tool::Nix, config.nix_archive.as_ref(), &context.target.arch)
            .map_err(BuildpackError::Tool)?;
        let file = layers::nix_store::handle(context, &tool, http)?;
        let timer = print::sub_start_timer("Unpacking it");
        let result = archive::unpack_temporarily(&file);
        timer.done();
        unpacked = result.map_err(BuildpackError::NixArchive)?;
        unpacked.bin.clone()
    };
    let nix = Nix::new(bin).map_err(BuildpackError::Nix)?;

    let timer = print::sub_start_timer(format!("Evaluating `{}`", expression.file.display()));
    let evaluated = evaluate(&nix, &source, expression, config, system);
    timer.done();
    let roots = evaluated.map_err(BuildpackError::Expression)?;
    for root in &roots {
        print::sub_bullet(root.path.to_string());
    }
    Ok(Resolved {
        roots,
        evaluated: Some(nix),
    })
}

/// Nix's name for the system of an image's architecture.
pub(crate) fn system(arch: &str) -> Result<&'static str, BuildpackError> {
    match arch {
        "amd64" => Ok("x86_64-linux"),
        "arm64" => Ok("aarch64-linux"),
        other => Err(BuildpackError::Architecture(other.to_string())),
    }
}
