//! The system calls that Rust's libraries have no safe function for.
//!
//! This program has one thread, so a forked child may do all that its parent may.
#![allow(unsafe_code, reason = "the system-call module")]

use rustix::process::{Pid, Resource, Rlimit, getpid, setrlimit};
use rustix::termios::tcgetpgrp;
use rustix::thread::UnshareFlags;
use std::ffi::{CStr, CString, OsString, c_char};
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsFd, FromRawFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;

/// The file that this process was started from, as its caller named it.
pub(crate) fn executed_file() -> Option<OsString> {
    // SAFETY: the kernel has put there a pointer to a text that ends with a zero, or nothing.
    let file = unsafe { libc::getauxval(libc::AT_EXECFN) };
    let file: *const c_char = ptr::with_exposed_provenance(usize::try_from(file).ok()?);
    // SAFETY: see above; the text lasts as long as the process.
    let file = (!file.is_null()).then(|| unsafe { CStr::from_ptr(file) })?;
    Some(OsString::from_vec(file.to_bytes().to_vec()))
}

/// Has malloc give each allocation of 4 MiB and more back to the system when it is freed. By itself glibc
/// keeps them for the next one, for each thread, once it has freed one (mallopt(3), "dynamic mmap
/// threshold").
pub fn return_large_allocations() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it changes a number that malloc reads, before there are other threads.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 * 1024 * 1024);
    }
}

/// Whether this is process 1 of its process namespace.
pub(crate) fn is_init() -> bool {
    getpid().is_init()
}

/// Whether this process leads its session. Where the leader is outside of the process namespace, its id is 0,
/// which `rustix` does not expect.
pub(crate) fn leads_session() -> bool {
    // SAFETY: it returns a number.
    let leader = unsafe { libc::getsid(0) };
    leader == getpid().as_raw_nonzero().get()
}

/// Whether the terminal is that of this process's group, which may be 0 as well.
pub(crate) fn has_terminal(terminal: impl AsFd) -> bool {
    // SAFETY: it returns a number.
    let own = unsafe { libc::getpgrp() };
    tcgetpgrp(terminal).is_ok_and(|group| group.as_raw_nonzero().get() == own)
}

/// Which of the two processes this is after a fork.
pub(crate) enum Fork {
    Parent(Pid),
    Child,
}

pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: there is no other thread whose locks the child could find held.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(Fork::Child),
        _ => Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .map(Fork::Parent)
            .ok_or_else(io::Error::last_os_error),
    }
}

/// Ends a forked child at once, without the exit handlers of its parent.
pub(crate) fn exit_child(status: i32) -> ! {
    // SAFETY: it does not return, and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Runs `deed` in a child, so that this process is not changed by it.
pub(crate) fn in_child(deed: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match fork()? {
        Fork::Child => exit_child(match deed() {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EINVAL),
        }),
        Fork::Parent(child) => {
            let ended =
                rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
            match ended.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                Some(error) => Err(io::Error::from_raw_os_error(error)),
                None => Err(io::ErrorKind::Other.into()),
            }
        }
    }
}

/// Becomes the program `file`; the error's number where that fails.
pub(crate) fn execute(file: &CStr, words: &[CString], environment: &[CString]) -> i32 {
    let ended = |texts: &[CString]| -> Vec<_> {
        let pointers = texts.iter().map(|text| text.as_ptr());
        pointers.chain([ptr::null()]).collect()
    };
    let (words, environment) = (ended(words), ended(environment));
    // SAFETY: nulls end the words and the environment, which last until the call returns.
    unsafe {
        // Rust's runtime ignores it, which the program would inherit.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execve(file.as_ptr(), words.as_ptr(), environment.as_ptr());
    }
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or_default()
}

/// Leaves the namespaces that `flags` name.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: no flag is used that unshares the table of file descriptors.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Fails if a seccomp filter refuses [`unshare`] of these. It changes nothing.
pub(crate) fn try_unshare(flags: UnshareFlags) -> io::Result<()> {
    // The kernel knows no such flag, so it refuses the call if a filter lets it through.
    const UNKNOWN: u32 = 1;
    match unshare(UnshareFlags::from_bits_retain(flags.bits() | UNKNOWN)) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        answer => answer,
    }
}

/// A signal that has arrived, and whether the kernel sent it by itself, as it does for a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) signal: i32,
    pub(crate) from_kernel: bool,
}

/// The signals that a process blocks; executed programs inherit them.
#[derive(Clone, Copy)]
pub(crate) struct Mask(libc::sigset_t);

impl Mask {
    /// Blocks these signals and no others.
    pub(crate) fn set(&self) {
        // SAFETY: the set is a valid one; the call keeps no pointer.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// Blocks all signals but faults. Returns the mask that is set now, and the one before.
fn block_signals() -> io::Result<(Mask, Mask)> {
    // SAFETY: the sets are written before they are read; the calls keep no pointer.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        let mut before: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&raw mut set);
        for fault in nix_hydra_inside::FAULTS {
            libc::sigdelset(&raw mut set, fault);
        }
        // If it stayed ignored, children would vanish without a status.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        match libc::sigprocmask(libc::SIG_SETMASK, &raw const set, &raw mut before) {
            0 => Ok((Mask(set), Mask(before))),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Has the children of this process vanish as they end.
#[cfg(test)]
pub(crate) fn ignore_ended_children() {
    // SAFETY: no handler is given.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// All signals, blocked, to be read as they come. All engines that are tried share one, so that no signal
/// is lost in between.
pub(crate) struct Signals {
    pub(crate) file: File,
    /// The mask before.
    pub(crate) before: Mask,
}

impl Signals {
    /// Blocks all signals from here on.
    pub(crate) fn block() -> io::Result<Self> {
        let (Mask(set), before) = block_signals()?;
        // SAFETY: the set is a valid one; the new file descriptor is nobody else's.
        unsafe {
            match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Self {
                    file: File::from_raw_fd(fd),
                    before,
                }),
            }
        }
    }

    /// Waits until a child has ended, at most so many nanoseconds under a second. Whatever else arrives
    /// stays to be read.
    pub(crate) fn wait_for_child(nanoseconds: u32) {
        // SAFETY: the set is written before it is read; the call keeps no pointer.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            let mut limit: libc::timespec = mem::zeroed();
            limit.tv_nsec = nanoseconds.into();
            libc::sigtimedwait(&raw const set, ptr::null_mut(), &raw const limit);
        }
    }

    /// The next signal, where one has arrived.
    pub(crate) fn next(&self) -> Option<Arrived> {
        const NUMBER: usize = mem::offset_of!(libc::signalfd_siginfo, ssi_signo);
        const CODE: usize = mem::offset_of!(libc::signalfd_siginfo, ssi_code);
        let mut bytes = [0; size_of::<libc::signalfd_siginfo>()];
        if (&self.file).read(&mut bytes).ok()? < bytes.len() {
            return None;
        }
        let field = |at: usize| bytes[at..at + 4].try_into().map(i32::from_ne_bytes).ok();
        Some(Arrived {
            signal: field(NUMBER)?,
            from_kernel: field(CODE)? == libc::SI_KERNEL,
        })
    }
}

/// Sends a signal, real-time ones too; to a process group where `to` is negative.
pub(crate) fn kill(to: i32, signal: i32) -> io::Result<()> {
    // SAFETY: it touches no memory.
    match unsafe { libc::kill(to, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process by a signal, as the app was ended. Returns where the signal does not do that.
pub(crate) fn die_by(signal: i32) {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // A core of the app is there if one was to be written; this program's is of no use.
    let _ = setrlimit(Resource::Core, none);
    // SAFETY: the set is written before it is read; the calls keep no pointer.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = mem::zeroed();
        // Another one that has arrived meanwhile must not be quicker.
        libc::sigfillset(&raw mut set);
        libc::sigdelset(&raw mut set, signal);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
        libc::raise(signal);
    }
}

/// Whether a process may ask to be traced, as PRoot's children do.
///
/// A seccomp filter shows at once. The other cause is a security module. Only where there may be one is
/// it tried in a child, which costs more than all other checks before a start.
pub(crate) fn try_ptrace() -> io::Result<()> {
    // SAFETY: there is no process 0, so the call has no effect.
    let answer = unsafe { libc::ptrace(libc::PTRACE_CONT, 0, 0, 0) };
    let error = io::Error::last_os_error();
    if answer != 0 && error.raw_os_error() != Some(libc::ESRCH) {
        return Err(error);
    }
    if !has_security_module() {
        return Ok(());
    }
    in_child(|| {
        // SAFETY: the call ignores all but its first argument.
        match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    })
}

/// Whether a security module may restrict this process: a strict Yama, or a profile or label of
/// `AppArmor` or `SELinux`.
fn has_security_module() -> bool {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let yama = read("/proc/sys/kernel/yama/ptrace_scope");
    let label = read("/proc/self/attr/current");
    let label = label.trim_end_matches(['\0', '\n']);
    !matches!(yama.trim_end(), "" | "0" | "1") || !matches!(label, "" | "unconfined")
}
