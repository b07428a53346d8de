//! Tells compressed files and archives by their first and last bytes.

use std::io::{self, Read, Seek, SeekFrom};

/// What each member of a zip begins with.
pub const ZIP_MEMBER: &[u8; 4] = b"PK\x03\x04";

/// Bytes of a zip's end record, where it has no comment.
const ZIP_END_LENGTH: usize = 22;

/// What it begins with.
pub const ZIP_END: &[u8; 4] = b"PK\x05\x06";

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    Gzip,
    Xz,
    Zstd,
    Bzip2,
    Zip,
    /// A zlib stream that is all of the file, such as a git object.
    Zlib,
    /// It has no magic number: a file whose name ends with `.br`.
    Brotli,
    /// A module of Erlang's, whose literals are a zlib stream.
    Beam,
}

impl Packing {
    /// Tells the packing of a file that is called `name` and has these first bytes.
    pub fn of_file(name: &[u8], bytes: &[u8]) -> Option<Self> {
        let is_brotli = name.ends_with(b".br");
        Self::of_beginning(bytes).or(is_brotli.then_some(Self::Brotli))
    }

    /// Tells a packing by the first bytes of a file.
    pub fn of_beginning(bytes: &[u8]) -> Option<Self> {
        if is_zlib(bytes) {
            return Some(Self::Zlib);
        }
        if bytes.starts_with(b"FOR1") && bytes.get(8..12) == Some(b"BEAM") {
            return Some(Self::Beam);
        }
        let magics: [(&[u8], Self); 5] = [
            (b"\x1f\x8b\x08", Self::Gzip),
            (b"\xfd7zXZ\0", Self::Xz),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
            (b"BZh", Self::Bzip2),
            (ZIP_MEMBER, Self::Zip),
        ];
        let named = magics
            .into_iter()
            .find(|(magic, _)| bytes.starts_with(magic));
        named.map(|(_, packing)| packing)
    }

    /// Tells by the last bytes of a file whether it ends with a zip.
    pub fn is_zip_end(bytes: &[u8]) -> bool {
        let end = bytes.len().checked_sub(ZIP_END_LENGTH);
        end.is_some_and(|end| bytes[end..].starts_with(ZIP_END))
    }

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Zip => "zip",
            Self::Zlib => "zlib",
            Self::Brotli => "brotli",
            Self::Beam => "BEAM",
        }
    }
}

/// Whether bytes begin as zlib's streams do (RFC 1950): deflate with a window of 32 KiB, a checksum of the
/// two bytes, and no dictionary. One other file in a thousand that begins with `x` does too.
fn is_zlib(bytes: &[u8]) -> bool {
    matches!(bytes, [0x78, flags, ..] if (0x7800 + u16::from(*flags)) % 31 == 0 && flags & 0x20 == 0)
}

/// The zlib stream in the chunk of literals of a BEAM module, empty where there is none.
///
/// Format: `FOR1`, the length of the rest, `BEAM`; then chunks of a name, a length and as many bytes, filled
/// up to a multiple of four. `LitT` has a length unpacked, zero where it is not packed, and the stream
/// (`lib/compiler/src/beam_asm.erl` of Erlang/OTP).
pub fn beam_literals<R: Read + Seek>(mut file: R) -> io::Result<io::Take<R>> {
    file.seek(SeekFrom::Start(12))?;
    let mut header = [0; 8];
    while read_up_to(&mut file, &mut header)? == header.len() {
        let [a, b, c, d, length @ ..] = header;
        let length = u32::from_be_bytes(length);
        if [a, b, c, d] == *b"LitT" && length > 4 {
            file.seek_relative(4)?;
            return Ok(file.take(u64::from(length) - 4));
        }
        file.seek_relative(i64::from(length.next_multiple_of(4)))?;
    }
    Ok(file.take(0))
}

/// Fills `into` as far as `from` goes. Returns how many bytes that is.
pub fn read_up_to(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < into.len() {
        match from.read(&mut into[length..])? {
            0 => break,
            count => length += count,
        }
    }
    Ok(length)
}
