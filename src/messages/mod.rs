//! Every failure of the buildpack as its user reads it: what was being done, why it failed, and
//! what to do next. The errors themselves are beside the code that makes them.

mod doctor;
mod hydra;

use crate::config::{ConfigError, EXPRESSION_FILES};
use crate::doctor::Diagnosis;
use crate::error::BuildpackError;
use crate::launch::NoProcess;
use crate::launch::hook::HookError;
use crate::launch::procfile::{LineError, ProcfileError};
use crate::layers::closure::ClosureLayerError;
use crate::layers::launch_layer::LayerError;
use crate::layers::proot::PRootLayerError;
use crate::log::{self, bytes};
use crate::resolve::ResolveError;
use crate::resolve::expression::ExpressionError;
use crate::resolve::source::SourceError;
use crate::tools::ToolError;
use binary_cache::credentials::CredentialsError;
use binary_cache::{Answer, CacheAnswer, CacheError, Untrusted, Unusable};
use closure::fetch::{FetchError, FetchFailure};
use closure::plan::Miss;
use closure::relocate::relocatability::NotRelocatable;
use closure::unpack::UnpackError;
use http_client::{HttpError, without_credentials};
use indoc::formatdoc;
use nix_derivation::StorePath;
use nix_runner::archive::ArchiveError;
use nix_runner::temporary::NoTemporary;
use nix_runner::{MIN_VERSION, NixError};
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use words::list;

/// The header of a failure of the framework.
const PLATFORM: &str = "Failed to work with the platform";

/// How many missing paths are described in full; the rest are counted.
const MISSES_SHOWN: usize = 3;

/// How many referrers of a missing path are named; the rest are counted.
const REFERRERS_SHOWN: usize = 20;

/// How many programs are listed; the rest are counted.
const PROGRAMS_SHOWN: usize = 20;

/// A message: what failed, why, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub header: String,
    pub body: String,
}

impl Message {
    fn new(header: impl Into<String>, body: impl Into<String>) -> Self {
        Self {
            header: log::printable(&header.into()),
            body: log::printable(body.into().trim_end()),
        }
    }
}

impl std::fmt::Display for Message {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}\n\n{}", self.header, self.body)
    }
}

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
    #[must_use]
    pub fn message(&self) -> Message {
        match self {
            Self::Config(error) => config(error),
            Self::Resolve(error) => resolve(error),
            Self::ClosureLayer(ClosureLayerError::Miss { misses, unusable }) => {
                miss(misses, &miss_hint(misses, unusable))
            }
            Self::NotKept {
                misses,
                unusable,
                job,
            } => miss(misses, &hydra::not_kept(job, unusable)),
            Self::Diagnosed { misses, diagnosis } => diagnosed(misses, diagnosis),
            Self::ClosureLayer(ClosureLayerError::Fetch(error)) => fetch(error),
            Self::ClosureLayer(ClosureLayerError::Relocation(reason)) => relocation(reason),
            Self::ClosureLayer(ClosureLayerError::Layer(error))
            | Self::PRootLayer(PRootLayerError::Layer(error)) => layer(error),
            Self::PRootLayer(error) => proot(error),
            Self::Procfile(error) => procfile(error),
            Self::NoProcess(error) => no_process(error),
            Self::Hook(error) => hook(error),
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
            It got {name}: somebody stopped it, or its time was up.

            Nothing half-written was kept; an image that was there before stays as it is. Build again.
        "},
    )
}

fn resolve(error: &ResolveError) -> Message {
    match error {
        ResolveError::Source(error) => source(error),
        ResolveError::Tool(error) => tool(error),
        ResolveError::Nix(error) => nix(error),
        ResolveError::Expression(error) => expression(error),
        ResolveError::Hydra(error) => hydra::deploy(error),
        ResolveError::NixStore(error) => layer(error),
        ResolveError::Platform(reason) => internal(PLATFORM, reason),
        ResolveError::Architecture(arch) => Message::new(
            "This architecture is not supported",
            format!("The platform builds for `{arch}`. This buildpack knows `amd64` and `arm64`."),
        ),
    }
}

fn internal(header: &str, body: &str) -> Message {
    Message::new(
        header,
        formatdoc! {"
            {body}

            This is a fault of the buildpack or of the platform that runs it, not of your app.
            Build again; if it comes back, report it with the whole log of the build.
        "},
    )
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

fn relocation(reason: &NotRelocatable) -> Message {
    /// Files that are listed; the first ones mostly tell what the others are like.
    const LISTED: usize = 20;
    let elsewhere = "\n\nWith NIX_ENGINE=auto, or without it, the closure is taken as it is.";
    let text = match reason {
        NotRelocatable::DirectoryTooLong(directory, error) => format!(
            "Each reference to a store path is rewritten to a path of the same length below {}, and \
             the name of that directory is too long for it by {} bytes.",
            directory.display(),
            error.excess
        ),
        NotRelocatable::SamePlace(paths) => {
            let [one, other] = &**paths;
            format!("{one} and {other} would both have the same place in the image.")
        }
        NotRelocatable::Obstacles(obstacles) => {
            let mut text = String::from(
                "These files name store paths where they cannot be rewritten, or would not work \
                 once they are:\n\n",
            );
            for obstacle in obstacles.iter().take(LISTED) {
                let _ = writeln!(text, "- {}", log::obstacle(obstacle));
            }
            if obstacles.len() > LISTED {
                let _ = writeln!(text, "- and {} more", obstacles.len() - LISTED);
            }
            text.push_str(
                "\nWhere the app does not use such a file, say so: NIX_RELOCATE_IGNORE takes patterns \
                 of files to pass over, separated by spaces, such as `*/share/doc/*`.",
            );
            text
        }
    };
    Message::new("The closure cannot be relocated", text + elsewhere)
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

fn source(error: &SourceError) -> Message {
    match error {
        SourceError::Read(path, error) => Message::new(
            "Failed to read the app's source",
            formatdoc! {"
                {path} could not be read: {error}.

                Hydra puts every file of the app into its store, so each must be readable by
                the user that builds the image.
            ", path = path.display()},
        ),
        SourceError::Write(path, error) => disk("Failed to copy the app's source", path, error),
        SourceError::Encode(reason) => Message::new(
            "The app's source cannot be a store path",
            formatdoc! {"
                Nix cannot take this tree as a source: {reason}.

                Rename or remove the file, and let Hydra build the app again.
            "},
        ),
    }
}

fn tool(error: &ToolError) -> Message {
    match error {
        ToolError::Inventory(reason) => internal("A tool is not in the inventory", reason),
        ToolError::Http(url, error) => Message::new(
            "Failed to download a tool",
            formatdoc! {"
                {url} could not be downloaded: {error}.

                Build again. Where this address cannot be reached, put the file where it can
                be, and set NIX_ARCHIVE_URL and NIX_ARCHIVE_SHA256 (for Nix) or
                NIX_PROOT_URL and NIX_PROOT_SHA256 (for PRoot).
            ", url = without_credentials(url.as_str())},
        ),
        ToolError::Read(url, error) => Message::new(
            "Failed to download a tool",
            formatdoc! {"
                {url} could not be read to its end: {error}.

                Build again. If the URL is one that you have set, check that it is right.
            ", url = without_credentials(url.as_str())},
        ),
        ToolError::TooLarge(url) => Message::new(
            "A tool is too large",
            formatdoc! {"
                {url} is larger than any release of Nix or PRoot.

                Check NIX_ARCHIVE_URL and NIX_PROOT_URL.
            ", url = without_credentials(url.as_str())},
        ),
        ToolError::Write(path, error) => disk("Failed to write a tool", path, error),
        ToolError::Temporary(error) => temporary(error),
        ToolError::WrongHash {
            url,
            expected,
            actual,
        } => Message::new(
            "A downloaded tool is not the one that was expected",
            formatdoc! {"
                {url} has another SHA-256 than it should:

                expected  {expected}
                received  {actual}

                It was not used. If the URL is one that you have set, set the hash that belongs
                to it; else something changed the file on its way.
            ", url = without_credentials(url.as_str())},
        ),
    }
}

fn nix_archive(error: &ArchiveError) -> Message {
    let hint = "Use a release of Nix 2.34 or newer for this system, as its `nix-VERSION-SYSTEM.tar.xz`\n\
                archive, in NIX_ARCHIVE_URL; or set neither it nor NIX_ARCHIVE_SHA256.";
    match error {
        ArchiveError::Read(error) => Message::new(
            "Nix cannot be unpacked",
            format!("The release archive cannot be read: {error}.\n\n{hint}"),
        ),
        ArchiveError::Entry(name, reason) => Message::new(
            "Nix cannot be unpacked",
            format!(
                "The release archive has an entry that is not taken, `{name}`: {reason}.\n\n{hint}"
            ),
        ),
        ArchiveError::Write(path, error) => disk("Failed to unpack Nix", path, error),
        ArchiveError::NoNix => Message::new(
            "Nix cannot be unpacked",
            format!("The release archive holds no `bin/nix-instantiate`.\n\n{hint}"),
        ),
    }
}

fn nix(error: &NixError) -> Message {
    match error {
        NixError::Write(path, error) => disk("Failed to set up Nix", path, error),
        NixError::Temporary(error) => temporary(error),
        NixError::Start(program, error) => Message::new(
            "Nix cannot be started",
            formatdoc! {"
                {program} could not be run: {error}.

                If this is a Nix of your own, check that it is one for this system, and that
                programs may run from the directory it is in.
            ", program = program.display()},
        ),
        NixError::Archive(error) => nix_archive(error),
        NixError::TooOld(version) => Message::new(
            "This Nix is too old",
            formatdoc! {"
                The release archive holds Nix {version}. Evaluating without `/nix` needs {MIN_VERSION} or newer.

                Name a newer release in NIX_ARCHIVE_URL, or set neither it nor NIX_ARCHIVE_SHA256.
            "},
        ),
        NixError::NoEngine(tried) => {
            let tried: Vec<String> = tried
                .iter()
                .map(|(how, why)| format!("  {how}: {why}"))
                .collect();
            Message::new(
                "Nix cannot work in this build container",
                formatdoc! {"
                    There is no way to show it a store at `/nix`, which it needs for this:

                    {tried}

                    Let the container's processes make user namespaces or trace each other; or have
                    Hydra build the app, with nothing that must be built to evaluate it.
                ", tried = tried.join("\n")},
            )
        }
        NixError::Build(said) => Message::new(
            "The app could not be built",
            formatdoc! {"
                {said}

                No binary cache has it, so it was built here, as NIX_ON_MISS says. What the builder
                printed is above. Better have Hydra build it, and name its binary cache in
                NIX_EXTRA_BINARY_CACHE.
            "},
        ),
        NixError::Failed(said) => internal(
            "Nix failed to set up its store",
            &format!("It said:\n\n{said}"),
        ),
    }
}

fn expression(error: &ExpressionError) -> Message {
    match error {
        ExpressionError::Source(error) => source(error),
        ExpressionError::Nix(error) => nix(error),
        ExpressionError::Evaluation(said) => Message::new(
            "The expression cannot be evaluated",
            formatdoc! {"
                {said}

                Nix evaluates it here as Hydra does: inside the store, with access to nothing but
                the app's source, NIX_PATH, and what is fetched by URL.
            "},
        ),
        ExpressionError::Lookups(said, entries) => Message::new(
            "The expression cannot be evaluated, with a part of NIX_PATH missing",
            formatdoc! {"
                Of what NIX_PATH and the jobset's inputs name, Nix had to go on without this:

                  {entries}

                Then it said:

                {said}

                If the expression needs it, see to it that it is there and can be fetched from here;
                a private server's password goes into a netrc file (NIX_NETRC_FILE). NIX_PATH is split
                at each colon, also in a URL that has a port.
            ", entries = entries.join("\n  ")},
        ),
        ExpressionError::Answer(reason) => {
            internal("Nix gave an answer that cannot be understood", reason)
        }
        ExpressionError::MustBuild(derivation) => Message::new(
            "Something must be built to evaluate the expression",
            formatdoc! {"
                {derivation}

                could not be built. The expression imports what this derivation makes (import from
                derivation), and no binary cache has it.
            "},
        ),
        ExpressionError::Unpinned(name) => Message::new(
            "The expression uses a nixpkgs that is not pinned",
            formatdoc! {"
                This expression takes `{name}` from `<nixpkgs>`, which is not pinned: which nixpkgs
                that is depends on the machine, and so would the store path.

                Pin it in the expression, as with

                    nixpkgs = import (fetchTarball {{
                      url = \"https://github.com/NixOS/nixpkgs/archive/REVISION.tar.gz\";
                      sha256 = \"HASH\";
                    }}) {{ }};

                or say in NIX_PATH which one Hydra has. Unpinned, `<nixpkgs>` has nothing but
                fetchers: fetchFromGitHub, fetchFromGitLab, fetchzip, fetchurl, fetchgit, fetchTarball.
            "},
        ),
        ExpressionError::Fetcher(problem) => Message::new(
            "A fetcher of an unpinned nixpkgs cannot do this",
            formatdoc! {"
                {problem}.

                Fetch nixpkgs itself with its hash and nothing else, and take the fetcher for all
                else from there; or say in NIX_PATH which `<nixpkgs>` Hydra has.
            "},
        ),
        ExpressionError::Shell(attribute) => Message::new(
            "The expression is a shell to develop in",
            formatdoc! {"
                The {what} evaluates to what `mkShell` makes: an environment for `nix-shell`, with
                no program in it that could be deployed.

                Name the package in NIX_FILE or NIX_ATTRIBUTES, or put what is to be deployed into
                `deploy.nix`, which comes before `shell.nix`.
            ", what = what(attribute.as_deref())},
        ),
        ExpressionError::NotADerivation {
            attribute,
            kind,
            derivations,
        } => not_a_derivation(attribute.as_deref(), kind, derivations),
        ExpressionError::NoFlakeLock(input) => Message::new(
            format!("The flake's input `{input}` is not locked"),
            formatdoc! {"
                The `flake.lock` beside `flake.nix` is missing, or does not have this input as
                `flake.nix` has it. So it is not pinned, and the store path could be another one than
                Hydra built.

                Run `nix flake lock`, and commit `flake.lock`.
            "},
        ),
    }
}

/// The expression's part that `attribute` names, or the whole.
fn what(attribute: Option<&str>) -> String {
    match attribute {
        Some(attribute) => format!("attribute `{attribute}` of the expression"),
        None => "expression".to_string(),
    }
}

fn not_a_derivation(attribute: Option<&str>, kind: &str, derivations: &[String]) -> Message {
    let what = what(attribute);
    let next = match (derivations, attribute) {
        ([], _) => "It must be a derivation: what `nix-build` would build.".to_string(),
        (names, None) => format!(
            "Name what to deploy in NIX_ATTRIBUTES. There are: {}.",
            names.join(", ")
        ),
        (names, Some(attribute)) => format!(
            "Name what to deploy in NIX_ATTRIBUTES. There are: {}.",
            names
                .iter()
                .map(|name| format!("{attribute}.{name}"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    let article = if kind == "int" { "an" } else { "a" };
    Message::new(
        "The expression is not something to deploy",
        format!("The {what} evaluates to {article} {kind}, not to a derivation.\n\n{next}"),
    )
}

fn miss(misses: &[Miss], hint: &str) -> Message {
    let mut body = String::new();
    for miss in misses.iter().take(MISSES_SHOWN) {
        // Writing to a string does not fail.
        let _ = writeln!(body, "{}", miss.path);
        let referrers = miss.wanted_by.iter().rev();
        for (depth, referrer) in referrers.take(REFERRERS_SHOWN).enumerate() {
            let indent = "  ".repeat(depth + 1);
            let _ = writeln!(body, "{indent}wanted by {referrer}");
        }
        if miss.wanted_by.len() > REFERRERS_SHOWN {
            let more = miss.wanted_by.len() - REFERRERS_SHOWN;
            let _ = writeln!(body, "  … and {more} more");
        }
        for CacheAnswer { cache, answer } in &miss.answers {
            let _ = writeln!(body, "  {cache}: {}", answer_in_words(answer));
        }
        body.push('\n');
    }
    if misses.len() > MISSES_SHOWN {
        let _ = writeln!(body, "… and {} more.\n", misses.len() - MISSES_SHOWN);
    }
    body.push_str(hint);
    let answers = misses.iter().flat_map(|miss| &miss.answers);
    let (failed, answered): (Vec<_>, Vec<_>) =
        answers.partition(|asked| matches!(asked.answer, Answer::Refused(_) | Answer::Failed(_)));
    let has = if misses.iter().any(Miss::is_untrusted) {
        "No binary cache has a trusted copy of"
    } else if failed.is_empty() {
        "No binary cache has"
    } else if answered.is_empty() {
        "No binary cache could be asked for"
    } else {
        "No binary cache that could be asked has"
    };
    let header = match misses {
        [only] => format!("{has} {}", only.path.name()),
        _ => format!("{has} {} of the store paths needed", misses.len()),
    };
    Message::new(header, body)
}

/// The answer comes first: that the path is missing is what led to it.
fn diagnosed(misses: &[Miss], diagnosis: &Diagnosis) -> Message {
    let mut body = format!("No binary cache has {}:\n", diagnosis.root);
    let miss = misses.iter().find(|miss| miss.path == diagnosis.root);
    for CacheAnswer { cache, answer } in miss.iter().flat_map(|miss| &miss.answers) {
        let _ = writeln!(body, "  {cache}: {}", answer_in_words(answer));
    }
    body.push('\n');
    body.push_str(&diagnosis.explanation());
    Message::new(diagnosis.answer_to_miss(), body)
}

fn answer_in_words(answer: &Answer) -> String {
    match answer {
        Answer::Absent => "it does not have the path".to_string(),
        Answer::Another => "it has the path, but with other content than is asked for".to_string(),
        Answer::Untrusted(Untrusted::NotSigned) => {
            "it has the path, but without a signature".to_string()
        }
        Answer::Untrusted(Untrusted::UnknownKeys(keys)) => format!(
            "it has the path, but signed only by {}, which is not trusted",
            list(keys)
        ),
        Answer::Untrusted(Untrusted::BadSignature(key)) => {
            format!("it has the path, but its signature by {key} is wrong")
        }
        Answer::Refused(reason) | Answer::Failed(reason) => reason.clone(),
    }
}

const GIVE_CREDENTIALS: &str = "The binary cache wants to know who asks, or knows another password: give the build\n\
     credentials for it in a service binding of type `nix-binary-cache`, a netrc file\n\
     (NIX_NETRC_FILE) or the URL.";

/// The likeliest reason first: a wrong signature, then a cache that did not answer, then paths that
/// differ.
fn miss_hint(misses: &[Miss], unusable: &[Unusable]) -> String {
    let answers = || {
        let answers = misses.iter().flat_map(|miss| &miss.answers);
        answers.map(|asked| &asked.answer)
    };
    if answers().next().is_none() {
        return "No binary cache was asked, since none is named: set NIX_EXTRA_BINARY_CACHE."
            .to_string();
    }
    let forged =
        answers().any(|answer| matches!(answer, Answer::Untrusted(Untrusted::BadSignature(_))));
    if forged {
        return "What the cache says of this path is not what that key has signed: it was changed\n\
                since, or another key is in use under the same name. Nothing of it was used."
            .to_string();
    }
    if misses.iter().any(Miss::is_untrusted) {
        return "Add the key that signs this binary cache's paths to NIX_TRUSTED_PUBLIC_KEYS, as\n\
                `name:base64`, or have the cache sign them."
            .to_string();
    }
    if answers().any(|answer| matches!(answer, Answer::Refused(_))) {
        return GIVE_CREDENTIALS.to_string();
    }
    let failed = answers().any(|answer| matches!(answer, Answer::Failed(_)));
    if failed || !unusable.is_empty() {
        return "Check the URLs in NIX_EXTRA_BINARY_CACHE, and that they can be reached from where\n\
                the image is built."
            .to_string();
    }
    if misses.iter().any(|miss| miss.wanted_by.is_empty()) {
        return "Either Hydra has not built this revision (yet), or it got another store path for it:\n\
                its checkout, the expression or an input that is not pinned differs from what is\n\
                deployed here. Nothing was compiled."
            .to_string();
    }
    "The binary caches have only a part of the closure: the rest was garbage-collected, or is in\n\
     a cache that is not named in NIX_EXTRA_BINARY_CACHE. Nothing was compiled."
        .to_string()
}

fn fetch(error: &FetchError) -> Message {
    let FetchError {
        path,
        cache,
        reason,
        ..
    } = error;
    let failed = |what: String, next: &str| {
        Message::new(
            "Failed to download a store path",
            match cache {
                Some(cache) => format!("{path}\nfrom {cache}: {what}.\n\n{next}"),
                None => format!("{path}: {what}.\n\n{next}"),
            },
        )
    };
    let broken = |what| {
        let next = "Nothing of this closure was kept. Build again; if it comes back, the binary cache has\n\
                    a broken file, and the path must be put into it again.";
        failed(what, next)
    };
    match reason {
        FetchFailure::Open(error) if error.is_absent() => failed(
            error.to_string(),
            "The binary cache describes this path, but does not have its content: it was\n\
             garbage-collected. Have Hydra build it again, or keep it with a release.",
        ),
        FetchFailure::Open(error @ CacheError::Http(HttpError::Status(401 | 407))) => {
            failed(error.to_string(), GIVE_CREDENTIALS)
        }
        FetchFailure::Open(CacheError::Http(error)) if error.is_temporary() => failed(
            error.to_string(),
            "The binary cache, or the way to it, failed again and again. Nothing of this closure was\n\
             kept: build again once it can be reached from where the image is built.",
        ),
        FetchFailure::Open(error) => broken(error.to_string()),
        FetchFailure::Lost(answers) => lost(path, answers),
        FetchFailure::Unpack(error) => match error {
            UnpackError::Write(path, error) => disk("Failed to unpack a store path", path, error),
            UnpackError::Read(error) => broken(format!("its NAR cannot be read: {error}")),
            UnpackError::Truncated(size) => {
                broken(format!("its NAR ended early, after {}", bytes(*size)))
            }
            UnpackError::TooLong => broken("its NAR is longer than its narinfo says".to_string()),
            UnpackError::Format(reason) => broken(format!("it is no sound NAR: {reason}")),
            UnpackError::WrongHash(hash) => broken(format!(
                "its NAR is not the one that its narinfo describes; its hash is {}",
                hash.to_nix_nixbase32_string()
            )),
            UnpackError::WrongContent(hash) => failed(
                format!(
                    "nobody has signed it, and its content is not the one that its name was made\nfrom, {hash}"
                ),
                "Nothing of it was used. The binary cache, or whoever is between it and this build, has\n\
                 put other content under this name.",
            ),
        },
    }
}

/// A path that an earlier build had, and that has to be downloaded again.
fn lost(path: &StorePath, answers: &[CacheAnswer]) -> Message {
    let misses = [Miss {
        path: path.clone(),
        wanted_by: Vec::new(),
        answers: answers.to_vec(),
    }];
    let is_absent = |asked: &CacheAnswer| matches!(asked.answer, Answer::Absent | Answer::Another);
    let hint = if answers.iter().all(is_absent) {
        "An earlier build had it. Since then it was garbage-collected, or the binary cache that\n\
         has it is no longer named."
            .to_string()
    } else {
        miss_hint(&misses, &[])
    };
    miss(&misses, &hint)
}

fn proot(error: &PRootLayerError) -> Message {
    match error {
        PRootLayerError::Tool(error) => tool(error),
        PRootLayerError::Program(reason) => Message::new(
            "The downloaded PRoot cannot be used",
            formatdoc! {"
                It is not what it should be: {reason}.

                NIX_PROOT_URL takes a static program, or a `.tar.gz` or `.apk` with one that is
                named `proot` or `proot.static`.
            "},
        ),
        PRootLayerError::StartProgram(path, error) => internal(
            "The buildpack is not whole",
            &format!(
                "Its start program {} cannot be read: {error}",
                path.display()
            ),
        ),
        PRootLayerError::Layer(error) => layer(error),
    }
}

fn layer(error: &LayerError) -> Message {
    disk("Failed to write a layer", &error.path, &error.reason)
}

fn procfile(error: &ProcfileError) -> Message {
    let error = match error {
        ProcfileError::Line(error) => error,
        ProcfileError::Read(path, reason) => {
            return Message::new(
                "Failed to read the Procfile",
                format!(
                    "{} could not be read: {reason}.\n\nIt must be a file of UTF-8 text.",
                    path.display()
                ),
            );
        }
    };
    let reason = match error.reason {
        LineError::NoKey => "It has no `name:` before the command.",
        LineError::BadKey => {
            "The name of a process has letters, digits and `-`, begins and ends with a letter or\n\
             digit, and has at most 63 characters."
        }
        LineError::NoCommand => "There is no command after the colon.",
    };
    Message::new(
        format!("Line {} of the Procfile cannot be used", error.line),
        format!(
            "    {}\n\n{reason}\n\nA line is `name: command`, such as `web: run_proot.sh myapp`.",
            error.text
        ),
    )
}

fn no_process(
    NoProcess {
        main_program,
        programs,
    }: &NoProcess,
) -> Message {
    let shown = programs.iter().take(PROGRAMS_SHOWN);
    let mut names: String = shown.fold(String::new(), |names, name| names + "    " + name + "\n");
    if programs.len() > PROGRAMS_SHOWN {
        let _ = writeln!(names, "    and {} more", programs.len() - PROGRAMS_SHOWN);
    }
    let why = match (main_program, programs.as_slice()) {
        (_, []) => "What is deployed has no programs in `bin`.\n".to_string(),
        (Some(main), _) => format!(
            "`meta.mainProgram` is `{main}`, but what is deployed has no such program in `bin`:\n\n{names}"
        ),
        (None, _) => format!(
            "What is deployed has more than one program, and no `meta.mainProgram` that is known:\n\n{names}"
        ),
    };
    let example = programs.first().map_or("myapp", String::as_str);
    Message::new(
        "The app has no Procfile, and it is not clear what to run",
        format!("{why}\nAdd a `Procfile` with a line such as `web: run_proot.sh {example}`."),
    )
}

fn hook(error: &HookError) -> Message {
    let (hook, reason) = match error {
        HookError::Start(hook, error) => (hook, format!("could not be started: {error}")),
        HookError::Failed(hook, status) => (hook, format!("failed: {status}")),
    };
    Message::new(
        "The compile hook failed",
        formatdoc! {"
            {hook}
            {reason}.

            It is a part of what is deployed, and runs at the end of each build. What it said is
            above.
        "},
    )
}

fn disk(header: &str, path: &Path, error: &io::Error) -> Message {
    let next = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "The disk is full: give the build more space, or deploy a smaller closure."
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "The user that builds the image must be able to write there."
        }
        _ => "Build again; if it comes back, report it with the whole log of the build.",
    };
    Message::new(
        header,
        format!(
            "{} could not be written: {error}.\n\n{next}",
            path.display()
        ),
    )
}

fn temporary(NoTemporary(tried): &NoTemporary) -> Message {
    let tried = tried.iter();
    let tried = tried.map(|(directory, why)| format!("  {}: {why}\n", directory.display()));
    Message::new(
        "There is no place for temporary files",
        formatdoc! {"
            Nix is unpacked to evaluate, and none of these directories can be written:

            {tried}
            Let the build write one of them, or set TMPDIR to a directory that it may write.
        ", tried = tried.collect::<String>()},
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::procfile::BadLine;
    use binary_cache::CacheUrlError;
    use closure::relocate::relocatability::{Obstacle, Reason};
    use closure::relocate::relocation::Relocation;
    use http_client::EndpointError;
    use nix_derivation::{NixHash, StorePath};

    fn path(name: &str) -> StorePath {
        format!("/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-{name}")
            .parse()
            .unwrap()
    }

    fn url() -> url::Url {
        "https://user:hunter2@tools.example.org/nix.tar.xz"
            .parse()
            .unwrap()
    }

    fn full() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }

    fn missed(answers: &[(&str, Answer)], wanted_by: &[&str]) -> Vec<Miss> {
        let owned = |(cache, answer): &(&str, Answer)| CacheAnswer {
            cache: (*cache).to_string(),
            answer: answer.clone(),
        };
        vec![Miss {
            path: path("zlib-1.3"),
            wanted_by: wanted_by.iter().map(|name| path(name)).collect(),
            answers: answers.iter().map(owned).collect(),
        }]
    }

    fn miss_error(misses: Vec<Miss>) -> BuildpackError {
        BuildpackError::ClosureLayer(ClosureLayerError::Miss {
            misses,
            unusable: Vec::new(),
        })
    }

    fn fetch_error(reason: FetchFailure) -> BuildpackError {
        let error = FetchError {
            path: path("zlib-1.3"),
            cache: Some("https://cache.nixos.org".into()),
            reason,
            has_other_build: false,
        };
        BuildpackError::ClosureLayer(ClosureLayerError::Fetch(Box::new(error)))
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
                CacheUrlError::Endpoint(EndpointError::Scheme),
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

    fn tools() -> Vec<BuildpackError> {
        let mut errors: Vec<_> = [
            ToolError::Inventory("no Nix for riscv64".into()),
            ToolError::Http(url(), HttpError::Status(404)),
            ToolError::Read(url(), io::ErrorKind::UnexpectedEof.into()),
            ToolError::TooLarge(url()),
            ToolError::Write("/layers/nix_hydra/proot/download".into(), full()),
            ToolError::Temporary(NoTemporary(vec![(
                "/tmp".into(),
                io::ErrorKind::ReadOnlyFilesystem,
            )])),
            ToolError::WrongHash {
                url: url(),
                expected: "00".repeat(32),
                actual: "11".repeat(32),
            },
        ]
        .map(|error| BuildpackError::from(ResolveError::Tool(error)))
        .into();
        errors.extend(
            [
                ArchiveError::Read(io::ErrorKind::InvalidData.into()),
                ArchiveError::Entry("../etc".into(), "its name leads out of the archive"),
                ArchiveError::Write("/tmp/nix-1/x".into(), full()),
                ArchiveError::NoNix,
            ]
            .map(|error| BuildpackError::from(ResolveError::Nix(NixError::Archive(error)))),
        );
        errors.extend(
            [
                NixError::Write("/tmp/nix-1".into(), full()),
                NixError::Temporary(NoTemporary(vec![
                    ("/tmp".into(), io::ErrorKind::PermissionDenied),
                    ("/dev/shm".into(), io::ErrorKind::NotFound),
                ])),
                NixError::Start("/usr/bin/nix-store".into(), io::ErrorKind::NotFound.into()),
                NixError::Failed("error: the store is odd".into()),
                NixError::TooOld(semver::Version::new(2, 31, 2)),
                NixError::NoEngine(vec![
                    (
                        "in a user namespace".into(),
                        "unshare: Operation not permitted".into(),
                    ),
                    ("under PRoot".into(), "Failed to download a tool".into()),
                ]),
                NixError::Build("error: builder for '/nix/store/x.drv' failed".into()),
            ]
            .map(|error| BuildpackError::from(ResolveError::Nix(error))),
        );
        errors.push(BuildpackError::PRootLayer(PRootLayerError::Program(
            "it holds no file named `proot` or `proot.static`".into(),
        )));
        errors.push(BuildpackError::PRootLayer(PRootLayerError::StartProgram(
            "/cnb/nix-hydra".into(),
            io::ErrorKind::NotFound.into(),
        )));
        errors.push(ResolveError::Architecture("riscv64".into()).into());
        errors.push(ResolveError::Platform("layer metadata: expected a table".into()).into());
        errors
    }

    fn sources() -> Vec<BuildpackError> {
        let not = |attribute: Option<&str>, kind: &str, derivations: &[&str]| {
            ExpressionError::NotADerivation {
                attribute: attribute.map(str::to_string),
                kind: kind.into(),
                derivations: derivations.iter().map(ToString::to_string).collect(),
            }
        };
        let mut errors: Vec<_> = [
            SourceError::Read(
                "/workspace/x".into(),
                io::ErrorKind::PermissionDenied.into(),
            ),
            SourceError::Write(
                "/tmp/nix-1/x".into(),
                io::ErrorKind::ReadOnlyFilesystem.into(),
            ),
            SourceError::Encode("file changed size while encoding: x".into()),
        ]
        .map(|error| BuildpackError::from(ResolveError::Source(error)))
        .into();
        errors.extend(
            [
                ExpressionError::Evaluation("error: undefined variable 'x'".into()),
                ExpressionError::Lookups(
                    "error: file 'nixpkgs' was not found in the Nix search path".into(),
                    vec!["`nixpkgs=https://x/nixpkgs.tar.gz` cannot be downloaded".into()],
                ),
                ExpressionError::Answer("expected value at line 1 column 1".into()),
                not(None, "set", &["web", "worker"]),
                not(Some("jobs"), "set", &["web"]),
                not(Some("count"), "int", &[]),
                ExpressionError::NoFlakeLock("nixpkgs".into()),
                ExpressionError::MustBuild("/nix/store/x-generated.drv".into()),
                ExpressionError::Unpinned("stdenv".into()),
                ExpressionError::Fetcher(
                    "`fetchzip` of <nixpkgs>, which is not pinned, cannot be used with `postFetch` here".into(),
                ),
                ExpressionError::Shell(None),
            ]
            .map(|error| BuildpackError::from(ResolveError::Expression(error))),
        );
        let line = |text: &str, reason| {
            BuildpackError::Procfile(ProcfileError::Line(BadLine {
                line: 2,
                text: text.into(),
                reason,
            }))
        };
        errors.push(line("myapp", LineError::NoKey));
        errors.push(line("-web: x", LineError::BadKey));
        errors.push(line("web:", LineError::NoCommand));
        let no_process = |main_program: Option<&str>, programs: &[String]| {
            BuildpackError::NoProcess(NoProcess {
                main_program: main_program.map(str::to_string),
                programs: programs.to_vec(),
            })
        };
        let programs: Vec<_> = (0..25).map(|number| format!("tool-{number}")).collect();
        errors.push(no_process(None, &programs));
        errors.push(no_process(Some("myapp"), &programs[..2]));
        errors.push(no_process(None, &[]));
        let compile_hook =
            "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp/bin/heroku-compile-hook";
        errors.push(BuildpackError::Hook(HookError::Start(
            compile_hook.into(),
            io::ErrorKind::PermissionDenied.into(),
        )));
        errors.push(BuildpackError::Hook(HookError::Failed(
            compile_hook.into(),
            std::os::unix::process::ExitStatusExt::from_raw(1 << 8),
        )));
        errors.push(BuildpackError::Procfile(ProcfileError::Read(
            "/workspace/Procfile".into(),
            io::ErrorKind::InvalidData.into(),
        )));
        errors
    }

    fn closures() -> Vec<BuildpackError> {
        let (hydra, nixos) = ("http://hydra.acme.net:3000", "https://cache.nixos.org");
        let untrusted = |untrusted| Answer::Untrusted(untrusted);
        let mut many = Vec::new();
        for _ in 0..5 {
            many.extend(missed(&[(nixos, Answer::Absent)], &["myapp", "curl-8"]));
        }
        let mut errors = vec![
            miss_error(missed(
                &[(hydra, Answer::Absent), (nixos, Answer::Absent)],
                &[],
            )),
            miss_error(many),
            miss_error(missed(&[], &[])),
            miss_error(missed(
                &[(
                    hydra,
                    Answer::Refused("HTTP status 401 Unauthorized".into()),
                )],
                &[],
            )),
            miss_error(missed(&[(hydra, untrusted(Untrusted::NotSigned))], &[])),
            miss_error(missed(
                &[(
                    hydra,
                    untrusted(Untrusted::UnknownKeys(vec!["a-1".into(), "b-1".into()])),
                )],
                &[],
            )),
            miss_error(missed(
                &[(hydra, untrusted(Untrusted::BadSignature("acme-1".into())))],
                &[],
            )),
        ];
        let lost_by = |answer| {
            FetchFailure::Lost(vec![CacheAnswer {
                cache: hydra.into(),
                answer,
            }])
        };
        errors.extend(
            [
                FetchFailure::Open(CacheError::Http(HttpError::Status(410))),
                FetchFailure::Open(CacheError::Http(HttpError::Status(500))),
                FetchFailure::Unpack(UnpackError::Read(io::ErrorKind::ConnectionReset.into())),
                FetchFailure::Unpack(UnpackError::Truncated(1234)),
                FetchFailure::Unpack(UnpackError::TooLong),
                FetchFailure::Unpack(UnpackError::Format("not a NAR: bad magic".into())),
                FetchFailure::Open(CacheError::Http(HttpError::Status(401))),
                FetchFailure::Open(CacheError::NarUrl("ftp://elsewhere".into())),
                FetchFailure::Unpack(UnpackError::WrongHash(NixHash::Sha256([0; 32]))),
                FetchFailure::Unpack(UnpackError::WrongContent("fixed:sha256:0".into())),
                lost_by(Answer::Absent),
                lost_by(Answer::Failed("no answer".into())),
                FetchFailure::Unpack(UnpackError::Write("/layers/x".into(), full())),
            ]
            .map(fetch_error),
        );
        let obstacles = |count| {
            (0..count).map(|index| Obstacle {
                file: format!("xbgcfhaawi9iz9s99k58sqy8azc2a1w3-lib/share/{index}"),
                reason: Reason::Bare,
            })
        };
        for reason in [
            NotRelocatable::DirectoryTooLong(
                "/a/very/long/layers/directory/closure".into(),
                Relocation::new(Path::new("/a/very/long/layers/directory/closure")).unwrap_err(),
            ),
            NotRelocatable::SamePlace(Box::new([path("zlib-1.3"), path("zlib-1.2")])),
            NotRelocatable::Obstacles(obstacles(1).collect()),
            NotRelocatable::Obstacles(obstacles(22).collect()),
        ] {
            errors.push(BuildpackError::ClosureLayer(ClosureLayerError::Relocation(
                reason,
            )));
        }
        errors.push(BuildpackError::ClosureLayer(ClosureLayerError::Layer(
            LayerError {
                path: "/layers/nix_hydra/closure".into(),
                reason: io::ErrorKind::PermissionDenied.into(),
            },
        )));
        errors
    }

    fn texts(errors: &[BuildpackError]) -> String {
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
    fn messages_about_tools() {
        insta::assert_snapshot!(texts(&tools()));
    }

    #[test]
    fn messages_about_the_app() {
        insta::assert_snapshot!(texts(&sources()));
    }

    #[test]
    fn messages_about_the_closure() {
        insta::assert_snapshot!(texts(&closures()));
    }

    #[test]
    fn every_error_that_has_words_is_in_a_snapshot() {
        // These only pass on what is tested by itself.
        const PASSED_ON: [&str; 6] = [
            "ExpressionError::Nix",
            "ExpressionError::Source",
            "PRootLayerError::Layer",
            "PRootLayerError::Tool",
            "ResolveError::Hydra",
            "ResolveError::NixStore",
        ];
        let (words, tests) = include_str!("mod.rs").split_once("#[cfg(test)]").unwrap();
        let variant = regex_lite::Regex::new(r"\b[A-Z]\w*(Error|Failure)::[A-Z]\w*").unwrap();
        let in_words: Vec<&str> = variant
            .find_iter(words)
            .map(|found| found.as_str())
            .collect();
        assert!(in_words.len() > 50, "{in_words:?}");
        let tested: Vec<&str> = variant
            .find_iter(tests)
            .map(|found| found.as_str())
            .collect();
        let missing: Vec<&str> = in_words
            .into_iter()
            .filter(|name| !tested.contains(name) && !PASSED_ON.contains(name))
            .collect();
        assert_eq!(missing, [] as [&str; 0]);
    }
}
