//! What Nix says when an evaluation fails, read for what can be done about it.

use std::path::Path;

/// The first line of an error.
pub(super) fn last_error(said: &str) -> &str {
    let error = said.strip_prefix("error: ").unwrap_or(said);
    error.lines().next().unwrap_or_default().trim()
}

/// The name in `attribute 'stdenv' missing` or `undefined variable 'stdenv'`.
pub(super) fn missing_name(error: &str) -> Option<&str> {
    let name = error
        .strip_prefix("attribute '")
        .and_then(|rest| rest.strip_suffix("' missing"))
        .or_else(|| {
            error
                .strip_prefix("undefined variable '")?
                .strip_suffix('\'')
        })?;
    // Names are written into Nix code: nothing but what needs no quoting there.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-'.+".contains(&byte);
    name.bytes().all(plain).then_some(name)
}

/// The name in `cannot update unlocked flake input 'nixpkgs' in pure mode`. A flake without inputs needs
/// no lock file, so only Nix can tell whether one is missing.
pub(super) fn unlocked_input(error: &str) -> Option<&str> {
    let (_, name) = error.split_once("unlocked flake input '")?;
    name.split('\'').next()
}

/// The derivation in `Cannot build '/nix/store/….drv'.` where nothing may be built, itself or what it is
/// made from.
pub(super) fn cannot_build(said: &str) -> Option<String> {
    let reasons = ["max-jobs", " dependency failed", " dependencies failed"];
    if !reasons.iter().any(|reason| said.contains(reason)) {
        return None;
    }
    said.split('\'')
        .find(|part| part.starts_with("/nix/store/") && has_extension(part))
        .map(str::to_string)
}

/// The URL and the reason in `unable to download 'https://…': Could not resolve host`.
pub(super) fn failed_download(said: &str) -> Option<(String, String)> {
    let (_, rest) = said.split_once("unable to download '")?;
    let (url, why) = rest.split_once("': ")?;
    let why = why.lines().next().unwrap_or_default();
    let why = why.trim_end_matches('.');
    // It stands in parentheses where an archive was read meanwhile.
    let is_open = why.matches('(').count() < why.matches(')').count();
    let why = if is_open {
        why.trim_end_matches(')')
    } else {
        why
    };
    Some((url.to_string(), why.to_string()))
}

/// Whether Nix was fetching something by git.
pub(super) fn is_by_git(said: &str) -> bool {
    said.contains("executing 'git'") || said.contains("Git repository") || said.contains("'git+")
}

/// The derivations of lines such as `building '/nix/store/….drv'...`.
pub(super) fn built(stderr: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(stderr)
        .lines()
        .filter_map(|line| line.strip_prefix("building '")?.split('\'').next())
        .map(str::to_string)
        .collect()
}

fn has_extension(path: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|extension| extension == "drv")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_missed_is_read_from_nix_s_words() {
        for (error, name) in [
            ("attribute 'stdenv' missing", Some("stdenv")),
            ("undefined variable 'hello-2.0'", Some("hello-2.0")),
            ("attribute 'a\" b' missing", None),
            ("infinite recursion encountered", None),
        ] {
            assert_eq!(missing_name(error), name, "{error}");
        }
    }

    #[test]
    fn a_failed_download_is_read_from_nix_s_words() {
        let said = "error: unable to download 'https://x.org/a.tar.gz': Could not resolve host (6)\n\n … x";
        let (url, why) = failed_download(said).unwrap();
        assert_eq!(url, "https://x.org/a.tar.gz");
        assert_eq!(why, "Could not resolve host (6)");
        let said = "error: Failed to open archive (Source threw exception: error: unable to download \
                    'https://x.org/a': Could not resolve hostname (6) Could not resolve host: x.org)";
        let (_, why) = failed_download(said).unwrap();
        assert_eq!(
            why,
            "Could not resolve hostname (6) Could not resolve host: x.org"
        );
        assert_eq!(failed_download("error: no"), None);
    }

    #[test]
    fn the_derivation_that_must_be_built_is_named() {
        let said = "error: Cannot build '/nix/store/0000-g.drv'.\nReason: required system or feature not \
                    available (max-jobs = 0)\n\n       … while x";
        assert_eq!(cannot_build(said).as_deref(), Some("/nix/store/0000-g.drv"));
        assert_eq!(
            cannot_build("error: Cannot build '/nix/store/0000-g.drv'."),
            None
        );
        let below = "error: Cannot build '/nix/store/0000-g.drv'.\nReason: 1 dependency failed.";
        assert_eq!(
            cannot_build(below).as_deref(),
            Some("/nix/store/0000-g.drv")
        );
        assert_eq!(last_error(said), "Cannot build '/nix/store/0000-g.drv'.");
    }
}
