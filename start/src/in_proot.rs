//! Runs the app in PRoot.
//!
//! ```text
//! start program ── PRoot ── app
//! ```
//!
//! The app is PRoot's own child, and stays it. The kernel shows a tracer's stopped children first and
//! all other processes and threads that it traces the newest first, and PRoot serves one at a time. So
//! under eight threads that look up paths in a loop, whatever is older than they are waits for seconds,
//! unless it is PRoot's child: the app's first process, which is the one that accepts and forks.
//!
//! PRoot ignores most signals, so they are sent past it, to the app's process group. Its exit status is
//! that of the process that ended last, so the app's is taken from its log.

use crate::app::{App, End};
use crate::image::Found;
use crate::inside;
use crate::place::Place;
use crate::proot::PRoot;
use crate::proot_log::PRootLog;
use crate::report::{Report, receive};
use crate::supervise::{Supervisor, start};
use crate::sys::Signals;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::stdio::dup2_stderr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;

/// Why nothing ran in PRoot.
#[derive(Debug)]
pub(crate) enum PRootFailure {
    /// It translates nothing.
    Hidden,
    /// It ended before it ran anything; its status if it has one.
    Ended(Option<End>),
    Start(io::Error),
}

impl From<io::Error> for PRootFailure {
    fn from(error: io::Error) -> Self {
        Self::Start(error)
    }
}

/// Runs `app` in PRoot to its end. Without an app, only tries whether something would run.
pub(crate) fn run(
    app: Option<&App>,
    found: &Found,
    proot: &PRoot,
    signals: &Signals,
) -> Result<End, PRootFailure> {
    let place = Place::here();
    let (log, log_writer) = PRootLog::new()?;
    let (reports, report) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    let errors = io::stderr().as_fd().try_clone_to_owned()?;
    let mut command = proot.command(&inside::program(found));
    command.args(inside::words(
        (report.as_raw_fd(), errors.as_raw_fd()),
        place,
        found,
        proot.own_variables(),
    ));
    if let Some(app) = app {
        app.add_to(&mut command);
    }
    let mut supervisor = Supervisor::new(signals, place)?;
    let helper = start(
        || command.exec(),
        place.between(),
        signals.before,
        (&report, Report::NoPRoot),
        || {
            let _ = fcntl_setfd(&report, FdFlags::empty());
            let _ = fcntl_setfd(&errors, FdFlags::empty());
            let _ = dup2_stderr(&log_writer);
            Ok(())
        },
    )?;
    drop((report, errors, log_writer));
    supervisor.helper = Some(helper);
    supervisor.log = Some(log);
    watch(supervisor, helper, &reports)
}

/// Waits until PRoot has started the app, and then for the app's end.
fn watch(mut supervisor: Supervisor, helper: Pid, reports: &OwnedFd) -> Result<End, PRootFailure> {
    let failure = match receive(reports)? {
        Some(Report::Started(pid)) => {
            supervisor.app = Pid::from_raw(pid);
            if let Some(log) = &mut supervisor.log {
                log.follow(supervisor.app);
            }
            return Ok(supervisor.watch(reports));
        }
        Some(Report::Works) => {
            supervisor.end = Some(End::Exited(0));
            return Ok(supervisor.watch(reports));
        }
        Some(Report::NoPRoot(error)) => PRootFailure::Start(io::Error::from_raw_os_error(error)),
        Some(Report::Hidden) => PRootFailure::Hidden,
        _ => {
            let ended = waitpid(Some(helper), WaitOptions::empty()).ok().flatten();
            supervisor.helper = None;
            PRootFailure::Ended(ended.and_then(|(_, status)| End::of(status)))
        }
    };
    supervisor.clear_up();
    Err(failure)
}
