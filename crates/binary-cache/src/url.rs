//! The URL of a binary cache as users write it: with credentials and Nix's store parameters.

use http_client::Credentials;
use std::fmt;
use std::str::FromStr;
use url::Url;

/// A binary cache's URL, taken apart. It is printed without its credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheUrl {
    /// The URL without user, password and parameters, and with a slash at its end.
    pub base: Url,
    pub credentials: Option<Credentials>,
    /// Nix's `?priority=`, which overrides what the cache says of itself.
    pub priority: Option<u32>,
    /// Nix's `?trusted=true`: its paths need no signature.
    pub trusted: bool,
    /// Whether its paths need a signature where nobody has named a key: one of cache.nixos.org's is known.
    pub must_sign: bool,
}

/// Why a text is no URL of a binary cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CacheUrlError {
    #[error("it is not a URL")]
    NotAUrl,
    /// Only `https`, `http` and `file` can be read.
    #[error("its scheme is not `https`, `http` or `file`")]
    Scheme,
    /// What stands behind `file://` is a host: a slash was forgotten.
    #[error("a `file` URL has no host")]
    FileHost,
    #[error("`priority` is not a whole number")]
    Priority,
    #[error("`trusted` is neither `true` nor `false`")]
    Trusted,
}

impl CacheUrl {
    /// `text` with a user and password in it left out, for messages about a wrong URL.
    #[must_use]
    pub fn without_credentials(text: &str) -> String {
        // How many slashes there are, and which, means little to a URL: only reading it tells.
        if let Ok(mut url) = Url::parse(text)
            && url.has_host()
        {
            return match Credentials::take_from(&mut url) {
                Some(_) => url.to_string(),
                None => text.to_string(),
            };
        }
        // In what is no URL nobody can tell where the password ends, which may hold any character.
        let Some((before, host)) = text.rsplit_once('@') else {
            return text.to_string();
        };
        let is_scheme = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric());
        match before.split_once("://") {
            Some((scheme, _)) if is_scheme(scheme) => format!("{scheme}://{host}"),
            _ => host.to_string(),
        }
    }
}

impl FromStr for CacheUrl {
    type Err = CacheUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut base = Url::parse(text).map_err(|_| CacheUrlError::NotAUrl)?;
        if !matches!(base.scheme(), "https" | "http" | "file") {
            return Err(CacheUrlError::Scheme);
        }
        if base.scheme() == "file" && base.has_host() {
            return Err(CacheUrlError::FileHost);
        }
        let mut priority = None;
        let mut trusted = false;
        for (name, value) in base.query_pairs() {
            match name.as_ref() {
                "priority" => {
                    priority = Some(value.parse().map_err(|_| CacheUrlError::Priority)?);
                }
                "trusted" => {
                    trusted = match value.as_ref() {
                        "1" | "true" => true,
                        "0" | "false" => false,
                        _ => return Err(CacheUrlError::Trusted),
                    };
                }
                // The others (`compression`, `secret-key`, …) matter to whoever writes to a cache.
                _ => {}
            }
        }
        let credentials = Credentials::take_from(&mut base);
        base.set_query(None);
        base.set_fragment(None);
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        Ok(Self {
            base,
            credentials,
            priority,
            trusted,
            must_sign: false,
        })
    }
}

impl fmt::Display for CacheUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.base.as_str();
        formatter.write_str(text.strip_suffix('/').unwrap_or(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_credentials_are_taken_out_of_the_url() {
        let url: CacheUrl = "http://deploy:p%40ss@cache.acme.net:5000/nix?priority=10&trusted=1"
            .parse()
            .unwrap();
        assert_eq!(url.base.as_str(), "http://cache.acme.net:5000/nix/");
        assert_eq!(url.priority, Some(10));
        assert!(url.trusted);
        let expected = Credentials::Basic {
            user: "deploy".into(),
            password: "p@ss".into(),
        };
        assert!(url.credentials == Some(expected));
    }

    #[test]
    fn it_is_printed_as_the_user_knows_it_but_without_credentials() {
        let url: CacheUrl = "https://token:x@acme.cachix.org/".parse().unwrap();
        assert_eq!(url.to_string(), "https://acme.cachix.org");
    }

    #[test]
    fn a_file_is_on_this_machine() {
        for text in ["file:///cache", "file:/cache", "file://localhost/cache"] {
            let url: CacheUrl = text.parse().unwrap();
            assert_eq!(url.base.as_str(), "file:///cache/");
        }
        let error = "file://cache/nix".parse::<CacheUrl>();
        assert_eq!(error, Err(CacheUrlError::FileHost));
    }

    #[test]
    fn names_are_joined_below_a_path_prefix_with_or_without_a_slash() {
        for text in ["http://cache/nix", "http://cache/nix/"] {
            let url: CacheUrl = text.parse().unwrap();
            assert_eq!(
                url.base.join("nar/x.nar.xz").unwrap().as_str(),
                "http://cache/nix/nar/x.nar.xz"
            );
        }
    }

    #[test]
    fn credentials_are_cut_out_of_any_text() {
        for (text, shown) in [
            ("ftp://user:pass@host/x@y", "ftp://host/x@y"),
            ("user:pass@host", "host"),
            ("http://host", "http://host"),
            ("http://user:pa/ss@host/x", "http://host/x"),
            ("http://user:pa#ss?@host", "http://host"),
            ("user:pass@host?next=http://x", "host?next=http://x"),
            ("user:pa://ss@host", "host"),
            ("https:/user:pass@host", "https://host/"),
            (
                "https:///user:pass@host?priority=x",
                "https://host/?priority=x",
            ),
            (r"http:\\user:pass@host", "http://host/"),
            ("https:user:pass@host", "https://host/"),
        ] {
            assert_eq!(CacheUrl::without_credentials(text), shown);
        }
    }
}
