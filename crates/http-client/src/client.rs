//! The client: sends requests, follows redirects and retries temporary failures.

use crate::attempts::Attempts;
use crate::body::Body;
use crate::certificates::root_certificates;
use crate::connect::{connector, routed};
use crate::gate::{Gates, Pass};
use crate::proxy::Proxies;
use crate::s3;
use crate::steady::Steady;
use crate::{Credentials, HttpError, Patience, Size, is_same_server, leads_to_link_local};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, Response, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::{Agent, Body as UreqBody};
use url::Url;

/// Redirects that are followed for one request.
const MAX_REDIRECTS: u32 = 10;

/// Bytes of the header of an answer: eight times what web servers take of a request's. It has at
/// most 128 fields, which is the HTTP library's own limit.
const MAX_HEADER_SIZE: usize = 64 * 1024;

/// The most that is read of the body of an error or a redirect.
const MAX_UNWANTED_SIZE: u64 = 64 * 1024;

/// Where S3 says in which region a bucket is. Its redirect to there has no `Location`, since a signature
/// is for one region.
const BUCKET_REGION: header::HeaderName = header::HeaderName::from_static("x-amz-bucket-region");

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
    pub(crate) proxies: Arc<Proxies>,
    warnings: Arc<[String]>,
    gates: Gates,
}

/// A request for a file, or for the rest of it.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) url: &'a Url,
    pub(crate) credentials: Option<&'a Credentials>,
    /// The first byte that is wanted, if not all are.
    pub(crate) from: Option<u64>,
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
    pub fn new() -> Self {
        Self::with_patience(Patience::default())
    }

    pub fn with_patience(patience: Patience) -> Self {
        let mut warnings = Vec::new();
        let certificates = root_certificates(|name| std::env::var_os(name), &mut warnings);
        let proxies = Proxies::read(|name| std::env::var(name).ok(), &mut warnings);
        let mut http = Self::assemble(patience, certificates, proxies);
        http.warnings = warnings.into();
        http
    }

    pub(crate) fn assemble(patience: Patience, certificates: RootCerts, proxies: Proxies) -> Self {
        let tls = TlsConfig::builder().root_certs(certificates).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            // They are chosen for each request.
            .proxy(None)
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
        let connector = connector(patience.read);
        Self {
            agent: Agent::with_parts(config, connector, DefaultResolver::default()),
            patience,
            proxies: Arc::new(proxies),
            warnings: Arc::default(),
            gates: Gates::default(),
        }
    }

    /// What the environment names and cannot be used: certificates and proxies.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
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
        let request = Request {
            url: &url,
            credentials: credentials.as_ref(),
            from: None,
        };
        let (response, pass) = self.request(request, size)?;
        Ok(Body::new(self, url, credentials, response, pass))
    }

    /// Sends a request until it succeeds or fails for good.
    pub(crate) fn request(
        &self,
        request: Request<'_>,
        size: Size,
    ) -> Result<(Response<UreqBody>, Pass), HttpError> {
        let server = request.url[..url::Position::BeforePath].to_string();
        let gate = self.gates.of(server);
        let mut attempts = Attempts::new(self.patience.retry);
        loop {
            let pass = gate.pass(size);
            let started = Instant::now();
            let patience = self.patience.header(size, attempts.timeouts());
            let (error, retry_after) = match self.attempt(request, patience, &pass) {
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
    fn attempt(&self, request: Request<'_>, patience: Duration, pass: &Pass) -> Outcome {
        let response = match self.send(request, patience) {
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
        let region = header_text(response.headers(), &BUCKET_REGION);
        let document = self.read_error(response);
        let refusal = s3::refusal(&document);
        let region = region.or_else(|| s3::region(&document));
        let error = match (status.as_u16(), region, refusal) {
            (301 | 307 | 400, Some(region), _) => HttpError::OtherRegion(region),
            (status @ (400 | 403 | 404), _, Some(code)) => HttpError::Bucket(status, code),
            (status, _, _) => HttpError::Status(status),
        };
        Outcome::Failed { error, retry_after }
    }

    /// Sends one request, and follows its redirects.
    ///
    /// The credentials are for the server of its URL alone: no other one may see them, and one that
    /// is asked with a pre-signed URL refuses a second credential.
    fn send(
        &self,
        request: Request<'_>,
        patience: Duration,
    ) -> Result<Response<UreqBody>, HttpError> {
        let Request {
            url,
            credentials,
            from,
        } = request;
        let mut target = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let route = self.proxies.route(&target);
            let mut request = self.agent.get(route.url(&target));
            if let Some(credentials) = credentials.filter(|_| is_same_server(url, &target)) {
                request = request.header(header::AUTHORIZATION, credentials.authorization());
                if let Some(cookie) = credentials.cookie() {
                    request = request.header(header::COOKIE, cookie);
                }
            }
            if let Some(from) = from {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let response = routed(&route, request, patience)
                .call()
                .map_err(|error| HttpError::from(&error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let Some(location) = header_text(response.headers(), &header::LOCATION) else {
                return Ok(response);
            };
            self.read_error(response);
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

    /// Reads the body of an error or a redirect to its end, so that its connection can be used again.
    fn read_error(&self, response: Response<UreqBody>) -> Vec<u8> {
        let body = Steady::new(response, self.patience.read);
        let mut text = Vec::new();
        // A connection whose body fails or is longer is closed.
        let _ = body.take(MAX_UNWANTED_SIZE).read_to_end(&mut text);
        text
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Mutex;
    use std::thread;

    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext";

    /// A server that answers each request with [`ANSWER`], after what `before` does. Returns its URL,
    /// and the requests' headers as they come.
    fn server(
        before: impl Fn(usize, &mut TcpStream) + Send + Sync + 'static,
    ) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (seen, before) = (Arc::clone(&requests), Arc::new(before));
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (seen, before) = (Arc::clone(&seen), Arc::clone(&before));
                thread::spawn(move || {
                    let mut connection = connection.unwrap();
                    let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
                    loop {
                        let header = lines.by_ref().map_while(Result::ok);
                        let header: Vec<String> =
                            header.take_while(|line| !line.is_empty()).collect();
                        if header.is_empty() {
                            return;
                        }
                        let number = {
                            let mut seen = seen.lock().unwrap();
                            seen.push(header.join("\n").to_ascii_lowercase());
                            seen.len()
                        };
                        before(number, &mut connection);
                        if connection.write_all(ANSWER.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (url, requests)
    }

    fn get(http: &Http, url: &str, size: Size) -> Result<String, HttpError> {
        let mut text = String::new();
        let mut body = http.get(&url.parse().unwrap(), None, size)?;
        match body.read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(error) => Err(HttpError::Transport(error.to_string())),
        }
    }

    fn patient(response: u64, slow_response: u64, read: u64) -> Http {
        let patience = Patience {
            response: Duration::from_millis(response),
            slow_response: Duration::from_millis(slow_response),
            read: Duration::from_millis(read),
            retry: Duration::from_secs(1),
        };
        Http::assemble(patience, RootCerts::WebPki, Proxies::default())
    }

    #[test]
    fn a_plain_request_goes_to_the_proxy_with_its_whole_url_and_password() {
        let (proxy, requests) = server(|_, _| {});
        let proxy = proxy.replace("http://", "http://user:p%40ss@");
        let get_variable = |name: &str| (name == "HTTP_PROXY").then(|| proxy.clone());
        let proxies = Proxies::read(get_variable, &mut Vec::new());
        let http = Http::assemble(Patience::default(), RootCerts::WebPki, proxies);
        for name in ["a", "b"] {
            let url = format!("http://cache.invalid:8080/{name}.narinfo?x=1");
            assert_eq!(get(&http, &url, Size::Small).unwrap(), "text");
        }
        let requests = requests.lock().unwrap();
        let lines: Vec<&str> = requests[1].lines().collect();
        assert_eq!(
            lines[0],
            "get http://cache.invalid:8080/b.narinfo?x=1 http/1.1"
        );
        assert!(lines.contains(&"host: cache.invalid:8080"), "{lines:?}");
        assert!(
            lines.contains(&"proxy-authorization: basic dxnlcjpwqhnz"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_request_over_tls_goes_through_a_tunnel_of_the_proxy() {
        let (proxy, requests) = server(|_, connection| {
            let refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
            let _ = connection.write_all(refusal);
        });
        let proxy = proxy.replace("http://", "http://user:p%40ss@");
        let get_variable = |name: &str| (name == "HTTPS_PROXY").then(|| proxy.clone());
        let proxies = Proxies::read(get_variable, &mut Vec::new());
        let patience = Patience {
            retry: Duration::ZERO,
            ..Patience::default()
        };
        let http = Http::assemble(patience, RootCerts::WebPki, proxies);
        let error = get(&http, "https://cache.invalid/x", Size::Small).unwrap_err();
        assert!(error.to_string().contains("403"), "{error}");
        let requests = requests.lock().unwrap();
        let lines: Vec<&str> = requests[0].lines().collect();
        assert_eq!(lines[0], "connect cache.invalid:443 http/1.1");
        assert!(
            lines.contains(&"proxy-authorization: basic dxnlcjpwqhnz"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_header_is_waited_for_longer_than_a_body_and_asked_for_once() {
        let (url, requests) = server(|_, _| thread::sleep(Duration::from_millis(600)));
        let http = patient(2_000, 2_000, 100);
        for size in [Size::Small, Size::Large] {
            assert_eq!(get(&http, &url, size).unwrap(), "text");
        }
        assert_eq!(requests.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_small_answer_that_does_not_come_is_asked_for_once_more_with_more_patience() {
        let (url, requests) = server(|number, _| {
            thread::sleep(Duration::from_millis(if number <= 2 {
                800
            } else {
                60_000
            }));
        });
        let http = patient(200, 2_000, 100);
        assert_eq!(get(&http, &url, Size::Small).unwrap(), "text");
        assert_eq!(requests.lock().unwrap().len(), 2);
        let http = patient(100, 200, 100);
        let error = get(&http, &url, Size::Large).unwrap_err();
        assert!(matches!(error, HttpError::NoAnswer), "{error:?}");
        assert_eq!(requests.lock().unwrap().len(), 4);
    }

    #[test]
    fn a_slow_server_is_asked_once_for_each_of_many_files() {
        // The first answer is quick, as of a file that a proxy has; the others take long.
        let (url, requests) = server(|number, _| {
            if number > 1 {
                thread::sleep(Duration::from_millis(2_500));
            }
        });
        let http = Http::assemble(Patience::default(), RootCerts::WebPki, Proxies::default());
        get(&http, &url, Size::Small).unwrap();
        thread::scope(|scope| {
            for number in 0..12 {
                let (http, url) = (&http, format!("{url}/{number}"));
                scope.spawn(move || get(http, &url, Size::Small).unwrap());
            }
        });
        assert_eq!(requests.lock().unwrap().len(), 13);
    }
}
