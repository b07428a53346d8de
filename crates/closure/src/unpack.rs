//! Writes a NAR to disk while it is hashed, so that nothing is read twice.
//!
//! Everything is created relative to an open directory and never through a name that an archive
//! could have made point elsewhere. Modes are Nix's own (0444, or 0555 where executable), given at
//! creation; directories stay writable so that a layer can be removed again.

use crate::content::{Content, NarContent};
use crate::relocate::findings::Findings;
use crate::relocate::references::{OVERLAP, ReferenceScanner};
use crate::relocate::scan::{FileScan, copy, is_escaping, scan_name, scan_target};
use nix_archive::nar::{self, Event, FileContents, ReadEvent, decode_events_reader};
use nix_derivation::hash::{NixHash, NixHasher};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes of a file that are written at once. Most files of a store are smaller, so they are one
/// `write`; larger gains nothing.
const BUFFER_SIZE: usize = 256 * 1024;

/// Bytes that are decoded ahead for the many small fields between files.
const FIELD_BUFFER_SIZE: usize = 32 * 1024;

/// Bytes of the longest name that a Linux file system takes (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// Bytes of the longest target that a symbolic link can have (`PATH_MAX` less its end).
const MAX_TARGET: usize = 4095;

/// Bytes of a name or target that a message shows.
const SHOWN: usize = 64;

/// What a NAR must be, as its narinfo says.
#[derive(Debug)]
pub struct Expected<'a> {
    pub hash: &'a NixHash,
    /// Bytes of the NAR, decoded.
    pub size: u64,
    /// What its store path's name was made from, where that is to be checked too.
    pub content: Option<Content<'a>>,
}

/// Why a NAR was not unpacked. What was written of it is still there.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The bytes could not be read or decoded.
    #[error("the NAR cannot be read: {0}")]
    Read(#[source] io::Error),
    /// It ended after this many bytes.
    #[error("the NAR ends after {0} bytes")]
    Truncated(u64),
    /// It goes on after the size that it should have.
    #[error("the NAR goes on after its size")]
    TooLong,
    /// It is not a NAR, or one that must not be unpacked; what is wrong with it.
    #[error("the NAR is corrupt: {0}")]
    Format(String),
    /// Its hash is this one.
    #[error("the NAR has the hash {0:?}")]
    WrongHash(NixHash),
    /// Its content does not have this hash, which its store path's name was made from.
    #[error("the content does not have the hash {0}")]
    WrongContent(String),
    /// A file or directory could not be written.
    #[error("{path} cannot be written: {1}", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// Memory of one thread that unpacks, used again for each NAR.
pub struct Unpacker {
    file_buffer: Vec<u8>,
    field_buffer: Vec<u8>,
    only: fn(&Path) -> bool,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self::with_buffers(BUFFER_SIZE, FIELD_BUFFER_SIZE)
    }
}

impl Unpacker {
    /// One with buffers of other sizes, in bytes: for files, and for what is between them. With small
    /// ones a small archive goes all the ways that a large one goes.
    pub fn with_buffers(file: usize, fields: usize) -> Self {
        Self {
            // With room for what is held back, so that writes begin where pages do.
            file_buffer: vec![0; file.max(1) + OVERLAP],
            field_buffer: vec![0; fields.max(1)],
            only: |_| true,
        }
    }

    /// Leaves out files and directories for whose path in the store path `only` returns false. They are
    /// hashed all the same.
    #[must_use]
    pub fn only(self, only: fn(&Path) -> bool) -> Self {
        Self { only, ..self }
    }

    /// Unpacks `nar` as `destination`, which must not exist, and checks its size and hash.
    ///
    /// Where `references` are given they are looked for, and rewritten if they move; the hash is
    /// that of the bytes as they came. Returns what was found.
    pub fn unpack(
        &mut self,
        nar: &mut dyn Read,
        expected: &Expected,
        destination: &Path,
        references: Option<&ReferenceScanner>,
    ) -> Result<Findings, UnpackError> {
        let mut reader = HashedReader {
            inner: nar,
            hashes: Hashes {
                nar: NixHasher::new(expected.hash.algorithm()),
                content: expected.content.as_ref().and_then(Content::of_nar),
            },
            left: expected.size,
            too_long: false,
            buffer: &mut self.field_buffer,
            start: 0,
            end: 0,
        };
        let mut writer = TreeWriter {
            destination,
            directories: Vec::new(),
            only: self.only,
            left_out: 0,
            buffer: &mut self.file_buffer,
            failed: None,
            references,
            content: expected.content.as_ref().and_then(Content::of_file),
            findings: Findings::default(),
        };
        let decoded = decode_events_reader(&mut reader, |event| writer.write(event));
        if let Some((path, error)) = writer.failed {
            return Err(UnpackError::Write(path, error));
        }
        if reader.too_long {
            return Err(UnpackError::TooLong);
        }
        match decoded {
            Ok(()) => {}
            Err(nar::Error::UnexpectedEof) => {
                return Err(UnpackError::Truncated(expected.size - reader.left));
            }
            Err(nar::Error::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(UnpackError::Truncated(expected.size - reader.left));
            }
            Err(nar::Error::Io(error)) => return Err(UnpackError::Read(error)),
            Err(error) => return Err(UnpackError::Format(error.to_string())),
        }
        if reader.left > 0 {
            return Err(UnpackError::Truncated(expected.size - reader.left));
        }
        let hash = reader.hashes.nar.finalize();
        if hash != *expected.hash {
            return Err(UnpackError::WrongHash(hash));
        }
        if let Some(content) = &expected.content {
            let of_nar = reader.hashes.content.map(NarContent::finalize);
            let of_file = writer.content.map(NixHasher::finalize);
            let found = of_nar.unwrap_or_else(|| of_file.into_iter().collect());
            if !content.is(&found) {
                return Err(UnpackError::WrongContent(content.expected()));
            }
        }
        Ok(writer.findings)
    }
}

/// Hashes what is read, and ends at the size that was promised.
///
/// Large reads are decoded straight into the caller's buffer; the many small ones of a NAR's
/// framing are served from a buffer of their own.
struct HashedReader<'a> {
    inner: &'a mut dyn Read,
    hashes: Hashes,
    /// Bytes that may still come.
    left: u64,
    too_long: bool,
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
}

/// What is made of all bytes of a NAR.
struct Hashes {
    nar: NixHasher,
    content: Option<NarContent>,
}

impl Hashes {
    fn update(&mut self, bytes: &[u8]) {
        self.nar.update(bytes);
        if let Some(content) = &mut self.content {
            content.update(bytes);
        }
    }
}

impl HashedReader<'_> {
    fn account(&mut self, count: usize) -> io::Result<()> {
        if count as u64 > self.left {
            self.too_long = true;
            return Err(io::Error::other("longer than promised"));
        }
        self.left -= count as u64;
        Ok(())
    }
}

impl Read for HashedReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end {
            if into.len() >= self.buffer.len() {
                let count = self.inner.read(into)?;
                self.account(count)?;
                self.hashes.update(&into[..count]);
                return Ok(count);
            }
            let count = self.inner.read(self.buffer)?;
            self.account(count)?;
            self.hashes.update(&self.buffer[..count]);
            (self.start, self.end) = (0, count);
        }
        let count = into.len().min(self.end - self.start);
        into[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }
}

/// Creates what a NAR describes, below one directory.
struct TreeWriter<'a> {
    destination: &'a Path,
    /// The directories from the archive's root to the one being filled, by name for messages.
    directories: Vec<(OwnedFd, Vec<u8>)>,
    only: fn(&Path) -> bool,
    /// How many directories there are from the first that is left out to the one being read.
    left_out: usize,
    buffer: &'a mut [u8],
    /// The first thing that could not be written.
    failed: Option<(PathBuf, io::Error)>,
    references: Option<&'a ReferenceScanner>,
    /// Hashes the one file of an archive that is to be no more than that.
    content: Option<NixHasher>,
    findings: Findings,
}

impl TreeWriter<'_> {
    fn write<R: Read>(&mut self, event: ReadEvent<'_, R>) -> Result<(), nar::Error> {
        check(&event)?;
        if !matches!(
            event,
            Event::Regular {
                name: None,
                executable: false,
                ..
            }
        ) {
            self.content = None;
        }
        if self.leaves_out(&event) {
            if let Event::Regular { mut contents, .. } = event {
                contents.copy_to(&mut io::sink())?;
            }
            return Ok(());
        }
        match event {
            Event::DirectoryStart { name } => {
                self.look_at_name(name);
                let created = self.place(name, |parent, name| {
                    mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                    let flags =
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    Ok(openat(parent, name, flags, Mode::empty())?)
                })?;
                self.directories
                    .push((created, name.unwrap_or_default().to_vec()));
                Ok(())
            }
            Event::DirectoryEnd { .. } => {
                self.directories.pop();
                Ok(())
            }
            Event::Symlink { name, target } => {
                let mut target = target.to_vec();
                self.look_at_name(name);
                self.findings.has_escaping_links |= is_escaping(&target, self.directories.len());
                self.look_at_target(name, &mut target);
                self.place(name, |parent, name| {
                    Ok(symlinkat(OsStr::from_bytes(&target), parent, name)?)
                })
            }
            Event::Regular {
                name,
                executable,
                contents,
            } => {
                let mode = Mode::from_raw_mode(if executable { 0o555 } else { 0o444 });
                let file = self.place(name, |parent, name| {
                    let flags = OFlags::WRONLY
                        | OFlags::CREATE
                        | OFlags::EXCL
                        | OFlags::NOFOLLOW
                        | OFlags::CLOEXEC;
                    Ok(openat(parent, name, flags, mode)?)
                })?;
                self.look_at_name(name);
                self.copy(name, contents, &mut File::from(file))
            }
        }
    }

    /// Whether nothing is written of an entry.
    fn leaves_out<R: Read>(&mut self, event: &ReadEvent<'_, R>) -> bool {
        let depth = self.left_out;
        match event {
            Event::DirectoryStart { .. } if depth > 0 => self.left_out += 1,
            Event::DirectoryEnd { .. } => self.left_out = depth.saturating_sub(1),
            Event::DirectoryStart { name: Some(name) }
            | Event::Symlink {
                name: Some(name), ..
            }
            | Event::Regular {
                name: Some(name), ..
            } if depth == 0 && !(self.only)(&self.relative(Some(name))) => {
                self.left_out = usize::from(matches!(event, Event::DirectoryStart { .. }));
                return true;
            }
            _ => {}
        }
        depth > 0
    }

    fn copy<R: Read>(
        &mut self,
        name: Option<&[u8]>,
        mut contents: FileContents<'_, R>,
        file: &mut File,
    ) -> Result<(), nar::Error> {
        let name_of_file = name.unwrap_or_default();
        let mut scan = self
            .references
            .map(|references| FileScan::new(references, name_of_file));
        let mut failed = None;
        let content = &mut self.content;
        let copied = copy(
            contents.size(),
            self.buffer,
            scan.as_mut(),
            |piece| {
                contents.read_exact(piece)?;
                if let Some(content) = content {
                    content.update(piece);
                }
                Ok(())
            },
            |piece| {
                file.write_all(piece).map_err(|error| {
                    let kind = error.kind();
                    failed = Some(error);
                    nar::Error::Io(kind.into())
                })
            },
        );
        if let Some(error) = failed {
            return Err(self.fail(name, error));
        }
        copied?;
        if let Some(scan) = scan {
            let path = self.relative(name);
            scan.note(path, &mut self.findings);
        }
        Ok(())
    }

    fn look_at_name(&mut self, name: Option<&[u8]>) {
        if let (Some(references), Some(name)) = (self.references, name) {
            let path = || relative(&self.directories, Some(name));
            scan_name(name, references, &mut self.findings, path);
        }
    }

    fn look_at_target(&mut self, name: Option<&[u8]>, target: &mut [u8]) {
        if let Some(references) = self.references {
            let path = || relative(&self.directories, name);
            scan_target(target, references, &mut self.findings, path);
        }
    }

    fn relative(&self, name: Option<&[u8]>) -> PathBuf {
        relative(&self.directories, name)
    }

    /// Creates something called `name` in the directory being filled; the root of the archive is
    /// the destination itself.
    fn place<T>(
        &mut self,
        name: Option<&[u8]>,
        create: impl FnOnce(BorrowedFd<'_>, &OsStr) -> io::Result<T>,
    ) -> Result<T, nar::Error> {
        let created = match (name, self.directories.last()) {
            (Some(name), Some((parent, _))) => create(parent.as_fd(), OsStr::from_bytes(name)),
            _ => create(CWD, self.destination.as_os_str()),
        };
        created.map_err(|error| self.fail(name, error))
    }

    fn fail(&mut self, name: Option<&[u8]>, error: io::Error) -> nar::Error {
        let path = match self.relative(name) {
            path if path.as_os_str().is_empty() => self.destination.to_path_buf(),
            path => self.destination.join(path),
        };
        let kind = error.kind();
        self.failed = Some((path, error));
        nar::Error::Io(kind.into())
    }
}

/// The path in the store path of what is called `name` in the last of `directories`; empty where the
/// store path is one file.
fn relative(directories: &[(OwnedFd, Vec<u8>)], name: Option<&[u8]>) -> PathBuf {
    let directories = directories.iter().skip(1).map(|(_, name)| name.as_slice());
    directories.chain(name).map(OsStr::from_bytes).collect()
}

/// Refuses what no Linux file system takes: the fault is the archive's, not the disk's.
fn check<R: Read>(event: &ReadEvent<'_, R>) -> Result<(), nar::Error> {
    let shown = |bytes: &[u8]| {
        let beginning = &bytes[..bytes.len().min(SHOWN)];
        format!("{}…", String::from_utf8_lossy(beginning))
    };
    let (Event::DirectoryStart { name }
    | Event::DirectoryEnd { name }
    | Event::Symlink { name, .. }
    | Event::Regular { name, .. }) = event;
    if let Some(name) = name.filter(|name| name.len() > MAX_NAME) {
        return Err(nar::Error::InvalidName(shown(name)));
    }
    match event {
        Event::Symlink { target, .. }
            if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) =>
        {
            Err(nar::Error::UnexpectedToken {
                expected: "a link's target of 1 to 4095 bytes other than NUL",
                got: shown(target),
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix_derivation::{CAHash, StorePath};
    use sha2::{Digest, Sha256};
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    /// The NAR of one program.
    fn nar() -> Vec<u8> {
        let mut nar = Vec::new();
        for token in [
            "nix-archive-1",
            "(",
            "type",
            "regular",
            "executable",
            "",
            "contents",
            "x",
            ")",
        ] {
            nar.extend((token.len() as u64).to_le_bytes());
            nar.extend_from_slice(token.as_bytes());
            nar.resize(nar.len().next_multiple_of(8), 0);
        }
        nar
    }

    fn sha256(bytes: &[u8]) -> NixHash {
        NixHash::Sha256(Sha256::digest(bytes).into())
    }

    /// Unpacks [`nar`] where it should have this hash, size and content; the mode of what was written.
    fn unpacked(hash: &NixHash, size: u64, address: Option<&CAHash>) -> Result<u32, UnpackError> {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("x");
        let path: StorePath = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-x"
            .parse()
            .unwrap();
        let content = address.map(|address| Content::new(address, &path, &BTreeSet::new()));
        let expected = Expected {
            hash,
            size,
            content,
        };
        Unpacker::default().unpack(&mut &nar()[..], &expected, &place, None)?;
        Ok(place.metadata().unwrap().permissions().mode() & 0o777)
    }

    #[test]
    fn a_nar_is_taken_only_with_its_hash_its_size_and_its_content() {
        let (right, wrong) = (sha256(&nar()), sha256(b"other"));
        let size = nar().len() as u64;
        assert_eq!(unpacked(&right, size, None).unwrap(), 0o555);
        let address = CAHash::Nar(right.clone());
        assert_eq!(unpacked(&right, size, Some(&address)).unwrap(), 0o555);
        let other = CAHash::Nar(wrong.clone());
        for (error, expected) in [
            (unpacked(&wrong, size, None), "hash"),
            (unpacked(&right, size - 1, None), "goes on after its size"),
            (unpacked(&right, size + 1, None), "ends after"),
            (
                unpacked(&right, size, Some(&other)),
                "content does not have",
            ),
        ] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_is_left_out_is_not_written_and_counts_for_the_hash() {
        let tree = tempfile::tempdir().unwrap();
        for name in ["bin/x", "share/man/y", "share/z"] {
            let file = tree.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, name).unwrap();
        }
        std::os::unix::fs::symlink("bin/x", tree.path().join("link")).unwrap();
        let mut nar = Vec::new();
        nar::encode_path(&mut nar, tree.path(), nar::CaseHack::Disabled).unwrap();
        let to = tempfile::tempdir().unwrap();
        let place = to.path().join("x");
        let unpack = |hash: &NixHash| {
            let expected = Expected {
                hash,
                size: nar.len() as u64,
                content: None,
            };
            let only = |path: &Path| !path.starts_with("share");
            Unpacker::default()
                .only(only)
                .unpack(&mut &nar[..], &expected, &place, None)
        };
        unpack(&sha256(&nar)).unwrap();
        assert!(place.join("bin/x").is_file() && place.join("link").is_symlink());
        assert!(!place.join("share").exists());
        std::fs::remove_dir_all(&place).unwrap();
        assert!(unpack(&sha256(b"other")).is_err());
    }

    #[test]
    fn a_name_that_is_there_already_is_neither_followed_nor_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        std::fs::write(&outside, "before").unwrap();
        let hash = sha256(&nar());
        for is_link in [false, true] {
            let place = directory.path().join(if is_link { "link" } else { "file" });
            if is_link {
                std::os::unix::fs::symlink(&outside, &place).unwrap();
            } else {
                std::fs::write(&place, "before").unwrap();
            }
            let expected = Expected {
                hash: &hash,
                size: nar().len() as u64,
                content: None,
            };
            let unpacked = Unpacker::default().unpack(&mut &nar()[..], &expected, &place, None);
            assert!(matches!(unpacked, Err(UnpackError::Write(..))));
            assert_eq!(std::fs::read(&place).unwrap(), b"before");
        }
    }
}
