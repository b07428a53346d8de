//! The build's binary caches, for what an evaluation needs of them: as this project's own client asks
//! them, and as Nix's own settings for what is built.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use binary_cache::credentials::Netrc;
use binary_cache::{CacheUrl, Caches, TrustSettings};
use http_client::{Credentials, Http};
use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

/// Tokens for the servers of flake inputs, each as `nix.conf` has it: `github.com=…`.
#[derive(Clone, Default)]
pub struct AccessTokens(Vec<String>);

/// Never prints what it holds.
impl fmt::Debug for AccessTokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AccessTokens(…)")
    }
}

impl AccessTokens {
    /// Reads tokens that are separated by white space. None where one has no host.
    pub fn parse(text: &str) -> Option<Self> {
        let tokens = text.split_whitespace().map(|token| {
            let (host, secret) = token.split_once('=')?;
            (!host.is_empty() && !secret.is_empty()).then(|| token.to_string())
        });
        tokens.collect::<Option<_>>().map(Self)
    }

    /// These, then those of another.
    #[must_use]
    pub fn then(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// The binary caches of a build, and whose signatures count.
#[derive(Debug)]
pub struct Substituters {
    /// What they answer to this project's own client; opened once something is asked for.
    opened: OnceLock<Caches>,
    caches: Vec<CacheUrl>,
    netrc: Netrc,
    trust: TrustSettings,
    access_tokens: AccessTokens,
}

impl Substituters {
    pub fn new(
        caches: Vec<CacheUrl>,
        trust: TrustSettings,
        netrc: Netrc,
        access_tokens: AccessTokens,
    ) -> Self {
        Self {
            opened: OnceLock::new(),
            caches,
            netrc,
            trust,
            access_tokens,
        }
    }

    /// The caches as this project's own client asks them.
    pub fn caches(&self) -> &Caches {
        self.opened.get_or_init(|| {
            let trust = self.trust.clone();
            Caches::open(&self.caches, trust, &Http::new(), &hydra::sign_in)
        })
    }

    pub fn trust(&self) -> &TrustSettings {
        &self.trust
    }

    /// Lines of `nix.conf`.
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
        let mut settings = format!(
            "substituters = {}\ntrusted-public-keys = {}\nrequire-sigs = true\n",
            urls.join(" "),
            keys.join(" ")
        );
        if !self.access_tokens.0.is_empty() {
            let tokens = self.access_tokens.0.join(" ");
            let _ = writeln!(settings, "access-tokens = {tokens}");
        }
        settings
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
    /// the first entry for a host counts, then those of other hosts that the user's netrc names, then what
    /// it has for any host.
    pub fn write_netrc(&self, file: &Path) -> io::Result<()> {
        let caches = self.caches.iter().filter_map(|cache| {
            let credentials = cache.endpoint.credentials.clone()?;
            Some((cache.endpoint.base.host_str()?, credentials))
        });
        let mut text: String = caches
            .chain(self.netrc.hosts())
            .filter_map(|(host, credentials)| netrc_entry(Some(host), &credentials))
            .collect();
        let default = self.netrc.default_entry();
        text.extend(default.and_then(|credentials| netrc_entry(None, &credentials)));
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)?
            .write_all(text.as_bytes())
    }
}

/// A line of a netrc file, as curl reads it (`lib/netrc.c`), for any host where none is named. A token is a
/// password without a user, as Cachix and attic have it. Nothing where there is a control character, which a
/// line cannot have; and a Hydra's cookie is left out, which Nix cannot be told.
fn netrc_entry(host: Option<&str>, credentials: &Credentials) -> Option<String> {
    let (user, password) = match credentials {
        Credentials::Basic { user, password } | Credentials::Session { user, password, .. } => {
            (user.as_str(), password.as_str())
        }
        Credentials::Bearer(token) => ("", token.as_str()),
    };
    let mut words = Vec::from_iter(host.is_none().then(|| "default".to_string()));
    for (name, word) in [
        ("machine", host.unwrap_or_default()),
        ("login", user),
        ("password", password),
    ] {
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
            opened: OnceLock::new(),
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
            access_tokens: AccessTokens::parse("github.com=s3cret").unwrap(),
        };
        assert!(!format!("{substituters:?}").contains("s3cret"));
        assert_eq!(
            substituters.settings(),
            "substituters = https://cache.example.org/x?priority=3 file:///cache?trusted=true\n\
             trusted-public-keys = acme-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\n\
             require-sigs = true\n\
             access-tokens = github.com=s3cret\n"
        );
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("netrc");
        substituters.write_netrc(&file).unwrap();
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            "machine \"cache.example.org\" login \"user\" password \"hunter2\"\n\
             machine \"git.example.org\" password \"t0ken\"\n\
             default password \"all\"\n"
        );
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
