//! How this client identifies itself to one server.

use std::fmt;
use url::Url;

/// Credentials for one server. They are never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Basic {
        user: String,
        password: String,
    },
    Bearer(String),
    /// A session of Hydra: its cookie, as `name=value`. The user and password are sent as well, for
    /// a proxy in front of it that asks for the same.
    Session {
        user: String,
        password: String,
        cookie: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// Removes the user and password from `url` and returns them; None if it has neither.
    pub fn take_from(url: &mut Url) -> Option<Self> {
        let decoded = |text: &str| {
            let text = percent_encoding::percent_decode_str(text);
            text.decode_utf8_lossy().into_owned()
        };
        let user = decoded(url.username());
        let password = url.password().map(decoded);
        // Both fail only for URLs that cannot have a user, such as `file:`.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        (!user.is_empty() || password.is_some()).then(|| Self::Basic {
            user,
            password: password.unwrap_or_default(),
        })
    }

    /// The `Cookie` header.
    pub(crate) fn cookie(&self) -> Option<&str> {
        match self {
            Self::Session { cookie, .. } => Some(cookie),
            Self::Basic { .. } | Self::Bearer(_) => None,
        }
    }

    /// The `Authorization` header.
    pub(crate) fn authorization(&self) -> String {
        use base64::Engine as _;
        match self {
            Self::Basic { user, password } | Self::Session { user, password, .. } => {
                let pair = format!("{user}:{password}");
                let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
                format!("Basic {encoded}")
            }
            Self::Bearer(token) => format!("Bearer {token}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_never_printed() {
        let credentials = Credentials::Basic {
            user: "deploy".into(),
            password: "hunter2".into(),
        };
        assert_eq!(format!("{credentials:?}"), "Credentials(…)");
        assert_eq!(credentials.authorization(), "Basic ZGVwbG95Omh1bnRlcjI=");
    }
}
