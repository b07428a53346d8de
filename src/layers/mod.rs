//! The buildpack's layers: one file each, and what they share.

pub mod closure;
mod commands;
pub mod describe;
pub mod launch_layer;
mod loader;
pub mod memo;
pub mod nix_store;
mod progress;
pub mod proot;
pub mod store_paths;
