//! Unpacks a Nix release archive so that its programs run from any directory.
//!
//! The archive holds Nix's own closure: `nix-VERSION-SYSTEM/store/<paths>`. Its references are
//! rewritten while it is unpacked, so nothing has to be at `/nix/store`.

use closure::relocate::relocation::{DirectoryTooLong, Relocation};
use closure::unpack::UnpackError;
use liblzma::bufread::XzDecoder;
use nix_derivation::StorePath;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// The largest file taken from an archive; the largest of Nix 2.35 has 30 MB.
const MAX_FILE_SIZE: u64 = 512 * 1024 * 1024;

/// Bytes of a whole release, unpacked, with what follows its last entry; that of Nix 2.34 has 60 MB.
/// The tar reader keeps long names in memory, so this also bounds those.
const MAX_RELEASE_SIZE: u64 = 2 * 1024 * 1024 * 1024;

/// Memory that xz may use to decode; release archives are made with level 6 or 9.
const XZ_MEMORY: u64 = 128 * 1024 * 1024;

/// The largest window that zstd may use to decode: 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;

/// What a zstd file begins with (RFC 8878, 3.1.1).
const ZSTD_MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the archive cannot be read: {0}")]
    Read(#[source] io::Error),
    /// An entry of it must not be unpacked: its name and what is wrong.
    #[error("`{0}` in the archive: {1}")]
    Entry(String, &'static str),
    #[error("{path} cannot be written: {1}", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// None of its store paths has `bin/nix-instantiate`.
    #[error("the archive has no `bin/nix-instantiate`")]
    NoNix,
    /// What is kept of this path is not what was signed.
    #[error("{0} is not as it was kept: {1}")]
    Kept(StorePath, #[source] UnpackError),
}

/// Where the store paths of an archive go.
#[derive(Debug, Clone)]
pub enum Target {
    /// To another directory than `/nix/store`, with every reference rewritten.
    Relocated(Relocation),
    /// To this store directory as they are, for an engine that shows it at `/nix/store`.
    Plain(PathBuf),
}

impl Target {
    /// A relocation to `directory`, where its name is short enough.
    pub fn relocated(directory: &Path) -> Result<Self, DirectoryTooLong> {
        Relocation::new(directory).map(Self::Relocated)
    }

    fn directory(&self) -> &Path {
        match self {
            Self::Relocated(relocation) => relocation.directory(),
            Self::Plain(store) => store,
        }
    }

    /// Where the store path with this base name goes.
    pub(crate) fn place(&self, basename: &str) -> PathBuf {
        match self {
            Self::Relocated(relocation) => relocation.place(basename),
            Self::Plain(store) => store.join(basename),
        }
    }
}

/// Unpacks what Nix loads of the release `archive`, and returns the directory of its programs.
///
/// It is packed with xz, as releases are, or with zstd, which takes a tenth of the time.
pub fn unpack_release(archive: &Path, target: &Target) -> Result<PathBuf, ArchiveError> {
    let file = File::open(archive).map_err(ArchiveError::Read)?;
    let mut file = BufReader::new(file);
    let head = file.fill_buf().map_err(ArchiveError::Read)?;
    let reader: Box<dyn Read> = if head.starts_with(ZSTD_MAGIC) {
        let mut decoder = zstd::Decoder::with_buffer(file).map_err(ArchiveError::Read)?;
        decoder
            .window_log_max(ZSTD_WINDOW_LOG)
            .map_err(ArchiveError::Read)?;
        Box::new(decoder)
    } else {
        let stream =
            liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
                .map_err(|error| ArchiveError::Read(error.into()))?;
        Box::new(XzDecoder::new_stream(file, stream))
    };
    let left = MAX_RELEASE_SIZE;
    unpack(AtMost { reader, left }, target)
}

/// Whether Nix may need what is at `path` in a store path, to evaluate or to build: not its documentation,
/// what only compilers need, or the many tables of glibc's `iconv`, of which it has those for UTF-8
/// built in.
pub(crate) fn is_loaded(path: &Path) -> bool {
    let mut parts = path.components();
    !parts.any(|part| {
        matches!(
            part.as_os_str().as_bytes(),
            b"share" | b"include" | b"gconv"
        )
    }) && path.extension() != Some(OsStr::new("a"))
}

/// Reads so many bytes, of which an archive that has more is refused.
pub struct AtMost<R> {
    pub reader: R,
    pub left: u64,
}

impl<R: Read> Read for AtMost<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other("it is far too large"))?;
        Ok(count)
    }
}

fn unpack(reader: impl Read, target: &Target) -> Result<PathBuf, ArchiveError> {
    let mut tar = tar::Archive::new(reader);
    let mut nix = None;
    for entry in tar.entries().map_err(ArchiveError::Read)? {
        let mut entry = entry.map_err(ArchiveError::Read)?;
        let path = entry.path().map_err(ArchiveError::Read)?.into_owned();
        let Some((basename, rest)) = store_entry(&path)? else {
            continue;
        };
        let place = target.place(&basename);
        if rest == Path::new("bin/nix-instantiate") {
            nix = Some(place.join("bin"));
        }
        if !is_loaded(&rest) {
            continue;
        }
        unpack_entry(&mut entry, &path, &place.join(rest), target)?;
    }
    // What follows the last entry counts as well.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(ArchiveError::Read)?;
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
        .filter(|name| StorePath::from_basename(name.as_bytes()).is_ok())
        .ok_or_else(|| refuse("it is in `store`, but in no store path"))?;
    Ok(Some((basename.to_string(), rest.iter().collect())))
}

fn unpack_entry(
    entry: &mut tar::Entry<impl Read>,
    path: &Path,
    to: &Path,
    target: &Target,
) -> Result<(), ArchiveError> {
    let refuse = |reason| ArchiveError::Entry(path.display().to_string(), reason);
    let write_error = |error| ArchiveError::Write(to.to_path_buf(), error);
    // An earlier link of the archive in place of a parent would lead this entry elsewhere.
    let is_behind_link = |place: &Path| {
        place
            .ancestors()
            .skip(1)
            .take_while(|parent| parent.starts_with(target.directory()))
            .any(Path::is_symlink)
    };
    if is_behind_link(to) {
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
        let mut link = entry
            .link_name_bytes()
            .ok_or_else(|| refuse("it is a link without a target"))?
            .into_owned();
        if let Target::Relocated(relocation) = target {
            link = relocation.rewrite_target(&link).into_owned();
        }
        return symlink(OsStr::from_bytes(&link), to).map_err(write_error);
    }
    if kind.is_hard_link() {
        let link = entry
            .link_name()
            .map_err(ArchiveError::Read)?
            .unwrap_or_default();
        let Some((basename, rest)) = store_entry(&link)? else {
            return Err(refuse("it is a hard link to what is no store path"));
        };
        let original = target.place(&basename).join(rest);
        if is_behind_link(&original) {
            return Err(refuse(
                "it is a hard link to what lies behind a symbolic link",
            ));
        }
        return fs::hard_link(original, to).map_err(write_error);
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
    if let Target::Relocated(relocation) = target {
        relocation.rewrite(&mut bytes);
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(if executable { 0o555 } else { 0o444 })
        .open(to)
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(write_error)
}
