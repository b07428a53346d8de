//! The package URL of a store path, from its name.

use nix_hydra_start::package_name::PackageName;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What a package URL has as it is (purl-spec, "Character encoding").
const PURL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~');

/// The package URL: `pkg:nix/openssl@3.4.1`, with the output as a qualifier if it is not `out`.
pub fn purl(name: &str) -> String {
    let package = PackageName::parse(name);
    let encode = |text| utf8_percent_encode(text, PURL);
    let mut url = format!("pkg:nix/{}", encode(package.name));
    if let Some(version) = package.version {
        url.push('@');
        url.extend(encode(version));
    }
    if let Some(output) = package.output {
        url.push_str("?output=");
        url.push_str(output);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_url_has_no_letter_with_a_meaning_of_its_own() {
        assert_eq!(purl("openssl-3.4.1"), "pkg:nix/openssl@3.4.1");
        assert_eq!(
            purl("openssl-3.4.1-dev"),
            "pkg:nix/openssl@3.4.1?output=dev"
        );
        assert_eq!(purl("gtk+-2.24?x=1"), "pkg:nix/gtk%2B@2.24%3Fx%3D1");
        assert_eq!(purl("myapp"), "pkg:nix/myapp");
    }
}
