//! The first process in `PRoot`: sees whether the closure is there, and starts the app.
//!
//! Every system call that takes a path, and every one that a C library makes before `main`, costs two
//! changes between this process and `PRoot`. So this is a program without a C library: the two of
//! glibc and Rust's own start would cost more than all that it does.
//!
//! It is started as `nix-hydra-inside PIPE PLACE ROOT VARIABLES [COMMAND…]` ([`Words`]) and answers
//! with a [`Report`].
#![cfg_attr(not(test), no_std)]
// What a compiler makes of a loop, `memcpy` and its like, is in the C library.
#![no_builtins]

mod report;
mod sys;
mod words;

pub use report::Report;
pub use sys::{FAULTS, main};
pub use words::{FOREGROUND, OWN_GROUP, Words};

use core::ffi::CStr;
use sys::{Child, Process};
use words::{has, is_listed, number, variable_name};

/// Where the variable `PATH` names no directories.
const DEFAULT_PATH: &CStr = c"/bin:/usr/bin";

/// What runs a file that is no program: a script without a first line that names its interpreter.
const SHELL: &CStr = c"/bin/sh";

/// The status of what this was started with wrong words.
const USAGE: i32 = 2;

/// Starts the app; the status to end with, none where the words make no sense.
fn start(mut process: Process) -> Option<i32> {
    let pipe = number(process.word(Words::PIPE)?)?;
    let place = process.word(Words::PLACE)?;
    let root = process.word(Words::ROOT)?;
    let variables = process.word(Words::VARIABLES)?;
    // What the terminal sends is for the app; this process takes the terminal for it.
    let before = sys::block_signals();
    sys::close_on_execute(pipe);
    if !sys::is_there(root) {
        Report::Hidden.send(pipe);
        return Some(0);
    }
    let Some(program) = process.word(Words::COMMAND) else {
        Report::Works.send(pipe);
        return Some(0);
    };
    process.keep_variables(|variable| !is_listed(variable_name(variable), variables.to_bytes()));
    let (own_group, foreground) = (has(place, OWN_GROUP), has(place, FOREGROUND));
    match sys::fork() {
        Ok(Child::Itself) => {
            if own_group {
                sys::lead_group(0);
            }
            if foreground {
                sys::take_terminal();
            }
            before.set();
            Report::NotExecuted(execute(&mut process, program)).send(pipe);
            Some(127)
        }
        Ok(Child::Of(app)) => {
            if own_group {
                // Whichever of the two is first: the group must be there before it is signalled.
                sys::lead_group(app);
            }
            Report::Started(app).send(pipe);
            // With the end of this process the app becomes the child of the one that supervises it.
            Some(0)
        }
        Err(error) => {
            Report::NotExecuted(error).send(pipe);
            Some(1)
        }
    }
}

/// Becomes the app, as `execvp(3)` does; the error's number where that fails.
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
        libc::ENOEXEC => process.execute_by(SHELL, file, Words::COMMAND),
        error => error,
    }
}
