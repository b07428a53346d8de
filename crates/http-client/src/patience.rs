//! How long each step of a request may take.

use crate::Size;
use std::time::Duration;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// How long a server may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the header of an answer that needs no work, such as a narinfo.
    pub response: Duration,
    /// For the header of any other answer, and of a second attempt at a narinfo: a server may fetch
    /// or compress a whole file first. Nix's `stalled-download-timeout` is the same.
    pub slow_response: Duration,
    /// For the next bytes of a body, and the time in which it must bring
    /// [`MIN_BYTES`](crate::steady::MIN_BYTES).
    pub read: Duration,
    /// For all attempts at one request and the pauses between them. Attempts that wait in vain for
    /// an answer do not count.
    pub retry: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            response: Duration::from_mins(1),
            slow_response: Duration::from_mins(5),
            read: Duration::from_secs(30),
            retry: Duration::from_mins(1),
        }
    }
}

impl Patience {
    /// How long the header of an answer may take after `timeouts` attempts that had none.
    pub(crate) fn header(&self, size: Size, timeouts: u32) -> Duration {
        match (size, timeouts) {
            (Size::Small, 0) => self.response,
            _ => self.slow_response,
        }
    }
}

/// Limits each wait for more of a body, but not the wait for a header: the HTTP library's own limit
/// on reads applies to both.
#[derive(Debug)]
pub(crate) struct BodyTimeout(pub(crate) Duration);

impl<In: Transport> Connector<In> for BodyTimeout {
    type Out = Timed<In>;

    fn connect(
        &self,
        _: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(|inner| Timed {
            inner,
            limit: self.0,
        }))
    }
}

/// A connection whose bodies are waited for `limit` at most.
#[derive(Debug)]
pub(crate) struct Timed<T> {
    inner: T,
    limit: Duration,
}

impl<T: Transport> Transport for Timed<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if timeout.reason != ureq::Timeout::RecvResponse {
            timeout.per_read = Some(self.limit.into());
        }
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
