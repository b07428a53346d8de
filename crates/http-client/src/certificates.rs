//! The certificate authorities that HTTPS servers are checked against.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

/// Where the certificates of the system are, on the distributions that builders are made of.
const SYSTEM_CERTIFICATES: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// The largest file with certificates, in bytes: Mozilla's have 220 KB.
const MAX_FILE_SIZE: u64 = 4 * 1024 * 1024;

/// The most files of a directory that are read.
const MAX_FILES: usize = 1000;

/// The certificates of the file that `NIX_SSL_CERT_FILE` or `SSL_CERT_FILE` names, else of the system,
/// else Mozilla's as built in; and those of the directories that `SSL_CERT_DIR` names. Appends what
/// cannot be read to `warnings`.
pub(crate) fn root_certificates(
    get: impl Fn(&str) -> Option<OsString>,
    warnings: &mut Vec<String>,
) -> RootCerts {
    let get = |name| get(name).filter(|value| !value.is_empty());
    let mut certificates = Vec::new();
    for name in ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"] {
        let Some(file) = get(name).filter(|_| certificates.is_empty()) else {
            continue;
        };
        match read(Path::new(&file)) {
            Ok(read) => certificates = read,
            Err(reason) => warnings.push(format!(
                "{name} names `{}`, which is not used: {reason}",
                Path::new(&file).display()
            )),
        }
    }
    let mut system = SYSTEM_CERTIFICATES.iter();
    while certificates.is_empty()
        && let Some(file) = system.next()
    {
        certificates = read(Path::new(file)).unwrap_or_default();
    }
    let own = certificates.len();
    for directory in get("SSL_CERT_DIR").iter().flat_map(std::env::split_paths) {
        match files(&directory) {
            Ok(files) => {
                let files = files.iter().filter_map(|file| read(file).ok());
                certificates.extend(files.flatten());
            }
            Err(error) => warnings.push(format!(
                "SSL_CERT_DIR names `{}`, which is not used: {error}",
                directory.display()
            )),
        }
    }
    match own {
        // Mozilla's cannot be combined with others.
        0 if certificates.is_empty() => RootCerts::WebPki,
        _ => RootCerts::new_with_certs(&certificates),
    }
}

fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?;
    let mut files: Vec<PathBuf> = entries
        .take(MAX_FILES)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    Ok(files)
}

/// The certificates of a PEM file. The error says why there are none.
fn read(file: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let metadata = fs::metadata(file).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_SIZE {
        return Err(format!("it is not a file of at most {MAX_FILE_SIZE} bytes"));
    }
    let pem = fs::read(file).map_err(|error| error.to_string())?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err("it has no certificate".to_string());
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root certificate, made for this test alone.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

    fn count(settings: &[(&str, &Path)], warnings: &mut Vec<String>) -> usize {
        let get = |name: &str| {
            let found = settings.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| value.as_os_str().to_owned())
        };
        match root_certificates(get, warnings) {
            RootCerts::Specific(certificates) => certificates.len(),
            _ => 0,
        }
    }

    #[test]
    fn a_directory_s_certificates_are_added_to_a_file_s() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file.pem");
        let more = directory.path().join("more");
        fs::create_dir_all(more.join("no-file")).unwrap();
        fs::write(&file, CERTIFICATE.repeat(2)).unwrap();
        fs::write(more.join("a1b2c3d4.0"), CERTIFICATE).unwrap();
        fs::write(more.join("README"), "no certificate").unwrap();
        let mut warnings = Vec::new();
        let both = [("SSL_CERT_FILE", file.as_path()), ("SSL_CERT_DIR", &more)];
        assert_eq!(count(&both, &mut warnings), 3);
        assert_eq!(count(&both[..1], &mut warnings), 2);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn what_is_named_and_cannot_be_read_is_told() {
        let gone = Path::new("/nonexistent/ca.pem");
        for name in ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            let mut warnings = Vec::new();
            count(&[(name, gone)], &mut warnings);
            let expected = format!(
                "{name} names `/nonexistent/ca.pem`, which is not used: No such file or directory (os \
                 error 2)"
            );
            assert_eq!(warnings, [expected]);
        }
    }
}
