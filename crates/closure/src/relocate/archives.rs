//! Looks for references inside compressed files, and rewrites them there where that is safe.
//!
//! A gzip file with one reference in it is packed anew, and so are the members of a zip or jar that
//! have any. Both may change their length: nothing outside knows where something is inside them.
//! What is signed, nested, or packed by something else is only reported.

use crate::decode_memory::{Reserved, reserve};
use crate::parallel::lock;
use crate::relocate::blocker::BlockerReason;
use crate::relocate::budget::Budget;
use crate::relocate::formats::{Format, Probe};
use crate::relocate::references::{HashPart, OVERLAP, ReferenceScanner, ScanHits};
use flate2::bufread::{DeflateDecoder, MultiGzDecoder};
use flate2::{Compression, GzBuilder};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;
use store_references::packing::{Packing, ZIP_END, ZIP_MEMBER, beam_literals, read_up_to};
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode::ZSTD_error_frameParameter_windowTooLarge as WINDOW_TOO_LARGE;

/// Bytes that are unpacked of the packed files of one store path, with all that is in them, before
/// the rest is given up: bombs must not hold up a deploy. bzip2, the slowest of these compressions,
/// gives so many zeros in 12 s of one core. What is read of a zip counts too, since members may share it.
pub const MAX_LOOK: u64 = 4 * 1024 * 1024 * 1024;

/// Bytes that are read to find out what is in a zip, which is held in memory: twice what 65,535 files,
/// the most without 64-bit numbers, have with names of 80 bytes.
const MAX_DIRECTORY: u64 = 16 * 1024 * 1024;

/// The largest file or member that is packed anew, and the largest packed member of a zip that is
/// looked into: these are held in memory, one at a time.
const MAX_HELD: u64 = 64 * 1024 * 1024;

/// Held while a whole file is in memory, so that many threads need no more than one.
static WHOLE_FILE: Mutex<()> = Mutex::new(());

/// Zips in zips in zips are looked into, such as the jars of a war in an ear, and what they hold.
const MAX_DEPTH: usize = 3;

/// What tells the place of the end record of a zip with 64-bit numbers begins with, right before the usual
/// end record, and its length.
const ZIP64_LOCATOR: &[u8; 4] = b"PK\x06\x07";
const ZIP64_LOCATOR_LENGTH: usize = 20;

/// The last bytes of a file, in which the locator is: before the end record and its comment.
const ZIP64_END_LENGTH: u64 = 64 * 1024 + 64;

/// What is in a packed file.
#[derive(Debug, Default)]
pub struct ArchiveScan {
    /// The hash parts that were found, in any form.
    pub hashes: BTreeSet<HashPart>,
    /// The hash parts of references to paths outside the closure.
    pub foreign: BTreeSet<HashPart>,
    /// References that are rewritten, or would be.
    pub references: usize,
    /// Why others cannot be rewritten.
    pub blocker: Option<BlockerReason>,
    /// Whether some of it cannot be read to its end, or does not fit its checksum.
    broken: bool,
}

impl ArchiveScan {
    /// What is known of a file that was not looked into.
    fn unseen(packing: Packing) -> Self {
        Self {
            blocker: Some(BlockerReason::Unseen(packing)),
            ..Self::default()
        }
    }

    fn add(&mut self, hits: ScanHits) {
        self.hashes.extend(hits.hashes);
        self.foreign.extend(hits.foreign);
        self.references += hits.references;
    }
}

/// Looks into the file at `path`, as far as the `budget` of its store path goes, and rewrites its
/// references where the closure moves.
///
/// Errors are those that the system gives; what is wrong in the file is none, since all who read it
/// meet it too.
pub fn look_into(
    path: &Path,
    packing: Packing,
    references: &ReferenceScanner,
    budget: &Budget,
) -> io::Result<ArchiveScan> {
    if budget.is_spent() {
        return Ok(ArchiveScan::unseen(packing));
    }
    let file = File::open(path)?;
    if packing == Packing::Zip {
        return look_into_zip(path, file, references, budget);
    }
    let mut inside = ArchiveScan::default();
    // With the same limits as a NAR.
    let bytes = match packing {
        Packing::Beam => Box::new(beam_literals(BufReader::new(file))?),
        _ => Box::new(BufReader::new(file)) as Box<dyn BufRead>,
    };
    let Some(mut decoder) = decode(bytes, packing)? else {
        return Ok(inside);
    };
    let seen = see(references, &mut decoder, budget);
    // Not kept while waiting for another lock.
    drop(decoder);
    let odd = seen.hits.bare || seen.hits.wide;
    let found = !seen.hits.hashes.is_empty() || odd;
    inside.add(seen.hits);
    if seen.beyond || (found && !seen.whole) {
        inside.blocker = Some(BlockerReason::Unseen(packing));
    } else if found && (odd || packing != Packing::Gzip || seen.size > MAX_HELD) {
        inside.blocker = Some(BlockerReason::Packed(packing));
    } else if found && let Err(blocker) = seen.format.checked() {
        inside.blocker = Some(blocker);
    } else if found && references.relocation().is_some() {
        let _held = lock(&WHOLE_FILE);
        rewrite_gzip(path, references)?;
    }
    Ok(inside)
}

/// A decoder, with the memory for it; `None` where there is none for the file.
fn decode(mut bytes: impl BufRead + 'static, packing: Packing) -> io::Result<Option<Reserved>> {
    let memory = reserve(encoding(packing), bytes.fill_buf()?, None);
    Ok(memory.decoder(bytes, encoding(packing)).ok())
}

/// The name under which a packing has a decoder.
fn encoding(packing: Packing) -> &'static str {
    match packing {
        Packing::Zlib | Packing::Beam => "deflate",
        Packing::Brotli => "br",
        packing => packing.name(),
    }
}

/// What was seen of a stream.
struct Seen {
    hits: ScanHits,
    /// Bytes looked through.
    size: u64,
    /// Whether it could be read to its end.
    ///
    /// What cannot, such as the broken files that compressors are tested with, ends at the same
    /// place for all who read it.
    whole: bool,
    /// Whether it goes on where others could read it: it is too much, or takes too much memory.
    beyond: bool,
    /// What it is, unpacked.
    format: Format,
}

/// Looks through all that `bytes` gives, as far as the budget goes.
fn see(references: &ReferenceScanner, bytes: &mut dyn Read, budget: &Budget) -> Seen {
    let mut seen = Seen {
        hits: ScanHits::default(),
        size: 0,
        whole: false,
        beyond: false,
        format: Format::Safe("text"),
    };
    let mut probe = Probe::default();
    let mut buffer = vec![0; 64 * 1024 + OVERLAP];
    let mut held = 0;
    let mut bytes = budget.of(bytes);
    loop {
        let count = match bytes.read(&mut buffer[held..]) {
            Ok(0) => {
                seen.whole = true;
                break;
            }
            Ok(count) => count,
            Err(error) => {
                seen.beyond = is_limit(&error);
                break;
            }
        };
        seen.size += count as u64;
        let end = held + count;
        probe.add(&buffer[held..end]);
        // It may rewrite what is thrown away afterwards.
        references.rewrite(&mut buffer[..end], held, &mut seen.hits);
        let kept = end.min(OVERLAP);
        buffer.copy_within(end - kept..end, 0);
        held = kept;
    }
    seen.format = probe.format();
    seen
}

/// Whether reading has ended at a limit, of bytes or of a decoder's memory.
fn is_limit(error: &io::Error) -> bool {
    let is_memory = error.get_ref().is_some_and(|error| {
        let xz = error.downcast_ref::<liblzma::stream::Error>();
        let zstd = error.downcast_ref::<zstd::Error>();
        xz == Some(&liblzma::stream::Error::MemLimit)
            || zstd.is_some_and(|error| error.is(WINDOW_TOO_LARGE))
    });
    is_memory || error.kind() == io::ErrorKind::QuotaExceeded
}

fn rewrite_gzip(path: &Path, references: &ReferenceScanner) -> io::Result<()> {
    let mut decoder = MultiGzDecoder::new(BufReader::new(File::open(path)?));
    let mut bytes = Vec::new();
    decoder.read_to_end(&mut bytes)?;
    references.rewrite(&mut bytes, 0, &mut ScanHits::default());
    let mut header = GzBuilder::new();
    if let Some(old) = decoder.header() {
        header = header
            .mtime(old.mtime())
            .operating_system(old.operating_system());
        if let Some(name) = old.filename() {
            header = header.filename(name);
        }
    }
    replace(path, |file| {
        let mut encoder = header.write(file, Compression::best());
        encoder.write_all(&bytes)?;
        encoder.finish()?;
        Ok(())
    })
}

fn look_into_zip(
    path: &Path,
    mut file: File,
    references: &ReferenceScanner,
    budget: &Budget,
) -> io::Result<ArchiveScan> {
    let mut head = [0; 4];
    let length = read_up_to(&mut file, &mut head)?;
    let appended = head[..length] != *ZIP_MEMBER;
    file.seek(SeekFrom::Start(0))?;
    let looked = look_through_zip(BufReader::new(file), references, MAX_DEPTH, budget);
    let (mut inside, moved) = match looked {
        Ok(seen) => seen,
        Err(error) => {
            // No zip after all, or one that no other program can read either.
            only_of_the_system(error.into())?;
            return Ok(ArchiveScan::default());
        }
    };
    // What is not packed in an appended zip was rewritten with the program before it.
    if appended && (!moved.is_empty() || (inside.broken && references.relocation().is_some())) {
        inside.blocker = Some(BlockerReason::Appended);
    }
    if !moved.is_empty() && inside.blocker.is_none() && references.relocation().is_some() {
        let _held = lock(&WHOLE_FILE);
        if let Err(error) = rewrite_zip(path, &moved, references, budget) {
            only_of_the_system(error)?;
            inside.blocker = Some(BlockerReason::Packed(Packing::Zip));
        }
    }
    Ok(inside)
}

/// Passes on an error that the system has given; others are about what is in a file.
fn only_of_the_system(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(_) => Err(error),
        None => Ok(()),
    }
}

/// What is in a zip, and which members have references that can be rewritten.
fn look_through_zip(
    mut file: impl Read + Seek,
    references: &ReferenceScanner,
    depth: usize,
    budget: &Budget,
) -> Result<(ArchiveScan, BTreeSet<usize>), ZipError> {
    let unseen = || Ok((ArchiveScan::unseen(Packing::Zip), BTreeSet::new()));
    if is_zip64(&mut file)? {
        return match look_through_zip64(file, references, budget) {
            Ok(inside) if !budget.is_spent() => Ok((inside, BTreeSet::new())),
            _ => unseen(),
        };
    }
    let directory = Budget::new(MAX_DIRECTORY);
    let opened = ZipArchive::new(directory.of(budget.of(file)));
    if directory.is_spent() || budget.is_spent() {
        return unseen();
    }
    directory.lift();
    match look_through_members(opened?, references, depth, budget) {
        _ if budget.is_spent() => unseen(),
        looked => looked,
    }
}

/// Whether a zip has 64-bit numbers. It may promise any number of members then, and [`ZipArchive`] takes
/// memory for all before one is read.
fn is_zip64(file: &mut (impl Read + Seek)) -> io::Result<bool> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(ZIP64_END_LENGTH)))?;
    let mut end = Vec::new();
    file.take(ZIP64_END_LENGTH).read_to_end(&mut end)?;
    let mut ends = memchr::memmem::find_iter(&end, ZIP_END);
    Ok(ends.any(|at| {
        let before = at.checked_sub(ZIP64_LOCATOR_LENGTH);
        before.is_some_and(|at| end[at..].starts_with(ZIP64_LOCATOR))
    }))
}

/// What is in a zip with 64-bit numbers, read one member after the other. It is not packed anew: a store
/// path in it prevents a relocation, and so does what cannot be read, or is packed once more.
fn look_through_zip64(
    file: impl Read + Seek,
    references: &ReferenceScanner,
    budget: &Budget,
) -> Result<ArchiveScan, rawzip::Error> {
    let mut inside = ArchiveScan::default();
    let mut directory = vec![0; rawzip::RECOMMENDED_BUFFER_SIZE];
    let archive = rawzip::ZipArchive::from_seekable(budget.of(file), &mut directory)?;
    let (promised, mut count) = (archive.entries_hint(), 0);
    let mut entries = archive.entries(&mut directory);
    while let Some(entry) = entries.next_entry()? {
        count += 1;
        let (method, place) = (entry.compression_method(), entry.wayfinder());
        let bytes = archive.get_entry(place)?.reader();
        let mut bytes: Box<dyn Read> = match method {
            rawzip::CompressionMethod::STORE => Box::new(bytes),
            rawzip::CompressionMethod::DEFLATE => {
                Box::new(DeflateDecoder::new(BufReader::new(bytes)))
            }
            _ => return Ok(ArchiveScan::unseen(Packing::Zip)),
        };
        let mut head = [0; 8];
        let length = read_up_to(&mut bytes, &mut head)?;
        let seen = see(references, &mut head[..length].chain(bytes), budget);
        let is_packed = Packing::of_beginning(&head[..length]).is_some();
        let found = !seen.hits.hashes.is_empty() || seen.hits.wide;
        if is_packed || found || !seen.whole {
            inside.blocker = Some(BlockerReason::Unseen(Packing::Zip));
        }
        inside.add(seen.hits);
    }
    if count == promised {
        Ok(inside)
    } else {
        Ok(ArchiveScan::unseen(Packing::Zip))
    }
}

fn look_through_members<R: Read + Seek>(
    mut archive: ZipArchive<R>,
    references: &ReferenceScanner,
    depth: usize,
    budget: &Budget,
) -> Result<(ArchiveScan, BTreeSet<usize>), ZipError> {
    let signed = archive
        .file_names()
        .flatten()
        .any(|name| name.starts_with("META-INF/") && name.ends_with(".SF"));
    let mut inside = ArchiveScan::default();
    let mut moved = BTreeSet::new();
    for index in 0..archive.len() {
        let mut member = match archive.by_index(index) {
            Ok(member) => member,
            // Encrypted, or packed as no jar is.
            Err(ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_)) => {
                inside.blocker = Some(BlockerReason::Unseen(Packing::Zip));
                continue;
            }
            Err(error) => return Err(error),
        };
        let size = member.size();
        // Packed anew, it would be a file.
        let is_link = member.is_symlink();
        let mut head = [0; 8];
        let Ok(length) = read_up_to(&mut member, &mut head) else {
            inside.broken = true;
            continue;
        };
        let mut bytes = head[..length].chain(&mut member);
        if let Some(packing) = Packing::of_beginning(&head[..length]) {
            let seen = if depth > 0 && size <= MAX_HELD {
                // Only the outermost holds: nested ones are its own.
                let _held = (depth == MAX_DEPTH).then(|| lock(&WHOLE_FILE));
                let mut nested = Vec::new();
                // What does not fit its checksum is looked at as far as it goes.
                let _ = bytes.take(MAX_HELD).read_to_end(&mut nested);
                look_into_nested(nested, packing, references, depth, budget)
            } else {
                ArchiveScan::unseen(Packing::Zip)
            };
            if !seen.hashes.is_empty() || seen.blocker.is_some() {
                inside.blocker = seen.blocker.or(Some(BlockerReason::Nested));
            }
            inside.hashes.extend(seen.hashes);
            inside.foreign.extend(seen.foreign);
            continue;
        }
        let seen = see(references, &mut bytes, budget);
        let odd = seen.hits.bare || seen.hits.wide;
        let found = odd || seen.hits.references > 0;
        if seen.beyond || (found && !seen.whole) {
            inside.blocker = Some(BlockerReason::Unseen(Packing::Zip));
        } else if odd || (found && (is_link || seen.size > MAX_HELD)) {
            inside.blocker = Some(BlockerReason::Packed(Packing::Zip));
        } else if found && signed {
            inside.blocker = Some(BlockerReason::Signed);
        } else if found && let Err(blocker) = seen.format.checked() {
            inside.blocker = Some(blocker);
        } else if found {
            moved.insert(index);
        }
        inside.broken |= !seen.whole;
        inside.add(seen.hits);
    }
    Ok((inside, moved))
}

/// What is in a packed member of a zip: in its bytes as they are, and unpacked.
fn look_into_nested(
    bytes: Vec<u8>,
    packing: Packing,
    references: &ReferenceScanner,
    depth: usize,
    budget: &Budget,
) -> ArchiveScan {
    let mut inside = ArchiveScan::default();
    inside.add(see(references, &mut &bytes[..], budget).hits);
    if packing == Packing::Zip {
        let looked = look_through_zip(Cursor::new(bytes), references, depth - 1, budget);
        if let Ok((nested, _)) = looked {
            inside.hashes.extend(nested.hashes);
            inside.foreign.extend(nested.foreign);
            inside.blocker = nested.blocker;
        }
    } else if let Ok(Some(mut decoder)) = decode(Cursor::new(bytes), packing) {
        let seen = see(references, &mut decoder, budget);
        if seen.beyond || seen.hits.wide {
            inside.blocker = Some(BlockerReason::Unseen(packing));
        }
        inside.add(seen.hits);
    }
    inside
}

/// Packs the members in `moved` anew, and takes the others over as they are.
fn rewrite_zip(
    path: &Path,
    moved: &BTreeSet<usize>,
    references: &ReferenceScanner,
    budget: &Budget,
) -> io::Result<()> {
    // Members may be the same bytes many times, and each is written.
    let file = budget.of(BufReader::new(File::open(path)?));
    let mut archive = ZipArchive::new(file)?;
    replace(path, |file| {
        let mut writer = ZipWriter::new(file);
        writer.set_raw_comment(archive.comment().into())?;
        for index in 0..archive.len() {
            if !moved.contains(&index) {
                writer.raw_copy_file(archive.by_index_raw(index)?)?;
                continue;
            }
            let mut member = archive.by_index(index)?;
            let mut options = SimpleFileOptions::default().compression_method(member.compression());
            if let Some(time) = member.last_modified() {
                options = options.last_modified_time(time);
            }
            if let Some(mode) = member.unix_mode() {
                options = options.unix_permissions(mode);
            }
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes)?;
            references.rewrite(&mut bytes, 0, &mut ScanHits::default());
            writer.start_file(member.name()?, options)?;
            writer.write_all(&bytes)?;
        }
        writer.finish()?.flush()
    })
}

/// Puts a new file, with the old one's mode, in the old one's place.
fn replace(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions();
    let directory = path.parent().unwrap_or(Path::new("."));
    let new = tempfile::Builder::new()
        .permissions(mode)
        .tempfile_in(directory)?;
    write(new.as_file())?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests;
