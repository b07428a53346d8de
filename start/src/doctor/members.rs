//! Whether every store path of the image is there, and as large as it was built.
//!
//! A NAR's size follows from names, sizes and link targets alone, so no content is read. The format
//! is that of E. Dolstra, "The Purely Functional Software Deployment Model" (2006), figure 5.2.

use crate::closure::{Closure, Index, Member};
use crate::image::{Found, STORE_DIR};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Fewest letters that a relocated store path keeps of its hash.
const KEPT_HASH: usize = 16;

/// The store paths that are not as they were built.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) missing: Vec<Index>,
    /// They have another size than was unpacked, or cannot be read.
    pub(super) changed: Vec<Index>,
}

/// Examines every store path. A relocated closure is only checked for existence: packed files may have
/// another size after a rewrite.
pub(super) fn damage(found: &Found, closure: &Closure) -> Damage {
    let mut damage = Damage::default();
    let moved = found.image.is_relocated().then(|| moved(found));
    for (index, member) in closure.paths().iter().enumerate() {
        match &moved {
            Some(moved) if is_moved(moved, member) => {}
            Some(_) => damage.missing.push(index),
            None => match in_layer(found, member) {
                None => damage.missing.push(index),
                Some(place) if nar_size(&place).ok() == Some(member.size) => {}
                Some(_) => damage.changed.push(index),
            },
        }
    }
    damage
}

/// Where a store path is without an engine.
fn in_layer(found: &Found, member: &Member) -> Option<PathBuf> {
    let place = found.place(&Path::new(STORE_DIR).join(&member.path));
    place.symlink_metadata().is_ok().then_some(place)
}

/// The store paths of a relocated closure: name without hash, and the kept part of each hash.
fn moved(found: &Found) -> BTreeMap<String, Vec<String>> {
    let mut moved: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(&found.store).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Links into other layers are followed.
        if let (Some((hash, name)), true) = (name.split_once('-'), entry.path().exists()) {
            moved.entry(name.into()).or_default().push(hash.into());
        }
    }
    moved
}

fn is_moved(moved: &BTreeMap<String, Vec<String>>, member: &Member) -> bool {
    member.path.split_once('-').is_some_and(|(hash, name)| {
        let mut hashes = moved.get(name).into_iter().flatten();
        hashes.any(|kept| kept.len() >= KEPT_HASH && hash.starts_with(kept.as_str()))
    })
}

/// Bytes of a string in a NAR: its length, itself, and zeros up to a multiple of eight.
const fn string(length: u64) -> u64 {
    8 + length.next_multiple_of(8)
}

/// Bytes of the words of a NAR that each are a string.
fn words(words: &[&str]) -> u64 {
    words.iter().map(|word| string(word.len() as u64)).sum()
}

/// Bytes of the NAR of the file or directory at `path`.
fn nar_size(path: &Path) -> io::Result<u64> {
    Ok(words(&["nix-archive-1"]) + node_size(path)?)
}

fn node_size(path: &Path) -> io::Result<u64> {
    let metadata = path.symlink_metadata()?;
    let kind = metadata.file_type();
    let ends = words(&["(", "type", ")"]);
    if kind.is_symlink() {
        let target = fs::read_link(path)?.as_os_str().len() as u64;
        return Ok(ends + words(&["symlink", "target"]) + string(target));
    }
    if kind.is_file() {
        let is_executable = metadata.permissions().mode() & 0o100 != 0;
        let executable = if is_executable {
            words(&["executable", ""])
        } else {
            0
        };
        return Ok(ends + words(&["regular", "contents"]) + executable + string(metadata.len()));
    }
    if !kind.is_dir() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut size = ends + words(&["directory"]);
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().as_bytes().len() as u64;
        size += words(&["entry", "(", "name", "node", ")"]) + string(name);
        size += node_size(&entry.path())?;
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::sample;
    use crate::image::Image;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_nar_is_as_large_as_nix_makes_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("bin/app"), "12345678").unwrap();
        fs::set_permissions(root.join("bin/app"), fs::Permissions::from_mode(0o555)).unwrap();
        fs::write(root.join("empty"), "").unwrap();
        symlink("bin/app", root.join("link")).unwrap();
        // As `nix-store --dump . | wc --bytes` says.
        assert_eq!(nar_size(root).unwrap(), 864);
        assert_eq!(nar_size(&root.join("link")).unwrap(), 120);
    }

    #[test]
    fn what_is_missing_and_what_was_changed_are_told_apart() {
        let layers = tempfile::tempdir().unwrap();
        let found = |root: &str| Found {
            image: Image::parse(&format!("root {root}\n")),
            store: layers.path().join("closure"),
            layer: layers.path().join("proot"),
        };
        let closure = Closure::new(
            [],
            ["one", "other", "third"].map(|name| {
                let path = format!("{}-{name}", "0123456789abcdfghijklmnpqrsvwxyz");
                (path, 120, Vec::new())
            }),
        );
        let file = |path: &str, text: &str| {
            let file = layers.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let base = "0123456789abcdfghijklmnpqrsvwxyz";
        file(&format!("closure/{base}-one"), "12345678");
        file(&format!("other/{base}-other"), "123456789");
        let link = layers.path().join(format!("closure/{base}-other"));
        symlink(layers.path().join(format!("other/{base}-other")), link).unwrap();
        let in_place = damage(&found("/nix/store/x"), &closure);
        assert_eq!((in_place.missing, in_place.changed), (vec![2], vec![1]));

        for name in ["one", "other", "third"] {
            file(&format!("closure/0123456789abcdfg-{name}"), "");
        }
        let moved = damage(&found("/layers/nix_hydra/closure/x"), &closure);
        assert_eq!(moved, Damage::default());
        let none = damage(&found("/layers/nix_hydra/closure/x"), &sample());
        assert_eq!(none.missing, [0, 1, 2, 3]);
    }
}
