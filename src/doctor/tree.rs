//! A source tree's files, as far as it matters to tell two of them apart, and how two differ.

use app_dir::git::paths_of_submodules;
use nix_archive::nar::{self, Event, decode_events_reader};
use nix_derivation::{HashAlgorithm, NixHash, NixHasher};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

/// Files up to this size are looked into.
const MAX_LOOKED_INTO: u64 = 16 * 1024 * 1024;

/// What Git LFS leaves in place of a file. Specification: git-lfs's `docs/spec.md`.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// By path, with `/` between names; the root's is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    pub files: BTreeMap<String, File>,
    /// The directories that are empty, with a `/` at their ends: git has them in place of submodules.
    pub empty: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    Link(String),
    Regular(Regular),
}

/// A regular file, and what its content looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regular {
    executable: bool,
    hash: NixHash,
    /// The hash of the content with every CRLF made LF, where there is one.
    without_crlf: Option<NixHash>,
    is_lfs_pointer: bool,
    /// It has placeholders that `git archive` fills in (`export-subst`).
    has_placeholders: bool,
    /// The whole, of the files that tell how git treats others.
    content: Option<String>,
}

/// How two files of the same path differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The executable bit; whether it is set here.
    Executable(bool),
    /// CRLF or LF; whether it is CRLF here.
    LineEndings(bool),
    /// A pointer of Git LFS; whether it is one here.
    Lfs(bool),
    /// Placeholders of `export-subst`; whether they are filled in here.
    Substituted(bool),
    /// A link on one side, a file on the other; whether it is a link here.
    Link(bool),
    Content,
}

/// How one tree differs from another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TreeDifference {
    pub only_here: Vec<String>,
    pub only_there: Vec<String>,
    pub changed: Vec<(String, Change)>,
}

impl Tree {
    /// Reads a NAR.
    pub fn of_nar(nar: &mut dyn Read) -> Result<Self, nar::Error> {
        let mut tree = Self::default();
        let mut directories: Vec<String> = Vec::new();
        let mut is_empty = false;
        decode_events_reader(nar, |event| {
            let name = |name: Option<&[u8]>| {
                let directory = directories.last().map_or("", String::as_str);
                joined(
                    directory,
                    &String::from_utf8_lossy(name.unwrap_or_default()),
                )
            };
            // What ends right after it began has nothing in it.
            let was_start =
                std::mem::replace(&mut is_empty, matches!(event, Event::DirectoryStart { .. }));
            match event {
                Event::DirectoryStart { name: own } => {
                    let name = name(own);
                    directories.push(name);
                }
                Event::DirectoryEnd { .. } => {
                    let directory = directories.pop().unwrap_or_default();
                    if was_start && !directory.is_empty() {
                        tree.empty.insert(format!("{directory}/"));
                    }
                }
                Event::Symlink { name: own, target } => {
                    let target = String::from_utf8_lossy(target).into_owned();
                    tree.files.insert(name(own), File::Link(target));
                }
                Event::Regular {
                    name: own,
                    executable,
                    mut contents,
                } => {
                    let name = name(own);
                    let mut sink = FileSink::new(contents.size());
                    contents.copy_to(&mut sink)?;
                    let file = sink.finish(&name, executable);
                    tree.files.insert(name, file);
                }
            }
            Ok(())
        })?;
        Ok(tree)
    }

    /// The whole of `.gitmodules` or `.gitattributes`.
    fn content(&self, name: &str) -> &str {
        match self.files.get(name) {
            Some(File::Regular(file)) => file.content.as_deref().unwrap_or_default(),
            _ => "",
        }
    }

    /// The directories of git submodules that it should have.
    pub fn submodules(&self) -> Vec<String> {
        let paths = paths_of_submodules(self.content(".gitmodules"));
        paths.map(str::to_string).collect()
    }

    /// Those submodules of which it has nothing.
    pub fn missing_submodules(&self) -> Vec<String> {
        let mut submodules = self.submodules();
        submodules.retain(|path| !self.has_files_in(&format!("{path}/")));
        submodules
    }

    /// Submodules, and those of submodules, that are empty here, but not in `other`.
    pub fn submodules_empty_beside(&self, other: &Self) -> Vec<String> {
        let directories = self.empty.iter().filter(|path| other.has_files_in(path));
        let directories = directories.map(|path| path.trim_end_matches('/').to_string());
        let gitmodules = other.files.keys().filter_map(|name| {
            let root = name.strip_suffix(".gitmodules")?;
            (root.is_empty() || root.ends_with('/')).then_some((root, name))
        });
        let submodules: Vec<String> = gitmodules
            .flat_map(|(root, name)| {
                let paths = paths_of_submodules(other.content(name));
                paths.map(move |path| format!("{root}{path}"))
            })
            .collect();
        directories
            .filter(|path| submodules.contains(path))
            .collect()
    }

    fn has_files_in(&self, directory: &str) -> bool {
        let mut files = self.files.keys();
        files.any(|name| name.starts_with(directory))
    }

    /// Files that Git LFS would replace.
    pub fn lfs_pointers(&self) -> Vec<String> {
        let is_pointer = |file: &File| matches!(file, File::Regular(file) if file.is_lfs_pointer);
        let files = self.files.iter().filter(|(_, file)| is_pointer(file));
        files.map(|(name, _)| name.clone()).collect()
    }

    /// How this tree differs from `other`.
    pub fn difference(&self, other: &Self) -> TreeDifference {
        let only = |one: &Self, other: &Self| {
            let names = one.files.keys();
            let files = names.filter(|name| !other.files.contains_key(*name));
            // What has files on the other side is told by those.
            let empty = one.empty.difference(&other.empty);
            let empty = empty.filter(|path| !other.has_files_in(path));
            files.chain(empty).cloned().collect()
        };
        TreeDifference {
            only_here: only(self, other),
            only_there: only(other, self),
            changed: self
                .files
                .iter()
                .filter_map(|(name, file)| Some((name, file.change(other.files.get(name)?)?)))
                .map(|(name, change)| (name.clone(), change))
                .collect(),
        }
    }
}

impl TreeDifference {
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub fn count(&self) -> usize {
        self.only_here.len() + self.only_there.len() + self.changed.len()
    }

    /// The paths of all files and empty directories that differ.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.only_here.iter().chain(&self.only_there);
        names
            .map(String::as_str)
            .chain(self.changed.iter().map(|(name, _)| name.as_str()))
    }
}

/// Takes a file's content, and keeps it only as long as it is to be looked into.
struct FileSink {
    hasher: NixHasher,
    content: Option<Vec<u8>>,
}

impl FileSink {
    fn new(size: u64) -> Self {
        Self {
            hasher: NixHasher::new(HashAlgorithm::Sha256),
            content: (size <= MAX_LOOKED_INTO).then(Vec::new),
        }
    }

    fn finish(self, name: &str, executable: bool) -> File {
        let bytes = self.content.as_deref().unwrap_or_default();
        let file_name = name.rsplit('/').next().unwrap_or_default();
        let is_told = matches!(file_name, ".gitmodules" | ".gitattributes");
        File::Regular(Regular {
            executable,
            hash: self.hasher.finalize(),
            without_crlf: without_crlf(bytes),
            is_lfs_pointer: bytes.starts_with(LFS_POINTER),
            has_placeholders: memchr::memmem::find(bytes, b"$Format:").is_some(),
            content: is_told.then(|| String::from_utf8_lossy(bytes).into_owned()),
        })
    }
}

impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        if let Some(content) = &mut self.content {
            content.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl File {
    fn change(&self, other: &Self) -> Option<Change> {
        match (self, other) {
            (Self::Link(here), Self::Link(there)) => (here != there).then_some(Change::Content),
            (Self::Link(_), Self::Regular(_)) => Some(Change::Link(true)),
            (Self::Regular(_), Self::Link(_)) => Some(Change::Link(false)),
            (Self::Regular(here), Self::Regular(there)) => here.change(there),
        }
    }
}

impl Regular {
    fn change(&self, other: &Self) -> Option<Change> {
        let lf = |file: &Self| file.without_crlf.clone().unwrap_or(file.hash.clone());
        if self.hash == other.hash {
            let differs = self.executable != other.executable;
            differs.then_some(Change::Executable(self.executable))
        } else if lf(self) == lf(other) {
            Some(Change::LineEndings(self.without_crlf.is_some()))
        } else if self.is_lfs_pointer != other.is_lfs_pointer {
            Some(Change::Lfs(self.is_lfs_pointer))
        } else if self.has_placeholders != other.has_placeholders {
            Some(Change::Substituted(!self.has_placeholders))
        } else {
            Some(Change::Content)
        }
    }
}

fn joined(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.to_string()
    } else {
        format!("{directory}/{name}")
    }
}

fn without_crlf(bytes: &[u8]) -> Option<NixHash> {
    memchr::memmem::find(bytes, b"\r\n")?;
    let mut hasher = NixHasher::new(HashAlgorithm::Sha256);
    let mut rest = bytes;
    while let Some(at) = memchr::memmem::find(rest, b"\r\n") {
        hasher.update(&rest[..at]);
        rest = &rest[at + 1..];
    }
    hasher.update(rest);
    Some(hasher.finalize())
}
