//! Why a request failed.

/// Why a request gave no body.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The server answered with a status that is not a success.
    #[error("HTTP status {}", in_words(*.0))]
    Status(u16),
    /// The server asks for credentials, or for other ones: which it got.
    #[error("HTTP status 401 Unauthorized; {0}")]
    Unauthorized(String),
    /// A bucket of S3 refuses a request: the status, and S3's word for the reason.
    #[error("HTTP status {} (`{_1}`{})", in_words(*.0), meaning(_1))]
    Bucket(u16, String),
    /// The server sent no answer within [`Patience`](crate::Patience).
    #[error("no answer in time")]
    NoAnswer,
    /// The server's name does not exist, or has no address.
    #[error("there is no host of this name")]
    NoHost,
    /// The connection failed, or broke before the answer was complete: the reason in a few words.
    #[error("{0}")]
    Transport(String),
    /// A bucket of S3 that is in another region.
    #[error("its bucket is in the region `{0}`: name it with `?region={0}`")]
    OtherRegion(String),
    /// A redirect that is not followed: the reason in a few words.
    #[error("{0}")]
    Redirect(&'static str),
}

impl HttpError {
    /// Whether the server says that it does not have the file.
    ///
    /// S3 answers 403 for an absent object where listing is not allowed; Hydra answers 410 for a
    /// NAR that it has garbage-collected.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Status(403 | 404 | 410))
    }

    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 408 | 429 | 500..=599),
            Self::NoAnswer | Self::Transport(_) => true,
            Self::NoHost
            | Self::Unauthorized(_)
            | Self::Bucket(..)
            | Self::OtherRegion(_)
            | Self::Redirect(_) => false,
        }
    }

    /// Whether the next request to the same server would probably fail, too.
    pub fn is_outage(&self) -> bool {
        self.is_temporary() || matches!(self, Self::NoHost)
    }
}

/// What to do about a reason of S3's, where its name does not say it.
fn meaning(code: &str) -> &'static str {
    match code {
        "ExpiredToken" => ": the session has ended; get a new key and token",
        _ => "",
    }
}

/// `404 Not Found`, or the number alone where it has no name.
fn in_words(status: u16) -> String {
    let name = ureq::http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason());
    match name {
        Some(name) => format!("{status} {name}"),
        None => status.to_string(),
    }
}

impl From<&ureq::Error> for HttpError {
    fn from(error: &ureq::Error) -> Self {
        Self::Transport(match error {
            ureq::Error::Timeout(_) => return Self::NoAnswer,
            ureq::Error::HostNotFound => return Self::NoHost,
            // The standard library's errors of the resolver have no kind of their own.
            ureq::Error::Io(error) if error.to_string().starts_with("failed to lookup address") => {
                return unresolved(&error.to_string());
            }
            ureq::Error::Io(error) => with_certificate_hint(error.to_string()),
            other => with_certificate_hint(other.to_string()),
        })
    }
}

/// The error of a name, by the words of glibc's `gai_strerror(3)` for `EAI_NONAME` and `EAI_NODATA`. All
/// others, such as `EAI_AGAIN`, are about the name servers.
fn unresolved(reason: &str) -> HttpError {
    let is_final = ["Name or service not known", "No address associated"];
    if is_final.iter().any(|text| reason.contains(text)) {
        return HttpError::NoHost;
    }
    HttpError::Transport("the host name cannot be resolved at the moment".to_string())
}

/// Adds the usual cause to a certificate error: a wrong clock, or a private authority.
fn with_certificate_hint(reason: String) -> String {
    if reason.contains("certificate expired") || reason.contains("certificate not valid yet") {
        return format!("{reason}; if that is not so, the clock of this machine is off");
    }
    if reason.contains("UnknownIssuer") {
        return format!(
            "{reason}; if an authority of your own has issued it, set SSL_CERT_FILE to a file with all \
             that are to be trusted, or SSL_CERT_DIR to a directory with those to add"
        );
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn absent_is_what_the_servers_in_use_mean_by_it() {
        for status in [403, 404, 410] {
            assert!(HttpError::Status(status).is_absent());
        }
        for status in [401, 407, 500] {
            assert!(!HttpError::Status(status).is_absent());
        }
    }

    #[test]
    fn a_name_that_does_not_exist_is_told_from_one_that_cannot_be_resolved_now() {
        let error = |reason: &str| {
            let reason = format!("failed to lookup address information: {reason}");
            HttpError::from(&ureq::Error::Io(io::Error::other(reason)))
        };
        for reason in [
            "Name or service not known",
            "No address associated with hostname",
        ] {
            assert!(matches!(error(reason), HttpError::NoHost), "{reason}");
        }
        let now = error("Temporary failure in name resolution");
        assert!(now.is_temporary());
        assert_eq!(
            now.to_string(),
            "the host name cannot be resolved at the moment"
        );
        assert!(HttpError::NoHost.is_outage() && !HttpError::NoHost.is_temporary());
    }
}
