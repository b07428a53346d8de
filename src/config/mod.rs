//! The settings of a build. They are environment variables, as is usual for buildpacks.
//!
//! `table` lists them; `read` parses each value; the other modules hold the parsers, by subject,
//! and what follows from several settings together. All of this is done before the first byte is
//! downloaded, and every mistake is reported at once, so that a mistake costs seconds.
//!
//! Types only: the words of the errors are in `messages/settings.rs`.

mod app;
mod attribute;
mod caches;
mod hydra;
mod names;
mod nix_config;
mod read;
mod table;
mod tools;

pub use self::app::EXPRESSION_FILES;
pub use self::attribute::{Attribute, AttributeError};
pub use self::caches::DEFAULT_NETRC_FILE;
pub(crate) use self::caches::with_credentials;
pub use self::names::{Ineffective, ineffective};
pub use self::read::{Invalid, Slip};
pub use self::table::{Default, RETIRED, SETTINGS, Setting, setting};

use self::read::{Values, is_set};
use crate::report::budget::Budget;
use crate::tools::Download;
use ::hydra::{Job, Revision};
use binary_cache::credentials::{Bindings, CredentialsError, Netrc, UnusedBinding};
use binary_cache::{CacheUrl, TrustSettings};
use glob::Pattern;
use http_client::Endpoint;
use nix_derivation::StorePath;
use nix_hydra_start::engine::EngineSetting;
use nix_runner::{AccessTokens, Substituters};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// All settings of one build, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// What to deploy.
    pub wanted: Wanted,
    /// The binary caches to ask, as the user ordered them, the default one last.
    pub caches: Vec<CacheUrl>,
    pub trust: TrustSettings,
    /// The credentials of other servers too, from which an expression may fetch.
    pub netrc: Netrc,
    /// Tokens for the servers of flake inputs.
    pub access_tokens: AccessTokens,
    /// Service bindings that look like a binary cache's and are not used.
    pub unused_bindings: Vec<UnusedBinding>,
    /// Binary caches that the app's own Nix configuration names, and that are not asked.
    pub not_asked: Vec<NotAsked>,
    /// Name of the source's store path: `source` since 2017-12-25, `git-export` before.
    pub source_name: String,
    /// `NIX_PATH` for the evaluation, as given.
    pub nix_path: Option<String>,
    /// Further entries for `NIX_PATH`, as `name=URL`: inputs that Hydra names. Empty when it is read.
    pub lookups: Vec<String>,
    pub on_miss: OnMiss,
    pub debug: bool,
    /// Whether an expression may read the output of a derivation.
    pub allow_import_from_derivation: bool,
    /// Compare what is evaluated here with what Hydra has, even where nothing is missing.
    pub doctor: bool,
    pub hydra: HydraSettings,
    /// A Nix to evaluate with instead of the pinned one, and a release archive to take instead.
    pub evaluator: Option<StorePath>,
    pub nix_archive: Option<Download>,
    /// A PRoot to use instead of the pinned one.
    pub proot: Option<Download>,
    /// How the closure is to appear at `/nix/store`. Only the build reads it from here.
    pub engine: EngineSetting,
    /// The file with the processes, relative to the app directory; `Procfile` where it is not set.
    pub procfile: Option<PathBuf>,
    /// Files that do not prevent relocation, as `<base name of a store path>/<path>`.
    pub relocate_ignore: Vec<Pattern>,
    /// Limits of the closure.
    pub budget: Budget,
}

/// A binary cache that is not asked, since the user has not accepted the configuration that names it.
#[derive(Debug, Clone)]
pub struct NotAsked {
    /// `flake.nix`, `nix.conf` or `NIX_CONFIG`.
    pub place: &'static str,
    pub cache: CacheUrl,
}

/// What to do about a store path that no binary cache has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMiss {
    /// Fail.
    Error,
    /// Build it: where the user asks for that, or names no binary cache at all.
    Build,
}

/// What the user wants deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Just this store path: neither source nor Nix is needed.
    StorePath(StorePath),
    /// What Hydra built for a job: Nix is not needed. The expression that would be evaluated
    /// otherwise, where the app has one, is for the doctor alone.
    HydraJob(Job, Option<Expression>),
    /// The store paths to which an expression in the app's source evaluates.
    Expression(Expression),
}

/// Which Hydra, what on it, and how patiently.
#[derive(Debug, Clone)]
pub struct HydraSettings {
    pub job: Option<Job>,
    /// The Hydra to ask; else the first binary cache that is one.
    pub url: Option<Endpoint>,
    /// The revision to deploy, as the user or the platform names it.
    pub revision: Option<Revision>,
    /// The jobset's input that the revision is of.
    pub input: Option<String>,
    /// How long to wait for an evaluation and a build.
    pub wait: Duration,
    /// Whether the expression is evaluated with the jobset's inputs.
    pub inputs: bool,
}

/// A Nix expression in the app's source, and what to take from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// The expression's file, relative to the app directory.
    pub file: PathBuf,
    /// What to take from the expression; none means the whole of it.
    pub attributes: Vec<Attribute>,
    /// Which of `attributes` leads `PATH`; the first one where it is not set.
    pub target: Option<String>,
}

impl Expression {
    /// Whether it is evaluated as a flake, which Hydra fetches in another way than an input.
    pub fn is_flake(&self) -> bool {
        self.file.ends_with("flake.nix")
    }
}

/// What is wrong with the settings of a build: one problem or several.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ConfigError(pub Vec<Problem>);

/// One mistake in the settings.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A value that its setting does not take.
    #[error("{name} is `{shown}`, which is not {takes}", name = .setting.name, shown = .invalid.shown, takes = .setting.takes)]
    Invalid {
        setting: &'static Setting,
        invalid: Invalid,
    },
    /// One of two settings that only make sense together is missing.
    #[error("{name} is set without {partner}")]
    MissingPartner {
        name: &'static str,
        partner: &'static str,
    },
    #[error("NIX_TARGET is `{target}`, which is not one of {attributes:?}")]
    UnknownTarget {
        target: String,
        attributes: Vec<String>,
    },
    /// A netrc file or a service binding that cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// There is neither a setting nor a file that says what to deploy.
    #[error("nothing says what to deploy")]
    NothingToDeploy,
}

/// What `NIX_DEBUG` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, std::default::Default)]
enum Debug {
    #[default]
    Off,
    On,
    Doctor,
}

impl Config {
    /// Reads and checks every setting.
    ///
    /// `setting` returns the value of a variable; the expression is looked for in `app_dir`.
    pub fn read(
        setting: impl Fn(&str) -> Option<String>,
        app_dir: &Path,
    ) -> Result<Self, ConfigError> {
        let (mut values, mut problems) = read::values(&setting, app_dir);
        if values.inputs && !is_set(&setting, "NIX_HYDRA_JOB") {
            problems.push(Problem::MissingPartner {
                name: "NIX_HYDRA_INPUTS",
                partner: "NIX_HYDRA_JOB",
            });
        }
        if !Self::detects(&setting, app_dir) {
            problems.push(Problem::NothingToDeploy);
        }
        let Bindings {
            used: bindings,
            unused: unused_bindings,
        } = or_problem(caches::bindings(&setting), &mut problems);
        let netrc = caches::netrc(values.netrc_file.as_deref(), &bindings);
        let netrc = or_problem(netrc, &mut problems);
        let wanted = app::wanted(&values, app_dir, &mut problems);
        let mut hydra = hydra::settings(&mut values, &setting);
        let mut not_asked = nix_config::apply(&mut values, &setting, app_dir);
        let mut caches = caches::caches(&mut values, &bindings, &netrc, &mut hydra.url);
        not_asked.retain(|named| {
            caches
                .iter()
                .all(|cache| cache.endpoint.base != named.cache.endpoint.base)
        });
        for bucket in caches.iter_mut().filter_map(|cache| cache.s3.as_mut()) {
            bucket.find_credentials(&|name| setting(name).filter(|value| !value.is_empty()));
        }
        let Some(wanted) = wanted.filter(|_| problems.is_empty()) else {
            return Err(ConfigError(problems));
        };
        Ok(Self {
            wanted,
            on_miss: match values.on_miss {
                Some(on_miss) => on_miss,
                None if caches.is_empty() && hydra.url.is_none() => OnMiss::Build,
                None => OnMiss::Error,
            },
            caches,
            trust: caches::trust(&mut values, &bindings),
            netrc,
            access_tokens: caches::all_access_tokens(values.access_tokens, &bindings),
            unused_bindings,
            not_asked,
            source_name: values.source_name,
            nix_path: values.nix_path,
            lookups: Vec::new(),
            allow_import_from_derivation: values.allow_import_from_derivation,
            debug: values.debug == Debug::On,
            doctor: values.debug == Debug::Doctor,
            hydra,
            evaluator: values.evaluator,
            nix_archive: tools::download(values.archive_url, values.archive_sha256),
            proot: tools::download(values.proot_url, values.proot_sha256),
            engine: values.engine,
            procfile: values.procfile,
            relocate_ignore: values.relocate_ignore,
            budget: values.budget,
        })
    }

    /// The build's binary caches, in the form in which Nix gets them.
    pub fn substituters(&self) -> Substituters {
        // Credentials in a URL would be on Nix's command line.
        let inputs = self
            .lookups
            .iter()
            .filter_map(|lookup| caches::credentials_in(lookup));
        let netrc = inputs.fold(Netrc::default(), |netrc, input| netrc.then(&input));
        Substituters::new(
            self.caches.clone(),
            self.trust.clone(),
            netrc.then(&self.netrc),
            self.access_tokens.clone(),
        )
    }

    /// Whether there is something to deploy, which is all that `detect` checks.
    pub fn detects(setting: impl Fn(&str) -> Option<String>, app_dir: &Path) -> bool {
        ["NIX_STORE_PATH", "NIX_HYDRA_JOB", "NIX_FILE"]
            .iter()
            .any(|name| is_set(&setting, name))
            || app::first_expression_file(app_dir).is_some()
    }
}

/// Returns the value, or the default after noting the error.
fn or_problem<T: std::default::Default>(
    result: Result<T, CredentialsError>,
    problems: &mut Vec<Problem>,
) -> T {
    result.unwrap_or_else(|error| {
        problems.push(error.into());
        T::default()
    })
}

#[cfg(test)]
mod tests;
