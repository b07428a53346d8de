//! How much is read before it is given up, where something small may make endless work.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes that may still be read.
#[derive(Debug)]
pub struct Budget(Cell<u64>);

/// A reader whose bytes are taken off a budget; beyond that it gives an error.
pub(crate) struct Spending<'a, R> {
    inner: R,
    budget: &'a Budget,
}

impl Budget {
    pub fn new(bytes: u64) -> Self {
        Self(Cell::new(bytes))
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.0.get() == 0
    }

    /// Has no end from now on.
    pub(crate) fn lift(&self) {
        self.0.set(u64::MAX);
    }

    pub(crate) fn of<R>(&self, inner: R) -> Spending<'_, R> {
        Spending {
            inner,
            budget: self,
        }
    }
}

impl<R: Read> Read for Spending<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        let left = self.budget.0.get().saturating_sub(count as u64);
        self.budget.0.set(left);
        if left == 0 && count > 0 {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(count)
    }
}

impl<R: Seek> Seek for Spending<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}
