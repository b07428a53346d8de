//! Looks after the app: passes signals on, reaps, and leaves no process behind.
//!
//! ```text
//! process 1, direct or namespace:   start program ── app
//! proot:                            start program ── PRoot ── app
//! ```

use crate::app::{App, End};
use crate::execute::execute;
use crate::namespace::View;
use crate::place::Place;
use crate::processes::descendants;
use crate::proot_log::{PRootLog, is_readable};
use crate::report::{Report, receive, send};
use crate::sys::{self, Arrived, Fork, Mask, Signals};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, set_child_subreaper,
    set_parent_process_death_signal, setpgid, test_kill_process_group, wait,
};
use rustix::termios::tcsetpgrp;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long PRoot may take to end once nothing runs in it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The interval at which changes are polled that no signal announces.
const TICK: Duration = Duration::from_millis(10);

/// Forks. The child takes its place, does what `prepare` says, and calls `execute` with the signals of
/// `mask` blocked. An error is sent to `report` as a `failure`.
pub(crate) fn start(
    execute: impl FnOnce() -> io::Error,
    place: Place,
    mask: Mask,
    (report, failure): (&OwnedFd, fn(i32) -> Report),
    prepare: impl FnOnce() -> io::Result<()>,
) -> io::Result<Pid> {
    match sys::fork()? {
        Fork::Child => {
            if place.own_group {
                let _ = setpgid(None, None);
            }
            if place.foreground {
                // TTOU, which this call would send, is blocked until the command is executed.
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
                Err(error) => error,
            };
            send(
                failure(error.raw_os_error().unwrap_or(libc::EINVAL)),
                report,
            );
            sys::exit_child(127)
        }
        Fork::Parent(app) => {
            if place.own_group {
                // Both processes do this: the group must exist before it is signalled.
                let _ = setpgid(Some(app), Some(app));
            }
            Ok(app)
        }
    }
}

/// Runs `app` as a child, in `view` if there is one, to its end.
pub(crate) fn run(app: &App, view: Option<&View>, signals: &Signals) -> io::Result<End> {
    let place = Place::here();
    let mut supervisor = Supervisor::new(signals, place)?;
    let (reports, report) = pipe_with(PipeFlags::CLOEXEC)?;
    let pid = start(
        || execute(app),
        place,
        signals.before,
        (&report, Report::NotExecuted),
        || view.map_or(Ok(()), |view| view.enter().map_err(|refusal| refusal.error)),
    )?;
    supervisor.app = Some(pid);
    drop(report);
    Ok(supervisor.watch(&reports))
}

/// The app and PRoot while they run.
pub(crate) struct Supervisor<'a> {
    signals: &'a Signals,
    place: Place,
    /// The app's first process, which leads its group.
    pub(crate) app: Option<Pid>,
    /// PRoot, as long as it runs.
    pub(crate) helper: Option<Pid>,
    pub(crate) log: Option<PRootLog>,
    pub(crate) end: Option<End>,
    /// Whether the app has been told to end.
    terminated: bool,
}

impl<'a> Supervisor<'a> {
    pub(crate) fn new(signals: &'a Signals, place: Place) -> io::Result<Self> {
        if !sys::is_init() {
            // Orphans of the app become this process's children, as they do with process 1.
            set_child_subreaper(Some(getpid()))?;
        }
        Ok(Self {
            signals,
            place,
            app: None,
            helper: None,
            log: None,
            end: None,
            terminated: false,
        })
    }

    /// Waits for the app's end, and for the end of the processes that it leaves behind.
    pub(crate) fn watch(mut self, reports: &OwnedFd) -> End {
        while self.end.is_none() {
            self.wait_for_event(None);
            self.handle_events();
        }
        // A failure to execute it was reported before its process ended. PRoot holds the pipe open, too.
        if is_readable(reports)
            && let Ok(Some(Report::NotExecuted(error))) = receive(reports)
        {
            self.end = Some(End::NotExecuted(error));
        }
        // After TERM, the app's other processes may still be at work: a shell that has started a server
        // ends at once, the server when it has answered. The platform's grace period is the limit.
        while self.terminated && self.has_group() {
            self.wait_for_event(Some(TICK));
            self.handle_events();
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

    /// Waits for a signal, or for the app's end in PRoot.
    fn wait_for_event(&self, limit: Option<Duration>) {
        let mut fds = vec![PollFd::new(&self.signals.file, PollFlags::IN)];
        let mut limits = vec![limit];
        if let Some(log) = &self.log {
            let (fd, limit) = log.next_event();
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            limits.push(limit);
        }
        let limit = limits.into_iter().flatten().min();
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let _ = poll(&mut fds, limit.as_ref());
    }

    fn handle_events(&mut self) {
        self.read_log();
        while let Some(arrived) = self.signals.next() {
            match arrived.signal {
                libc::SIGCHLD => {
                    self.reap();
                }
                _ => self.pass_on(arrived),
            }
        }
    }

    fn read_log(&mut self) {
        if let Some(log) = &mut self.log {
            self.end = self.end.or(log.read());
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
        // The terminal has sent it to the app, too.
        let has_it = from_kernel && (self.place.foreground || !self.place.own_group);
        // They are about this process's own use of the terminal.
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

    /// Reaps all children that have ended. Returns whether any are left.
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
            // No shell is there to continue it.
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
            self.read_log();
            self.log = None;
            // Paths are no longer translated for the app, so it cannot go on. If it is gone already and
            // this PRoot logs nothing, there is only PRoot's own status.
            if let (Some(app), None) = (self.app, self.end)
                && sys::kill(app.as_raw_nonzero().get(), libc::SIGKILL).is_err()
            {
                self.end = End::of(status);
            }
        }
    }

    /// Kills everything that the app has left running, and waits for it.
    pub(crate) fn clear_up(&mut self) {
        let begun = Instant::now();
        let mut is_first = true;
        while self.reap() {
            self.read_log();
            // In the first round nothing is killed: most processes end by themselves, PRoot when
            // nothing runs in it any more.
            if !is_first {
                let spared = self.helper.filter(|_| begun.elapsed() < PATIENCE);
                for pid in descendants() {
                    if spared.is_none_or(|helper| helper.as_raw_nonzero().get() != pid) {
                        let _ = sys::kill(pid, libc::SIGKILL);
                    }
                }
            }
            is_first = false;
            // Other signals stay pending, for the app that the next engine may run.
            Signals::wait_for_child(TICK.subsec_nanos());
        }
    }
}
