//! The process as the kernel starts it, and system calls without a C library.
//!
//! Format: `execve(2)` puts on the stack the number of words, a pointer to each, a null, a pointer to
//! each `NAME=VALUE` of the environment, and a null.
#![allow(unsafe_code, reason = "the system-call module")]

use crate::words::{is_same, variable_name};
use core::arch::asm;
use core::ffi::{CStr, c_char, c_long};
use core::mem::MaybeUninit;
use core::ptr;
use core::slice;

/// The signals of a fault of this program itself, which must not be blocked.
pub const FAULTS: [i32; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// The largest error number; the kernel returns it negated.
const MAX_ERROR: isize = 4095;

/// The size of the kernel's set of signals in bytes.
const SIGNAL_SET_SIZE: usize = 8;

/// Makes a system call with these arguments, and zeros after them. Returns its result or the number of its
/// error.
///
/// Addresses among them are given with `expose_provenance`, so that the compiler knows that the kernel
/// may read and write there.
///
/// # Safety
/// As that call demands.
unsafe fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> Result<usize, i32> {
    const { assert!(N <= 4, "no call here has more") };
    let argument = |at: usize| arguments.get(at).copied().unwrap_or_default();
    let (a, b, c, d) = (argument(0), argument(1), argument(2), argument(3));
    let number = isize::try_from(number).unwrap_or_default();
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the registers are those of the kernel's calling convention.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") 0,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the registers are those of the kernel's calling convention.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a.cast_signed() => result,
            in("x1") b,
            in("x2") c,
            in("x3") d,
            in("x4") 0,
            options(nostack),
        );
    }
    if (-MAX_ERROR..0).contains(&result) {
        return Err(i32::try_from(-result).unwrap_or(libc::EINVAL));
    }
    Ok(result.cast_unsigned())
}

/// The program, from its first instruction on. `stack` is the initial stack pointer.
///
/// # Safety
/// `stack` must be the stack pointer as a process starts with it, and the process have no other code.
pub unsafe extern "C" fn main(stack: *mut usize) -> ! {
    // SAFETY: so says the caller.
    let process = unsafe { Process::of(stack) };
    exit(crate::start(process).unwrap_or(crate::USAGE))
}

/// A number as it is passed in a register.
const fn register(number: i32) -> usize {
    (number as isize).cast_unsigned()
}

/// This process's words and environment.
pub(crate) struct Process {
    words: *mut *const c_char,
    count: usize,
    environment: *mut *const c_char,
}

impl Process {
    /// # Safety
    /// `stack` must be the stack pointer as a process starts with it.
    pub(crate) unsafe fn of(stack: *mut usize) -> Self {
        // SAFETY: the kernel has filled the stack in the format above.
        unsafe {
            let count = *stack;
            let words = stack.add(1).cast();
            Self {
                words,
                count,
                environment: words.add(count + 1),
            }
        }
    }

    pub(crate) fn word(&self, at: usize) -> Option<&'static CStr> {
        // SAFETY: there are so many words; their text lasts as long as the process.
        (at < self.count).then(|| unsafe { text(*self.words.add(at)) })
    }

    /// The value of the environment's variable of this name.
    pub(crate) fn variable(&self, name: &[u8]) -> Option<&'static CStr> {
        let mut place = self.environment;
        // SAFETY: a null ends the environment; each text lasts as long as the process.
        unsafe {
            while !(*place).is_null() {
                let variable = text(*place);
                let found = variable_name(variable.to_bytes());
                if is_same(found, name) && found.len() < variable.count_bytes() {
                    return Some(text((*place).add(found.len() + 1)));
                }
                place = place.add(1);
            }
        }
        None
    }

    /// Removes the variables for which `is_kept` is false from the environment.
    pub(crate) fn keep_variables(&mut self, is_kept: impl Fn(&[u8]) -> bool) {
        let (mut from, mut to) = (self.environment, self.environment);
        // SAFETY: a null ends the environment; `to` is never behind `from`.
        unsafe {
            while !(*from).is_null() {
                if is_kept(text(*from).to_bytes()) {
                    *to = *from;
                    to = to.add(1);
                }
                from = from.add(1);
            }
            *to = ptr::null();
        }
    }

    /// Becomes the program `file`, with the words from `first` on. Returns the number of the error.
    pub(crate) fn execute(&self, file: &CStr, first: usize) -> i32 {
        // SAFETY: nulls end the words and the environment.
        let result = unsafe {
            call(
                libc::SYS_execve,
                [
                    file.as_ptr().expose_provenance(),
                    self.words.add(first).expose_provenance(),
                    self.environment.expose_provenance(),
                ],
            )
        };
        result.err().unwrap_or_default()
    }

    /// Becomes `program` with `file` as its first argument and the words after `first`.
    pub(crate) fn execute_by(&mut self, program: &CStr, file: &CStr, first: usize) -> i32 {
        // SAFETY: the word before the first is this program's own, and no longer needed.
        unsafe {
            *self.words.add(first - 1) = program.as_ptr();
            *self.words.add(first) = file.as_ptr();
        }
        self.execute(program, first - 1)
    }
}

/// # Safety
/// `text` must end with a zero, and last as long as the process.
unsafe fn text(text: *const c_char) -> &'static CStr {
    let mut size = 1;
    // SAFETY: it is read up to its zero, and no further. The library's own way to measure it is C's.
    unsafe {
        while *text.add(size - 1) != 0 {
            size += 1;
        }
        CStr::from_bytes_with_nul_unchecked(slice::from_raw_parts(text.cast(), size))
    }
}

/// Room for a path.
pub(crate) struct PathBuffer([MaybeUninit<u8>; libc::PATH_MAX as usize]);

impl PathBuffer {
    pub(crate) fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; libc::PATH_MAX as usize])
    }

    /// `directory/name`, or `name` where the directory is empty. None if it is too long.
    pub(crate) fn join(&mut self, directory: &[u8], name: &[u8]) -> Option<&CStr> {
        let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        let mut size = 0;
        for part in [directory, slash, name, b"\0"] {
            for byte in part {
                self.0.get_mut(size)?.write(*byte);
                size += 1;
            }
        }
        // SAFETY: so many bytes have been written, the last of them zero, and no other of them.
        unsafe {
            let written = slice::from_raw_parts(self.0.as_ptr().cast(), size);
            Some(CStr::from_bytes_with_nul_unchecked(written))
        }
    }
}

pub(crate) fn exit(status: i32) -> ! {
    loop {
        // SAFETY: it touches no memory.
        let _ = unsafe { call(libc::SYS_exit_group, [register(status)]) };
    }
}

pub(crate) fn write(to: i32, bytes: &[u8]) {
    // SAFETY: so many bytes are there.
    let _ = unsafe {
        call(
            libc::SYS_write,
            [
                register(to),
                bytes.as_ptr().expose_provenance(),
                bytes.len(),
            ],
        )
    };
}

pub(crate) fn close_on_execute(fd: i32) {
    // SAFETY: it touches no memory.
    let _ = unsafe {
        call(
            libc::SYS_fcntl,
            [
                register(fd),
                register(libc::F_SETFD),
                register(libc::FD_CLOEXEC),
            ],
        )
    };
}

/// Whether this path exists; a link to nowhere does.
pub(crate) fn is_there(path: &CStr) -> bool {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the path ends with a zero, and there is room for the status.
    let answer = unsafe {
        call(
            libc::SYS_newfstatat,
            [
                register(libc::AT_FDCWD),
                path.as_ptr().expose_provenance(),
                status.as_mut_ptr().expose_provenance(),
                register(libc::AT_SYMLINK_NOFOLLOW),
            ],
        )
    };
    answer.is_ok()
}

/// Whether the file begins as an ELF program does.
pub(crate) fn is_elf(path: &CStr) -> bool {
    const MAGIC: &[u8] = b"\x7fELF";
    let mut start = [0_u8; MAGIC.len()];
    // SAFETY: the path ends with a zero, and there is room for what is read.
    unsafe {
        let file = call(
            libc::SYS_openat,
            [
                register(libc::AT_FDCWD),
                path.as_ptr().expose_provenance(),
                register(libc::O_RDONLY | libc::O_CLOEXEC),
            ],
        );
        let Ok(file) = file else { return false };
        let place = start.as_mut_ptr().expose_provenance();
        let _ = call(libc::SYS_read, [file, place, start.len()]);
        let _ = call(libc::SYS_close, [file]);
    }
    is_same(&start, MAGIC)
}

/// The signals that were blocked, one bit each.
pub(crate) struct Mask(u64);

/// Blocks all signals but faults. Returns those that were blocked before.
pub(crate) fn block_signals() -> Mask {
    let faults = FAULTS
        .iter()
        .fold(0, |set, fault| set | 1_u64 << (fault - 1));
    Mask(set_mask(!faults))
}

impl Mask {
    /// Blocks these signals and no others.
    pub(crate) fn set(&self) {
        set_mask(self.0);
    }
}

fn set_mask(set: u64) -> u64 {
    let mut before = 0_u64;
    // SAFETY: both sets have the size that is said.
    let _ = unsafe {
        call(
            libc::SYS_rt_sigprocmask,
            [
                register(libc::SIG_SETMASK),
                ptr::from_ref(&set).expose_provenance(),
                ptr::from_mut(&mut before).expose_provenance(),
                SIGNAL_SET_SIZE,
            ],
        )
    };
    before
}

/// Puts this process into a process group of its own.
pub(crate) fn lead_group() {
    // SAFETY: it touches no memory.
    let _ = unsafe { call(libc::SYS_setpgid, []) };
}

/// This process's id.
pub(crate) fn pid() -> i32 {
    // SAFETY: it touches no memory.
    let pid = unsafe { call(libc::SYS_getpid, []) };
    pid.ok()
        .and_then(|pid| i32::try_from(pid).ok())
        .unwrap_or_default()
}

/// Moves a file descriptor to where standard error is.
pub(crate) fn become_standard_error(fd: i32) {
    // SAFETY: they touch no memory.
    unsafe {
        let _ = call(
            libc::SYS_dup3,
            [register(fd), register(libc::STDERR_FILENO)],
        );
        let _ = call(libc::SYS_close, [register(fd)]);
    }
}

/// Has the kernel ask `program` about each system call of this process and of all that it starts. Where
/// it may not be installed, `PRoot` sees all of them.
pub(crate) fn install_filter(program: &[libc::sock_filter]) {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or_default(),
        // The kernel only reads it.
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program is so long, and lasts until the call returns.
    let _ = unsafe {
        call(
            libc::SYS_prctl,
            [
                register(libc::PR_SET_SECCOMP),
                usize::try_from(libc::SECCOMP_MODE_FILTER).unwrap_or_default(),
                ptr::from_ref(&program).expose_provenance(),
            ],
        )
    };
}

/// Gives the terminal to this process's group. TTOU, which that would send, must be blocked.
pub(crate) fn take_terminal() {
    // SAFETY: the path ends with a zero; the group's number is read and nothing is written.
    unsafe {
        let terminal = call(
            libc::SYS_openat,
            [
                register(libc::AT_FDCWD),
                c"/dev/tty".as_ptr().expose_provenance(),
                register(libc::O_RDWR | libc::O_CLOEXEC),
            ],
        );
        let group = call(libc::SYS_getpgid, []).map(|group| i32::try_from(group).unwrap_or(0));
        if let (Ok(terminal), Ok(group)) = (terminal, group) {
            let group = ptr::from_ref(&group).expose_provenance();
            let _ = call(
                libc::SYS_ioctl,
                [
                    terminal,
                    usize::try_from(libc::TIOCSPGRP).unwrap_or_default(),
                    group,
                ],
            );
        }
    }
}
