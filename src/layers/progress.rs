//! Tells how a long download gets on: now and then, how much has come, how fast, and what is left.

use crate::log::{self, bytes};
use binary_cache::Caches;
use bullet_stream::global::print;
use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use words::duration;

/// How often something is said: first after `first`, then whenever as long again as half of the time
/// that the download has taken, but no less than `first` and no more than `longest`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub first: Duration,
    pub longest: Duration,
}

/// What is sensible in a log: nothing where a download takes seconds, some ten lines where it takes
/// five minutes.
pub(super) const PACE: Pace = Pace {
    first: Duration::from_secs(10),
    longest: Duration::from_mins(1),
};

/// How much had come when.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// Since the download began.
    time: Duration,
    received: Received,
}

/// How far the network is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub bytes: u64,
    /// Whether more is waited for; otherwise what has come is being unpacked.
    pub is_waiting: bool,
}

/// Runs `work`, which downloads `total` bytes, and logs how far it is. `received` returns how many bytes
/// have come.
///
/// What had to be downloaded twice counts twice, so `total` may be passed.
pub(super) fn watch<T: Send>(
    total: u64,
    received: impl Fn() -> Received,
    pace: Pace,
    mut say: impl FnMut(String),
    work: impl FnOnce() -> T + Send,
) -> T {
    thread::scope(|scope| {
        let (working, ended) = channel::<()>();
        let work = scope.spawn(move || {
            let done = work();
            drop(working);
            done
        });
        let begun = Instant::now();
        let mut last = Moment {
            time: Duration::ZERO,
            received: received(),
        };
        loop {
            let due = last.time + (last.time / 2).clamp(pace.first, pace.longest);
            match ended.recv_timeout(due.saturating_sub(begun.elapsed())) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => break,
            }
            let now = Moment {
                time: begun.elapsed(),
                received: received(),
            };
            say(line(total, last, now));
            last = now;
        }
        work.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// The line for `now`, when the line before was for `last`.
fn line(total: u64, last: Moment, now: Moment) -> String {
    let Received {
        bytes: came,
        is_waiting,
    } = now.received;
    if came >= total {
        return format!("All of {} is here, and is being unpacked", bytes(total));
    }
    let so_far = format!("{} of {}", bytes(came), bytes(total));
    let passed = now.time.saturating_sub(last.time);
    let left = total - came;
    let came = came.saturating_sub(last.received.bytes);
    let milliseconds = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = came.saturating_mul(1000) / milliseconds;
    match left.checked_div(rate) {
        Some(left) => format!(
            "{so_far}, {}/s, {} left",
            bytes(rate),
            duration(Duration::from_secs(left.max(1)))
        ),
        None if is_waiting => format!("{so_far}, and nothing came for {}", duration(passed)),
        None => format!("{so_far}, and the rest waits to be unpacked"),
    }
}

/// Runs `work`, a download of `total` bytes of NARs, under the heading `what`: says how it gets on
/// where it takes long, and in the end how much came from which cache since they had sent `before`, or
/// in all.
pub(super) fn downloading<T: Send, E: Send>(
    what: &str,
    total: u64,
    caches: &Caches,
    before: &[u64],
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    let from_each = || {
        let before = before.iter().chain(std::iter::repeat(&0));
        let now = caches.received().zip(before);
        now.map(|((cache, now), before)| (cache, now - before))
    };
    let begun = Instant::now();
    let mut timer = Some(print::sub_start_timer(what));
    let done = watch(
        total,
        || Received {
            bytes: from_each().map(|(_, count)| count).sum(),
            is_waiting: caches.is_any_waited_for(),
        },
        PACE,
        |line| match timer.take() {
            Some(timer) => timer.cancel(line),
            None => log::sub_bullet(line),
        },
        work,
    );
    match timer {
        Some(timer) => {
            timer.done();
        }
        None => log::sub_bullet(format!("Done after {}", duration(begun.elapsed()))),
    }
    if done.is_ok() {
        for (cache, count) in from_each().filter(|(_, count)| *count > 0) {
            log::sub_bullet(format!("{} came from {cache}", bytes(count)));
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn moment(seconds: u64, bytes: u64) -> Moment {
        Moment {
            time: Duration::from_secs(seconds),
            received: waiting(bytes),
        }
    }

    fn waiting(bytes: u64) -> Received {
        Received {
            bytes,
            is_waiting: true,
        }
    }

    #[test]
    fn a_line_says_how_much_how_fast_and_what_is_left() {
        let total = 812_400_000;
        for (last, now, expected) in [
            (
                moment(0, 0),
                moment(10, 98_300_000),
                "98.3 MB of 812.4 MB, 9.8 MB/s, 72 seconds left",
            ),
            (
                moment(10, 98_300_000),
                moment(20, 310_300_000),
                "310.3 MB of 812.4 MB, 21.2 MB/s, 23 seconds left",
            ),
            (
                moment(20, 310_300_000),
                moment(30, 310_300_000),
                "310.3 MB of 812.4 MB, and nothing came for 10 seconds",
            ),
            (
                moment(30, 310_300_000),
                moment(40, 812_400_000),
                "All of 812.4 MB is here, and is being unpacked",
            ),
        ] {
            assert_eq!(line(total, last, now), expected);
        }
        let mut busy = moment(30, 310_300_000);
        busy.received.is_waiting = false;
        assert_eq!(
            line(total, moment(20, 310_300_000), busy),
            "310.3 MB of 812.4 MB, and the rest waits to be unpacked"
        );
    }

    #[test]
    fn nothing_is_said_of_what_is_soon_done_and_more_and_more_seldom_of_what_is_not() {
        let pace = |first, longest| Pace {
            first: Duration::from_millis(first),
            longest: Duration::from_millis(longest),
        };
        let mut said = Vec::new();
        let short = watch(
            100,
            || waiting(0),
            pace(5_000, 5_000),
            |line| said.push(line),
            || 7,
        );
        assert_eq!((short, said.len()), (7, 0));

        let come = AtomicU64::new(0);
        let mut times = Vec::new();
        let begun = Instant::now();
        watch(
            100,
            || waiting(come.fetch_add(1, Ordering::Relaxed)),
            pace(20, 200),
            |_| times.push(begun.elapsed()),
            || thread::sleep(Duration::from_millis(500)),
        );
        // At 20, 40, 60, 90, 135, 202, 303 and 454 ms, or later on a busy machine.
        assert!((3..=8).contains(&times.len()), "{times:?}");
    }
}
