//! `detect` and `build`, as a table of contents.

use bullet_stream::global::print;
use libcnb::build::{BuildContext, BuildResult, BuildResultBuilder};
use libcnb::detect::{DetectContext, DetectResult, DetectResultBuilder};
use libcnb::generic::{GenericMetadata, GenericPlatform};
use libcnb::{Buildpack, additional_buildpack_binary_path, buildpack_main};
use nix_hydra_buildpack::closure::plan::Caches;
use nix_hydra_buildpack::config::Config;
use nix_hydra_buildpack::errors::{self, BuildpackError};
use nix_hydra_buildpack::http::Http;
use nix_hydra_buildpack::{doctor, hydra, launch, layers, output, resolve};

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
        let started = print::buildpack("Nix software built by Hydra");

        let mut config = Config::read(setting, &context.app_dir).map_err(BuildpackError::Config)?;
        output::warn_of_retired_settings(setting);
        let procfile = launch::read_procfile(&context.app_dir, config.procfile.as_deref())?;
        let http = Http::new();

        let mut hydra = hydra::set_up(&mut config, &context.app_dir, &http)?;
        let resolved = resolve::resolve(&context, &config, hydra.as_mut(), &http)?;
        // It may have signed in meanwhile.
        if let Some(hydra) = &hydra {
            config.caches = hydra.caches(&config.caches);
        }

        let closure =
            layers::closure::handle(&context.layers_dir, &resolved.roots, &config, || {
                Caches::open(&config.caches, config.trust.clone(), &http)
            })
            .map_err(|error| {
                doctor::explain(error, &context, &config, &resolved, hydra.as_mut(), &http)
            })?;
        if config.doctor {
            let reported = doctor::report(&context, &config, &resolved, hydra.as_mut(), &http);
            // What is deployed is none the worse for it.
            if let Err(error) = reported {
                print::warning(errors::message(&error).to_string());
            }
        }

        layers::proot::handle(
            &context.layers_dir,
            &config,
            &context.target.arch,
            &additional_buildpack_binary_path!("nix-hydra"),
            &http,
            layers::proot::Use {
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

/// Settings are variables of the build's environment, where the platform puts the user's.
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

buildpack_main!(HydraBuildpack);
