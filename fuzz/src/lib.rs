//! What must hold whatever a server, an archive or a user writes: one module a target, with a function
//! that takes any bytes and panics where something does not hold.
//!
//! `script/fuzz` runs them under libFuzzer, which looks for bytes that reach new code;
//! `tests/fixed_seeds.rs` runs the same functions in every test run.
#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "to panic is how a target tells what it has found"
)]

pub mod cache_info;
pub mod git_files;
pub mod hydra_json;
pub mod nar;
pub mod narinfo;
pub mod placement;
pub mod procfile;
pub mod references;
pub mod settings;

/// A target: its name, and what is done with any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by the name of its module, its program and its directory of seeds.
pub const TARGETS: [Target; 9] = [
    ("cache_info", cache_info::run),
    ("git_files", git_files::run),
    ("hydra_json", hydra_json::run),
    ("nar", nar::run),
    ("narinfo", narinfo::run),
    ("placement", placement::run),
    ("procfile", procfile::run),
    ("references", references::run),
    ("settings", settings::run),
];
