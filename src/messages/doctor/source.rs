//! A source that is not the one that Hydra built.

use super::lists::{count, differing, shown, some};
use super::{HYDRA, Told};
use crate::doctor::cause::{SourceCause, SourceKind};
use crate::doctor::tree::Change;
use std::fmt::Write as _;

pub(super) fn source(source: &SourceCause) -> Told {
    let (mut answer, cure) = source_kind(source);
    if source.filtered && !source.difference.is_empty() {
        answer.push_str(" (which the filter leaves out, but which changes the name)");
    }
    let mut text = String::new();
    let variable = source.variable.as_ref();
    let variable = variable.map_or_else(String::new, |variable| format!(" (`{variable}`)"));
    let _ = writeln!(
        text,
        "{} is made of {}{variable}\nhere, and of {} on Hydra.",
        source.derivation, source.ours, source.theirs
    );
    if source.filtered {
        text.push_str(
            "Both have the same files, but are called after the whole source, which differs: give the\n\
             filtered source a name of its own (`cleanSourceWith { name = \"source\"; … }`).\n",
        );
    }
    let difference = &source.difference;
    if !difference.is_empty() {
        let lines = differing(difference, HYDRA, |one| change(one, &[]).in_list);
        text.push('\n');
        text.push_str(&shown(&lines));
    }
    text.push('\n');
    Told {
        answer,
        evidence: text,
        cure,
    }
}

/// The answer and the cure for a source that differs.
fn source_kind(source: &SourceCause) -> (String, &'static str) {
    match &source.kind {
        SourceKind::GitExport => (
            "Hydra calls its sources `git-export`, but here they are called `source`".to_string(),
            "Hydras from before 2018 call a checkout `git-export`: set NIX_SOURCE_NAME=git-export.\n",
        ),
        SourceKind::OutsideTheStore => (
            format!(
                "Hydra's source was evaluated in a directory named {}, not in the store",
                source.theirs.name()
            ),
            "`./.` is copied under the name of the directory that it is in. Hydra evaluates inside the\n\
             store, and so does this buildpack; `nix-build` in a checkout does not. Let CI put the source\n\
             into the store first, and build that:\n\
             \n    \
                 nix-build $(nix-store --add-fixed --recursive sha256 source)/default.nix\n\
             \n\
             where `source` is a checkout without `.git`; or give the source a fixed name in the expression\n\
             (`builtins.path { path = ./.; name = \"source\"; }`).\n",
        ),
        SourceKind::OtherName => (
            format!(
                "The source has the same files, but is called {} here, and {} on Hydra",
                source.ours.name(),
                source.theirs.name()
            ),
            "The name is part of a store path. Give the source a fixed name in the expression\n\
             (`builtins.path { path = ./.; name = \"source\"; }`), or set NIX_SOURCE_NAME.\n",
        ),
        SourceKind::Submodules(paths) => (
            match paths.as_slice() {
                [only] => format!("The git submodule {only} is missing here"),
                paths => format!("{} git submodules are missing here", paths.len()),
            },
            "Hydra checks submodules out. Let the platform do so, too (`git submodule update --init`) before\n\
             it hands the app over.\n",
        ),
        SourceKind::SubmodulesEmptyThere(paths) => (
            match paths.as_slice() {
                [only] => format!("The git submodule {only} is checked out here, but not on Hydra"),
                paths => format!(
                    "{} git submodules are checked out here, but not on Hydra",
                    paths.len()
                ),
            },
            "Hydra checks out the submodules of a repository, but not those of submodules, and those of a\n\
             flake only where its URL has `submodules=1` or `flake.nix` has `inputs.self.submodules = true`.\n\
             Let the platform check out the same (`git submodule update --init` without `--recursive`, or\n\
             none).\n",
        ),
        SourceKind::OtherPath => (
            format!(
                "The source has the same files and name, but is {} here, and {} on Hydra",
                source.ours, source.theirs
            ),
            "It was put into the store in another way on Hydra. Give it a name in the expression\n\
             (`builtins.path { path = ./.; name = \"source\"; }`).\n",
        ),
        SourceKind::Only(kind) => {
            let changed = source.difference.changed.iter();
            let changed: Vec<&str> = changed.map(|(name, _)| name.as_str()).collect();
            let words = change(*kind, &changed);
            (words.answer, words.cure)
        }
        kind => content(kind, source),
    }
}

/// The same for a source with other files.
fn content(kind: &SourceKind, source: &SourceCause) -> (String, &'static str) {
    let difference = &source.difference;
    match kind {
        SourceKind::Uncommitted(files) => (
            format!(
                "The source has changes that are not committed: {}",
                some(files)
            ),
            "Hydra builds commits. Commit and push, or undo the changes, and deploy again.\n",
        ),
        SourceKind::Stray => (
            format!(
                "The source has {} here that Hydra's has not: {}",
                count(&difference.only_here),
                some(&difference.only_here)
            ),
            "Something put it there after the checkout: the platform, a buildpack that ran before this one,\n\
             or a build on your machine. `.gitignore` does not matter here. Exclude it from the deploy\n\
             (with `pack`, by `exclude` in `project.toml`), or take only the needed files into the\n\
             expression (`lib.fileset`, `cleanSourceWith` with a name).\n",
        ),
        SourceKind::LeftOut => (
            format!(
                "The source lacks {} here that Hydra's has: {}",
                count(&difference.only_there),
                some(&difference.only_there)
            ),
            "Something left it out: `exclude` in `project.toml`, `.slugignore`, `export-ignore` in\n\
             `.gitattributes` (archives leave it out, checkouts do not), or a sparse checkout. An empty\n\
             directory may be that of a submodule that Hydra does not check out: git makes it, and it must stay.\n",
        ),
        SourceKind::NamedAfterWhole => (
            "The source is filtered, but called after the whole, which differs".to_string(),
            "Hydra's whole source is in no binary cache, so the difference is not known.\n",
        ),
        SourceKind::Unreadable => (
            format!(
                "The source differs from Hydra's, {}, which cannot be read",
                source.theirs
            ),
            "No binary cache serves it. Hydra itself does where it has a store of its own.\n",
        ),
        _ => {
            let names: Vec<&str> = difference.names().collect();
            (
                format!(
                    "The source differs from Hydra's in {}: {}",
                    count(&names),
                    some(&names)
                ),
                SAME_REVISION,
            )
        }
    }
}

/// The cure for files with other content.
const SAME_REVISION: &str = "Deploy the revision that Hydra built, as it is in git; compare the two with\n\
     `git diff` if these are the app's own files.\n";

/// A change of files in words.
struct ChangeTold {
    answer: String,
    /// A few words for a list of files.
    in_list: &'static str,
    cure: &'static str,
}

/// The same change of one or several files.
fn change(change: Change, files: &[&str]) -> ChangeTold {
    let names = some(files);
    let (is, has) = if files.len() == 1 {
        ("is", "has")
    } else {
        ("are", "have")
    };
    let (side, ours, theirs);
    let (answer, in_list, cure) = match change {
        Change::Executable(here) => {
            side = pick(here, "here, but not on Hydra", "on Hydra, but not here");
            (
                format!("{names} {is} executable {side}"),
                pick(here, "executable only here", "executable only on Hydra"),
                "Something on the way lost or set the executable bit: an archive made on Windows, a file\n\
                 system without it, or an upload. Deploy a git checkout as it is.\n",
            )
        }
        Change::LineEndings(here) => {
            (ours, theirs) = order(here, "CRLF", "LF");
            (
                format!("{names} {has} {ours} line endings here, but {theirs} on Hydra"),
                pick(here, "CRLF here, LF on Hydra", "LF here, CRLF on Hydra"),
                "Git converted line endings where it checked out. Set `* -text` in `.gitattributes`, or\n\
                 `core.autocrlf=false` where the app is checked out.\n",
            )
        }
        Change::Lfs(here) => {
            (ours, theirs) = order(here, "a pointer of Git LFS", "the file itself");
            (
                format!("{names} {is} {ours} here, but {theirs} on Hydra"),
                pick(
                    here,
                    "a pointer of Git LFS here",
                    "a pointer of Git LFS on Hydra",
                ),
                "Git LFS ran on one side only. Hydra does not run it: keep sources out of LFS, or fetch them\n\
                 in the expression by their hash.\n",
            )
        }
        Change::Substituted(here) => {
            side = pick(here, "here, but not on Hydra", "on Hydra, but not here");
            (
                format!("{names} {is} filled in by `git archive` (export-subst) {side}"),
                pick(here, "filled in here", "filled in on Hydra"),
                "One side is an archive made by `git archive` (as forges offer for download), the other a\n\
                 checkout. Deploy a checkout, or remove `export-subst` from `.gitattributes`.\n",
            )
        }
        Change::Link(here) => {
            (ours, theirs) = order(here, "link", "file");
            (
                format!("{names} {is} a {ours} here, but a {theirs} on Hydra"),
                pick(
                    here,
                    "a link here, a file on Hydra",
                    "a file here, a link on Hydra",
                ),
                "Something on the way follows links, or cannot make them. Deploy a git checkout as it is.\n",
            )
        }
        Change::Content => (
            format!("{names} {has} other content here than on Hydra"),
            "differs",
            SAME_REVISION,
        ),
    };
    ChangeTold {
        answer,
        in_list,
        cure,
    }
}

fn pick(here: bool, ours: &'static str, theirs: &'static str) -> &'static str {
    if here { ours } else { theirs }
}

fn order(here: bool, yes: &'static str, no: &'static str) -> (&'static str, &'static str) {
    if here { (yes, no) } else { (no, yes) }
}
