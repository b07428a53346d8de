//! The conversions that `.gitattributes` name for files as git checks them out: those differ from what
//! git has, and are the same in every checkout. Format: git's `gitattributes(5)`.

use super::MAX_TEXT;
use crate::file::AppDir;
use crate::tree::{Leaf, Node};
use gix_attributes::glob::pattern::Case;
use gix_attributes::search::{MetadataCollection, Outcome};
use gix_attributes::{Search, StateRef};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How git converts a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    None,
    /// LF becomes CRLF.
    LineEnds,
    /// It becomes what is not computed here: another encoding, or text with its own hash in it.
    Other,
}

/// All rules of a tree.
#[derive(Default)]
pub struct Attributes {
    search: Search,
    names: MetadataCollection,
}

impl Attributes {
    /// The rules of each `.gitattributes` of the tree at `root` in the app.
    pub fn read(app: &AppDir, tree: &Node) -> Self {
        let mut files = Vec::new();
        tree.visit(&mut |path, leaf| {
            if path.file_name() == Some(OsStr::new(".gitattributes"))
                && let Leaf::File { from, .. } = leaf
                && let Ok(text) = app.read(from, MAX_TEXT)
            {
                files.push((path.to_path_buf(), text));
            }
        });
        // The nearer to a file, the stronger.
        files.sort_by_key(|(path, _)| path.components().count());
        let mut attributes = Self::default();
        let built_in = (
            PathBuf::from(".gitattributes"),
            b"[attr]binary -diff -merge -text".to_vec(),
        );
        for (path, text) in [built_in].into_iter().chain(files) {
            let is_at_top = path.components().count() == 1;
            // It fails for paths that are not UTF-8 on Windows alone.
            let _ = attributes.search.add_patterns_buffer(
                &text,
                path,
                Some(Path::new("")),
                &mut attributes.names,
                is_at_top,
            );
        }
        attributes
    }

    /// How git converts the file at `path` when it checks it out.
    pub fn conversion(&self, path: &Path) -> Conversion {
        let mut found = Outcome::default();
        found.initialize_with_selection(
            &self.names,
            ["text", "eol", "ident", "working-tree-encoding"],
        );
        let bytes = path.as_os_str().as_bytes();
        self.search.pattern_matching_relative_path(
            bytes.into(),
            Case::Sensitive,
            Some(false),
            &mut found,
        );
        let (mut text, mut crlf, mut other) = (true, false, false);
        for found in found.iter_selected() {
            let state = found.assignment.state;
            match found.assignment.name.as_str() {
                "text" => text = state != StateRef::Unset,
                "eol" => crlf = state.as_bstr().is_some_and(|value| value == "crlf"),
                _ => other |= matches!(state, StateRef::Set | StateRef::Value(_)),
            }
        }
        if other {
            Conversion::Other
        } else if text && crlf {
            Conversion::LineEnds
        } else {
            Conversion::None
        }
    }
}
