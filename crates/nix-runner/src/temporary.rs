//! Where temporary files go: the user's choice, else wherever the build container lets them.

use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Nothing can be written: each directory that was tried, and why not that.
#[derive(Debug, thiserror::Error)]
#[error("no temporary directory can be used")]
pub struct NoTemporary(pub Vec<(PathBuf, io::ErrorKind)>);

/// What may be written, the best first: the user's choice, then what has a short name everywhere.
pub fn candidates() -> Vec<PathBuf> {
    let mut directories = vec![std::env::temp_dir()];
    for usual in ["/tmp", "/var/tmp", "/dev/shm"] {
        let usual = PathBuf::from(usual);
        if !directories.contains(&usual) {
            directories.push(usual);
        }
    }
    directories
}

/// A new directory in the first of them that can be written, removed when dropped.
pub fn directory() -> Result<TempDir, NoTemporary> {
    let mut tried = Vec::new();
    for parent in candidates() {
        match directory_in(&parent) {
            Ok(directory) => return Ok(directory),
            Err(error) => tried.push((parent, error.kind())),
        }
    }
    Err(NoTemporary(tried))
}

/// The same in `parent`.
pub fn directory_in(parent: &Path) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("nix-").tempdir_in(parent)
}
