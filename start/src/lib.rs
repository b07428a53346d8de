//! The start program: runs a command of the image where the closure is at `/nix/store`.
//!
//! It is `run_proot.sh` in a Procfile, and the first word of every process that the buildpack makes.
//! Each time it starts it looks for an engine, a way to make the closure appear, that works here and
//! now; nothing about that is kept in the image. Where it is process 1, or where the engine is PRoot,
//! it stays and looks after the app's processes; else it becomes the app.
//!
//! It is a crate of its own so that it stays small: beside std it links libc, rustix and strsim.

mod app;
mod choose;
pub mod closure;
mod command_line;
mod doctor;
pub mod engine;
mod environment;
mod errors;
mod execute;
mod help;
pub mod image;
mod in_proot;
mod inside;
mod interpreter;
mod namespace;
mod picture;
mod place;
mod plan;
pub mod processes;
mod proot;
mod proot_log;
mod report;
mod run;
mod say;
mod seen_store;
mod shell;
mod supervise;
mod sys;
#[cfg(test)]
mod sys_tests;
mod why;

pub use command_line::main;
