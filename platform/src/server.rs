//! An HTTP/1.1 server of a directory (a binary cache) on loopback, which records what it was
//! asked and answers otherwise where a test wants it to: faults, delays, truncated bodies.
//!
//! A thread a connection, kept alive; `GET` and `HEAD`; one byte range a request (RFC 9110).
//! Left out: TLS, chunked bodies, conditional requests, directory listings.

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_linger;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request, as it was received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    pub method: String,
    /// Path with the leading `/` and without the query, percent-decoded.
    pub path: String,
    /// What follows the `?`; empty where there is none.
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(other, _)| other == name)?;
        Some(&header.1)
    }
}

/// An answer that a test gives instead of the server.
#[derive(Clone, Debug, Default)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    missing: usize,
    resets: bool,
    delay: Duration,
}

impl Response {
    /// An empty answer with this status.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Announces this many bytes more than the body has, sends the body and closes.
    #[must_use]
    pub fn missing(mut self, bytes: usize) -> Self {
        self.missing = bytes;
        self
    }

    /// Ends the connection with a reset once the body is sent, instead of closing it.
    #[must_use]
    pub fn resets(mut self) -> Self {
        self.resets = true;
        self
    }

    /// Waits before it answers.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Hook = dyn Fn(&Request) -> Option<Response> + Send + Sync;

/// A server; it stops when dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    directory: PathBuf,
    hook: Box<Hook>,
    requests: Mutex<Vec<Request>>,
    /// Those that are open, by number.
    open: Mutex<BTreeMap<usize, TcpStream>>,
    connections: AtomicUsize,
    active: AtomicUsize,
    peak: AtomicUsize,
    stopping: AtomicBool,
}

impl Server {
    /// Serves the files below `directory` on a free port.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(directory: impl Into<PathBuf>) -> Result<Self> {
        Self::with_hook(directory, |_| None)
    }

    /// The same, but `hook` is asked first, on the connection's thread: where it returns an
    /// answer, that is given. A hook that sleeps and returns `None` slows the server down.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn with_hook(
        directory: impl Into<PathBuf>,
        hook: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::on_port(directory, 0, hook)
    }

    /// The same, on a port of one's choice.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn on_port(
        directory: impl Into<PathBuf>,
        port: u16,
        hook: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("listening on port {port}"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            directory: directory.into(),
            hook: Box::new(hook),
            requests: Mutex::default(),
            open: Mutex::default(),
            connections: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        let listener = std::thread::spawn(move || accepting.accept(&listener));
        Ok(Self {
            address,
            shared,
            listener: Some(listener),
        })
    }

    /// `http://127.0.0.1:<port>`, with no `/` at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request until now, in the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// Forgets the requests until now, and returns them.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut *lock(&self.shared.requests))
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The most requests that were in work at one time.
    pub fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::SeqCst)
    }

    /// Serves until the program is ended.
    pub fn wait(mut self) {
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the listener
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        for connection in lock(&self.shared.open).values() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for connection in listener.incoming() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let Ok(connection) = connection else { continue };
            let Ok(copy) = connection.try_clone() else {
                continue;
            };
            let number = self.connections.fetch_add(1, Ordering::SeqCst);
            lock(&self.open).insert(number, copy);
            let shared = self.clone();
            std::thread::spawn(move || {
                let served = shared.serve(&connection);
                let reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
                if !served.as_ref().is_err_and(reset) {
                    let _ = connection.shutdown(Shutdown::Both);
                }
                lock(&shared.open).remove(&number);
            });
        }
    }

    /// Answers a connection's requests, one after the other, until either side closes it.
    fn serve(&self, connection: &TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut from = BufReader::new(connection);
        while let Some(request) = read_request(&mut from)? {
            lock(&self.requests).push(request.clone());
            let active = self.active.fetch_add(1, Ordering::SeqCst) + 1;
            self.peak.fetch_max(active, Ordering::SeqCst);
            let kept = match (self.hook)(&request) {
                Some(response) => send(connection, &request, &response),
                None => self.send_file(connection, &request),
            };
            self.active.fetch_sub(1, Ordering::SeqCst);
            let close = request.header("connection").unwrap_or_default();
            if !kept? || close.eq_ignore_ascii_case("close") {
                break;
            }
        }
        Ok(())
    }

    /// Answers with a file. Returns whether the connection can go on.
    fn send_file(&self, to: &TcpStream, request: &Request) -> io::Result<bool> {
        let error = |status, text: &str| send(to, request, &Response::new(status).body(text));
        if !["GET", "HEAD"].contains(&request.method.as_str()) {
            return error(405, "method not allowed\n");
        }
        let path = request.path.trim_start_matches('/');
        if path.split('/').any(|part| part == "..") {
            return error(400, "bad path\n");
        }
        let Ok(mut file) = File::open(self.directory.join(path)) else {
            return error(404, "not found\n");
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return error(404, "not found\n");
        }
        let size = metadata.len();
        let (status, start, end) = match request.header("range").map(|r| range(r, size)) {
            None | Some(Range::Ignored) => (200, 0, size),
            Some(Range::Of(start, end)) => (206, start, end),
            Some(Range::Unsatisfiable) => {
                let size = format!("bytes */{size}");
                let response = Response::new(416).header("Content-Range", &size);
                return send(to, request, &response);
            }
        };
        let mut headers = vec![("Accept-Ranges".to_owned(), "bytes".to_owned())];
        let kind = content_type(path).to_owned();
        headers.push(("Content-Type".to_owned(), kind));
        if status == 206 {
            let range = format!("bytes {start}-{}/{size}", end - 1);
            headers.push(("Content-Range".to_owned(), range));
        }
        let mut to = to;
        to.write_all(head(status, &headers, end - start).as_bytes())?;
        if request.method == "GET" {
            file.seek(SeekFrom::Start(start))?;
            let sent = io::copy(&mut file.take(end - start), &mut to)?;
            return Ok(sent == end - start);
        }
        Ok(true)
    }
}

/// Reads a request with its body; `None` at the end of the connection.
fn read_request(from: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::Error::other("not a request line"));
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: percent_decoded(path),
        query: query.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        let name = name.trim().to_ascii_lowercase();
        request.headers.push((name, value.trim().to_owned()));
    }
    let length = request.header("content-length").map(str::parse);
    if let Some(Ok(length)) = length {
        from.take(length).read_to_end(&mut request.body)?;
    }
    Ok(Some(request))
}

/// Sends a test's answer. Returns whether the connection can go on.
fn send(mut to: &TcpStream, request: &Request, response: &Response) -> io::Result<bool> {
    std::thread::sleep(response.delay);
    let length = (response.body.len() + response.missing) as u64;
    to.write_all(head(response.status, &response.headers, length).as_bytes())?;
    if request.method != "HEAD" {
        to.write_all(&response.body)?;
    }
    if response.resets {
        // What is left to send is thrown away with the socket, and the other side is told.
        set_socket_linger(to, Some(Duration::ZERO))?;
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(response.missing == 0)
}

fn head(status: u16, headers: &[(String, String)], length: u64) -> String {
    let reason = match status {
        200 => "OK",
        206 => "Partial Content",
        404 => "Not Found",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    };
    let mut head = format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head + "\r\n"
}

enum Range {
    /// First byte, and the byte after the last.
    Of(u64, u64),
    Unsatisfiable,
    /// Several ranges, or nothing that is one: the whole file is a right answer (RFC 9110, 14.2).
    Ignored,
}

fn range(header: &str, size: u64) -> Range {
    let Some((first, last)) = header
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Range::Ignored;
    };
    let (start, end) = match (first.parse(), last.parse::<u64>()) {
        (Ok(start), Ok(last)) => (start, size.min(last.saturating_add(1))),
        (Ok(start), Err(_)) if last.is_empty() => (start, size),
        (Err(_), Ok(suffix)) if first.is_empty() => (size.saturating_sub(suffix), size),
        _ => return Range::Ignored,
    };
    if start < end {
        Range::Of(start, end)
    } else {
        Range::Unsatisfiable
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        if let Some(decoded) = after.get(..2).filter(|_| byte == b'%').and_then(hex) {
            bytes.push(decoded);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// As cache.nixos.org has them.
fn content_type(path: &str) -> &'static str {
    match Path::new(path).extension().and_then(|e| e.to_str()) {
        Some("narinfo") => "text/x-nix-narinfo",
        Some("nar" | "xz" | "zst" | "bz2" | "br") => "application/x-nix-nar",
        Some("json") => "application/json",
        _ if path == "nix-cache-info" => "text/x-nix-cache-info",
        _ => "application/octet-stream",
    }
}
