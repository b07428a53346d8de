//! The app's place among the processes: its process group and the terminal.
//!
//! The app gets a process group of its own, and the terminal if this program has it, so that a signal
//! is sent once to all of the app and to nothing else. Only where this program is one job of a shell
//! does the app share its group: the shell's job control then works on both.

use crate::sys;
use rustix::fs::{Mode, OFlags};

/// The settings of a process before it is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// It gets a process group of its own.
    pub(crate) own_group: bool,
    /// That group gets the terminal.
    pub(crate) foreground: bool,
    /// This program's child is killed when this program dies. Process 1 takes its whole process
    /// namespace with it, and needs no such signal.
    pub(crate) dies_with_parent: bool,
}

impl Place {
    /// The app's place where this program runs.
    pub(crate) fn here() -> Self {
        let is_init = sys::is_init();
        let terminal = rustix::fs::open(
            "/dev/tty",
            OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY,
            Mode::empty(),
        );
        let own_group = is_init || sys::leads_session() || terminal.is_err();
        let is_foreground = terminal.is_ok_and(sys::has_terminal);
        Self {
            own_group,
            foreground: own_group && is_foreground,
            dies_with_parent: !is_init,
        }
    }

    /// The place of a process between this program and the app: it stays in this program's group.
    pub(crate) fn between(self) -> Self {
        Self {
            own_group: false,
            foreground: false,
            ..self
        }
    }
}
