//! The store paths of a closure that are still to be downloaded, the largest first.

use crate::parallel::lock;
use binary_cache::PathInfo;
use nix_derivation::StorePath;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A store path to download, and its place.
#[derive(Debug, PartialEq, Eq)]
pub struct QueuedPath {
    pub path: StorePath,
    pub info: PathInfo,
    /// It must not exist, but the directory that it is in must.
    pub place: PathBuf,
}

/// The largest decides when the whole is done, so it must not be the last to start.
impl Ord for QueuedPath {
    fn cmp(&self, other: &Self) -> Ordering {
        let sizes = self.info.nar_size.cmp(&other.info.nar_size);
        sizes.then_with(|| other.path.cmp(&self.path))
    }
}

impl PartialOrd for QueuedPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Work for many threads; more may be added until it is closed.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    stopped: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BinaryHeap<QueuedPath>,
    /// Whether nothing more will be added.
    closed: bool,
}

impl Queue {
    /// A queue to which nothing will be added.
    pub fn of(paths: impl IntoIterator<Item = QueuedPath>) -> Self {
        let queue = Self::default();
        queue.lock().waiting = paths.into_iter().collect();
        queue.close();
        queue
    }

    pub fn add(&self, path: QueuedPath) {
        self.lock().waiting.push(path);
        self.changed.notify_one();
    }

    /// Nothing more will be added.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Ends all threads soon, even those in the middle of a NAR.
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
        // A thread that holds the lock is yet to wait, and would miss the wake-up.
        drop(self.lock());
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// Returns the same bytes, which end with an error once the queue is stopped.
    pub(super) fn until_stopped(&self, bytes: Box<dyn Read>) -> Box<dyn Read> {
        Box::new(UntilStopped {
            bytes,
            stopped: Arc::clone(&self.stopped),
        })
    }

    /// How many are waiting; `None` while more may be added.
    pub(super) fn len(&self) -> Option<usize> {
        let state = self.lock();
        state.closed.then(|| state.waiting.len())
    }

    /// Waits for the next path; `None` once all are taken.
    pub(super) fn next(&self) -> Option<QueuedPath> {
        let mut state = self.lock();
        loop {
            if self.is_stopped() {
                return None;
            }
            if let Some(path) = state.waiting.pop() {
                return Some(path);
            }
            if state.closed {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

struct UntilStopped {
    bytes: Box<dyn Read>,
    stopped: Arc<AtomicBool>,
}

impl Read for UntilStopped {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.stopped.load(Relaxed) {
            return Err(io::Error::other("the download was stopped"));
        }
        self.bytes.read(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use binary_cache::Trust;
    use nix_derivation::NixHash;
    use std::thread;
    use std::time::Duration;

    fn queued(digit: char, nar_size: u64) -> QueuedPath {
        let path = format!("/nix/store/{}-a", digit.to_string().repeat(32));
        QueuedPath {
            path: path.parse().unwrap(),
            info: PathInfo {
                nar_hash: NixHash::Sha256([0; 32]),
                nar_size,
                references: std::collections::BTreeSet::new(),
                source: None,
                trust: Trust::Signed,
                content: None,
            },
            place: PathBuf::new(),
        }
    }

    fn size(path: Option<QueuedPath>) -> Option<u64> {
        path.map(|path| path.info.nar_size)
    }

    #[test]
    fn the_largest_of_what_is_known_comes_first() {
        let queue = Queue::default();
        for path in [queued('1', 10), queued('2', 30), queued('3', 20)] {
            queue.add(path);
        }
        assert_eq!(queue.len(), None);
        assert_eq!(size(queue.next()), Some(30));
        queue.add(queued('4', 25));
        queue.close();
        assert_eq!(queue.len(), Some(3));
        assert_eq!(size(queue.next()), Some(25));
        assert_eq!(size(queue.next()), Some(20));
        assert_eq!(size(queue.next()), Some(10));
        assert_eq!(size(queue.next()), None);
    }

    #[test]
    fn a_waiting_thread_takes_added_paths_and_ends_once_the_queue_is_closed() {
        let queue = Queue::default();
        thread::scope(|scope| {
            let taken = scope.spawn(|| [size(queue.next()), size(queue.next())]);
            thread::sleep(Duration::from_millis(20));
            queue.add(queued('1', 10));
            thread::sleep(Duration::from_millis(20));
            queue.close();
            assert_eq!(taken.join().unwrap(), [Some(10), None]);
        });
    }

    #[test]
    fn a_stopped_queue_ends_waiting_and_reading_threads() {
        let queue = Queue::default();
        let mut bytes = queue.until_stopped(Box::new(io::repeat(7)));
        let mut some = [0; 4];
        bytes.read_exact(&mut some).unwrap();
        assert_eq!(some, [7; 4]);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.next().is_none());
            thread::sleep(Duration::from_millis(20));
            queue.stop();
            assert!(waiting.join().unwrap());
        });
        assert!(bytes.read_exact(&mut some).is_err());
        queue.add(queued('1', 10));
        assert_eq!(size(queue.next()), None);
    }
}
