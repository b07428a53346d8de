//! The build's binary caches as Nix's own settings, for what an evaluation needs of them.
//!
//! Nix asks them for pinned sources by store path before it goes to a URL, and for what a build
//! needs. The closure itself is downloaded by this project's own client.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use binary_cache::credentials::Netrc;
use binary_cache::{CacheUrl, TrustSettings};
use http_client::Credentials;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The binary caches of a build, and whose signatures count.
#[derive(Debug, Clone)]
pub struct Substituters {
    caches: Vec<CacheUrl>,
    netrc: Netrc,
    trust: TrustSettings,
}

impl Substituters {
    #[must_use]
    pub fn new(caches: Vec<CacheUrl>, trust: TrustSettings, netrc: Netrc) -> Self {
        Self {
            caches,
            netrc,
            trust,
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
        let base = cache.endpoint.base.as_str().trim_end_matches('/');
        if parameters.is_empty() {
            base.to_string()
        } else {
            format!("{base}?{}", parameters.join("&"))
        }
    }

    /// Writes the credentials where nobody else can read them: the caches' own, which come first since
    /// the first entry for a host counts, then those of other hosts that the user's netrc names. What
    /// it has for any host is left out: the expression says which servers Nix asks.
    pub fn write_netrc(&self, file: &Path) -> io::Result<()> {
        let caches = self.caches.iter().filter_map(|cache| {
            let credentials = cache.endpoint.credentials.clone()?;
            Some((cache.endpoint.base.host_str()?, credentials))
        });
        let text: String = caches
            .chain(self.netrc.hosts())
            .filter_map(|(host, credentials)| netrc_entry(host, &credentials))
            .collect();
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)?
            .write_all(text.as_bytes())
    }
}

/// A line of a netrc file, as curl reads it (`lib/netrc.c`). A token is a password without a user, as
/// Cachix and attic have it. Nothing where there is a control character, which a line cannot have;
/// and a Hydra's cookie is left out, which Nix cannot be told.
fn netrc_entry(host: &str, credentials: &Credentials) -> Option<String> {
    let (user, password) = match credentials {
        Credentials::Basic { user, password } | Credentials::Session { user, password, .. } => {
            (user.as_str(), password.as_str())
        }
        Credentials::Bearer(token) => ("", token.as_str()),
    };
    let mut words = Vec::new();
    for (name, word) in [("machine", host), ("login", user), ("password", password)] {
        if word.contains(char::is_control) {
            return None;
        }
        // Where there is no word, the next one would be taken for it.
        if !word.is_empty() {
            let word = word.replace('\\', r"\\").replace('"', "\\\"");
            words.push(format!("{name} \"{word}\""));
        }
    }
    Some(words.join(" ") + "\n")
}

#[cfg(test)]
mod tests {
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
            netrc: Netrc::parse("machine git.example.org password t0ken\ndefault password all"),
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
            "machine \"cache.example.org\" login \"user\" password \"hunter2\"\n\
             machine \"git.example.org\" password \"t0ken\"\n"
        );
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
