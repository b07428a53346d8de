//! The app's source as Hydra puts a git checkout into its store, computed and written without Nix.
//!
//! Hydra's `nix-prefetch-git` removes `.git` everywhere and adds what is left as a store path named
//! `source`.

use app_dir::{AppDir, Leaf, Node, TreeError};
use nix_archive::nar::{self, Encoder};
use nix_derivation::{CAHash, HashAlgorithm, NixHash, NixHasher, StoreDir, StorePath};
use nix_runner::nar_store::{Entry, NarStore, NarStoreError};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A source tree, read but not copied.
#[derive(Debug)]
pub struct Source {
    pub app: AppDir,
    pub tree: Node,
    pub path: StorePath,
    pub nar_hash: NixHash,
    pub nar_size: u64,
    /// Regular files and links.
    pub files: usize,
    /// What was left out because a platform put it there, and not git.
    pub left_out: Vec<&'static str>,
}

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

impl Source {
    /// Reads the tree at `directory` and computes its store path, named `name`.
    pub fn read(directory: &Path, name: &str) -> Result<Self, SourceError> {
        let app = AppDir::at(directory)
            .map_err(|error| SourceError::Read(directory.to_path_buf(), error))?;
        let tree = Node::read(&app)?;
        let mut encoder = Encoder::new(HashSink {
            hasher: NixHasher::new(HashAlgorithm::Sha256),
            size: 0,
        })?;
        encode(&app, &tree, None, &mut encoder)?;
        let sink = encoder.finish()?;
        let nar_hash = sink.hasher.finalize();
        let path = StoreDir::default()
            .build_ca_path(name, &CAHash::Nar(nar_hash.clone()), [], false)
            .map_err(|error| SourceError::Encode(error.to_string()))?;
        Ok(Self {
            files: tree.count(),
            left_out: app_dir::left_out(&app),
            app,
            tree,
            path,
            nar_hash,
            nar_size: sink.size,
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
        let mut encoder = Encoder::new(writer)?;
        encode(&self.app, &self.tree, None, &mut encoder)?;
        Ok(encoder.finish()?)
    }

    /// Whether there is a file of this name at the tree's top.
    pub fn has(&self, name: &str) -> bool {
        let name = OsStr::new(name);
        matches!(&self.tree, Node::Directory(children) if children.contains_key(name))
    }
}

/// Writes a node to a NAR, in a directory under this name.
fn encode<W: Write>(
    app: &AppDir,
    node: &Node,
    name: Option<&OsStr>,
    encoder: &mut Encoder<W>,
) -> Result<(), SourceError> {
    let name = name.map(OsStr::as_bytes);
    match node {
        Node::Directory(children) => {
            encoder.start_directory(name)?;
            for (name, child) in children {
                encode(app, child, Some(name), encoder)?;
            }
            encoder.end_directory()?;
        }
        Node::Leaf(Leaf::Link(target)) => encoder.symlink(name, target.as_os_str().as_bytes())?,
        Node::Leaf(Leaf::File {
            from, executable, ..
        }) => {
            let read_error = |error| SourceError::Read(app.path().join(from), error);
            let mut file = app.open(from).map_err(|error| read_error(error.into()))?;
            let size = file.metadata().map_err(read_error)?.len();
            let mut contents = encoder.start_regular(name, *executable, size)?;
            io::copy(&mut file, &mut contents).map_err(read_error)?;
            contents.finish()?;
        }
    }
    Ok(())
}

impl From<TreeError> for SourceError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Read { path, source } => Self::Read(path, source),
            too_large @ TreeError::TooLarge(_) => Self::Encode(too_large.to_string()),
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

impl From<nar::Error> for SourceError {
    fn from(error: nar::Error) -> Self {
        Self::Encode(error.to_string())
    }
}
