//! The app's command and environment, and how it ended.

use crate::environment::Change;
use rustix::process::WaitStatus;
use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;

/// The app's command, and how its environment differs from this program's.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) changes: Vec<Change>,
}

impl App {
    /// The value of a variable in the app's environment.
    fn variable(&self, name: &str) -> Option<OsString> {
        let changed = self.changes.iter().find(|(changed, _)| *changed == name);
        match changed {
            Some((_, value)) => value.clone(),
            None => env::var_os(name),
        }
    }

    /// The files that the program may be: itself if it is a path, else one in each directory of `PATH`.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        if self.program.as_bytes().contains(&b'/') {
            return vec![PathBuf::from(&self.program)];
        }
        let path = self.variable("PATH").unwrap_or_default();
        let directories = env::split_paths(&path);
        directories
            .map(|directory| directory.join(&self.program))
            .collect()
    }

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
