//! Where `<name>` is looked up: in `NIX_PATH`, the jobset's inputs, and what stands in for an unpinned
//! `<nixpkgs>`.

use crate::config::{Config, with_credentials};
use http_client::without_credentials;
use nix_runner::WARNING;
use std::path::Path;

/// The value of `NIX_PATH` for an evaluation, with `stand_in` where that is wanted.
pub fn nix_path(config: &Config, stand_in: &Path) -> String {
    let own = config.nix_path.iter().cloned();
    let stand_in = has_stand_in(config).then(|| format!("nixpkgs={}", stand_in.display()));
    own.chain(stand_in).collect::<Vec<_>>().join(":")
}

/// The jobset's inputs without the credentials in their URLs, which Nix has in its netrc file.
pub(super) fn for_command_line(config: &Config) -> Vec<String> {
    let without = |lookup: &String| {
        let (name, mut url) = with_credentials(lookup)?;
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        Some(format!("{name}={url}"))
    };
    let lookups = config.lookups.iter();
    lookups
        .map(|lookup| without(lookup).unwrap_or_else(|| lookup.clone()))
        .collect()
}

/// Whether nothing that the user named has a `<nixpkgs>`. Else the stand-in would take the place of one
/// that cannot be fetched, unseen.
pub fn has_stand_in(config: &Config) -> bool {
    let mut entries = config
        .nix_path
        .iter()
        .flat_map(|nix_path| nix_path.split(':'))
        .chain(config.lookups.iter().map(String::as_str));
    !entries.any(|entry| match entry.split_once('=') {
        Some((name, _)) => name == "nixpkgs",
        None => Path::new(entry).join("nixpkgs").exists(),
    })
}

/// The entries that Nix went on without, and why, in its words on standard error: `name=URL cannot be
/// downloaded`, without credentials.
pub fn unusable(stderr: &[u8], config: &Config) -> Vec<String> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in String::from_utf8_lossy(stderr).lines() {
        let said = line.strip_prefix(WARNING);
        let Some((value, why)) = said.and_then(|said| said.rsplit_once("' ")) else {
            continue;
        };
        let why = why.trim_end_matches(", ignoring");
        // What cannot be downloaded does not exist either.
        if let Some(entry) = entry_of(value, config)
            && found.iter().all(|(other, _)| *other != entry)
        {
            found.push((entry, why.to_string()));
        }
    }
    found
        .into_iter()
        .map(|(entry, why)| format!("`{entry}` {why}"))
        .collect()
}

/// The entry that has this value, as it may be shown. Nothing for what is a part of one: Nix splits
/// `NIX_PATH` at each colon, also in a URL with a port or a password.
fn entry_of(value: &str, config: &Config) -> Option<String> {
    let is_name = |name: &&str| !name.is_empty() && !name.contains(|c: char| "/?&@%".contains(c));
    let after_name = format!("={value}");
    let lookups = for_command_line(config);
    let name = lookups
        .iter()
        .chain(&config.nix_path)
        .filter_map(|text| text.split_once(&after_name)?.0.rsplit(':').next())
        .find(is_name);
    let is_path = value.starts_with('/') && !value.starts_with("//");
    if name.is_none() && !is_path && !value.contains("://") {
        return None;
    }
    // A query may hold a token.
    let shown = without_credentials(value.split('?').next().unwrap_or_default());
    Some(name.map_or(shown.clone(), |name| format!("{name}={shown}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_jobset_s_inputs_are_not_on_nix_s_command_line() {
        let app = tempfile::tempdir().unwrap();
        std::fs::write(app.path().join("default.nix"), "").unwrap();
        let mut config = Config::read(|_| None, app.path()).unwrap();
        config.lookups = [
            "library=git+https://user:pa%20ss@git.example.org/x?rev=1",
            "other=git+ssh://git@git.example.org/y",
            "plain=https://example.org/z.tar.gz",
        ]
        .map(str::to_string)
        .into();
        assert_eq!(
            for_command_line(&config),
            [
                "library=git+https://git.example.org/x?rev=1",
                "other=git+ssh://git@git.example.org/y",
                "plain=https://example.org/z.tar.gz",
            ]
        );
        let netrc = app.path().join("netrc");
        config.substituters().write_netrc(&netrc).unwrap();
        assert_eq!(
            std::fs::read_to_string(netrc).unwrap(),
            "machine \"git.example.org\" login \"user\" password \"pa ss\"\n"
        );
    }
}
