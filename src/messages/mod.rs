//! Every failure of the buildpack as its user reads it: the step that failed, the cause, and the
//! next step. The errors themselves are beside the code that returns them.

mod app;
mod closure;
mod doctor;
mod hydra;
mod message;
mod tools;

pub use message::Message;

use crate::config::{ConfigError, EXPRESSION_FILES};
use crate::error::BuildpackError;
use crate::layers::closure::ClosureLayerError;
use crate::layers::proot::PRootLayerError;
use crate::resolve::ResolveError;
use binary_cache::credentials::CredentialsError;
use indoc::formatdoc;
use message::internal;
use words::list;

/// The header of a failure of the framework.
const PLATFORM: &str = "Failed to work with the platform";

/// The message for a failure of the framework, or of the buildpack itself.
#[must_use]
pub fn message(error: &libcnb::Error<BuildpackError>) -> Message {
    match error {
        libcnb::Error::BuildpackError(error) => error.message(),
        other => internal(
            PLATFORM,
            &format!(
                "A file that the platform and the buildpack share could not be read or written: {other}"
            ),
        ),
    }
}

impl BuildpackError {
    /// What its user reads.
    #[must_use]
    pub fn message(&self) -> Message {
        match self {
            Self::Config(error) => config(error),
            Self::Resolve(error) => resolve(error),
            Self::ClosureLayer(ClosureLayerError::Miss { misses, unusable }) => {
                closure::miss(misses, &closure::miss_hint(misses, unusable))
            }
            Self::NotKept {
                misses,
                unusable,
                job,
            } => closure::miss(misses, &hydra::not_kept(job, unusable)),
            Self::Diagnosed { misses, diagnosis } => closure::diagnosed(misses, diagnosis),
            Self::ClosureLayer(ClosureLayerError::Fetch(error)) => closure::fetch(error),
            Self::ClosureLayer(ClosureLayerError::Relocation(reason)) => {
                closure::relocation(reason)
            }
            Self::ClosureLayer(ClosureLayerError::Layer(error))
            | Self::PRootLayer(PRootLayerError::Layer(error)) => tools::layer(error),
            Self::PRootLayer(error) => tools::proot(error),
            Self::Procfile(error) => app::procfile(error),
            Self::NoProcess(error) => app::no_process(error),
            Self::Hook(error) => app::hook(error),
        }
    }
}

/// The message for a build that a signal has ended.
#[must_use]
pub fn interrupted(signal: i32) -> Message {
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
    Message::new(
        "The build was interrupted",
        formatdoc! {"
            It received {name}: it was stopped, or ran out of time.

            Nothing half-written was kept; an image that was there before stays as it is. Build again.
        "},
    )
}

fn resolve(error: &ResolveError) -> Message {
    match error {
        ResolveError::Source(error) => app::source(error),
        ResolveError::Tool(error) => tools::tool(error),
        ResolveError::Nix(error) => tools::nix(error),
        ResolveError::Expression(error) => app::expression(error),
        ResolveError::Hydra(error) => hydra::deploy(error),
        ResolveError::NixStore(error) => tools::layer(error),
        ResolveError::Platform(reason) => internal(PLATFORM, reason),
        ResolveError::Architecture(arch) => Message::new(
            "This architecture is not supported",
            format!("The platform builds for `{arch}`. This buildpack knows `amd64` and `arm64`."),
        ),
    }
}

fn config(error: &ConfigError) -> Message {
    match error {
        ConfigError::InvalidSetting {
            name,
            value,
            expected,
        } => Message::new(
            format!("The setting {name} cannot be used"),
            formatdoc! {"
                {name} is set to `{value}`.

                It takes {expected}.
            "},
        ),
        ConfigError::MissingPartner {
            name: name @ "NIX_HYDRA_INPUTS",
            partner,
        } => Message::new(
            format!("The setting {name} needs {partner}"),
            formatdoc! {"
                {name} is set, but {partner} is not, so it is not known whose
                inputs are meant.

                Set {partner} to a job of the jobset: `project/jobset/job`.
            "},
        ),
        ConfigError::MissingPartner { name, partner } => Message::new(
            format!("The setting {name} needs {partner}"),
            formatdoc! {"
                {name} is set, but {partner} is not. A tool is only taken from
                elsewhere together with the hash that it must have.

                Set both of them, or neither.
            "},
        ),
        ConfigError::Credentials(error) => credentials(error),
        ConfigError::NothingToDeploy => Message::new(
            "There is nothing to deploy",
            formatdoc! {"
                The app has none of {files}, and neither
                NIX_FILE nor NIX_STORE_PATH nor NIX_HYDRA_JOB is set.

                Add an expression to the app, or set NIX_FILE to the one it has.
            ", files = list(&EXPRESSION_FILES.map(|file| format!("`{file}`")))},
        ),
    }
}

fn credentials(error: &CredentialsError) -> Message {
    match error {
        CredentialsError::Read(path, error) => Message::new(
            "Failed to read the credentials of a binary cache",
            formatdoc! {"
                {path} could not be read: {error}.

                It must be a file of text that the user who builds the image may read.
            ", path = path.display()},
        ),
        CredentialsError::Url(path, _) => Message::new(
            "A service binding cannot be used",
            formatdoc! {"
                {path} holds no URL of a binary cache.

                It takes one, such as `https://cache.example.org`.
            ", path = path.display()},
        ),
        CredentialsError::PublicKey(path) => Message::new(
            "A service binding cannot be used",
            formatdoc! {"
                {path} holds what is no public key.

                It takes public keys, `name:base64`, separated by spaces.
            ", path = path.display()},
        ),
        CredentialsError::NoUrl(directory) => Message::new(
            "A service binding cannot be used",
            formatdoc! {"
                {directory} has a user or a token, but no `url` to use them for.

                Add a `url`; or a `netrc`, which names the hosts itself.
            ", directory = directory.display()},
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use binary_cache::CacheUrlError;
    use nix_derivation::StorePath;
    use std::io;
    use std::path::Path;

    pub(super) fn path(name: &str) -> StorePath {
        format!("/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-{name}")
            .parse()
            .unwrap()
    }

    pub(super) fn full() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }

    fn settings() -> Vec<BuildpackError> {
        [
            ConfigError::InvalidSetting {
                name: "NIX_DEBUG",
                value: "loud".into(),
                expected: "`true` or `false`".into(),
            },
            ConfigError::MissingPartner {
                name: "NIX_PROOT_URL",
                partner: "NIX_PROOT_SHA256",
            },
            ConfigError::MissingPartner {
                name: "NIX_HYDRA_INPUTS",
                partner: "NIX_HYDRA_JOB",
            },
            ConfigError::Credentials(CredentialsError::Read(
                "/bindings/acme/token".into(),
                io::ErrorKind::PermissionDenied.into(),
            )),
            ConfigError::Credentials(CredentialsError::Url(
                "/bindings/acme/url".into(),
                CacheUrlError::Scheme,
            )),
            ConfigError::Credentials(CredentialsError::PublicKey(
                "/bindings/acme/public-key".into(),
            )),
            ConfigError::Credentials(CredentialsError::NoUrl("/bindings/acme".into())),
            ConfigError::NothingToDeploy,
        ]
        .map(BuildpackError::Config)
        .into()
    }

    pub(super) fn texts(errors: &[BuildpackError]) -> String {
        let texts: Vec<String> = errors
            .iter()
            .map(|error| error.message().to_string())
            .collect();
        let text = texts.join("\n\n==========\n\n");
        assert!(!text.contains("hunter2"), "a password is shown");
        text
    }

    #[test]
    fn messages_about_settings() {
        insta::assert_snapshot!(texts(&settings()));
    }

    #[test]
    fn messages_about_the_platform() {
        let errors = [
            ResolveError::Architecture("riscv64".into()).into(),
            ResolveError::Platform("layer metadata: expected a table".into()).into(),
        ];
        insta::assert_snapshot!(format!(
            "{}\n\n==========\n\n{}",
            texts(&errors),
            interrupted(15)
        ));
    }

    #[test]
    fn every_error_that_has_words_is_in_a_snapshot() {
        // These only pass on what is tested by itself.
        const PASSED_ON: [&str; 8] = [
            "DeployError::Hydra",
            "DeployError::Revision",
            "ExpressionError::Nix",
            "ExpressionError::Source",
            "PRootLayerError::Layer",
            "PRootLayerError::Tool",
            "ResolveError::Hydra",
            "ResolveError::NixStore",
        ];
        let variant = regex_lite::Regex::new(r"\b[A-Z]\w*(Error|Failure)::[A-Z]\w*").unwrap();
        let variants = |text: &str| -> Vec<String> {
            let found = variant.find_iter(text);
            found.map(|found| found.as_str().to_string()).collect()
        };
        let (mut in_words, mut tested) = (Vec::new(), Vec::new());
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/messages");
        for file in std::fs::read_dir(directory).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&file).unwrap();
                let (words, tests) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
                in_words.extend(variants(words));
                tested.extend(variants(tests));
            }
        }
        assert!(in_words.len() > 70, "{in_words:?}");
        in_words.retain(|name| !tested.contains(name) && !PASSED_ON.contains(&name.as_str()));
        assert_eq!(in_words, [] as [&str; 0]);
    }
}
