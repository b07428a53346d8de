//! Looks after the app: passes signals on, reaps, and leaves no process behind.
//!
//! The app gets a process group of its own, and the terminal if this program has it, so that a signal
//! is sent once to all of the app and to nothing else. Only where this program is one job of somebody
//! else's shell does the app share its group: the shell's job control then works on both.
//!
//! ```text
//! process 1, direct or namespace:   start program ── app
//! proot, at first:                  start program ── PRoot ── nix-hydra-inside ── app
//! proot, as soon as the app is on:  start program ─┬─ PRoot
//!                                                  └─ app
//! ```
//!
//! PRoot ignores most signals and tells the exit status of whichever process ended last. So signals go
//! past it, straight to the app; and the app's first parent ends at once, so that the app becomes this
//! program's child, whose status the kernel tells.

use crate::environment::Change;
use crate::errors::RunError;
use crate::execute::execute;
use crate::image::Found;
use crate::inside;
use crate::namespace::{Refusal, View};
use crate::processes::descendants;
use crate::proot::PRoot;
use crate::report::{Report, receive, send};
use crate::sys::{self, Arrived, Fork, Mask, Signals};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpgrp, getpid, getsid, set_child_subreaper,
    set_parent_process_death_signal, setpgid, test_kill_process_group, wait, waitpid,
};
use rustix::termios::{tcgetpgrp, tcsetpgrp};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long PRoot may take to end once nothing runs in it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often is looked for what no signal tells of.
const TICK: Duration = Duration::from_millis(10);

/// The app's command, and what its environment has that this program's has not.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) changes: Vec<Change>,
}

impl App {
    pub(crate) fn cannot(&self, error: io::Error) -> RunError {
        RunError::Execute(self.program.clone(), error)
    }

    fn change(&self, command: &mut Command) {
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
    Exited(i32),
    Killed(i32),
    /// It did not even begin; the error's number.
    NotExecuted(i32),
}

impl End {
    pub(crate) fn of(status: WaitStatus) -> Option<Self> {
        let exited = status.exit_status().map(Self::Exited);
        exited.or_else(|| status.terminating_signal().map(Self::Killed))
    }
}

/// Why nothing ran in PRoot.
#[derive(Debug)]
pub(crate) enum PRootFailure {
    /// It translates nothing.
    Hidden,
    /// It ended before it ran anything; its status where it has told one.
    Ended(Option<End>),
    Start(io::Error),
}

/// How the app is to be placed among the other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// It gets a process group of its own.
    pub(crate) own_group: bool,
    /// That group gets the terminal.
    pub(crate) foreground: bool,
    /// It is killed when its parent dies: this program's own children, where no process namespace
    /// ends with it.
    pub(crate) dies_with_parent: bool,
}

impl Place {
    fn here() -> Self {
        let is_init = is_init();
        let terminal = rustix::fs::open(
            "/dev/tty",
            OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY,
            Mode::empty(),
        );
        let is_leader = getsid(None).is_ok_and(|session| session == getpid());
        let own_group = is_init || is_leader || terminal.is_err();
        let is_foreground = terminal
            .is_ok_and(|terminal| tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()));
        Self {
            own_group,
            foreground: own_group && is_foreground,
            dies_with_parent: !is_init,
        }
    }
}

/// Whether this is process 1 of its process namespace.
pub(crate) fn is_init() -> bool {
    getpid().is_init()
}

/// Forks, and has the child `execute` once it is in its place and `prepare` has succeeded.
/// Where that fails, `report` is told, in words of `failure`. The signals of `mask` are kept back
/// from what is executed.
pub(crate) fn start(
    execute: impl FnOnce() -> io::Error,
    place: Place,
    mask: Mask,
    (report, failure): (&OwnedFd, fn(i32) -> Report),
    prepare: impl FnOnce() -> Result<(), Refusal>,
) -> io::Result<Pid> {
    match sys::fork()? {
        Fork::Child => {
            if place.own_group {
                let _ = setpgid(None, None);
            }
            if place.foreground {
                // TTOU, which this call would send, is kept back until the command is executed.
                let terminal = rustix::fs::open("/dev/tty", OFlags::RDWR, Mode::empty());
                let _ = terminal.map(|terminal| tcsetpgrp(terminal, getpid()));
            }
            if place.dies_with_parent {
                let _ = set_parent_process_death_signal(Some(Signal::KILL));
            }
            let error = match prepare() {
                Ok(()) => {
                    mask.set();
                    execute()
                }
                Err(refusal) => refusal.error,
            };
            send(
                failure(error.raw_os_error().unwrap_or(libc::EINVAL)),
                report,
            );
            sys::exit_child(127)
        }
        Fork::Parent(app) => {
            if place.own_group {
                // Whichever of the two is first: the group must be there before it is signalled.
                let _ = setpgid(Some(app), Some(app));
            }
            Ok(app)
        }
    }
}

/// Runs `app` as a child, in `view` where there is one, to its end.
pub(crate) fn run(app: &App, view: Option<&View>, signals: &Signals) -> io::Result<End> {
    let mut supervisor = Supervisor::new(signals)?;
    let (reports, report) = pipe_with(PipeFlags::CLOEXEC)?;
    let enter = || view.map_or(Ok(()), View::enter);
    let pid = start(
        || execute(app),
        supervisor.place,
        signals.before,
        (&report, Report::NotExecuted),
        enter,
    )?;
    supervisor.app = Some(pid);
    drop(report);
    Ok(supervisor.watch(&reports))
}

/// Runs `app` under PRoot to its end; without an app it is only tried.
pub(crate) fn run_in_proot(
    app: Option<&App>,
    found: &Found,
    proot: &PRoot,
    signals: &Signals,
) -> Result<End, PRootFailure> {
    let mut supervisor = Supervisor::new(signals).map_err(PRootFailure::Start)?;
    let (reports, report) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| PRootFailure::Start(error.into()))?;
    let mut command = proot.command(&inside::program(found));
    command.args(inside::words(
        report.as_raw_fd(),
        supervisor.place,
        found,
        proot.own_variables(),
    ));
    if let Some(app) = app {
        command.arg(&app.program).args(&app.arguments);
        app.change(&mut command);
    }
    let place = Place {
        own_group: false,
        foreground: false,
        ..supervisor.place
    };
    let keep_open = || {
        let _ = fcntl_setfd(&report, FdFlags::empty());
        Ok(())
    };
    let helper = start(
        || command.exec(),
        place,
        signals.before,
        (&report, Report::NoPRoot),
        keep_open,
    )
    .map_err(PRootFailure::Start)?;
    supervisor.helper = Some(helper);
    drop(report);
    match receive(&reports) {
        Ok(Some(Report::Started(pid))) => supervisor.app = Pid::from_raw(pid),
        Ok(Some(Report::Works)) => supervisor.end = Some(End::Exited(0)),
        // The app may be quicker to fail than its parent is to tell that it has started.
        Ok(Some(Report::NotExecuted(error))) => supervisor.end = Some(End::NotExecuted(error)),
        Ok(Some(Report::NoPRoot(error))) => {
            let error = io::Error::from_raw_os_error(error);
            supervisor.clear_up();
            return Err(PRootFailure::Start(error));
        }
        Ok(Some(Report::Hidden)) => {
            supervisor.clear_up();
            return Err(PRootFailure::Hidden);
        }
        Ok(_) => {
            let ended = waitpid(Some(helper), WaitOptions::empty()).ok().flatten();
            supervisor.helper = None;
            supervisor.clear_up();
            return Err(PRootFailure::Ended(
                ended.and_then(|(_, status)| End::of(status)),
            ));
        }
        Err(error) => return Err(PRootFailure::Start(error)),
    }
    Ok(supervisor.watch(&reports))
}

struct Supervisor<'a> {
    signals: &'a Signals,
    place: Place,
    /// The app's first process, which leads its group.
    app: Option<Pid>,
    /// PRoot, as long as it runs.
    helper: Option<Pid>,
    end: Option<End>,
    /// Whether the app has been asked to end.
    terminated: bool,
}

impl<'a> Supervisor<'a> {
    fn new(signals: &'a Signals) -> io::Result<Self> {
        if !is_init() {
            // Orphans of the app become this process's children, as they do with process 1.
            set_child_subreaper(Some(getpid()))?;
        }
        Ok(Self {
            place: Place::here(),
            signals,
            app: None,
            helper: None,
            end: None,
            terminated: false,
        })
    }

    /// Waits for the app's end, and for that of what it leaves behind.
    fn watch(mut self, reports: &OwnedFd) -> End {
        while self.end.is_none() {
            self.wait_for_signal(None);
            self.handle_signals();
        }
        // A failure to execute it was told before its process ended. PRoot holds the pipe open, too.
        if is_readable(reports)
            && let Ok(Some(Report::NotExecuted(error))) = receive(reports)
        {
            self.end = Some(End::NotExecuted(error));
        }
        // Asked to end, the app's other processes may still be at work: a shell that starts a server
        // dies at once, the server when it has answered. The platform's patience is the limit.
        while self.terminated && self.has_group() {
            self.wait_for_signal(Some(TICK));
            self.handle_signals();
        }
        self.clear_up();
        self.end.unwrap_or(End::Killed(libc::SIGKILL))
    }

    fn has_group(&self) -> bool {
        self.place.own_group
            && self
                .app
                .is_some_and(|app| test_kill_process_group(app) != Err(Errno::SRCH))
    }

    fn wait_for_signal(&self, limit: Option<Duration>) {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut fds = [PollFd::new(&self.signals.file, PollFlags::IN)];
        let _ = poll(&mut fds, limit.as_ref());
    }

    fn handle_signals(&mut self) {
        while let Some(arrived) = self.signals.next() {
            match arrived.signal {
                libc::SIGCHLD => {
                    self.reap();
                }
                _ => self.pass_on(arrived),
            }
        }
    }

    fn pass_on(
        &mut self,
        Arrived {
            signal,
            from_kernel,
        }: Arrived,
    ) {
        let Some(app) = self.app else { return };
        // The terminal has sent it to the app as well.
        let has_it = from_kernel && (self.place.foreground || !self.place.own_group);
        // They tell of this process's own use of the terminal.
        let is_own = matches!(signal, libc::SIGTTIN | libc::SIGTTOU);
        if !has_it && !is_own {
            self.terminated |= signal == libc::SIGTERM;
            let app = app.as_raw_nonzero().get();
            let _ = sys::kill(if self.place.own_group { -app } else { app }, signal);
        }
        if signal == libc::SIGTSTP && !self.place.own_group {
            // The shell waits for this process to stop.
            let _ = sys::kill(getpid().as_raw_nonzero().get(), libc::SIGSTOP);
        }
    }

    /// Takes note of all children that have ended; whether any are left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) => self.note(pid, status),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    fn note(&mut self, pid: Pid, status: WaitStatus) {
        if status.stopped() {
            // There is no shell that could have the app go on again.
            if self.app == Some(pid) && status.stopping_signal() == Some(libc::SIGTSTP) {
                let _ = sys::kill(-pid.as_raw_nonzero().get(), libc::SIGCONT);
            }
            return;
        }
        if self.app == Some(pid) {
            self.end = self.end.or(End::of(status));
        }
        if self.helper == Some(pid) {
            self.helper = None;
            // Nothing translates for the app any more, so it cannot go on.
            if let (Some(app), None) = (self.app, self.end) {
                let _ = sys::kill(app.as_raw_nonzero().get(), libc::SIGKILL);
            }
        }
    }

    /// Ends everything that the app has left running, and waits for it.
    fn clear_up(&mut self) {
        let begun = Instant::now();
        let mut is_first = true;
        while self.reap() {
            // What is about to end by itself may do so; PRoot does once nothing runs in it.
            if !is_first {
                let spared = self.helper.filter(|_| begun.elapsed() < PATIENCE);
                for pid in descendants() {
                    if spared.is_none_or(|helper| helper.as_raw_nonzero().get() != pid) {
                        let _ = sys::kill(pid, libc::SIGKILL);
                    }
                }
            }
            is_first = false;
            // What else arrives is for the app that the next attempt may run.
            Signals::wait_for_child(TICK.subsec_nanos());
        }
    }
}

fn is_readable(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}
