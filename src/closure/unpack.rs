//! Writes a NAR to disk while it is hashed, so that nothing is read twice.
//!
//! Everything is created relative to an open directory and never through a name that an archive
//! could have made point elsewhere. Modes are Nix's own (0444, or 0555 where executable), given at
//! creation; directories stay writable so that a layer can be removed again.

use super::packed::Packing;
use super::references::{OVERLAP, References, Sight};
use super::survey::{Met, is_checksum_file};
use nix_archive::nar::{self, Event, FileContents, ReadEvent, decode_events_reader};
use nix_derivation::hash::{NixHash, NixHasher};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use std::collections::BTreeSet;
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
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    pub hash: &'a NixHash,
    /// Bytes of the NAR, decoded.
    pub size: u64,
}

/// Why a NAR was not unpacked. What was written of it is still there.
#[derive(Debug)]
pub enum UnpackError {
    /// The bytes could not be read or decoded.
    Read(io::Error),
    /// It ended after this many bytes.
    Truncated(u64),
    /// It goes on after the size that it should have.
    TooLong,
    /// It is not a NAR, or one that must not be unpacked; what is wrong with it.
    Format(String),
    /// Its hash is this one.
    WrongHash(NixHash),
    /// A file or directory could not be written.
    Write(PathBuf, io::Error),
}

/// Memory of one thread that unpacks, used again for each NAR.
pub struct Unpacker {
    file_buffer: Vec<u8>,
    field_buffer: Vec<u8>,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self::with_buffers(BUFFER_SIZE, FIELD_BUFFER_SIZE)
    }
}

impl Unpacker {
    /// One with buffers of other sizes, in bytes: for files, and for what is between them. With small
    /// ones a small archive goes all the ways that a large one goes.
    #[must_use]
    pub fn with_buffers(file: usize, fields: usize) -> Self {
        Self {
            // With room for what is held back, so that writes begin where pages do.
            file_buffer: vec![0; file.max(1) + OVERLAP],
            field_buffer: vec![0; fields.max(1)],
        }
    }

    /// Unpacks `nar` as `destination`, which must not exist, and checks its size and hash.
    ///
    /// Where `references` are given they are looked for, and rewritten if they move; the hash is
    /// that of the bytes as they came. Answers what was met.
    pub fn unpack(
        &mut self,
        nar: &mut dyn Read,
        expected: &Expected,
        destination: &Path,
        references: Option<&References>,
    ) -> Result<Met, UnpackError> {
        let mut reader = HashedReader {
            inner: nar,
            hasher: NixHasher::new(expected.hash.algorithm()),
            left: expected.size,
            too_long: false,
            buffer: &mut self.field_buffer,
            start: 0,
            end: 0,
        };
        let mut writer = TreeWriter {
            destination,
            directories: Vec::new(),
            buffer: &mut self.file_buffer,
            failed: None,
            references,
            met: Met::default(),
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
        let hash = reader.hasher.finalize();
        if hash == *expected.hash {
            Ok(writer.met)
        } else {
            Err(UnpackError::WrongHash(hash))
        }
    }
}

/// Hashes what is read, and ends at the size that was promised.
///
/// Large reads are decoded straight into the caller's buffer; the many small ones of a NAR's
/// framing are served from a buffer of their own.
struct HashedReader<'a> {
    inner: &'a mut dyn Read,
    hasher: NixHasher,
    /// Bytes that may still come.
    left: u64,
    too_long: bool,
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
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
                self.hasher.update(&into[..count]);
                return Ok(count);
            }
            let count = self.inner.read(self.buffer)?;
            self.account(count)?;
            self.hasher.update(&self.buffer[..count]);
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
    buffer: &'a mut [u8],
    /// The first thing that could not be written.
    failed: Option<(PathBuf, io::Error)>,
    references: Option<&'a References>,
    met: Met,
}

impl TreeWriter<'_> {
    fn write<R: Read>(&mut self, event: ReadEvent<'_, R>) -> Result<(), nar::Error> {
        check(&event)?;
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
                self.met.leaves |= leads_out(&target, self.directories.len());
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

    fn copy<R: Read>(
        &mut self,
        name: Option<&[u8]>,
        mut contents: FileContents<'_, R>,
        file: &mut File,
    ) -> Result<(), nar::Error> {
        let mut left = contents.size();
        let mut look = self.references.map(Look::new);
        // Bytes at the buffer's beginning that are only written with the next ones: they may be the
        // beginning of a reference.
        let mut held = 0;
        let size = self.buffer.len() - if look.is_some() { 0 } else { OVERLAP };
        while left > 0 {
            let room = size - held;
            let wanted = usize::try_from(left).map_or(room, |left| left.min(room));
            let end = held + wanted;
            contents.read_exact(&mut self.buffer[held..end])?;
            left -= wanted as u64;
            let kept = look.as_mut().map_or(0, |look| {
                look.through(&mut self.buffer[..end], held, left == 0)
            });
            if let Err(error) = file.write_all(&self.buffer[..end - kept]) {
                return Err(self.fail(name, error));
            }
            self.buffer.copy_within(end - kept..end, 0);
            held = kept;
        }
        if let Some(look) = look {
            let path = self.relative(name);
            look.note(path, &mut self.met);
        }
        Ok(())
    }

    /// A hash in a name is a reference to Nix, but one that does not move.
    fn look_at_name(&mut self, name: Option<&[u8]>) {
        let (Some(references), Some(name)) = (self.references, name) else {
            return;
        };
        let mut sight = Sight::default();
        references.rewrite(&mut name.to_vec(), 0, &mut sight);
        if !sight.hashes.is_empty() {
            let path = self.relative(Some(name));
            self.met.bare.insert(path);
            self.met.hashes.extend(sight.hashes);
        }
    }

    fn look_at_target(&mut self, name: Option<&[u8]>, target: &mut [u8]) {
        let Some(references) = self.references else {
            return;
        };
        let mut sight = Sight::default();
        references.rewrite(target, 0, &mut sight);
        if sight.bare {
            let path = self.relative(name);
            self.met.bare.insert(path);
        }
        self.met.links += usize::from(sight.references > 0);
        self.met.references += sight.references;
        self.met.hashes.extend(sight.hashes);
    }

    /// The path of `name` in the store path; empty where the store path is one file.
    fn relative(&self, name: Option<&[u8]>) -> PathBuf {
        let directories = self
            .directories
            .iter()
            .skip(1)
            .map(|(_, name)| name.as_slice());
        directories.chain(name).map(OsStr::from_bytes).collect()
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

/// Whether the relative target of a link leads out of the store path, from a directory that is so
/// many levels in it: one at its top, none where the link is all of it.
fn leads_out(target: &[u8], level: usize) -> bool {
    if target.starts_with(b"/") {
        return false;
    }
    let mut level = level;
    let mut parts = target.split(|byte| *byte == b'/');
    level == 0
        || parts.any(|part| {
            match part {
                b".." => level -= 1,
                b"" | b"." => {}
                _ => level += 1,
            }
            level == 0
        })
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

/// Looks for references in one file while it is written.
struct Look<'a> {
    references: &'a References,
    sight: Sight,
    /// Whether the first piece is still to come.
    first: bool,
    /// How the whole file is packed.
    packing: Option<Packing>,
    /// Whether it ends with a zip.
    appended: bool,
}

impl<'a> Look<'a> {
    fn new(references: &'a References) -> Self {
        Self {
            references,
            sight: Sight::default(),
            first: true,
            packing: None,
            appended: false,
        }
    }

    /// Looks through a piece, of which all from `fresh` on is new, and answers how many bytes of
    /// its end must be seen again with the next one.
    fn through(&mut self, bytes: &mut [u8], fresh: usize, is_last: bool) -> usize {
        if self.first {
            self.packing = Packing::of_beginning(bytes);
            self.first = false;
        }
        if self.packing.is_some() {
            // Rewritten as they are, the bytes would no longer fit the checksums among them.
            self.references.look(bytes, fresh, &mut self.sight);
        } else {
            self.references.rewrite(bytes, fresh, &mut self.sight);
            self.appended = is_last && Packing::is_zip_end(bytes);
        }
        if is_last { 0 } else { bytes.len().min(OVERLAP) }
    }

    fn note(self, path: PathBuf, met: &mut Met) {
        let Sight {
            references,
            bare,
            wide,
            hashes,
        } = self.sight;
        if path
            .file_name()
            .is_some_and(|name| is_checksum_file(name.as_bytes()))
        {
            met.checksums.push(path.clone());
        }
        met.hashes.extend(&hashes);
        if let Some(packing) = self.packing {
            met.packed.push((path, packing, hashes));
            return;
        }
        if self.appended {
            let zip = (path.clone(), Packing::Zip, BTreeSet::new());
            met.packed.push(zip);
        }
        if bare {
            met.bare.insert(path.clone());
        }
        if wide {
            met.wide.insert(path.clone());
        }
        if references > 0 {
            met.rewritten.insert(path);
        }
        met.references += references;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_out_where_it_climbs_above_its_store_path() {
        for (target, level, out) in [
            ("/nix/store/other/lib", 1, false),
            ("lib", 1, false),
            ("../other", 1, true),
            ("../lib/./x", 2, false),
            ("../..//other/lib", 2, true),
            ("a/../../other", 1, true),
            ("other", 0, true),
        ] {
            assert_eq!(leads_out(target.as_bytes(), level), out, "{target}");
        }
    }
}
