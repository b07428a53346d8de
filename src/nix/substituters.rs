//! The build's binary caches as Nix's own settings, for what an evaluation needs of them.
//!
//! Nix asks them for pinned sources by store path before it goes to a URL, and for what a build
//! needs. The closure itself is downloaded by this project's own client.

use crate::cache::CacheUrl;
use crate::config::{Config, TrustSettings};
use crate::http::Credentials;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The binary caches of a build, and whose signatures count.
#[derive(Debug, Clone)]
pub struct Substituters {
    caches: Vec<CacheUrl>,
    trust: TrustSettings,
}

impl Substituters {
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            caches: config.caches.clone(),
            trust: config.trust.clone(),
        }
    }

    /// Lines of `nix.conf`.
    #[must_use]
    pub fn settings(&self) -> String {
        let urls: Vec<String> = self.caches.iter().map(|cache| self.url(cache)).collect();
        let keys: Vec<String> = self
            .trust
            .keys
            .iter()
            .map(|key| {
                format!(
                    "{}:{}",
                    key.name,
                    BASE64_STANDARD.encode(key.key.as_bytes())
                )
            })
            .collect();
        format!(
            "substituters = {}\ntrusted-public-keys = {}\nrequire-sigs = true\n",
            urls.join(" "),
            keys.join(" ")
        )
    }

    /// A cache's URL with Nix's store parameters.
    fn url(&self, cache: &CacheUrl) -> String {
        let mut parameters = Vec::new();
        if let Some(priority) = cache.priority {
            parameters.push(format!("priority={priority}"));
        }
        if cache.trusted || !(self.trust.required || cache.must_sign) {
            parameters.push("trusted=true".to_string());
        }
        let base = cache.base.as_str().trim_end_matches('/');
        if parameters.is_empty() {
            base.to_string()
        } else {
            format!("{base}?{}", parameters.join("&"))
        }
    }

    /// Writes the credentials where nobody else can read them. A token is a password without a
    /// user, as Cachix and attic have it in a netrc file.
    pub fn write_netrc(&self, file: &Path) -> io::Result<()> {
        let mut text = String::new();
        for cache in &self.caches {
            let host = cache.base.host_str().unwrap_or_default();
            // Writing to a string does not fail.
            let _ = match &cache.credentials {
                // A Hydra's cookie is left out, which Nix cannot be told.
                Some(
                    Credentials::Basic { user, password }
                    | Credentials::Session { user, password, .. },
                ) => {
                    writeln!(text, "machine {host} login {user} password {password}")
                }
                Some(Credentials::Bearer(token)) => {
                    writeln!(text, "machine {host} password {token}")
                }
                None => Ok(()),
            };
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)?
            .write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn credentials_are_in_the_netrc_file_alone() {
        let substituters = Substituters {
            caches: [
                "https://user:hunter2@cache.example.org/x?priority=3",
                "file:///cache?trusted=true",
            ]
            .map(|url| url.parse().unwrap())
            .into(),
            trust: TrustSettings {
                keys: vec![
                    "acme-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
                        .parse()
                        .unwrap(),
                ],
                required: true,
            },
        };
        assert_eq!(
            substituters.settings(),
            "substituters = https://cache.example.org/x?priority=3 file:///cache?trusted=true\n\
             trusted-public-keys = acme-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\n\
             require-sigs = true\n"
        );
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("netrc");
        substituters.write_netrc(&file).unwrap();
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            "machine cache.example.org login user password hunter2\n"
        );
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
