//! Settings: whatever their values, what is taken keeps its promises to the rest of the build, and no
//! error repeats a password.
//!
//! A line is `NAME=value`, of a setting or another variable that is read. The names `netrc`, and
//! `binding.` before the name of a file, give the content of that file; `;` in it ends a line.

use http_client::Endpoint;
use nix_hydra_buildpack::config::{Config, Expression, Problem, Wanted, setting};
use nix_hydra_buildpack::error::BuildpackError;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use tempfile::TempDir;
use url::Url;

/// Where this stands for a password it must not be shown.
const SECRET: &str = "hunter2";

/// Settings that hold URLs, one or several.
const URLS: [&str; 5] = [
    "NIX_EXTRA_BINARY_CACHE",
    "NIX_DEFAULT_BINARY_CACHE",
    "NIX_HYDRA_URL",
    "NIX_ARCHIVE_URL",
    "NIX_PROOT_URL",
];

const KEYS: &str = "NIX_TRUSTED_PUBLIC_KEYS";

/// Variables that platforms set.
const OTHERS: [&str; 4] = ["SOURCE_VERSION", "GIT_REV", "GITHUB_SHA", "CI_COMMIT_SHA"];

/// The files of a service binding.
const BINDING: [&str; 7] = [
    "type",
    "url",
    "netrc",
    "username",
    "password",
    "token",
    "public-key",
];

struct Place {
    directory: TempDir,
}

thread_local! {
    static PLACE: Place = Place::new();
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is a temporary directory");
        for name in ["app/nix", "bindings/cache"] {
            fs::create_dir_all(directory.path().join(name)).expect("it is new");
        }
        for name in ["app/default.nix", "app/nix/deploy.nix", "app/Procfile.web"] {
            fs::write(directory.path().join(name), "").expect("it is new");
        }
        fs::write(directory.path().join("secret"), SECRET).expect("it is new");
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    PLACE.with(|place| {
        let given = Given::read(&text, place);
        let app = place.path("app");
        let get = |name: &str| given.values.get(name).cloned();
        let config = Config::read(get, &app);
        for name in &given.bound {
            fs::remove_file(place.path("bindings/cache").join(name)).expect("it was written");
        }
        match config {
            Ok(config) => {
                holds(&config, &app);
                assert!(Config::detects(get, &app));
            }
            Err(error) => {
                if error
                    .0
                    .iter()
                    .any(|problem| matches!(problem, Problem::NothingToDeploy))
                {
                    assert!(!app.join("default.nix").exists());
                }
                let message = BuildpackError::Config(error).message().to_string();
                if given.is_secret {
                    assert!(!message.contains(SECRET), "{message}");
                }
            }
        }
    });
}

/// The variables that are set.
struct Given {
    values: BTreeMap<String, String>,
    /// The files of the binding.
    bound: Vec<&'static str>,
    /// Whether the password is nowhere but where passwords are.
    is_secret: bool,
}

impl Given {
    fn read(text: &str, place: &Place) -> Self {
        let mut given = Self {
            values: BTreeMap::new(),
            bound: Vec::new(),
            is_secret: true,
        };
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            given.set(name, value, place);
        }
        let values = given.values.iter();
        given.is_secret &= values
            .filter(|(_, value)| as_in_url(value).contains(SECRET))
            .all(|(name, value)| is_secret(name, value));
        given
    }

    fn set(&mut self, name: &str, value: &str, place: &Place) {
        let path = |name: &str| place.path(name).to_string_lossy().into_owned();
        if name == "netrc" {
            fs::write(place.path("netrc"), value.replace(';', "\n")).expect("it can be written");
            let file = path("netrc");
            self.values.insert("NIX_NETRC_FILE".to_string(), file);
        } else if let Some(file) = name.strip_prefix("binding.") {
            let Some(file) = BINDING.into_iter().find(|known| *known == file) else {
                return;
            };
            let content = value.replace(';', "\n");
            if file == "public-key" && content.contains(SECRET) {
                self.is_secret &= is_secret(KEYS, &content);
            }
            fs::write(place.path("bindings/cache").join(file), content).expect("it can be written");
            if !self.bound.contains(&file) {
                self.bound.push(file);
            }
            let root = path("bindings");
            self.values.insert("SERVICE_BINDING_ROOT".to_string(), root);
        } else if name == "NIX_NETRC_FILE" && value.trim_start().starts_with('/') {
            // Files of this machine are none of this target's business.
            self.values.insert(name.to_string(), path("secret"));
        } else if setting(name).is_some() || OTHERS.contains(&name) {
            self.values.insert(name.to_string(), value.to_string());
        }
    }
}

/// A text as a URL's parser takes it, which passes over tabs and ends of lines.
fn as_in_url(text: &str) -> String {
    text.replace(['\t', '\r'], "")
}

/// Whether the password in a setting's value is where a password is.
fn is_secret(name: &str, value: &str) -> bool {
    let one = as_in_url(value.trim());
    let mut words: Vec<&str> = match name {
        // These hold one URL, in which spaces are part of it.
        "NIX_HYDRA_URL" | "NIX_ARCHIVE_URL" | "NIX_PROOT_URL" => vec![&one],
        _ => value.split_whitespace().collect(),
    };
    words.retain(|word| word.contains(SECRET));
    match name {
        // It was set to the file's content by mistake.
        "NIX_NETRC_FILE" => !value.starts_with('/'),
        KEYS => words.iter().all(|word| {
            word.split_once(':')
                .is_none_or(|(name, _)| !name.contains(SECRET))
        }),
        _ if URLS.contains(&name) => words.iter().all(|word| is_password(word)),
        _ => false,
    }
}

/// Whether the secret is the user or the password of a URL, and nothing else in it.
fn is_password(url: &str) -> bool {
    match Url::parse(url) {
        Ok(mut url) if url.has_host() => {
            // A part of a path may be gone as well, but only because `..` follows.
            let was_there = [url.username(), url.password().unwrap_or_default()]
                .iter()
                .any(|part| part.contains(SECRET));
            let _ = url.set_username("");
            let _ = url.set_password(None);
            was_there && !url.as_str().contains(SECRET)
        }
        // In what is no URL, a password is what comes before the last `@`, but for a scheme.
        _ => url.rsplit_once('@').is_some_and(|(before, host)| {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            let is_scheme = scheme.chars().all(|c| c.is_ascii_alphanumeric());
            !(host.contains(SECRET) || is_scheme && scheme.contains(SECRET))
        }),
    }
}

/// What the rest of the build takes for granted.
fn holds(config: &Config, app: &Path) {
    let endpoints = config.caches.iter().map(|cache| &cache.endpoint);
    for cache in endpoints.chain(&config.hydra.url) {
        assert!(matches!(cache.base.scheme(), "https" | "http" | "file"));
        assert!(cache.base.username().is_empty() && cache.base.password().is_none());
        assert!(cache.base.query().is_none() && cache.base.path().ends_with('/'));
        // What is in a layer's metadata can be read back, and has no password.
        let shown = cache.to_string();
        let again: Endpoint = shown.parse().expect("it is a URL");
        // One slash at the end is not shown.
        let ends_twice = cache.base.path().ends_with("//");
        assert!(again.base == cache.base || ends_twice, "{shown}");
        assert!(again.credentials.is_none());
    }
    for download in config.nix_archive.iter().chain(&config.proot) {
        assert!(matches!(download.url.scheme(), "https" | "http" | "file"));
    }
    match &config.wanted {
        Wanted::StorePath(path) => assert!(!path.is_derivation()),
        Wanted::HydraJob(job, expression) => {
            assert_eq!(job.to_string().parse().as_ref(), Ok(job));
            assert!(!config.hydra.inputs);
            if let Some(expression) = expression {
                expression_holds(expression, app);
            }
        }
        Wanted::Expression(expression) => expression_holds(expression, app),
    }
    if let Some(file) = &config.procfile {
        is_inside(file, app);
    }
    if let Some(revision) = &config.hydra.revision {
        assert!(revision.name == "latest" || revision.name.chars().all(|c| c.is_ascii_hexdigit()));
    }
    assert!(!config.trust.keys.is_empty());
}

fn expression_holds(expression: &Expression, app: &Path) {
    is_inside(&expression.file, app);
    if let Some(target) = &expression.target {
        let mut texts = expression.attributes.iter().map(|one| &one.text);
        assert!(texts.any(|text| text == target));
    }
}

fn is_inside(file: &Path, app: &Path) {
    assert!(app.join(file).exists());
    assert!(
        file.components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    );
}
