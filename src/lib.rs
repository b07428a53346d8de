//! A Cloud Native Buildpack that deploys what Hydra has already built, or what any other Nix binary
//! cache has. This crate is its `detect` and `build`.
//!
//! # Words
//!
//! - The *roots* are the store paths to deploy, and their *closure* all that they refer to.
//! - A *narinfo* is what a binary cache says about a store path: its hashes, size, references and
//!   signatures. Its *NAR* is the content.
//! - A *miss* is a path that no binary cache has.
//! - An *engine* is a way to make the closure appear at `/nix/store` where a process starts. A closure
//!   that is *relocated* needs none: its references are rewritten to where its files are.
//!
//! # A build, step by step
//!
//! 1. [`config`] reads and checks the settings; [`launch::read_procfile`] reads the Procfile.
//! 2. [`resolve::set_up`] finds the Hydra that is asked, if one is needed.
//! 3. [`deploy::deploy`] takes it from there. [`resolve::resolve`] finds the roots: a setting names
//!    them, [`hydra`] knows what it built of a revision, or [`nix_runner`] evaluates the app's expression.
//! 4. [`layers::closure`] keeps the layers of the previous image that are still right. For the others,
//!    `plan` in [`closure`] asks the binary caches for the narinfos of the closure, `place` chooses a
//!    layer for each path, and `fetch` downloads, verifies and unpacks the NARs.
//! 5. On a miss, everything is evaluated once more; then it is built, if the settings say so, or
//!    [`doctor`] finds out why Hydra has another path.
//! 6. [`report`] writes the bill of materials; [`layers::proot`] adds the start program, and PRoot.
//! 7. [`launch`] makes the processes.
//!
//! [`check`] takes the first steps of these by itself, to tell what a deploy would come to.
//!
//! A failure is an [`error::BuildpackError`]. [`messages`] holds its words.
//!
//! # Modules
//!
//! Lowest first: each uses only those above it in this list, which a test checks. `docs/architecture.md`
//! shows the crates below them, and where to add things.

pub mod root;

pub mod log;

pub mod limits;

pub mod tools;

pub mod report;

pub mod config;

pub mod layers;

pub mod build;

pub mod resolve;

pub mod launch;

pub mod doctor;

pub mod error;

pub mod messages;

pub mod interrupt;

pub mod deploy;

pub mod check;
