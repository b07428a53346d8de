//! Looks through the files of a relocated closure for store paths that were not rewritten.
//!
//! The build rewrites them in the same forms (`store-references`): plain, and in gzip, zlib, zip and BEAM
//! data. What is packed otherwise prevents a relocation if it names a store path, so it is only counted.

use crate::closure::{Closure, Member};
use crate::image::{Found, VOUCHED};
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive};
use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use store_references::hashes::{HashPart, Hit, OVERLAP, look};
use store_references::packing::{Packing, beam_literals, read_up_to};

/// Bytes that are read at once, which stay in a core's own cache.
const PIECE: usize = 256 * 1024;

/// Bytes that are unpacked of one file: as many as a build looks through.
const MAX_UNPACKED: u64 = 4 * 1024 * 1024 * 1024;

/// What was seen of the closure.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Files and links that were read.
    pub(super) files: usize,
    /// Bytes of the files.
    pub(super) bytes: u64,
    /// What still names store paths, with the form.
    pub(super) remaining: BTreeSet<(String, &'static str)>,
    /// What names store paths, and is vouched for by the user.
    pub(super) vouched: BTreeSet<String>,
    /// What names store paths that are not in this closure, and never were.
    pub(super) foreign: BTreeSet<String>,
    /// Files that are packed in a way that only a build unpacks.
    pub(super) packed: usize,
    /// What cannot be read, with the reason.
    pub(super) unread: BTreeSet<String>,
}

/// A file or link of the closure.
struct Entry {
    place: PathBuf,
    /// Its path as the app sees it.
    shown: String,
    /// As a build names it: the base name of the store path, and the path in it.
    name: String,
    is_link: bool,
    size: u64,
}

/// How a store path is named; the plainest counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Full,
    Bare,
    Wide,
}

impl Form {
    const fn words(self) -> &'static str {
        match self {
            Self::Full => "a path in /nix/store",
            Self::Bare => "a store path's hash alone",
            Self::Wide => "a store path in UTF-16 or UTF-32",
        }
    }
}

/// What a run of bytes names.
#[derive(Clone, Copy, Default)]
struct Names {
    /// A store path of the closure.
    own: Option<Form>,
    /// One that is not in the closure.
    foreign: bool,
}

/// Looks through every file, name and link of the closure.
pub(super) fn look_through(found: &Found, closure: &Closure) -> Seen {
    let known: HashSet<HashPart> = closure.paths().iter().filter_map(hash_part).collect();
    let vouched = fs::read_to_string(found.store.join(VOUCHED)).unwrap_or_default();
    let vouched: HashSet<&str> = vouched.lines().collect();
    let seen = Mutex::new(Seen::default());
    let mut entries = Vec::new();
    for member in closure.paths() {
        let store = found.seen_store();
        let shown = store.path(&member.path);
        // It may be a link into another layer.
        let place = fs::canonicalize(&shown).unwrap_or_else(|_| PathBuf::from(&shown));
        let top = Entry::new(place, shown, member.path.clone());
        list(top, &mut entries, &mut |problem| {
            lock(&seen).unread.insert(problem);
        });
    }
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.size));
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = vec![0; PIECE + OVERLAP];
                while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    look_at(entry, &known, &vouched, &mut buffer, &seen);
                }
            });
        }
    });
    seen.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hash_part(member: &Member) -> Option<HashPart> {
    member.path.as_bytes().first_chunk().copied()
}

impl Entry {
    fn new(place: PathBuf, shown: String, name: String) -> Self {
        Self {
            place,
            shown,
            name,
            is_link: false,
            size: 0,
        }
    }

    fn within(&self, name: &OsStr) -> Self {
        let add = |path: &str| format!("{path}/{}", name.display());
        Self::new(self.place.join(name), add(&self.shown), add(&self.name))
    }
}

/// Adds what is at `entry` and below.
fn list(mut entry: Entry, entries: &mut Vec<Entry>, problem: &mut impl FnMut(String)) {
    let listed = entry.place.symlink_metadata().and_then(|metadata| {
        entry.is_link = metadata.is_symlink();
        entry.size = metadata.len();
        if metadata.is_dir() {
            fs::read_dir(&entry.place)?.collect()
        } else {
            Ok(Vec::new())
        }
    });
    match listed {
        Ok(inside) => {
            for inner in inside {
                list(entry.within(&inner.file_name()), entries, problem);
            }
        }
        Err(error) => problem(format!("{}: {error}", entry.shown)),
    }
    entries.push(entry);
}

/// Looks at one entry, and notes what it names.
fn look_at(
    entry: &Entry,
    known: &HashSet<HashPart>,
    vouched: &HashSet<&str>,
    buffer: &mut [u8],
    seen: &Mutex<Seen>,
) {
    let mut look = Look {
        known,
        buffer,
        all: Names::default(),
        inside: None,
        packed: false,
    };
    let looked = look.at(entry);
    let form = look.inside.or(look.all.own.map(Form::words));
    let (is_packed, is_foreign) = (look.packed, look.all.foreign);
    let mut seen = lock(seen);
    match looked {
        Ok(None) => {}
        Ok(Some(bytes)) => {
            seen.files += 1;
            seen.bytes += bytes;
        }
        Err(error) => {
            seen.unread.insert(format!("{}: {error}", entry.shown));
        }
    }
    seen.packed += usize::from(is_packed);
    if is_foreign {
        seen.foreign.insert(entry.shown.clone());
    }
    let Some(form) = form else {
        return;
    };
    if vouched.contains(entry.name.as_str()) {
        seen.vouched.insert(entry.shown.clone());
    } else {
        seen.remaining.insert((entry.shown.clone(), form));
    }
}

/// A look at one entry.
struct Look<'a> {
    known: &'a HashSet<HashPart>,
    buffer: &'a mut [u8],
    /// What it names as it is.
    all: Names,
    /// The packing in which it names something.
    inside: Option<&'static str>,
    /// Whether it is packed in a way that is not known here.
    packed: bool,
}

impl Look<'_> {
    /// Returns the bytes that were read, and none for a directory, of which only the name counts.
    fn at(&mut self, entry: &Entry) -> io::Result<Option<u64>> {
        // The first name is the store path's own.
        if let Some((_, name)) = entry.name.rsplit_once('/') {
            self.bytes(name.as_bytes());
        }
        if entry.is_link {
            let target = fs::read_link(&entry.place)?;
            self.bytes(target.as_os_str().as_bytes());
            return Ok(Some(0));
        }
        if !entry.place.is_file() {
            return Ok(None);
        }
        let mut file = File::open(&entry.place)?;
        let mut head = [0; 12];
        let length = read_up_to(&mut file, &mut head)?;
        file.rewind()?;
        let mut names = Names::default();
        let looked = self.through(&mut file, &mut names);
        self.add(names);
        let (size, has_zip) = looked?;
        let name = entry.place.file_name().unwrap_or_default().as_bytes();
        let packing = Packing::of_file(name, &head[..length]);
        file.rewind()?;
        // What is wrong in a packed file is so for all who read it.
        match packing.or(has_zip.then_some(Packing::Zip)) {
            None => {}
            Some(Packing::Zip) => self.members(file),
            Some(Packing::Gzip) => {
                self.inside("gzip data", &mut MultiGzDecoder::new(BufReader::new(file)));
            }
            Some(Packing::Zlib) => {
                self.inside("zlib data", &mut ZlibDecoder::new(BufReader::new(file)));
            }
            Some(Packing::Beam) => {
                let literals = beam_literals(BufReader::new(file))?;
                self.inside("BEAM data", &mut ZlibDecoder::new(literals));
            }
            Some(Packing::Xz | Packing::Zstd | Packing::Bzip2 | Packing::Brotli) => {
                self.packed = true;
            }
        }
        Ok(Some(size))
    }

    fn add(&mut self, names: Names) {
        if let Some(form) = names.own {
            self.all.note(form);
        }
        self.all.foreign |= names.foreign;
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let mut names = Names::default();
        names.look(bytes, 0, self.known);
        self.add(names);
    }

    /// Looks at what is packed.
    fn inside(&mut self, what: &'static str, bytes: &mut dyn Read) {
        let mut names = Names::default();
        let _ = self.through(&mut bytes.take(MAX_UNPACKED), &mut names);
        self.all.foreign |= names.foreign;
        if names.own.is_some() {
            self.inside = Some(what);
        }
    }

    /// Looks at the members of a zip, as far as it can be read.
    fn members(&mut self, file: File) {
        let mut directory = vec![0; RECOMMENDED_BUFFER_SIZE];
        let Ok(archive) = ZipArchive::from_file(file, &mut directory) else {
            return;
        };
        let mut entries = archive.entries(&mut directory);
        while let Ok(Some(entry)) = entries.next_entry() {
            let (method, place) = (entry.compression_method(), entry.wayfinder());
            let Ok(member) = archive.get_entry(place) else {
                continue;
            };
            let bytes = member.reader();
            match method {
                CompressionMethod::STORE => self.inside("zip data", &mut { bytes }),
                CompressionMethod::DEFLATE => {
                    self.inside("zip data", &mut DeflateDecoder::new(BufReader::new(bytes)));
                }
                _ => self.packed = true,
            }
        }
    }

    /// Looks through all that `bytes` gives. Returns its size, and whether it ends with a zip.
    fn through(&mut self, bytes: &mut dyn Read, names: &mut Names) -> io::Result<(u64, bool)> {
        let (mut size, mut held) = (0, 0);
        loop {
            let count = match bytes.read(&mut self.buffer[held..]) {
                Ok(0) => return Ok((size, Packing::is_zip_end(&self.buffer[..held]))),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = held + count;
            names.look(&self.buffer[..end], held, self.known);
            size += count as u64;
            held = end.min(OVERLAP);
            self.buffer.copy_within(end - held..end, 0);
        }
    }
}

impl Names {
    fn look(&mut self, bytes: &[u8], fresh: usize, known: &HashSet<HashPart>) {
        let is_known = |hash: &HashPart| known.contains(hash);
        look(bytes, fresh, is_known, |hit| match hit {
            Hit::Reference(..) => self.note(Form::Full),
            Hit::Bare(_) => self.note(Form::Bare),
            Hit::Wide => self.note(Form::Wide),
            Hit::Foreign(_) => self.foreign = true,
        });
    }

    fn note(&mut self, form: Form) {
        self.own = Some(self.own.map_or(form, |own| own.min(form)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use tempfile::TempDir;

    const HASH: &str = "xbgcfhaawi9iz9s99k58sqy8azc2a1w3";

    /// A relocated closure of one store path, whose layer is elsewhere.
    fn image(layers: &Path) -> (Found, Closure) {
        let store = layers.join("closure");
        let found = Found {
            image: Image::parse(&format!("root {}/x\n", store.display())),
            store,
            layer: layers.join("proot"),
        };
        let closure = Closure::new([], [(format!("{HASH}-app"), 0, Vec::new())]);
        (found, closure)
    }

    /// What is seen of one with these files, of which some are vouched for.
    fn seen(files: &[(&str, Vec<u8>)], vouched: &str) -> (TempDir, Seen) {
        let layers = tempfile::tempdir().unwrap();
        let (found, closure) = image(layers.path());
        let app = found.seen_store().path(&format!("{HASH}-app"));
        let place = layers.path().join("elsewhere");
        fs::create_dir_all(&found.store).unwrap();
        fs::create_dir(&place).unwrap();
        symlink(&place, app).unwrap();
        for (name, bytes) in files {
            fs::write(place.join(name), bytes).unwrap();
        }
        fs::write(found.store.join(VOUCHED), vouched).unwrap();
        symlink("moved", place.join("good-link")).unwrap();
        let seen = look_through(&found, &closure);
        (layers, seen)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zip(text: &[u8]) -> Vec<u8> {
        let mut archive = rawzip::ZipArchiveWriter::new(Vec::new());
        for name in ["good", "bad"] {
            let method = CompressionMethod::DEFLATE;
            let (mut entry, config) = archive
                .new_file(name)
                .compression_method(method)
                .start()
                .unwrap();
            let encoder = flate2::write::DeflateEncoder::new(&mut entry, Compression::fast());
            let mut writer = config.wrap(encoder);
            writer
                .write_all(if name == "bad" {
                    text
                } else {
                    b"moved".as_slice()
                })
                .unwrap();
            let (encoder, descriptor) = writer.finish().unwrap();
            encoder.finish().unwrap();
            entry.finish(descriptor).unwrap();
        }
        archive.finish().unwrap()
    }

    #[test]
    fn nothing_is_found_where_all_was_rewritten() {
        let moved = b"#!/layers/nix_hydra/closure/xbgcfhaawi9iz9s99-app/bin/sh\n".to_vec();
        let files = [("moved", moved.clone()), ("packed", gzip(&moved))];
        let (_layers, seen) = seen(&files, "");
        assert_eq!(seen.remaining, BTreeSet::new());
        assert_eq!((seen.files, seen.packed), (3, 0));
        assert_eq!(seen.bytes, (moved.len() + gzip(&moved).len()) as u64);
    }

    #[test]
    fn every_form_of_a_store_path_that_is_left_is_named_with_its_file() {
        let text = format!("exec /nix/store/{HASH}-app/bin/app\n").into_bytes();
        let far = [vec![b'.'; 3 * PIECE + 17], text.clone()].concat();
        let wide: Vec<u8> = text.iter().flat_map(|byte| [*byte, 0]).collect();
        let cut = gzip(&text.repeat(9));
        let foreign = b"/nix/store/00000000000000000000000000000000-other".to_vec();
        let appended = [b"\x7fELF".to_vec(), zip(&text)].concat();
        let files = [
            ("bare", HASH.into()),
            ("cut.gz", cut[..cut.len() - 4].to_vec()),
            ("far", far),
            ("foreign", foreign),
            ("jar", zip(&text)),
            ("packed.gz", gzip(&text)),
            ("program", appended),
            ("wide", wide),
            ("zlib", zlib(&text)),
            ("zstd", b"\x28\xb5\x2f\xfd".to_vec()),
            ("vouched", text.clone()),
        ];
        let (layers, seen) = seen(&files, &format!("{HASH}-app/vouched\n"));
        let shown = |file: &str| {
            let name = Path::new(file).file_name().unwrap();
            name.display().to_string()
        };
        let remaining = seen.remaining.iter();
        let remaining: Vec<_> = remaining.map(|(file, form)| (shown(file), *form)).collect();
        let expected = [
            ("bare", "a store path's hash alone"),
            ("cut.gz", "gzip data"),
            ("far", "a path in /nix/store"),
            ("jar", "zip data"),
            ("packed.gz", "gzip data"),
            ("program", "zip data"),
            ("wide", "a store path in UTF-16 or UTF-32"),
            ("zlib", "zlib data"),
        ];
        assert_eq!(
            remaining,
            expected.map(|(file, form)| (file.to_string(), form))
        );
        let all =
            |files: &BTreeSet<String>| files.iter().map(|file| shown(file)).collect::<Vec<_>>();
        assert_eq!(all(&seen.vouched), ["vouched"]);
        assert_eq!(all(&seen.foreign), ["foreign"]);
        assert_eq!(seen.packed, 1);
        assert!(seen.remaining.iter().all(|(file, _)| {
            file.starts_with(&layers.path().join("closure").display().to_string())
        }));
    }

    #[test]
    fn links_and_names_are_looked_at_too() {
        let (layers, _) = seen(&[], "");
        let place = layers.path().join("elsewhere");
        let target = format!("/nix/store/{HASH}-app/bin");
        symlink(target, place.join("link")).unwrap();
        fs::create_dir(place.join(HASH)).unwrap();
        let (found, closure) = image(layers.path());
        let seen = look_through(&found, &closure);
        let forms: Vec<_> = seen.remaining.iter().map(|(_, form)| *form).collect();
        assert_eq!(forms, ["a path in /nix/store", "a store path's hash alone"]);
    }
}
