//! Access keys for buckets, in exchange for a token that the platform gives to the build.
//!
//! API: `AssumeRoleWithWebIdentity` of AWS's Security Token Service (STS), which others speak as well.

use crate::S3Credentials;
use http_client::{ApiRequest, Http, HttpError};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use url::{Url, form_urlencoded};

/// The largest token or answer that is read, in bytes: three times what STS takes.
const MAX_SIZE: u64 = 64 * 1024;

/// The name of a session that `AWS_ROLE_SESSION_NAME` does not name. It is in the bucket's logs.
const SESSION: &str = "nix-hydra-buildpack";

/// A token in a file, and the role that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebIdentity {
    token_file: PathBuf,
    role: String,
    session: String,
    sts: Url,
}

/// Why there is no access key for a token.
#[derive(Debug, thiserror::Error)]
pub enum WebIdentityError {
    #[error("the token {path} cannot be read: {1}", path = .0.display())]
    Token(PathBuf, #[source] io::Error),
    #[error("the token service {0} cannot be asked: {1}")]
    Http(Url, #[source] HttpError),
    /// The status, and STS's word for the reason.
    #[error("the token service {0} refuses the token: {1}, `{2}`")]
    Refused(Url, HttpError, String),
    #[error("the token service {0} sent no access key")]
    Answer(Url),
}

impl WebIdentity {
    /// The one that the environment describes. `bucket_region` is the region whose service is asked if
    /// the environment has none.
    pub(crate) fn of_environment(
        get: &dyn Fn(&str) -> Option<String>,
        bucket_region: &str,
    ) -> Option<Self> {
        let own_service = || {
            let region = get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION"));
            let region = region.as_deref().unwrap_or(bucket_region);
            format!("https://sts.{region}.amazonaws.com")
        };
        let sts = get("AWS_ENDPOINT_URL_STS").or_else(|| get("AWS_ENDPOINT_URL"));
        let sts: Url = sts.unwrap_or_else(own_service).parse().ok()?;
        Some(Self {
            token_file: get("AWS_WEB_IDENTITY_TOKEN_FILE")?.into(),
            role: get("AWS_ROLE_ARN")?,
            session: get("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| SESSION.to_string()),
            sts: Some(sts).filter(|sts| matches!(sts.scheme(), "https" | "http"))?,
        })
    }

    /// Exchanges the token for an access key, which is good for an hour.
    pub(crate) fn exchange(&self, http: &Http) -> Result<S3Credentials, WebIdentityError> {
        let token = self
            .token()
            .map_err(|error| WebIdentityError::Token(self.token_file.clone(), error))?;
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", "AssumeRoleWithWebIdentity")
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleArn", &self.role)
            .append_pair("RoleSessionName", &self.session)
            .append_pair("WebIdentityToken", token.trim())
            .finish();
        let answer = http
            .call_api(&self.sts, None, ApiRequest::Form(&form), MAX_SIZE)
            .map_err(|error| WebIdentityError::Http(self.sts.clone(), error))?;
        let text = String::from_utf8_lossy(&answer.body);
        if answer.status != 200 {
            let status = HttpError::Status(answer.status);
            let sts = self.sts.clone();
            return Err(match element(&text, "Code") {
                Some(code) => WebIdentityError::Refused(sts, status, code),
                None => WebIdentityError::Http(sts, status),
            });
        }
        let found = |name| element(&text, name).ok_or(WebIdentityError::Answer(self.sts.clone()));
        Ok(S3Credentials {
            access_key_id: found("AccessKeyId")?,
            secret_access_key: found("SecretAccessKey")?,
            session_token: Some(found("SessionToken")?),
            from: self.name(),
        })
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> String {
        format!("the web identity of {}", self.role)
    }

    fn token(&self) -> io::Result<String> {
        let mut token = String::new();
        File::open(&self.token_file)?
            .take(MAX_SIZE)
            .read_to_string(&mut token)?;
        Ok(token)
    }
}

/// The text of the first element of this name in an XML document. What STS sends as such a text has no
/// characters that XML would escape.
fn element(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let text = text.trim();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_.-".contains(&byte);
    text.bytes().all(is_plain).then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(environment: &[(&str, &str)]) -> Option<WebIdentity> {
        let get = |name: &str| {
            let found = environment.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_string())
        };
        WebIdentity::of_environment(&get, "eu-west-1")
    }

    #[test]
    fn a_token_is_for_the_region_s_service_unless_another_is_named() {
        let own = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/x"),
        ];
        for (more, expected) in [
            (&[][..], "https://sts.eu-west-1.amazonaws.com/"),
            (
                &[("AWS_REGION", "eu-north-1")],
                "https://sts.eu-north-1.amazonaws.com/",
            ),
            (
                &[("AWS_ENDPOINT_URL", "http://minio:9000")],
                "http://minio:9000/",
            ),
        ] {
            let found = found(&[&own, more].concat()).unwrap();
            assert_eq!(found.sts.as_str(), expected);
            assert_eq!(found.session, SESSION);
        }
        assert_eq!(found(&own[..1]), None);
        assert_eq!(found(&own[1..]), None);
    }

    #[test]
    fn an_element_is_a_plain_text() {
        let document = "<a><Code>ExpiredToken</Code>\n<b> x+/=\n</b><c>&lt;</c></a>";
        assert_eq!(element(document, "Code").as_deref(), Some("ExpiredToken"));
        assert_eq!(element(document, "b").as_deref(), Some("x+/="));
        assert_eq!(element(document, "c"), None);
        assert_eq!(element(document, "d"), None);
    }
}
