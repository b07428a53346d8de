//! PRoot's standard error, which says how the app ended.
//!
//! With `-v 1`, PRoot logs the start and the end of every process:
//!
//! ```text
//! proot info: vpid 1: exited with status 3
//! proot info: vpid 1: terminated with signal 15
//! ```
//!
//! It numbers its processes from 1, which is the app. Format: `src/cli/note.c` and
//! `src/tracee/event.c` of PRoot 5.4.0.

use crate::app::End;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the log is left alone after each look while the app runs. Where many processes are started,
/// a look at each line would take a tenth of the time that they have.
const REST: Duration = Duration::from_millis(100);

/// The reading end.
#[derive(Debug)]
pub(crate) struct PRootLog {
    file: File,
    /// A descriptor that is readable once the app has ended; None from then on, or if there is none.
    app: Option<OwnedFd>,
    rest_until: Instant,
    /// The beginning of a line whose end is still to come.
    line: Vec<u8>,
    end: Option<End>,
}

impl PRootLog {
    /// The log, and the end that PRoot writes to.
    pub(crate) fn new() -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        let log = Self {
            file: reader.into(),
            app: None,
            rest_until: Instant::now(),
            line: Vec::new(),
            end: None,
        };
        Ok((log, writer))
    }

    /// Sets the app's first process.
    pub(crate) fn follow(&mut self, app: Option<Pid>) {
        // Linux has it since 5.3.
        self.app = app.and_then(|app| pidfd_open(app, PidfdFlags::empty()).ok());
    }

    /// The descriptor to wait for, and for how long at most.
    pub(crate) fn next_event(&self) -> (BorrowedFd<'_>, Option<Duration>) {
        let rest = self.rest_until.saturating_duration_since(Instant::now());
        match &self.app {
            Some(app) if !rest.is_zero() => (app.as_fd(), Some(rest)),
            _ => (self.file.as_fd(), None),
        }
    }

    /// Reads the lines that have been written so far and passes PRoot's warnings and errors on.
    /// Returns the app's end once that has been logged.
    pub(crate) fn read(&mut self) -> Option<End> {
        self.app = self.app.take().filter(|app| !is_readable(app));
        self.rest_until = Instant::now() + REST;
        let mut bytes = [0; 4096];
        while let Ok(size @ 1..) = self.file.read(&mut bytes) {
            for byte in &bytes[..size] {
                self.line.push(*byte);
                if *byte == b'\n' {
                    self.finish_line();
                }
            }
        }
        self.end
    }

    fn finish_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        match line.split_once(" info: ") {
            Some((name, text)) if !name.contains(' ') => self.end = self.end.or(end(text)),
            _ => {
                let _ = io::stderr().write_all(&self.line);
            }
        }
        self.line.clear();
    }
}

/// Whether there is something to read at once.
pub(crate) fn is_readable(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}

/// The app's end, if this is the line for it.
fn end(text: &str) -> Option<End> {
    let text = text.trim_end().strip_prefix("vpid 1: ")?;
    let number = |start| text.strip_prefix(start)?.parse().ok();
    let exited = number("exited with status ").map(End::Exited);
    exited.or_else(|| number("terminated with signal ").map(End::Killed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_process_s_end_is_the_app_s() {
        let (mut log, writer) = PRootLog::new().unwrap();
        let mut writer = File::from(writer);
        assert_eq!(log.read(), None);
        let other = "proot info: vpid 11: exited with status 1\nproot info: vpid 1: pid 70\n";
        write!(writer, "{other}proot info: vpid 1: exi").unwrap();
        assert_eq!(log.read(), None);
        writeln!(writer, "ted with status 3\nproot info: vpid 2: exited").unwrap();
        assert_eq!(log.read(), Some(End::Exited(3)));
    }

    #[test]
    fn a_signal_that_ended_the_app_is_told_from_a_status() {
        assert_eq!(
            end("vpid 1: terminated with signal 15\n"),
            Some(End::Killed(15))
        );
        assert_eq!(end("vpid 1: exited with status\n"), None);
    }
}
