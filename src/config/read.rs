//! Reads the table of settings: every value is parsed, and every wrong one is kept with its reason.

use super::table::{Default, SETTINGS, Setting};
use super::{Attribute, Debug, OnMiss, Problem, StorePath};
use crate::report::budget::Budget;
use binary_cache::{CacheUrl, CacheUrlError};
use glob::Pattern;
use http_client::Endpoint;
use hydra::Job;
use nix_hydra_start::engine::EngineSetting;
use nix_narinfo::TrustedPublicKey;
use nix_runner::AccessTokens;
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::Url;

/// Returns the value of a variable, or None if it is not set.
pub(super) type Get<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A value that a user has given, without the white space around it.
pub(super) struct Given<'a> {
    pub(super) value: &'a str,
    pub(super) app_dir: &'a Path,
}

/// What the settings say, each by itself. What follows from several is worked out in
/// [`super::Config::read`].
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a field is a setting's value"
)]
pub(super) struct Values {
    pub(super) extra_caches: Vec<CacheUrl>,
    pub(super) default_caches: Vec<CacheUrl>,
    pub(super) keys: Vec<TrustedPublicKey>,
    pub(super) require_signatures: bool,
    pub(super) netrc_file: Option<PathBuf>,
    pub(super) access_tokens: AccessTokens,
    pub(super) accept_flake_config: bool,
    pub(super) allow_import_from_derivation: bool,
    pub(super) store_path: Option<StorePath>,
    pub(super) job: Option<Job>,
    pub(super) hydra_url: Option<Endpoint>,
    pub(super) revision: Option<String>,
    pub(super) input: Option<String>,
    pub(super) wait: Duration,
    pub(super) inputs: bool,
    pub(super) file: Option<PathBuf>,
    pub(super) attributes: Vec<Attribute>,
    pub(super) target: Option<String>,
    pub(super) source_name: String,
    pub(super) nix_path: Option<String>,
    pub(super) on_miss: Option<OnMiss>,
    pub(super) debug: Debug,
    pub(super) evaluator: Option<StorePath>,
    pub(super) archive_url: Option<Url>,
    pub(super) archive_sha256: Option<[u8; 32]>,
    pub(super) proot_url: Option<Url>,
    pub(super) proot_sha256: Option<[u8; 32]>,
    pub(super) engine: EngineSetting,
    pub(super) procfile: Option<PathBuf>,
    pub(super) relocate_ignore: Vec<Pattern>,
    pub(super) budget: Budget,
}

/// Why a value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The value, or the part of it that is wrong, without any credentials.
    pub shown: String,
    /// The mistake, if it is a usual one.
    pub slip: Option<Slip>,
}

/// A usual mistake in a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slip {
    /// Commas between what spaces separate.
    Commas,
    /// Quotation marks around the value.
    Quotes,
    /// A line of `nix.conf`, whose value belongs into this setting.
    NixConf(&'static str),
    /// A URL of a binary cache that is wrong in a detail.
    CacheUrl(CacheUrlError),
    /// The URL of a page of this Hydra; the job, if the page is that of one.
    HydraPage { hydra: String, job: Option<Job> },
    /// A flake and an attribute, as `nix build` takes them; the attribute.
    Installable(String),
    /// A secret key instead of a public one.
    SecretKey,
    /// The path of a derivation instead of what it builds.
    Derivation,
}

impl Invalid {
    pub(super) fn new(shown: impl Into<String>) -> Self {
        Self {
            shown: shown.into(),
            slip: None,
        }
    }

    pub(super) fn slip(shown: impl Into<String>, slip: Slip) -> Self {
        Self {
            shown: shown.into(),
            slip: Some(slip),
        }
    }
}

impl Given<'_> {
    pub(super) fn flag(&self) -> Result<bool, Invalid> {
        match self.value {
            "0" | "false" => Ok(false),
            "1" | "true" => Ok(true),
            value => Err(Invalid::new(value)),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is a parser like the others")]
    pub(super) fn text(&self) -> Result<Option<String>, Invalid> {
        Ok(Some(self.value.to_string()))
    }
}

/// Whether a variable is set to something other than white space.
pub(super) fn is_set(get: &Get, name: &str) -> bool {
    get(name).is_some_and(|value| !value.trim().is_empty())
}

/// Parses every setting. A wrong one leaves its field as it is by default.
pub(super) fn values(get: &Get, app_dir: &Path) -> (Values, Vec<Problem>) {
    let mut values = Values::default();
    let mut problems = Vec::new();
    for setting in &SETTINGS {
        let Some(value) = value(get, setting) else {
            continue;
        };
        let given = Given {
            value: value.trim(),
            app_dir,
        };
        if let Err(invalid) = (setting.parse)(&given, &mut values) {
            problems.push(Problem::Invalid { setting, invalid });
        }
    }
    for setting in SETTINGS.iter().filter(|one| is_set(get, one.name)) {
        if let Some(partner) = setting.needs.filter(|partner| !is_set(get, partner)) {
            let name = setting.name;
            problems.push(Problem::MissingPartner { name, partner });
        }
    }
    (values, problems)
}

fn value(get: &Get, setting: &Setting) -> Option<String> {
    get(setting.name)
        .filter(|value| setting.takes_empty || !value.trim().is_empty())
        .or_else(|| match setting.default {
            Default::Value(value) => Some(value.to_string()),
            Default::None | Default::Rule(_) => None,
        })
}
