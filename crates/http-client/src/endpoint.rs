//! The URL of a server as users write it, with credentials.

use crate::{Credentials, HttpError};
use std::fmt;
use std::str::FromStr;
use url::Url;

/// A server's URL and the credentials for it. It is printed without them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The URL without user, password, query and fragment, and with a slash at its end.
    pub base: Url,
    pub credentials: Option<Credentials>,
    /// Where the credentials are from, such as `the netrc file /etc/nix/netrc`; empty without any.
    pub credentials_from: String,
}

/// Why a text is not the URL of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("it is not a URL")]
    NotAUrl,
    /// Only `https`, `http` and `file` can be read.
    #[error("its scheme is not `https`, `http` or `file`")]
    Scheme,
    /// A `file` URL with a host: `file://host/…`, usually a forgotten slash.
    #[error("a `file` URL has no host")]
    FileHost,
}

impl Endpoint {
    /// Takes credentials, query and fragment out of `base`.
    pub fn new(mut base: Url) -> Result<Self, EndpointError> {
        if !matches!(base.scheme(), "https" | "http" | "file") {
            return Err(EndpointError::Scheme);
        }
        if base.scheme() == "file" && base.has_host() {
            return Err(EndpointError::FileHost);
        }
        let credentials = Credentials::take_from(&mut base);
        let credentials_from = credentials.as_ref().map_or("", |_| "its URL").to_string();
        base.set_query(None);
        base.set_fragment(None);
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        Ok(Self {
            base,
            credentials,
            credentials_from,
        })
    }

    /// Gives it `credentials` unless it has some. `from` is where they are from.
    pub fn give(&mut self, credentials: Option<Credentials>, from: &str) {
        if self.credentials.is_none() && credentials.is_some() {
            self.credentials = credentials;
            self.credentials_from = from.to_string();
        }
    }

    /// Gives it the credentials of `other` unless it has some.
    pub fn share(&mut self, other: &Self) {
        self.give(other.credentials.clone(), &other.credentials_from);
    }

    /// `error`, with whether credentials were sent, and where they are from, if the server asks for
    /// credentials.
    pub fn explain(&self, error: HttpError) -> HttpError {
        match error {
            HttpError::Status(401) => HttpError::Unauthorized(sent(&self.credentials_from)),
            other => other,
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(Url::parse(text).map_err(|_| EndpointError::NotAUrl)?)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.base.as_str();
        formatter.write_str(text.strip_suffix('/').unwrap_or(text))
    }
}

/// Whether credentials were sent, and where they are from; `from` is empty if there were none.
pub fn sent(from: &str) -> String {
    match from {
        "" => "no credentials for it were found".to_string(),
        from => format!("the credentials of {from} were sent"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_wants_credentials_is_told_with_those_that_it_got() {
        let mut endpoint: Endpoint = "https://cache.acme.net".parse().unwrap();
        let told = |endpoint: &Endpoint| endpoint.explain(HttpError::Status(401)).to_string();
        assert_eq!(
            told(&endpoint),
            "HTTP status 401 Unauthorized; no credentials for it were found"
        );
        let token = Some(Credentials::Bearer("hunter2".into()));
        endpoint.give(token.clone(), "the binding /bindings/acme");
        endpoint.give(token, "the netrc file /etc/nix/netrc");
        assert_eq!(
            told(&endpoint),
            "HTTP status 401 Unauthorized; the credentials of the binding /bindings/acme were sent"
        );
        let of_url: Endpoint = "https://u:p@cache.acme.net".parse().unwrap();
        assert!(told(&of_url).ends_with("the credentials of its URL were sent"));
    }

    #[test]
    fn it_is_printed_as_the_user_knows_it_but_without_credentials() {
        let url: Endpoint = "https://token:x@acme.cachix.org/".parse().unwrap();
        assert_eq!(url.to_string(), "https://acme.cachix.org");
    }

    #[test]
    fn a_file_is_on_this_machine() {
        for text in ["file:///cache", "file:/cache", "file://localhost/cache"] {
            let url: Endpoint = text.parse().unwrap();
            assert_eq!(url.base.as_str(), "file:///cache/");
        }
        let error = "file://cache/nix".parse::<Endpoint>();
        assert_eq!(error, Err(EndpointError::FileHost));
    }

    #[test]
    fn names_are_joined_below_a_path_prefix_with_or_without_a_slash() {
        for text in ["http://cache/nix", "http://cache/nix/"] {
            let url: Endpoint = text.parse().unwrap();
            assert_eq!(
                url.base.join("nar/x.nar.xz").unwrap().as_str(),
                "http://cache/nix/nar/x.nar.xz"
            );
        }
    }
}
