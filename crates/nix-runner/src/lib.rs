//! Real Nix, which evaluates expressions, and builds only where that was asked for.
//!
//! It works on a store of its own below a directory (`--store local?root=…`), which needs no
//! `/nix`, no namespace and no PRoot since Nix 2.34. The store is thrown away with the build.

pub mod archive;
pub mod engine;
mod nix;
mod substituters;
pub mod temporary;

pub use self::nix::{Evaluation, MIN_VERSION, Nix, NixError, WARNING};
pub use self::substituters::Substituters;
