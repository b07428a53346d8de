//! Tests against real parts: real Nix, real PRoot, real signed binary caches, and an ordinary user
//! in a sandbox without `/nix`. One file a capability.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::panic_in_result_fn,
    unreachable_pub,
    reason = "a test that fails so says where; and all of this is one program"
)]

mod common;

mod alone;
mod arm64;
mod buckets;
mod check;
mod commands;
mod conditions;
mod content;
mod deploy;
mod detect;
mod disturbed;
mod docs;
mod doctor;
mod early;
mod evaluate;
mod evaluator;
mod examples;
mod faults;
mod fetch;
mod hostile;
mod hostile_files;
mod hydra;
mod hydra_server;
mod interrupted;
mod launch;
mod logs;
mod memory;
mod names;
mod odd_files;
mod order;
mod pack;
mod parity;
mod picture;
mod pins;
mod processor;
mod redeploy;
mod relocate;
mod report;
mod sandboxes;
mod secrets;
mod servers;
mod signals;
mod source;
mod supply;
mod under_proot;
