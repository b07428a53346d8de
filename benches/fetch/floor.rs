//! The floor: a closure's NARs decoded, hashed and written from memory, a thread a core.
//!
//! It shares no code with what it is held against, does nothing but what has to be done (no
//! checks of names, no messages), and is told by itself how long that took.

use crate::cases::narinfos;
use anyhow::{Context, Result, anyhow, bail, ensure};
use liblzma::bufread::XzDecoder;
use liblzma::stream::{IGNORE_CHECK, MtStreamBuilder, Stream};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use sha2::{Digest as _, Sha256};
use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Decoded bytes held at once by a thread: they stay in the core's own cache.
const BUFFER_SIZE: usize = 256 * 1024;

struct Nar {
    compression: String,
    bytes: Vec<u8>,
    size: u64,
    hash: Vec<u8>,
    destination: PathBuf,
}

/// Unpacks the closure of `root` from the cache in a directory into the new directory `store`,
/// and prints the seconds it took by the clock, as user and as system.
pub(crate) fn run(cache: &Path, root: &str, store: &Path) -> Result<()> {
    let mut nars = narinfos(cache, root)?
        .iter()
        .map(|narinfo| {
            Ok(Nar {
                compression: narinfo.compression().as_str().to_string(),
                bytes: std::fs::read(cache.join(narinfo.url()))?,
                size: narinfo.nar_size(),
                hash: narinfo.nar_hash().digest_as_bytes().to_vec(),
                destination: store.join(narinfo.store_path().to_basename()),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    nars.sort_by_key(|nar| Reverse(nar.size));
    std::fs::create_dir_all(store)?;

    let cores = std::thread::available_parallelism()?.get();
    // Side by side inside a NAR only where there are too few of them.
    let decoders = if nars.len() < cores { cores } else { 1 };
    let next = AtomicUsize::new(0);
    let (started, before) = (Instant::now(), cpu_seconds()?);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut buffer = vec![0; BUFFER_SIZE];
                    while let Some(nar) = nars.get(next.fetch_add(1, Ordering::Relaxed)) {
                        unpack(nar, &mut buffer, decoders)?;
                    }
                    Ok(())
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a thread panicked"))?)
    })?;
    let (wall, after) = (started.elapsed().as_secs_f64(), cpu_seconds()?);
    println!("{wall} {} {}", after.0 - before.0, after.1 - before.1);
    Ok(())
}

/// User and system seconds of this process so far, as `/proc` counts them.
fn cpu_seconds() -> Result<(f64, f64)> {
    /// Linux's `USER_HZ`, the same on every machine that this runs on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |index: usize| -> Result<f64> { Ok(fields.get(index).context("stat")?.parse()?) };
    Ok((ticks(11)? / TICKS_PER_SECOND, ticks(12)? / TICKS_PER_SECOND))
}

fn unpack(nar: &Nar, buffer: &mut [u8], decoders: usize) -> Result<()> {
    let bytes = nar.bytes.as_slice();
    let decoder: Box<dyn Read + '_> = match nar.compression.as_str() {
        "none" => Box::new(bytes),
        "zstd" => Box::new(zstd::Decoder::with_buffer(bytes)?),
        // The NAR's hash says more than xz's own check.
        "xz" if decoders == 1 => Box::new(XzDecoder::new_stream(
            bytes,
            Stream::new_stream_decoder(u64::MAX, IGNORE_CHECK)?,
        )),
        "xz" => Box::new(XzDecoder::new_stream(
            bytes,
            MtStreamBuilder::new()
                .threads(u32::try_from(decoders)?)
                .memlimit_threading(u64::MAX)
                .memlimit_stop(u64::MAX)
                .decoder()?,
        )),
        other => bail!("no decoder for {other}"),
    };
    let mut reader = Reader {
        decoder,
        hasher: Sha256::new(),
        buffer,
        start: 0,
        end: 0,
    };
    reader.expect(b"nix-archive-1")?;
    reader.node(CWD, nar.destination.as_os_str())?;
    ensure!(reader.hasher.finalize()[..] == nar.hash, "a wrong hash");
    Ok(())
}

/// Reads a NAR out of one buffer, which is hashed as it is filled and written from as it is.
struct Reader<'a> {
    decoder: Box<dyn Read + 'a>,
    hasher: Sha256,
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
}

impl Reader<'_> {
    /// Makes at least `count` bytes lie in the buffer.
    fn need(&mut self, count: usize) -> Result<()> {
        if self.start + count > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < count {
            let read = self.decoder.read(&mut self.buffer[self.end..])?;
            ensure!(read > 0, "a NAR ends too early");
            self.hasher.update(&self.buffer[self.end..self.end + read]);
            self.end += read;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<usize> {
        self.need(8)?;
        let bytes = self.buffer[self.start..self.start + 8].try_into()?;
        self.start += 8;
        Ok(usize::try_from(u64::from_le_bytes(bytes))?)
    }

    fn text(&mut self) -> Result<Vec<u8>> {
        let length = self.number()?;
        self.need(length.next_multiple_of(8))?;
        let text = self.buffer[self.start..self.start + length].to_vec();
        self.start += length.next_multiple_of(8);
        Ok(text)
    }

    fn expect(&mut self, text: &[u8]) -> Result<()> {
        let found = self.text()?;
        ensure!(found == text, "not a NAR");
        Ok(())
    }

    fn node(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        self.expect(b"(")?;
        self.expect(b"type")?;
        match self.text()?.as_slice() {
            b"regular" => self.file(parent, name),
            b"symlink" => {
                self.expect(b"target")?;
                symlinkat(OsStr::from_bytes(&self.text()?), parent, name)?;
                self.expect(b")")
            }
            _ => self.directory(parent, name),
        }
    }

    fn directory(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(parent, name, flags, Mode::empty())?;
        while self.text()? == b"entry" {
            self.expect(b"(")?;
            self.expect(b"name")?;
            let name = self.text()?;
            self.expect(b"node")?;
            self.node(directory.as_fd(), OsStr::from_bytes(&name))?;
            self.expect(b")")?;
        }
        Ok(())
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let mut mode = 0o444;
        let mut field = self.text()?;
        if field == b"executable" {
            mode = 0o555;
            self.expect(b"")?;
            field = self.text()?;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(parent, name, flags, Mode::from_raw_mode(mode))?);
        // A file without content has no such field at all.
        if field == b")" {
            return Ok(());
        }
        let length = self.number()?;
        let mut left = length;
        while left > 0 {
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            }
            self.need(1)?;
            let count = left.min(self.end - self.start);
            file.write_all(&self.buffer[self.start..self.start + count])?;
            self.start += count;
            left -= count;
        }
        let padding = length.next_multiple_of(8) - length;
        self.need(padding)?;
        self.start += padding;
        self.expect(b")")
    }
}
