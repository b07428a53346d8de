//! `detect` and `build`, as a table of contents.

use bullet_stream::global::print;
use libcnb::build::{BuildContext, BuildResult, BuildResultBuilder};
use libcnb::detect::{DetectContext, DetectResult, DetectResultBuilder};
use libcnb::generic::{GenericMetadata, GenericPlatform};
use libcnb::{Buildpack, additional_buildpack_binary_path, buildpack_main};

use http_client::Http;
use nix_hydra_buildpack::build::Build;
use nix_hydra_buildpack::config::Config;
use nix_hydra_buildpack::error::BuildpackError;
use nix_hydra_buildpack::layers::nix_store;
use nix_hydra_buildpack::layers::proot::Programs;
use nix_hydra_buildpack::{config, deploy, interrupt, launch, limits, log, messages, resolve};

struct HydraBuildpack;

impl Buildpack for HydraBuildpack {
    type Platform = GenericPlatform;
    type Metadata = GenericMetadata;
    type Error = BuildpackError;

    fn detect(&self, context: DetectContext<Self>) -> libcnb::Result<DetectResult, Self::Error> {
        if Config::detects(setting, &context.app_dir) {
            DetectResultBuilder::pass().build()
        } else {
            warn_of_ineffective_settings();
            println!("{}", messages::not_detected());
            DetectResultBuilder::fail().build()
        }
    }

    fn build(&self, context: BuildContext<Self>) -> libcnb::Result<BuildResult, Self::Error> {
        limits::set();
        interrupt::watch();
        let started = print::buildpack(concat!(
            "Nix software built by Hydra, version ",
            env!("CARGO_PKG_VERSION")
        ));

        warn_of_ineffective_settings();
        let mut config = Config::read(setting, &context.app_dir).map_err(BuildpackError::Config)?;
        for binding in &config.unused_bindings {
            log::warning(&messages::settings::unused_binding(binding));
        }
        let procfile = launch::read_procfile(&context.app_dir, config.procfile.as_deref())
            .map_err(BuildpackError::Procfile)?;
        let http = Http::new();
        for warning in http.warnings() {
            log::warning(&format!("{warning}."));
        }
        let hydra =
            resolve::set_up(&mut config, &context.app_dir, &http).map_err(BuildpackError::from)?;
        let build = Build {
            app_dir: &context.app_dir,
            buildpack_dir: &context.buildpack_dir,
            layers_dir: &context.layers_dir,
            arch: &context.target.arch,
            config: &config,
            http: &http,
            open_nix_store: &|| nix_store::open(&context).map_err(|error| error.to_string()),
        };
        let programs = Programs {
            start: additional_buildpack_binary_path!("nix-hydra"),
            inside: additional_buildpack_binary_path!("nix-hydra-inside"),
        };
        let launch = deploy::deploy(&build, hydra, procfile.as_ref(), &programs)?;

        print::all_done(&Some(started));
        BuildResultBuilder::new().launch(launch).build()
    }

    fn on_error(&self, error: libcnb::Error<Self::Error>) {
        print::error(messages::message(&error).to_string());
    }
}

/// Settings are variables of the build's environment, where the platform puts the user's.
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Warns of variables that the user may believe to be settings.
fn warn_of_ineffective_settings() {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let is_empty = value.to_string_lossy().trim().is_empty();
        name.into_string().ok().filter(|_| !is_empty)
    });
    for variable in config::ineffective(variables) {
        log::warning(&messages::settings::ineffective(&variable));
    }
}

buildpack_main!(HydraBuildpack);
