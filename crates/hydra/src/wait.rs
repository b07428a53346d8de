//! Waiting for what Hydra has not done yet: gently, with a line a minute, and not for ever.

use crate::deploy::DeployError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use words::duration;

/// Where lines of the log go.
pub type Say<'a> = dyn FnMut(&str) + 'a;

/// How often Hydra is asked while it is waited for, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long in all; zero asks once.
    pub total: Duration,
    /// Between the first two questions; each pause is half as long again, up to `longest`.
    pub first: Duration,
    pub longest: Duration,
    /// Between two lines of the log.
    pub line: Duration,
}

/// One wait, which goes on over several things that are waited for.
#[derive(Debug)]
pub(super) struct Wait {
    patience: Patience,
    started: Instant,
    pause: Duration,
    last_line: Option<Instant>,
    /// Hydra has answered once, so it is there.
    answered: bool,
}

impl Patience {
    /// As is fit for a Hydra that others use as well.
    #[must_use]
    pub fn of(total: Duration) -> Self {
        Self {
            total,
            first: Duration::from_secs(3),
            longest: Duration::from_secs(20),
            line: Duration::from_mins(1),
        }
    }
}

impl Wait {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            started: Instant::now(),
            pause: patience.first,
            last_line: None,
            answered: false,
        }
    }

    /// How long has been waited.
    pub(super) fn waited(&self) -> Duration {
        self.started.elapsed()
    }

    /// Asks Hydra, and once it has answered anything, asks again as long as there is time if it fails
    /// in a way that may pass: whoever waits need not care that it is restarted.
    pub(super) fn ask<T, E: Into<DeployError>>(
        &mut self,
        say: &mut Say,
        mut ask: impl FnMut() -> Result<T, E>,
    ) -> Result<T, DeployError> {
        loop {
            let answer = ask().map_err(E::into);
            let passing = matches!(&answer, Err(error) if error.is_passing());
            if passing && self.answered && self.pause(say, || "Hydra does not answer".to_string()) {
                continue;
            }
            self.answered |= answer.is_ok();
            return answer;
        }
    }

    /// Pauses, after a line that says why if it is time for one. Answers whether there is time to
    /// ask again.
    pub(super) fn pause(&mut self, say: &mut Say, why: impl FnOnce() -> String) -> bool {
        let left = self.patience.total.saturating_sub(self.waited());
        if left.is_zero() {
            return false;
        }
        if self
            .last_line
            .is_none_or(|last| last.elapsed() >= self.patience.line)
        {
            let left = duration(left.max(Duration::from_secs(1)));
            say(&format!("{}; waiting up to {left} more", why()));
            self.last_line = Some(Instant::now());
        }
        std::thread::sleep(self.pause.min(left));
        self.pause = (self.pause * 3 / 2).min(self.patience.longest);
        true
    }
}

/// How long ago a time of Hydra's was, in words.
pub(super) fn since(time: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    duration(now.saturating_sub(Duration::from_secs(time)))
}
