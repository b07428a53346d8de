//! Bodies that fail once they stall or trickle.

use std::io::{self, Read};
use std::time::{Duration, Instant};
use ureq::http::Response;
use ureq::{Body, BodyReader};

/// The fewest bytes that a body must bring in each [`Patience::read`](crate::Patience::read) spent
/// waiting for it. That is half a kilobyte a second: a slow line has more, and one byte now and then
/// is no download.
pub(crate) const MIN_BYTES: u64 = 16 * 1024;

/// The bytes of a response, while they arrive at a useful rate.
pub(crate) struct Steady {
    reader: BodyReader<'static>,
    /// [`Patience::read`](crate::Patience::read).
    patience: Duration,
    /// Time spent waiting for bytes, and the bytes that came, since the rate was last checked.
    waited: Duration,
    brought: u64,
}

/// The body trickles. A request for the rest would trickle as well.
#[derive(Debug, thiserror::Error)]
#[error("it comes too slowly to be waited for")]
struct Trickles;

pub(crate) fn is_trickle(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<Trickles>)
}

impl Steady {
    pub(crate) fn new(response: Response<Body>, patience: Duration) -> Self {
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
                return Err(io::Error::new(io::ErrorKind::TimedOut, Trickles));
            }
            (self.waited, self.brought) = (Duration::ZERO, 0);
        }
        Ok(count)
    }
}
