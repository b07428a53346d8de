//! A circuit breaker: a cache that stops answering is not asked again and again.

use crate::{BinaryCache, CacheError, NarSource};
use std::io::{self, Read};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Requests in a row that fail although they were repeated, after which a cache is left alone.
const MAX_FAILURES: u32 = 4;

/// How a cache fares with one kind of request.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Why it is not asked any more.
    down: OnceLock<String>,
    /// Requests that were answered, and those whose answer was read to its end.
    begun: AtomicU32,
    ended: AtomicU32,
    /// Failures since the last request that was answered.
    failures: AtomicU32,
}

/// A request to a cache, with the counts of [`Health`] when it began.
#[derive(Debug)]
pub struct Attempt<'a> {
    cache: &'a BinaryCache,
    health: &'a Health,
    begun: u32,
    ended: u32,
}

impl Health {
    /// Why the cache is not asked any more; None while it is.
    pub(crate) fn down(&self) -> Option<&str> {
        self.down.get().map(String::as_str)
    }

    pub(crate) fn attempt<'a>(&'a self, cache: &'a BinaryCache) -> Attempt<'a> {
        Attempt {
            cache,
            health: self,
            begun: self.begun.load(Relaxed),
            ended: self.ended.load(Relaxed),
        }
    }
}

impl Attempt<'_> {
    /// Opens a NAR.
    pub fn nar(&self, source: &NarSource) -> Result<Box<dyn Read>, CacheError> {
        let nar = self.cache.nar(&source.url);
        nar.inspect(|_| {
            self.health.begun.fetch_add(1, Relaxed);
        })
        .inspect_err(|error| self.failed(error))
    }

    /// Records that the answer was read to its end.
    pub fn answered(&self) {
        self.health.begun.fetch_add(1, Relaxed);
        self.health.ended.fetch_add(1, Relaxed);
        self.health.failures.store(0, Relaxed);
    }

    /// Records that the answer broke off with `error`.
    pub fn broke(&self, error: &io::Error) {
        // A NAR that cannot be decoded says nothing of the next one.
        if is_broken(error) && self.health.ended.load(Relaxed) == self.ended {
            self.count(error.to_string());
        }
    }

    /// Records a failure if the next request would probably fail too. A cache that answers others
    /// meanwhile is not down.
    pub(crate) fn failed(&self, error: &CacheError) {
        let is_outage = match error {
            CacheError::Http(error) => error.is_outage(),
            CacheError::Io(_) => true,
            _ => false,
        };
        if is_outage && self.health.begun.load(Relaxed) == self.begun {
            self.count(error.to_string());
        }
    }

    fn count(&self, reason: String) {
        if self.health.failures.fetch_add(1, Relaxed) + 1 >= MAX_FAILURES {
            // Another thread may have set it already.
            let _ = self.health.down.set(reason);
        }
    }
}

/// Whether a connection failed, as opposed to what was sent over it.
fn is_broken(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected, TimedOut,
    };
    matches!(
        error.kind(),
        BrokenPipe
            | ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | NotConnected
            | TimedOut
    )
}
