//! Waits for Hydra: asks seldom, logs a line a minute, and gives up in the end.

use crate::error::DeployError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use words::duration;

/// Where lines of the log go.
pub type Say<'a> = dyn FnMut(&str) + 'a;

/// How often Hydra is asked while it is at work, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Polling {
    /// The time in all; zero asks once.
    pub total: Duration,
    /// The first pause; each is half as long again as the one before, up to `longest`.
    pub first: Duration,
    pub longest: Duration,
    /// Between two lines of the log.
    pub line: Duration,
}

/// One wait, for an evaluation and then for a build.
#[derive(Debug)]
pub(crate) struct Wait {
    polling: Polling,
    started: Instant,
    pause: Duration,
    last_line: Option<Instant>,
    /// Hydra has answered once, so it is there.
    answered: bool,
}

impl Polling {
    /// Pauses for a Hydra that others use as well.
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
    pub(crate) fn new(polling: Polling) -> Self {
        Self {
            polling,
            started: Instant::now(),
            pause: polling.first,
            last_line: None,
            answered: false,
        }
    }

    /// The time since the wait began.
    pub(crate) fn waited(&self) -> Duration {
        self.started.elapsed()
    }

    /// Asks Hydra. After it has answered once, temporary failures are retried while there is time: it
    /// may be restarted meanwhile.
    pub(crate) fn ask<T, E: Into<DeployError>>(
        &mut self,
        say: &mut Say,
        mut ask: impl FnMut() -> Result<T, E>,
    ) -> Result<T, DeployError> {
        loop {
            let answer = ask().map_err(E::into);
            let is_temporary = matches!(&answer, Err(error) if error.is_temporary());
            if is_temporary
                && self.answered
                && self.pause(say, || "Hydra does not answer".to_string())
            {
                continue;
            }
            self.answered |= answer.is_ok();
            return answer;
        }
    }

    /// Pauses, and logs the reason if a line is due. Returns false if there is no time left.
    pub(crate) fn pause(&mut self, say: &mut Say, why: impl FnOnce() -> String) -> bool {
        let left = self.polling.total.saturating_sub(self.waited());
        if left.is_zero() {
            return false;
        }
        if self
            .last_line
            .is_none_or(|last| last.elapsed() >= self.polling.line)
        {
            let left = duration(left.max(Duration::from_secs(1)));
            say(&format!("{}; waiting up to {left} more", why()));
            self.last_line = Some(Instant::now());
        }
        std::thread::sleep(self.pause.min(left));
        self.pause = (self.pause * 3 / 2).min(self.polling.longest);
        true
    }
}

/// How long ago one of Hydra's times was, in words.
pub(crate) fn since(time: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    duration(now.saturating_sub(Duration::from_secs(time)))
}
