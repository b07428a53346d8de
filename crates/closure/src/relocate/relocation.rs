//! Rewrites store paths into paths of the same length elsewhere, so that programs of a closure run
//! where there is no `/nix`.
//!
//! `/nix/store/` and a hash part are 43 bytes. The same number of bytes holds another directory and
//! the beginning of the hash, so every reference can be replaced where it stands: in ELF run paths,
//! scripts, bytecode, and the strings of languages that store their lengths.

use memchr::memmem;
use nix_derivation::StorePath;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use store_references::hashes::{HASH_LENGTH, STORE_PREFIX, is_nix32};

/// Bytes of a reference that are rewritten: the store directory and the hash part.
pub const REFERENCE_LENGTH: usize = STORE_PREFIX.len() + HASH_LENGTH;

/// Fewest characters of a hash that must stay: 80 bits keep two paths of a closure apart.
const MIN_HASH_LENGTH: usize = 16;

/// A directory to which a closure is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    directory: PathBuf,
    /// The directory with slashes at its end, up to where the hash begins.
    prefix: Vec<u8>,
}

/// A directory whose name leaves too little room for hashes, by this many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("the directory's name is {excess} bytes too long")]
pub struct DirectoryTooLong {
    pub excess: usize,
}

impl Relocation {
    /// A relocation to `directory`, an absolute path of at most 26 bytes.
    pub fn new(directory: &Path) -> Result<Self, DirectoryTooLong> {
        let mut prefix = directory.as_os_str().as_bytes().to_vec();
        prefix.push(b'/');
        let longest = REFERENCE_LENGTH - MIN_HASH_LENGTH;
        if prefix.len() > longest {
            return Err(DirectoryTooLong {
                excess: prefix.len() - longest,
            });
        }
        // A short directory keeps the whole hash; more slashes fill up to the length.
        while prefix.len() < STORE_PREFIX.len() {
            prefix.push(b'/');
        }
        Ok(Self {
            directory: directory.to_path_buf(),
            prefix,
        })
    }

    /// The directory to which store paths are moved.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the store path with this base name is moved to.
    pub fn place(&self, basename: &str) -> PathBuf {
        let (hash, name) = basename.split_at(HASH_LENGTH.min(basename.len()));
        let kept = REFERENCE_LENGTH - self.prefix.len();
        let hash = hash.get(..kept).unwrap_or(hash);
        self.directory.join(format!("{hash}{name}"))
    }

    /// What a reference to `path` becomes: 43 bytes that no other path of a closure may have too.
    pub fn reference(&self, path: &StorePath) -> Vec<u8> {
        let mut reference = STORE_PREFIX.to_vec();
        reference.extend(path.to_basename().bytes().take(HASH_LENGTH));
        reference.resize(REFERENCE_LENGTH, b'0');
        self.move_reference(&mut reference);
        reference
    }

    /// Rewrites every reference to a store path in `bytes`, and returns how many there were.
    pub fn rewrite(&self, bytes: &mut [u8]) -> usize {
        let finder = memmem::Finder::new(STORE_PREFIX);
        let mut count = 0;
        let mut from = 0;
        while let Some(found) = finder.find(&bytes[from..]) {
            let start = from + found;
            let reference = bytes.get_mut(start..start + REFERENCE_LENGTH);
            let reference = reference.filter(|reference| {
                let hash = &reference[STORE_PREFIX.len()..];
                hash.iter().all(|&byte| is_nix32(byte))
            });
            if let Some(reference) = reference {
                self.move_reference(reference);
                count += 1;
                from = start + REFERENCE_LENGTH;
            } else {
                // Its last slash may be the first of the next one.
                from = start + STORE_PREFIX.len() - 1;
            }
        }
        count
    }

    /// Rewrites one reference, the store directory and a hash part, which is all of `reference`.
    pub(crate) fn move_reference(&self, reference: &mut [u8]) {
        let kept = REFERENCE_LENGTH - self.prefix.len();
        reference.copy_within(
            STORE_PREFIX.len()..STORE_PREFIX.len() + kept,
            self.prefix.len(),
        );
        reference[..self.prefix.len()].copy_from_slice(&self.prefix);
    }

    /// The target of a symbolic link, rewritten.
    pub fn rewrite_target<'a>(&self, target: &'a [u8]) -> Cow<'a, [u8]> {
        if memmem::find(target, STORE_PREFIX).is_none() {
            return Cow::Borrowed(target);
        }
        let mut target = target.to_vec();
        self.rewrite(&mut target);
        Cow::Owned(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "xbgcfhaawi9iz9s99k58sqy8azc2a1w3-glibc-2.40";

    #[test]
    fn a_reference_keeps_its_length_and_names_the_place() {
        let relocation = Relocation::new(Path::new("/layers/nix_hydra/closure")).unwrap();
        let mut text = format!("#!/nix/store/{PATH}/bin/sh -e\n").into_bytes();
        let length = text.len();
        assert_eq!(relocation.rewrite(&mut text), 1);
        assert_eq!(text.len(), length);
        let place = relocation.place(PATH);
        assert_eq!(
            place,
            Path::new("/layers/nix_hydra/closure/xbgcfhaawi9iz9s99-glibc-2.40")
        );
        assert_eq!(
            String::from_utf8(text).unwrap(),
            format!("#!{}/bin/sh -e\n", place.display())
        );
    }

    #[test]
    fn a_short_directory_is_filled_up_with_slashes() {
        let relocation = Relocation::new(Path::new("/n")).unwrap();
        let mut text = format!("/nix/store/{PATH}").into_bytes();
        relocation.rewrite(&mut text);
        assert_eq!(text, format!("/n/////////{PATH}").into_bytes());
        assert_eq!(relocation.place(PATH), Path::new("/n").join(PATH));
    }

    #[test]
    fn a_store_directory_that_ends_with_another_is_rewritten() {
        let relocation = Relocation::new(Path::new("/n")).unwrap();
        let mut text = format!("/nix/store/nix/store/{PATH}").into_bytes();
        assert_eq!(relocation.rewrite(&mut text), 1);
        assert_eq!(text, format!("/nix/store/n/////////{PATH}").into_bytes());
    }

    #[test]
    fn a_store_directory_without_a_hash_stays() {
        let relocation = Relocation::new(Path::new("/n")).unwrap();
        for text in [
            "/nix/store",
            "/nix/store/",
            "/nix/store/xbgcfhaawi9iz9s99k58",
            "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-x",
        ] {
            let mut bytes = text.as_bytes().to_vec();
            assert_eq!(relocation.rewrite(&mut bytes), 0);
            assert_eq!(bytes, text.as_bytes());
        }
    }

    #[test]
    fn a_directory_too_long_is_refused_by_how_much() {
        assert_eq!(
            Relocation::new(Path::new("/layers/nix_hydra/nix-store/x")),
            Err(DirectoryTooLong { excess: 3 })
        );
    }
}
