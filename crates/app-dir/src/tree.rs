//! The app's files and links as a git checkout would have them.
//!
//! A checkout has no `.git`, no empty directories but those of submodules that are not checked out, and
//! no pipes, sockets and devices. The little that platforms are known to put beside the checkout's own
//! files is left out too.

use crate::file::{AppDir, FileError};
use crate::git;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A directory that a file system makes at its top: where `/workspace` is a volume of its own.
const LOST_AND_FOUND: &str = "lost+found";

/// The file that some programs make of a `git archive`'s header, which holds the revision.
const PAX_HEADER: &str = "pax_global_header";

/// What every [`PAX_HEADER`] begins with: its record's length and keyword.
const PAX_HEADER_START: &[u8] = b"52 comment=";

/// A directory, file or link, read but not copied.
#[derive(Debug)]
pub enum Node {
    Directory(BTreeMap<OsString, Node>),
    Leaf(Leaf),
}

/// What git keeps under a name.
#[derive(Debug)]
pub enum Leaf {
    /// A regular file: its path in the app, its size, and whether its owner may execute it.
    File {
        from: PathBuf,
        size: u64,
        executable: bool,
    },
    /// A symbolic link to this.
    Link(PathBuf),
}

/// The size of all files together.
const MAX_SIZE: u64 = 8 << 30;

/// The reason why the app's directory could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("{} could not be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("with {} it has more than {} GiB", .0.display(), MAX_SIZE >> 30)]
    TooLarge(PathBuf),
}

impl Node {
    /// Lists the app's directory. No file but those of git is opened.
    pub fn read(app: &AppDir) -> Result<Self, TreeError> {
        let root = Path::new("");
        let left_out = left_out(app);
        let children = directory(app, root, &Submodules::of(app, root), &left_out)?;
        let tree = Self::Directory(children);
        tree.check_size()?;
        Ok(tree)
    }

    fn check_size(&self) -> Result<(), TreeError> {
        let mut total: u64 = 0;
        let mut first = None;
        self.visit(&mut |path, leaf| {
            if let Leaf::File { size, .. } = leaf {
                total = total.saturating_add(*size);
                if total > MAX_SIZE {
                    first.get_or_insert(path.to_path_buf());
                }
            }
        });
        first.map_or(Ok(()), |path| Err(TreeError::TooLarge(path)))
    }

    /// The number of files and links.
    pub fn count(&self) -> usize {
        match self {
            Self::Directory(children) => children.values().map(Self::count).sum(),
            Self::Leaf(_) => 1,
        }
    }

    /// Calls `visit` with every file and link: its path in the tree, and what it is.
    pub fn visit(&self, visit: &mut dyn FnMut(&Path, &Leaf)) {
        self.visit_below(&mut PathBuf::new(), visit);
    }

    fn visit_below(&self, at: &mut PathBuf, visit: &mut dyn FnMut(&Path, &Leaf)) {
        match self {
            Self::Directory(children) => {
                for (name, child) in children {
                    at.push(name);
                    child.visit_below(at, visit);
                    at.pop();
                }
            }
            Self::Leaf(leaf) => visit(at, leaf),
        }
    }

    /// The node at a path in the tree.
    pub(crate) fn at(&self, path: &Path) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| match node {
            Self::Directory(children) => children.get(name),
            Self::Leaf(_) => None,
        })
    }
}

/// The names at the top of the app that a platform put there, and not git.
pub fn left_out(app: &AppDir) -> Vec<&'static str> {
    let is_directory = |name| {
        let metadata = app.path().join(name).symlink_metadata();
        metadata.is_ok_and(|metadata| metadata.is_dir())
    };
    let is_header = |name: &str| {
        let mut start = [0; PAX_HEADER_START.len()];
        let file = app.open(Path::new(name));
        file.and_then(|mut file| file.read_exact(&mut start).map_err(FileError::Io))
            .is_ok_and(|()| start == PAX_HEADER_START)
    };
    let mut found = Vec::new();
    if is_directory(LOST_AND_FOUND) {
        found.push(LOST_AND_FOUND);
    }
    if is_header(PAX_HEADER) {
        found.push(PAX_HEADER);
    }
    found
}

/// The submodules of the repository at `root`, the app's own or that of a submodule.
struct Submodules {
    root: PathBuf,
    paths: BTreeSet<PathBuf>,
}

impl Submodules {
    fn of(app: &AppDir, root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            paths: git::submodules(app, root),
        }
    }

    fn contains(&self, directory: &Path) -> bool {
        let path = directory.strip_prefix(&self.root);
        path.is_ok_and(|path| self.paths.contains(path))
    }
}

/// What a checkout of `directory`, in the app, would hold, without these names in it.
fn directory(
    app: &AppDir,
    directory: &Path,
    submodules: &Submodules,
    left_out: &[&str],
) -> Result<BTreeMap<OsString, Node>, TreeError> {
    let absolute = app.path().join(directory);
    let read_error = |source| TreeError::Read {
        path: absolute.clone(),
        source,
    };
    let mut children = BTreeMap::new();
    for entry in fs::read_dir(&absolute).map_err(read_error)? {
        let entry = entry.map_err(read_error)?;
        let name = entry.file_name();
        // A directory in a clone, a file in a submodule or a worktree.
        if name == ".git" || left_out.iter().any(|left_out| name == *left_out) {
            continue;
        }
        if let Some(node) = node(app, directory.join(&name), &entry, submodules)? {
            children.insert(name, node);
        }
    }
    Ok(children)
}

fn node(
    app: &AppDir,
    path: PathBuf,
    entry: &fs::DirEntry,
    submodules: &Submodules,
) -> Result<Option<Node>, TreeError> {
    let read_error = |source| TreeError::Read {
        path: entry.path(),
        source,
    };
    let metadata = entry.metadata().map_err(read_error)?;
    let node = if metadata.is_dir() {
        let is_submodule = submodules.contains(&path);
        let children = if is_submodule {
            directory(app, &path, &Submodules::of(app, &path), &[])?
        } else {
            directory(app, &path, submodules, &[])?
        };
        // Where a submodule is not checked out, git makes its directory all the same, and so does
        // Nix. Hydra checks out neither those of submodules, nor those of most flakes.
        if children.is_empty() && !is_submodule {
            return Ok(None);
        }
        Node::Directory(children)
    } else if metadata.is_symlink() {
        Node::Leaf(Leaf::Link(fs::read_link(entry.path()).map_err(read_error)?))
    } else if metadata.is_file() {
        Node::Leaf(Leaf::File {
            from: path,
            size: metadata.len(),
            // Git and Nix both look at the owner's bit alone.
            executable: metadata.permissions().mode() & 0o100 != 0,
        })
    } else {
        // Git knows no sockets, pipes and devices.
        return Ok(None);
    };
    Ok(Some(node))
}
