//! Finds the roots: the store paths that the user wants deployed.

pub mod checkout;
pub mod expression;
pub mod lookups;
pub mod memo;
pub(crate) mod pins;
pub mod source;

use crate::cache::CacheUrl;
use crate::closure::plan::Miss;
use crate::config::{Config, Expression, Job, OnMiss, Wanted};
use crate::errors::BuildpackError;
use crate::http::Http;
use crate::hydra::revision::{self, Commit};
use crate::hydra::{self, Hydra, HydraError, Patience};
use crate::layers::nix_store::{self, NixStoreLayer};
use crate::layers::proot::PRootLayerError;
use crate::nix::{Nix, NixError, Substituters};
use crate::output;
use crate::tools::{Tool, ToolSource};
use app_dir::{AppDir, FileError};
use bullet_stream::global::print;
use expression::{Evaluator, ExpressionError, NIXPKGS_NIX, Outcome, ROOTS_NIX};
use libcnb::Buildpack;
use libcnb::build::BuildContext;
use memo::Key;
use nix_derivation::StorePath;
use source::{Source, SourceError};
use std::path::{Path, PathBuf};

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
    /// A Nix that has the derivations of the roots in its store, and these; nothing where nothing
    /// was evaluated so thoroughly.
    evaluated: Option<(Nix, Vec<Option<String>>)>,
}

/// How much an evaluation may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// What an earlier build found out is taken, and nothing is written that need not be.
    Least,
    /// As Hydra does it.
    Full,
}

impl Resolved {
    /// Where the store's paths are on disk in which the roots' derivations are, if there is one.
    #[must_use]
    pub fn store(&self) -> Option<&Path> {
        self.evaluated.as_ref().map(|(nix, _)| nix.store())
    }
}

/// What a step of a build works with.
struct Step<'a, B: Buildpack> {
    context: &'a BuildContext<B>,
    config: &'a Config,
    http: &'a Http,
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
    match &config.wanted {
        Wanted::StorePath(path) => {
            print::bullet("Store path");
            output::sub_bullet(format!("{path}, as NIX_STORE_PATH says"));
            Ok(Resolved {
                roots: vec![Root::from_path(path.clone())],
                evaluated: None,
            })
        }
        Wanted::HydraJob(job, _) => Ok(Resolved {
            roots: by_hydra(context, config, job, hydra)?,
            evaluated: None,
        }),
        Wanted::Expression(expression) => {
            print::bullet("Source");
            let source = Source::read(&context.app_dir, &config.source_name)
                .map_err(BuildpackError::Source)?;
            check_expression(&source.app, &expression.file).map_err(BuildpackError::Source)?;
            output::sub_bullet(format!("{} files are {}", source.files, source.path));
            for name in &source.left_out {
                output::sub_bullet(format!("Without `{name}`, which is not from git"));
            }
            for warning in checkout::warnings(&source, expression.is_flake()) {
                output::warning(&warning);
            }
            let step = Step {
                context,
                config,
                http,
            };
            step.by_evaluation(&source, expression, Effort::Least)
        }
    }
}

/// Checks that Nix would find a file, or a directory with one, where the expression is.
fn check_expression(app: &AppDir, file: &Path) -> Result<(), SourceError> {
    match app.open(file) {
        Ok(_) | Err(FileError::NotAFile(app_dir::Kind::Directory)) => Ok(()),
        Err(error) => Err(SourceError::Read(app.path().join(file), error.into())),
    }
}

/// Takes what Hydra built of the revision that is deployed.
fn by_hydra<B: Buildpack<Error = BuildpackError>>(
    context: &BuildContext<B>,
    config: &Config,
    job: &Job,
    hydra: Option<&mut Hydra>,
) -> libcnb::Result<Vec<Root>, BuildpackError> {
    let hydra =
        hydra.ok_or_else(|| BuildpackError::Hydra(HydraError::NoHydra(Vec::new(), Vec::new())))?;
    print::bullet("Hydra");
    let settings = &config.hydra;
    let revision = revision::find(settings.revision.as_ref(), &context.app_dir)
        .map_err(|error| BuildpackError::Hydra(HydraError::Revision(error)))?;
    output::sub_bullet(format!(
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
        &mut |line| output::sub_bullet(line),
    )
    .map_err(BuildpackError::Hydra)?;
    for path in &deployed.paths {
        output::sub_bullet(path.to_string());
    }
    Ok(deployed.paths.into_iter().map(Root::from_path).collect())
}

/// The root that a miss is about, if it may be one that Hydra built under another path: every cache
/// answered, and none has it.
#[must_use]
pub fn missing_root(misses: &[Miss]) -> Option<&StorePath> {
    let is_root = |miss: &&Miss| miss.wanted_by.is_empty() && miss.is_certain();
    misses.iter().find(is_root).map(|miss| &miss.path)
}

/// Whether what is missing is built: where that is asked for, and no cache may have any of it. An outage
/// is no reason to compile for hours, nor is a password or a key that the settings lack.
fn is_built(config: &Config, misses: &[Miss]) -> bool {
    config.on_miss == OnMiss::Build && misses.iter().all(Miss::is_certain)
}

/// Resolves again what no binary cache has, with nothing left out that Hydra does.
///
/// It comes to the same, but for expressions that look for their own copies in the store by a path
/// whose origin they hide. Answers what it was given where there is nothing more to be done.
pub fn resolve_fully<B: Buildpack<Error = BuildpackError>>(
    context: &BuildContext<B>,
    config: &Config,
    resolved: Resolved,
    misses: &[Miss],
    http: &Http,
) -> libcnb::Result<Resolved, BuildpackError> {
    let Wanted::Expression(expression) = &config.wanted else {
        return Ok(resolved);
    };
    let missing = match missing_root(misses) {
        Some(_) => "the result",
        None if is_built(config, misses) => "all of the result",
        // Neither another evaluation nor a comparison would tell more.
        None => return Ok(resolved),
    };
    if resolved.evaluated.is_some() {
        return Ok(resolved);
    }
    print::bullet("Miss");
    output::sub_bullet(format!(
        "No binary cache has {missing}: evaluating again, with every detail"
    ));
    evaluate_fully(context, config, expression, http)
}

/// Evaluates an expression with nothing left out that Hydra does, so that its derivations are there.
pub fn evaluate_fully<B: Buildpack<Error = BuildpackError>>(
    context: &BuildContext<B>,
    config: &Config,
    expression: &Expression,
    http: &Http,
) -> libcnb::Result<Resolved, BuildpackError> {
    let step = Step {
        context,
        config,
        http,
    };
    let source =
        Source::read(&context.app_dir, &config.source_name).map_err(BuildpackError::Source)?;
    step.by_evaluation(&source, expression, Effort::Full)
}

/// Builds the roots, or what of them no binary cache has, from their derivations, if the settings ask
/// for that.
///
/// Answers them as a binary cache, which is there as long as `resolved` is; nothing where the roots
/// are no derivations that are known here, or a cache may have what is missing.
pub fn build<B: Buildpack<Error = BuildpackError>>(
    context: &BuildContext<B>,
    config: &Config,
    resolved: &mut Resolved,
    misses: &[Miss],
    http: &Http,
) -> libcnb::Result<Option<CacheUrl>, BuildpackError> {
    if !is_built(config, misses) {
        if config.on_miss == OnMiss::Build {
            print::bullet("Miss");
            output::sub_bullet(
                "Nothing is built: not every binary cache says that it does not have what is missing",
            );
        }
        return Ok(None);
    }
    let step = Step {
        context,
        config,
        http,
    };
    let nothing_to_build = |why: &str| {
        print::bullet("Miss");
        output::sub_bullet(format!(
            "Nothing is built: there is no derivation, since {why}"
        ));
        Ok(None)
    };
    let Some((nix, derivations)) = &mut resolved.evaluated else {
        return nothing_to_build(match &config.wanted {
            Wanted::StorePath(_) => "NIX_STORE_PATH names what was built already",
            Wanted::HydraJob(..) => "NIX_HYDRA_JOB names what Hydra has built",
            Wanted::Expression(_) => "nothing was evaluated",
        });
    };
    let Some(derivations) = derivations.iter().cloned().collect::<Option<Vec<_>>>() else {
        return nothing_to_build("the expression names a store path, and not how it is built");
    };
    print::bullet("Build");
    let engine = nix
        .enable_building(&|directory| step.proot(directory))
        .map_err(BuildpackError::Nix)?;
    let built = print::sub_stream_with(
        format!(
            "Building {engine} what no binary cache has of {}",
            output::paths(derivations.len())
        ),
        |mut log, _| nix.realise(&derivations, &mut log),
    );
    built.map_err(BuildpackError::Nix)?;
    let roots = resolved.roots.iter();
    let paths: Vec<StorePath> = roots.map(|root| root.path.clone()).collect();
    let directory = nix.copy_to_files(&paths).map_err(BuildpackError::Nix)?;
    let cache = format!("file://{}?trusted=true", directory.display());
    let cache = cache.parse().map_err(|_| {
        BuildpackError::Nix(NixError::Write(
            directory,
            std::io::ErrorKind::InvalidFilename.into(),
        ))
    })?;
    Ok(Some(cache))
}

impl<B: Buildpack<Error = BuildpackError>> Step<'_, B> {
    /// Evaluates the app's expression with real Nix, unless an earlier build did so already.
    fn by_evaluation(
        &self,
        source: &Source,
        expression: &Expression,
        effort: Effort,
    ) -> libcnb::Result<Resolved, BuildpackError> {
        let system = system(&self.context.target.arch)?;
        print::bullet("Nix");
        let layer = nix_store::open(self.context)?;
        let on_path = std::env::var_os("PATH").and_then(|path| Nix::on_path(&path));
        let tool = self.tool(Tool::Nix).map_err(BuildpackError::from)?;
        let version = match &on_path {
            Some((_, version)) => version.to_string(),
            None => hex::encode(tool.download.sha256),
        };
        let commit = self.commit(expression);
        let key = Key::new(
            &source.path,
            commit.as_ref(),
            expression,
            self.config,
            system,
            &version,
            &[ROOTS_NIX, NIXPKGS_NIX],
        );
        let key = key.filter(|_| !pins::may_tell_time(&self.context.app_dir, expression));
        let known = key.as_ref().filter(|_| effort == Effort::Least);
        if let Some(roots) = known.and_then(|key| layer.recall(key)) {
            output::sub_bullet(format!(
                "`{}` was evaluated before",
                expression.file.display()
            ));
            print_roots(&roots);
            return Ok(Resolved {
                roots,
                evaluated: None,
            });
        }

        let mut nix = match on_path {
            Some((bin, version)) => {
                output::sub_bullet(format!("Using Nix {version} on PATH"));
                Nix::new(bin, Substituters::new(self.config)).map_err(BuildpackError::Nix)?
            }
            None => self.unpacked_nix(&layer, &tool)?,
        };
        let outcome = self.evaluate(&mut nix, source, expression, system, commit, effort)?;
        print_roots(&outcome.roots);
        for entry in &outcome.unusable {
            output::warning(&format!(
                "{entry}, so Nix looked nothing up in it, and this is evaluated again at each build. \
                 If the store path is not Hydra's, this may be why."
            ));
        }
        let key = key.filter(|_| outcome.unusable.is_empty());
        match (&outcome.unpinned, key) {
            (Some(unpinned), _) => self.tell_unpinned(expression, unpinned),
            (None, Some(key)) => layer
                .remember(key, &outcome.roots)
                .map_err(|error| BuildpackError::PRootLayer(PRootLayerError::Layer(error)))?,
            (None, None) => {}
        }
        Ok(Resolved {
            roots: outcome.roots,
            evaluated: outcome.thorough.then_some((nix, outcome.derivations)),
        })
    }

    /// The commit that is deployed, where the expression can see it.
    fn commit(&self, expression: &Expression) -> Option<Commit> {
        let named = self.config.hydra.revision.as_ref();
        let find = || Commit::find(named, &self.context.app_dir);
        expression.is_flake().then(find).flatten()
    }

    /// Without a hash Nix cannot tell what it would fetch another time, but a revision pins it as well.
    fn tell_unpinned(&self, expression: &Expression, unpinned: &str) {
        let what =
            "The expression fetches something without a hash, so every build evaluates it again.";
        let said = format!("Without a way to the network, Nix says: {unpinned}");
        if pins::by_revision(&self.context.app_dir, expression, self.config) {
            output::sub_bullet(format!("{what} {said}"));
        } else {
            output::warning(&format!(
                "{what} If no revision pins it either, the store path may differ from Hydra's. {said}"
            ));
        }
    }

    fn unpacked_nix(
        &self,
        layer: &NixStoreLayer,
        tool: &ToolSource,
    ) -> Result<Nix, BuildpackError> {
        let archive = layer.nix(tool, self.http)?;
        let timer = print::sub_start_timer("Unpacking it");
        let unpacked = Nix::unpacked(
            &|target| archive.unpack(target),
            &|directory| self.proot(directory),
            Substituters::new(self.config),
        );
        timer.done();
        let (nix, needs_engine) = unpacked.map_err(BuildpackError::Nix)?;
        if let Some(reason) = needs_engine {
            output::sub_bullet(format!(
                "Running it {}, since it cannot run elsewhere than at /nix/store here: {reason}",
                nix.engine().name()
            ));
        }
        Ok(nix)
    }

    fn evaluate(
        &self,
        nix: &mut Nix,
        source: &Source,
        expression: &Expression,
        system: &str,
        commit: Option<Commit>,
        effort: Effort,
    ) -> Result<Outcome, BuildpackError> {
        let thorough = effort == Effort::Full;
        let timer = print::sub_start_timer(format!("Evaluating `{}`", expression.file.display()));
        let evaluator = Evaluator::new(nix, source, expression, self.config, system)
            .map(|evaluator| evaluator.at(commit));
        let evaluated = evaluator.map(|evaluator| (evaluator.evaluate(nix, thorough), evaluator));
        timer.done();
        let (outcome, evaluator) = evaluated.map_err(BuildpackError::Expression)?;
        let derivation = match outcome {
            Err(ExpressionError::MustBuild(derivation)) => derivation,
            outcome => return outcome.map_err(BuildpackError::Expression),
        };
        output::sub_bullet(format!(
            "{derivation} must be built to evaluate (import from derivation): no binary cache has it"
        ));
        let engine = nix
            .enable_building(&|directory| self.proot(directory))
            .map_err(BuildpackError::Nix)?;
        let timer = print::sub_start_timer(format!("Building it {engine}, and evaluating again"));
        let outcome = evaluator.evaluate(nix, true);
        timer.done();
        let outcome = outcome.map_err(BuildpackError::Expression)?;
        for derivation in &outcome.built {
            output::sub_bullet(format!("Built {derivation}"));
        }
        Ok(outcome)
    }

    fn tool(&self, tool: Tool) -> Result<ToolSource, crate::tools::ToolError> {
        let named = match tool {
            Tool::Nix => &self.config.nix_archive,
            Tool::PRoot => &self.config.proot,
        };
        ToolSource::find(tool, named.as_ref(), &self.context.target.arch)
    }

    /// Brings PRoot into a directory, or says why not.
    fn proot(&self, directory: &Path) -> Result<PathBuf, String> {
        let source = self.tool(Tool::PRoot);
        source
            .map_err(PRootLayerError::Tool)
            .and_then(|source| crate::layers::proot::program_in(directory, &source, self.http))
            .map_err(|error| BuildpackError::PRootLayer(error).message().header)
    }
}

fn print_roots(roots: &[Root]) {
    for root in roots {
        output::sub_bullet(root.path.to_string());
    }
}

/// Nix's name for the system of an image's architecture.
pub(crate) fn system(arch: &str) -> Result<&'static str, BuildpackError> {
    match arch {
        "amd64" => Ok("x86_64-linux"),
        "arm64" => Ok("aarch64-linux"),
        other => Err(BuildpackError::Architecture(other.to_string())),
    }
}
