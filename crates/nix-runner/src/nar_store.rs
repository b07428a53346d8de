//! A store of NARs, in which Nix evaluates without unpacking them.
//!
//! It is a binary cache made of files, and at the same time its own `local-nar-cache`: beside each NAR
//! is the listing that Nix keeps there (`nar-cache.cc`), by which it reads the few files that it needs
//! from their places in the NAR.

use nix_archive::nar::{self, Event, ReadEvent, decode_events_reader};
use nix_derivation::{NixHash, NixHasher, StoreDir, StorePath, nixbase32};
use nix_narinfo::NarInfo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::cell::Cell;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What a path in a store's URL is written in.
const IN_URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.');

/// Bytes that are read and written at once.
const BUFFER_SIZE: usize = 256 * 1024;

/// A directory of NARs, their listings, and a narinfo for each store path.
#[derive(Debug)]
pub struct NarStore {
    directory: PathBuf,
}

/// What is known of a NAR before it is read.
#[derive(Debug)]
pub struct Entry<'a> {
    pub path: &'a StorePath,
    pub nar_hash: &'a NixHash,
    pub nar_size: u64,
    /// Base names of store paths.
    pub references: Vec<String>,
}

/// Why a NAR was not added.
#[derive(Debug, Error)]
pub enum NarStoreError {
    #[error("it cannot be read: {0}")]
    Read(#[source] io::Error),
    #[error("it is not a NAR: {0}")]
    Format(#[source] nar::Error),
    /// Its hash is this one.
    #[error("its hash is {}", .0.to_nix_nixbase32_string())]
    WrongHash(NixHash),
    #[error("{}: {}", .0.display(), .1)]
    Write(PathBuf, #[source] io::Error),
}

impl NarStore {
    /// A store in `directory`, which is made if it does not exist.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory.join("nar"))?;
        fs::write(
            directory.join("nix-cache-info"),
            "StoreDir: /nix/store\nWantMassQuery: 0\n",
        )?;
        Ok(Self {
            directory: directory.to_path_buf(),
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The parameters of a store's URL with which Nix reads NARs in place.
    pub fn parameters(&self) -> String {
        let nars = self.directory.join("nar");
        let nars = nars.to_string_lossy();
        format!(
            "compression=none&local-nar-cache={}",
            utf8_percent_encode(&nars, IN_URL)
        )
    }

    /// The store as Nix takes it.
    pub fn url(&self) -> String {
        let directory = self.directory.to_string_lossy();
        let directory = utf8_percent_encode(&directory, IN_URL);
        format!("file://{directory}?{}", self.parameters())
    }

    /// Whether the store has a path with this hash part.
    pub fn has(&self, hash_part: &str) -> bool {
        self.narinfo_file(hash_part).exists()
    }

    /// The file of the NAR with this hash.
    pub fn nar_file(&self, nar_hash: &NixHash) -> PathBuf {
        self.directory.join("nar").join(nar_name(nar_hash))
    }

    /// Every store path of the store.
    pub fn paths(&self) -> impl Iterator<Item = StorePath> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (path, _) = self.info(name.strip_suffix(".narinfo")?)?;
            Some(path)
        })
    }

    /// Opens the NAR of a path. None where the store does not have it.
    pub fn nar(&self, path: &StorePath) -> Option<File> {
        let (found, nar_hash) = self.info(&hash_part(path))?;
        (found == *path).then(|| File::open(self.nar_file(&nar_hash)).ok())?
    }

    /// The path with this hash part, and the hash of its NAR.
    pub fn info(&self, hash_part: &str) -> Option<(StorePath, NixHash)> {
        let text = fs::read(self.narinfo_file(hash_part)).ok()?;
        let info = NarInfo::parse_in(&StoreDir::default(), &text).ok()?;
        Some((info.store_path().clone(), info.nar_hash().clone()))
    }

    fn narinfo_file(&self, hash_part: &str) -> PathBuf {
        self.directory.join(format!("{hash_part}.narinfo"))
    }

    /// Writes a NAR and its listing, where it has this hash.
    pub fn write_nar(&self, nar_hash: &NixHash, nar: &mut dyn Read) -> Result<(), NarStoreError> {
        let file = self.nar_file(nar_hash);
        if file.exists() {
            return Ok(());
        }
        let write_error = |error| NarStoreError::Write(file.clone(), error);
        let partial =
            tempfile::NamedTempFile::new_in(self.directory.join("nar")).map_err(write_error)?;
        let mut copy = Copy {
            reader: nar,
            file: partial.as_file(),
            hasher: NixHasher::new(nar_hash.algorithm()),
            failed: None,
        };
        let listing = list(&mut copy);
        if let Some(error) = copy.failed {
            return Err(write_error(error));
        }
        let listing = listing?;
        let hash = copy.hasher.finalize();
        if hash != *nar_hash {
            return Err(NarStoreError::WrongHash(hash));
        }
        write_listing(&file, listing)?;
        partial
            .persist(&file)
            .map_err(|error| write_error(error.error))?;
        Ok(())
    }

    /// Adds a store path whose NAR is in its file already.
    pub fn adopt(&self, entry: &Entry) -> Result<(), NarStoreError> {
        self.list_file(&self.nar_file(entry.nar_hash))?;
        self.register(entry)
    }

    /// Writes the listing of a NAR beside it.
    pub fn list_file(&self, file: &Path) -> Result<(), NarStoreError> {
        let mut nar = File::open(file).map_err(NarStoreError::Read)?;
        write_listing(file, list(&mut nar)?)
    }

    /// Makes the path valid.
    pub fn register(&self, entry: &Entry) -> Result<(), NarStoreError> {
        let text = format!(
            "StorePath: {}\nURL: nar/{}\nCompression: none\nFileHash: {nar_hash}\n\
             FileSize: {size}\nNarHash: {nar_hash}\nNarSize: {size}\nReferences: {}\n",
            entry.path,
            nar_name(entry.nar_hash),
            entry.references.join(" "),
            nar_hash = entry.nar_hash.to_nix_nixbase32_string(),
            size = entry.nar_size,
        );
        let file = self.narinfo_file(&hash_part(entry.path));
        // Whole or not at all, since it is read while it is written.
        let partial = file.with_extension("partial");
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &file))
            .map_err(|error| NarStoreError::Write(file, error))
    }
}

/// The name of the file of the NAR with this hash.
pub(crate) fn nar_name(nar_hash: &NixHash) -> String {
    format!("{}.nar", nixbase32::encode(nar_hash.digest_as_bytes()))
}

/// The content of the one file that is in a NAR. None where it holds no file, or cannot be read.
pub fn file_in(nar: &mut dyn Read) -> Option<Vec<u8>> {
    let mut content = None;
    let mut nar = BufReader::new(nar);
    let decoded = decode_events_reader(&mut nar, |event| {
        if let Event::Regular { mut contents, .. } = event {
            contents.copy_to(content.get_or_insert_with(Vec::new))?;
        }
        Ok(())
    });
    decoded.ok().and(content)
}

/// The part of a store path's name before the first dash.
pub fn hash_part(path: &StorePath) -> String {
    let basename = path.to_basename();
    basename.split('-').next().unwrap_or_default().to_string()
}

fn write_listing(nar: &Path, listing: Option<String>) -> Result<(), NarStoreError> {
    let file = nar.with_extension("ls");
    match listing {
        Some(listing) => {
            fs::write(&file, listing).map_err(|error| NarStoreError::Write(file, error))
        }
        None => Ok(()),
    }
}

/// Copies what is read into a file, and hashes it.
struct Copy<'a> {
    reader: &'a mut dyn Read,
    file: &'a File,
    hasher: NixHasher,
    /// Why the file could not be written.
    failed: Option<io::Error>,
}

impl Read for Copy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        if let Err(error) = self.file.write_all(&buffer[..count]) {
            self.failed = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        Ok(count)
    }
}

/// Counts the bytes that were taken from a reader.
struct Position<'a, R> {
    reader: R,
    position: &'a Cell<u64>,
}

impl<R: Read> Read for Position<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.position.set(self.position.get() + count as u64);
        Ok(count)
    }
}

/// The listing of a NAR as Nix writes it (`listing.cc`), in JSON: types, sizes, and where in the NAR
/// each file begins. None where a name is not UTF-8, which JSON cannot hold; Nix then reads the whole
/// NAR.
fn list(nar: &mut dyn Read) -> Result<Option<String>, NarStoreError> {
    let position = Cell::new(0);
    let mut reader = Position {
        reader: BufReader::with_capacity(BUFFER_SIZE, nar),
        position: &position,
    };
    let mut listing = Some(String::new());
    let decoded = decode_events_reader(&mut reader, |event| {
        if let Some(text) = &mut listing
            && list_event(&event, position.get(), text).is_none()
        {
            listing = None;
        }
        if let Event::Regular { mut contents, .. } = event {
            contents.copy_to(&mut io::sink())?;
        }
        Ok(())
    });
    match decoded {
        Ok(()) => Ok(listing),
        Err(nar::Error::Io(error)) => Err(NarStoreError::Read(error)),
        Err(error) => Err(NarStoreError::Format(error)),
    }
}

/// Adds an entry to a listing whose contents begin at `offset`. None where its name is not UTF-8.
fn list_event<R: ?Sized>(event: &ReadEvent<'_, R>, offset: u64, text: &mut String) -> Option<()> {
    let (Event::DirectoryStart { name }
    | Event::DirectoryEnd { name }
    | Event::Regular { name, .. }
    | Event::Symlink { name, .. }) = event;
    if let Event::DirectoryEnd { .. } = event {
        text.push_str("}}");
        return Some(());
    }
    if let Some(name) = name {
        if !text.ends_with('{') {
            text.push(',');
        }
        text.push_str(&json(name)?);
        text.push(':');
    }
    match event {
        Event::DirectoryStart { .. } => text.push_str(r#"{"type":"directory","entries":{"#),
        Event::DirectoryEnd { .. } => {}
        Event::Regular {
            executable,
            contents,
            ..
        } => {
            let executable = if *executable {
                r#","executable":true"#
            } else {
                ""
            };
            let size = contents.size();
            let _ = write!(
                text,
                r#"{{"type":"regular","size":{size},"narOffset":{offset}{executable}}}"#
            );
        }
        Event::Symlink { target, .. } => {
            let target = json(target)?;
            let _ = write!(text, r#"{{"type":"symlink","target":{target}}}"#);
        }
    }
    Some(())
}

fn json(bytes: &[u8]) -> Option<String> {
    serde_json::to_string(std::str::from_utf8(bytes).ok()?).ok()
}
