//! Commits and trees, from loose objects and packs.

use super::{GitError, Repository, if_there};
use crate::file::AppDir;
use flate2::read::ZlibDecoder;
use gix_hash::ObjectId;
use gix_object::{CommitRefIter, TreeRefIter};
use gix_pack::{MMap, cache, data, index};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The size of a commit or tree, uncompressed.
const MAX_OBJECT: usize = 32 << 20;

/// Bytes of all objects together, with those that others are changes of.
const MAX_DECODED: u64 = 4 << 30;

/// Files and directories of a commit's tree, and bytes of a path.
const MAX_FILES: usize = 1_000_000;
const MAX_PATH: usize = 4 << 10;

/// A file of a commit: its mode as in an index, and the hash of its content.
pub(super) type Files = BTreeMap<PathBuf, (u32, ObjectId)>;

/// What is used of a commit.
#[derive(Debug)]
pub struct Commit {
    pub(super) tree: ObjectId,
    /// When it was committed, in seconds since 1970.
    pub time: i64,
}

/// The objects of a repository.
pub(super) struct Objects<'a> {
    repository: &'a Repository<'a>,
    packs: Vec<Pack>,
    /// Bytes that were decompressed so far.
    decoded: Cell<u64>,
}

struct Pack {
    index: index::File<MMap>,
    data: data::File<MMap>,
}

impl<'a> Objects<'a> {
    pub(super) fn of(
        repository: &'a Repository<'a>,
        hash: gix_hash::Kind,
    ) -> Result<Self, GitError> {
        let directory = repository.common_dir.join("objects/pack");
        let names = if_there(repository.app.names(&directory), &directory)?;
        let indexes = names.iter().flatten().map(|name| directory.join(name));
        Ok(Self {
            repository,
            packs: indexes
                .filter(|path| path.extension() == Some(OsStr::new("idx")))
                .map(|path| Pack::at(repository.app, &path, hash))
                .collect::<Result<_, _>>()?,
            decoded: Cell::new(0),
        })
    }

    pub(super) fn commit(&self, id: ObjectId) -> Result<Commit, GitError> {
        let bytes = self.object(id)?;
        let mut fields = CommitRefIter::from_bytes(&bytes, id.kind());
        let tree = fields.tree_id().map_err(|error| unreadable(id, error))?;
        let committer = fields.committer().map_err(|error| unreadable(id, error))?;
        Ok(Commit {
            tree,
            time: committer.seconds(),
        })
    }

    /// The files of a tree and the trees in it.
    pub(super) fn files(&self, tree: ObjectId) -> Result<Files, GitError> {
        let mut files = Files::new();
        let mut trees = vec![(PathBuf::new(), tree)];
        let mut seen = 0;
        while let Some((directory, tree)) = trees.pop() {
            let bytes = self.object(tree)?;
            for entry in TreeRefIter::from_bytes(&bytes, tree.kind()) {
                let entry = entry.map_err(|error| unreadable(tree, error))?;
                let path = directory.join(OsStr::from_bytes(entry.filename));
                seen += 1;
                if seen > MAX_FILES || path.as_os_str().len() > MAX_PATH {
                    return Err(GitError::TooLarge(tree));
                }
                if entry.mode.is_tree() {
                    trees.push((path, entry.oid.to_owned()));
                } else {
                    files.insert(
                        path,
                        (u32::from(entry.mode.kind() as u16), entry.oid.to_owned()),
                    );
                }
            }
        }
        Ok(files)
    }

    fn object(&self, id: ObjectId) -> Result<Vec<u8>, GitError> {
        let found = match self.repository.loose(id)? {
            Some(found) => Some((found.len() as u64, found)),
            None => self
                .packs
                .iter()
                .find_map(|pack| pack.find(id).transpose())
                .transpose()?,
        };
        if let Some((decoded, bytes)) = found {
            self.decoded.set(self.decoded.get() + decoded);
            if self.decoded.get() > MAX_DECODED {
                return Err(GitError::TooLarge(id));
            }
            return Ok(bytes);
        }
        let alternates = self.repository.common_dir.join("objects/info/alternates");
        match self.repository.app.open(&alternates) {
            Ok(_) => Err(GitError::Alternates(alternates)),
            Err(_) => Err(GitError::NoObject(id)),
        }
    }
}

impl Repository<'_> {
    /// An object in a file of its own.
    fn loose(&self, id: ObjectId) -> Result<Option<Vec<u8>>, GitError> {
        let digits = id.to_string();
        let (directory, name) = digits.split_at(2);
        let path = self.common_dir.join("objects").join(directory).join(name);
        let Some(file) = if_there(self.app.open(&path), &path)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        ZlibDecoder::new(file)
            .take(MAX_OBJECT as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable(id, error))?;
        if bytes.len() > MAX_OBJECT {
            return Err(GitError::TooLarge(id));
        }
        // Its kind and size come first.
        let header = bytes.iter().position(|byte| *byte == 0);
        let header = header.ok_or(GitError::Format(path))?;
        Ok(Some(bytes.split_off(header + 1)))
    }
}

impl Pack {
    fn at(app: &AppDir, path: &Path, hash: gix_hash::Kind) -> Result<Self, GitError> {
        let packed = path.with_extension("pack");
        for path in [path, &packed] {
            app.open(path).map_err(|source| GitError::File {
                path: path.to_path_buf(),
                source,
            })?;
        }
        let index = index::File::at(app.path().join(path), hash);
        let data = data::File::at(app.path().join(&packed), hash);
        Ok(Self {
            index: index.map_err(|_| GitError::Format(path.to_path_buf()))?,
            data: data
                .map_err(|_| GitError::Format(packed))?
                .with_alloc_limit_bytes(Some(MAX_OBJECT)),
        })
    }

    /// An object, and how many bytes were decompressed for it.
    fn find(&self, id: ObjectId) -> Result<Option<(u64, Vec<u8>)>, GitError> {
        let Some(at) = self.index.lookup(id) else {
            return Ok(None);
        };
        let entry = |at| self.data.entry(self.index.pack_offset_at_index(at));
        let base = |id: &gix_hash::oid, _: &mut Vec<u8>| {
            let base = self.index.lookup(id).map(entry).transpose()?;
            Ok(base.map(data::decode::entry::ResolvedBase::InPack))
        };
        let mut bytes = Vec::new();
        let decoded = entry(at)
            .and_then(|entry| {
                let inflate = &mut gix_zlib::Inflate::default();
                self.data
                    .decode_entry(entry, &mut bytes, inflate, &base, &mut cache::Never)
            })
            .map_err(|error| unreadable(id, error))?;
        Ok(Some((decoded.decompressed_size, bytes)))
    }
}

fn unreadable(id: ObjectId, error: impl std::fmt::Display) -> GitError {
    GitError::Object(id, error.to_string())
}
