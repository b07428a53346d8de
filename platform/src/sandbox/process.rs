//! A command while it runs in its sandbox, and after.

use super::Sandbox;
use crate::files::{Scratch, is_root};
use anyhow::{Result, bail};
use rustix::process::{Pid, kill_process};
use std::fs;
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use rustix::process::Signal;

/// What to do with a command's output.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Streams {
    /// Standard output and standard error are kept apart.
    #[default]
    Separate,
    /// Both go through one pipe, so that [`Process::stdout`] has all lines in their order.
    Merged,
    /// Like `Merged`, and also copied to this program's standard output as it comes.
    Echoed,
    /// The command writes to this program's own streams, and reads its standard input.
    Inherited,
}

/// A command that has ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Output {
    /// Exit status; 128 + the signal's number if a signal ended it.
    pub code: i32,
    /// With [`Streams::Merged`], everything that was written.
    pub stdout: String,
    pub stderr: String,
}

/// A command that runs in a sandbox; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    status: Option<i32>,
    as_pid_1: bool,
    _kept: Vec<Scratch>,
}

impl Process {
    pub(super) fn start(mut command: Command, sandbox: &Sandbox, scratch: Scratch) -> Result<Self> {
        let streams = sandbox.streams;
        let mut kept = sandbox.kept.clone();
        kept.push(scratch);
        let (stdout, stderr) = <(Arc<Mutex<Vec<u8>>>, Arc<Mutex<Vec<u8>>>)>::default();
        let mut pipes = Vec::new();
        if streams != Streams::Inherited {
            let (reader, writer) = io::pipe()?;
            command.stdin(Stdio::null());
            if streams == Streams::Separate {
                let (errors, writer) = io::pipe()?;
                command.stderr(writer);
                pipes.push((errors, stderr.clone()));
            } else {
                command.stderr(writer.try_clone()?);
            }
            command.stdout(writer);
            pipes.push((reader, stdout.clone()));
        }
        let child = command.spawn()?;
        drop(command); // closes this program's ends of the pipes
        let echo = streams == Streams::Echoed;
        let readers = pipes
            .into_iter()
            .map(|(pipe, into)| std::thread::spawn(move || collect(pipe, &into, echo)))
            .collect();
        Ok(Self {
            child,
            stdout,
            stderr,
            readers,
            status: None,
            as_pid_1: sandbox.as_pid_1,
            _kept: kept,
        })
    }

    /// What it has written to standard output until now.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What it has written to standard error until now; nothing where the streams are merged.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Waits until one of its streams holds `text`.
    ///
    /// # Errors
    /// When it ends, or the time is over, without; the message has what it wrote.
    pub fn wait_for(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        loop {
            let ended = self.poll()?.is_some();
            if self.stdout().contains(text) || self.stderr().contains(text) {
                return Ok(());
            }
            if ended || Instant::now() > end {
                let how = if ended { "it ended" } else { "too long" };
                bail!(
                    "waited for {text:?}: {how}; it wrote:\n{}{}",
                    self.stdout(),
                    self.stderr()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its exit status if it has ended: 128 + the signal's number where a signal ended it.
    ///
    /// # Errors
    /// When the operating system refuses to tell.
    pub fn poll(&mut self) -> Result<Option<i32>> {
        if self.status.is_none()
            && let Some(status) = self.child.try_wait()?
        {
            self.ended(status);
        }
        Ok(self.status)
    }

    /// Waits for its end, without limit.
    ///
    /// # Errors
    /// As [`Process::poll`].
    pub fn wait(&mut self) -> Result<i32> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let status = self.child.wait()?;
        Ok(self.ended(status))
    }

    /// Waits for its end; `None` when the time is over before.
    ///
    /// # Errors
    /// As [`Process::poll`].
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<i32>> {
        let end = Instant::now() + timeout;
        loop {
            let status = self.poll()?;
            if status.is_some() || Instant::now() > end {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn ended(&mut self, status: ExitStatus) -> i32 {
        // No process of the sandbox outlives its first one: the pipes are at their end.
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let code = status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal))
            .unwrap_or(-1);
        self.status = Some(code);
        code
    }

    /// Sends a signal to the command itself, not to bubblewrap around it.
    ///
    /// # Errors
    /// When it has ended, or its process is not to be found.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(code) = self.poll()? {
                bail!("the command has already ended with status {code}");
            }
            if let Some(pid) = self.pid() {
                return Ok(kill_process(pid, signal)?);
            }
            if Instant::now() > end {
                bail!("the command's process was not found under bwrap's");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Process id, on this machine, of the command; `None` before it is there or after its end.
    pub fn pid(&self) -> Option<Pid> {
        // Between this program's child and the command is one process, bwrap or its process 1;
        // but none where the command is process 1, and root's namespace is not around it.
        let first = first_child(self.child.id())?;
        let direct = self.as_pid_1 && !is_root();
        let pid = if direct { first } else { first_child(first)? };
        Pid::from_raw(i32::try_from(pid).ok()?)
    }

    /// Kills it and everything else in its sandbox, and waits for the end.
    pub fn kill(&mut self) {
        if self.status.is_some() {
            return;
        }
        // The end of the command is the end of its sandbox. Without bwrap around it, it would be
        // stopped and never end, so it is waited for until it is there.
        if self.signal(Signal::KILL).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn first_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn text(buffer: &Mutex<Vec<u8>>) -> String {
    let buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&buffer).into_owned()
}

fn collect(mut pipe: PipeReader, into: &Mutex<Vec<u8>>, echo: bool) {
    let mut chunk = [0; 8192];
    while let Ok(length @ 1..) = pipe.read(&mut chunk) {
        if echo {
            let mut out = io::stdout().lock();
            let _ = out.write_all(&chunk[..length]).and_then(|()| out.flush());
        }
        into.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(&chunk[..length]);
    }
}
