//! S3 buckets as binary caches, as `s3://BUCKET?PARAMETERS`.
//!
//! Parameters: Nix's `s3-binary-cache-store`. Requests are signed in their URLs (AWS Signature Version
//! 4), so the HTTP client and resumed downloads need not know of it. Without credentials nothing is
//! signed, as for public buckets.

use crate::web_identity::{WebIdentity, WebIdentityError};
use http_client::Http;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use std::fmt;
use std::time::Duration;
use url::Url;

/// How long a signed URL may be used: longer than any build, since a download may be resumed.
const VALID_FOR: Duration = Duration::from_hours(12);

/// Nix's default for `region`.
const DEFAULT_REGION: &str = "us-east-1";

/// The largest shared credentials file, in bytes.
const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// A bucket, and the credentials for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Bucket {
    bucket: Bucket,
    /// The section of the shared credentials file that `?profile=` names.
    profile: Option<String>,
    pub credentials: Option<S3Credentials>,
    /// Exchanged for credentials where there are none.
    web_identity: Option<WebIdentity>,
}

/// An access key. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    /// Of temporary credentials.
    pub session_token: Option<String>,
    /// Where it is from, as messages name it.
    pub from: String,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("S3Credentials(…)")
    }
}

impl S3Bucket {
    /// Reads a URL of the scheme `s3`; None if its bucket or a parameter cannot be used.
    pub(crate) fn parse(url: &Url) -> Option<Self> {
        let parameter = |name: &str| {
            let mut pairs = url.query_pairs();
            let found = pairs.find(|(other, value)| other == name && !value.is_empty());
            found.map(|(_, value)| value.into_owned())
        };
        let name = url.host_str()?.to_string();
        let region = parameter("region").unwrap_or_else(|| DEFAULT_REGION.to_string());
        let scheme = parameter("scheme").unwrap_or_else(|| "https".to_string());
        let endpoint = parameter("endpoint");
        let style = match parameter("addressing-style").as_deref() {
            Some("path") => UrlStyle::Path,
            // A certificate for `*.s3.….amazonaws.com` has no further dots.
            Some("auto") | None if endpoint.is_some() || name.contains('.') => UrlStyle::Path,
            Some("auto" | "virtual") | None => UrlStyle::VirtualHost,
            Some(_) => return None,
        };
        let host = endpoint.unwrap_or_else(|| format!("s3.{region}.amazonaws.com"));
        let host = host
            .split_once("://")
            .map_or(host.as_str(), |(_, host)| host);
        let endpoint: Url = format!("{scheme}://{host}").parse().ok()?;
        if !matches!(endpoint.scheme(), "https" | "http") {
            return None;
        }
        Some(Self {
            bucket: Bucket::new(endpoint, style, name, region).ok()?,
            profile: parameter("profile"),
            credentials: None,
            web_identity: None,
        })
    }

    /// The URL of the bucket's objects, with a slash at its end.
    pub(crate) fn base(&self) -> &Url {
        self.bucket.base_url()
    }

    pub(crate) fn name(&self) -> &str {
        self.bucket.name()
    }

    /// `url` with a signature, if it is one of the bucket's and there are credentials.
    pub(crate) fn signed(&self, url: &Url) -> Option<Url> {
        let credentials = self.credentials.as_ref()?;
        let path = url.as_str().strip_prefix(self.base().as_str())?;
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let path = percent_encoding::percent_decode_str(path)
            .decode_utf8()
            .ok()?;
        let (key, secret) = (&credentials.access_key_id, &credentials.secret_access_key);
        let credentials = match &credentials.session_token {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        };
        Some(
            self.bucket
                .get_object(Some(&credentials), &path)
                .sign(VALID_FOR),
        )
    }

    /// Sets the credentials that the environment has: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and
    /// `AWS_SESSION_TOKEN`, else the profile's in the shared credentials file, else a web identity, in
    /// Nix's order. Ones that are set are kept.
    pub fn find_credentials(&mut self, get: &dyn Fn(&str) -> Option<String>) {
        if self.credentials.is_none() {
            let named = self.profile.as_deref();
            let of_environment = || S3Credentials::of_environment(get).filter(|_| named.is_none());
            self.credentials = of_environment().or_else(|| S3Credentials::of_file(get, named));
            self.web_identity = WebIdentity::of_environment(get, self.bucket.region());
        }
    }

    /// Where its credentials are from, as messages name it; empty if there are none.
    pub(crate) fn credentials_from(&self) -> String {
        let own = self.credentials.as_ref().map(|own| own.from.clone());
        own.or_else(|| self.web_identity.as_ref().map(WebIdentity::name))
            .unwrap_or_default()
    }

    /// Exchanges a web identity for credentials, unless there are some.
    pub(crate) fn sign_in(&mut self, http: &Http) -> Result<(), WebIdentityError> {
        if self.credentials.is_none()
            && let Some(identity) = &self.web_identity
        {
            self.credentials = Some(identity.exchange(http)?);
        }
        Ok(())
    }
}

impl S3Credentials {
    fn of_environment(get: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        Some(Self {
            access_key_id: get("AWS_ACCESS_KEY_ID")?,
            secret_access_key: get("AWS_SECRET_ACCESS_KEY")?,
            session_token: get("AWS_SESSION_TOKEN"),
            from: "AWS_ACCESS_KEY_ID".to_string(),
        })
    }

    fn of_file(get: &dyn Fn(&str) -> Option<String>, profile: Option<&str>) -> Option<Self> {
        let own = || Some(format!("{}/.aws/credentials", get("HOME")?));
        let file = get("AWS_SHARED_CREDENTIALS_FILE").or_else(own)?;
        let metadata = std::fs::metadata(&file).ok()?;
        if !metadata.is_file() || metadata.len() > MAX_FILE_SIZE {
            return None;
        }
        let named = || get("AWS_PROFILE").unwrap_or_else(|| "default".to_string());
        let profile = profile.map_or_else(named, str::to_string);
        let from = format!("the profile `{profile}` of {file}");
        Self::of_profile(&std::fs::read_to_string(&file).ok()?, &profile, from)
    }

    /// Reads a section of a shared credentials file: an INI file.
    fn of_profile(text: &str, profile: &str, from: String) -> Option<Self> {
        let heading = format!("[{profile}]");
        let lines = text.lines().map(str::trim);
        let section = lines.skip_while(|line| *line != heading).skip(1);
        let section: Vec<&str> = section.take_while(|line| !line.starts_with('[')).collect();
        let value = |name: &str| {
            let mut pairs = section.iter().filter_map(|line| line.split_once('='));
            let found = pairs.find(|(other, _)| other.trim() == name);
            found.map(|(_, value)| value.trim().to_string())
        };
        Some(Self {
            access_key_id: value("aws_access_key_id")?,
            secret_access_key: value("aws_secret_access_key")?,
            session_token: value("aws_session_token"),
            from,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(text: &str) -> Option<S3Bucket> {
        S3Bucket::parse(&text.parse().unwrap())
    }

    #[test]
    fn a_bucket_is_where_its_parameters_say() {
        for (text, base) in [
            (
                "s3://acme",
                Some("https://acme.s3.us-east-1.amazonaws.com/"),
            ),
            (
                "s3://acme?region=eu-west-1",
                Some("https://acme.s3.eu-west-1.amazonaws.com/"),
            ),
            ("s3://a.b", Some("https://s3.us-east-1.amazonaws.com/a.b/")),
            (
                "s3://acme?endpoint=minio:9000&scheme=http",
                Some("http://minio:9000/acme/"),
            ),
            (
                "s3://acme?endpoint=s3.example.org&addressing-style=virtual",
                Some("https://acme.s3.example.org/"),
            ),
            ("s3://acme?scheme=ftp", None),
            ("s3://acme?addressing-style=other", None),
        ] {
            let found = bucket(text);
            assert_eq!(
                found.as_ref().map(|bucket| bucket.base().as_str()),
                base,
                "{text}"
            );
        }
    }

    #[test]
    fn only_the_bucket_s_own_urls_are_signed_and_only_with_credentials() {
        let mut bucket = bucket("s3://acme?endpoint=minio:9000&scheme=http").unwrap();
        let own: Url = "http://minio:9000/acme/nar/a%20b.nar".parse().unwrap();
        let other: Url = "http://minio:9000/other/x".parse().unwrap();
        assert_eq!(bucket.signed(&own), None);
        bucket.credentials = Some(S3Credentials {
            access_key_id: "AK".into(),
            secret_access_key: "hunter2".into(),
            session_token: Some("token".into()),
            from: String::new(),
        });
        let signed = bucket.signed(&own).unwrap();
        assert_eq!(signed.path(), own.path());
        for part in [
            "X-Amz-Credential=AK%2F",
            "X-Amz-Security-Token=token",
            "X-Amz-Signature=",
        ] {
            assert!(signed.as_str().contains(part), "{signed}");
        }
        assert_eq!(bucket.signed(&other), None);
        assert!(!format!("{bucket:?}{signed}").contains("hunter2"));
    }

    #[test]
    fn a_web_identity_is_told_as_the_origin_of_what_it_is_exchanged_for() {
        let mut bucket = bucket("s3://acme").unwrap();
        assert_eq!(bucket.credentials_from(), "");
        let get = |name: &str| match name {
            "AWS_WEB_IDENTITY_TOKEN_FILE" | "AWS_ROLE_ARN" => Some("reader".to_string()),
            _ => None,
        };
        bucket.find_credentials(&get);
        assert_eq!(bucket.credentials_from(), "the web identity of reader");
    }

    #[test]
    fn credentials_are_the_environment_s_or_the_profile_s_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("credentials");
        let text = "[default]\naws_access_key_id = A\naws_secret_access_key=a\n\n[ci]\n\
                    aws_access_key_id = B\naws_secret_access_key = b\naws_session_token = t\n";
        std::fs::write(&file, text).unwrap();
        let file = file.display().to_string();
        let found = |url: &str, environment: &[(&str, &str)]| {
            let get = |name: &str| {
                let found = environment.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| (*value).to_string())
            };
            let mut bucket = bucket(url).unwrap();
            bucket.find_credentials(&get);
            bucket
                .credentials
                .map(|found| (found.access_key_id, found.session_token))
        };
        let shared = ("AWS_SHARED_CREDENTIALS_FILE", file.as_str());
        let own = [
            ("AWS_ACCESS_KEY_ID", "E"),
            ("AWS_SECRET_ACCESS_KEY", "e"),
            shared,
        ];
        let token = Some("t".to_string());
        assert_eq!(found("s3://x", &[]), None);
        assert_eq!(found("s3://x", &own), Some(("E".into(), None)));
        assert_eq!(found("s3://x", &[shared]), Some(("A".into(), None)));
        assert_eq!(
            found("s3://x?profile=ci", &own),
            Some(("B".into(), token.clone()))
        );
        assert_eq!(
            found("s3://x", &[shared, ("AWS_PROFILE", "ci")]),
            Some(("B".into(), token))
        );
    }
}
