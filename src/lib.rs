//! The buildpack's modules, lowest first: each uses those above it in this list, and none below.

pub mod root;

pub mod log;

pub mod limits;

pub mod tools;

pub mod config;

pub mod report;

pub mod layers;

pub mod build;

pub mod resolve;

pub mod launch;

pub mod doctor;

pub mod error;

pub mod messages;

pub mod interrupt;

pub mod deploy;
