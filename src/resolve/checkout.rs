//! What about the app's directory may keep its store path from being Hydra's.
//!
//! A `.git` that is there tells what Hydra checks out: its index lists every file with the hash of
//! its content.

use super::source::Source;
use app_dir::git::{self, Comparison, MAX_TEXT, Repository};
use app_dir::{AppDir, Leaf};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use words::list;

/// How many names a warning lists; the rest are counted.
const NAMES_SHOWN: usize = 10;

/// Every reason to doubt that `source` gets the store path that it has on Hydra, in
/// words for the user.
pub fn warnings(source: &Source, is_flake: bool) -> Vec<String> {
    let app = &source.app;
    let mut warnings: Vec<String> = dirty(source, is_flake).into_iter().collect();
    let submodules = git::submodules(app, Path::new(""));
    if is_flake && !submodules.is_empty() {
        let names = submodules.iter().map(|path| path.display().to_string());
        warnings.push(format!(
            "The flake has submodules: {}. Hydra has empty directories in their place, unless the flake's \
             URL has `submodules=1` or `flake.nix` has `inputs.self.submodules = true`. If the store path \
             is not Hydra's, this may be why.",
            shortened(&names.collect())
        ));
    }
    warnings.extend(attributes(source));
    warnings.extend(left_out_by_platform(app));
    warnings
}

/// The difference between the tree and what git has committed, if there is any. None as well where there
/// is no `.git` that can be read.
fn dirty(source: &Source, is_flake: bool) -> Option<String> {
    let repository = Repository::at(&source.app, Path::new("")).ok()??;
    let index = repository.index().ok()?;
    // Nix reads a flake's files as git has them; elsewhere Hydra's checkout is converted as this one is.
    let comparison = if is_flake {
        Comparison::Content
    } else {
        Comparison::Checkout
    };
    let status = git::status(&source.app, &source.tree, &index, comparison);
    let staged = repository.staged(&index).unwrap_or_default();
    // Of a flake, it is not known here whether Hydra checks them out.
    let empty = if is_flake {
        BTreeSet::new()
    } else {
        status.empty_submodules
    };
    let lines: Vec<String> = [
        ("not in git", status.added),
        ("changed", status.changed),
        ("missing", status.missing),
        ("staged, but not committed", staged),
        ("submodule not checked out", empty),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(what, names)| format!("  {what}: {}", shortened(&names)))
    .collect();
    if lines.is_empty() {
        return None;
    }
    Some(format!(
        "The app's directory is not what git has committed, so its store path cannot be the one \
         that Hydra built:\n{}",
        lines.join("\n")
    ))
}

fn shortened(names: &BTreeSet<String>) -> String {
    let mut shown: Vec<String> = names.iter().take(NAMES_SHOWN).cloned().collect();
    if names.len() > NAMES_SHOWN {
        shown.push(format!("{} more", names.len() - NAMES_SHOWN));
    }
    list(&shown)
}

/// A warning for each `.gitattributes` whose rules make archives, or checkouts, of one revision
/// differ.
fn attributes(source: &Source) -> Vec<String> {
    let mut warnings = Vec::new();
    source.tree.visit(&mut |path, leaf| {
        let Leaf::File { from, .. } = leaf else { return };
        if path.file_name() != Some(OsStr::new(".gitattributes")) {
            return;
        }
        let text = source.app.read(from, MAX_TEXT).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let set: BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(|line| line.split_whitespace().skip(1))
            .collect();
        for (attribute, why) in [
            (
                "export-ignore",
                "Hydra's checkout has the files that it names, but an archive, such as some \
                 platforms deploy, does not",
            ),
            (
                "export-subst",
                "an archive, such as some platforms deploy, has other text in the files that it \
                 names than Hydra's checkout",
            ),
            (
                "filter=lfs",
                "the files that it names are pointers in a checkout without git-lfs, and have \
                 their content in one with it",
            ),
        ] {
            if set.contains(attribute) {
                warnings.push(format!(
                    "{} has `{attribute}`: {why}. If the store path is not Hydra's, this may be why.",
                    path.display()
                ));
            }
        }
    });
    warnings
}

/// A warning for each file that tells a platform to leave out what git has.
fn left_out_by_platform(app: &AppDir) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |file: &str, who: &str| {
        warnings.push(format!(
            "{file} is there: {who} leaves out what it names, but Hydra does not. If the store path \
             is not Hydra's, this may be why."
        ));
    };
    for (file, who) in [(".slugignore", "Heroku"), (".gcloudignore", "Google Cloud")] {
        if app.path().join(file).exists() {
            warn(file, who);
        }
    }
    let project = app.read(Path::new("project.toml"), MAX_TEXT);
    let project: toml::Table = toml::from_slice(&project.unwrap_or_default()).unwrap_or_default();
    // The descriptor's two schemas: https://buildpacks.io/docs/reference/config/project-descriptor/
    let io = project.get("io").and_then(|io| io.get("buildpacks"));
    let filters = [io, project.get("build")]
        .into_iter()
        .flatten()
        .any(|table| table.get("exclude").is_some() || table.get("include").is_some());
    if filters {
        warn("project.toml with `include` or `exclude`", "pack");
    }
    warnings
}
