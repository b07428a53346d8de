//! A store path to deploy.

use nix_derivation::StorePath;

/// A store path to deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub path: StorePath,
    /// The program that the package calls its main one (`meta.mainProgram`).
    pub main_program: Option<String>,
}

impl Root {
    /// A root of which nothing but its path is known.
    pub fn from_path(path: StorePath) -> Self {
        Self {
            path,
            main_program: None,
        }
    }
}
