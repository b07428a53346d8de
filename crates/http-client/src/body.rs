//! A body that goes on where it was cut off.

use crate::client::{Credentials, Http, HttpError, backoff, header_text};
use crate::gate::{Pass, Size};
use std::io::{self, Read};
use std::time::{Duration, Instant};
use ureq::http::{Response, header};
use ureq::{Body as UreqBody, BodyReader};
use url::Url;

/// How often one body may be taken up again after it was cut off.
const RESUMES: u32 = 20;

/// How often in a row, where not one byte more comes of it: a server that sends nothing after its
/// header is left after two minutes, not ten.
const RESUMES_IN_VAIN: u32 = 3;

/// The fewest bytes that a body must bring in each [`Patience::read`] that is spent waiting for it.
/// That is half a kilobyte a second: a slow line has more, and one byte now and then is no download.
pub(super) const MIN_BYTES: u64 = 16 * 1024;

/// The body of a response.
///
/// Where the connection breaks it is opened again, with a `Range` of what is left where the server
/// knows how, else from the start with what was already read thrown away. Whoever reads it cannot
/// tell, and checks a hash in the end.
pub struct Body {
    http: Http,
    url: Url,
    credentials: Option<Credentials>,
    /// None once all is read and the connection is closed.
    reader: Option<Steady>,
    size: Size,
    /// Until all is read.
    pass: Option<Pass>,
    /// Bytes handed out so far.
    position: u64,
    /// Length of the whole, where the server told.
    length: Option<u64>,
    content_encoding: Option<String>,
    resumes: u32,
    /// Where it was taken up the last time, and how often in a row it got no further.
    resumed_at: u64,
    in_vain: u32,
}

/// What comes of a response, as long as it comes: it ends with an error where it trickles.
pub(super) struct Steady {
    reader: BodyReader<'static>,
    /// The [`Patience::read`](crate::Patience::read).
    patience: Duration,
    /// Time spent waiting for bytes, and what came in it, since it was last checked.
    waited: Duration,
    brought: u64,
}

impl Steady {
    pub(super) fn new(response: Response<UreqBody>, patience: Duration) -> Self {
        Self {
            reader: response.into_body().into_reader(),
            patience,
            waited: Duration::ZERO,
            brought: 0,
        }
    }
}

impl Read for Steady {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let started = Instant::now();
        let count = self.reader.read(buffer).map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            match inner {
                Some(ureq::Error::Timeout(_)) => {
                    io::Error::new(io::ErrorKind::TimedOut, "nothing more came in time")
                }
                _ => error,
            }
        })?;
        self.waited += started.elapsed();
        self.brought += count as u64;
        if self.waited > self.patience {
            if count > 0 && self.brought < MIN_BYTES {
                return Err(io::Error::new(io::ErrorKind::TimedOut, TOO_SLOW));
            }
            (self.waited, self.brought) = (Duration::ZERO, 0);
        }
        Ok(count)
    }
}

impl Body {
    /// The body of `response`, which `url` answered with, to whoever was given `pass`.
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

    /// The `Content-Encoding` that lies around what was asked for.
    #[must_use]
    pub fn content_encoding(&self) -> Option<&str> {
        self.content_encoding.as_deref()
    }

    fn read_once(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.length == Some(self.position) && self.pass.as_ref().is_some_and(Pass::is_waited_for)
        {
            // A reader that is dropped before it has said that this is the end closes its connection.
            self.reader = None;
            self.pass = None;
        }
        let Some(reader) = &mut self.reader else {
            return Ok(0);
        };
        let count = reader.read(buffer)?;
        let short = self.length.is_some_and(|length| self.position < length);
        if count == 0 && short && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if count == 0 && !buffer.is_empty() {
            // The connection can be used again by now, so whoever passes next need not open one.
            self.pass = None;
        }
        Ok(count)
    }

    /// Opens the same URL again, so that the next byte read is the one at `position`.
    fn resume(&mut self) -> Result<(), HttpError> {
        // Whoever asks again waits again, and must not be waited for.
        self.pass = None;
        let credentials = self.credentials.as_ref();
        let (response, pass) =
            self.http
                .request(&self.url, credentials, Some(self.position), self.size)?;
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
                Err(error) if self.resumes == RESUMES || is_too_slow(&error) => return Err(error),
                Err(error) => {
                    self.in_vain = match self.position {
                        position if position == self.resumed_at => self.in_vain + 1,
                        _ => 0,
                    };
                    if self.in_vain > RESUMES_IN_VAIN {
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

/// What is said of a body that trickles. It is not asked for again: it would trickle again.
const TOO_SLOW: &str = "it comes too slowly to be waited for";

fn is_too_slow(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut && error.to_string() == TOO_SLOW
}
