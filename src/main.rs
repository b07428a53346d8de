//! `detect` and `build`, as a table of contents; by any other name, `nix-hydra`.

use bullet_stream::global::print;
use libcnb::build::{BuildContext, BuildResult, BuildResultBuilder};
use libcnb::detect::{DetectContext, DetectResult, DetectResultBuilder};
use libcnb::generic::{GenericMetadata, GenericPlatform};
use libcnb::{Buildpack, additional_buildpack_binary_path};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use nix_hydra_buildpack::build::Build;
use nix_hydra_buildpack::config::Config;
use nix_hydra_buildpack::deploy::{self, Prepared, prepare};
use nix_hydra_buildpack::error::BuildpackError;
use nix_hydra_buildpack::layers::nix_store;
use nix_hydra_buildpack::layers::proot::Programs;
use nix_hydra_buildpack::{check, interrupt, limits, messages};

/// The platform runs it as `detect` and `build`; as `nix-hydra`, people do.
fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let name = words.first().and_then(|word| Path::new(word).file_name());
    let is_phase = name.is_some_and(|name| name == "detect" || name == "build");
    match words.get(1..).unwrap_or_default() {
        [first, rest @ ..] if first == check::NAME => check::main(rest),
        words if !is_phase => nix_hydra_start::command(words),
        _ => {
            libcnb::libcnb_runtime(&HydraBuildpack);
            ExitCode::SUCCESS
        }
    }
}

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
        let Prepared {
            config,
            procfile,
            http,
            hydra,
        } = prepare(setting, &context.app_dir)?;
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

fn warn_of_ineffective_settings() {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let is_empty = value.to_string_lossy().trim().is_empty();
        name.into_string().ok().filter(|_| !is_empty)
    });
    deploy::warn_of_ineffective_settings(variables);
}
