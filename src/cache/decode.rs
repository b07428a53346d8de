//! Compressions of NARs, and HTTP content encodings, as streams.

use brotli_decompressor::Decompressor as Brotli;
use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use std::fmt;
use std::io::{self, Read};

/// Bytes of compressed data that are read at once.
const INPUT_SIZE: usize = 128 * 1024;

/// Memory xz may need in all: level 9 wants 65 MiB, and a larger dictionary gains NARs nothing.
const XZ_MEMORY: u64 = 128 * 1024 * 1024;

/// The largest zstd window taken, 128 MiB: what `zstd --ultra --long` writes and Nix reads.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Why a stream cannot be decoded at all.
#[derive(Debug)]
pub enum DecodeError {
    UnknownCompression(String),
    Io(io::Error),
}

/// Wraps `bytes` into a decoder of `compression`, as a narinfo or a `Content-Encoding` names it.
pub fn decoder(bytes: Box<dyn Read>, compression: &str) -> Result<Box<dyn Read>, DecodeError> {
    Ok(match compression.to_ascii_lowercase().as_str() {
        "none" | "identity" | "" => bytes,
        "xz" | "lzma" => Box::new(XzDecoder::new_stream(
            io::BufReader::with_capacity(INPUT_SIZE, bytes),
            Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)
                .map_err(|error| DecodeError::Io(error.into()))?,
        )),
        "zstd" => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(
                io::BufReader::with_capacity(INPUT_SIZE, bytes),
            )
            .map_err(DecodeError::Io)?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG)
                .map_err(DecodeError::Io)?;
            Box::new(decoder)
        }
        "bzip2" => Box::new(MultiBzDecoder::new(bytes)),
        "gzip" | "x-gzip" => Box::new(MultiGzDecoder::new(bytes)),
        "br" => Box::new(Brotli::new(bytes, INPUT_SIZE)),
        other => return Err(DecodeError::UnknownCompression(other.to_string())),
    })
}

impl fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCompression(name) => {
                write!(formatter, "the compression `{name}` is not known")
            }
            Self::Io(error) => write!(formatter, "the decoder cannot start: {error}"),
        }
    }
}
