//! Every failure of the buildpack as its user reads it: the step that failed, the cause, and the
//! next step. The errors themselves are beside the code that returns them.

mod app;
mod closure;
mod doctor;
mod hydra;
mod message;
mod miss;
pub mod settings;
mod summary;
mod tools;

pub use message::Message;
pub use summary::Summary;

use crate::config::EXPRESSION_FILES;
use crate::error::BuildpackError;
use crate::layers::closure::ClosureLayerError;
use crate::layers::proot::PRootLayerError;
use crate::resolve::ResolveError;
use crate::resolve::expression::ExpressionError;
use indoc::formatdoc;
use message::internal;
use words::list;

/// The header of a failure of the framework.
const PLATFORM: &str = "Failed to work with the platform";

/// The message for a failure of the framework, or of the buildpack itself.
pub fn message(error: &libcnb::Error<BuildpackError>) -> Message {
    match error {
        libcnb::Error::BuildpackError(error) => error.message().see(error.page()),
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
    pub fn message(&self) -> Message {
        match self {
            Self::Config(error) => settings::config(error),
            Self::Resolve(error) => resolve(error),
            Self::ClosureLayer(ClosureLayerError::Miss { misses, unusable }) => {
                closure::miss(misses, closure::miss_hint(misses, unusable))
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
            Self::ClosureLayer(ClosureLayerError::OverBudget(over)) => closure::over_budget(over),
            Self::ClosureLayer(ClosureLayerError::WrongProcessor(wrong)) => {
                closure::wrong_processor(wrong)
            }
            Self::ClosureLayer(ClosureLayerError::Layer(error))
            | Self::PRootLayer(PRootLayerError::Layer(error)) => tools::layer(error),
            Self::PRootLayer(error) => tools::proot(error),
            Self::Procfile(error) => app::procfile(error),
            Self::NoProcess(error) => app::no_process(error),
            Self::Hook(error) => app::hook(error),
        }
    }

    /// The page of the documentation that explains a failure.
    fn page(&self) -> &'static str {
        match self {
            Self::Resolve(ResolveError::Hydra(_))
            | Self::NotKept { .. }
            | Self::Diagnosed { .. } => "docs/hydra.md",
            Self::Resolve(
                ResolveError::Nix(_)
                | ResolveError::Platform(_)
                | ResolveError::Expression(ExpressionError::Nix(_)),
            )
            | Self::ClosureLayer(ClosureLayerError::WrongProcessor(_))
            | Self::PRootLayer(PRootLayerError::OtherPackage(..)) => "docs/platforms.md",
            Self::ClosureLayer(ClosureLayerError::Relocation(_)) | Self::PRootLayer(_) => {
                "docs/engines.md"
            }
            Self::ClosureLayer(ClosureLayerError::OverBudget(_)) => "docs/application_contract.md",
            Self::ClosureLayer(_) => "docs/reliability.md",
            _ => "docs/application_contract.md",
        }
    }
}

/// Why the buildpack takes no part in a build, in one line.
pub fn not_detected() -> String {
    let files = EXPRESSION_FILES.map(|file| format!("`{file}`"));
    format!(
        "Not taken: the app has none of {}, and none of NIX_FILE, NIX_STORE_PATH and NIX_HYDRA_JOB is set",
        list(&files)
    )
}

/// The message for a build that a signal has ended.
pub fn interrupted(signal: i32) -> Message {
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
    Message::of(&formatdoc! {"
        The build was interrupted

        It received {name}: it was stopped, or ran out of time.

        Nothing half-written was kept; an image that was there before stays as it is. Build again.
    "})
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

#[cfg(test)]
mod tests {
    use super::*;
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
    fn an_error_ends_with_a_page_of_the_documentation_that_there_is() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut pages = Vec::new();
        for error in [
            ResolveError::Architecture("riscv64".into()).into(),
            ResolveError::Platform(String::new()).into(),
            ResolveError::Hydra(::hydra::DeployError::NoOutput(String::new())).into(),
            BuildpackError::ClosureLayer(ClosureLayerError::Relocation(
                ::closure::relocate::blocker::NotRelocatable::Blockers(Vec::new()),
            )),
            BuildpackError::ClosureLayer(ClosureLayerError::Miss {
                misses: Vec::new(),
                unusable: Vec::new(),
            }),
        ] {
            let page = error.page();
            assert!(directory.join(page).is_file(), "{page}");
            let text = message(&libcnb::Error::BuildpackError(error)).body;
            assert!(
                text.ends_with(&format!("See {page} of the buildpack.")),
                "{text}"
            );
            pages.push(page);
        }
        pages.dedup();
        assert_eq!(pages.len(), 5);
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
            // Its tests make errors of the values that users write.
            if file.ends_with("settings.rs") {
                continue;
            }
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
