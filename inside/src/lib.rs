//! The first process in `PRoot`: checks that the closure is there, and becomes the app.
//!
//! Every system call that takes a path, and every one that a C library makes before `main`, costs two
//! context switches to `PRoot` and back. So this is a program without a C library: the startup of
//! glibc and of Rust would cost more than all that it does.
//!
//! It is started as `nix-hydra-inside PIPE ERRORS PLACE ROOT VARIABLES [COMMAND…]` ([`Words`]) and
//! writes a [`Report`] to the pipe.
#![cfg_attr(not(test), no_std)]
// The compiler would make calls of `memcpy` and the like, which are in the C library, of loops.
#![no_builtins]

mod filter;
mod report;
mod sys;
mod words;

pub use report::Report;
pub use sys::{FAULTS, main};
pub use words::{FOREGROUND, OWN_GROUP, Words};

use core::ffi::CStr;
use sys::Process;
use words::{has, is_listed, number, variable_name};

/// The directories where `PATH` is not set.
const DEFAULT_PATH: &CStr = c"/bin:/usr/bin";

/// Runs a script whose first line names no interpreter.
const SHELL: &CStr = c"/bin/sh";

/// The exit status where the words make no sense.
const USAGE: i32 = 2;

/// Becomes the app. Returns the exit status where that fails, or None if the words make no sense.
fn start(mut process: Process) -> Option<i32> {
    let pipe = number(process.word(Words::PIPE)?)?;
    let errors = number(process.word(Words::ERRORS)?)?;
    let place = process.word(Words::PLACE)?;
    let root = process.word(Words::ROOT)?;
    let variables = process.word(Words::VARIABLES)?;
    // TTOU must be blocked while the terminal is taken; all others are for the app.
    let before = sys::block_signals();
    sys::close_on_execute(pipe);
    sys::become_standard_error(errors);
    if !sys::is_there(root) {
        Report::Hidden.send(pipe);
        return Some(0);
    }
    let Some(program) = process.word(Words::COMMAND) else {
        Report::Works.send(pipe);
        return Some(0);
    };
    process.keep_variables(|variable| !is_listed(variable_name(variable), variables.to_bytes()));
    if has(place, OWN_GROUP) {
        sys::lead_group();
    }
    if has(place, FOREGROUND) {
        sys::take_terminal();
    }
    Report::Started(sys::pid()).send(pipe);
    sys::install_filter(&filter::PROGRAM);
    before.set();
    Report::NotExecuted(execute(&mut process, program)).send(pipe);
    Some(127)
}

/// Becomes the app, as `execvp(3)` does. Returns the number of the error.
fn execute(process: &mut Process, program: &CStr) -> i32 {
    if has(program, b'/') {
        return execute_file(process, program);
    }
    let path = process.variable(b"PATH").unwrap_or(DEFAULT_PATH);
    let mut error = libc::ENOENT;
    let mut place = sys::PathBuffer::new();
    for directory in path.to_bytes().split(|byte| *byte == b':') {
        let Some(file) = place.join(directory, program.to_bytes()) else {
            continue;
        };
        match execute_file(process, file) {
            libc::EACCES => error = libc::EACCES,
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            other => return other,
        }
    }
    error
}

fn execute_file(process: &mut Process, file: &CStr) -> i32 {
    match process.execute(file, Words::COMMAND) {
        // A shell would take a damaged program for a text.
        libc::ENOEXEC if !sys::is_elf(file) => process.execute_by(SHELL, file, Words::COMMAND),
        error => error,
    }
}
