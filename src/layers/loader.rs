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
            let (slot, layout) = match file.get(4) {
                Some(2) => (&mut loaders.loader, &LAYOUT_64),
                Some(1) => (&mut loaders.loader_32, &LAYOUT_32),
                _ => continue,
            };
            if slot.is_none() {
                *slot = layout.executable(file);
            }
        }
        loaders
    }
}

/// Where the fields of a header are: offset and size in bytes.
struct Layout {
    sections_offset: (usize, usize),
    header_size: (usize, usize),
    section_size: (usize, usize),
    section_count: (usize, usize),
    /// What `header_size` and `section_size` must be.
    sizes: (u64, u64),
}

const LAYOUT_64: Layout = Layout {
    sections_offset: (0x28, 8),
    header_size: (0x34, 2),
    section_size: (0x3a, 2),
    section_count: (0x3c, 2),
    sizes: (64, 64),
};

const LAYOUT_32: Layout = Layout {
    sections_offset: (0x20, 4),
    header_size: (0x28, 2),
    section_size: (0x2e, 2),
    section_count: (0x30, 2),
    sizes: (52, 40),
};

impl Layout {
    /// The executable file that `bytes` begin with, if they do: it ends with its section headers.
    fn executable<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let field = |(at, size): (usize, usize)| {
            let field = bytes.get(at..at + size)?;
            let value = field.iter().rev();
            Some(value.fold(0u64, |value, byte| value << 8 | u64::from(*byte)))
        };
        let is_sound = *bytes.get(5)? == LITTLE_ENDIAN
            && field((0x10, 2))? == TYPE_EXECUTABLE
            && (field(self.header_size)?, field(self.section_size)?) == self.sizes;
        let sections = field(self.section_size)? * field(self.section_count)?;
        let end = field(self.sections_offset)?.checked_add(sections)?;
        bytes.get(..usize::try_from(end).ok()?).filter(|_| is_sound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `layout` with two section headers behind ten bytes of content.
    fn file(class: u8, layout: &Layout) -> Vec<u8> {
        let (header, section) = layout.sizes;
        let offset = header + 10;
        let size = usize::try_from(offset + 2 * section).unwrap_or_default();
        let mut bytes = vec![0; size];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, LITTLE_ENDIAN]);
        let mut put = |(at, size): (usize, usize), value: u64| {
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        };
        put((0x10, 2), TYPE_EXECUTABLE);
        put(layout.sections_offset, offset);
        put(layout.header_size, header);
        put(layout.section_size, section);
        put(layout.section_count, 2);
        bytes
    }

    #[test]
    fn both_loaders_are_found_whole_among_other_data() {
        let (one, other) = (file(2, &LAYOUT_64), file(1, &LAYOUT_32));
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
