//! The connection to one Hydra: signing in, following its redirects, reading its JSON.

use crate::error::{HydraError, Unreached, lacks_credentials};
use crate::{Job, jobset_path, segment};
use binary_cache::{CacheUrl, content_decoder};
use http_client::{
    ApiRequest, ApiResponse, Credentials, Endpoint, Http, HttpError, Size, is_same_server,
    leads_to_link_local,
};
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::{self, Read};
use url::Url;

/// The largest answer: a page has twenty evaluations, which list the numbers of all their builds. Of
/// nixpkgs that is 20 MB.
const MAX_ANSWER_SIZE: u64 = 64 * 1024 * 1024;

/// The longest message of Hydra's that is kept, in bytes.
const MAX_MESSAGE_SIZE: usize = 16 * 1024;

/// Redirects that are followed for one request.
const MAX_REDIRECTS: u32 = 5;

/// How often a password is sent to sign in: with the `Referer` of the URL that the user named, with
/// that of the URL that Hydra believes to have, and once more.
const MAX_SIGN_INS: u32 = 3;

/// The longest `Referer` that Hydra may ask for: servers accept no longer header.
const MAX_REFERER_SIZE: usize = 4096;

/// The most that is kept of a log to show its last lines.
const MAX_TAIL_SIZE: usize = 64 * 1024;

/// A Hydra, with the credentials for it.
#[derive(Debug, Clone)]
pub struct Hydra {
    /// Its URL as the user named it.
    endpoint: Endpoint,
    http: Http,
}

/// Hydra's errors as JSON. Those of other servers, such as attic, have more.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    error: String,
}

impl fmt::Display for Hydra {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(formatter)
    }
}

/// Signs in to `endpoint` if it is a Hydra that requires it. Returns the endpoint with the session; None
/// if there is no session.
pub fn sign_in(endpoint: &Endpoint, http: &Http) -> Option<Endpoint> {
    let mut hydra = Hydra::new(endpoint.clone(), http.clone());
    hydra.request("nix-cache-info").ok()?;
    let is_session = |credentials: &Credentials| matches!(credentials, Credentials::Session { .. });
    let has_session = hydra.endpoint.credentials.as_ref().is_some_and(is_session);
    has_session.then_some(hydra.endpoint)
}

impl Hydra {
    pub fn new(endpoint: Endpoint, http: Http) -> Self {
        Self { endpoint, http }
    }

    /// The first of `caches` that is a Hydra and has the jobset of `job`, else the first that is one.
    /// Without a job, the first that has a queue.
    pub fn find(caches: &[CacheUrl], job: Option<&Job>, http: &Http) -> Result<Self, HydraError> {
        let path = job.map_or_else(|| "api/queue?nr=1".to_string(), jobset_path);
        let mut without_jobset = None;
        let mut unreached = Vec::new();
        for cache in caches {
            if cache.endpoint.base.scheme() == "file" {
                continue;
            }
            let mut hydra = Self::new(cache.endpoint.clone(), http.clone());
            match hydra.get::<serde_json::Value>(&path) {
                Ok(_) => return Ok(hydra),
                Err(HydraError::Refused { .. }) => {
                    without_jobset.get_or_insert(hydra);
                }
                Err(error @ (HydraError::Private { .. } | HydraError::SignIn { .. })) => {
                    return Err(error);
                }
                Err(HydraError::Http { url, error }) if may_be_hydra(&error) => {
                    unreached.push(Unreached { url, error });
                }
                Err(_) => {}
            }
        }
        if let Some(hydra) = without_jobset {
            return Ok(hydra);
        }
        // The only candidate: its error is the answer.
        if unreached.len() == 1
            && let Some(Unreached { url, error }) = unreached.pop()
        {
            return Err(HydraError::Http { url, error });
        }
        let asked = caches.iter().map(ToString::to_string).collect();
        Err(HydraError::NoHydra { asked, unreached })
    }

    /// Adds this Hydra to the binary caches, unless it is one of them, or says that it stores its
    /// builds elsewhere. One that does not answer may be down, so it is added.
    pub fn add_to(&mut self, caches: &mut Vec<CacheUrl>) {
        if caches.iter().any(|cache| self.is(cache)) {
            return;
        }
        let is_no_cache = matches!(
            self.request("nix-cache-info"),
            Err(HydraError::Refused { status: 404, .. } | HydraError::Answer { .. })
        );
        if !is_no_cache {
            caches.insert(0, self.endpoint.clone().into());
        }
    }

    /// Copies this Hydra's URL and session to the binary cache that is the same server.
    pub fn let_into(&self, caches: &mut [CacheUrl]) {
        let own = caches.iter_mut().filter(|cache| self.is(cache));
        for cache in own.filter(|_| self.endpoint.credentials.is_some()) {
            cache.endpoint.clone_from(&self.endpoint);
        }
    }

    fn is(&self, cache: &CacheUrl) -> bool {
        // It may have led from `http` to `https` meanwhile.
        let (own, other) = (&self.endpoint.base, &cache.endpoint.base);
        is_same_server(other, own) && other.path() == own.path()
    }

    /// The URL of a page for people, such as `build/12`.
    pub fn page(&self, path: &str) -> String {
        format!("{self}/{path}")
    }

    /// Reads JSON at `path`, relative to the Hydra's URL. Signs in if the Hydra requires it.
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, HydraError> {
        let response = self.request(path)?;
        serde_json::from_slice(&response.body).map_err(|error| {
            // Other servers answer with pages of their own.
            let reason = if error.is_data() {
                error.to_string()
            } else {
                "it is not JSON".to_string()
            };
            self.not_hydra(path, &reason)
        })
    }

    /// Reads a text at `path`.
    pub(crate) fn text(&mut self, path: &str) -> Result<String, HydraError> {
        let response = self.request(path)?;
        Ok(String::from_utf8_lossy(&response.body).into_owned())
    }

    /// The last lines of a build log; None if neither Hydra nor its log store has it.
    pub fn log_tail(&self, derivation: &str, lines: usize) -> Option<Vec<String>> {
        let name = derivation.rsplit('/').next()?;
        // A redirect to a log store, which gets no credentials, sends the whole log.
        let log = self.open(&format!("log/{}?tail={lines}", segment(name)))?;
        let end = tail_of(log).ok()?;
        let end = String::from_utf8_lossy(&end);
        let all: Vec<String> = end.lines().map(str::to_string).collect();
        Some(all[all.len().saturating_sub(lines)..].to_vec())
    }

    /// The HTML of the page for people at `path`; None if there is none.
    pub(crate) fn html(&self, path: &str) -> Option<String> {
        let mut html = String::new();
        self.open(path)?.read_to_string(&mut html).ok()?;
        Some(html)
    }

    /// Opens `path` as a browser would.
    fn open(&self, path: &str) -> Option<impl Read + use<>> {
        let url = self.endpoint.base.join(path).ok()?;
        let body = self
            .http
            .get(&url, self.endpoint.credentials.as_ref(), Size::Large)
            .ok()?;
        let encoding = body.content_encoding().unwrap_or("identity").to_string();
        let text = content_decoder(Box::new(body), &encoding).ok()?;
        Some(text.take(MAX_ANSWER_SIZE))
    }

    /// Sends a request for `path`; follows redirects and signs in once if that is required.
    fn request(&mut self, path: &str) -> Result<ApiResponse, HydraError> {
        let url = self.endpoint.base.join(path);
        let mut url = url.map_err(|_| self.not_hydra(path, "its URL cannot be made"))?;
        let mut has_signed_in = false;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(path, &url)?;
            match response.status {
                200..=299 => return Ok(response),
                300..=399 => url = self.redirect(path, &url, &response)?,
                403 if !has_signed_in && must_sign_in(&response) => {
                    self.sign_in()?;
                    has_signed_in = true;
                }
                _ => return Err(self.failure(path, &response)),
            }
        }
        Err(self.not_hydra(path, "it redirects too often"))
    }

    fn send(&self, path: &str, url: &Url) -> Result<ApiResponse, HydraError> {
        let credentials = self.endpoint.credentials.as_ref();
        // A redirect to another server must not take the credentials along.
        let credentials = credentials.filter(|_| is_same_server(&self.endpoint.base, url));
        let response = self
            .http
            .call_api(url, credentials, ApiRequest::Get, MAX_ANSWER_SIZE);
        response.map_err(|error| HydraError::Http {
            url: self.page(path),
            error,
        })
    }

    /// The URL that a redirect from `url` leads to. Switches to `https` if it leads there.
    fn redirect(
        &mut self,
        path: &str,
        url: &Url,
        response: &ApiResponse,
    ) -> Result<Url, HydraError> {
        let location = response.location.as_deref();
        let location = location
            .and_then(|to| url.join(to).ok())
            .filter(|to| matches!(to.scheme(), "http" | "https"))
            .ok_or_else(|| self.not_hydra(path, "it redirects to nowhere"))?;
        let target = self.rehome(url, location);
        if leads_to_link_local(&self.endpoint.base, &target) {
            return Err(self.not_hydra(path, "it redirects to a link-local address"));
        }
        if target.scheme() == "https" && is_same_server(&self.endpoint.base, &target) {
            // From here on, nothing is sent in the clear any more.
            self.endpoint.base.set_scheme("https").ok();
        }
        Ok(target)
    }

    /// The error of a response that is neither a success nor a redirect.
    fn failure(&self, path: &str, response: &ApiResponse) -> HydraError {
        match (message(&response.body), response.status) {
            (Some(message), status) => HydraError::Refused {
                url: self.page(path),
                status,
                message,
            },
            // Hydra's own 404 has a message.
            (None, 404) => {
                self.not_hydra(path, "HTTP status 404 Not Found, in no words of Hydra's")
            }
            (None, status) => HydraError::Http {
                url: self.page(path),
                error: self.endpoint.explain(HttpError::Status(status)),
            },
        }
    }

    fn not_hydra(&self, path: &str, reason: &str) -> HydraError {
        HydraError::Answer {
            url: self.page(path),
            reason: reason.to_string(),
        }
    }

    /// The target of a redirect, with the scheme, host and port that the user named: behind a proxy,
    /// Hydra names those under which the proxy knows it.
    fn rehome(&self, from: &Url, location: Url) -> Url {
        let base = &self.endpoint.base;
        let path = location.path();
        let below = path.strip_prefix(base.path());
        let below = below.unwrap_or_else(|| path.trim_start_matches('/'));
        let query = location.query().map(|query| format!("?{query}"));
        let rehomed = base.join(&format!("./{below}{}", query.unwrap_or_default()));
        match rehomed {
            // The server's own redirect, from `http` to `https` or to another host.
            Ok(rehomed) if rehomed == *from => location,
            Ok(rehomed) => rehomed,
            Err(_) => location,
        }
    }

    /// Signs in as the API does, and keeps the cookie with the credentials.
    fn sign_in(&mut self) -> Result<(), HydraError> {
        let (user, password) = match &self.endpoint.credentials {
            Some(
                Credentials::Basic { user, password } | Credentials::Session { user, password, .. },
            ) => (user.clone(), password.clone()),
            Some(Credentials::Bearer(_)) | None => {
                return Err(HydraError::Private {
                    url: self.to_string(),
                });
            }
        };
        let document = serde_json::json!({ "username": user, "password": password }).to_string();
        let mut referer = self.endpoint.base.to_string();
        let mut refusal = String::new();
        for _ in 0..MAX_SIGN_INS {
            let response = self.post_login(&document, &referer)?;
            let mut cookies = response.cookies.iter();
            let cookie = cookies.find(|cookie| cookie.starts_with("hydra_session="));
            if matches!(response.status, 200..=399)
                && let Some(cookie) = cookie
            {
                self.endpoint.credentials = Some(Credentials::Session {
                    user,
                    password,
                    cookie: cookie.clone(),
                });
                return Ok(());
            }
            refusal = message(&response.body)
                .unwrap_or_else(|| HttpError::Status(response.status).to_string());
            // Behind a proxy, Hydra may believe that it has another URL than the user named.
            match referer_in(&refusal) {
                Some(wanted) if wanted != referer => referer = wanted,
                _ => break,
            }
        }
        Err(HydraError::SignIn {
            url: self.to_string(),
            message: refusal,
        })
    }

    fn post_login(&self, json: &str, referer: &str) -> Result<ApiResponse, HydraError> {
        let url = self.endpoint.base.join("login");
        let url = url.map_err(|_| self.not_hydra("login", "its URL cannot be made"))?;
        let credentials = self.endpoint.credentials.as_ref();
        let request = ApiRequest::Post { json, referer };
        let response = self
            .http
            .call_api(&url, credentials, request, MAX_ANSWER_SIZE);
        response.map_err(|error| HydraError::Http {
            url: url.to_string(),
            error,
        })
    }
}

/// The `Referer` that Hydra asks for when it refuses to sign in.
fn referer_in(refusal: &str) -> Option<String> {
    let (_, rest) = refusal.split_once("should come from ‘")?;
    let (referer, _) = rest.split_once('’')?;
    (referer.len() <= MAX_REFERER_SIZE).then(|| referer.to_string())
}

/// Whether a server with this error may be a Hydra: it is down, or behind a proxy that wants a
/// password. Any other server has no such page.
fn may_be_hydra(error: &HttpError) -> bool {
    error.is_outage() || lacks_credentials(error)
}

/// Whether Hydra wants a session.
fn must_sign_in(response: &ApiResponse) -> bool {
    message(&response.body).is_some_and(|text| text.contains("sign in"))
}

/// The message of one of Hydra's errors; None if the answer is not one.
fn message(body: &[u8]) -> Option<String> {
    let refusal: Refusal = serde_json::from_slice(body).ok()?;
    let mut message = refusal.error.trim().to_string();
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_SIZE));
    Some(message)
}

/// The last bytes of a text that may be long.
fn tail_of(mut text: impl Read) -> io::Result<Vec<u8>> {
    let mut tail = Vec::new();
    loop {
        let read = text
            .by_ref()
            .take(MAX_TAIL_SIZE as u64)
            .read_to_end(&mut tail)?;
        if read == 0 {
            return Ok(tail);
        }
        tail.drain(..tail.len().saturating_sub(MAX_TAIL_SIZE));
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
}
