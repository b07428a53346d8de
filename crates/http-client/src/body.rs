//! A body that resumes where its connection broke.

use crate::attempts::backoff;
use crate::client::{Request, header_text};
use crate::gate::Pass;
use crate::steady::{Steady, is_trickle};
use crate::{Credentials, Http, HttpError, Size};
use std::io::{self, Read};
use ureq::Body as UreqBody;
use ureq::http::{Response, header};
use url::Url;

/// How often one body may be resumed.
const MAX_RESUMES: u32 = 20;

/// How often in a row, where not one byte more comes of it: a server that sends nothing after its
/// header is left after two minutes, not ten.
const MAX_RESUMES_IN_VAIN: u32 = 3;

/// The body of a response.
///
/// If the connection breaks, it is opened again: with a `Range` of the rest where the server supports
/// it, else from the start, skipping what was already read. The reader cannot tell, so it must check
/// a hash in the end.
pub struct Body {
    http: Http,
    url: Url,
    credentials: Option<Credentials>,
    /// None once the whole body is read and its connection closed.
    reader: Option<Steady>,
    size: Size,
    /// Held until the whole body is read.
    pass: Option<Pass>,
    /// Bytes handed out so far.
    position: u64,
    /// Bytes of the whole body, where the server says.
    length: Option<u64>,
    content_encoding: Option<String>,
    resumes: u32,
    /// The position of the last resume, and how often in a row it got no further.
    resumed_at: u64,
    in_vain: u32,
}

impl Body {
    /// The body of `response`, the answer to a request for `url` that holds `pass`.
    pub(super) fn new(
        http: &Http,
        url: Url,
        credentials: Option<Credentials>,
        response: Response<UreqBody>,
        pass: Pass,
    ) -> Self {
        Self {
            http: http.clone(),
            url,
            credentials,
            length: response.body().content_length(),
            content_encoding: header_text(response.headers(), &header::CONTENT_ENCODING),
            reader: Some(Steady::new(response, http.patience.read)),
            size: pass.size(),
            pass: Some(pass),
            position: 0,
            resumes: 0,
            resumed_at: 0,
            in_vain: 0,
        }
    }

    /// The `Content-Encoding` header.
    pub fn content_encoding(&self) -> Option<&str> {
        self.content_encoding.as_deref()
    }

    fn read_once(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.length == Some(self.position) && self.pass.as_ref().is_some_and(Pass::is_waited_for)
        {
            // Dropping the reader before it returns 0 closes its connection.
            self.reader = None;
            self.pass = None;
        }
        let Some(reader) = &mut self.reader else {
            return Ok(0);
        };
        let count = reader.read(buffer)?;
        let short = self.length.is_some_and(|length| self.position < length);
        if count == 0 && short && !buffer.is_empty() {
            // Not `UnexpectedEof`, which decoders say of a file that is too short.
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection was closed before the end",
            ));
        }
        if count == 0 && !buffer.is_empty() {
            // The connection can be used again by now, so the next request need not open one.
            self.pass = None;
        }
        Ok(count)
    }

    /// Opens the same URL again, so that the next byte read is the one at `position`.
    fn resume(&mut self) -> Result<(), HttpError> {
        // The new request waits at the gate again, where this one must not take a place.
        self.pass = None;
        let request = Request {
            url: &self.url,
            credentials: self.credentials.as_ref(),
            from: Some(self.position),
        };
        let (response, pass) = self.http.request(request, self.size)?;
        self.pass = Some(pass);
        let ranged = response.status().as_u16() == 206;
        let mut reader = Steady::new(response, self.http.patience.read);
        if !ranged {
            let skipped = io::copy(&mut reader.by_ref().take(self.position), &mut io::sink());
            if !matches!(skipped, Ok(count) if count == self.position) {
                return Err(HttpError::Transport("the connection broke again".into()));
            }
        }
        self.reader = Some(reader);
        Ok(())
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.read_once(buffer) {
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if self.resumes == MAX_RESUMES || is_trickle(&error) => {
                    return Err(error);
                }
                Err(error) => {
                    self.in_vain = match self.position {
                        position if position == self.resumed_at => self.in_vain + 1,
                        _ => 0,
                    };
                    if self.in_vain > MAX_RESUMES_IN_VAIN {
                        return Err(error);
                    }
                    self.resumed_at = self.position;
                    self.resumes += 1;
                    std::thread::sleep(backoff(1));
                    self.resume().map_err(|again| {
                        io::Error::new(error.kind(), format!("{error}; then: {again}"))
                    })?;
                }
            }
        }
    }
}
