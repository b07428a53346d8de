//! Finds store paths in bytes, for the build that rewrites them and for the doctor of an image, which
//! looks whether any is left.
//!
//! It has no dependencies, since the start program links it.

pub mod hashes;
pub mod packing;
