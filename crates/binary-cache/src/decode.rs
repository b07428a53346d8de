//! Compressions of NARs, and HTTP content encodings, as streams.

use crate::zstd_decoder;
use brotli_decompressor::Decompressor as Brotli;
use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, IGNORE_CHECK, MtStreamBuilder, Stream};
use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

/// Bytes of compressed data that are read at once.
const INPUT_SIZE: usize = 128 * 1024;

/// Memory xz may need in all: level 9 wants 65 MiB, and a larger dictionary gains NARs nothing.
const XZ_MEMORY: u64 = 128 * 1024 * 1024;

/// What xz takes beside its dictionary: `xz(1)` counts a megabyte.
const XZ_OVERHEAD: u64 = 1024 * 1024;

/// The largest zstd window taken, 128 MiB: what `zstd --ultra --long` writes and Nix reads.
const ZSTD_WINDOW_LOG: u32 = 27;

/// NARs of at least this many bytes are worth the threads that decode the blocks of an xz file
/// side by side.
const PARALLEL_XZ_SIZE: u64 = 16 * 1024 * 1024;

/// Memory the blocks of one xz file may take while they are decoded side by side; a file with
/// larger ones is decoded on one thread. Hydra's blocks are 512 KiB.
const XZ_THREADING_MEMORY: u64 = 32 * 1024 * 1024;

/// Compressed bytes that are taken for each one that comes of them: no compression makes anything
/// twice as long.
const MAX_EXPANSION: u64 = 2;

/// Compressed bytes that are taken before anything comes of them: the largest block of any
/// compression is of less than one megabyte, and a decoder for each of a million empty files takes long.
const MAX_FRUITLESS: u64 = 2 * 1024 * 1024;

/// The same where blocks are decoded side by side: these are read first, up to
/// [`XZ_THREADING_MEMORY`].
const MAX_FRUITLESS_PARALLEL: u64 = 2 * XZ_THREADING_MEMORY;

/// Empty xz streams in a row: each one costs a decoder with its threads, and no tool writes any.
const MAX_EMPTY_STREAMS: u32 = 100;

/// The most encodings of one answer: each is a decoder with its memory inside another. Servers send
/// one, and a proxy may add another.
const MAX_ENCODINGS: usize = 2;

/// Why a stream cannot be decoded at all.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the compression `{0}` is not known")]
    UnknownCompression(String),
    /// More than [`MAX_ENCODINGS`] in a `Content-Encoding`.
    #[error("its answer is encoded more than {MAX_ENCODINGS} times")]
    TooManyEncodings,
    #[error("the decoder cannot start: {0}")]
    Io(#[source] io::Error),
}

/// Memory that a decoder may take. A file that asks for more, at its beginning or later, is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderLimits {
    /// Bytes of a zstd window, rounded up to a power of two, or of an xz dictionary.
    pub window: u64,
    /// Bytes with which the blocks of an xz file are decoded side by side; 0 for one after the other.
    pub threads: u64,
}

impl DecoderLimits {
    /// All that any NAR of `size` bytes may have.
    #[must_use]
    pub fn all(size: u64) -> Self {
        let is_large = size >= PARALLEL_XZ_SIZE;
        Self {
            window: 1 << ZSTD_WINDOW_LOG,
            threads: if is_large { XZ_THREADING_MEMORY } else { 0 },
        }
    }

    fn zstd_window_log(self) -> u32 {
        let log = self.window.checked_next_power_of_two().map(u64::ilog2);
        // 1 KiB is the smallest window that there is (RFC 8878, 3.1.1.1.2).
        log.unwrap_or(ZSTD_WINDOW_LOG).clamp(10, ZSTD_WINDOW_LOG)
    }

    fn xz_memory(self) -> u64 {
        self.window.saturating_add(XZ_OVERHEAD).min(XZ_MEMORY)
    }
}

/// Wraps `bytes` into a decoder of `compression`, as a narinfo or a `Content-Encoding` names it.
fn decoder(
    bytes: impl BufRead + 'static,
    compression: &str,
    limits: DecoderLimits,
) -> Result<Box<dyn Read>, DecodeError> {
    if is_identity(compression) {
        return Ok(Box::new(bytes));
    }
    fruitful(bytes, MAX_FRUITLESS, |bytes| {
        endless_decoder(bytes, compression, limits)
    })
}

/// The same, but it may take bytes for ever and give none: empty files in a row are a file too.
fn endless_decoder(
    bytes: impl BufRead + 'static,
    compression: &str,
    limits: DecoderLimits,
) -> Result<Box<dyn Read>, DecodeError> {
    Ok(match compression.to_ascii_lowercase().as_str() {
        // The hash of a NAR, which is checked anyhow, says more than xz's own checksum.
        "xz" | "lzma" => Box::new(XzDecoder::new_stream(
            bytes,
            Stream::new_stream_decoder(limits.xz_memory(), CONCATENATED | IGNORE_CHECK)
                .map_err(|error| DecodeError::Io(error.into()))?,
        )),
        "zstd" => {
            let window_log = limits.zstd_window_log();
            Box::new(zstd_decoder::decoder(bytes, window_log).map_err(DecodeError::Io)?)
        }
        "bzip2" => Box::new(MultiBzDecoder::new(bytes)),
        "gzip" | "x-gzip" => Box::new(MultiGzDecoder::new(bytes)),
        "deflate" => Box::new(ZlibDecoder::new(bytes)),
        "br" => Box::new(Brotli::new(bytes, INPUT_SIZE)),
        other => return Err(DecodeError::UnknownCompression(other.to_string())),
    })
}

/// Decodes every encoding that a `Content-Encoding` lists; the last one was applied last.
pub fn content_decoder(
    bytes: Box<dyn Read>,
    encodings: &str,
) -> Result<Box<dyn Read>, DecodeError> {
    let mut left = MAX_ENCODINGS;
    encodings
        .rsplit(',')
        .map(str::trim)
        .filter(|encoding| !is_identity(encoding))
        .try_fold(bytes, |bytes, encoding| {
            left = left.checked_sub(1).ok_or(DecodeError::TooManyEncodings)?;
            let bytes = io::BufReader::with_capacity(INPUT_SIZE, bytes);
            decoder(bytes, encoding, DecoderLimits::all(0))
        })
}

/// Whether a compression's name says that there is none.
#[must_use]
pub fn is_identity(compression: &str) -> bool {
    ["", "none", "identity"]
        .iter()
        .any(|name| compression.eq_ignore_ascii_case(name))
}

/// The decoder for a NAR of `size` bytes, where more threads may pay.
pub fn nar_decoder(
    bytes: impl BufRead + 'static,
    compression: &str,
    size: u64,
) -> Result<Box<dyn Read>, DecodeError> {
    limited_decoder(bytes, compression, DecoderLimits::all(size))
}

/// The same, with no more memory than this.
pub fn limited_decoder(
    bytes: impl BufRead + 'static,
    compression: &str,
    limits: DecoderLimits,
) -> Result<Box<dyn Read>, DecodeError> {
    if compression == "xz" && limits.threads > 0 {
        return fruitful(bytes, MAX_FRUITLESS_PARALLEL, |bytes| {
            let decoder = ParallelXz::new(bytes, limits).map_err(DecodeError::Io)?;
            Ok(Box::new(decoder))
        });
    }
    decoder(bytes, compression, limits)
}

/// Makes a decoder of `bytes` that ends with an error once it has taken far more than it gives.
fn fruitful<R: BufRead + 'static>(
    bytes: R,
    fruitless: u64,
    decoder: impl FnOnce(Taken<R>) -> Result<Box<dyn Read>, DecodeError>,
) -> Result<Box<dyn Read>, DecodeError> {
    let left = Rc::new(Cell::new(fruitless));
    let decoder = decoder(Taken {
        bytes,
        left: Rc::clone(&left),
    })?;
    Ok(Box::new(Given { decoder, left }))
}

/// The compressed side of a decoder, which may take this many bytes more.
struct Taken<R> {
    bytes: R,
    left: Rc<Cell<u64>>,
}

impl<R: BufRead> BufRead for Taken<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left.get() == 0 {
            let reason = "nothing comes of its compressed bytes";
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, reason));
        }
        self.bytes.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.left.set(self.left.get().saturating_sub(count as u64));
        self.bytes.consume(count);
    }
}

impl<R: BufRead> Read for Taken<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

/// The other side: what it gives lets more be taken.
struct Given {
    decoder: Box<dyn Read>,
    left: Rc<Cell<u64>>,
}

impl Read for Given {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(into)?;
        let more = MAX_EXPANSION.saturating_mul(count as u64);
        self.left.set(self.left.get().saturating_add(more));
        Ok(count)
    }
}

/// Decodes the blocks of an xz file on all cores, and files in a row one after the other.
///
/// liblzma's parallel decoder ends with the first xz stream of a file; what follows is another one,
/// after padding of zeros, or nothing.
struct ParallelXz<R> {
    /// None only between two streams.
    decoder: Option<XzDecoder<R>>,
    /// Empty streams in a row.
    empty: u32,
    limits: DecoderLimits,
}

impl<R: BufRead> ParallelXz<R> {
    fn new(input: R, limits: DecoderLimits) -> io::Result<Self> {
        let decoder = XzDecoder::new_stream(input, parallel_stream(limits)?);
        Ok(Self {
            decoder: Some(decoder),
            empty: 0,
            limits,
        })
    }
}

impl<R: BufRead> Read for ParallelXz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(mut decoder) = self.decoder.take() {
            let count = decoder.read(buffer)?;
            if count > 0 {
                self.decoder = Some(decoder);
                self.empty = 0;
                return Ok(count);
            }
            self.empty += 1;
            if self.empty > MAX_EMPTY_STREAMS {
                return Err(io::Error::other("it has too many empty streams in a row"));
            }
            let mut input = decoder.into_inner();
            if skip_zeros(&mut input)? {
                self.decoder = Self::new(input, self.limits)?.decoder;
            }
        }
        Ok(0)
    }
}

/// Skips zeros. Returns whether anything follows them.
fn skip_zeros(input: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(false);
        }
        let zeros = buffer.iter().take_while(|&&byte| byte == 0).count();
        let more = zeros < buffer.len();
        input.consume(zeros);
        if more {
            return Ok(true);
        }
    }
}

fn parallel_stream(limits: DecoderLimits) -> io::Result<Stream> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    MtStreamBuilder::new()
        .threads(u32::try_from(threads).unwrap_or(1))
        .memlimit_threading(limits.threads)
        // Above this even one after the other; it bounds the other limit as well.
        .memlimit_stop(limits.xz_memory().max(limits.threads))
        .decoder()
        .map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn xz(bytes: &[u8], block: u64) -> Vec<u8> {
        let stream = MtStreamBuilder::new()
            .threads(2)
            .preset(1)
            .block_size(block)
            .encoder();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream.unwrap());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decoded(bytes: Vec<u8>, size: u64) -> io::Result<Vec<u8>> {
        let mut decoded = Vec::new();
        nar_decoder(io::Cursor::new(bytes), "xz", size)
            .unwrap()
            .read_to_end(&mut decoded)?;
        Ok(decoded)
    }

    #[test]
    fn xz_files_in_a_row_with_padding_are_one_on_one_thread_and_on_all() {
        let text: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut file = xz(&text, 512 * 1024);
        file.extend([0; 8]);
        file.extend(xz(b"and more", 512 * 1024));
        let expected = [text.as_slice(), b"and more"].concat();
        for size in [1, PARALLEL_XZ_SIZE] {
            assert!(decoded(file.clone(), size).unwrap() == expected, "{size}");
        }
    }

    #[test]
    fn encodings_in_a_row_are_taken_off_from_the_outside() {
        use flate2::{Compression, write};
        let mut inner = write::GzEncoder::new(Vec::new(), Compression::fast());
        inner.write_all(b"text").unwrap();
        let mut outer = write::ZlibEncoder::new(Vec::new(), Compression::fast());
        outer.write_all(&inner.finish().unwrap()).unwrap();
        let bytes = Box::new(io::Cursor::new(outer.finish().unwrap()));
        let mut text = String::new();
        content_decoder(bytes, "gzip, Deflate")
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "text");
    }

    #[test]
    fn no_more_than_two_encodings_are_taken() {
        for name in ["br", "gzip", "identity"] {
            let encodings = vec![name; 20_000].join(",");
            let decoder = content_decoder(Box::new(&b"text"[..]), &encodings);
            let is_refused = matches!(decoder, Err(DecodeError::TooManyEncodings));
            assert_eq!(is_refused, name != "identity");
        }
    }

    /// The same bytes again and again, without end.
    struct Endless(Vec<u8>, usize);

    impl BufRead for Endless {
        fn fill_buf(&mut self) -> io::Result<&[u8]> {
            Ok(&self.0[self.1..])
        }

        fn consume(&mut self, count: usize) {
            self.1 = (self.1 + count) % self.0.len();
        }
    }

    impl Read for Endless {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.fill_buf()?.read(into)?;
            self.consume(count);
            Ok(count)
        }
    }

    #[test]
    fn empty_files_in_a_row_without_end_are_an_error() {
        // A frame that is to be skipped, of a megabyte (RFC 8878, 3.1.2); xz's padding.
        let mut skipped = vec![0x50, 0x2a, 0x4d, 0x18, 0, 0, 0x10, 0];
        skipped.resize(8 + (1 << 20), 0);
        let padded = [xz(b"", 1 << 20), vec![0; 1 << 20]].concat();
        for (name, size, empty) in [
            ("zstd", 1, skipped),
            ("xz", 1, padded.clone()),
            ("xz", PARALLEL_XZ_SIZE, padded),
        ] {
            let bytes = Endless(empty, 0);
            let mut decoder = nar_decoder(bytes, name, size).unwrap();
            let error = decoder.read(&mut [0; 10]).unwrap_err();
            assert_eq!(
                error.to_string(),
                "nothing comes of its compressed bytes",
                "{name}"
            );
        }
    }

    #[test]
    fn a_later_part_of_a_file_gets_no_more_memory_than_the_first() {
        let zstd = |log| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.include_contentsize(false).unwrap();
            encoder.write_all(b"content").unwrap();
            encoder.finish().unwrap()
        };
        let xz = |preset| {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), preset);
            encoder.write_all(b"content").unwrap();
            encoder.finish().unwrap()
        };
        let small = DecoderLimits {
            window: 1 << 20,
            threads: 0,
        };
        let threads = DecoderLimits {
            threads: 4 << 20,
            ..small
        };
        for (compression, first, later, limits) in [
            ("zstd", zstd(20), zstd(21), small),
            ("xz", xz(1), xz(6), small),
            ("xz", xz(1), xz(6), threads),
        ] {
            let decoded = |bytes: Vec<u8>, limits| {
                let mut text = String::new();
                let bytes = io::Cursor::new(bytes);
                let mut decoder = limited_decoder(bytes, compression, limits).unwrap();
                decoder.read_to_string(&mut text).map(|_| text)
            };
            let file = [first.clone(), later].concat();
            assert_eq!(decoded(first, limits).unwrap(), "content", "{compression}");
            assert!(decoded(file.clone(), limits).is_err(), "{compression}");
            let all = DecoderLimits::all(0);
            assert_eq!(decoded(file, all).unwrap(), "contentcontent");
        }
    }

    #[test]
    fn empty_xz_streams_in_a_row_are_not_decoded_without_end() {
        let bytes = Endless(xz(b"", 1 << 20), 0);
        let mut decoder = nar_decoder(bytes, "xz", PARALLEL_XZ_SIZE).unwrap();
        let error = decoder.read(&mut [0; 10]).unwrap_err();
        assert_eq!(error.to_string(), "it has too many empty streams in a row");
    }

    #[test]
    fn an_xz_file_that_is_cut_short_is_an_error_on_one_thread_and_on_all() {
        let mut file = xz(&vec![7; 2_000_000], 512 * 1024);
        file.truncate(file.len() - 20);
        for size in [1, PARALLEL_XZ_SIZE] {
            assert!(decoded(file.clone(), size).is_err(), "{size}");
        }
    }
}
