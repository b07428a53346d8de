//! Moves store paths elsewhere at equal length: finds their references, rewrites them, and says what
//! prevents that.

pub mod archives;
pub mod blocker;
pub mod budget;
pub(crate) mod checksums;
pub mod findings;
pub mod formats;
pub mod references;
pub mod relocation;
pub mod report;
pub(crate) mod scan;
