//! The app's command and environment, and how it ended.

use crate::environment::Change;
use rustix::process::WaitStatus;
use std::ffi::OsString;
use std::process::Command;

/// The app's command, and how its environment differs from this program's.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) changes: Vec<Change>,
}

impl App {
    /// Adds the app's words and environment to `command`.
    pub(crate) fn add_to(&self, command: &mut Command) {
        command.arg(&self.program).args(&self.arguments);
        for (name, value) in &self.changes {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }
}

/// How the app ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The exit status.
    Exited(i32),
    /// The number of the signal.
    Killed(i32),
    /// It could not be executed; the number of the error.
    NotExecuted(i32),
}

impl End {
    /// None for a process that was only stopped or continued.
    pub(crate) fn of(status: WaitStatus) -> Option<Self> {
        let exited = status.exit_status().map(Self::Exited);
        exited.or_else(|| status.terminating_signal().map(Self::Killed))
    }
}
