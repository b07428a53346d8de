//! What is in an image, for people who wonder: the largest files and store paths, what programs
//! rarely need when they run, and the bills of materials.

pub mod budget;
mod cyclonedx;
pub mod package_name;
pub mod sbom;
mod spdx;

use crate::log::{self, bytes};
use bullet_stream::global::print;
use closure::Closure;
use nix_derivation::StorePath;
use nix_hydra_start::changes::Changes;
use nix_hydra_start::closure as members;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A directory that cannot be read.
type Unread = (PathBuf, io::Error);

/// Files, largest first, then by name: their bytes, and their path in the directory.
type Largest = BTreeSet<(Reverse<u64>, PathBuf)>;

/// The `count` largest regular files below `directories`.
fn largest_files(
    directories: impl Iterator<Item = PathBuf>,
    count: usize,
) -> Result<Largest, Unread> {
    let mut files = BTreeSet::new();
    for top in directories {
        let unread = |error| (top.clone(), error);
        let mut left = vec![top.clone()];
        while let Some(next) = left.pop() {
            for entry in fs::read_dir(next).map_err(unread)? {
                let path = entry.map_err(unread)?.path();
                let metadata = path.symlink_metadata().map_err(unread)?;
                if metadata.is_dir() {
                    left.push(path);
                } else if metadata.is_file() {
                    let inside = path.strip_prefix(&top).unwrap_or(&path);
                    files.insert((Reverse(metadata.len()), inside.to_path_buf()));
                }
            }
            while files.len() > count {
                files.pop_last();
            }
        }
    }
    Ok(files)
}

/// Prints the `count` largest files of the `layers` that were downloaded.
pub fn print_largest_files(
    layers_dir: &Path,
    layers: &BTreeSet<String>,
    count: usize,
) -> Result<(), Unread> {
    let layers = layers.iter().map(|name| layers_dir.join(name));
    let files = largest_files(layers, count)?;
    print::bullet("Largest files of what was downloaded, since NIX_DEBUG is set");
    for (Reverse(size), path) in files {
        log::sub_bullet(format!("{}  {}", bytes(size), path.display()));
    }
    Ok(())
}

/// How many store paths that programs rarely need are named; the rest are counted.
const BUILD_ONLY_SHOWN: usize = 5;

/// A closure as the start program reads it, in [`members::FILE`] of the closure layer.
pub fn members(closure: &Closure) -> members::Closure {
    let roots: Vec<String> = closure.roots.iter().map(StorePath::to_basename).collect();
    members::Closure::new(
        roots.iter().map(String::as_str),
        closure.paths.iter().map(|(path, info)| {
            let references = info.references.iter().map(StorePath::to_basename);
            (path.to_basename(), info.nar_size, references)
        }),
    )
}

/// Writes [`members::FILE`] into the closure layer.
pub fn write_members(directory: &Path, closure: &Closure) -> io::Result<()> {
    fs::write(directory.join(members::FILE), members(closure).to_string())
}

/// Prints the `count` largest store paths, each with what pulls it in.
pub fn print_largest_paths(closure: &Closure, count: usize) {
    let closure = members(closure);
    let chains = closure.chains();
    print::bullet("Largest store paths, since NIX_DEBUG is set");
    for index in closure.by_size().into_iter().take(count) {
        log::sub_bullet(format!(
            "{}  {}",
            bytes(closure.paths()[index].size),
            closure.chain_words(&chains[index])
        ));
    }
}

/// Prints how many files with references are of which format.
pub fn print_formats(formats: &BTreeMap<String, usize>) {
    if formats.is_empty() {
        return;
    }
    print::bullet("Files and links with store paths, by format, since NIX_DEBUG is set");
    for (format, count) in formats {
        log::sub_bullet(format!("{count}  {format}"));
    }
}

/// The bytes that are free in the file system of `directory`. None where it does not say.
pub fn free_space(directory: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(directory).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Warns where fewer bytes were `free` in `directory` than are `needed`.
pub fn warn_of_space(directory: &Path, free: Option<u64>, needed: u64) {
    if let Some(free) = free.filter(|free| *free < needed) {
        log::warning(&format!(
            "The closure needs {} in {}, where only {} were free.",
            bytes(needed),
            directory.display(),
            bytes(free)
        ));
    }
}

/// The difference between two closures, in lines of the log.
pub fn changes(before: &Closure, after: &Closure) -> Vec<String> {
    Changes::between(&members(before), &members(after)).lines()
}

/// Warns of store paths that programs rarely need when they run, and says what pulls them in.
pub fn warn_of_build_only(closure: &Closure) {
    if let Some(text) = build_only(&members(closure)) {
        log::warning(&text);
    }
}

fn build_only(closure: &members::Closure) -> Option<String> {
    let found = closure.build_only();
    if found.is_empty() {
        return None;
    }
    let chains = closure.chains();
    let size = found
        .iter()
        .map(|(index, _)| closure.paths()[*index].size)
        .sum();
    let mut text = format!(
        "{} of the image ({}) {} rarely needed by programs when they run:\n\n",
        words::paths(found.len()),
        bytes(size),
        if found.len() == 1 { "is" } else { "are" },
    );
    let lines = found.iter().map(|(index, kind)| {
        let path = &closure.paths()[*index];
        let (name, size) = (members::name(&path.path), bytes(path.size));
        let chain = closure.chain_words(&chains[*index]);
        format!("{name} ({size}), {kind}:\n  {chain}")
    });
    let lines: Vec<String> = lines.collect();
    text.push_str(&words::listed(&lines, BUILD_ONLY_SHOWN, "- "));
    text.push_str(
        "\nWhat stands before it in its chain is the package to look at: often it keeps a path to the \
         compiler that made it (Nix's `removeReferencesTo` takes that out), or has programs and headers \
         in one output. In the image, `nix-hydra why PATH` says more.",
    );
    Some(text)
}

/// A small closure for tests.
#[cfg(test)]
pub(crate) fn sample() -> Closure {
    use binary_cache::PathInfo;
    use binary_cache::Trust;
    use nix_derivation::NixHash;
    use std::collections::{BTreeMap, BTreeSet};
    let path = |letter: &str, name: &str| {
        let base = format!("{}-{name}", letter.repeat(32));
        StorePath::from_basename(base.as_bytes()).unwrap()
    };
    let info = |nar_size, references: &[&StorePath], trust| PathInfo {
        nar_hash: NixHash::Sha256([7; 32]),
        nar_size,
        references: references
            .iter()
            .map(|path| (*path).clone())
            .collect::<BTreeSet<_>>(),
        source: None,
        trust,
        content: None,
    };
    let (zlib, gcc, app) = (
        path("a", "gtk+-2.24"),
        path("c", "gcc-14.3.0"),
        path("d", "myapp"),
    );
    let paths = BTreeMap::from([
        (zlib.clone(), info(130_000, &[], Trust::Signed)),
        (gcc.clone(), info(203_000_000, &[&zlib], Trust::Signed)),
        (
            app.clone(),
            info(4_200, &[&app, &gcc, &zlib], Trust::Unsigned),
        ),
    ]);
    Closure {
        roots: vec![app],
        paths,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_in_the_image_is_warned_of_with_what_pulls_it_in() {
        insta::assert_snapshot!(build_only(&members(&sample())).unwrap());
    }

    #[test]
    fn the_largest_files_come_first_wherever_they_are() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        for (name, size) in [("a/two", 2), ("three", 3), ("a/three", 3), ("one", 1)] {
            fs::write(directory.path().join(name), vec![0; size]).unwrap();
        }
        std::os::unix::fs::symlink("three", directory.path().join("link")).unwrap();
        let directories = [directory.path().to_path_buf()].into_iter();
        let files = largest_files(directories, 3).unwrap();
        let expected = [(3, "a/three"), (3, "three"), (2, "a/two")];
        let expected = expected.map(|(size, path)| (Reverse(size), PathBuf::from(path)));
        assert!(files.into_iter().eq(expected));
    }
}
