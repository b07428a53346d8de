//! When a failed request is repeated, and after what pause.

use crate::HttpError;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// How often one request is sent before its failure is final.
const MAX_ATTEMPTS: u32 = 5;

/// How often a request may wait in vain for an answer: the server may still be working on the first.
const MAX_TIMEOUTS: u32 = 2;

/// The attempts at one request so far.
#[derive(Debug)]
pub(crate) struct Attempts {
    failed: u32,
    timeouts: u32,
    /// Time spent on attempts and pauses.
    spent: Duration,
    budget: Duration,
}

impl Attempts {
    pub(crate) fn new(budget: Duration) -> Self {
        Self {
            failed: 0,
            timeouts: 0,
            spent: Duration::ZERO,
            budget,
        }
    }

    /// How many attempts had no answer in time.
    pub(crate) fn timeouts(&self) -> u32 {
        self.timeouts
    }

    /// Records a failure that may be temporary, which took `took`. Returns the pause before the next
    /// attempt, which is at least `retry_after`; None if there is none.
    pub(crate) fn pause_after(
        &mut self,
        error: Option<&HttpError>,
        took: Duration,
        retry_after: Option<Duration>,
    ) -> Option<Duration> {
        self.failed += 1;
        if matches!(error, Some(HttpError::NoAnswer)) {
            self.timeouts += 1;
        } else {
            self.spent += took;
        }
        let pause = retry_after.unwrap_or_default().max(backoff(self.failed));
        // A server may ask for any pause, one of many years too.
        self.spent = self.spent.saturating_add(pause);
        let is_last = self.failed == MAX_ATTEMPTS
            || self.timeouts == MAX_TIMEOUTS
            || self.spent > self.budget;
        (!is_last).then_some(pause)
    }
}

/// 0.2 s, then twice as long each time, less up to half so that clients do not come back together.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let longest = Duration::from_millis(200) * 2_u32.pow(attempt - 1);
    let random = u32::try_from(RandomState::new().build_hasher().finish() % 1024).unwrap_or(0);
    longest.saturating_sub(longest / 2 * random / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_within_half_of_their_length() {
        for attempt in 1..MAX_ATTEMPTS {
            let longest = Duration::from_millis(100 << attempt);
            for _ in 0..100 {
                let pause = backoff(attempt);
                assert!(pause <= longest && pause >= longest / 2, "{pause:?}");
            }
        }
    }

    #[test]
    fn a_request_ends_after_five_attempts_or_two_without_an_answer_or_its_time() {
        let minute = Duration::from_mins(1);
        let failures = |error: HttpError, took, retry_after| {
            let mut attempts = Attempts::new(minute);
            1 + (0..9)
                .map_while(|_| attempts.pause_after(Some(&error), took, retry_after))
                .count()
        };
        let status = || HttpError::Status(500);
        assert_eq!(failures(status(), Duration::ZERO, None), 5);
        assert_eq!(failures(status(), minute / 2, None), 2);
        assert_eq!(failures(status(), Duration::ZERO, Some(Duration::MAX)), 1);
        assert_eq!(failures(HttpError::NoAnswer, minute * 5, None), 2);
    }
}
