//! Git's index: every file of the checkout, with the hash of its content.
//!
//! `gix-index` reads it as well, but goes as deep as a hostile index says, and takes paths of any length
//! together. Format: git's `gitformat-index(5)`, versions 2 to 4, also split in two files.

use gix_bitmap::ewah;
use gix_hash::{Kind, ObjectId};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Modes of entries: a symbolic link, and a submodule.
pub const LINK: u32 = 0o120_000;
pub const SUBMODULE: u32 = 0o160_000;

/// Bytes of an entry before its hash: times, device, inode, mode, owner, group and size.
const STAT_SIZE: usize = 40;

/// Bytes of a path, and of all paths together: version 4 has only what differs from the path before.
const MAX_PATH: usize = 4 << 10;
const MAX_PATHS: usize = 64 << 20;

/// A file as git has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub mode: u32,
    pub id: ObjectId,
    /// A sparse checkout leaves it out.
    pub is_sparse: bool,
    /// It is one side of a conflict.
    is_unmerged: bool,
}

/// The files by their paths.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Index {
    pub entries: BTreeMap<PathBuf, Entry>,
    /// The tree of a commit of exactly these files, if git has noted it.
    pub tree: Option<ObjectId>,
}

/// The files of one file, in its order.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    entries: Vec<(PathBuf, Entry)>,
    tree: Option<ObjectId>,
}

/// The changes that a split index makes to a shared one.
pub struct Changes {
    /// It names the file of the shared index.
    pub base: ObjectId,
    bitmaps: Option<(ewah::Vec, ewah::Vec)>,
}

/// Reads one file, and of a split index where the rest is. None if it is not as git writes it.
pub fn parse(bytes: &[u8], hash: Kind) -> Option<(Part, Option<Changes>)> {
    let mut reader = Reader {
        rest: bytes.get(..bytes.len().checked_sub(hash.len_in_bytes())?)?,
        hash,
    };
    let signature = reader.take(4)?;
    let version = reader.number()?;
    if signature != b"DIRC" || !(2..=4).contains(&version) {
        return None;
    }
    let count = reader.number()?;
    let mut entries: Vec<(PathBuf, Entry)> = Vec::new();
    let mut path: Vec<u8> = Vec::new();
    let mut total = 0;
    for _ in 0..count {
        let entry = reader.entry(version, &mut path)?;
        total += path.len();
        if path.len() > MAX_PATH || total > MAX_PATHS {
            return None;
        }
        entries.push((PathBuf::from(OsStr::from_bytes(&path)), entry));
    }
    let mut part = Part {
        entries,
        tree: None,
    };
    let mut changes = None;
    while !reader.rest.is_empty() {
        let name = reader.take(4)?;
        let size = usize::try_from(reader.number()?).ok()?;
        let data = reader.take(size)?;
        match name {
            b"TREE" => part.tree = root_tree(data, hash),
            b"link" => changes = Some(Changes::parse(data, hash)?),
            // Without those in small letters, an index cannot be understood.
            _ if !name[0].is_ascii_uppercase() => return None,
            _ => {}
        }
    }
    // It may name no other file.
    Some((part, changes.filter(|changes| !changes.base.is_null())))
}

/// The tree of the top directory, which a `TREE` extension begins with.
fn root_tree(data: &[u8], hash: Kind) -> Option<ObjectId> {
    let line_end = data.iter().position(|byte| *byte == b'\n')?;
    let counts = std::str::from_utf8(data.get(1..line_end)?).ok()?;
    let is_valid = data[0] == 0 && !counts.starts_with('-');
    let id = data.get(line_end + 1..)?.get(..hash.len_in_bytes())?;
    is_valid.then(|| ObjectId::try_from(id).ok()).flatten()
}

impl Index {
    pub fn submodules(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        let entries = self.entries.iter();
        entries
            .filter(|(_, entry)| entry.mode == SUBMODULE)
            .map(|(path, entry)| (path.as_path(), entry))
    }
}

impl Part {
    pub fn by_path(self) -> Index {
        let merged = self.entries.into_iter();
        Index {
            entries: merged.filter(|(_, entry)| !entry.is_unmerged).collect(),
            tree: self.tree,
        }
    }
}

impl Changes {
    fn parse(data: &[u8], hash: Kind) -> Option<Self> {
        let (base, data) = data.split_at_checked(hash.len_in_bytes())?;
        let base = ObjectId::try_from(base).ok()?;
        let bitmaps = if data.is_empty() {
            None
        } else {
            let (deleted, data) = ewah::decode(data).ok()?;
            let (replaced, _) = ewah::decode(data).ok()?;
            Some((deleted, replaced))
        };
        Some(Self { base, bitmaps })
    }

    /// The whole index. None if the two do not fit.
    pub fn apply(&self, own: Part, shared: Part) -> Option<Part> {
        let mut entries: Vec<Option<(PathBuf, Entry)>> =
            shared.entries.into_iter().map(Some).collect();
        let mut own_entries = own.entries.into_iter();
        if let Some((deleted, replaced)) = &self.bitmaps {
            // The first of its own are without a path, in the order of those that they replace.
            replaced.for_each_set_bit(|at| {
                let (_, old) = entries.get_mut(at)?.as_mut()?;
                let (path, new) = own_entries.next()?;
                *old = new;
                path.as_os_str().is_empty().then_some(())
            })?;
            deleted.for_each_set_bit(|at| entries.get_mut(at)?.take().map(|_| ()))?;
        }
        Some(Part {
            entries: entries.into_iter().flatten().chain(own_entries).collect(),
            tree: own.tree,
        })
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    hash: Kind,
}

impl<'a> Reader<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(size)?;
        self.rest = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// An entry, whose path takes the place of that of the entry before.
    fn entry(&mut self, version: u32, path: &mut Vec<u8>) -> Option<Entry> {
        let start = self.rest.len();
        let fields = self.take(STAT_SIZE)?;
        let mode = u32::from_be_bytes(fields[24..28].try_into().ok()?);
        let id = ObjectId::try_from(self.take(self.hash.len_in_bytes())?).ok()?;
        let flags = self.take(2)?[0];
        let is_extended = flags & 0x40 != 0;
        let extended = if is_extended { self.take(2)?[0] } else { 0 };
        if version == 4 {
            let removed = self.offset()?;
            path.truncate(path.len().checked_sub(removed)?);
        } else {
            path.clear();
        }
        let end = self.rest.iter().position(|byte| *byte == 0)?;
        path.extend(self.take(end)?);
        self.take(1)?;
        if version < 4 {
            // Padded with zeros to a multiple of eight.
            let read = start - self.rest.len();
            self.take(read.next_multiple_of(8) - read)?;
        }
        Some(Entry {
            mode,
            id,
            is_sparse: extended & 0x40 != 0,
            is_unmerged: flags & 0x30 != 0,
        })
    }

    /// A number as git's pack format writes offsets.
    fn offset(&mut self) -> Option<usize> {
        let mut byte = self.take(1)?[0];
        let mut value = usize::from(byte & 0x7f);
        while byte & 0x80 != 0 {
            byte = self.take(1)?[0];
            value = value.checked_add(1)?.checked_mul(128)? | usize::from(byte & 0x7f);
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_git_writes_them() {
        let read = |rest| {
            let hash = Kind::Sha1;
            Reader { rest, hash }.offset()
        };
        assert_eq!(read(&[0x00]), Some(0));
        assert_eq!(read(&[0x7f, 9]), Some(127));
        assert_eq!(read(&[0x80, 0x00]), Some(128));
        assert_eq!(read(&[0x81, 0x01]), Some(257));
        assert_eq!(read(&[0x80]), None);
    }

    /// An index of version 4, each of whose paths is the one before and `suffix`.
    fn growing(suffix: &[u8], count: u32) -> Vec<u8> {
        let mut bytes = b"DIRC\0\0\0\x04".to_vec();
        bytes.extend(count.to_be_bytes());
        for _ in 0..count {
            bytes.extend([0; STAT_SIZE + 20 + 2 + 1]);
            bytes.extend(suffix);
            bytes.push(0);
        }
        bytes.extend([0; 20]);
        bytes
    }

    #[test]
    fn a_file_that_is_no_index_is_refused() {
        let is_index = |bytes: &[u8]| parse(bytes, Kind::Sha1).is_some();
        let one = growing(b"a", 1);
        assert!(is_index(&one));
        assert!(!is_index(b""));
        assert!(!is_index(&one[..one.len() - 1]));
        assert!(!is_index(&[b"DIRC\0\0\0\x09", &one[8..]].concat()));
        // It says that it has 4,294,967,295 files.
        assert!(!is_index(&[&one[..8], &[0xff; 4], &one[12..]].concat()));
        // An extension that must be understood, and is not.
        let end = one.len() - 20;
        let with = |name: &[u8]| [&one[..end], name, &[0; 4], &one[end..]].concat();
        assert!(is_index(&with(b"ABCD")));
        assert!(!is_index(&with(b"abcd")));
    }

    #[test]
    fn paths_that_grow_without_end_are_refused() {
        assert!(parse(&growing(b"0123456789", 400), Kind::Sha1).is_some());
        assert!(parse(&growing(b"0123456789", 500), Kind::Sha1).is_none());
        // Each path is short enough, but not all of them.
        let mut long = growing(&[b'a'; 4000], 1);
        long.truncate(long.len() - 20);
        long[8..12].copy_from_slice(&20_000_u32.to_be_bytes());
        for _ in 1..20_000 {
            long.extend([0; STAT_SIZE + 20 + 2 + 1 + 1]);
        }
        long.extend([0; 20]);
        assert!(parse(&long, Kind::Sha1).is_none());
    }
}
