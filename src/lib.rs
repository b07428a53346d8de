//! The buildpack's modules, in the order in which a build goes through them, so
//! that the buildpack, its tests, benches and fuzz targets all use the same code.

pub mod config;
pub mod errors;

pub mod resolve;

pub mod hydra;

pub mod nix;

pub mod http;

pub mod cache;

pub mod closure;

pub mod doctor;

pub mod tools;

pub mod layers;

pub mod launch;

pub mod limits;

pub mod temporary;

pub mod interrupt;

pub mod report;

pub mod output;
