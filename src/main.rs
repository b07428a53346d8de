//! `detect` and `build`, as a table of contents.

use bullet_stream::global::print;
use libcnb::build::{BuildContext, BuildResult, BuildResultBuilder};
use libcnb::detect::{DetectContext, DetectResult, DetectResultBuilder};
use libcnb::generic::{GenericMetadata, GenericPlatform};
use libcnb::{Buildpack, additional_buildpack_binary_path, buildpack_main};
use nix_hydra_buildpack::cache::CacheUrl;
use nix_hydra_buildpack::closure::plan::{Caches, Miss};
use nix_hydra_buildpack::config::Config;
use nix_hydra_buildpack::errors::{self, BuildpackError};
use nix_hydra_buildpack::http::Http;
use nix_hydra_buildpack::layers::closure::{ClosureLayer, ClosureLayerError};
use nix_hydra_buildpack::resolve::Root;
use nix_hydra_buildpack::{doctor, hydra, interrupt, launch, layers, limits, output, resolve};

struct HydraBuildpack;

impl Buildpack for HydraBuildpack {
    type Platform = GenericPlatform;
    type Metadata = GenericMetadata;
    type Error = BuildpackError;

    fn detect(&self, context: DetectContext<Self>) -> libcnb::Result<DetectResult, Self::Error> {
        if Config::detects(setting, &context.app_dir) {
            DetectResultBuilder::pass().build()
        } else {
            DetectResultBuilder::fail().build()
        }
    }

    fn build(&self, context: BuildContext<Self>) -> libcnb::Result<BuildResult, Self::Error> {
        limits::set();
        interrupt::watch();
        let started = print::buildpack("Nix software built by Hydra");

        let mut config = Config::read(setting, &context.app_dir).map_err(BuildpackError::Config)?;
        output::warn_of_retired_settings(setting);
        let procfile = launch::read_procfile(&context.app_dir, config.procfile.as_deref())?;
        let http = Http::new();

        let mut hydra = hydra::set_up(&mut config, &context.app_dir, &http)?;
        let mut resolved = resolve::resolve(&context, &config, hydra.as_mut(), &http)?;
        // It may have signed in meanwhile.
        if let Some(hydra) = &hydra {
            hydra.let_into(&mut config.caches);
        }

        let fill = |roots: &[Root], caches: &[CacheUrl]| {
            layers::closure::handle(&context.layers_dir, roots, &config, || {
                Caches::open(caches, config.trust.clone(), &http)
            })
        };
        let mut filled = fill(&resolved.roots, &config.caches);
        if let Some(misses) = misses(&filled) {
            let first = resolved.roots.clone();
            resolved = resolve::resolve_fully(&context, &config, resolved, misses, &http)?;
            if resolved.roots != first {
                filled = fill(&resolved.roots, &config.caches);
            }
        }
        if let Some(misses) = misses(&filled)
            && let Some(built) = resolve::build(&context, &config, &mut resolved, misses, &http)?
        {
            filled = fill(&resolved.roots, &[built]);
        }
        let closure = filled.map_err(|error| {
            doctor::explain(error, &context, &config, &resolved, hydra.as_mut(), &http)
        })?;
        if config.doctor {
            let reported = doctor::report(&context, &config, &resolved, hydra.as_mut(), &http);
            // What is deployed is none the worse for it.
            if let Err(error) = reported {
                output::warning(&errors::message(&error).to_string());
            }
        }

        layers::proot::handle(
            &context.layers_dir,
            &config,
            &context.target.arch,
            &layers::proot::Programs {
                start: additional_buildpack_binary_path!("nix-hydra"),
                inside: additional_buildpack_binary_path!("nix-hydra-inside"),
            },
            &http,
            layers::proot::Use {
                commands: &closure.contents.programs,
                by_engine: !closure.is_relocated,
                by_this_build: !closure.contents.compile_hooks.is_empty(),
            },
        )
        .map_err(BuildpackError::PRootLayer)?;

        let hooks = &closure.contents.compile_hooks;
        launch::hook::run(hooks, &context.layers_dir, &context.app_dir)
            .map_err(BuildpackError::Hook)?;

        let launch = launch::launch(
            procfile.as_ref(),
            &resolved.roots,
            &closure.contents.programs,
            &context.layers_dir,
        )
        .map_err(BuildpackError::NoProcess)?;
        print::all_done(&Some(started));
        BuildResultBuilder::new().launch(launch).build()
    }

    fn on_error(&self, error: libcnb::Error<Self::Error>) {
        print::error(errors::message(&error).to_string());
    }
}

/// The paths that no binary cache could give, if that is what is wrong.
fn misses(filled: &Result<ClosureLayer, ClosureLayerError>) -> Option<&[Miss]> {
    match filled {
        Err(ClosureLayerError::Miss { misses, .. }) => Some(misses),
        _ => None,
    }
}

/// Settings are variables of the build's environment, where the platform puts the user's.
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

buildpack_main!(HydraBuildpack);
