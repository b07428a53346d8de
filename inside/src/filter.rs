//! The system calls that `PRoot` does not translate, and that the app is therefore refused.
//!
//! `PRoot` 5.4.0 passes them on as they are, so a path in `/nix/store` would not exist for them. As if
//! the kernel were too old to know them, they fail with `ENOSYS`: C libraries, Go, Rust and liburing
//! then use older ones, which `PRoot` translates.
//!
//! Format: classic BPF on `struct seccomp_data`, `seccomp(2)`. An action that refuses a call takes
//! precedence over the one that stops for `PRoot`.

use core::mem::offset_of;
use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long, sock_filter,
};

/// Opens, changes the mode of, or reads attributes of a path, or sets up a ring in which the kernel opens
/// paths.
const REFUSED: [c_long; 8] = [
    libc::SYS_openat2,
    libc::SYS_io_uring_setup,
    libc::SYS_open_tree,
    // fchmodat2 of Linux 6.6; setxattrat, getxattrat, listxattrat and removexattrat of 6.13. They have
    // the same number on every machine.
    452,
    463,
    464,
    465,
    466,
];

/// The machine that the numbers are for, `linux/audit.h`. Calls of 32-bit programs have others.
#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = 0xc000_00b7;

const COUNT: usize = REFUSED.len();
const LENGTH: usize = HEAD + COUNT + 2;

/// Statements before those of [`REFUSED`].
const HEAD: usize = 6;

/// The filter.
pub(crate) static PROGRAM: [sock_filter; LENGTH] = program();

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of system calls and offsets are small and positive"
)]
const fn program() -> [sock_filter; LENGTH] {
    let mut program = [statement(
        BPF_RET | BPF_K,
        libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
    ); LENGTH];
    program[0] = load(offset_of!(libc::seccomp_data, arch));
    // To the statement that allows a call, which is the last but one.
    program[1] = jump(BPF_JEQ, MACHINE, 0, (LENGTH - 4) as u8);
    program[2] = load(offset_of!(libc::seccomp_data, nr));
    // What fexecve(3) would use instead of an open file, its name in /proc, is gone by the time that
    // PRoot's loader opens it, if the file is closed on execution.
    program[3] = jump(BPF_JEQ, libc::SYS_execveat as u32, 0, 2);
    program[4] = load(offset_of!(libc::seccomp_data, args) + 4 * size_of::<u64>());
    program[5] = jump(
        BPF_JSET,
        libc::AT_EMPTY_PATH as u32,
        COUNT as u8,
        COUNT as u8 + 1,
    );
    let mut at = 0;
    while at < COUNT {
        program[HEAD + at] = jump(BPF_JEQ, REFUSED[at] as u32, (COUNT - at) as u8, 0);
        at += 1;
    }
    program[HEAD + COUNT] = statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW);
    program
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "BPF codes have 16 bits, and offsets in seccomp_data are below 64"
)]
const fn load(offset: usize) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset as u32)
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "BPF codes have 16 bits, and offsets in seccomp_data are below 64"
)]
const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Compares the loaded number with `k`. Passes over the next `jt` statements if that holds, else over `jf`.
const fn jump(comparison: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    let jump = statement(BPF_JMP | comparison | BPF_K, k);
    sock_filter { jt, jf, ..jump }
}
