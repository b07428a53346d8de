//! The differences between the app's directory and what git has.

use super::attributes::{Attributes, Conversion};
use super::index::{Entry, Index, LINK, SUBMODULE};
use super::objects::Objects;
use super::{GitError, Repository};
use crate::file::AppDir;
use crate::tree::{Leaf, Node};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The size of files in which line ends are looked at.
const MAX_CONVERTED: u64 = 64 << 20;

/// With what a directory is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// With what git has, as a flake gets it.
    Content,
    /// With another checkout, in which git converts the same files.
    Checkout,
    /// As `git status` does, which takes sparse checkouts for whole ones, and on some file systems each
    /// file for executable.
    Status { modes: bool },
}

/// The paths that differ. A directory of which git has nothing is one path, with a slash.
#[derive(Debug, Default)]
pub struct Status {
    pub added: BTreeSet<String>,
    pub changed: BTreeSet<String>,
    pub missing: BTreeSet<String>,
    /// Submodules that are not checked out.
    pub empty_submodules: BTreeSet<String>,
}

/// Compares the tree of a checkout with its index.
pub fn status(app: &AppDir, tree: &Node, index: &Index, comparison: Comparison) -> Status {
    let submodules: BTreeSet<&Path> = index.submodules().map(|(path, _)| path).collect();
    let attributes = match comparison {
        Comparison::Content => Attributes::default(),
        _ => Attributes::read(app, tree),
    };
    let tracked: BTreeSet<&Path> = index
        .entries
        .keys()
        .flat_map(|path| path.ancestors())
        .collect();
    let mut status = Status::default();
    let mut here = BTreeSet::new();
    let mut filled = BTreeSet::new();
    tree.visit(&mut |path, leaf| {
        if let Some(submodule) = path.ancestors().find(|part| submodules.contains(part)) {
            filled.insert(submodule.to_path_buf());
            return;
        }
        if let Some(entry) = index.entries.get(path) {
            here.insert(path.to_path_buf());
            let conversion = attributes.conversion(path);
            if !entry.is(app, leaf, conversion, comparison) {
                status.changed.insert(path.display().to_string());
            }
            return;
        }
        // The whole directory, where git has nothing in it.
        let unknown = path.ancestors().take_while(|part| !tracked.contains(part));
        let unknown = unknown.last().unwrap_or(path);
        let slash = if unknown == path { "" } else { "/" };
        status.added.insert(format!("{}{slash}", unknown.display()));
    });
    let is_expected = |entry: &Entry| match comparison {
        Comparison::Status { .. } => !entry.is_sparse,
        _ => true,
    };
    let files = index.entries.iter();
    status.missing = files
        .filter(|(_, entry)| entry.mode != SUBMODULE && is_expected(entry))
        .filter(|(path, _)| !here.contains(*path))
        .map(|(path, _)| path.display().to_string())
        .collect();
    status.empty_submodules = submodules
        .into_iter()
        .filter(|path| !filled.contains(*path))
        .map(|path| path.display().to_string())
        .collect();
    status
}

/// The paths in which a checkout, with this tree, and the submodules in it differ from their commits.
pub(super) fn changes(repository: &Repository, tree: &Node) -> Result<Vec<String>, GitError> {
    let index = repository.index()?;
    let modes = repository.has_modes();
    let status = status(repository.app, tree, &index, Comparison::Status { modes });
    let mut changes = repository.staged(&index)?;
    changes.extend(status.changed);
    changes.extend(status.missing);
    for (path, entry) in index.submodules() {
        let at = repository.root.join(path);
        let submodule = Repository::at(repository.app, &at)?;
        let (Some(submodule), Some(tree)) = (submodule, tree.at(path)) else {
            continue;
        };
        if submodule.head()? != entry.id {
            changes.insert(path.display().to_string());
        }
        let below = self::changes(&submodule, tree)?;
        changes.extend(
            below
                .iter()
                .map(|name| format!("{}/{name}", path.display())),
        );
    }
    // The files that git has come first, as they tell more.
    let added = status.added.difference(&changes).cloned();
    let added: Vec<String> = added.collect();
    Ok(changes.into_iter().chain(added).collect())
}

impl Repository<'_> {
    /// The files that are staged and not committed.
    pub fn staged(&self, index: &Index) -> Result<BTreeSet<String>, GitError> {
        let head = self.head()?;
        let objects = Objects::of(self, head.kind())?;
        let tree = objects.commit(head)?.tree;
        if index.tree == Some(tree) {
            return Ok(BTreeSet::new());
        }
        let committed = objects.files(tree)?;
        let is_same = |path: &PathBuf, entry: &Entry| {
            let committed = committed.get(path);
            committed.is_some_and(|(mode, id)| (*mode, *id) == (entry.mode, entry.id))
        };
        let entries = index.entries.iter();
        let changed = entries
            .filter(|(path, entry)| !is_same(path, entry))
            .map(|(path, _)| path);
        let removed = committed
            .keys()
            .filter(|path| !index.entries.contains_key(*path));
        Ok(changed
            .chain(removed)
            .map(|path| path.display().to_string())
            .collect())
    }
}

impl Entry {
    /// Whether this is what git would store of a file. A file that cannot be read is not.
    fn is(
        &self,
        app: &AppDir,
        leaf: &Leaf,
        conversion: Conversion,
        comparison: Comparison,
    ) -> bool {
        let (from, size, executable) = match leaf {
            Leaf::Link(target) => {
                let target = target.as_os_str().as_bytes();
                return self.mode == LINK
                    && self.has(&mut io::Cursor::new(target), target.len() as u64);
            }
            Leaf::File {
                from,
                size,
                executable,
            } => (from, *size, *executable),
        };
        let has_mode = comparison == Comparison::Status { modes: false }
            || executable == (self.mode & 0o111 != 0);
        if self.mode == LINK || !has_mode {
            return false;
        }
        let is_same = || {
            let file = app.open(from);
            file.is_ok_and(|mut file| self.has(&mut file, size))
        };
        match conversion {
            Conversion::Other => true,
            Conversion::None => is_same(),
            Conversion::LineEnds => {
                is_same()
                    || app.read(from, MAX_CONVERTED).is_ok_and(|bytes| {
                        let bytes = with_lf(&bytes);
                        self.has(&mut io::Cursor::new(&bytes), bytes.len() as u64)
                    })
            }
        }
    }

    /// Whether this is the hash of content of this size.
    fn has(&self, content: &mut dyn Read, size: u64) -> bool {
        let mut hasher = gix_hash::io::Write::new(io::sink(), self.id.kind());
        hasher.hash.update(format!("blob {size}\0").as_bytes());
        io::copy(content, &mut hasher).is_ok()
            && hasher.hash.try_finalize().is_ok_and(|id| id == self.id)
    }
}

/// Content before git made each LF a CRLF.
fn with_lf(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        if *byte != b'\r' || bytes.get(at + 1) != Some(&b'\n') {
            plain.push(*byte);
        }
    }
    plain
}
