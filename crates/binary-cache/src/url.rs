//! The URL of a binary cache as users write it: with credentials and Nix's store parameters.

use crate::S3Bucket;
use http_client::{Endpoint, EndpointError};
use std::fmt;
use std::str::FromStr;
use url::Url;

/// A binary cache's URL and its store parameters. It is printed without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheUrl {
    pub endpoint: Endpoint,
    /// Nix's `?priority=`, which overrides the cache's own.
    pub priority: Option<u32>,
    /// Nix's `?trusted=true`: its paths need no signature.
    pub trusted: bool,
    /// Whether its paths need a signature even if the user names no key: one of the default cache's
    /// is known.
    pub must_sign: bool,
    /// The bucket of an `s3` URL, whose objects are at `endpoint`.
    pub s3: Option<S3Bucket>,
}

/// Why a text is not the URL of a binary cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CacheUrlError {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A bucket's name, or `scheme`, `endpoint` or `addressing-style`.
    #[error("its bucket or its parameters cannot be used")]
    S3,
    #[error("`priority` is not a whole number")]
    Priority,
    #[error("`trusted` is neither `true` nor `false`")]
    Trusted,
}

impl From<Endpoint> for CacheUrl {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            priority: None,
            trusted: false,
            must_sign: false,
            s3: None,
        }
    }
}

impl FromStr for CacheUrl {
    type Err = CacheUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|_| EndpointError::NotAUrl)?;
        let s3 = match url.scheme() {
            "s3" => Some(S3Bucket::parse(&url).ok_or(CacheUrlError::S3)?),
            _ => None,
        };
        let base = s3.as_ref().map_or(&url, S3Bucket::base).clone();
        let mut cache = Self::from(Endpoint::new(base)?);
        cache.s3 = s3;
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "priority" => {
                    cache.priority = Some(value.parse().map_err(|_| CacheUrlError::Priority)?);
                }
                "trusted" => {
                    cache.trusted = match value.as_ref() {
                        "1" | "true" => true,
                        "0" | "false" => false,
                        _ => return Err(CacheUrlError::Trusted),
                    };
                }
                // The others (`compression`, `secret-key`, …) are for writing to a cache.
                _ => {}
            }
        }
        Ok(cache)
    }
}

impl fmt::Display for CacheUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.s3 {
            Some(bucket) => write!(formatter, "s3://{}", bucket.name()),
            None => self.endpoint.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_client::Credentials;

    #[test]
    fn parameters_and_credentials_are_taken_out_of_the_url() {
        let url: CacheUrl = "http://deploy:p%40ss@cache.acme.net:5000/nix?priority=10&trusted=1"
            .parse()
            .unwrap();
        assert_eq!(
            url.endpoint.base.as_str(),
            "http://cache.acme.net:5000/nix/"
        );
        assert_eq!(url.priority, Some(10));
        assert!(url.trusted);
        let expected = Credentials::Basic {
            user: "deploy".into(),
            password: "p@ss".into(),
        };
        assert!(url.endpoint.credentials == Some(expected));
    }
}
