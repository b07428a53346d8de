//! Permits to decode: many NARs wait for the network at once, few are decoded at once.
//!
//! A thread a NAR hides latency, but as many decoders as threads drive each other's windows out of
//! the processor's caches. So each thread reads its compressed bytes ahead without a permit, as slowly
//! as its connection gives them, and takes a permit for decoding what it has read.

use crate::parallel::lock;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Compressed bytes that are read without a permit, then decoded with one.
///
/// Most NARs are smaller, and so are decoded in one go. So much takes xz some 40 ms, against which the
/// change from one decoder to another is nothing.
const READ_AHEAD: usize = 1024 * 1024;

/// The number of threads that may decode at once.
#[derive(Debug)]
pub struct DecodePermits {
    free: Mutex<usize>,
    freed: Condvar,
    /// What earlier NARs were read into: new memory has to be found and cleared.
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl DecodePermits {
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Mutex::new(count),
            freed: Condvar::new(),
            buffers: Mutex::default(),
        })
    }

    /// Reads `bytes` ahead; reading on takes a permit from the first byte to the last.
    pub fn read_ahead(self: &Arc<Self>, bytes: Box<dyn Read>) -> ReadAhead {
        let buffer = lock(&self.buffers).pop();
        ReadAhead {
            bytes,
            buffer: buffer.unwrap_or_else(|| vec![0; READ_AHEAD]),
            start: 0,
            end: 0,
            permits: Arc::clone(self),
            permit: None,
        }
    }

    fn take(self: &Arc<Self>) -> Permit {
        let mut free = self
            .freed
            .wait_while(lock(&self.free), |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Permit(Arc::clone(self))
    }
}

/// Held while decoding.
struct Permit(Arc<DecodePermits>);

impl Drop for Permit {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.freed.notify_one();
    }
}

/// Bytes that are read without a permit, and given with one. Dropping this returns the permit and the buffer.
pub struct ReadAhead {
    bytes: Box<dyn Read>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    permits: Arc<DecodePermits>,
    permit: Option<Permit>,
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        lock(&self.permits.buffers).push(std::mem::take(&mut self.buffer));
    }
}

impl BufRead for ReadAhead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.permit = None;
            (self.start, self.end) = (0, 0);
            while self.end < self.buffer.len() {
                match self.bytes.read(&mut self.buffer[self.end..]) {
                    Ok(0) => break,
                    Ok(count) => self.end += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.permit = Some(self.permits.take());
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }
}

impl Read for ReadAhead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    /// Bytes that come when the test says so.
    struct Slow(Receiver<u8>);

    impl Read for Slow {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            match self.0.recv() {
                Ok(byte) => {
                    into[0] = byte;
                    Ok(1)
                }
                Err(_) => Ok(0),
            }
        }
    }

    #[test]
    fn a_thread_that_waits_for_the_network_holds_no_permit() {
        let permits = DecodePermits::new(1);
        let (sender, receiver) = channel();
        let slow_permits = Arc::clone(&permits);
        let waiting = std::thread::spawn(move || {
            let mut slow = slow_permits.read_ahead(Box::new(Slow(receiver)));
            let mut text = String::new();
            slow.read_to_string(&mut text).unwrap();
            text
        });
        let mut text = String::new();
        let mut quick = permits.read_ahead(Box::new(&b"quick"[..]));
        quick.read_to_string(&mut text).unwrap();
        assert_eq!(text, "quick");
        drop(quick);
        sender.send(b's').unwrap();
        drop(sender);
        assert_eq!(waiting.join().unwrap(), "s");
    }

    #[test]
    fn no_more_threads_decode_at_once_than_there_are_permits() {
        let permits = DecodePermits::new(1);
        let mut first = permits.read_ahead(Box::new(&b"first"[..]));
        first.fill_buf().unwrap();
        let (sender, receiver) = channel();
        let others = Arc::clone(&permits);
        let other = std::thread::spawn(move || {
            let mut second = others.read_ahead(Box::new(&b"second"[..]));
            sender.send(second.fill_buf().unwrap().to_vec()).unwrap();
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        drop(first);
        assert_eq!(receiver.recv().unwrap(), b"second");
        other.join().unwrap();
    }
}
