//! The buildpack's layers: one file each, and what they share.

pub mod closure;
mod commands;
pub mod launch_layer;
mod loader;
pub mod nix_store;
pub mod proot;
pub mod store_paths;
