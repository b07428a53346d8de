//! Moves store paths elsewhere at equal length: finds their references, rewrites them, and says what
//! prevents that.

pub mod archives;
pub(crate) mod budget;
pub mod references;
pub mod relocatability;
pub mod relocation;
pub(crate) mod scan;
