//! `detect` and `build`, as a table of contents.

use bullet_stream::global::print;
use libcnb::build::{BuildContext, BuildResult, BuildResultBuilder};
use libcnb::detect::{DetectContext, DetectResult, DetectResultBuilder};
use libcnb::generic::{GenericMetadata, GenericPlatform};
use libcnb::{Buildpack, additional_buildpack_binary_path, buildpack_main};
use nix_hydra_buildpack::cache::CacheUrl;
use nix_hydra_buildpack::closure::plan::Caches;
use nix_hydra_buildpack::config::{Config, OnMiss};
use nix_hydra_buildpack::errors::{self, BuildpackError};
use nix_hydra_buildpack::http::Http;
use nix_hydra_buildpack::resolve::Root;
use nix_hydra_buildpack::{launch, layers, output, resolve};

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

        let config = Config::read(setting, &context.app_dir).map_err(BuildpackError::Config)?;
        output::warn_of_retired_settings(setting);
        let procfile = launch::read_procfile(&context.app_dir)?;
        let http = Http::new();

        let resolved = resolve::resolve(&context, &config, &http)?;

        let closure = |roots: &[Root], caches: &[CacheUrl]| {
            layers::closure::handle(&context.layers_dir, roots, &config, || {
                Caches::open(caches, config.trust.clone(), &http)
            })
        };
        let mut placed = closure(&resolved.roots, &config.caches);
        if matches!(&placed, Err(error) if error.is_miss()) {
            let first = resolved.roots.clone();
            let resolved = resolve::resolve_fully(&context, &config, resolved, &http)?;
            if resolved.roots != first {
                placed = closure(&resolved.roots, &config.caches);
            }
            if matches!(&placed, Err(error) if error.is_miss()) && config.on_miss == OnMiss::Build {
                let roots = resolved.roots.clone();
                if let Some(built) = resolve::build(&context, &config, resolved, &http)? {
                    placed = closure(&roots, std::slice::from_ref(&built.cache));
                }
            }
        }
        placed.map_err(BuildpackError::ClosureLayer)?;

        layers::proot::handle(
            &context.layers_dir,
            &config,
            &context.target.arch,
            &additional_buildpack_binary_path!("nix-hydra"),
            &http,
        )
        .map_err(BuildpackError::PRootLayer)?;

        let launch = launch::launch(procfile.as_ref(), &context.layers_dir);
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
