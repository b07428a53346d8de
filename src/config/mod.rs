//! Every setting of the buildpack: its name, its default, what it means and how it is checked.
//!
//! Settings are environment variables, as is usual for buildpacks. All of them are read and
//! checked here before the first byte is downloaded, so that a mistake costs seconds.

use crate::tools::Download;
use binary_cache::credentials::{Binding, CredentialsError, Netrc, read_bindings};
use binary_cache::{CacheUrl, CacheUrlError, TrustSettings};
use glob::Pattern;
use http_client::{Endpoint, EndpointError, redact_url};
use hydra::{Job, Revision};
use nix_derivation::StorePath;
use nix_hydra_start::engine::{self, EngineSetting};
use nix_narinfo::TrustedPublicKey;
use nix_runner::Substituters;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use url::Url;

/// The binary cache that is asked unless `NIX_DEFAULT_BINARY_CACHE` says otherwise.
const DEFAULT_BINARY_CACHE: &str = "https://cache.nixos.org";

/// The key of cache.nixos.org, which Nix itself trusts by default.
const DEFAULT_PUBLIC_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Nix's own `netrc-file`, which an operator's builder may have.
const DEFAULT_NETRC_FILE: &str = "/etc/nix/netrc";

/// How long to wait for Hydra unless `NIX_HYDRA_WAIT` says otherwise.
const DEFAULT_WAIT: Duration = Duration::from_mins(10);

/// The files that are looked for when `NIX_FILE` is not set, in this order.
pub const EXPRESSION_FILES: [&str; 4] = ["deploy.nix", "flake.nix", "shell.nix", "default.nix"];

/// The names of all settings, as `buildpack.toml` and `docs/application_contract.md` list them.
pub const SETTINGS: [&str; 26] = [
    "NIX_EXTRA_BINARY_CACHE",
    "NIX_DEFAULT_BINARY_CACHE",
    "NIX_TRUSTED_PUBLIC_KEYS",
    "NIX_REQUIRE_SIGNATURES",
    "NIX_NETRC_FILE",
    "NIX_STORE_PATH",
    "NIX_HYDRA_JOB",
    "NIX_HYDRA_URL",
    "NIX_REVISION",
    "NIX_HYDRA_INPUT",
    "NIX_HYDRA_WAIT",
    "NIX_HYDRA_INPUTS",
    "NIX_FILE",
    "NIX_ATTRIBUTES",
    "NIX_TARGET",
    "NIX_SOURCE_NAME",
    "NIX_PATH",
    "NIX_ON_MISS",
    "NIX_DEBUG",
    "NIX_ARCHIVE_URL",
    "NIX_ARCHIVE_SHA256",
    "NIX_PROOT_URL",
    "NIX_PROOT_SHA256",
    "NIX_ENGINE",
    "NIX_PROCFILE",
    "NIX_RELOCATE_IGNORE",
];

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
    /// Name of the source's store path: `source` since 2017-12-25, `git-export` before.
    pub source_name: String,
    /// `NIX_PATH` for the evaluation, as given.
    pub nix_path: Option<String>,
    /// What else is looked up, as `name=URL`: inputs that Hydra names. Empty as it is read.
    pub lookups: Vec<String>,
    pub on_miss: OnMiss,
    pub debug: bool,
    /// Compare what is evaluated here with what Hydra has, even where nothing is missing.
    pub doctor: bool,
    pub hydra: HydraSettings,
    /// A Nix release archive to use instead of the pinned one.
    pub nix_archive: Option<Download>,
    /// A PRoot to use instead of the pinned one.
    pub proot: Option<Download>,
    /// How the closure is to appear at `/nix/store`; the image itself keeps nothing of it.
    pub engine: EngineSetting,
    /// The file with the processes, relative to the app directory; `Procfile` where it is not set.
    pub procfile: Option<PathBuf>,
    /// Files that do not stand against a relocation, as `<base name of a store path>/<path>`.
    pub relocate_ignore: Vec<Pattern>,
}

/// What to do about a store path that no binary cache has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMiss {
    /// Say so, and fail.
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
    /// Attribute paths, dot-separated, to take from the expression; none means the whole of it.
    pub attributes: Vec<String>,
    /// Which of `attributes` leads `PATH`; the first one where it is not set.
    pub target: Option<String>,
}

impl Expression {
    /// Whether it is evaluated as a flake, which Hydra fetches in another way than an input.
    #[must_use]
    pub fn is_flake(&self) -> bool {
        self.file.ends_with("flake.nix")
    }
}

/// A setting whose value makes no sense, or nothing that could be deployed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The setting `name` has a `value` that cannot be used; `expected` says what can.
    #[error("{name} is `{value}`, which is not {expected}")]
    InvalidSetting {
        name: &'static str,
        value: String,
        expected: String,
    },
    /// One of two settings that only make sense together is missing.
    #[error("{name} is set without {partner}")]
    MissingPartner {
        name: &'static str,
        partner: &'static str,
    },
    /// A netrc file or a service binding that cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// There is neither a setting nor a file that says what to deploy.
    #[error("nothing says what to deploy")]
    NothingToDeploy,
}

impl Config {
    /// Reads and checks every setting.
    ///
    /// `setting` answers the value of a variable, `app_dir` is where the expression is looked for.
    /// A variable that is empty counts as not set, except where a setting says otherwise.
    pub fn read(
        setting: impl Fn(&str) -> Option<String>,
        app_dir: &Path,
    ) -> Result<Self, ConfigError> {
        let get = |name: &str| setting(name).filter(|value| !value.trim().is_empty());
        let bindings = bindings(&get)?;
        let mut hydra = hydra(&get)?;
        let netrc = netrc(&get, &bindings)?;
        let caches = caches(&setting, &bindings, &netrc, &mut hydra.url)?;
        Ok(Self {
            wanted: wanted(&get, &hydra, app_dir)?,
            on_miss: on_miss(&get, caches.is_empty() && hydra.url.is_none())?,
            caches,
            trust: trust(&get, &bindings)?,
            netrc,
            source_name: source_name(&get)?,
            nix_path: get("NIX_PATH"),
            lookups: Vec::new(),
            debug: matches!(debug(&get)?, Debug::On),
            doctor: matches!(debug(&get)?, Debug::Doctor),
            hydra,
            nix_archive: download("NIX_ARCHIVE_URL", "NIX_ARCHIVE_SHA256", &get)?,
            proot: download("NIX_PROOT_URL", "NIX_PROOT_SHA256", &get)?,
            engine: engine(&get)?,
            procfile: get("NIX_PROCFILE")
                .map(|value| file_in_app("NIX_PROCFILE", &value, app_dir, "Procfile.web"))
                .transpose()?,
            relocate_ignore: relocate_ignore(&get)?,
        })
    }

    /// The build's binary caches, as Nix itself asks them.
    #[must_use]
    pub fn substituters(&self) -> Substituters {
        Substituters::new(self.caches.clone(), self.trust.clone(), self.netrc.clone())
    }

    /// Whether there is something to deploy: what `detect` asks.
    pub fn detects(setting: impl Fn(&str) -> Option<String>, app_dir: &Path) -> bool {
        let set = |name: &str| setting(name).is_some_and(|value| !value.trim().is_empty());
        set("NIX_STORE_PATH")
            || set("NIX_HYDRA_JOB")
            || set("NIX_FILE")
            || expression_file(app_dir).is_some()
    }
}

type Get<'a> = dyn Fn(&str) -> Option<String> + 'a;

fn invalid(
    name: &'static str,
    value: impl Into<String>,
    expected: impl Into<String>,
) -> ConfigError {
    ConfigError::InvalidSetting {
        name,
        value: value.into(),
        expected: expected.into(),
    }
}

/// The binary caches that the platform describes. Where: servicebinding.io, and the CNB
/// specification's bindings extension.
fn bindings(get: &Get) -> Result<Vec<Binding>, ConfigError> {
    let root = get("SERVICE_BINDING_ROOT")
        .map(PathBuf::from)
        .or_else(|| get("CNB_PLATFORM_DIR").map(|platform| Path::new(&platform).join("bindings")));
    root.map_or(Ok(Vec::new()), |root| {
        read_bindings(&root).map_err(ConfigError::Credentials)
    })
}

/// What the bindings' netrc files have, then what the user's has.
fn netrc(get: &Get, bindings: &[Binding]) -> Result<Netrc, ConfigError> {
    const NAME: &str = "NIX_NETRC_FILE";
    let file = get(NAME);
    if let Some(file) = &file
        && !Path::new(file.trim()).is_file()
    {
        // Whoever sets it to the file's content must not read a password in the log.
        let shown = if file.starts_with('/') { file } else { "…" };
        let expected = "the path of a netrc file that is there during the build";
        return Err(invalid(NAME, shown, expected));
    }
    let file = file.unwrap_or_else(|| DEFAULT_NETRC_FILE.to_string());
    let own = Netrc::read(Path::new(file.trim())).map_err(ConfigError::Credentials)?;
    let bound = bindings.iter().map(|binding| &binding.netrc);
    Ok(bound.chain([&own]).fold(Netrc::default(), Netrc::then))
}

/// The caches that the user names, then those that the platform describes, then the default one,
/// each with its credentials; `hydra` gets its own in the same ways.
fn caches(
    setting: &impl Fn(&str) -> Option<String>,
    bindings: &[Binding],
    netrc: &Netrc,
    hydra: &mut Option<Endpoint>,
) -> Result<Vec<CacheUrl>, ConfigError> {
    let named = |name, value: String| {
        value
            .split_whitespace()
            .map(|url| cache_url(name, url))
            .collect::<Result<Vec<_>, _>>()
    };
    let extra = setting("NIX_EXTRA_BINARY_CACHE").unwrap_or_default();
    let mut caches = named("NIX_EXTRA_BINARY_CACHE", extra)?;
    // Set to nothing, it is left out on purpose.
    let default =
        setting("NIX_DEFAULT_BINARY_CACHE").unwrap_or_else(|| DEFAULT_BINARY_CACHE.to_string());
    let mut default = named("NIX_DEFAULT_BINARY_CACHE", default)?;
    let defaults: Vec<Url> = default
        .iter()
        .map(|cache| cache.endpoint.base.clone())
        .collect();
    for bound in bindings.iter().filter_map(|binding| binding.url.as_ref()) {
        // One that is named as well is the same one, and the binding has its credentials.
        let mut all = caches.iter_mut().chain(&mut default);
        match all.find(|cache| cache.endpoint.base == bound.endpoint.base) {
            Some(cache) if cache.s3.is_some() => cache.s3.clone_from(&bound.s3),
            Some(cache) if cache.endpoint.credentials.is_none() => {
                cache
                    .endpoint
                    .credentials
                    .clone_from(&bound.endpoint.credentials);
            }
            Some(_) => {}
            None => caches.push(bound.clone()),
        }
    }
    // Where it is named twice, it keeps its first place.
    default.retain(|cache| {
        !caches
            .iter()
            .any(|other| other.endpoint.base == cache.endpoint.base)
    });
    for cache in &mut caches {
        cache.must_sign = defaults.contains(&cache.endpoint.base);
    }
    caches.extend(default.into_iter().map(|cache| CacheUrl {
        must_sign: true,
        ..cache
    }));

    for bucket in caches.iter_mut().filter_map(|cache| cache.s3.as_mut()) {
        bucket.find_credentials(&|name| setting(name).filter(|value| !value.is_empty()));
    }
    if let Some(hydra) = hydra.as_mut().filter(|hydra| hydra.credentials.is_none()) {
        let same = |cache: &&CacheUrl| cache.endpoint.base.origin() == hydra.base.origin();
        let known = caches
            .iter()
            .find(|cache| same(cache) && cache.endpoint.credentials.is_some());
        hydra.credentials = known.and_then(|cache| cache.endpoint.credentials.clone());
    }
    for endpoint in caches
        .iter_mut()
        .map(|cache| &mut cache.endpoint)
        .chain(hydra.as_mut())
        .filter(|endpoint| endpoint.credentials.is_none())
    {
        if endpoint.base.scheme() != "file" {
            endpoint.credentials = netrc.find(&endpoint.base);
        }
    }
    Ok(caches)
}

fn cache_url(name: &'static str, url: &str) -> Result<CacheUrl, ConfigError> {
    url.parse::<CacheUrl>().map_err(|error| {
        let expected = match error {
            CacheUrlError::Endpoint(EndpointError::NotAUrl | EndpointError::Scheme) => {
                "URLs of binary caches, separated by spaces, such as `https://hydra.example.org` or `file:///var/cache/nix`"
            }
            CacheUrlError::Endpoint(EndpointError::FileHost) => {
                "a directory of this machine behind `file://`, from its first slash on, such as `file:///var/cache/nix`"
            }
            CacheUrlError::S3 => "the URL of a bucket, such as `s3://acme?region=eu-west-1`",
            CacheUrlError::Priority => "`?priority=` followed by a whole number",
            CacheUrlError::Trusted => "`?trusted=` followed by `true` or `false`",
        };
        // A URL may hold a password, which an error must not repeat.
        invalid(name, redact_url(url), expected)
    })
}

/// Variables in which platforms name the revision that they build, for where `NIX_REVISION` is not
/// set: Heroku and Scalingo, Dokku, GitHub's and GitLab's runners.
const REVISION_VARIABLES: [&str; 4] = ["SOURCE_VERSION", "GIT_REV", "GITHUB_SHA", "CI_COMMIT_SHA"];

fn hydra(get: &Get) -> Result<HydraSettings, ConfigError> {
    const JOB: &str = "NIX_HYDRA_JOB";
    let job = get(JOB)
        .map(|value| {
            value.parse::<Job>().map_err(|()| {
                invalid(
                    JOB,
                    value,
                    "a job as `project/jobset/job`, such as `acme/main/myapp`",
                )
            })
        })
        .transpose()?;
    let url = get("NIX_HYDRA_URL")
        .map(|value| {
            let url: Option<Endpoint> = value.trim().parse().ok();
            url.filter(|url| url.base.scheme() != "file")
                .ok_or_else(|| {
                    let shown = redact_url(value.trim());
                    let expected = "the URL of a Hydra, such as `https://hydra.example.org`";
                    invalid("NIX_HYDRA_URL", shown, expected)
                })
        })
        .transpose()?;
    let inputs = flag("NIX_HYDRA_INPUTS", get)?;
    if inputs && job.is_none() {
        return Err(ConfigError::MissingPartner {
            name: "NIX_HYDRA_INPUTS",
            partner: JOB,
        });
    }
    Ok(HydraSettings {
        job,
        url,
        revision: revision(get)?,
        input: get("NIX_HYDRA_INPUT").map(|value| value.trim().to_string()),
        wait: wait(get)?,
        inputs,
    })
}

fn revision(get: &Get) -> Result<Option<Revision>, ConfigError> {
    let is_hash =
        |name: &str| (7..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_hexdigit());
    let named = |from: &str, value: &str| Revision {
        name: value.trim().to_ascii_lowercase(),
        from: from.to_string(),
    };
    if let Some(value) = get("NIX_REVISION") {
        let revision = named("NIX_REVISION", &value);
        if is_hash(&revision.name) || revision.name == "latest" {
            return Ok(Some(revision));
        }
        return Err(invalid(
            "NIX_REVISION",
            value,
            "a git revision, as at least 7 hexadecimal digits, or `latest`",
        ));
    }
    // Those of a platform may hold something else altogether.
    Ok(REVISION_VARIABLES.iter().find_map(|from| {
        let revision = named(from, &get(from)?);
        is_hash(&revision.name).then_some(revision)
    }))
}

/// `NIX_HYDRA_WAIT`: minutes, or a number with `s`, `m` or `h`.
fn wait(get: &Get) -> Result<Duration, ConfigError> {
    let Some(value) = get("NIX_HYDRA_WAIT") else {
        return Ok(DEFAULT_WAIT);
    };
    let text = value.trim();
    let (number, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_alphabetic()).len());
    let seconds: Option<u64> = match unit.trim() {
        "s" => Some(1),
        "" | "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let number: Option<u64> = number.trim().parse().ok();
    number
        .zip(seconds)
        .and_then(|(number, seconds)| number.checked_mul(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| {
            invalid(
                "NIX_HYDRA_WAIT",
                value,
                "a number of minutes, or one with a unit, such as `90s`, `10m` or `1h`; 0 does not wait",
            )
        })
}

enum Debug {
    Off,
    On,
    Doctor,
}

fn debug(get: &Get) -> Result<Debug, ConfigError> {
    match get("NIX_DEBUG").as_deref().map(str::trim) {
        None | Some("0" | "false") => Ok(Debug::Off),
        Some("1" | "true") => Ok(Debug::On),
        Some("doctor") => Ok(Debug::Doctor),
        Some(value) => Err(invalid("NIX_DEBUG", value, "`true`, `false` or `doctor`")),
    }
}

fn wanted(get: &Get, hydra: &HydraSettings, app_dir: &Path) -> Result<Wanted, ConfigError> {
    if let Some(value) = get("NIX_STORE_PATH") {
        return StorePath::from_absolute_path(value.trim().as_bytes())
            .ok()
            .filter(|path| !path.is_derivation())
            .map(Wanted::StorePath)
            .ok_or_else(|| {
                invalid(
                    "NIX_STORE_PATH",
                    value,
                    "one store path, such as `/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp-1.0`",
                )
            });
    }

    if let Some(job) = hydra.job.as_ref().filter(|_| !hydra.inputs) {
        let expression = match expression(get, app_dir) {
            Err(ConfigError::NothingToDeploy) => None,
            other => Some(other?),
        };
        return Ok(Wanted::HydraJob(job.clone(), expression));
    }
    expression(get, app_dir).map(Wanted::Expression)
}

fn expression(get: &Get, app_dir: &Path) -> Result<Expression, ConfigError> {
    let file = match get("NIX_FILE") {
        Some(value) => file_in_app("NIX_FILE", &value, app_dir, "nix/deploy.nix")?,
        None => expression_file(app_dir).ok_or(ConfigError::NothingToDeploy)?,
    };
    let attributes: Vec<String> = get("NIX_ATTRIBUTES")
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_string)
        .collect();
    let target = get("NIX_TARGET").map(|value| value.trim().to_string());
    if let Some(target) = &target
        && !attributes.contains(target)
    {
        return Err(invalid(
            "NIX_TARGET",
            target,
            if attributes.is_empty() {
                "one of the attributes in `NIX_ATTRIBUTES`, which is not set".to_string()
            } else {
                format!(
                    "one of the attributes in `NIX_ATTRIBUTES`: {}",
                    attributes.join(", ")
                )
            },
        ));
    }
    Ok(Expression {
        file,
        attributes,
        target,
    })
}

/// A file of the app that a setting names, relative to the app.
fn file_in_app(
    name: &'static str,
    value: &str,
    app_dir: &Path,
    example: &str,
) -> Result<PathBuf, ConfigError> {
    let file = Path::new(value.trim()).to_path_buf();
    let inside = file
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if inside && app_dir.join(&file).exists() {
        return Ok(file);
    }
    Err(invalid(
        name,
        value,
        format!("a file in the app's directory, relative to it, such as `{example}`"),
    ))
}

fn engine(get: &Get) -> Result<EngineSetting, ConfigError> {
    let value = get(engine::SETTING).unwrap_or_default();
    match value.parse() {
        Ok(setting) => Ok(setting),
        Err(_) => Err(invalid(engine::SETTING, value, engine::EXPECTED)),
    }
}

fn relocate_ignore(get: &Get) -> Result<Vec<Pattern>, ConfigError> {
    const NAME: &str = "NIX_RELOCATE_IGNORE";
    get(NAME)
        .unwrap_or_default()
        .split_whitespace()
        .map(|pattern| {
            Pattern::new(pattern).map_err(|_| {
                invalid(
                    NAME,
                    pattern,
                    "patterns of files with `*` and `?`, separated by spaces, such as `*/share/doc/*`",
                )
            })
        })
        .collect()
}

fn expression_file(app_dir: &Path) -> Option<PathBuf> {
    EXPRESSION_FILES
        .iter()
        .map(PathBuf::from)
        .find(|file| app_dir.join(file).exists())
}

fn trust(get: &Get, bindings: &[Binding]) -> Result<TrustSettings, ConfigError> {
    let given = get("NIX_TRUSTED_PUBLIC_KEYS").unwrap_or_default();
    let key = |key: &str| {
        key.parse::<TrustedPublicKey>().map_err(|_| {
            // It may be a secret key, put here by mistake.
            let shown = match key.split_once(':') {
                Some((name, _)) => format!("{name}:…"),
                None => "…".to_string(),
            };
            invalid(
                "NIX_TRUSTED_PUBLIC_KEYS",
                shown,
                format!("public keys separated by spaces, such as `{DEFAULT_PUBLIC_KEY}`"),
            )
        })
    };
    let mut keys: Vec<_> = given
        .split_whitespace()
        .map(key)
        .collect::<Result<_, _>>()?;
    let bound = bindings.iter().flat_map(|binding| &binding.public_keys);
    keys.extend(bound.cloned());
    let required = flag("NIX_REQUIRE_SIGNATURES", get)? || !keys.is_empty();
    keys.push(key(DEFAULT_PUBLIC_KEY)?);
    Ok(TrustSettings { keys, required })
}

fn source_name(get: &Get) -> Result<String, ConfigError> {
    let name = get("NIX_SOURCE_NAME").unwrap_or_else(|| "source".to_string());
    let name = name.trim();
    match StorePath::from_parts([0; 20], name) {
        Ok(_) => Ok(name.to_string()),
        Err(_) => Err(invalid(
            "NIX_SOURCE_NAME",
            name,
            "`source`, or `git-export` for a Hydra from before 2018",
        )),
    }
}

fn on_miss(get: &Get, names_no_cache: bool) -> Result<OnMiss, ConfigError> {
    match get("NIX_ON_MISS").as_deref().map(str::trim) {
        None if names_no_cache => Ok(OnMiss::Build),
        None | Some("error") => Ok(OnMiss::Error),
        Some("build") => Ok(OnMiss::Build),
        Some(value) => Err(invalid(
            "NIX_ON_MISS",
            value,
            "`error`, or `build` to build what no binary cache has",
        )),
    }
}

fn flag(name: &'static str, get: &Get) -> Result<bool, ConfigError> {
    match get(name).as_deref().map(str::trim) {
        None | Some("0" | "false") => Ok(false),
        Some("1" | "true") => Ok(true),
        Some(value) => Err(invalid(name, value, "`true` or `false`")),
    }
}

fn download(
    url_name: &'static str,
    sha256_name: &'static str,
    get: &Get,
) -> Result<Option<Download>, ConfigError> {
    let (url, sha256) = match (get(url_name), get(sha256_name)) {
        (None, None) => return Ok(None),
        (Some(url), Some(sha256)) => (url, sha256),
        (Some(_), None) => {
            return Err(ConfigError::MissingPartner {
                name: url_name,
                partner: sha256_name,
            });
        }
        (None, Some(_)) => {
            return Err(ConfigError::MissingPartner {
                name: sha256_name,
                partner: url_name,
            });
        }
    };
    let parsed = Url::parse(url.trim())
        .ok()
        .filter(|url| match url.scheme() {
            "https" | "http" => true,
            "file" => !url.has_host(),
            _ => false,
        })
        .ok_or_else(|| {
            invalid(
                url_name,
                redact_url(&url),
                "an `https`, `http` or `file` URL, such as `file:///var/cache/archive`",
            )
        })?;
    let sha256 = hex::decode(sha256.trim())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| {
            invalid(
                sha256_name,
                sha256,
                "the file's SHA-256 as 64 hexadecimal digits",
            )
        })?;
    Ok(Some(Download {
        url: parsed,
        sha256,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let app = tempfile::tempdir().unwrap();
        for file in ["default.nix", "shell.nix"] {
            std::fs::write(app.path().join(file), "").unwrap();
        }
        let get = |name: &str| {
            settings
                .iter()
                .find(|(set, _)| *set == name)
                .map(|(_, value)| (*value).to_string())
        };
        Config::read(get, app.path())
    }

    fn expression(settings: &[(&str, &str)]) -> Expression {
        match read(settings).unwrap().wanted {
            Wanted::Expression(expression) => expression,
            other => panic!("an expression, not {other:?}"),
        }
    }

    #[test]
    fn without_settings_the_first_known_file_is_deployed_from_the_default_cache() {
        let config = read(&[]).unwrap();
        assert_eq!(expression(&[]).file, Path::new("shell.nix"));
        assert_eq!(config.caches.len(), 1);
        assert_eq!(config.caches[0].to_string(), "https://cache.nixos.org");
        assert!(config.caches[0].must_sign, "its key is known");
        assert!(!config.trust.required);
        assert_eq!(config.source_name, "source");
    }

    #[test]
    fn several_caches_come_before_the_default_one() {
        let config = read(&[(
            "NIX_EXTRA_BINARY_CACHE",
            "http://hydra.acme.net:3000  file:///cache",
        )]);
        let names: Vec<_> = config
            .unwrap()
            .caches
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            names,
            [
                "http://hydra.acme.net:3000",
                "file:///cache",
                "https://cache.nixos.org"
            ]
        );
    }

    #[test]
    fn the_default_cache_can_be_left_out() {
        assert!(
            read(&[("NIX_DEFAULT_BINARY_CACHE", "")])
                .unwrap()
                .caches
                .is_empty()
        );
    }

    #[test]
    fn only_who_asks_for_it_or_names_no_cache_gets_anything_built() {
        let none = ("NIX_DEFAULT_BINARY_CACHE", "");
        for (settings, on_miss) in [
            (&[][..], OnMiss::Error),
            (&[("NIX_ON_MISS", "build")], OnMiss::Build),
            (&[none], OnMiss::Build),
            (
                &[none, ("NIX_HYDRA_URL", "http://hydra.acme.net")],
                OnMiss::Error,
            ),
            (&[none, ("NIX_ON_MISS", "error")], OnMiss::Error),
        ] {
            assert_eq!(read(settings).unwrap().on_miss, on_miss, "{settings:?}");
        }
    }

    #[test]
    fn naming_a_key_makes_signatures_required() {
        let key = "acme:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
        let trust = read(&[("NIX_TRUSTED_PUBLIC_KEYS", key)]).unwrap().trust;
        assert!(trust.required);
        assert_eq!(trust.keys.len(), 2);
    }

    #[test]
    fn attributes_are_split_at_spaces_and_the_target_is_one_of_them() {
        let settings = [("NIX_ATTRIBUTES", "web  worker"), ("NIX_TARGET", "worker")];
        let expression = expression(&settings);
        assert_eq!(expression.attributes, ["web", "worker"]);
        assert_eq!(expression.target.as_deref(), Some("worker"));
    }

    #[test]
    fn a_store_path_needs_no_expression() {
        let path = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp-1.0";
        let wanted = read(&[("NIX_STORE_PATH", path)]).unwrap().wanted;
        assert_eq!(wanted, Wanted::StorePath(path.parse().unwrap()));
    }

    #[test]
    fn values_that_make_no_sense_are_named_with_their_setting() {
        for (name, value) in [
            ("NIX_EXTRA_BINARY_CACHE", "hydra.acme.net"),
            ("NIX_EXTRA_BINARY_CACHE", "s3://bucket"),
            ("NIX_EXTRA_BINARY_CACHE", "file://cache/nix"),
            (
                "NIX_EXTRA_BINARY_CACHE",
                "http://hydra.acme.net?priority=high",
            ),
            ("NIX_REQUIRE_SIGNATURES", "maybe"),
            ("NIX_NETRC_FILE", "/nonexistent/netrc"),
            ("NIX_STORE_PATH", "/nix/store/short-myapp"),
            (
                "NIX_STORE_PATH",
                "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp.drv",
            ),
            ("NIX_FILE", "../outside.nix"),
            ("NIX_FILE", "missing.nix"),
            ("NIX_TARGET", "web"),
            ("NIX_SOURCE_NAME", "a/b"),
            ("NIX_ON_MISS", "compile"),
            ("NIX_DEBUG", "loud"),
            ("NIX_ENGINE", "docker"),
            ("NIX_PROCFILE", "missing"),
            ("NIX_RELOCATE_IGNORE", "a***b"),
            ("NIX_HYDRA_JOB", "acme/main"),
            ("NIX_HYDRA_JOB", "acme/main/my app"),
            ("NIX_HYDRA_URL", "file:///hydra"),
            ("NIX_REVISION", "main"),
            ("NIX_REVISION", "abc12"),
            ("NIX_HYDRA_WAIT", "soon"),
            ("NIX_HYDRA_WAIT", "10 days"),
            ("NIX_HYDRA_INPUTS", "nixpkgs"),
        ] {
            match read(&[(name, value)]) {
                Err(ConfigError::InvalidSetting {
                    name: named,
                    value: shown,
                    ..
                }) => {
                    assert_eq!((named, shown.as_str()), (name, value));
                }
                other => panic!("{name}={value} gave {other:?}"),
            }
        }
    }

    #[test]
    fn credentials_come_from_a_netrc_file_and_a_binding_and_stay_with_their_host() {
        use http_client::Credentials;
        let bindings = tempfile::tempdir().unwrap();
        let binding = bindings.path().join("cache");
        std::fs::create_dir(&binding).unwrap();
        for (name, text) in [
            ("type", "nix-binary-cache"),
            ("url", "https://bound.net"),
            ("token", "t"),
            ("netrc", "machine named.net login n password p"),
            (
                "public-key",
                "acme:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
            ),
        ] {
            std::fs::write(binding.join(name), text).unwrap();
        }
        let netrc = bindings.path().join("netrc");
        std::fs::write(&netrc, "machine filed.net login f password q").unwrap();
        let config = read(&[
            (
                "NIX_EXTRA_BINARY_CACHE",
                "http://named.net http://filed.net:5000/x https://bound.net/ http://u:v@named.net/y",
            ),
            ("SERVICE_BINDING_ROOT", bindings.path().to_str().unwrap()),
            ("NIX_NETRC_FILE", netrc.to_str().unwrap()),
        ])
        .unwrap();
        assert!(config.trust.required, "the binding has a key");
        let basic = |user: &str, password: &str| {
            Some(Credentials::Basic {
                user: user.into(),
                password: password.into(),
            })
        };
        let expected = [
            ("http://named.net", basic("n", "p")),
            ("http://filed.net:5000/x", basic("f", "q")),
            ("https://bound.net", Some(Credentials::Bearer("t".into()))),
            ("http://named.net/y", basic("u", "v")),
            ("https://cache.nixos.org", None),
        ];
        assert_eq!(config.caches.len(), expected.len());
        for (cache, (url, credentials)) in config.caches.iter().zip(expected) {
            assert_eq!(cache.to_string(), url);
            assert!(cache.endpoint.credentials == credentials, "{url}");
        }
    }

    #[test]
    fn a_binding_of_the_default_cache_gives_it_credentials_and_leaves_it_last() {
        let bindings = tempfile::tempdir().unwrap();
        for (name, url) in [("1", "https://default.net"), ("2", "https://other.net")] {
            let binding = bindings.path().join(name);
            std::fs::create_dir(&binding).unwrap();
            for (file, text) in [("type", "nix-binary-cache"), ("url", url), ("token", "t")] {
                std::fs::write(binding.join(file), text).unwrap();
            }
        }
        let caches = read(&[
            ("NIX_DEFAULT_BINARY_CACHE", "https://default.net/"),
            ("SERVICE_BINDING_ROOT", bindings.path().to_str().unwrap()),
        ]);
        let caches = caches.unwrap().caches;
        let names: Vec<_> = caches.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["https://other.net", "https://default.net"]);
        assert!(
            caches
                .iter()
                .all(|cache| cache.endpoint.credentials.is_some())
        );
    }

    #[test]
    fn a_job_is_deployed_unless_its_jobset_s_inputs_are_to_be_evaluated_with() {
        let job = ("NIX_HYDRA_JOB", "acme:main:my-app.x86_64-linux");
        let config = read(&[job]).unwrap();
        let Wanted::HydraJob(wanted, Some(expression)) = config.wanted else {
            panic!("{:?}", config.wanted);
        };
        assert_eq!(wanted.to_string(), job.1);
        assert_eq!(expression.file, Path::new("shell.nix"));
        let config = read(&[job, ("NIX_HYDRA_INPUTS", "1")]).unwrap();
        assert!(matches!(config.wanted, Wanted::Expression(_)));
        assert!(matches!(
            read(&[("NIX_HYDRA_INPUTS", "1")]),
            Err(ConfigError::MissingPartner { .. })
        ));
    }

    #[test]
    fn the_revision_is_the_user_s_else_one_of_the_platform_s_that_looks_like_one() {
        let revision = |settings: &[(&str, &str)]| {
            let revision = read(settings).unwrap().hydra.revision;
            revision.map(|revision| (revision.from, revision.name))
        };
        let platform = [("SOURCE_VERSION", "v1.2"), ("GIT_REV", "ABCDEF0")];
        let expected = |from: &str, name: &str| Some((from.to_string(), name.to_string()));
        assert_eq!(revision(&platform), expected("GIT_REV", "abcdef0"));
        assert_eq!(revision(&platform[..1]), None);
        let named = [platform[1], ("NIX_REVISION", "latest")];
        assert_eq!(revision(&named), expected("NIX_REVISION", "latest"));
    }

    #[test]
    fn the_wait_is_in_minutes_unless_it_has_a_unit() {
        for (value, seconds) in [
            ("0", 0),
            ("5", 300),
            ("90s", 90),
            ("10 m", 600),
            ("2h", 7200),
        ] {
            let config = read(&[("NIX_HYDRA_WAIT", value)]).unwrap();
            assert_eq!(config.hydra.wait, Duration::from_secs(seconds), "{value}");
        }
        assert_eq!(read(&[]).unwrap().hydra.wait, DEFAULT_WAIT);
    }

    #[test]
    fn a_hydra_has_the_credentials_of_its_host() {
        use http_client::Credentials;
        let config = read(&[
            ("NIX_EXTRA_BINARY_CACHE", "https://u:p@hydra.net"),
            ("NIX_HYDRA_URL", "https://hydra.net"),
        ]);
        let credentials = config.unwrap().hydra.url.unwrap().credentials;
        let expected = Credentials::Basic {
            user: "u".into(),
            password: "p".into(),
        };
        assert!(credentials == Some(expected));
    }

    #[test]
    fn a_wrong_url_is_shown_without_its_password() {
        match read(&[("NIX_EXTRA_BINARY_CACHE", "ftp://user:hunter2@example.org")]) {
            Err(ConfigError::InvalidSetting { value, .. }) => {
                assert_eq!(value, "ftp://example.org/");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_download_needs_both_its_url_and_its_hash() {
        assert!(matches!(
            read(&[("NIX_PROOT_URL", "file:///proot")]),
            Err(ConfigError::MissingPartner {
                name: "NIX_PROOT_URL",
                partner: "NIX_PROOT_SHA256"
            })
        ));
        assert!(matches!(
            read(&[("NIX_ARCHIVE_SHA256", "00")]),
            Err(ConfigError::MissingPartner { .. })
        ));
        assert!(matches!(
            read(&[
                ("NIX_PROOT_URL", "file:///proot"),
                ("NIX_PROOT_SHA256", "xyz")
            ]),
            Err(ConfigError::InvalidSetting {
                name: "NIX_PROOT_SHA256",
                ..
            })
        ));
    }

    #[test]
    fn every_setting_is_described_in_buildpack_toml_and_nothing_else_is() {
        let descriptor: toml::Table = toml::from_str(include_str!("../../buildpack.toml")).unwrap();
        let described: Vec<_> = descriptor["metadata"]["configurations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|setting| setting["name"].as_str().unwrap())
            .collect();
        assert_eq!(described, SETTINGS);
    }

    #[test]
    fn every_setting_is_in_the_contract_and_nothing_else_is() {
        let contract = include_str!("../../docs/application_contract.md");
        let section = contract
            .split("\n## ")
            .find(|s| s.starts_with("Settings\n"));
        let rows = section.unwrap().lines().filter(|l| l.starts_with("| `"));
        let listed: Vec<_> = rows
            .flat_map(|row| row.split('|').nth(1).unwrap().split(','))
            .map(|name| name.trim().trim_matches('`'))
            .collect();
        assert_eq!(listed, SETTINGS);
    }

    #[test]
    fn every_setting_that_is_read_is_known_and_every_known_one_is_read() {
        let source = include_str!("mod.rs").split("#[cfg(test)]").next();
        let (before, after) = source.unwrap().split_once("pub const SETTINGS").unwrap();
        let after = after.split_once("];").unwrap().1;
        let mut read: Vec<_> = [before, after]
            .iter()
            .flat_map(|source| source.split('"').skip(1).step_by(2))
            .filter(|text| {
                let mut letters = text.chars();
                text.starts_with("NIX_")
                    && letters.all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
            })
            .chain([engine::SETTING])
            .collect();
        read.sort_unstable();
        read.dedup();
        let mut known = SETTINGS;
        known.sort_unstable();
        assert_eq!(read, known);
    }

    #[test]
    fn the_sample_project_toml_has_settings_that_are_read() {
        let project: toml::Table = toml::from_str(include_str!("../../docs/project.toml")).unwrap();
        let env = project["io"]["buildpacks"]["build"]["env"]
            .as_array()
            .unwrap();
        let settings: Vec<_> = env
            .iter()
            .map(|pair| {
                (
                    pair["name"].as_str().unwrap(),
                    pair["value"].as_str().unwrap(),
                )
            })
            .collect();
        assert!(settings.iter().all(|(name, _)| SETTINGS.contains(name)));
        let config = read(&settings).unwrap();
        assert!(config.trust.required);
        assert_eq!(config.caches[0].to_string(), "https://hydra.acme.net");
    }
}
