//! What the app's expressions pin, and what they do not. This reads text, not Nix: it names what deserves
//! a look.

use crate::config::{Config, Expression};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Larger expressions are generated ones, which pin what they use.
const MAX_EXPRESSION_SIZE: u64 = 1024 * 1024;

/// Fetchers that take a hash or a revision, or neither.
const FETCHERS: [&str; 3] = ["fetchTarball", "fetchGit", "fetchMercurial"];

/// Those that the doctor does not name: nixpkgs has a `fetchurl` as well, which always has a hash.
const OTHER_FETCHERS: [&str; 3] = ["fetchurl", "fetchTree", "getFlake"];

/// Something in an expression that another evaluation may see otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unpinned {
    /// The file in the app, and the line.
    pub file: String,
    pub line: usize,
    /// `<nixpkgs>`, `fetchTarball` without a hash, `builtins.getEnv`.
    pub what: String,
}

/// What pins what is fetched.
#[derive(Debug, PartialEq, Eq)]
enum Pin {
    Hash,
    Revision,
    Nothing,
    /// Its argument is not there to be seen.
    Unseen,
}

/// Looks through the app's expressions for what nothing pins.
pub(crate) fn unpinned(app_dir: &Path, expression: &Expression, config: &Config) -> Vec<Unpinned> {
    let nix_path = config.nix_path.as_deref().unwrap_or_default();
    let is_flake = expression.is_flake();
    let mut found = BTreeSet::new();
    for_each_text(app_dir, &mut |file, text| {
        let in_text = in_text(text, nix_path, &config.lookups, is_flake);
        found.extend(in_text.into_iter().map(|(line, what)| Unpinned {
            file: file.display().to_string(),
            line,
            what,
        }));
    });
    found.into_iter().collect()
}

/// Whether all that is fetched without a hash is fetched by a revision, as far as can be seen.
pub(crate) fn by_revision(app_dir: &Path, expression: &Expression, config: &Config) -> bool {
    let lookups = config.nix_path.iter().chain(&config.lookups);
    let mut some = lookups.into_iter().any(|entry| has_revision(entry));
    let mut all = unpinned(app_dir, expression, config).is_empty();
    for_each_text(app_dir, &mut |_, text| {
        for fetcher in FETCHERS.iter().chain(&OTHER_FETCHERS) {
            for (at, _) in text.match_indices(fetcher) {
                match pin(&text[at + fetcher.len()..]) {
                    Pin::Hash => {}
                    Pin::Revision => some = true,
                    Pin::Nothing | Pin::Unseen => all = false,
                }
            }
        }
    });
    some && all
}

/// Whether an expression may ask for the time, which Nix tells it unless it is a flake.
pub(crate) fn may_tell_time(app_dir: &Path, expression: &Expression) -> bool {
    let names_it = |text: &str| text.contains("currentTime");
    let file = app_dir::read_to_string(app_dir, &expression.file, MAX_EXPRESSION_SIZE);
    let mut found = file.is_ok_and(|text| names_it(&text));
    for_each_text(app_dir, &mut |_, text| found |= names_it(text));
    found && !expression.is_flake()
}

/// Calls `look` with the path in the app, and the text, of each expression.
fn for_each_text(app_dir: &Path, look: &mut dyn FnMut(&Path, &str)) {
    let mut directories = vec![app_dir.to_path_buf()];
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
            } else if path.extension().is_some_and(|extension| extension == "nix")
                && let Ok(below) = path.strip_prefix(app_dir)
                && let Ok(text) = app_dir::read_to_string(app_dir, below, MAX_EXPRESSION_SIZE)
            {
                look(below, &text);
            }
        }
    }
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
        for fetcher in FETCHERS {
            let calls = code.match_indices(fetcher);
            let at = text
                .lines()
                .take(index)
                .map(|line| line.len() + 1)
                .sum::<usize>();
            for (column, _) in calls {
                let rest = text.get(at + column + fetcher.len()..).unwrap_or_default();
                if pin(rest) == Pin::Nothing {
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

/// What pins what a fetcher fetches, whose argument begins `rest`.
fn pin(rest: &str) -> Pin {
    let rest = rest.trim_start();
    let argument = if rest.starts_with('{') {
        rest.split('}').next().unwrap_or_default()
    } else if let Some(text) = rest.strip_prefix('"') {
        text.split('"').next().unwrap_or_default()
    } else {
        // A name: what it stands for is not here to be seen.
        return Pin::Unseen;
    };
    if ["sha256", "hash", "narHash"]
        .iter()
        .any(|word| argument.contains(word))
    {
        Pin::Hash
    } else if has_revision(argument) {
        // A tarball by a revision in its URL is what it is, hash or not.
        Pin::Revision
    } else if argument.contains("rev") {
        Pin::Unseen
    } else {
        Pin::Nothing
    }
}

/// Whether 40 digits of a git revision are in a text.
fn has_revision(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_hexdigit())
        .any(|word| word.len() == 40)
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

    fn config(app: &Path, settings: &[(&str, &str)]) -> Config {
        let setting = |name: &str| {
            let found = settings.iter().find(|(set, _)| *set == name);
            found.map(|(_, value)| (*value).to_string())
        };
        Config::read(setting, app).unwrap()
    }

    fn look<T>(
        text: &str,
        settings: &[(&str, &str)],
        look: impl Fn(&Path, &Expression, &Config) -> T,
    ) -> T {
        let app = tempfile::tempdir().unwrap();
        fs::write(app.path().join("default.nix"), text).unwrap();
        let config = config(app.path(), settings);
        let crate::config::Wanted::Expression(expression) = &config.wanted else {
            panic!("an expression");
        };
        look(app.path(), expression, &config)
    }

    #[test]
    fn what_is_fetched_by_revisions_alone_is_told_apart() {
        const REVISION: &str = "84a3aecb1d976366060d0f0fd4df7d67b0855f5e";
        let tarball = format!("fetchTarball \"https://x/{REVISION}.tar.gz\"");
        let git = format!("builtins.fetchGit {{ url = \"https://x\"; rev = \"{REVISION}\"; }}");
        let hashed = "fetchTarball { url = \"https://x\"; sha256 = \"0\"; }";
        let nix_path = format!("nixpkgs=https://x/{REVISION}.tar.gz");
        let nix_path = [("NIX_PATH", nix_path.as_str())];
        for (text, settings, expected) in [
            (tarball.clone(), &[][..], true),
            (git.clone(), &[], true),
            (format!("[ ({git}) ({hashed}) ]"), &[], true),
            ("import <nixpkgs> { }".into(), &nix_path, true),
            (format!("{tarball} <pins>"), &[("NIX_PATH", "/x")], false),
            (
                format!("[ ({git}) (fetchTarball \"https://x\") ]"),
                &[],
                false,
            ),
            (format!("[ ({git}) (fetchTarball pins.x) ]"), &[], false),
            (
                format!("[ ({git}) (builtins.fetchurl \"https://x\") ]"),
                &[],
                false,
            ),
            (hashed.into(), &[], false),
        ] {
            assert_eq!(look(&text, settings, by_revision), expected, "{text}");
        }
    }

    #[test]
    fn an_expression_that_may_ask_for_the_time_is_known_by_its_name() {
        let tells = |text: &str| {
            look(text, &[], |app, expression, _| {
                may_tell_time(app, expression)
            })
        };
        assert!(tells("with builtins; toString currentTime"));
        assert!(!tells("{ }: 1"));
    }
}
