//! The app's source as Hydra puts a git checkout into its store, computed and written without Nix.
//!
//! Hydra's `nix-prefetch-git` removes `.git` everywhere and adds what is left as a store path named
//! `source`. A checkout has no empty directories but those of submodules that are not checked out, so
//! those that a platform made are left out, and so is the little that platforms are known to put beside
//! the checkout's own files.

use super::checkout::submodules;
use nix_archive::nar::{self, Encoder};
use nix_derivation::{CAHash, HashAlgorithm, NixHash, NixHasher, StoreDir, StorePath};
use nix_runner::nar_store::{Entry, NarStore, NarStoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A source tree, read but not copied.
#[derive(Debug)]
pub struct Source {
    tree: Node,
    pub path: StorePath,
    pub nar_hash: NixHash,
    pub nar_size: u64,
    /// Regular files and links.
    pub files: usize,
    /// Whether there is a `flake.lock` at its top.
    pub has_lock: bool,
    /// What was left out because a platform put it there, and not git.
    pub left_out: Vec<&'static str>,
}

/// A directory that a file system makes at its top: where `/workspace` is a volume of its own.
const LOST_AND_FOUND: &str = "lost+found";

/// The file that some programs make of a `git archive`'s header, which holds the revision.
const PAX_HEADER: &str = "pax_global_header";

/// What every [`PAX_HEADER`] begins with: its record's length and keyword.
const PAX_HEADER_START: &[u8] = b"52 comment=";

/// Why a source could not be read or written: where, and the reason.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{path} cannot be read: {1}", path = .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("{path} cannot be written: {1}", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// The tree cannot be a store path; the reason.
    #[error("the source cannot be a store path: {0}")]
    Encode(String),
}

#[derive(Debug)]
enum Node {
    Directory(BTreeMap<OsString, Node>),
    Leaf(Leaf),
}

/// What git keeps under a name.
#[derive(Debug)]
pub enum Leaf {
    /// A regular file: where its content is, and whether its owner may execute it.
    File { from: PathBuf, executable: bool },
    /// A symbolic link to this.
    Link(PathBuf),
}

impl Source {
    /// Reads the tree at `directory` and computes its store path, named `name`.
    pub fn read(directory: &Path, name: &str) -> Result<Self, SourceError> {
        let left_out = [LOST_AND_FOUND, PAX_HEADER]
            .into_iter()
            .filter(|name| is_from_platform(&directory.join(name), name))
            .collect::<Vec<_>>();
        let tree = Node::Directory(read_directory(
            directory,
            &Repository::at(directory),
            &left_out,
        )?);
        let mut encoder = Encoder::new(HashSink {
            hasher: NixHasher::new(HashAlgorithm::Sha256),
            size: 0,
        })
        .map_err(|error| encode_error(&error))?;
        tree.encode(None, &mut encoder)?;
        let sink = encoder.finish().map_err(|error| encode_error(&error))?;
        let nar_hash = sink.hasher.finalize();
        let path = StoreDir::default()
            .build_ca_path(name, &CAHash::Nar(nar_hash.clone()), [], false)
            .map_err(|error| SourceError::Encode(error.to_string()))?;
        Ok(Self {
            files: tree.count(),
            has_lock: tree.has(OsStr::new("flake.lock")),
            tree,
            path,
            nar_hash,
            nar_size: sink.size,
            left_out,
        })
    }

    /// Adds the tree to a store of NARs.
    pub fn add_to(&self, store: &NarStore) -> Result<(), SourceError> {
        let file = store.nar_file(&self.nar_hash);
        let write_error = |error| SourceError::Write(file.clone(), error);
        let nar = BufWriter::new(File::create(&file).map_err(write_error)?);
        let nar = self.encode(nar)?;
        nar.into_inner()
            .map_err(|error| write_error(error.into_error()))?;
        let entry = Entry {
            path: &self.path,
            nar_hash: &self.nar_hash,
            nar_size: self.nar_size,
            references: Vec::new(),
        };
        store.adopt(&entry).map_err(|error| match error {
            NarStoreError::Write(path, error) => SourceError::Write(path, error),
            other => SourceError::Encode(other.to_string()),
        })
    }

    /// Writes the NAR of the tree to `writer`, which is returned.
    pub fn encode<W: Write>(&self, writer: W) -> Result<W, SourceError> {
        let mut encoder = Encoder::new(writer).map_err(|error| encode_error(&error))?;
        self.tree.encode(None, &mut encoder)?;
        encoder.finish().map_err(|error| encode_error(&error))
    }

    /// Calls `visit` with every regular file and link: its path in the tree, and what it is.
    pub fn visit(&self, visit: &mut dyn FnMut(&Path, &Leaf)) {
        self.tree.visit(&mut PathBuf::new(), visit);
    }
}

/// Whether `path`, at the top of the tree, is what its name suggests.
fn is_from_platform(path: &Path, name: &str) -> bool {
    let Ok(metadata) = path.symlink_metadata() else {
        return false;
    };
    if name == LOST_AND_FOUND {
        return metadata.is_dir();
    }
    let mut start = [0; PAX_HEADER_START.len()];
    metadata.is_file()
        && File::open(path)
            .and_then(|mut file| file.read_exact(&mut start))
            .is_ok_and(|()| start == PAX_HEADER_START)
}

/// The app's root, or that of a submodule.
struct Repository<'a> {
    root: &'a Path,
    submodules: BTreeSet<PathBuf>,
}

impl<'a> Repository<'a> {
    fn at(root: &'a Path) -> Self {
        Self {
            root,
            submodules: submodules(root),
        }
    }

    fn has_submodule(&self, directory: &Path) -> bool {
        let path = directory.strip_prefix(self.root);
        path.is_ok_and(|path| self.submodules.contains(path))
    }
}

/// What a checkout of the tree at `directory`, which is in `repository`, would hold, without these names
/// at its top.
fn read_directory(
    directory: &Path,
    repository: &Repository,
    left_out: &[&str],
) -> Result<BTreeMap<OsString, Node>, SourceError> {
    let read_error = |error| SourceError::Read(directory.to_path_buf(), error);
    let mut children = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(read_error)? {
        let entry = entry.map_err(read_error)?;
        let name = entry.file_name();
        // A directory in a clone, a file in a submodule or a worktree.
        if name == ".git" || left_out.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let from = entry.path();
        let metadata = entry
            .metadata()
            .map_err(|error| SourceError::Read(from.clone(), error))?;
        let node = if metadata.is_dir() {
            let is_submodule = repository.has_submodule(&from);
            let children = if is_submodule {
                read_directory(&from, &Repository::at(&from), &[])?
            } else {
                read_directory(&from, repository, &[])?
            };
            // Where a submodule is not checked out, git makes its directory all the same, and so does
            // Nix. Hydra checks out neither those of submodules, nor those of most flakes.
            if children.is_empty() && !is_submodule {
                continue;
            }
            Node::Directory(children)
        } else if metadata.is_symlink() {
            let target =
                fs::read_link(&from).map_err(|error| SourceError::Read(from.clone(), error))?;
            Node::Leaf(Leaf::Link(target))
        } else if metadata.is_file() {
            // Git and Nix both look at the owner's bit alone.
            let executable = metadata.permissions().mode() & 0o100 != 0;
            Node::Leaf(Leaf::File { from, executable })
        } else {
            // Sockets, pipes and devices: git knows none.
            continue;
        };
        children.insert(name, node);
    }
    Ok(children)
}

impl Node {
    fn has(&self, name: &OsStr) -> bool {
        matches!(self, Self::Directory(children) if children.contains_key(name))
    }

    fn count(&self) -> usize {
        match self {
            Self::Directory(children) => children.values().map(Self::count).sum(),
            Self::Leaf(_) => 1,
        }
    }

    fn visit(&self, at: &mut PathBuf, visit: &mut dyn FnMut(&Path, &Leaf)) {
        match self {
            Self::Directory(children) => {
                for (name, child) in children {
                    at.push(name);
                    child.visit(at, visit);
                    at.pop();
                }
            }
            Self::Leaf(leaf) => visit(at, leaf),
        }
    }

    fn encode<W: Write>(
        &self,
        name: Option<&OsStr>,
        encoder: &mut Encoder<W>,
    ) -> Result<(), SourceError> {
        let name = name.map(OsStr::as_bytes);
        match self {
            Self::Directory(children) => {
                encoder
                    .start_directory(name)
                    .map_err(|error| encode_error(&error))?;
                for (name, child) in children {
                    child.encode(Some(name), encoder)?;
                }
                encoder
                    .end_directory()
                    .map_err(|error| encode_error(&error))
            }
            Self::Leaf(Leaf::Link(target)) => encoder
                .symlink(name, target.as_os_str().as_bytes())
                .map_err(|error| encode_error(&error)),
            Self::Leaf(Leaf::File { from, executable }) => {
                let read_error = |error| SourceError::Read(from.clone(), error);
                let mut file = File::open(from).map_err(read_error)?;
                let size = file.metadata().map_err(read_error)?.len();
                let mut contents = encoder
                    .start_regular(name, *executable, size)
                    .map_err(|error| encode_error(&error))?;
                io::copy(&mut file, &mut contents).map_err(read_error)?;
                contents.finish().map_err(|error| encode_error(&error))
            }
        }
    }
}

struct HashSink {
    hasher: NixHasher,
    size: u64,
}

impl Write for HashSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn encode_error(error: &nar::Error) -> SourceError {
    SourceError::Encode(error.to_string())
}
