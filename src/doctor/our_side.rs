//! What can be said of our own side: what enters the derivation, and what nothing pins.

use super::Evaluated;
use super::stores::{DirectoryStore, Store};
use super::tree::Tree;
use crate::config::{Config, Expression};
use crate::hydra::revision;
use crate::output::without_credentials;
use nix_derivation::StorePath;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Larger expressions are generated ones, which pin what they use.
const MAX_EXPRESSION_SIZE: u64 = 1024 * 1024;

#[derive(Debug, Default)]
pub struct OurSide {
    pub derivation: Option<StorePath>,
    /// The revision that is deployed, where that is known.
    pub revision: Option<String>,
    pub system: String,
    /// The app's source, and how many files it has.
    pub source: Option<StorePath>,
    pub source_files: usize,
    pub tree: Tree,
    /// It is evaluated as a flake, which Hydra fetches in another way.
    pub is_flake: bool,
    /// All sources that the derivation and what it is made from are built of, with their files; the
    /// derivation's own come first.
    pub sources: Vec<(StorePath, usize)>,
    pub unpinned: Vec<Unpinned>,
    /// Files in which a git checkout differs from its revision.
    pub changes: Vec<String>,
    /// As it is shown: without credentials.
    pub nix_path: Option<String>,
}

/// Something in an expression that another evaluation may see otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unpinned {
    /// The file in the app, and the line.
    pub file: String,
    pub line: usize,
    /// `<nixpkgs>`, `fetchTarball` without a hash, `builtins.getEnv`.
    pub what: String,
}

pub(super) fn look(
    evaluated: &Evaluated,
    expression: &Expression,
    config: &Config,
    app_dir: &Path,
    store: &mut DirectoryStore,
) -> OurSide {
    let changes = if app_dir.join(".git").exists() {
        revision::changes(app_dir).unwrap_or_default()
    } else {
        Vec::new()
    };
    OurSide {
        system: evaluated.system.to_string(),
        source: Some(evaluated.source.clone()),
        source_files: evaluated.source_files,
        tree: store.tree(evaluated.source).unwrap_or_default(),
        sources: sources(evaluated.root, store),
        unpinned: unpinned(app_dir, expression, config),
        is_flake: expression.is_flake(),
        changes,
        nix_path: config.nix_path.as_deref().map(without_credentials),
        ..OurSide::default()
    }
}

fn sources(root: &StorePath, store: &mut DirectoryStore) -> Vec<(StorePath, usize)> {
    let mut next: Vec<StorePath> = store.deriver(root).into_iter().collect();
    let mut met: BTreeSet<StorePath> = next.iter().cloned().collect();
    let mut found: Vec<(StorePath, usize)> = Vec::new();
    while let Some(derivation) = next.pop().and_then(|path| store.derivation(&path)) {
        for source in derivation.input_sources() {
            if found.iter().all(|(other, _)| other != source) {
                let files = store.tree(source).map_or(0, |tree| tree.files.len());
                found.push((source.clone(), files));
            }
        }
        let inputs = derivation.input_derivations().keys();
        next.extend(inputs.filter(|path| met.insert((*path).clone())).cloned());
    }
    found
}

/// Looks through the app's expressions for what nothing pins. This reads text, not Nix: it names
/// what deserves a look.
fn unpinned(app_dir: &Path, expression: &Expression, config: &Config) -> Vec<Unpinned> {
    let nix_path = config.nix_path.as_deref().unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut directories = vec![app_dir.to_path_buf()];
    let is_flake = expression.is_flake();
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() && entry.file_name() != ".git" {
                directories.push(path);
            } else if metadata.is_file()
                && metadata.len() <= MAX_EXPRESSION_SIZE
                && path.extension().is_some_and(|extension| extension == "nix")
                && let Ok(text) = fs::read_to_string(&path)
            {
                let file = path.strip_prefix(app_dir).unwrap_or(&path);
                let file = file.display().to_string();
                found.extend(
                    in_text(&text, nix_path, &config.lookups, is_flake)
                        .into_iter()
                        .map(|(line, what)| Unpinned {
                            file: file.clone(),
                            line,
                            what,
                        }),
                );
            }
        }
    }
    found.into_iter().collect()
}

fn in_text(text: &str, nix_path: &str, lookups: &[String], is_flake: bool) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let code = line.split('#').next().unwrap_or_default();
        for name in looked_up(code).filter(|_| !is_flake) {
            let first = name.split('/').next().unwrap_or_default();
            let is_input = lookups
                .iter()
                .any(|lookup| lookup.split('=').next() == Some(first));
            if first != "nix" && !is_input && is_open_in(nix_path, first) {
                found.push((index + 1, format!("<{name}>")));
            }
        }
        for impure in ["builtins.getEnv", "builtins.currentTime"] {
            if code.contains(impure) {
                found.push((index + 1, impure.to_string()));
            }
        }
        for fetcher in ["fetchTarball", "fetchGit", "fetchMercurial"] {
            let calls = code.match_indices(fetcher);
            let at = text
                .lines()
                .take(index)
                .map(|line| line.len() + 1)
                .sum::<usize>();
            for (column, _) in calls {
                let rest = text.get(at + column + fetcher.len()..).unwrap_or_default();
                if is_unpinned_call(rest) {
                    found.push((index + 1, format!("{fetcher} without a hash or `rev`")));
                }
            }
        }
    }
    found
}

/// The names in `<…>` of a line of code.
fn looked_up(code: &str) -> impl Iterator<Item = &str> {
    code.split('<').skip(1).filter_map(|rest| {
        let (name, _) = rest.split_once('>')?;
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.+/".contains(c));
        is_name.then_some(name)
    })
}

/// Whether `NIX_PATH` gives a name what may be another thing on Hydra: neither a store path nor a URL with
/// a revision. A name that it does not give is the stand-in's, which is the same everywhere.
fn is_open_in(nix_path: &str, name: &str) -> bool {
    let mut parts = nix_path.split(':');
    let value = parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let url = match value {
        Some(path) if path.contains('/') => return !path.starts_with("/nix/store/"),
        // What follows its colon belongs to a scheme: `https:`, `channel:`.
        Some(_) => parts.next().unwrap_or_default(),
        // It may be in a directory that has no name; `//` is the rest of a URL.
        None => {
            let mut parts = nix_path.split(':');
            return parts.any(|part| part.starts_with('/') && !part.starts_with("//"));
        }
    };
    !url.split(|c: char| !c.is_ascii_hexdigit())
        .any(|word| matches!(word.len(), 40 | 64))
}

/// Whether a fetcher's argument, which begins `rest`, is one without a hash or revision.
fn is_unpinned_call(rest: &str) -> bool {
    let rest = rest.trim_start();
    let argument = if rest.starts_with('{') {
        rest.split('}').next().unwrap_or_default()
    } else if let Some(text) = rest.strip_prefix('"') {
        text.split('"').next().unwrap_or_default()
    } else {
        // A name: what it stands for is not here to be seen.
        return false;
    };
    let has_revision = argument
        .split(|c: char| !c.is_ascii_hexdigit())
        .any(|word| word.len() == 40);
    // A tarball by a revision in its URL is what it is, hash or not.
    !(has_revision
        || ["sha256", "hash", "narHash", "rev"]
            .iter()
            .any(|word| argument.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_pins_is_found_with_its_line() {
        let text = "\
{ pkgs ? import <nixpkgs> { } }: # not <this>
let
  a = builtins.fetchTarball \"https://x/main.tar.gz\";
  b = fetchTarball {
    url = \"https://x\";
    sha256 = \"0\";
  };
  c = fetchGit { url = \"https://x\"; };
  d = fetchTarball pins.nixpkgs;
  e = import <nix/fetchurl.nix>;
in if 1 <2 then builtins.getEnv \"HOME\" else fetchTarball \"https://x/84a3aecb1d976366060d0f0fd4df7d67b0855f5e.tar.gz\"
";
        let found_with = |nix_path, lookups: &[String]| -> Vec<String> {
            let found = in_text(text, nix_path, lookups, false).into_iter();
            found.map(|(line, what)| format!("{line} {what}")).collect()
        };
        let found = |nix_path| found_with(nix_path, &[]);
        let rest = [
            "3 fetchTarball without a hash or `rev`",
            "8 fetchGit without a hash or `rev`",
            "11 builtins.getEnv",
        ];
        let pinned = "nixpkgs=https://x/84a3aecb1d976366060d0f0fd4df7d67b0855f5e.tar.gz";
        // Where nothing says which nixpkgs is meant, it is the stand-in.
        for closed in ["", "a=/x", "a=https://x/y", "nixpkgs=/nix/store/x", pinned] {
            assert_eq!(found(closed), rest, "{closed}");
        }
        let path = format!("a=/x:{pinned}");
        assert_eq!(found(&path), rest);
        for open in [
            "/pins",
            "nixpkgs=channel:nixos-26.05",
            &format!("nixpkgs=/x:a-{pinned}"),
        ] {
            assert_eq!(found(open)[0], "1 <nixpkgs>", "{open}");
            assert_eq!(found(open)[1..], rest);
            // Hydra's inputs have revisions.
            assert_eq!(found_with(open, &[pinned.to_string()]), rest, "{open}");
        }
    }
}
