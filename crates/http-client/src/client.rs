//! The client: sends requests, follows redirects and retries temporary failures.

use crate::attempts::Attempts;
use crate::body::Body;
use crate::certificates::root_certificates;
use crate::gate::{Gates, Pass};
use crate::patience::BodyTimeout;
use crate::steady::Steady;
use crate::{Credentials, HttpError, Patience, Size, is_same_server, leads_to_link_local};
use std::io::{self, Read};
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, Response, header};
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, DefaultConnector};
use ureq::{Agent, Body as UreqBody};
use url::Url;

/// Redirects that are followed for one request.
const MAX_REDIRECTS: u32 = 10;

/// Bytes of the header of an answer: eight times what web servers take of a request's. It has at
/// most 128 fields, which is the HTTP library's own limit.
const MAX_HEADER_SIZE: usize = 64 * 1024;

/// The most that is read of the body of an error or a redirect, so that its connection can be used
/// again.
const MAX_UNWANTED_SIZE: u64 = 64 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections kept open to one host: as many as there are narinfo requests at once.
const IDLE_CONNECTIONS: usize = 64;

/// Bytes read from a connection at once.
const BUFFER_SIZE: usize = 128 * 1024;

/// A client whose connections are shared by all threads that use it.
#[derive(Debug, Clone)]
pub struct Http {
    pub(crate) agent: Agent,
    pub(crate) patience: Patience,
    gates: Gates,
}

/// The result of sending one request once.
enum Outcome {
    Success(Response<UreqBody>),
    Failed {
        error: HttpError,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
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
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // They are followed here, where credentials can stay behind.
            .max_redirects(0)
            .user_agent(concat!("nix-hydra-buildpack/", env!("CARGO_PKG_VERSION")))
            // An encoding on top of a NAR's own compression gains nothing.
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .max_idle_connections(2 * IDLE_CONNECTIONS)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .max_response_header_size(MAX_HEADER_SIZE)
            .input_buffer_size(BUFFER_SIZE)
            .build();
        let connector = DefaultConnector::default().chain(BodyTimeout(patience.read));
        Self {
            agent: Agent::with_parts(config, connector, DefaultResolver::default()),
            patience,
            gates: Gates::default(),
        }
    }

    /// Opens `url` for reading, once fewer requests are running than its server serves at once.
    /// Temporary failures are retried.
    ///
    /// Credentials in `url` are used where none are given.
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

    /// Sends a request for `url`, from byte `from` on, until it succeeds or fails for good.
    pub(crate) fn request(
        &self,
        url: &Url,
        credentials: Option<&Credentials>,
        from: Option<u64>,
        size: Size,
    ) -> Result<(Response<UreqBody>, Pass), HttpError> {
        let gate = self.gates.of(url[..url::Position::BeforePath].to_string());
        let mut attempts = Attempts::new(self.patience.retry);
        loop {
            let pass = gate.pass(size);
            let started = Instant::now();
            let patience = self.patience.header(size, attempts.timeouts());
            let (error, retry_after) = match self.attempt(url, credentials, from, patience, &pass) {
                Outcome::Success(response) => return Ok((response, pass)),
                Outcome::Failed { error, retry_after } => (error, retry_after),
            };
            drop(pass);
            if !error.is_temporary() {
                return Err(error);
            }
            match attempts.pause_after(Some(&error), started.elapsed(), retry_after) {
                Some(pause) => std::thread::sleep(pause),
                None => return Err(error),
            }
        }
    }

    /// Sends one request once, and tells the gate how the server took it.
    fn attempt(
        &self,
        url: &Url,
        credentials: Option<&Credentials>,
        from: Option<u64>,
        patience: Duration,
        pass: &Pass,
    ) -> Outcome {
        let response = match self.send(url, credentials, from, patience) {
            Ok(response) => response,
            Err(error) => {
                if matches!(error, HttpError::NoAnswer) {
                    pass.timed_out();
                }
                return Outcome::Failed {
                    error,
                    retry_after: None,
                };
            }
        };
        let status = response.status();
        match status.as_u16() {
            429 | 503 => pass.refused(),
            _ => pass.answered(),
        }
        if status.is_success() {
            return Outcome::Success(response);
        }
        let retry_after = retry_after(response.headers());
        self.discard(response);
        Outcome::Failed {
            error: HttpError::Status(status.as_u16()),
            retry_after,
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
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(target.as_str());
            if let Some(credentials) = credentials.filter(|_| is_same_server(url, &target)) {
                request = request.header(header::AUTHORIZATION, credentials.authorization());
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
                .map_err(|error| HttpError::from(&error))?;
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

    /// Reads a short answer to its end, so that its connection can be used again.
    fn discard(&self, response: Response<UreqBody>) {
        let body = Steady::new(response, self.patience.read);
        // A connection whose body fails or is longer is closed.
        let _ = io::copy(&mut body.take(MAX_UNWANTED_SIZE), &mut io::sink());
    }
}

/// How long `Retry-After` asks to wait, in seconds or until a date, by the server's own clock.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
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
