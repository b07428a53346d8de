//! Finds PRoot's loaders in the PRoot program.
//!
//! PRoot does not execute a program itself, but a small static loader of its own, which maps the
//! program from wherever it really is. It carries one for 64 bits, and on x86-64 one for 32 bits, as
//! whole ELF files among its data, and would write them to its temporary directory each time it
//! starts. A file in the layer, which `PROOT_LOADER` names, spares that, and works where nothing may
//! be executed from temporary directories.
//!
//! Format: the ELF header, as in `elf(5)`, little-endian.

use memchr::memmem;

const MAGIC: &[u8] = b"\x7fELF";
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u64 = 2;

/// The loaders that a PRoot program carries: for programs of 64 bits, and of 32 bits.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaders<'a> {
    pub(crate) loader: Option<&'a [u8]>,
    pub(crate) loader_32: Option<&'a [u8]>,
}

impl<'a> Loaders<'a> {
    /// Looks for them; one that is not there costs a file written at each start, no more.
    pub(crate) fn find(program: &'a [u8]) -> Self {
        let mut loaders = Self::default();
        for at in memmem::find_iter(program, MAGIC).filter(|at| *at > 0) {
            let file = &program[at..];
            match file.get(4) {
                Some(2) => loaders.loader = loaders.loader.or_else(|| executable(file, 64)),
                Some(1) => loaders.loader_32 = loaders.loader_32.or_else(|| executable(file, 32)),
                _ => {}
            }
        }
        loaders
    }
}

/// The executable file, for programs of so many bits, that `bytes` begin with, if they do: it ends with its
/// section headers.
fn executable(bytes: &[u8], bits: usize) -> Option<&[u8]> {
    let field = |at: usize, size: usize| {
        let field = bytes.get(at..at + size)?;
        let value = field.iter().rev();
        Some(value.fold(0u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    // Where the sections' headers are; then the size of the file's header, which a size and a count
    // follow before that of a section's header, and the count of these.
    let (sections_at, sizes_at, expected) = match bits {
        64 => (0x28, 0x34, (64, 64)),
        _ => (0x20, 0x28, (52, 40)),
    };
    let sizes = (field(sizes_at, 2)?, field(sizes_at + 6, 2)?);
    let is_sound =
        *bytes.get(5)? == LITTLE_ENDIAN && field(0x10, 2)? == TYPE_EXECUTABLE && sizes == expected;
    let sections = sizes.1 * field(sizes_at + 8, 2)?;
    let end = field(sections_at, bits / 8)?.checked_add(sections)?;
    bytes.get(..usize::try_from(end).ok()?).filter(|_| is_sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file for programs of so many bits, with two section headers behind ten bytes of content.
    fn file(bits: usize) -> Vec<u8> {
        let (class, header, section, sections_at, sizes_at) = match bits {
            64 => (2, 64_u16, 64_u16, 0x28, 0x34),
            _ => (1, 52, 40, 0x20, 0x28),
        };
        let offset = header + 10;
        let mut bytes = vec![0; usize::from(offset + 2 * section)];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, LITTLE_ENDIAN]);
        for (at, value) in [
            (0x10, 2),
            (sections_at, offset),
            (sizes_at, header),
            (sizes_at + 6, section),
            (sizes_at + 8, 2),
        ] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn both_loaders_are_found_whole_among_other_data() {
        let (one, other) = (file(64), file(32));
        let whole = [
            b"\x7fELF\x02\x01, the program, with \x7fELF in its text".as_slice(),
            &one,
            &other,
            b"more text",
        ]
        .concat();
        let expected = Loaders {
            loader: Some(&one),
            loader_32: Some(&other),
        };
        assert_eq!(Loaders::find(&whole), expected);
        assert_eq!(Loaders::find(b"\x7fELF\x02\x01"), Loaders::default());
        let cut = &whole[..whole.len() - other.len()];
        assert_eq!(Loaders::find(cut).loader_32, None);
    }
}
