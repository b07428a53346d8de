//! Looks for references in one store path while its files are written.

use crate::relocate::checksums::is_checksum_file;
use crate::relocate::findings::Findings;
use crate::relocate::formats::sealed;
use crate::relocate::references::{OVERLAP, ReferenceScanner, ScanHits};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use store_references::packing::Packing;

/// Looks through one file, piece by piece.
pub(crate) struct FileScan<'a> {
    references: &'a ReferenceScanner,
    hits: ScanHits,
    /// Whether the first piece is still to come.
    first: bool,
    name: &'a [u8],
    /// Its format, if it is a container that is not looked into.
    sealed: Option<&'static str>,
    /// How the whole file is packed.
    packing: Option<Packing>,
    /// Whether it ends with a zip.
    appended: bool,
}

impl<'a> FileScan<'a> {
    /// For a file that is called `name`.
    pub(crate) fn new(references: &'a ReferenceScanner, name: &'a [u8]) -> Self {
        Self {
            references,
            hits: ScanHits::default(),
            first: true,
            name,
            sealed: None,
            packing: None,
            appended: false,
        }
    }

    /// Looks through a piece, of which all from `fresh` on is new. Returns how many bytes of its end
    /// must be seen again with the next one.
    fn scan(&mut self, bytes: &mut [u8], fresh: usize, is_last: bool) -> usize {
        if self.first {
            self.packing = Packing::of_file(self.name, bytes);
            self.sealed = sealed(bytes);
            if is_bytecode(self.name) && self.references.relocation().is_some() {
                skip_source_check(bytes);
            }
            self.first = false;
        }
        if self.packing.is_some_and(|packing| packing != Packing::Beam) {
            // Rewritten as they are, the bytes would no longer fit the checksums among them.
            self.references.look(bytes, fresh, &mut self.hits);
        } else {
            self.references.rewrite(bytes, fresh, &mut self.hits);
            self.appended = is_last && Packing::is_zip_end(bytes);
        }
        if is_last { 0 } else { bytes.len().min(OVERLAP) }
    }

    /// Adds what was found in the file at `path` to `findings`.
    pub(crate) fn note(self, path: PathBuf, findings: &mut Findings) {
        let ScanHits {
            references,
            bare,
            wide,
            hashes,
            foreign,
        } = self.hits;
        findings.hashes.extend(&hashes);
        findings.add_foreign(foreign);
        let is_checksum = path
            .file_name()
            .is_some_and(|name| is_checksum_file(name.as_bytes()));
        let is_packed = self.packing.is_some() || self.appended || self.sealed.is_some();
        let is_noted = is_checksum || is_packed || bare || wide || references > 0;
        if is_noted && !findings.has_room(&path, hashes.len()) {
            return;
        }
        if is_checksum {
            findings.checksums.insert(path.clone());
        }
        if let Some(format) = self.sealed {
            findings.sealed.insert(path.clone(), format);
        }
        match self.packing {
            // What is plain in it was rewritten, so all that is packed is told apart.
            Some(Packing::Beam) => {
                let literals = (Packing::Beam, BTreeSet::new());
                findings.packed.insert(path.clone(), literals);
            }
            Some(packing) => {
                findings.packed.insert(path, (packing, hashes));
                return;
            }
            None => {}
        }
        if self.appended {
            let zip = (Packing::Zip, BTreeSet::new());
            findings.packed.insert(path.clone(), zip);
        }
        if bare {
            findings.bare.insert(path.clone());
        }
        if wide {
            findings.wide.insert(path.clone());
        }
        if references > 0 {
            findings.rewritten.insert(path);
        }
        findings.references += references;
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
fn skip_source_check(bytecode: &mut [u8]) {
    if let [_, _, b'\r', b'\n', flags @ 3, 0, 0, 0, ..] = bytecode {
        *flags = 1;
    }
}

/// Copies `size` bytes from `read`, which fills its buffer, to `write`, and scans them on the way.
pub(crate) fn copy<E>(
    size: u64,
    buffer: &mut [u8],
    mut scan: Option<&mut FileScan>,
    mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut left = size;
    // Bytes at the buffer's beginning that are only written with the next ones: they may be the
    // beginning of a reference.
    let mut held = 0;
    let length = buffer.len() - if scan.is_some() { 0 } else { OVERLAP };
    while left > 0 {
        let room = length - held;
        let wanted = usize::try_from(left).map_or(room, |left| left.min(room));
        let end = held + wanted;
        read(&mut buffer[held..end])?;
        left -= wanted as u64;
        let kept = scan
            .as_mut()
            .map_or(0, |scan| scan.scan(&mut buffer[..end], held, left == 0));
        write(&buffer[..end - kept])?;
        buffer.copy_within(end - kept..end, 0);
        held = kept;
    }
    Ok(())
}

/// A hash in a name is a reference to Nix, but one that does not move.
pub(crate) fn scan_name(
    name: &[u8],
    references: &ReferenceScanner,
    findings: &mut Findings,
    path: impl FnOnce() -> PathBuf,
) {
    let mut hits = ScanHits::default();
    references.look(name, 0, &mut hits);
    if !hits.hashes.is_empty() {
        note_bare(findings, path());
        findings.hashes.extend(hits.hashes);
    }
}

/// Looks at a link's target, and rewrites it.
pub(crate) fn scan_target(
    target: &mut [u8],
    references: &ReferenceScanner,
    findings: &mut Findings,
    path: impl FnOnce() -> PathBuf,
) {
    let mut hits = ScanHits::default();
    references.rewrite(target, 0, &mut hits);
    if hits.bare {
        note_bare(findings, path());
    }
    findings.links += usize::from(hits.references > 0);
    findings.references += hits.references;
    findings.add_foreign(hits.foreign);
    findings.hashes.extend(hits.hashes);
}

fn note_bare(findings: &mut Findings, path: PathBuf) {
    if findings.has_room(&path, 0) {
        findings.bare.insert(path);
    }
}

/// Whether the relative target of a link leads out of the store path, from a directory that is so
/// many levels in it: one at its top, zero where the link is all of it.
pub(crate) fn is_escaping(target: &[u8], level: usize) -> bool {
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
            skip_source_check(&mut bytes);
            assert_eq!(&bytes, after);
        }
        skip_source_check(&mut []);
        assert!(is_bytecode(b"a.cpython-313.opt-1.pyc") && !is_bytecode(b"a.py"));
    }

    #[test]
    fn a_link_is_escaping_where_it_climbs_above_its_store_path() {
        for (target, level, out) in [
            ("/nix/store/other/lib", 1, false),
            ("lib", 1, false),
            ("../other", 1, true),
            ("../lib/./x", 2, false),
            ("../..//other/lib", 2, true),
            ("a/../../other", 1, true),
            ("other", 0, true),
        ] {
            assert_eq!(is_escaping(target.as_bytes(), level), out, "{target}");
        }
    }
}
