//! Memory for decoders: each reserves what its compression's window takes before it begins.
//!
//! Many NARs are downloaded at once, and one window may take 128 MiB. With the reservations the memory of
//! a build does not depend on how many cores a machine has, or on what a cache sends.

use crate::parallel::lock;
use binary_cache::{DecodeError, DecoderLimits, limited_decoder};
use std::io::{self, BufRead, Read};
use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes that all decoders have together. A build takes 256 MiB at most: what is left is for buffers,
/// narinfos, one file that is held whole while it is packed anew, and the windows that decoders of zstd
/// keep for the next NAR, 32 MiB at most. A larger window has all of it.
const ALL: u64 = 96 * 1024 * 1024;

/// Bytes that a decoder takes beside its window.
const OVERHEAD: u64 = 512 * 1024;

/// Where a NAR is as large as the first, decoding the blocks of an xz file side by side takes at most the
/// second.
const PARALLEL_XZ: (u64, u64) = (16 * 1024 * 1024, 32 * 1024 * 1024);

/// First bytes of a file in which its window is written.
pub const HEAD: usize = 64;

static FREE: Mutex<u64> = Mutex::new(ALL);
static FREED: Condvar = Condvar::new();

/// Memory that a decoder may use until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    bytes: u64,
    limits: DecoderLimits,
}

/// Waits until there is memory for a decoder of `compression` whose input begins with `head`, and which
/// gives `size` bytes, if that is known. Reserve once, and nothing else while waiting for other locks.
///
/// The decoder then gets no more: a file of which a later part needs more than the first is decoded with
/// [`reserve_all`].
pub fn reserve(compression: &str, head: &[u8], size: Option<u64>) -> Reservation {
    let Some(limits) = limits(compression, head, size) else {
        return reserve_all(size.unwrap_or_default());
    };
    reserve_bytes(needed(limits, size), limits)
}

/// The same for a file that may need anything, since it says nothing at its beginning or too little.
pub fn reserve_all(size: u64) -> Reservation {
    reserve_bytes(ALL, DecoderLimits::all(size))
}

fn reserve_bytes(bytes: u64, limits: DecoderLimits) -> Reservation {
    let bytes = bytes.min(ALL);
    let mut free = FREED
        .wait_while(lock(&FREE), |free| *free < bytes)
        .unwrap_or_else(PoisonError::into_inner);
    *free -= bytes;
    Reservation { bytes, limits }
}

/// A decoder with the memory for it, which is only free again once the decoder is gone.
pub struct Reserved {
    decoder: Box<dyn Read>,
    _memory: Reservation,
}

impl Reservation {
    /// Makes the decoder.
    pub fn decoder(
        self,
        bytes: impl BufRead + 'static,
        compression: &str,
    ) -> Result<Reserved, DecodeError> {
        Ok(Reserved {
            decoder: limited_decoder(bytes, compression, self.limits)?,
            _memory: self,
        })
    }
}

impl Read for Reserved {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(into)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *lock(&FREE) += self.bytes;
        FREED.notify_all();
    }
}

/// Bytes that a decoder with these limits takes, which gives `size` bytes.
fn needed(limits: DecoderLimits, size: Option<u64>) -> u64 {
    // Memory that is not written to is not taken.
    let window = limits.window.min(size.unwrap_or(u64::MAX));
    OVERHEAD.saturating_add(window.max(limits.threads))
}

/// What a file with these first bytes needs. None where they do not say.
fn limits(compression: &str, head: &[u8], size: Option<u64>) -> Option<DecoderLimits> {
    let window = window(compression, head)?;
    let (from, most) = PARALLEL_XZ;
    let threads = match xz_block(head) {
        // Each thread has a block, packed and unpacked, beside its dictionary.
        Some(Block {
            sizes: Some(sizes), ..
        }) if compression == "xz" && size.is_some_and(|size| size >= from) => {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let thread = window.saturating_add(sizes);
            thread.saturating_mul(cores as u64).min(most)
        }
        _ => 0,
    };
    Some(DecoderLimits {
        // As a decoder of zstd is limited.
        window: window.checked_next_power_of_two().unwrap_or(u64::MAX),
        threads,
    })
}

/// Bytes of the window that a file with these first bytes needs. None where they do not say.
fn window(compression: &str, head: &[u8]) -> Option<u64> {
    Some(match compression.to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" | "deflate" => 32 * 1024,
        // 900 kB a block, four bytes each (`bzip2(1)`, "Memory management").
        "bzip2" => 4 * 1024 * 1024,
        // RFC 7932, 9.1.
        "br" => 16 * 1024 * 1024,
        "zstd" => zstd_window(head)?,
        _ => xz_block(head)?.dictionary,
    })
}

/// The window of a zstd frame (RFC 8878, 3.1.1.1).
fn zstd_window(head: &[u8]) -> Option<u64> {
    let head = head.strip_prefix(b"\x28\xb5\x2f\xfd")?;
    let descriptor = *head.first()?;
    if descriptor & 0x20 == 0 {
        let byte = *head.get(1)?;
        let base = 1_u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * u64::from(byte & 7));
    }
    // One segment: the window is the content, whose size comes after the dictionary's number.
    let at = 1 + [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let mut size = [0; 8];
    size[..length].copy_from_slice(head.get(at..at + length)?);
    let size = u64::from_le_bytes(size);
    Some(if length == 2 { size + 256 } else { size })
}

/// The first block of an xz file.
struct Block {
    dictionary: u64,
    /// Bytes of the block packed and unpacked together. Only blocks that say so are decoded side by side.
    sizes: Option<u64>,
}

/// Reads a block header where LZMA2 is the only filter (the `.xz` file format, 3.1 and 5.3.1).
fn xz_block(head: &[u8]) -> Option<Block> {
    const BLOCK: usize = 12;
    let flags = *head.get(BLOCK + 1)?;
    let mut at = BLOCK + 2;
    let mut sizes = 0_u64;
    let has_sizes = [flags & 0x40 != 0, flags & 0x80 != 0];
    for _ in has_sizes.into_iter().filter(|has_size| *has_size) {
        // Numbers of seven bits a byte, the lowest first.
        for shift in (0..63).step_by(7) {
            let byte = *head.get(at)?;
            at += 1;
            sizes = sizes.saturating_add(u64::from(byte & 0x7f) << shift);
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    let [0x21, 1, bits] = *head.get(at..at + 3)? else {
        return None;
    };
    let bits = u32::from(bits & 0x3f);
    (bits < 40).then(|| Block {
        dictionary: u64::from(2 | (bits & 1)) << (bits / 2 + 11),
        sizes: (has_sizes == [true, true]).then_some(sizes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use platform::greedy::{xz_with_a_large_dictionary, zstd_with_window};
    use std::io::Write;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_decoder_needs_what_its_file_says() {
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
        xz.write_all(b"content").unwrap();
        let xz = xz.finish().unwrap();
        let needs = |compression, head: &[u8], size| {
            limits(compression, head, size).map(|limits| needed(limits, size))
        };
        assert_eq!(window("xz", &xz), Some(8 * MIB));
        let large = xz_with_a_large_dictionary(xz.clone());
        assert!(needs("xz", &large, None) >= Some(OVERHEAD + 1536 * MIB));
        let long = zstd_with_window(27, b"content");
        assert_eq!(window("zstd", &long), Some(128 * MIB));
        let small = zstd::bulk::compress(b"content", 3).unwrap();
        assert_eq!(window("zstd", &small), Some(7));
        let content = vec![b'x'; 300];
        assert_eq!(
            window("zstd", &zstd::bulk::compress(&content, 3).unwrap()),
            Some(300)
        );
        for compression in ["xz", "zstd"] {
            assert_eq!(window(compression, b"anything"), None);
            assert_eq!(reserve(compression, b"anything", None).bytes, ALL);
        }
        assert_eq!(needs("xz", &xz, Some(1000)), Some(OVERHEAD + 1000));
        let one_by_one = needs("xz", &xz, Some(17 * MIB));
        assert_eq!(one_by_one, Some(OVERHEAD + 8 * MIB));
        let blocks = [&xz[..13], &[0xc0, 0x80, 1, 0x80, 2, 0x21, 1, 22]].concat();
        let block = xz_block(&blocks).unwrap();
        assert_eq!((block.dictionary, block.sizes), (8 * MIB, Some(128 + 256)));
        let many = needs("xz", &blocks, Some(17 * MIB)).unwrap();
        assert!((8 * MIB..=OVERHEAD + 32 * MIB).contains(&many), "{many}");
    }

    #[test]
    fn a_decoder_gets_no_more_than_its_reservation_for_a_later_frame() {
        let frames = |first, later| {
            let mut frames = zstd_with_window(first, b"one ");
            frames.extend(zstd_with_window(later, b"two"));
            frames
        };
        let decoded = |bytes: Vec<u8>, memory: Reservation| {
            let mut text = String::new();
            let mut decoder = memory.decoder(io::Cursor::new(bytes), "zstd").unwrap();
            decoder.read_to_string(&mut text).map(|_| text)
        };
        let reserved = |bytes: &[u8]| reserve("zstd", bytes, None);
        let same = frames(20, 20);
        assert_eq!(decoded(same.clone(), reserved(&same)).unwrap(), "one two");
        let larger = frames(20, 27);
        assert!(decoded(larger.clone(), reserved(&larger)).is_err());
        assert_eq!(decoded(larger, reserve_all(0)).unwrap(), "one two");
    }

    #[test]
    fn a_decoder_waits_for_the_memory_of_others() {
        use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
        let used = AtomicU64::new(0);
        let most = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    let held = reserve("zstd", &zstd_with_window(25, b"content"), None);
                    let now = used.fetch_add(held.bytes, SeqCst) + held.bytes;
                    most.fetch_max(now, SeqCst);
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    used.fetch_sub(held.bytes, SeqCst);
                });
            }
        });
        let most = most.into_inner();
        assert!((64 * MIB..=ALL).contains(&most), "{most}");
    }
}
