//! Messages about the app: its source, expression, Procfile and compile hook.

use super::message::{Message, disk, internal};
use super::tools::nix;
use crate::launch::NoProcess;
use crate::launch::hook::HookError;
use crate::launch::procfile::{LineError, ProcfileError};
use crate::resolve::expression::{ExpressionError, FailedDownload, MissingAttribute};
use crate::resolve::source::SourceError;
use indoc::formatdoc;
use std::fmt::Write as _;
use words::listed;

/// How many store paths are named that were looked for before a download.
const PATHS_SHOWN: usize = 3;

/// Programs that no app is.
const SHELLS: [&str; 9] = [
    "ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "sh", "zsh",
];

/// How many missing attributes are described, and how many of what there is; the rest are counted.
const ATTRIBUTES_SHOWN: usize = 5;
const NAMES_SHOWN: usize = 30;

/// Of more names, how many are shown: those that are most like the missing one.
const NEAREST_SHOWN: usize = 5;

/// How many programs are listed; the rest are counted.
const PROGRAMS_SHOWN: usize = 20;

pub(super) fn source(error: &SourceError) -> Message {
    match error {
        SourceError::Read(path, error) => Message::of(&formatdoc! {"
            Failed to read the app's source

            {path} could not be read: {error}.

            Hydra puts every file of the app into its store, so each must be readable by
            the user that builds the image.
        ", path = path.display()}),
        SourceError::Write(path, error) => disk("Failed to copy the app's source", path, error),
        SourceError::Encode(reason) => Message::of(&formatdoc! {"
            The app's source cannot be a store path

            Nix cannot take this tree as a source: {reason}.

            Rename or remove the file, and let Hydra build the app again.
        "}),
    }
}

pub(super) fn expression(error: &ExpressionError) -> Message {
    match error {
        ExpressionError::Source(error) => source(error),
        ExpressionError::Nix(error) => nix(error),
        ExpressionError::Evaluation(said) => Message::of(&formatdoc! {"
            The expression cannot be evaluated

            {said}

            {next}
        ", next = next_of_evaluation(said)}),
        ExpressionError::Lookups(said, entries) => Message::of(&formatdoc! {"
            The expression cannot be evaluated, with a part of NIX_PATH missing

            Nix had to go on without these entries of NIX_PATH and the jobset's inputs:

              {entries}

            Then it said:

            {said}

            If the expression needs it, check that it exists and can be fetched from here;
            a private server's password goes into a netrc file (NIX_NETRC_FILE). NIX_PATH is split
            at each colon, also in a URL that has a port.
        ", entries = entries.join("\n  ")}),
        ExpressionError::Answer(reason) => {
            internal("Nix printed a result that cannot be read", reason)
        }
        ExpressionError::MustBuild {
            derivation,
            outputs,
        } => Message::of(&formatdoc! {"
            To evaluate the expression, something must be built that no binary cache has

            The expression reads what this derivation makes (import from derivation):

                {derivation}

            No binary cache has its output:

                {outputs}

            Have Hydra build that as a job of its own, so that its binary cache keeps it. Or set
            NIX_ON_MISS=build, and it is built here, during each build.
        ", outputs = outputs.join("\n    ")}),
        ExpressionError::Unpinned(name) => Message::of(&formatdoc! {"
            The expression uses a nixpkgs that is not pinned

            This expression takes `{name}` from `<nixpkgs>`, which is not pinned: which nixpkgs
            that is depends on the machine, and so would the store path.

            Pin it in the expression, as with

                nixpkgs = import (fetchTarball {{
                  url = \"https://github.com/NixOS/nixpkgs/archive/REVISION.tar.gz\";
                  sha256 = \"HASH\";
                }}) {{ }};

            or name Hydra's in NIX_PATH. Unpinned, `<nixpkgs>` has nothing but
            fetchers: fetchFromGitHub, fetchFromGitLab, fetchzip, fetchurl, fetchgit, fetchTarball.
        "}),
        ExpressionError::Fetcher(problem) => Message::of(&formatdoc! {"
            A fetcher of an unpinned nixpkgs cannot do this

            {problem}.

            Use the unpinned fetcher only for nixpkgs itself, with its hash, and take all other fetchers
            from that nixpkgs; or name Hydra's `<nixpkgs>` in NIX_PATH.
        "}),
        ExpressionError::Shell(attribute) => Message::of(&formatdoc! {"
            The expression is a shell to develop in

            The {what} evaluates to the result of `mkShell`: an environment for `nix-shell`, with no
            program to deploy.

            Name the package in NIX_FILE or NIX_ATTRIBUTES, or add a `deploy.nix`, which comes
            before `shell.nix`.
        ", what = what(attribute.as_deref())}),
        ExpressionError::NotADerivation {
            attribute,
            kind,
            derivations,
        } => not_a_derivation(attribute.as_deref(), kind, derivations),
        ExpressionError::NoFlakeLock(input) => Message::of(&formatdoc! {"
            The flake's input `{input}` is not locked

            The `flake.lock` beside `flake.nix` is missing, or does not have this input as
            `flake.nix` has it. So it is not pinned, and the store path could be another one than
            Hydra built.

            Run `nix flake lock`, and commit `flake.lock`.
        "}),
        ExpressionError::Missing(missing) => missing_attributes(missing),
        ExpressionError::Download(failed) => download(failed),
        ExpressionError::ContentAddressed => Message::of(&formatdoc! {"
            The expression is a content-addressed derivation

            Its store path is known once it is built, so no binary cache can be asked for it before.

            Set NIX_STORE_PATH to the path that was built, or leave `__contentAddressed` out.
        "}),
        ExpressionError::NoGit(said) => no_git(said),
    }
}

/// What to do about an expression that Nix refuses.
fn next_of_evaluation(said: &str) -> String {
    let config = if said.contains("an unfree license") {
        "config.allowUnfree = true;".to_string()
    } else if said.contains("is marked as insecure") || said.contains("because it is insecure") {
        let package = said.split(['\'', '‘', '’']).nth(1).unwrap_or("NAME");
        format!("config.permittedInsecurePackages = [ \"{package}\" ];")
    } else if said.contains("is marked as broken") {
        "config.allowBroken = true;".to_string()
    } else {
        return "Nix evaluates it here as Hydra does: inside the store, with access to nothing but\n\
                the app's source, NIX_PATH, and what is fetched by URL."
            .to_string();
    };
    format!(
        "Allow it where the app imports nixpkgs, so that Hydra allows it as well:\n\n    \
         import nixpkgs {{ {config} }}"
    )
}

/// The expression's part that `attribute` names, or the whole.
pub(super) fn what(attribute: Option<&str>) -> String {
    match attribute {
        Some(attribute) => format!("attribute `{attribute}` of the expression"),
        None => "expression".to_string(),
    }
}

fn no_git(said: &str) -> Message {
    Message::of(&formatdoc! {"
        Something is fetched by git, and the builder has no git

        {said}

        No binary cache has it, so Nix would fetch it with `git`, which is not on PATH here. Use a
        builder that has git, or an input that is fetched as an archive, such as
        `github:OWNER/REPOSITORY`; or have Hydra keep the input in its binary cache.
    "})
}

fn download(failed: &FailedDownload) -> Message {
    let FailedDownload { url, why, said, .. } = failed;
    let mut body = format!("{url} could not be downloaded: {why}.\n\n");
    if !failed.asked.is_empty() {
        body.push_str("Before, no binary cache had what was asked for:\n\n");
        body.push_str(&listed(&failed.asked, PATHS_SHOWN, "    "));
        body.push('\n');
    }
    for path in &failed.other_names {
        let _ = writeln!(
            body,
            "A binary cache has {path}, whose hash the app names. If that is what is fetched, let the \
             fetcher name it `{}`, which is the default.\n",
            path.name()
        );
    }
    let _ = writeln!(body, "Nix said:\n\n{said}\n");
    body.push_str(
        "See to it that the URL can be reached from here, with a private server's password in a netrc file \
         (NIX_NETRC_FILE) or a token (NIX_ACCESS_TOKENS); or have Hydra keep the source in its binary cache.",
    );
    Message::new("A source cannot be downloaded", body)
}

/// The few names that are most like `name`.
fn nearest<'a>(name: &str, names: &'a [String]) -> Vec<&'a str> {
    let unlikeness = |other: &&String| strsim::damerau_levenshtein(name, other);
    let mut names: Vec<&String> = names.iter().collect();
    names.sort_by_cached_key(unlikeness);
    names
        .into_iter()
        .take(NEAREST_SHOWN)
        .map(String::as_str)
        .collect()
}

fn missing_attributes(missing: &[MissingAttribute]) -> Message {
    let header = match missing {
        [one] => format!("The expression has no attribute `{}`", one.attribute),
        more => format!("The expression lacks {} of the attributes", more.len()),
    };
    let mut body = String::new();
    for one in missing.iter().take(ATTRIBUTES_SHOWN) {
        let place = match one.at.as_slice() {
            [] => String::new(),
            at => format!(" in `{}`", at.join(".")),
        };
        let there = match one.names.as_slice() {
            [] => "there is nothing to take it from".to_string(),
            names if names.len() > NAMES_SHOWN => {
                let alike = nearest(&one.name, names).join(", ");
                format!("there are {} others, such as {alike}", names.len())
            }
            names => format!("there are: {}", names.join(", ")),
        };
        let (attribute, name) = (&one.attribute, &one.name);
        let _ = writeln!(body, "`{attribute}`: `{name}` is missing{place}; {there}\n");
    }
    if missing.len() > ATTRIBUTES_SHOWN {
        let _ = writeln!(body, "… and {} more.\n", missing.len() - ATTRIBUTES_SHOWN);
    }
    body.push_str(
        "NIX_ATTRIBUTES takes attributes as Nix writes them; a name with a dot in it stands in \
         quotation marks.",
    );
    Message::new(header, body)
}

pub(super) fn not_a_derivation(
    attribute: Option<&str>,
    kind: &str,
    derivations: &[String],
) -> Message {
    let what = what(attribute);
    let within = attribute.map_or_else(String::new, |attribute| format!("{attribute}."));
    let names = derivations.iter().map(|name| format!("{within}{name}"));
    let names: Vec<String> = names.collect();
    let next = if names.is_empty() {
        "It must be a derivation, as `nix-build` takes it.".to_string()
    } else {
        format!(
            "Name the attribute to deploy in NIX_ATTRIBUTES. There are: {}.",
            names.join(", ")
        )
    };
    let article = if kind == "int" { "an" } else { "a" };
    Message::new(
        "The expression is not something to deploy",
        format!("The {what} evaluates to {article} {kind}, not to a derivation.\n\n{next}"),
    )
}

pub(super) fn procfile(error: &ProcfileError) -> Message {
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

pub(super) fn no_process(
    NoProcess {
        main_program,
        programs,
    }: &NoProcess,
) -> Message {
    let names = listed(programs, PROGRAMS_SHOWN, "    ");
    let why = match (main_program, programs.as_slice()) {
        (_, []) => "The deployed package has no programs in `bin`.\n".to_string(),
        (Some(main), _) => format!(
            "`meta.mainProgram` is `{main}`, but the deployed package has no such program in `bin`:\n\n{names}"
        ),
        (None, _) => format!(
            "The deployed package has more than one program, none with the package's name, and no known \
             `meta.mainProgram`:\n\n{names}"
        ),
    };
    let is_app = |program: &&String| !SHELLS.contains(&program.as_str());
    let example = programs.iter().find(is_app).map_or("myapp", String::as_str);
    Message::new(
        "The app has no Procfile, and its program cannot be guessed",
        format!("{why}\nAdd a `Procfile` with a line such as `web: run_proot.sh {example}`."),
    )
}

pub(super) fn hook(error: &HookError) -> Message {
    let (hook, reason) = match error {
        HookError::Start(hook, error) => (hook, format!("could not be started: {error}")),
        HookError::Failed(hook, status) => (hook, format!("failed: {status}")),
    };
    Message::of(&formatdoc! {"
        The compile hook failed

        {hook}
        {reason}.

        It is part of the deployed package, and runs at the end of each build. Its output is above.
    "})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BuildpackError;
    use crate::launch::procfile::BadLine;
    use crate::messages::tests::texts;
    use crate::resolve::ResolveError;
    use std::io;

    fn expression_errors() -> Vec<BuildpackError> {
        let missing = |attribute: &str, at: &[&str], name: &str, count: usize| MissingAttribute {
            attribute: attribute.into(),
            at: at.iter().map(ToString::to_string).collect(),
            name: name.into(),
            names: (0..count).map(|number| format!("name{number}")).collect(),
        };
        let not = |attribute: Option<&str>, kind: &str, derivations: &[&str]| {
            ExpressionError::NotADerivation {
                attribute: attribute.map(str::to_string),
                kind: kind.into(),
                derivations: derivations.iter().map(ToString::to_string).collect(),
            }
        };
        [
            ExpressionError::Evaluation("error: undefined variable 'x'".into()),
            ExpressionError::Evaluation(
                "error: Refusing to evaluate package 'tool-1.0' in /nix/store/0-source/tool.nix:7 because it \
                 has an unfree license (‘unfree’)"
                    .into(),
            ),
            ExpressionError::Evaluation(
                "error: Refusing to evaluate package 'tool-1.0' in /nix/store/0-source/tool.nix:7 because it \
                 is marked as insecure\n\nKnown issues:\n - it is old"
                    .into(),
            ),
            ExpressionError::Lookups(
                "error: file 'nixpkgs' was not found in the Nix search path".into(),
                vec!["`nixpkgs=https://x/nixpkgs.tar.gz` cannot be downloaded".into()],
            ),
            ExpressionError::Answer("expected value at line 1 column 1".into()),
            not(None, "set", &["web", "worker"]),
            not(Some("jobs"), "set", &["web"]),
            not(Some("count"), "int", &[]),
            ExpressionError::NoFlakeLock("nixpkgs".into()),
            ExpressionError::ContentAddressed,
            ExpressionError::Download(Box::new(FailedDownload {
                url: "https://acme.net/nixpkgs.tar.gz".into(),
                why: "Could not resolve host".into(),
                asked: vec!["/nix/store/x-nixpkgs".into()],
                other_names: vec![
                    "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-source".parse().unwrap(),
                ],
                said: "error: unable to download 'https://acme.net/nixpkgs.tar.gz'".into(),
            })),
            ExpressionError::NoGit("error: executing 'git': No such file or directory".into()),
            ExpressionError::Missing(vec![missing("jobs.wbe", &["jobs"], "wbe", 3)]),
            ExpressionError::Missing(vec![missing("web", &[], "web", 40); 7]),
            ExpressionError::MustBuild {
                derivation: "/nix/store/x-generated.drv".into(),
                outputs: vec!["/nix/store/y-generated".into()],
            },
            ExpressionError::Unpinned("stdenv".into()),
            ExpressionError::Fetcher(
                "`fetchzip` of <nixpkgs>, which is not pinned, cannot be used with `postFetch` here".into(),
            ),
            ExpressionError::Shell(None),
        ]
        .map(|error| BuildpackError::from(ResolveError::Expression(error)))
        .into()
    }

    fn errors() -> Vec<BuildpackError> {
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
        errors.extend(expression_errors());
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

    #[test]
    fn messages_about_the_app() {
        insta::assert_snapshot!(texts(&errors()));
    }
}
