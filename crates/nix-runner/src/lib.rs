//! Real Nix, which evaluates expressions, and builds only where that was asked for.
//!
//! It evaluates in a store of NARs ([`nar_store`]), which is filled from the binary caches as it asks
//! ([`supply`], [`served`]), and builds in a store below a directory (`--store local?root=…`). Neither
//! needs `/nix`, a namespace or PRoot since Nix 2.34, and both are thrown away with the build.

pub mod archive;
pub mod engine;
pub mod kept;
pub mod nar_store;
mod nix;
pub mod programs;
mod served;
mod substituters;
pub mod supply;
pub mod temporary;
mod trace;

pub use self::nix::{
    Evaluation, Flakes, Imports, MIN_VERSION, NOWHERE, Nix, NixError, WARNING, Writes,
};
pub use self::substituters::{AccessTokens, Substituters};
