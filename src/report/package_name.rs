//! A store path's name as a package's name, version and package URL.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What a package URL has as it is (purl-spec, "Character encoding").
const PURL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~');

/// Splits a name where Nix's `parseDrvName` does: at the first dash that no letter follows. Without
/// one, all of it is the name. An output's name, as in `openssl-3.4.1-dev`, is part of the version.
#[must_use]
pub fn split(name: &str) -> (&str, Option<&str>) {
    let starts_version = |(at, letter): &(usize, char)| {
        *letter == '-'
            && name[at + 1..]
                .chars()
                .next()
                .is_some_and(|next| !next.is_ascii_alphabetic())
    };
    match name.char_indices().find(starts_version) {
        Some((at, _)) => (&name[..at], Some(&name[at + 1..])),
        None => (name, None),
    }
}

/// The package URL: `pkg:nix/openssl@3.4.1`.
#[must_use]
pub fn purl(name: &str) -> String {
    let (name, version) = split(name);
    let encode = |text| utf8_percent_encode(text, PURL);
    match version {
        Some(version) => format!("pkg:nix/{}@{}", encode(name), encode(version)),
        None => format!("pkg:nix/{}", encode(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_nix_splits_them() {
        for (text, name, version) in [
            ("myapp", "myapp", None),
            ("openssl-3.4.1", "openssl", Some("3.4.1")),
            ("openssl-3.4.1-dev", "openssl", Some("3.4.1-dev")),
            ("python3-3.13.1-env", "python3", Some("3.13.1-env")),
            (
                "nix-2.4pre20210601_5985b8b",
                "nix",
                Some("2.4pre20210601_5985b8b"),
            ),
            ("stdenv-linux", "stdenv-linux", None),
            ("unit-web.service", "unit-web.service", None),
            ("a--b", "a", Some("-b")),
            ("trailing-", "trailing-", None),
        ] {
            assert_eq!(split(text), (name, version), "{text}");
        }
    }

    #[test]
    fn a_package_url_has_no_letter_with_a_meaning_of_its_own() {
        assert_eq!(purl("openssl-3.4.1"), "pkg:nix/openssl@3.4.1");
        assert_eq!(purl("gtk+-2.24?x=1"), "pkg:nix/gtk%2B@2.24%3Fx%3D1");
        assert_eq!(purl("myapp"), "pkg:nix/myapp");
    }
}
