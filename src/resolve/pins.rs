//! What the app's expressions pin, and what they do not. This reads tokens and evaluates nothing: it names
//! what deserves a look.

use super::code::{Token, tokens};
use super::source::Source;
use crate::config::{Config, Expression};
use app_dir::Leaf;
use rnix::SyntaxKind::{
    TOKEN_ASSIGN, TOKEN_IDENT, TOKEN_INHERIT, TOKEN_INTERPOL_END, TOKEN_INTERPOL_START,
    TOKEN_L_BRACE, TOKEN_L_PAREN, TOKEN_PATH_SEARCH, TOKEN_R_BRACE, TOKEN_SEMICOLON,
    TOKEN_STRING_CONTENT, TOKEN_STRING_END, TOKEN_STRING_START, TOKEN_URI,
};
use std::collections::BTreeSet;
use std::path::Path;

/// Larger expressions are generated ones, which pin what they use.
const MAX_EXPRESSION_SIZE: u64 = 1024 * 1024;

/// Fetchers that take a hash or a revision, or neither.
const FETCHERS: [&str; 3] = ["fetchTarball", "fetchGit", "fetchMercurial"];

/// Those that the doctor does not name: nixpkgs has a `fetchurl` as well, which always has a hash.
const OTHER_FETCHERS: [&str; 3] = ["fetchurl", "fetchTree", "getFlake"];

/// `builtins.fetchTree`, and what the stand-in for nixpkgs does with it.
const TREE_FETCHERS: [&str; 4] = ["fetchTree", "fetchgit", "fetchSubmodules", "forceFetchGit"];

/// How the variables begin with which niv and npins have a source replaced. The files that they generate ask
/// the environment for nothing else.
const OVERRIDES: [&str; 2] = ["NIV_OVERRIDE_", "NPINS_OVERRIDE_"];

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
pub(crate) fn unpinned(source: &Source, expression: &Expression, config: &Config) -> Vec<Unpinned> {
    let nix_path = config.nix_path.as_deref().unwrap_or_default();
    let is_flake = expression.is_flake();
    let mut found = BTreeSet::new();
    for_each_text(source, &mut |file, text| {
        let in_code = in_code(&tokens(text), nix_path, &config.lookups, is_flake);
        found.extend(in_code.into_iter().map(|(line, what)| Unpinned {
            file: file.display().to_string(),
            line,
            what,
        }));
    });
    found.into_iter().collect()
}

/// Whether all that is fetched without a hash is fetched by a revision, as far as can be seen.
pub(crate) fn by_revision(source: &Source, expression: &Expression, config: &Config) -> bool {
    let lookups = config.nix_path.iter().chain(&config.lookups);
    let mut some = lookups.into_iter().any(|entry| has_revision(entry));
    let mut all = unpinned(source, expression, config).is_empty();
    for_each_text(source, &mut |_, text| {
        let code = tokens(text);
        for (index, token) in code.iter().enumerate() {
            let mut fetchers = FETCHERS.iter().chain(&OTHER_FETCHERS);
            if token.kind != TOKEN_IDENT || !fetchers.any(|fetcher| *fetcher == token.text) {
                continue;
            }
            match pin(&code[index + 1..]) {
                Pin::Hash => {}
                Pin::Revision => some = true,
                Pin::Nothing | Pin::Unseen => all = false,
            }
        }
    });
    some && all
}

/// Whether an expression may ask for the time, which Nix tells it unless it is a flake.
pub(crate) fn may_tell_time(source: &Source, expression: &Expression) -> bool {
    let names_it = |text: &str| text.contains("currentTime");
    let file = source.app.read(&expression.file, MAX_EXPRESSION_SIZE);
    let mut found = file.is_ok_and(|text| names_it(&String::from_utf8_lossy(&text)));
    for_each_text(source, &mut |_, text| found |= names_it(text));
    found && !expression.is_flake()
}

/// Whether a file of the app names `fetchTree`, or a fetcher for which the stand-in for nixpkgs needs it.
pub(crate) fn may_fetch_trees(source: &Source) -> bool {
    let mut found = false;
    for_each_text(source, &mut |_, text| {
        found |= TREE_FETCHERS.iter().any(|fetcher| text.contains(fetcher));
    });
    found
}

/// Calls `look` with the path in the app, and the text, of each expression.
fn for_each_text(source: &Source, look: &mut dyn FnMut(&Path, &str)) {
    source.tree.visit(&mut |path, leaf| {
        if path.extension().is_some_and(|extension| extension == "nix")
            && let Leaf::File { from, .. } = leaf
            && let Ok(text) = source.app.read(from, MAX_EXPRESSION_SIZE)
        {
            look(path, &String::from_utf8_lossy(&text));
        }
    });
}

fn in_code(
    code: &[Token],
    nix_path: &str,
    lookups: &[String],
    is_flake: bool,
) -> Vec<(usize, String)> {
    let is_override = |token: &Token| {
        let mut starts = OVERRIDES.iter();
        token.kind == TOKEN_STRING_CONTENT && starts.any(|start| token.text.starts_with(start))
    };
    let has_overrides = code.iter().any(is_override);
    let mut found = Vec::new();
    for (index, token) in code.iter().enumerate() {
        let after = &code[index + 1..];
        match (token.kind, token.text) {
            (TOKEN_PATH_SEARCH, path) if !is_flake => {
                let name = path.trim_matches(['<', '>']);
                let first = name.split('/').next().unwrap_or_default();
                let mut names = lookups.iter().map(|lookup| lookup.split('=').next());
                if first != "nix"
                    && !names.any(|name| name == Some(first))
                    && is_open_in(nix_path, first)
                {
                    found.push((token.line, path.to_string()));
                }
            }
            // Neither where it is only taken out of `builtins`.
            (TOKEN_IDENT, "getEnv" | "currentTime") if is_defined(after) => {}
            (TOKEN_IDENT, "getEnv") if has_overrides => {}
            (TOKEN_IDENT, name @ ("getEnv" | "currentTime")) => {
                found.push((token.line, format!("builtins.{name}")));
            }
            (TOKEN_IDENT, fetcher) if FETCHERS.contains(&fetcher) && pin(after) == Pin::Nothing => {
                found.push((token.line, format!("{fetcher} without a hash or `rev`")));
            }
            _ => {}
        }
    }
    found
}

/// Whether a name that this follows is one of an attribute or of a variable.
fn is_defined(after: &[Token]) -> bool {
    let next = after.first().map(|token| token.kind);
    matches!(next, Some(TOKEN_ASSIGN | TOKEN_SEMICOLON))
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

/// What pins what a fetcher fetches that this follows.
fn pin(after: &[Token]) -> Pin {
    let mut argument = after;
    while let [first, rest @ ..] = argument
        && first.kind == TOKEN_L_PAREN
    {
        argument = rest;
    }
    match argument {
        [first, rest @ ..] if first.kind == TOKEN_L_BRACE => pin_of_set(rest),
        [first, rest @ ..] if first.kind == TOKEN_STRING_START => {
            let end = rest.iter().position(|token| token.kind == TOKEN_STRING_END);
            pin_of_url(&rest[..end.unwrap_or(rest.len())])
        }
        [first, ..] if first.kind == TOKEN_URI => pin_of_url(&argument[..1]),
        // A name: what it stands for is not here to be seen.
        _ => Pin::Unseen,
    }
}

/// A tarball by a revision in its URL is what it is, hash or not.
fn pin_of_url(url: &[Token]) -> Pin {
    if url.iter().any(|token| has_revision(token.text)) {
        Pin::Revision
    } else if url.iter().any(|token| token.kind == TOKEN_INTERPOL_START) {
        Pin::Unseen
    } else {
        Pin::Nothing
    }
}

/// The same for a set of arguments, behind its brace.
fn pin_of_set(rest: &[Token]) -> Pin {
    let mut depth = 1;
    let end = rest.iter().position(|token| {
        match token.kind {
            TOKEN_L_BRACE | TOKEN_INTERPOL_START => depth += 1,
            TOKEN_R_BRACE | TOKEN_INTERPOL_END => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    let set = &rest[..end.unwrap_or(rest.len())];
    let has = |names: &[&str]| {
        let mut tokens = set.iter();
        tokens.any(|token| token.kind == TOKEN_IDENT && names.contains(&token.text))
    };
    if has(&["sha256", "hash", "narHash"]) {
        return Pin::Hash;
    }
    match pin_of_url(set) {
        Pin::Nothing if has(&["rev"]) || set.iter().any(|it| it.kind == TOKEN_INHERIT) => {
            Pin::Unseen
        }
        other => other,
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
            let found = in_code(&tokens(text), nix_path, lookups, false).into_iter();
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

    #[test]
    fn comments_and_strings_are_no_code_and_what_niv_and_npins_generate_is_known() {
        let found = |text: &str| -> Vec<String> {
            let found = in_code(&tokens(text), "/pins", &[], false).into_iter();
            found.map(|(line, what)| format!("{line} {what}")).collect()
        };
        let none: [&str; 0] = [];
        for text in [
            "/* import <nixpkgs> { }\n builtins.currentTime */ 1",
            "\"say # <nixpkgs> and fetchTarball \\\" { }\" # builtins.getEnv",
            "''\n  fetchTarball \"https://x\"\n  ''${1} <nixpkgs>\n''",
            "let inherit (builtins) getEnv; getEnv = 1; in 2",
            "name: let it = builtins.getEnv \"NIV_OVERRIDE_${name}\"; in /. + builtins.getEnv \"PWD\"",
            "builtins.getEnv \"NPINS_OVERRIDE_${name}\"",
            "{ url, sha256 }@attrs: fetchTarball attrs",
            "fetchTarball ({ inherit url; } // more)",
            "fetchTarball { url = \"https://x/${pins.x}.tar.gz\"; inherit (pins) sha256; }",
            "fetchTarball \"https://x/${version}.tar.gz\"",
        ] {
            assert_eq!(found(text), none, "{text}");
        }
        assert_eq!(
            found(
                "\"${import <nixpkgs> { }}\" # \"\n + (builtins.fetchTarball ({ url = https://x/y; }))"
            ),
            ["1 <nixpkgs>", "2 fetchTarball without a hash or `rev`"]
        );
        // What is cut short anywhere is read to its end.
        let text = "{ a = ''x${\"y${z}\"}''; b = <n> + ./c${d}/e; } /* f */";
        for end in 0..text.len() {
            tokens(&text[..end]);
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
        look: impl Fn(&Source, &Expression, &Config) -> T,
    ) -> T {
        let app = tempfile::tempdir().unwrap();
        std::fs::write(app.path().join("default.nix"), text).unwrap();
        let config = config(app.path(), settings);
        let crate::config::Wanted::Expression(expression) = &config.wanted else {
            panic!("an expression");
        };
        let source = Source::read(app.path(), "source").unwrap();
        look(&source, expression, &config)
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
            look(text, &[], |source, expression, _| {
                may_tell_time(source, expression)
            })
        };
        assert!(tells("with builtins; toString currentTime"));
        assert!(!tells("{ }: 1"));
    }
}
