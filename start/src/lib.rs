//! The start program: runs a command of the image where the closure is at `/nix/store`.
//!
//! It is `run_proot.sh` in a Procfile, and the first word of every process that the buildpack makes.
//! Each time it starts it looks for an engine, a way to make the closure appear, that works here and
//! now; nothing about that is kept in the image. Where it is process 1, or where the engine is PRoot,
//! it stays and looks after the app's processes; else it becomes the app.
//!
//! It is a crate of its own so that it stays small: beside std it links libc, rustix, strsim, and
//! for the doctor flate2 (`miniz_oxide`) and rawzip.
//!
//! The modules, lowest first: each uses those above it in this list, and none below.

mod say;

pub mod engine;

mod help;

mod report;

pub mod executable;

pub mod processes;

mod sys;

mod seen_store;

pub mod package_name;

pub mod closure;

pub mod changes;

mod picture;

mod page;

mod why;

pub mod links;

pub mod image;

mod environment;

mod app;

mod plan;

mod proot;

mod proot_log;

mod place;

mod inside;

mod shell;

mod execute;

mod namespace;

mod supervise;

mod in_proot;

mod choose;

mod errors;

mod run;

mod doctor;

mod command_line;

#[cfg(test)]
mod sys_tests;

pub use command_line::{command, main};
pub use sys::return_large_allocations;
