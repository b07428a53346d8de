//! Hydra: who it is, how one signs in, and what it is asked.
//!
//! Behaviour and shapes follow the sources of NixOS/hydra: its controllers, and `hydra-api.yaml`.

pub mod api;
mod client;
pub mod deploy;
pub mod inputs;
mod job;
pub mod revision;
mod wait;

pub use self::client::{Hydra, HydraError, jobset_path, segment, sign_in};
pub use self::job::{Job, Revision};
pub use self::wait::{Patience, Say};
