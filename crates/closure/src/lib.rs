//! The closure of the roots: looked up, downloaded, verified, placed in layers, and relocated.
//!
//! A *closure* is every store path that the *roots* (the packages that an app asks for) need. A build
//! goes through these steps:
//!
//! 1. [`plan`] asks the binary caches for narinfos until all references are known: a [`Closure`].
//! 2. [`place`] divides the closure into layers.
//! 3. [`fetch`] downloads the paths of a [`queue`]: it decompresses (within [`decode_permits`] and a limit of memory), verifies
//!    and unpacks ([`unpack`], [`content`]) each NAR in one pass. [`prefetch`] begins this during step 1.
//! 4. [`relocate`] looks for references while files are written, and rewrites them where the closure
//!    moves.
//!
//! The modules use each other in the reverse order of that list, never in a ring.

mod closure;
pub mod content;
pub mod decode_memory;
pub mod decode_permits;
pub mod fetch;
pub mod parallel;
pub mod place;
pub mod plan;
pub mod prefetch;
pub mod queue;
pub mod relocate;
pub mod unpack;

pub use self::closure::Closure;
