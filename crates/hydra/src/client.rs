//! The connection to one Hydra: signing in, following its redirects, reading its JSON.

use crate::Job;
use binary_cache::{CacheUrl, content_decoder};
use http_client::{
    Ask, Credentials, Http, HttpError, Reply, Size, is_same_server, leads_to_link_local,
};
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::{self, Read};
use url::Url;

/// The most that is read of one answer: an evaluation lists the numbers of all its builds, and
/// nixpkgs has some hundred thousand, twenty evaluations a page.
const MAX_ANSWER_SIZE: u64 = 256 * 1024 * 1024;

/// Redirects that are followed for one question.
const REDIRECTS: u32 = 5;

/// How often a password is sent to sign in: with the URL that the user named as the one that it comes
/// from, with the one that Hydra believes to have, and once more.
const SIGN_INS: u32 = 3;

/// The longest URL that is taken for one that Hydra believes to have: servers take no longer header.
const MAX_REFERER_SIZE: usize = 4096;

/// The most that is kept of a log to show its last lines: they are a few, and some are long.
const MAX_END_SIZE: usize = 64 * 1024;

/// A Hydra, and what lets one into it.
#[derive(Debug, Clone)]
pub struct Hydra {
    /// Its URL as the user named it, with the credentials to sign in with.
    url: CacheUrl,
    http: Http,
}

/// Why Hydra could not say what to deploy.
#[derive(Debug)]
pub enum HydraError {
    /// Neither is `NIX_HYDRA_URL` set, nor has any of these binary caches answered as a Hydra does;
    /// with what was asked of those that may be one, and why they did not answer.
    NoHydra(Vec<String>, Vec<(String, HttpError)>),
    /// There was no answer: the URL that was asked, and the reason.
    Http(String, HttpError),
    /// Hydra refused, with this status and in these words.
    Refused {
        url: String,
        status: u16,
        said: String,
    },
    /// The answer is not one of Hydra's: what is wrong with it.
    Answer(String, String),
    /// A private Hydra, and there are no credentials for it.
    Private(String),
    /// It did not take the credentials; what it said.
    SignIn(String, String),
}

/// What Hydra sends with an error, where JSON was asked for.
#[derive(serde::Deserialize)]
struct Refusal {
    error: String,
}

impl HydraError {
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Http(_, error) => error.is_passing(),
            Self::Refused { status, .. } => *status >= 500,
            _ => false,
        }
    }
}

/// One line, with what was sent or said.
impl fmt::Display for HydraError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHydra(_, unreached) if unreached.is_empty() => {
                formatter.write_str("There is no Hydra to ask")
            }
            Self::NoHydra(_, unreached) => {
                let reasons: Vec<String> = unreached
                    .iter()
                    .map(|(url, error)| format!("{url}: {error}"))
                    .collect();
                let reasons = words::list(&reasons);
                write!(
                    formatter,
                    "No binary cache has answered as a Hydra does ({reasons})"
                )
            }
            Self::Http(url, error @ HttpError::Status(401 | 407)) => {
                write!(
                    formatter,
                    "Hydra cannot be asked without credentials ({url}: {error})"
                )
            }
            Self::Http(url, error) => write!(formatter, "Hydra did not answer ({url}: {error})"),
            Self::Refused { url, said, .. } => {
                write!(formatter, "Hydra refused to answer ({url}: {said})")
            }
            Self::Answer(url, reason) => {
                write!(
                    formatter,
                    "This does not seem to be a Hydra ({url}: {reason})"
                )
            }
            Self::Private(_) => formatter.write_str("This Hydra is private"),
            Self::SignIn(url, said) => {
                write!(formatter, "Hydra did not let us sign in ({url}: {said})")
            }
        }
    }
}

impl std::error::Error for HydraError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Http(_, error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Hydra {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.url)
    }
}

/// Signs in to the server at `url` if it is a Hydra that asks for that. Returns its URL with the session
/// that it gave; None where it gives none.
#[must_use]
pub fn sign_in(url: &CacheUrl, http: &Http) -> Option<CacheUrl> {
    Hydra::new(url.clone(), http.clone()).signed_in()
}

impl Hydra {
    #[must_use]
    pub fn new(url: CacheUrl, http: Http) -> Self {
        Self { url, http }
    }

    /// The first of `caches` that is a Hydra. Which it is shows in how it answers for the jobset of
    /// `job`, or for its queue where no job is known.
    pub fn find(caches: &[CacheUrl], job: Option<&Job>, http: &Http) -> Result<Self, HydraError> {
        let question = job.map_or_else(|| "api/queue?nr=1".to_string(), jobset_path);
        let mut unreached = Vec::new();
        for cache in caches.iter().filter(|cache| cache.base.scheme() != "file") {
            let mut hydra = Self::new(cache.clone(), http.clone());
            match hydra.get::<serde_json::Value>(&question) {
                Ok(_) | Err(HydraError::Refused { .. }) => return Ok(hydra),
                Err(error @ (HydraError::Private(_) | HydraError::SignIn(..))) => {
                    return Err(error);
                }
                Err(HydraError::Http(url, error)) if may_be_hidden(&error) => {
                    unreached.push((url, error));
                }
                Err(_) => {}
            }
        }
        // Where only one may be it, why that did not answer is all that matters.
        if unreached.len() == 1
            && let Some((url, error)) = unreached.pop()
        {
            return Err(HydraError::Http(url, error));
        }
        let asked = caches.iter().map(ToString::to_string).collect();
        Err(HydraError::NoHydra(asked, unreached))
    }

    /// Adds this Hydra to the binary caches to use, unless it is one of them, or says that it is none
    /// because it stores elsewhere. One that says nothing of the kind may be one, and be down.
    pub fn add_to(&mut self, caches: &mut Vec<CacheUrl>) {
        if caches.iter().any(|cache| self.is(cache)) {
            return;
        }
        let says_no = matches!(
            self.follow("nix-cache-info"),
            Err(HydraError::Refused { status: 404, .. } | HydraError::Answer(..))
        );
        if !says_no {
            caches.insert(0, self.url.clone());
        }
    }

    /// Gives the binary cache that is this Hydra what it let us in with.
    pub fn let_into(&self, caches: &mut [CacheUrl]) {
        let own = caches.iter_mut().filter(|cache| self.is(cache));
        for cache in own.filter(|_| self.url.credentials.is_some()) {
            cache.base.clone_from(&self.url.base);
            cache.credentials.clone_from(&self.url.credentials);
        }
    }

    fn is(&self, cache: &CacheUrl) -> bool {
        // It may have led from `http` to `https` meanwhile.
        is_same_server(&cache.base, &self.url.base) && cache.base.path() == self.url.base.path()
    }

    /// The page of something, for people: `build/12`.
    #[must_use]
    pub fn page(&self, path: &str) -> String {
        format!("{self}/{path}")
    }

    /// Asks for JSON at `path`, relative to the Hydra's URL. Signs in where that is asked for.
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, HydraError> {
        let reply = self.follow(path)?;
        serde_json::from_slice(&reply.body).map_err(|error| {
            // Other servers answer with pages of their own.
            let reason = if error.is_data() {
                error.to_string()
            } else {
                "it is not JSON".to_string()
            };
            HydraError::Answer(self.page(path), reason)
        })
    }

    /// The last lines of a build log, where Hydra has it or knows where it is.
    #[must_use]
    pub fn log_tail(&self, derivation: &str, lines: usize) -> Option<Vec<String>> {
        let name = derivation.rsplit('/').next()?;
        let path = format!("log/{}?tail={lines}", segment(name));
        let url = self.url.base.join(&path).ok()?;
        // This follows to where logs are kept, with no credentials. There, the whole is sent.
        let body = self
            .http
            .get(&url, self.url.credentials.as_ref(), Size::Large)
            .ok()?;
        let encoding = body.content_encoding().unwrap_or("identity").to_string();
        let text = content_decoder(Box::new(body), &encoding).ok()?;
        let end = end_of(text.take(MAX_ANSWER_SIZE)).ok()?;
        let end = String::from_utf8_lossy(&end);
        let all: Vec<String> = end.lines().map(str::to_string).collect();
        Some(all[all.len().saturating_sub(lines)..].to_vec())
    }

    fn follow(&mut self, path: &str) -> Result<Reply, HydraError> {
        let answer_error =
            |hydra: &Self, reason: &str| HydraError::Answer(hydra.page(path), reason.to_string());
        let mut url = self
            .url
            .base
            .join(path)
            .map_err(|_| answer_error(self, "its URL cannot be made"))?;
        let mut signed_in = false;
        for _ in 0..=REDIRECTS {
            // A redirect to elsewhere must not take the credentials along.
            let own = is_same_server(&self.url.base, &url);
            let credentials = self.url.credentials.as_ref().filter(|_| own);
            let reply = self
                .http
                .ask(&url, credentials, Ask::Get, MAX_ANSWER_SIZE)
                .map_err(|error| HydraError::Http(self.page(path), error))?;
            match reply.status {
                200..=299 => return Ok(reply),
                300..=399 => {
                    let location = reply.location.as_deref().and_then(|to| url.join(to).ok());
                    let location = location
                        .filter(|to| matches!(to.scheme(), "http" | "https"))
                        .ok_or_else(|| answer_error(self, "it redirects to nowhere"))?;
                    url = self.rehome(&url, location);
                    if leads_to_link_local(&self.url.base, &url) {
                        return Err(answer_error(self, "it redirects to a link-local address"));
                    }
                    if url.scheme() == "https" && is_same_server(&self.url.base, &url) {
                        // From here on, nothing is sent in the clear any more.
                        self.url.base.set_scheme("https").ok();
                    }
                }
                status => {
                    let said = refusal(&reply.body);
                    let must_sign_in =
                        status == 403 && said.as_ref().is_some_and(|said| said.contains("sign in"));
                    if must_sign_in && !signed_in {
                        self.sign_in()?;
                        signed_in = true;
                        continue;
                    }
                    return Err(match said {
                        Some(said) => HydraError::Refused {
                            url: self.page(path),
                            status,
                            said,
                        },
                        // Hydra would have said what is not there.
                        None if status == 404 => {
                            answer_error(self, "HTTP status 404 Not Found, in no words of Hydra's")
                        }
                        None => HydraError::Http(self.page(path), HttpError::Status(status)),
                    });
                }
            }
        }
        Err(answer_error(self, "it redirects too often"))
    }

    /// Where a redirect leads, with the scheme, host and port that the user named: behind a proxy,
    /// Hydra names those under which the proxy knows it.
    fn rehome(&self, asked: &Url, location: Url) -> Url {
        let base = &self.url.base;
        let path = location.path();
        let below = path.strip_prefix(base.path());
        let below = below.unwrap_or_else(|| path.trim_start_matches('/'));
        let query = location.query().map(|query| format!("?{query}"));
        let rehomed = base.join(&format!("./{below}{}", query.unwrap_or_default()));
        match rehomed {
            // It is the server's own redirect, from `http` to `https` or to another host.
            Ok(rehomed) if rehomed == *asked => location,
            Ok(rehomed) => rehomed,
            Err(_) => location,
        }
    }

    /// Signs in if this is a Hydra that asks for that, and answers its URL with the cookie.
    fn signed_in(mut self) -> Option<CacheUrl> {
        self.follow("nix-cache-info").ok()?;
        matches!(self.url.credentials, Some(Credentials::Session { .. })).then_some(self.url)
    }

    /// Signs in as the API does, and keeps the cookie beside the credentials.
    fn sign_in(&mut self) -> Result<(), HydraError> {
        let (user, password) = match &self.url.credentials {
            Some(
                Credentials::Basic { user, password } | Credentials::Session { user, password, .. },
            ) => (user.clone(), password.clone()),
            Some(Credentials::Bearer(_)) | None => {
                return Err(HydraError::Private(self.to_string()));
            }
        };
        let refused = |said: String| HydraError::SignIn(self.to_string(), said);
        let url = self
            .url
            .base
            .join("login")
            .map_err(|_| refused("its URL cannot be made".to_string()))?;
        let document = serde_json::json!({ "username": user, "password": password }).to_string();
        let mut referer = self.url.base.to_string();
        let mut said = String::new();
        for _ in 0..SIGN_INS {
            let ask = Ask::Post {
                json: &document,
                referer: &referer,
            };
            let credentials = self.url.credentials.as_ref();
            let reply = self
                .http
                .ask(&url, credentials, ask, MAX_ANSWER_SIZE)
                .map_err(|error| HydraError::Http(url.to_string(), error))?;
            let cookie = reply
                .cookies
                .iter()
                .find(|cookie| cookie.starts_with("hydra_session="));
            if matches!(reply.status, 200..=399)
                && let Some(cookie) = cookie
            {
                self.url.credentials = Some(Credentials::Session {
                    user,
                    password,
                    cookie: cookie.clone(),
                });
                return Ok(());
            }
            said =
                refusal(&reply.body).unwrap_or_else(|| HttpError::Status(reply.status).to_string());
            // Behind a proxy, Hydra may believe that it has another URL than the user named.
            let wanted = said
                .split_once("should come from ‘")
                .and_then(|(_, rest)| rest.split_once('’'))
                .map(|(wanted, _)| wanted.to_string());
            match wanted {
                Some(wanted) if wanted != referer && wanted.len() <= MAX_REFERER_SIZE => {
                    referer = wanted;
                }
                _ => break,
            }
        }
        Err(refused(said))
    }
}

/// Whether a server of which this was heard may be a Hydra: one that is down, or behind something that
/// wants a password. Any other server has no such page.
fn may_be_hidden(error: &HttpError) -> bool {
    error.is_passing() || matches!(error, HttpError::Status(401 | 407))
}

/// The path of a job's jobset.
#[must_use]
pub fn jobset_path(job: &Job) -> String {
    format!("jobset/{}/{}", segment(&job.project), segment(&job.jobset))
}

/// One segment of a URL's path.
#[must_use]
pub fn segment(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'+');
    utf8_percent_encode(text, PLAIN).to_string()
}

/// What Hydra says in place of what was asked for, where it is Hydra who says it.
fn refusal(body: &[u8]) -> Option<String> {
    let refusal: Refusal = serde_json::from_slice(body).ok()?;
    Some(refusal.error.trim().to_string())
}

/// The last bytes of a text that may be long.
fn end_of(mut text: impl Read) -> io::Result<Vec<u8>> {
    let mut end = Vec::new();
    loop {
        let read = text
            .by_ref()
            .take(MAX_END_SIZE as u64)
            .read_to_end(&mut end)?;
        if read == 0 {
            return Ok(end);
        }
        end.drain(..end.len().saturating_sub(MAX_END_SIZE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hydra(url: &str) -> Hydra {
        Hydra::new(url.parse().unwrap(), Http::new())
    }

    #[test]
    fn redirects_keep_the_scheme_host_and_prefix_that_the_user_named() {
        for (base, asked, location, followed) in [
            (
                "https://hydra.net",
                "https://hydra.net/eval/1/job/a",
                "http://hydra.net/build/2",
                "https://hydra.net/build/2",
            ),
            (
                "https://hydra.net/ci",
                "https://hydra.net/ci/eval/1/job/a",
                "http://127.0.0.1:3000/build/2?x=1",
                "https://hydra.net/ci/build/2?x=1",
            ),
            (
                "https://hydra.net/ci",
                "https://hydra.net/ci/eval/1/job/a",
                "https://hydra.net/ci/build/2",
                "https://hydra.net/ci/build/2",
            ),
            // The server's own, which would go round in circles.
            (
                "http://hydra.net",
                "http://hydra.net/build/2",
                "https://hydra.net/build/2",
                "https://hydra.net/build/2",
            ),
        ] {
            let to = hydra(base).rehome(&asked.parse().unwrap(), location.parse().unwrap());
            assert_eq!(to.as_str(), followed);
        }
    }

    #[test]
    fn names_are_one_segment_of_a_path() {
        assert_eq!(segment("a/b?c d"), "a%2Fb%3Fc%20d");
        assert_eq!(segment("x86_64-linux.my-app"), "x86_64-linux.my-app");
    }
}
