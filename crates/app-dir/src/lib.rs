//! The app's directory, which may hold anything: its files, opened so that none blocks, leads out or
//! grows without end ([`AppDir`]); its tree as git would have it ([`Node`]); and its git checkout, read
//! without running a program ([`git`]).

mod file;
pub mod git;
mod tree;

pub use file::{AppDir, FileError, read, read_to_string};
pub use tree::{Leaf, Node, TreeError, left_out};
