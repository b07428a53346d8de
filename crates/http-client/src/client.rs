//! HTTP as this buildpack needs it: kept-alive connections, patient retries, and bodies that go
//! on where they were cut off.

use crate::body::{Body, Steady};
use crate::gate::{Gates, Pass, Size};
use crate::server::{is_same_server, leads_to_link_local};
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, Response, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body as UreqBody};
use url::Url;

/// How often one request is sent before its failure is final.
const ATTEMPTS: u32 = 5;

/// How long one request may be retried, so that a cache that is down costs a bounded time.
const RETRY_TIME: Duration = Duration::from_mins(1);

/// Redirects that are followed for one request.
const REDIRECTS: u32 = 10;

/// Bytes of the header of an answer: eight times what web servers take of a request's. It has at
/// most 128 fields, which is the HTTP library's own limit.
const MAX_HEADER_SIZE: usize = 64 * 1024;

/// The most that is read of an answer that nobody wants, so that its connection can be used again.
const MAX_UNWANTED_SIZE: u64 = 64 * 1024;

/// Long enough for a server that compresses a large file before it sends the first byte.
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(1);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A body that sends nothing for this long is taken for dead.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections kept open to one host: as many as there are narinfo requests at once.
const IDLE_CONNECTIONS: usize = 64;

/// Bytes read from a connection at once.
const BUFFER_SIZE: usize = 128 * 1024;

/// Where the certificates of the system are, on the distributions that builders are made of.
const SYSTEM_CERTIFICATES: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// A client whose connections are shared by all threads that use it.
#[derive(Debug, Clone)]
pub struct Http {
    agent: Agent,
    pub(crate) patience: Patience,
    gates: Gates,
}

/// How long a server is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until the header of an answer is there.
    pub response: Duration,
    /// Until a body goes on, and the time in which it must bring [`body::MIN_BYTES`].
    pub read: Duration,
    /// How long one request may be retried.
    pub retry: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            response: RESPONSE_TIMEOUT,
            read: READ_TIMEOUT,
            retry: RETRY_TIME,
        }
    }
}

/// What lets one into one server, as the `Authorization` header has it.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Basic {
        user: String,
        password: String,
    },
    Bearer(String),
    /// Logged in to a Hydra: its cookie, as `name=value`. The user and password go with it, for a
    /// proxy in front of it that asks for the same.
    Session {
        user: String,
        password: String,
        cookie: String,
    },
}

/// What an API is asked, besides the URL.
#[derive(Debug, Clone, Copy)]
pub enum Ask<'a> {
    Get,
    /// A JSON document, and the `Referer` to send with it.
    Post {
        json: &'a str,
        referer: &'a str,
    },
}

/// What an API answered, whatever its status.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// Where it redirects to, as it was sent.
    pub location: Option<String>,
    /// What it sets as cookies: `name=value`, without what follows.
    pub cookies: Vec<String>,
    pub body: Vec<u8>,
}

/// Why a request did not give a body.
#[derive(Debug)]
pub enum HttpError {
    /// The server answered, with a status that is no success.
    Status(u16),
    /// There was no answer, or not a whole one: the reason, in a few words.
    Transport(String),
    /// The server sends elsewhere, where nothing can come of it: the reason, in a few words.
    Redirect(&'static str),
}

/// Never prints what it holds.
impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// Takes the user and password out of a URL that has them.
    #[must_use]
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

    fn cookie(&self) -> Option<&str> {
        match self {
            Self::Session { cookie, .. } => Some(cookie),
            Self::Basic { .. } | Self::Bearer(_) => None,
        }
    }

    fn header(&self) -> String {
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

impl HttpError {
    /// Whether the server says that what was asked for is not there.
    ///
    /// S3 answers 403 for an absent object where listing is not allowed; Hydra answers 410 for a
    /// NAR that it has garbage-collected.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Status(403 | 404 | 410))
    }

    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 408 | 429 | 500..=599),
            Self::Transport(_) => true,
            Self::Redirect(_) => false,
        }
    }
}

impl std::error::Error for HttpError {}

impl fmt::Display for HttpError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => {
                let reason = ureq::http::StatusCode::from_u16(*status)
                    .ok()
                    .and_then(|status| status.canonical_reason());
                match reason {
                    Some(reason) => write!(formatter, "HTTP status {status} {reason}"),
                    None => write!(formatter, "HTTP status {status}"),
                }
            }
            Self::Transport(reason) => formatter.write_str(reason),
            Self::Redirect(reason) => formatter.write_str(reason),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl Http {
    #[must_use]
    pub fn new() -> Self {
        Self::with_patience(Patience::default())
    }

    #[must_use]
    pub fn with_patience(patience: Patience) -> Self {
        let tls = TlsConfig::builder().root_certs(root_certificates()).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // They are followed here, where credentials can stay behind.
            .max_redirects(0)
            .user_agent(concat!("nix-hydra-buildpack/", env!("CARGO_PKG_VERSION")))
            // An encoding on top of a NAR's own compression gains nothing.
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(patience.response))
            .timeout_per_read(Some(patience.read))
            .max_idle_connections(2 * IDLE_CONNECTIONS)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .max_response_header_size(MAX_HEADER_SIZE)
            .input_buffer_size(BUFFER_SIZE)
            .build()
            .into();
        Self {
            agent,
            patience,
            gates: Gates::default(),
        }
    }

    /// Opens `url` and answers its body, of which the server may have to say first how many it serves
    /// at once. Failures that may pass are retried.
    ///
    /// Where no credentials are given, those in `url` count.
    pub fn get(
        &self,
        url: &Url,
        credentials: Option<&Credentials>,
        size: Size,
    ) -> Result<Body, HttpError> {
        let mut url = url.clone();
        let own = Credentials::take_from(&mut url);
        let credentials = credentials.cloned().or(own);
        let (response, pass) = self.request(&url, credentials.as_ref(), None, size)?;
        Ok(Body::new(self, url, credentials, response, pass))
    }

    /// Asks an API for JSON, and answers whatever it says, of at most `limit` bytes. Redirects are
    /// not followed. Failures that may pass are retried.
    pub fn ask(
        &self,
        url: &Url,
        credentials: Option<&Credentials>,
        ask: Ask,
        limit: u64,
    ) -> Result<Reply, HttpError> {
        let started = Instant::now();
        let mut attempt = 1;
        loop {
            let (reply, asked_wait) = match self.ask_once(url, credentials, ask, limit) {
                Ok((reply, wait)) => (Ok(reply), wait),
                Err(error) => (Err(error), None),
            };
            let passing = match (&reply, ask) {
                // What a server says against a document that was sent, it will say again.
                (Ok(reply), Ask::Post { .. }) => matches!(reply.status, 429 | 502..=504),
                (Ok(reply), Ask::Get) => HttpError::Status(reply.status).is_passing(),
                (Err(error), _) => error.is_passing(),
            };
            let wait = asked_wait.unwrap_or_default().max(backoff(attempt));
            let too_late = started.elapsed().saturating_add(wait) > self.patience.retry;
            if !passing || attempt == ATTEMPTS || too_late {
                return reply;
            }
            std::thread::sleep(wait);
            attempt += 1;
        }
    }

    fn ask_once(
        &self,
        url: &Url,
        credentials: Option<&Credentials>,
        ask: Ask,
        limit: u64,
    ) -> Result<(Reply, Option<Duration>), HttpError> {
        let mut headers = vec![(header::ACCEPT, "application/json".to_string())];
        if let Some(credentials) = credentials {
            headers.push((header::AUTHORIZATION, credentials.header()));
            let cookie = credentials.cookie();
            headers.extend(cookie.map(|cookie| (header::COOKIE, cookie.to_string())));
        }
        let sent = match ask {
            Ask::Get => {
                let request = self.agent.get(url.as_str());
                headers
                    .into_iter()
                    .fold(request, |request, (name, value)| {
                        request.header(name, value)
                    })
                    .call()
            }
            Ask::Post { json, referer } => {
                headers.push((header::CONTENT_TYPE, "application/json".to_string()));
                headers.push((header::REFERER, referer.to_string()));
                let request = self.agent.post(url.as_str());
                headers
                    .into_iter()
                    .fold(request, |request, (name, value)| {
                        request.header(name, value)
                    })
                    .send(json)
            }
        };
        let response = sent.map_err(|error| transport_error(&error))?;
        let cookies = response.headers().get_all(header::SET_COOKIE);
        let cookies = cookies
            .into_iter()
            .filter_map(|cookie| Some(cookie.to_str().ok()?.split(';').next()?.trim().to_string()))
            .collect();
        let mut reply = Reply {
            status: response.status().as_u16(),
            location: header_text(response.headers(), &header::LOCATION),
            cookies,
            body: Vec::new(),
        };
        let wait = retry_after(response.headers());
        Steady::new(response, self.patience.read)
            .take(limit + 1)
            .read_to_end(&mut reply.body)
            .map_err(|error| HttpError::Transport(error.to_string()))?;
        if reply.body.len() as u64 > limit {
            let reason = format!("the answer is longer than {limit} bytes");
            return Err(HttpError::Transport(reason));
        }
        Ok((reply, wait))
    }

    pub(crate) fn request(
        &self,
        url: &Url,
        credentials: Option<&Credentials>,
        from: Option<u64>,
        size: Size,
    ) -> Result<(Response<UreqBody>, Pass), HttpError> {
        let gate = self.gates.of(url[..url::Position::BeforePath].to_string());
        let mut spent = Duration::ZERO;
        let mut attempt = 1;
        let mut may_be_left_over = true;
        loop {
            let pass = gate.pass(size);
            let started = Instant::now();
            let mut patience = self.patience.response;
            if may_be_left_over {
                patience = patience.min(pass.patience());
            }
            let (error, asked_wait) = match self.send(url, credentials, from, patience) {
                Ok(response) => {
                    let status = response.status();
                    if matches!(status.as_u16(), 429 | 503) {
                        pass.refused();
                    } else {
                        pass.answered();
                    }
                    if status.is_success() {
                        return Ok((response, pass));
                    }
                    let error = HttpError::Status(status.as_u16());
                    let wait = retry_after(response.headers());
                    self.discard(response);
                    (error, wait)
                }
                Err(error) => {
                    let in_time = !matches!(&error, HttpError::Transport(why) if why == NO_ANSWER);
                    if may_be_left_over && !in_time {
                        may_be_left_over = false;
                        if pass.is_left_over() {
                            continue;
                        }
                    }
                    (error, None)
                }
            };
            drop(pass);
            spent += started.elapsed();
            let wait = asked_wait.unwrap_or_default().max(backoff(attempt));
            // A server may ask for any wait, one of many years too.
            let too_late = spent.saturating_add(wait) > self.patience.retry;
            if !error.is_passing() || attempt == ATTEMPTS || too_late {
                return Err(error);
            }
            std::thread::sleep(wait);
            spent += wait;
            attempt += 1;
        }
    }

    /// Sends one request, and follows its redirects.
    ///
    /// The credentials are for the server of `url` alone: no other one may see them, and one that
    /// is asked with a pre-signed URL refuses a second credential.
    fn send(
        &self,
        url: &Url,
        credentials: Option<&Credentials>,
        from: Option<u64>,
        patience: Duration,
    ) -> Result<Response<UreqBody>, HttpError> {
        let mut target = url.clone();
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(target.as_str());
            if let Some(credentials) = credentials.filter(|_| is_same_server(url, &target)) {
                request = request.header(header::AUTHORIZATION, credentials.header());
                if let Some(cookie) = credentials.cookie() {
                    request = request.header(header::COOKIE, cookie);
                }
            }
            if let Some(from) = from {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let request = request.config().timeout_recv_response(Some(patience));
            let response = request
                .build()
                .call()
                .map_err(|error| transport_error(&error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let Some(location) = header_text(response.headers(), &header::LOCATION) else {
                return Ok(response);
            };
            self.discard(response);
            target = target
                .join(&location)
                .ok()
                .filter(|target| matches!(target.scheme(), "http" | "https"))
                .ok_or(HttpError::Redirect(
                    "it redirects to what is no URL for HTTP",
                ))?;
            if leads_to_link_local(url, &target) {
                return Err(HttpError::Redirect("it redirects to a link-local address"));
            }
        }
        Err(HttpError::Redirect("it redirects too often"))
    }

    /// Reads a short answer to its end, so that its connection is kept.
    fn discard(&self, response: Response<UreqBody>) {
        let body = Steady::new(response, self.patience.read);
        // One that cannot be read is closed, as one that is too long.
        let _ = io::copy(&mut body.take(MAX_UNWANTED_SIZE), &mut io::sink());
    }
}

const NO_ANSWER: &str = "no answer in time";

fn transport_error(error: &ureq::Error) -> HttpError {
    const NO_HOST: &str = "the host name cannot be resolved";
    HttpError::Transport(match error {
        ureq::Error::HostNotFound => NO_HOST.to_string(),
        // What the standard library's resolver says has no kind of its own.
        ureq::Error::Io(error) if error.to_string().starts_with("failed to lookup address") => {
            NO_HOST.to_string()
        }
        ureq::Error::Timeout(_) => NO_ANSWER.to_string(),
        ureq::Error::Io(error) => about_certificate(error.to_string()),
        other => about_certificate(other.to_string()),
    })
}

/// A certificate that is not valid now may be right, and the clock wrong; and one of an authority of
/// the user's own may be.
fn about_certificate(reason: String) -> String {
    if reason.contains("certificate expired") || reason.contains("certificate not valid yet") {
        return format!("{reason}; if that is not so, the clock of this machine is off");
    }
    if reason.contains("UnknownIssuer") {
        return format!(
            "{reason}; if an authority of your own has issued it, set SSL_CERT_FILE to a file with all \
             that are to be trusted"
        );
    }
    reason
}

/// How long `Retry-After` asks to wait, in seconds or until a date, by the server's own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = header_text(headers, &header::RETRY_AFTER)?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(&text).ok()?;
    let now = httpdate::parse_http_date(&header_text(headers, &header::DATE)?).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

pub(crate) fn header_text(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_string())
}

/// 0.2 s, then twice as long each time, less up to half so that clients do not come back together.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let longest = Duration::from_millis(200) * 2_u32.pow(attempt - 1);
    let random = u32::try_from(RandomState::new().build_hasher().finish() % 1024).unwrap_or(0);
    longest.saturating_sub(longest / 2 * random / 1024)
}

/// The certificates that Nix users name, else the system's, else Mozilla's as built in.
fn root_certificates() -> RootCerts {
    let named = ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"]
        .into_iter()
        .filter_map(std::env::var_os)
        .map(Into::into);
    let system = SYSTEM_CERTIFICATES.map(std::path::PathBuf::from);
    for file in named.chain(system) {
        let certificates: Vec<_> = std::fs::read(file)
            .map(|pem| {
                parse_pem(&pem)
                    .filter_map(|item| match item {
                        Ok(PemItem::Certificate(certificate)) => Some(certificate),
                        _ => None,
                    })
                    .collect()
            })
            .unwrap_or_default();
        if !certificates.is_empty() {
            return RootCerts::new_with_certs(&certificates);
        }
    }
    RootCerts::WebPki
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_half_of_their_length() {
        for attempt in 1..ATTEMPTS {
            let longest = Duration::from_millis(100 << attempt);
            for _ in 0..100 {
                let wait = backoff(attempt);
                assert!(wait <= longest && wait >= longest / 2, "{wait:?}");
            }
        }
    }

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
    fn credentials_stay_with_their_server() {
        for (url, other, same) in [
            ("http://cache.net/a", "http://cache.net:80/b", true),
            ("http://cache.net/a", "https://cache.net/a", true),
            ("https://cache.net/a", "http://cache.net/a", false),
            ("http://cache.net:5000/a", "https://cache.net/a", false),
            ("http://cache.net/a", "http://cache.net:5000/a", false),
            ("http://cache.net/a", "http://cdn.cache.net/a", false),
        ] {
            let (url, other) = (url.parse::<Url>(), other.parse::<Url>());
            assert!(
                matches!((&url, &other), (Ok(url), Ok(other)) if is_same_server(url, other) == same),
                "{url:?} {other:?}"
            );
        }
    }

    #[test]
    fn nobody_is_led_to_link_local_addresses_but_by_the_user() {
        for (url, other, leads) in [
            ("http://cache.net/", "http://169.254.169.254/latest", true),
            ("http://cache.net/", "http://0xa9fea9fe/", true),
            ("http://cache.net/", "http://[fe80::1]/", true),
            (
                "http://cache.net/",
                "http://[::ffff:169.254.169.254]/",
                true,
            ),
            ("http://169.254.0.9/", "http://169.254.0.10/", false),
            ("http://cache.net/", "http://10.0.0.1/", false),
        ] {
            let (from, to) = (url.parse::<Url>(), other.parse::<Url>());
            assert!(
                matches!((&from, &to), (Ok(from), Ok(to)) if leads_to_link_local(from, to) == leads),
                "{url} {other}"
            );
        }
    }

    #[test]
    fn credentials_are_never_printed() {
        let credentials = Credentials::Basic {
            user: "deploy".into(),
            password: "hunter2".into(),
        };
        assert_eq!(format!("{credentials:?}"), "Credentials(…)");
        assert_eq!(credentials.header(), "Basic ZGVwbG95Omh1bnRlcjI=");
    }
}
