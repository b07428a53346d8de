//! What a file to execute is, by its first bytes: a program for some processor, a script, or neither.
//!
//! Formats: the header of `elf(5)`, and the first line of a script of `execve(2)`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The kernel reads no more of a file to tell what it is, `BINPRM_BUF_SIZE` of `linux/binfmts.h`.
const START: u64 = 256;

/// Scripts that are each the interpreter of the one before, as many as Linux follows.
const MAX_SCRIPTS: usize = 5;

/// Bytes of an ELF header of 64 bits, and of 32 bits.
const HEADER_64: usize = 64;
const HEADER_32: usize = 52;

/// A processor, `e_machine` of an ELF header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine(u16);

impl Machine {
    pub const I686: Self = Self(3);
    pub const ARM: Self = Self(40);
    pub const X86_64: Self = Self(62);
    pub const AARCH64: Self = Self(183);

    /// The names are those of Nix.
    const NAMES: [(Self, &str); 7] = [
        (Self::I686, "i686"),
        (Self::ARM, "armv7l"),
        (Self::X86_64, "x86_64"),
        (Self::AARCH64, "aarch64"),
        (Self(21), "powerpc64"),
        (Self(243), "riscv64"),
        (Self(258), "loongarch64"),
    ];

    /// The processor that this program was compiled for.
    pub const fn own() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::AARCH64
        } else {
            Self::X86_64
        }
    }

    /// The processor that buildpacks (`amd64`) or Nix (`x86_64`, of a system `x86_64-linux`) call so.
    pub fn named(name: &str) -> Option<Self> {
        let name = match name {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            "armv6l" | "armv5tel" => "armv7l",
            "i386" | "i486" | "i586" => "i686",
            other => other,
        };
        let mut known = Self::NAMES.into_iter();
        known.find(|(_, own)| *own == name).map(|(own, _)| own)
    }

    /// Whether it runs programs for `other`: those of 32 bits, too, where its kernel takes them.
    pub fn runs(self, other: Self) -> bool {
        self == other
            || matches!(
                (self, other),
                (Self::X86_64, Self::I686) | (Self::AARCH64, Self::ARM)
            )
    }

    /// The processor of these programs, where it is another one than this: None if any of them runs.
    #[must_use]
    pub fn foreign_among(self, programs: &[Self]) -> Option<Self> {
        let runs = programs.iter().any(|program| self.runs(*program));
        programs.first().copied().filter(|_| !runs)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut known = Self::NAMES.into_iter();
        match known.find(|(own, _)| own == self) {
            Some((_, name)) => formatter.write_str(name),
            None => write!(formatter, "processor {} of elf(5)", self.0),
        }
    }
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A program, or a library.
    Elf(Machine),
    /// The beginning of an ELF header.
    CutElf,
    /// A script, and the interpreter that its first line names, with a carriage return that the line
    /// may end with.
    Script(String),
    /// Text, which the shell runs.
    Text,
    /// Something that neither the kernel nor a shell runs; what it is.
    Other(&'static str),
}

impl Kind {
    pub fn of(file: &Path) -> io::Result<Self> {
        let mut start = Vec::new();
        File::open(file)?.take(START).read_to_end(&mut start)?;
        Ok(Self::of_bytes(&start))
    }

    /// The kind of a file that begins with these bytes.
    pub fn of_bytes(start: &[u8]) -> Self {
        if let Some(line) = start.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next();
            let words = line.unwrap_or_default().split(|byte| b" \t".contains(byte));
            let interpreter = words.into_iter().find(|word| !word.is_empty());
            let interpreter = interpreter.unwrap_or_default();
            return Self::Script(String::from_utf8_lossy(interpreter).into_owned());
        }
        if start.starts_with(b"\x7fELF") {
            return elf(start);
        }
        let mut lines = start.split(|byte| *byte == b'\n');
        // As shells tell a text: https://www.austingroupbugs.net/view.php?id=1226.
        let is_text = !lines.next().unwrap_or_default().contains(&0);
        match start {
            [0xfe, 0xed, 0xfa, 0xce | 0xcf, ..]
            | [0xce | 0xcf, 0xfa, 0xed, 0xfe, ..]
            | [0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, ..0x20, ..] => Self::Other("a program for macOS"),
            [b'M', b'Z', ..] if !is_text => Self::Other("a program for Windows"),
            [0x1f, 0x8b, ..]
            | [b'P', b'K', 3, 4, ..]
            | [0xfd, b'7', b'z', b'X', b'Z', ..]
            | [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Other("an archive"),
            _ if is_text => Self::Text,
            _ => Self::Other("data"),
        }
    }
}

fn elf(start: &[u8]) -> Kind {
    let size = match start.get(4) {
        Some(1) => HEADER_32,
        _ => HEADER_64,
    };
    let machine = start.get(18..).and_then(|rest| rest.first_chunk());
    match (machine, start.get(5)) {
        (Some(machine), Some(order)) if start.len() >= size => Kind::Elf(Machine(match order {
            2 => u16::from_be_bytes(*machine),
            _ => u16::from_le_bytes(*machine),
        })),
        _ => Kind::CutElf,
    }
}

/// The file that the kernel runs for `file`, and its kind: for a script its interpreter, or the script
/// itself where that is not there. `followed` returns where a path is, with all links followed. None
/// where the files do not tell.
pub fn behind<E>(
    file: &Path,
    followed: impl Fn(&Path) -> Result<Option<PathBuf>, E>,
) -> Result<Option<(PathBuf, Kind)>, E> {
    let mut found = None;
    let mut next = file.to_path_buf();
    for _ in 0..=MAX_SCRIPTS {
        let Some(place) = followed(&next)? else {
            return Ok(found);
        };
        match Kind::of(&place) {
            Ok(Kind::Script(interpreter)) => {
                let script = std::mem::replace(&mut next, PathBuf::from(&interpreter));
                found = Some((script, Kind::Script(interpreter)));
            }
            Ok(kind) => return Ok(Some((next, kind))),
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::fs;

    /// The header of a program of 64 bits.
    fn program(machine: u16) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes
    }

    #[test]
    fn the_interpreter_is_the_first_word_of_the_first_line() {
        for (text, interpreter) in [
            ("#!/bin/sh\nexit\n", "/bin/sh"),
            ("#! /bin/sh -e\n", "/bin/sh"),
            ("#!/bin/sh\r\nexit\r\n", "/bin/sh\r"),
            ("#!\n", ""),
        ] {
            let kind = Kind::of_bytes(text.as_bytes());
            assert_eq!(kind, Kind::Script(interpreter.into()));
        }
    }

    #[test]
    fn a_program_is_told_by_its_header() {
        let own = program(Machine::own().0);
        assert_eq!(Kind::of_bytes(&own), Kind::Elf(Machine::own()));
        assert_eq!(Kind::of_bytes(&own[..HEADER_64 - 1]), Kind::CutElf);
        assert_eq!(Kind::of_bytes(b"\x7fELF"), Kind::CutElf);
        let mut big_endian = program(0);
        big_endian[5] = 2;
        big_endian[18..20].copy_from_slice(&[0, 21]);
        let Kind::Elf(machine) = Kind::of_bytes(&big_endian) else {
            panic!("it is a program")
        };
        assert_eq!(machine.to_string(), "powerpc64");
        let itself = Kind::of(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(itself, Kind::Elf(Machine::own()));
    }

    #[test]
    fn what_is_no_program_is_told_by_its_first_bytes() {
        for (bytes, kind) in [
            (b"".as_slice(), Kind::Text),
            (b"exit 0\n\0", Kind::Text),
            // It is a program of Windows and a shell script at once.
            (b"MZqFpD='\n\0", Kind::Text),
            (b"MZ\x90\0", Kind::Other("a program for Windows")),
            (b"\xcf\xfa\xed\xfe", Kind::Other("a program for macOS")),
            (b"PK\x03\x04", Kind::Other("an archive")),
            (
                b"\xca\xfe\xba\xbe\0\0\0\x02",
                Kind::Other("a program for macOS"),
            ),
            // A class of Java.
            (b"\xca\xfe\xba\xbe\0\0\0\x41", Kind::Other("data")),
            (b"a\0b\n", Kind::Other("data")),
        ] {
            assert_eq!(Kind::of_bytes(bytes), kind, "{bytes:?}");
        }
    }

    #[test]
    fn a_processor_has_one_number_and_several_names() {
        for (name, machine) in [
            ("amd64", Some(Machine::X86_64)),
            ("x86_64", Some(Machine::X86_64)),
            ("arm64", Some(Machine::AARCH64)),
            ("aarch64", Some(Machine::AARCH64)),
            ("armv6l", Some(Machine::ARM)),
            ("builtin", None),
        ] {
            assert_eq!(Machine::named(name), machine);
        }
        assert!(Machine::X86_64.runs(Machine::I686));
        assert!(!Machine::X86_64.runs(Machine::AARCH64));
        assert!(!Machine::I686.runs(Machine::X86_64));
        let arm = [Machine::AARCH64, Machine::ARM];
        assert_eq!(Machine::X86_64.foreign_among(&arm), Some(Machine::AARCH64));
        assert_eq!(Machine::AARCH64.foreign_among(&arm), None);
        assert_eq!(Machine::X86_64.foreign_among(&[]), None);
        assert_eq!(Machine(8).to_string(), "processor 8 of elf(5)");
    }

    #[test]
    fn a_script_stands_for_its_interpreter() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        fs::write(place("program"), program(183)).unwrap();
        let text = |interpreter: &Path| format!("#!{}\n", interpreter.display());
        fs::write(place("wrapper"), text(&place("program"))).unwrap();
        fs::write(place("script"), text(&place("wrapper"))).unwrap();
        fs::write(place("circle"), text(&place("circle"))).unwrap();
        fs::write(place("nowhere"), text(&place("gone"))).unwrap();
        let behind = |name: &str| {
            let followed = |path: &Path| Ok::<_, Infallible>(path.exists().then(|| path.into()));
            behind(&place(name), followed).unwrap()
        };
        let expected = (place("program"), Kind::Elf(Machine::AARCH64));
        assert_eq!(behind("script"), Some(expected));
        assert_eq!(behind("circle"), None);
        assert!(matches!(behind("nowhere"), Some((_, Kind::Script(_)))));
        assert_eq!(behind("gone"), None);
    }
}
