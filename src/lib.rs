//! The buildpack's modules, lowest first: each uses those above it in this list, and none below.

pub mod build;
pub mod config;
pub mod deploy;
pub mod doctor;
pub mod error;
pub mod interrupt;
pub mod launch;
pub mod layers;
pub mod limits;
pub mod log;
pub mod messages;
pub mod report;
pub mod resolve;
pub mod root;
pub mod tools;
