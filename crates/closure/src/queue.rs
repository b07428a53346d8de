//! What is still to be done for a closure: NARs to fetch, the largest first, as they become known.

use binary_cache::PathInfo;
use nix_derivation::StorePath;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A store path that is to be downloaded, and to where.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    pub path: StorePath,
    pub info: PathInfo,
    /// It must not exist, but the directory that it is in must.
    pub place: PathBuf,
}

/// The largest decides when the whole is done, so it must not be the last to start.
impl Ord for Wanted {
    fn cmp(&self, other: &Self) -> Ordering {
        let sizes = self.info.nar_size.cmp(&other.info.nar_size);
        sizes.then_with(|| other.path.cmp(&self.path))
    }
}

impl PartialOrd for Wanted {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What many threads work off.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    stopped: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BinaryHeap<Wanted>,
    /// Whether nothing more is added.
    closed: bool,
}

impl Queue {
    /// A queue to which nothing will be added.
    pub fn of(wanted: impl IntoIterator<Item = Wanted>) -> Self {
        let queue = Self::default();
        queue.lock().waiting = wanted.into_iter().collect();
        queue.close();
        queue
    }

    pub fn add(&self, wanted: Wanted) {
        self.lock().waiting.push(wanted);
        self.changed.notify_one();
    }

    /// Nothing more will be added.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Has all threads end soon, those that are in the middle of a NAR included.
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
        // Whoever looks at `stopped` next to the lock sees it, or is woken.
        drop(self.lock());
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// The same bytes, which end with an error once the queue was stopped.
    pub(super) fn until_stopped(&self, bytes: Box<dyn Read>) -> Box<dyn Read> {
        Box::new(UntilStopped {
            bytes,
            stopped: Arc::clone(&self.stopped),
        })
    }

    /// How many are waiting; nothing while more may come.
    pub(super) fn len(&self) -> Option<usize> {
        let state = self.lock();
        state.closed.then(|| state.waiting.len())
    }

    /// Waits for the next path; nothing once all are taken.
    pub(super) fn next(&self) -> Option<Wanted> {
        let mut state = self.lock();
        loop {
            if self.is_stopped() {
                return None;
            }
            if let Some(wanted) = state.waiting.pop() {
                return Some(wanted);
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct UntilStopped {
    bytes: Box<dyn Read>,
    stopped: Arc<AtomicBool>,
}

impl Read for UntilStopped {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.stopped.load(Relaxed) {
            return Err(io::Error::other("nobody needs it any more"));
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

    fn wanted(digit: char, nar_size: u64) -> Wanted {
        let path = format!("/nix/store/{}-a", digit.to_string().repeat(32));
        Wanted {
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

    fn size(wanted: Option<Wanted>) -> Option<u64> {
        wanted.map(|wanted| wanted.info.nar_size)
    }

    #[test]
    fn the_largest_of_what_is_known_comes_first() {
        let queue = Queue::default();
        for wanted in [wanted('1', 10), wanted('2', 30), wanted('3', 20)] {
            queue.add(wanted);
        }
        assert_eq!(queue.len(), None);
        assert_eq!(size(queue.next()), Some(30));
        queue.add(wanted('4', 25));
        queue.close();
        assert_eq!(queue.len(), Some(3));
        assert_eq!(size(queue.next()), Some(25));
        assert_eq!(size(queue.next()), Some(20));
        assert_eq!(size(queue.next()), Some(10));
        assert_eq!(size(queue.next()), None);
    }

    #[test]
    fn whoever_waits_goes_on_with_what_is_added_and_ends_when_nothing_can_be() {
        let queue = Queue::default();
        thread::scope(|scope| {
            let taken = scope.spawn(|| [size(queue.next()), size(queue.next())]);
            thread::sleep(Duration::from_millis(20));
            queue.add(wanted('1', 10));
            thread::sleep(Duration::from_millis(20));
            queue.close();
            assert_eq!(taken.join().unwrap(), [Some(10), None]);
        });
    }

    #[test]
    fn a_queue_that_was_stopped_ends_those_who_wait_and_those_who_read() {
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
        queue.add(wanted('1', 10));
        assert_eq!(size(queue.next()), None);
    }
}
