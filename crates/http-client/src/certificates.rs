//! The certificate authorities that HTTPS servers are checked against.

use std::path::PathBuf;
use ureq::tls::{PemItem, RootCerts, parse_pem};

/// Where the certificates of the system are, on the distributions that builders are made of.
const SYSTEM_CERTIFICATES: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// The certificates that Nix users name, else the system's, else Mozilla's as built in.
pub(crate) fn root_certificates() -> RootCerts {
    let named = ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"]
        .into_iter()
        .filter_map(std::env::var_os)
        .map(Into::into);
    let system = SYSTEM_CERTIFICATES.map(PathBuf::from);
    for file in named.chain(system) {
        let certificates: Vec<_> = std::fs::read(file)
            .map(|pem| {
                parse_pem(&pem)
                    .filter_map(|item| match item {
                        Ok(PemItem::Certificate(certificate)) => Some(certificate),
                        _ => None,
                    })
                    .collect()
            })
            .unwrap_or_default();
        if !certificates.is_empty() {
            return RootCerts::new_with_certs(&certificates);
        }
    }
    RootCerts::WebPki
}
