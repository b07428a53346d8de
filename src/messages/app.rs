//! Messages about the app: its source, expression, Procfile and compile hook.

use super::message::{Message, disk, internal};
use super::tools::nix;
use crate::launch::NoProcess;
use crate::launch::hook::HookError;
use crate::launch::procfile::{LineError, ProcfileError};
use crate::resolve::expression::ExpressionError;
use crate::resolve::source::SourceError;
use indoc::formatdoc;
use std::fmt::Write as _;

/// How many programs are listed; the rest are counted.
const PROGRAMS_SHOWN: usize = 20;

pub(super) fn source(error: &SourceError) -> Message {
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

pub(super) fn expression(error: &ExpressionError) -> Message {
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
                Nix had to go on without these entries of NIX_PATH and the jobset's inputs:

                  {entries}

                Then it said:

                {said}

                If the expression needs it, check that it exists and can be fetched from here;
                a private server's password goes into a netrc file (NIX_NETRC_FILE). NIX_PATH is split
                at each colon, also in a URL that has a port.
            ", entries = entries.join("\n  ")},
        ),
        ExpressionError::Answer(reason) => {
            internal("Nix printed a result that cannot be read", reason)
        }
        ExpressionError::MustBuild(derivation) => Message::new(
            "Something must be built to evaluate the expression",
            formatdoc! {"
                {derivation}

                could not be built. The expression imports its output (import from derivation), and no binary
                cache has it.
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

                or name Hydra's in NIX_PATH. Unpinned, `<nixpkgs>` has nothing but
                fetchers: fetchFromGitHub, fetchFromGitLab, fetchzip, fetchurl, fetchgit, fetchTarball.
            "},
        ),
        ExpressionError::Fetcher(problem) => Message::new(
            "A fetcher of an unpinned nixpkgs cannot do this",
            formatdoc! {"
                {problem}.

                Use the unpinned fetcher only for nixpkgs itself, with its hash, and take all other fetchers
                from that nixpkgs; or name Hydra's `<nixpkgs>` in NIX_PATH.
            "},
        ),
        ExpressionError::Shell(attribute) => Message::new(
            "The expression is a shell to develop in",
            formatdoc! {"
                The {what} evaluates to the result of `mkShell`: an environment for `nix-shell`, with no
                program to deploy.

                Name the package in NIX_FILE or NIX_ATTRIBUTES, or add a `deploy.nix`, which comes
                before `shell.nix`.
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
pub(super) fn what(attribute: Option<&str>) -> String {
    match attribute {
        Some(attribute) => format!("attribute `{attribute}` of the expression"),
        None => "expression".to_string(),
    }
}

pub(super) fn not_a_derivation(
    attribute: Option<&str>,
    kind: &str,
    derivations: &[String],
) -> Message {
    let what = what(attribute);
    let next = match (derivations, attribute) {
        ([], _) => "It must be a derivation, as `nix-build` takes it.".to_string(),
        (names, None) => format!(
            "Name the attribute to deploy in NIX_ATTRIBUTES. There are: {}.",
            names.join(", ")
        ),
        (names, Some(attribute)) => format!(
            "Name the attribute to deploy in NIX_ATTRIBUTES. There are: {}.",
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
    let shown = programs.iter().take(PROGRAMS_SHOWN);
    let mut names: String = shown.fold(String::new(), |names, name| names + "    " + name + "\n");
    if programs.len() > PROGRAMS_SHOWN {
        let _ = writeln!(names, "    and {} more", programs.len() - PROGRAMS_SHOWN);
    }
    let why = match (main_program, programs.as_slice()) {
        (_, []) => "The deployed package has no programs in `bin`.\n".to_string(),
        (Some(main), _) => format!(
            "`meta.mainProgram` is `{main}`, but the deployed package has no such program in `bin`:\n\n{names}"
        ),
        (None, _) => format!(
            "The deployed package has more than one program, and no known `meta.mainProgram`:\n\n{names}"
        ),
    };
    let example = programs.first().map_or("myapp", String::as_str);
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
    Message::new(
        "The compile hook failed",
        formatdoc! {"
            {hook}
            {reason}.

            It is part of the deployed package, and runs at the end of each build. Its output is above.
        "},
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BuildpackError;
    use crate::launch::procfile::BadLine;
    use crate::messages::tests::texts;
    use crate::resolve::ResolveError;
    use std::io;

    fn errors() -> Vec<BuildpackError> {
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

    #[test]
    fn messages_about_the_app() {
        insta::assert_snapshot!(texts(&errors()));
    }
}
