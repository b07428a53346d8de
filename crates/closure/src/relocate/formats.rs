//! File formats: whether references in them can be rewritten at equal length, told by a file's bytes.
//!
//! A format is in the table with the reason. What is in no row is rewritten only if it is text.
//! `docs/engines.md` has the same table with the source of each row.

use crate::relocate::blocker::BlockerReason;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes at the beginning of a file by which a format is told: a tar names itself at byte 257.
const HEAD: usize = 512;

/// Bytes at the end that are looked at.
const TAIL: usize = 32;

/// Bytes of an unknown format that a message shows.
const SHOWN: usize = 8;

/// What Linux appends to a module with its signature (`MODULE_SIG_STRING`).
const MODULE_SIGNATURE: &[u8] = b"~Module signature appended~\n";

/// What becomes of a file whose references are rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// It works as before.
    Safe(&'static str),
    /// It is this, and would be broken.
    Unsafe(&'static str),
    /// It begins with these bytes, in hexadecimal, and no one knows.
    Unknown(String),
}

impl Format {
    /// Its name, or why a file of it with a store path prevents moving its closure.
    pub fn checked(&self) -> Result<&'static str, BlockerReason> {
        match self {
            Self::Safe(name) => Ok(name),
            Self::Unsafe(name) => Err(BlockerReason::Format((*name).to_string())),
            Self::Unknown(bytes) => Err(BlockerReason::UnknownFormat(bytes.clone())),
        }
    }
}

/// How a format is known, and what a rewrite does to it.
struct Row {
    name: &'static str,
    at: usize,
    magic: &'static [u8],
    is_safe: bool,
}

const fn safe(name: &'static str, magic: &'static [u8]) -> Row {
    Row {
        name,
        at: 0,
        magic,
        is_safe: true,
    }
}

const fn broken(name: &'static str, at: usize, magic: &'static [u8]) -> Row {
    Row {
        name,
        at,
        magic,
        is_safe: false,
    }
}

/// The first row that fits counts.
const TABLE: &[Row] = &[
    // An AppImage is an ELF program with a squashfs behind it.
    broken("AppImage", 8, b"AI\x01"),
    broken("AppImage", 8, b"AI\x02"),
    // Strings are found by their places. Its hash tables are over the names of symbols; a build id and
    // the checksum in `.gnu_debuglink` are about other files, and read by debuggers only.
    safe("ELF", b"\x7fELF"),
    // Members are found by their sizes. Go, Rust and OCaml libraries are such archives.
    safe("ar archive", b"!<arch>\n"),
    safe("ar archive", b"!<thin>\n"),
    // Strings have their lengths before them, and no checksum is over them.
    safe("LuaJIT bytecode", b"\x1bLJ"),
    safe("Lua bytecode", b"\x1bLua"),
    safe("WebAssembly", b"\0asm"),
    safe("OCaml object", b"Caml1999"),
    safe("Rust metadata", b"rust\0\0\0"),
    // The fingerprints in an interface are compared, never made again.
    safe("GHC interface", b"\x01\xfa\xce"),
    safe("GHC package cache", b"\0ghcpkg\0"),
    // Its one checksum is of the program that may load it.
    safe("Emacs dump", b"DUMPEDGNUEMACS"),
    safe("Emacs bytecode", b";ELC"),
    // Hash tables are over the names of entries, which are no paths.
    safe("GObject typelib", b"GOBJ\nMETADATA\r\n\x1a"),
    safe("GVariant database", b"GVariant"),
    safe("Java image", b"\xda\xda\xfe\xca"),
    safe("Java image", b"\xca\xfe\xda\xda"),
    // Sorted or hashed by what may be a path.
    broken("SQLite database", 0, b"SQLite format 3\0"),
    broken("SQLite journal", 0, b"\x37\x7f\x06\x82"),
    broken("SQLite journal", 0, b"\x37\x7f\x06\x83"),
    broken("Berkeley DB", 12, b"\x62\x31\x05\x00"),
    broken("Berkeley DB", 12, b"\x61\x15\x06\x00"),
    broken("Berkeley DB", 12, b"\x00\x05\x31\x62"),
    broken("Berkeley DB", 12, b"\x00\x06\x15\x61"),
    broken("GDBM database", 0, b"\xcd\x9a\x57\x13"),
    broken("GDBM database", 0, b"\xce\x9a\x57\x13"),
    broken("GDBM database", 0, b"\xcf\x9a\x57\x13"),
    broken("GDBM database", 0, b"\xd0\x9a\x57\x13"),
    broken("GDBM database", 0, b"\xd1\x9a\x57\x13"),
    broken("LMDB database", 16, b"\xde\xc0\xef\xbe"),
    broken("TDB database", 0, b"TDB file\n"),
    broken("Lucene index", 0, b"\x3f\xd7\x6c\x17"),
    broken("gettext catalogue", 0, b"\xde\x12\x04\x95"),
    broken("gettext catalogue", 0, b"\x95\x04\x12\xde"),
    broken("systemd hardware database", 0, b"KSLPHHRH"),
    broken("systemd journal", 0, b"LPKSHHRH"),
    broken("HDF5 file", 0, b"\x89HDF\r\n\x1a\n"),
    broken("Parquet file", 0, b"PAR1"),
    // With a checksum or a signature over their bytes.
    broken("PNG image", 0, b"\x89PNG\r\n\x1a\n"),
    broken("PDF document", 0, b"%PDF-"),
    broken("WOFF font", 0, b"wOFF"),
    broken("WOFF2 font", 0, b"wOF2"),
    broken("Java class data archive", 0, b"\xa2\xab\x0b\xf0"),
    broken("Java class data archive", 0, b"\xa8\xab\x0b\xf0"),
    broken("git index", 0, b"DIRC\0\0\0"),
    broken("git pack index", 0, b"\xfftOc"),
    broken("signed text", 0, b"-----BEGIN PGP SIGNED MESSAGE-----"),
    broken("RPM package", 0, b"\xed\xab\xee\xdb"),
    broken("Windows program", 0, b"MZ\x90"),
    broken("tar archive", 257, b"ustar"),
];

/// Containers that are not looked into, so that a store path in one is not found.
const SEALED: &[(&str, &[u8])] = &[
    ("git pack", b"PACK\0\0\0\x02"),
    ("git pack", b"PACK\0\0\0\x03"),
    ("git bundle", b"# v2 git bundle\n"),
    ("git bundle", b"# v3 git bundle\n"),
    ("squashfs image", b"hsqs"),
    ("7z archive", b"7z\xbc\xaf\x27\x1c"),
    ("RAR archive", b"Rar!\x1a\x07"),
    ("cabinet", b"MSCF\0\0\0\0"),
    ("lz4 file", b"\x04\x22\x4d\x18"),
    ("lzip file", b"LZIP\x01"),
    ("lzop file", b"\x89LZO\0\r\n\x1a\n"),
];

/// The name of the container that a file with these first bytes is, if it is one that is not looked into.
pub fn sealed(head: &[u8]) -> Option<&'static str> {
    if matches!(head.get(8..11), Some(b"AI\x01" | b"AI\x02")) && head.starts_with(b"\x7fELF") {
        return Some("AppImage");
    }
    let mut all = SEALED.iter();
    all.find(|(_, magic)| head.starts_with(magic))
        .map(|(name, _)| *name)
}

/// Tells a format while the bytes of a file go by.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    head: Vec<u8>,
    tail: Vec<u8>,
    text: Text,
}

impl Probe {
    /// Adds the next bytes of the file.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let missing = HEAD - self.head.len();
        self.head.extend(&bytes[..bytes.len().min(missing)]);
        self.text.add(bytes);
        self.add_end(bytes);
    }

    fn add_end(&mut self, bytes: &[u8]) {
        self.tail.extend(&bytes[bytes.len().saturating_sub(TAIL)..]);
        let excess = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..excess);
    }

    fn known(&self) -> Option<&'static Row> {
        let mut rows = TABLE.iter();
        rows.find(|row| {
            let at = self.head.get(row.at..);
            at.is_some_and(|bytes| bytes.starts_with(row.magic))
        })
    }

    /// The format of the file with the bytes that were added.
    pub(crate) fn format(&self) -> Format {
        if self.tail.ends_with(MODULE_SIGNATURE) {
            return Format::Unsafe("signed kernel module");
        }
        match self.known() {
            Some(row) if row.is_safe => Format::Safe(row.name),
            Some(row) => Format::Unsafe(row.name),
            None => self.without_magic(),
        }
    }

    /// Formats with no magic number of their own.
    fn without_magic(&self) -> Format {
        match self.head.as_slice() {
            // The magic number has a version and these two; a size, or a hash, follows (PEP 552).
            [_, _, b'\r', b'\n', 0..=3, 0, 0, 0, ..] => Format::Safe("Python bytecode"),
            // Format 4.1 of the JVM's specification; versions begin at 45, as no Mach-O's count does.
            [0xca, 0xfe, 0xba, 0xbe, _, _, 0, 45..=255, ..] => Format::Safe("Java class"),
            // A chunk of literals may be packed, see `archives`.
            [
                b'F',
                b'O',
                b'R',
                b'1',
                _,
                _,
                _,
                _,
                b'B',
                b'E',
                b'A',
                b'M',
                ..,
            ] => Format::Safe("BEAM module"),
            _ if self.text.is_text() => Format::Safe("text"),
            // What it is made of is found by the places that its end has.
            _ if is_ocaml_end(&self.tail) => Format::Safe("OCaml bytecode"),
            head => Format::Unknown(hex(&head[..head.len().min(SHOWN)])),
        }
    }
}

/// The format of the file at `path`. All of it is read only where its beginning says nothing.
pub fn format_of(path: &Path) -> io::Result<Format> {
    let mut file = File::open(path)?;
    let mut probe = Probe::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(probe.format());
        }
        probe.add(&buffer[..count]);
        if probe.known().is_some() {
            let end = file.seek(SeekFrom::End(0))?;
            file.seek(SeekFrom::Start(end.saturating_sub(TAIL as u64)))?;
            let count = file.read(&mut buffer)?;
            probe.add_end(&buffer[..count]);
            return Ok(probe.format());
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether a file with this end is OCaml's bytecode: a magic number of 12 bytes, with a version.
fn is_ocaml_end(tail: &[u8]) -> bool {
    let magic = tail.last_chunk::<12>();
    magic.is_some_and(|magic| magic.starts_with(b"Caml1999X"))
}

/// Whether bytes are text: UTF-8, or another character set that has ASCII in it, with no zeros.
#[derive(Debug)]
struct Text {
    has_zero: bool,
    is_utf8: bool,
    /// Whether there are only the control characters that text has.
    is_plain: bool,
    /// The beginning of a character whose end is still to come.
    incomplete: Vec<u8>,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            has_zero: false,
            is_utf8: true,
            is_plain: true,
            incomplete: Vec::new(),
        }
    }
}

impl Text {
    fn add(&mut self, bytes: &[u8]) {
        self.has_zero = self.has_zero || memchr::memchr(0, bytes).is_some();
        if self.has_zero {
            return;
        }
        self.is_plain = self.is_plain
            && bytes
                .iter()
                .all(|byte| matches!(byte, 8..=13 | 0x1b | 0x20..=0x7e | 0x80..));
        if !self.is_utf8 {
            return;
        }
        self.incomplete.extend_from_slice(bytes);
        match std::str::from_utf8(&self.incomplete) {
            Ok(_) => self.incomplete.clear(),
            Err(error) if error.error_len().is_none() => {
                self.incomplete.drain(..error.valid_up_to());
            }
            Err(_) => self.is_utf8 = false,
        }
    }

    fn is_text(&self) -> bool {
        let is_utf8 = self.is_utf8 && self.incomplete.is_empty();
        !self.has_zero && (is_utf8 || self.is_plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Format {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let format = format_of(file.path()).unwrap();
        for size in [1, 7, 511, bytes.len().max(1)] {
            let mut probe = Probe::default();
            for piece in bytes.chunks(size) {
                probe.add(piece);
            }
            assert_eq!(probe.format(), format, "in pieces of {size}");
        }
        format
    }

    #[test]
    fn text_is_known_in_every_character_set_with_ascii() {
        for text in [
            "".as_bytes(),
            b"#!/bin/sh\n\x1b[1m\n",
            "grüße \u{1F600}\n".repeat(100).as_bytes(),
            b"gr\xfc\xdfe",
            b"vim\x01map",
        ] {
            assert_eq!(of(text), Format::Safe("text"));
        }
        for other in [b"a\0b".as_slice(), b"gr\xfc\x01"] {
            assert!(matches!(of(other), Format::Unknown(_)));
        }
        let cut = "grü".as_bytes();
        assert_eq!(of(&cut[..cut.len() - 1]), Format::Safe("text"));
        assert_eq!(
            of(b"\xffEXE\0abcdefgh"),
            Format::Unknown("ff45584500616263".into())
        );
    }

    #[test]
    fn a_format_is_known_by_its_first_bytes_or_by_its_end() {
        let padded = |at: usize, magic: &[u8]| {
            let mut bytes = vec![0; at];
            bytes.extend(magic);
            bytes.extend([0; 600]);
            bytes
        };
        for row in TABLE {
            let expected = if row.is_safe {
                Format::Safe(row.name)
            } else {
                Format::Unsafe(row.name)
            };
            assert_eq!(of(&padded(row.at, row.magic)), expected);
        }
        let module = [&padded(0, b"\x7fELF")[..], MODULE_SIGNATURE].concat();
        assert_eq!(of(&module), Format::Unsafe("signed kernel module"));
        let caml = [&padded(3, b"x")[..], b"Caml1999X036"].concat();
        assert_eq!(of(&caml), Format::Safe("OCaml bytecode"));
        for (bytes, name) in [
            (b"\xa7\r\r\n\0\0\0\0time".as_slice(), "Python bytecode"),
            (b"\xca\xfe\xba\xbe\0\0\0\x34\0", "Java class"),
            (b"FOR1\0\0\0\x20BEAM\0", "BEAM module"),
        ] {
            assert_eq!(of(bytes), Format::Safe(name));
        }
        let mach_o = b"\xca\xfe\xba\xbe\0\0\0\x02\0";
        assert!(matches!(of(mach_o), Format::Unknown(_)));
    }

    #[test]
    fn every_format_is_in_the_documentation() {
        let docs = include_str!("../../../../docs/engines.md");
        let names = TABLE.iter().map(|row| row.name);
        for name in names.chain(SEALED.iter().map(|(name, _)| *name)) {
            assert!(docs.contains(name), "{name}");
        }
    }
}
