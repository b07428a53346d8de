//! A store path's name as a package's name, version and output.

/// Names of outputs besides `out`, which nixpkgs appends to a package's name.
const OUTPUTS: [&str; 16] = [
    "bin", "data", "debug", "dev", "devdoc", "dist", "doc", "info", "lib", "libgcc", "locale",
    "man", "nologin", "py", "static", "terminfo",
];

/// The parts of a name such as `openssl-3.4.1-dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackageName<'a> {
    pub name: &'a str,
    pub version: Option<&'a str>,
    /// `None` for the output `out`, and for names that do not end with that of an output.
    pub output: Option<&'a str>,
}

impl<'a> PackageName<'a> {
    /// Splits a name where Nix's `parseDrvName` does: at the first dash that no letter follows.
    /// Without one, all of it is the name. A usual output's name after the version is the output.
    pub fn parse(text: &'a str) -> Self {
        let starts_version = |(at, letter): &(usize, char)| {
            let next = text[at + 1..].chars().next();
            *letter == '-' && next.is_some_and(|next| !next.is_ascii_alphabetic())
        };
        let Some((at, _)) = text.char_indices().find(starts_version) else {
            return Self {
                name: text,
                version: None,
                output: None,
            };
        };
        let version = &text[at + 1..];
        let split = version.rsplit_once('-');
        let split = split.filter(|(_, output)| OUTPUTS.contains(output));
        let (version, output) =
            split.map_or((version, None), |(version, output)| (version, Some(output)));
        Self {
            name: &text[..at],
            version: Some(version),
            output,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_nix_splits_them_and_outputs_are_apart() {
        for (text, name, version, output) in [
            ("myapp", "myapp", None, None),
            ("openssl-3.4.1", "openssl", Some("3.4.1"), None),
            ("openssl-3.4.1-dev", "openssl", Some("3.4.1"), Some("dev")),
            ("gcc-14.3.0-lib", "gcc", Some("14.3.0"), Some("lib")),
            ("python3-3.13.1-env", "python3", Some("3.13.1-env"), None),
            (
                "nix-2.4pre20210601_5985b8b",
                "nix",
                Some("2.4pre20210601_5985b8b"),
                None,
            ),
            ("stdenv-linux", "stdenv-linux", None, None),
            ("unit-web.service", "unit-web.service", None, None),
            ("a--b", "a", Some("-b"), None),
            ("trailing-", "trailing-", None, None),
        ] {
            let expected = PackageName {
                name,
                version,
                output,
            };
            assert_eq!(PackageName::parse(text), expected, "{text}");
        }
    }
}
