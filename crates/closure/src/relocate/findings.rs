//! What is noted of one store path while it is unpacked.

use crate::relocate::references::HashPart;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use store_references::packing::Packing;

/// Bytes that notes of the files of one store path may take: those of a hundred thousand files with
/// references, which no store path has, and little beside what many of them unpacked at once take.
const MAX_NOTES: usize = 16 * 1024 * 1024;

/// Bytes that a note takes beside its file's name, roughly.
const NOTE_SIZE: usize = 100;

/// What was found while one store path was unpacked. Paths are relative to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The hash parts in file contents, names and targets of links.
    pub hashes: BTreeSet<HashPart>,
    /// The hash parts of references to paths outside the closure, where references are rewritten.
    pub foreign: BTreeSet<HashPart>,
    /// References in contents and targets.
    pub references: usize,
    /// Files with references in them.
    pub rewritten: BTreeSet<PathBuf>,
    /// Links with references in their targets.
    pub links: usize,
    pub bare: BTreeSet<PathBuf>,
    pub wide: BTreeSet<PathBuf>,
    /// Files that are packed, with the hash parts in their packed bytes.
    pub packed: BTreeMap<PathBuf, (Packing, BTreeSet<HashPart>)>,
    /// Containers that are not looked into, with their format.
    pub sealed: BTreeMap<PathBuf, &'static str>,
    /// Files whose name says that they hold checksums.
    pub checksums: BTreeSet<PathBuf>,
    /// Whether a relative link leads out of the store path; noted even where references are ignored.
    pub has_escaping_links: bool,
    /// Bytes of all these notes.
    pub(super) notes: usize,
}

/// Paths outside the closure that one store path may refer to: they are kept in its layer's metadata.
const MAX_FOREIGN: usize = 10_000;

impl Findings {
    /// Adds references to paths outside the closure.
    pub(crate) fn add_foreign(&mut self, hashes: BTreeSet<HashPart>) {
        if self.foreign.len() <= MAX_FOREIGN {
            self.foreign.extend(hashes);
        }
    }

    /// Whether a file of this name, with so many hash parts, may be noted too.
    pub(crate) fn has_room(&mut self, path: &Path, hashes: usize) -> bool {
        let note = NOTE_SIZE + path.as_os_str().len() + hashes * size_of::<HashPart>();
        self.notes += note;
        !self.is_full()
    }

    /// Whether there were more files to note than there is room for.
    pub(crate) fn is_full(&self) -> bool {
        self.notes > MAX_NOTES || self.foreign.len() > MAX_FOREIGN
    }
}
