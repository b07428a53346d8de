//! Unpacks a Nix release archive so that its programs run from any directory.
//!
//! The archive holds Nix's own closure: `nix-VERSION-SYSTEM/store/<paths>`. Its references are
//! rewritten while it is unpacked, so nothing has to be at `/nix/store`.

use crate::closure::relocate::{DirectoryTooLong, Relocation};
use liblzma::read::XzDecoder;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use tempfile::TempDir;

/// The largest file taken from an archive; the largest of Nix 2.35 has 30 MB.
const MAX_FILE_SIZE: u64 = 512 * 1024 * 1024;

/// Memory that xz may use to decode; release archives are made with level 6 or 9.
const XZ_MEMORY: u64 = 128 * 1024 * 1024;

/// Why an archive could not be unpacked.
#[derive(Debug)]
pub enum ArchiveError {
    /// The directory to unpack to has too long a name.
    DirectoryTooLong(PathBuf, DirectoryTooLong),
    /// The archive cannot be read.
    Read(io::Error),
    /// An entry of it must not be unpacked: its name and what is wrong.
    Entry(String, &'static str),
    Write(PathBuf, io::Error),
    /// None of its store paths has `bin/nix-instantiate`.
    NoNix,
}

/// A Nix that is there until this value is dropped.
#[derive(Debug)]
pub struct UnpackedNix {
    /// The directory of Nix's programs.
    pub bin: PathBuf,
    _directory: TempDir,
}

/// Unpacks `archive` into a temporary directory.
pub fn unpack_temporarily(archive: &Path) -> Result<UnpackedNix, ArchiveError> {
    let directory = tempfile::Builder::new()
        .prefix("nix-")
        .tempdir()
        .map_err(|error| ArchiveError::Write(std::env::temp_dir(), error))?;
    Ok(UnpackedNix {
        bin: unpack(archive, directory.path())?,
        _directory: directory,
    })
}

/// Unpacks `archive` below `directory` and answers the directory of Nix's programs.
pub fn unpack(archive: &Path, directory: &Path) -> Result<PathBuf, ArchiveError> {
    let relocation = Relocation::new(directory)
        .map_err(|error| ArchiveError::DirectoryTooLong(directory.to_path_buf(), error))?;
    let file = File::open(archive).map_err(ArchiveError::Read)?;
    let stream =
        liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
            .map_err(|error| ArchiveError::Read(error.into()))?;
    let mut tar = tar::Archive::new(XzDecoder::new_stream(BufReader::new(file), stream));
    let mut nix = None;
    for entry in tar.entries().map_err(ArchiveError::Read)? {
        let mut entry = entry.map_err(ArchiveError::Read)?;
        let path = entry.path().map_err(ArchiveError::Read)?.into_owned();
        let Some((basename, rest)) = store_entry(&path)? else {
            continue;
        };
        let place = relocation.place(&basename);
        if rest == Path::new("bin/nix-instantiate") {
            nix = Some(place.join("bin"));
        }
        unpack_entry(&mut entry, &path, &place.join(rest), &relocation)?;
    }
    nix.ok_or(ArchiveError::NoNix)
}

/// Splits `nix-2.35.2-x86_64-linux/store/<base name>/<rest>`; nothing for what is not in the store.
fn store_entry(path: &Path) -> Result<Option<(String, PathBuf)>, ArchiveError> {
    let refuse = |reason| ArchiveError::Entry(path.display().to_string(), reason);
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part),
            _ => return Err(refuse("its name leads out of the archive")),
        }
    }
    let [_, store, basename, rest @ ..] = parts.as_slice() else {
        return Ok(None);
    };
    if *store != OsStr::new("store") {
        return Ok(None);
    }
    let basename = basename
        .to_str()
        .filter(|name| nix_derivation::StorePath::from_basename(name.as_bytes()).is_ok())
        .ok_or_else(|| refuse("it is in `store`, but in no store path"))?;
    Ok(Some((basename.to_string(), rest.iter().collect())))
}

fn unpack_entry(
    entry: &mut tar::Entry<impl Read>,
    path: &Path,
    to: &Path,
    relocation: &Relocation,
) -> Result<(), ArchiveError> {
    let refuse = |reason| ArchiveError::Entry(path.display().to_string(), reason);
    let write_error = |error| ArchiveError::Write(to.to_path_buf(), error);
    // An earlier link of the archive in place of a parent would lead this entry elsewhere.
    let through_link = to
        .ancestors()
        .skip(1)
        .take_while(|parent| parent.starts_with(relocation.directory()))
        .any(Path::is_symlink);
    if through_link {
        return Err(refuse("it lies behind a symbolic link"));
    }
    let kind = entry.header().entry_type();
    if kind.is_dir() {
        return fs::create_dir_all(to).map_err(write_error);
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(write_error)?;
    }
    if kind.is_symlink() {
        let target = entry
            .link_name_bytes()
            .ok_or_else(|| refuse("it is a link without a target"))?;
        let target = relocation.rewrite_target(&target).into_owned();
        return symlink(OsStr::from_bytes(&target), to).map_err(write_error);
    }
    if kind.is_hard_link() {
        let target = entry
            .link_name()
            .map_err(ArchiveError::Read)?
            .unwrap_or_default();
        let Some((basename, rest)) = store_entry(&target)? else {
            return Err(refuse("it is a hard link to what is no store path"));
        };
        let target = relocation.place(&basename).join(rest);
        return fs::hard_link(target, to).map_err(write_error);
    }
    if !kind.is_file() {
        return Err(refuse("it is neither file, directory nor link"));
    }
    if entry.size() > MAX_FILE_SIZE {
        return Err(refuse("it is larger than any file of Nix"));
    }
    let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
    relocation.rewrite(&mut bytes);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(if executable { 0o555 } else { 0o444 })
        .open(to)
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(write_error)
}
