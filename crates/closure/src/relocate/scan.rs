//! Looks for references in one store path while its files are written.

use crate::relocate::archives::Packing;
use crate::relocate::references::{OVERLAP, References, Sight};
use crate::relocate::relocatability::{Met, is_checksum_file};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Looks through one file, piece by piece.
pub(crate) struct Look<'a> {
    references: &'a References,
    sight: Sight,
    /// Whether the first piece is still to come.
    first: bool,
    /// Whether it is bytecode of Python, by its name.
    bytecode: bool,
    /// How the whole file is packed.
    packing: Option<Packing>,
    /// Whether it ends with a zip.
    appended: bool,
}

impl<'a> Look<'a> {
    /// For a file that is called `name`.
    pub(crate) fn new(references: &'a References, name: &[u8]) -> Self {
        Self {
            references,
            sight: Sight::default(),
            first: true,
            bytecode: is_bytecode(name),
            packing: None,
            appended: false,
        }
    }

    /// Looks through a piece, of which all from `fresh` on is new, and answers how many bytes of
    /// its end must be seen again with the next one.
    fn through(&mut self, bytes: &mut [u8], fresh: usize, is_last: bool) -> usize {
        if self.first {
            self.packing = Packing::of_beginning(bytes);
            if self.bytecode && self.references.relocation().is_some() {
                trust(bytes);
            }
            self.first = false;
        }
        if self.packing.is_some() {
            // Rewritten as they are, the bytes would no longer fit the checksums among them.
            self.references.look(bytes, fresh, &mut self.sight);
        } else {
            self.references.rewrite(bytes, fresh, &mut self.sight);
            self.appended = is_last && Packing::is_zip_end(bytes);
        }
        if is_last { 0 } else { bytes.len().min(OVERLAP) }
    }

    /// Tells `met` what was found in the file at `path`.
    pub(crate) fn note(self, path: PathBuf, met: &mut Met) {
        let Sight {
            references,
            bare,
            wide,
            hashes,
        } = self.sight;
        met.hashes.extend(&hashes);
        let is_checksum = path
            .file_name()
            .is_some_and(|name| is_checksum_file(name.as_bytes()));
        let is_packed = self.packing.is_some() || self.appended;
        let is_noted = is_checksum || is_packed || bare || wide || references > 0;
        if is_noted && !met.has_room(&path, hashes.len()) {
            return;
        }
        if is_checksum {
            met.checksums.insert(path.clone());
        }
        if let Some(packing) = self.packing {
            met.packed.insert(path, (packing, hashes));
            return;
        }
        if self.appended {
            let zip = (Packing::Zip, BTreeSet::new());
            met.packed.insert(path.clone(), zip);
        }
        if bare {
            met.bare.insert(path.clone());
        }
        if wide {
            met.wide.insert(path.clone());
        }
        if references > 0 {
            met.rewritten.insert(path);
        }
        met.references += references;
    }
}

/// Whether a file of this name is bytecode of Python.
pub(crate) fn is_bytecode(name: &[u8]) -> bool {
    name.ends_with(b".pyc")
}

/// Has Python take bytecode as it is, where it would first compare a hash of its source. With the
/// source rewritten, that would be another one, and the source compiled at each start.
///
/// Format: PEP 552. Two bytes of a version, `\r\n`, and flags in four bytes: 1 where there is a hash of
/// the source and not its time, 2 where that is compared.
fn trust(bytecode: &mut [u8]) {
    if let [_, _, b'\r', b'\n', flags @ 3, 0, 0, 0, ..] = bytecode {
        *flags = 1;
    }
}

/// Passes `size` bytes on from `read`, which fills what it is given, to `write`, looked through.
pub(crate) fn pass<E>(
    size: u64,
    buffer: &mut [u8],
    mut look: Option<&mut Look>,
    mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut left = size;
    // Bytes at the buffer's beginning that are only written with the next ones: they may be the
    // beginning of a reference.
    let mut held = 0;
    let length = buffer.len() - if look.is_some() { 0 } else { OVERLAP };
    while left > 0 {
        let room = length - held;
        let wanted = usize::try_from(left).map_or(room, |left| left.min(room));
        let end = held + wanted;
        read(&mut buffer[held..end])?;
        left -= wanted as u64;
        let kept = look
            .as_mut()
            .map_or(0, |look| look.through(&mut buffer[..end], held, left == 0));
        write(&buffer[..end - kept])?;
        buffer.copy_within(end - kept..end, 0);
        held = kept;
    }
    Ok(())
}

/// A hash in a name is a reference to Nix, but one that does not move.
pub(crate) fn at_name(
    name: &[u8],
    references: &References,
    met: &mut Met,
    path: impl FnOnce() -> PathBuf,
) {
    let mut sight = Sight::default();
    references.look(name, 0, &mut sight);
    if !sight.hashes.is_empty() {
        note_bare(met, path());
        met.hashes.extend(sight.hashes);
    }
}

/// Looks at a link's target, and rewrites it.
pub(crate) fn at_target(
    target: &mut [u8],
    references: &References,
    met: &mut Met,
    path: impl FnOnce() -> PathBuf,
) {
    let mut sight = Sight::default();
    references.rewrite(target, 0, &mut sight);
    if sight.bare {
        note_bare(met, path());
    }
    met.links += usize::from(sight.references > 0);
    met.references += sight.references;
    met.hashes.extend(sight.hashes);
}

fn note_bare(met: &mut Met, path: PathBuf) {
    if met.has_room(&path, 0) {
        met.bare.insert(path);
    }
}

/// Whether the relative target of a link leads out of the store path, from a directory that is so
/// many levels in it: one at its top, none where the link is all of it.
pub(crate) fn leads_out(target: &[u8], level: usize) -> bool {
    if target.starts_with(b"/") {
        return false;
    }
    let mut level = level;
    let mut parts = target.split(|byte| *byte == b'/');
    level == 0
        || parts.any(|part| {
            match part {
                b".." => level -= 1,
                b"" | b"." => {}
                _ => level += 1,
            }
            level == 0
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytecode_whose_source_would_be_compared_is_trusted_and_nothing_else_changes() {
        for (bytes, after) in [
            (b"\xa7\r\r\n\x03\0\0\0hash", b"\xa7\r\r\n\x01\0\0\0hash"),
            (b"\xa7\r\r\n\x01\0\0\0hash", b"\xa7\r\r\n\x01\0\0\0hash"),
            (b"\xa7\r\r\n\0\0\0\0time", b"\xa7\r\r\n\0\0\0\0time"),
            (b"\xa7\r\r\n\x03\0\x01\0hash", b"\xa7\r\r\n\x03\0\x01\0hash"),
            (b"\xa7\rxx\x03\0\0\0hash", b"\xa7\rxx\x03\0\0\0hash"),
        ] {
            let mut bytes = *bytes;
            trust(&mut bytes);
            assert_eq!(&bytes, after);
        }
        trust(&mut []);
        assert!(is_bytecode(b"a.cpython-313.opt-1.pyc") && !is_bytecode(b"a.py"));
    }

    #[test]
    fn a_link_leads_out_where_it_climbs_above_its_store_path() {
        for (target, level, out) in [
            ("/nix/store/other/lib", 1, false),
            ("lib", 1, false),
            ("../other", 1, true),
            ("../lib/./x", 2, false),
            ("../..//other/lib", 2, true),
            ("a/../../other", 1, true),
            ("other", 0, true),
        ] {
            assert_eq!(leads_out(target.as_bytes(), level), out, "{target}");
        }
    }
}
