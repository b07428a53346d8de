//! What about the app's directory may keep its store path from being Hydra's.
//!
//! A `.git` that is there tells what Hydra checks out: its index lists every file with the hash of
//! its content. It is read directly, since build images need not have git. What is staged and not
//! committed is not noticed. Format: git's `gitformat-index`, versions 2 to 4.

use super::gitattributes::{Attributes, Conversion};
use super::source::{Leaf, Source};
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use words::list;

/// How many names a warning lists; the rest are counted.
const NAMES_SHOWN: usize = 10;

/// Modes of the index: a symbolic link, and a submodule.
const LINK: u32 = 0o120_000;
const SUBMODULE: u32 = 0o160_000;

/// Bytes of an entry before its flags: times, device, owner, mode, size and SHA-1.
const ENTRY_SIZE: usize = 60;

/// A file as git has it.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    sha1: [u8; 20],
}

/// Every reason to doubt that the source in `app_dir` gets the store path that it has on Hydra, in
/// words for the user.
#[must_use]
pub fn warnings(source: &Source, app_dir: &Path, is_flake: bool) -> Vec<String> {
    let mut warnings: Vec<String> = read_index(app_dir)
        .and_then(|index| dirty(source, &index, is_flake))
        .into_iter()
        .collect();
    let submodules = submodules(app_dir);
    if is_flake && !submodules.is_empty() {
        let names = submodules.iter().map(|path| path.display().to_string());
        warnings.push(format!(
            "The flake has submodules: {}. Hydra has empty directories in their place, unless the flake's \
             URL has `submodules=1` or `flake.nix` has `inputs.self.submodules = true`. If the store path \
             is not Hydra's, this may be why.",
            shortened(&names.collect())
        ));
    }
    warnings.extend(attributes(source));
    warnings.extend(left_out_by_platform(app_dir));
    warnings
}

/// The directories, below the root of a repository, that are submodules: by git's index, else by
/// `.gitmodules`.
pub(super) fn submodules(root: &Path) -> BTreeSet<PathBuf> {
    if let Some(index) = read_index(root) {
        let entries = index.into_iter();
        let submodules = entries.filter(|(_, entry)| entry.mode == SUBMODULE);
        return submodules.map(|(path, _)| path).collect();
    }
    let text = fs::read_to_string(root.join(".gitmodules")).unwrap_or_default();
    paths_of_submodules(&text).map(PathBuf::from).collect()
}

/// The directories that a `.gitmodules` names.
pub fn paths_of_submodules(gitmodules: &str) -> impl Iterator<Item = &str> {
    gitmodules.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "path").then(|| value.trim().trim_matches('"'))
    })
}

/// The difference between the tree and git's index, if there is any.
fn dirty(source: &Source, index: &BTreeMap<PathBuf, Entry>, is_flake: bool) -> Option<String> {
    let submodules: BTreeSet<&Path> = index
        .iter()
        .filter(|(_, entry)| entry.mode == SUBMODULE)
        .map(|(path, _)| path.as_path())
        .collect();
    // Nix reads a flake's files as git has them; elsewhere Hydra's checkout is converted as this one is.
    let attributes = if is_flake {
        Attributes::default()
    } else {
        Attributes::read(source)
    };
    let tracked: BTreeSet<&Path> = index.keys().flat_map(|path| path.ancestors()).collect();
    let mut here = BTreeSet::new();
    let mut filled = BTreeSet::new();
    let (mut changed, mut added) = (BTreeSet::new(), BTreeSet::new());
    source.visit(&mut |path, leaf| {
        if let Some(submodule) = path.ancestors().find(|part| submodules.contains(part)) {
            filled.insert(submodule.to_path_buf());
            return;
        }
        if let Some(entry) = index.get(path) {
            here.insert(path.to_path_buf());
            if !entry.is(leaf, attributes.conversion(path)) {
                changed.insert(path.display().to_string());
            }
            return;
        }
        // The whole directory, where git knows nothing in it.
        let unknown = path.ancestors().take_while(|part| !tracked.contains(part));
        let unknown = unknown.last().unwrap_or(path);
        let slash = if unknown == path { "" } else { "/" };
        added.insert(format!("{}{slash}", unknown.display()));
    });
    let missing: BTreeSet<String> = index
        .iter()
        .filter(|(path, entry)| entry.mode != SUBMODULE && !here.contains(*path))
        .map(|(path, _)| path.display().to_string())
        .collect();
    let empty: BTreeSet<String> = submodules
        .iter()
        // Of a flake, nobody knows here whether Hydra checks them out.
        .filter(|path| !is_flake && !filled.contains(**path))
        .map(|path| path.display().to_string())
        .collect();
    let lines: Vec<String> = [
        ("not in git", added),
        ("changed", changed),
        ("missing", missing),
        ("submodule not checked out", empty),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(what, names)| format!("  {what}: {}", shortened(&names)))
    .collect();
    if lines.is_empty() {
        return None;
    }
    Some(format!(
        "The app's directory is not what git has committed, so its store path cannot be the one \
         that Hydra built:\n{}",
        lines.join("\n")
    ))
}

fn shortened(names: &BTreeSet<String>) -> String {
    let mut shown: Vec<String> = names.iter().take(NAMES_SHOWN).cloned().collect();
    if names.len() > NAMES_SHOWN {
        shown.push(format!("{} more", names.len() - NAMES_SHOWN));
    }
    list(&shown)
}

impl Entry {
    /// Whether this is what git would store of a file. A file that cannot be read is not.
    fn is(&self, leaf: &Leaf, conversion: Conversion) -> bool {
        match leaf {
            Leaf::Link(target) => {
                let target = target.as_os_str().as_bytes();
                let mut hasher = blob(target.len() as u64);
                hasher.update(target);
                self.mode == LINK && self.sha1 == hasher.finalize().as_slice()
            }
            Leaf::File { from, executable } => {
                let is_executable = self.mode & 0o111 != 0;
                self.mode != LINK
                    && is_executable == *executable
                    && match conversion {
                        Conversion::Other => true,
                        _ if hash_of(from).is_ok_and(|hash| hash == self.sha1) => true,
                        Conversion::LineEnds => {
                            hash_with_lf(from).is_ok_and(|hash| hash == self.sha1)
                        }
                        Conversion::None => false,
                    }
            }
        }
    }
}

fn blob(size: u64) -> Sha1 {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {size}\0"));
    hasher
}

fn hash_of(file: &Path) -> io::Result<[u8; 20]> {
    let mut file = File::open(file)?;
    let mut hasher = blob(file.metadata()?.len());
    io::copy(&mut file, &mut hasher)?;
    Ok(hasher.finalize().into())
}

/// The hash of a file in which git made each LF a CRLF.
fn hash_with_lf(file: &Path) -> io::Result<[u8; 20]> {
    let bytes = fs::read(file)?;
    let mut plain = Vec::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        if *byte != b'\r' || bytes.get(at + 1) != Some(&b'\n') {
            plain.push(*byte);
        }
    }
    let mut hasher = blob(plain.len() as u64);
    hasher.update(&plain);
    Ok(hasher.finalize().into())
}

/// Git's list of files, or nothing where there is no `.git` or its index is of a rare kind.
fn read_index(app_dir: &Path) -> Option<BTreeMap<PathBuf, Entry>> {
    let mut git = app_dir.join(".git");
    if git.is_file() {
        // A worktree or a submodule, whose repository is elsewhere.
        let text = fs::read_to_string(&git).ok()?;
        git = app_dir.join(text.trim().strip_prefix("gitdir:")?.trim());
    }
    let config = fs::read_to_string(git.join("config")).unwrap_or_default();
    if config.to_lowercase().contains("objectformat") {
        return None;
    }
    parse_index(&fs::read(git.join("index")).ok()?)
}

fn parse_index(bytes: &[u8]) -> Option<BTreeMap<PathBuf, Entry>> {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let version = number(4)?;
    if bytes.get(..4)? != b"DIRC" || !(2..=4).contains(&version) {
        return None;
    }
    let mut entries = BTreeMap::new();
    let mut at = 12;
    let mut name: Vec<u8> = Vec::new();
    for _ in 0..number(8)? {
        let start = at;
        let mode = number(start + 24)?;
        let sha1 = bytes.get(start + 40..start + ENTRY_SIZE)?.try_into().ok()?;
        let flags = bytes.get(start + ENTRY_SIZE..start + ENTRY_SIZE + 2)?;
        at += ENTRY_SIZE + 2;
        if flags[0] & 0x40 != 0 {
            // Extended flags, since version 3.
            at += 2;
        }
        if version == 4 {
            let (removed, length) = offset(bytes.get(at..)?)?;
            at += length;
            name.truncate(name.len().checked_sub(removed)?);
        } else {
            name.clear();
        }
        let end = bytes.get(at..)?.iter().position(|byte| *byte == 0)?;
        name.extend(&bytes[at..at + end]);
        at += end + 1;
        if version < 4 {
            // Padded with zeros to a multiple of eight.
            at = start + (at - start).next_multiple_of(8);
        }
        let path = PathBuf::from(OsStr::from_bytes(&name));
        entries.insert(path, Entry { mode, sha1 });
    }
    // An index that is split lists only the changes to another file.
    (bytes.get(at..at + 4)? != b"link").then_some(entries)
}

/// A number as git's pack format writes offsets, and how many bytes it takes.
fn offset(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = usize::from(bytes.first()? & 0x7f);
    let mut length = 1;
    while bytes[length - 1] & 0x80 != 0 {
        let byte = *bytes.get(length)?;
        value = (value.checked_add(1)?.checked_mul(128)?) | usize::from(byte & 0x7f);
        length += 1;
    }
    Some((value, length))
}

/// A warning for each `.gitattributes` whose rules make archives, or checkouts, of one revision
/// differ.
fn attributes(source: &Source) -> Vec<String> {
    let mut warnings = Vec::new();
    source.visit(&mut |path, leaf| {
        let Leaf::File { from, .. } = leaf else { return };
        if path.file_name() != Some(OsStr::new(".gitattributes")) {
            return;
        }
        let text = fs::read(from).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let set: BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(|line| line.split_whitespace().skip(1))
            .collect();
        for (attribute, why) in [
            (
                "export-ignore",
                "Hydra's checkout has the files that it names, but an archive, such as some \
                 platforms deploy, does not",
            ),
            (
                "export-subst",
                "an archive, such as some platforms deploy, has other text in the files that it \
                 names than Hydra's checkout",
            ),
            (
                "filter=lfs",
                "the files that it names are pointers in a checkout without git-lfs, and have \
                 their content in one with it",
            ),
        ] {
            if set.contains(attribute) {
                warnings.push(format!(
                    "{} has `{attribute}`: {why}. If the store path is not Hydra's, this may be why.",
                    path.display()
                ));
            }
        }
    });
    warnings
}

/// A warning for each file that tells a platform to leave out what git has.
fn left_out_by_platform(app_dir: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |file: &str, who: &str| {
        warnings.push(format!(
            "{file} is there: {who} leaves out what it names, but Hydra does not. If the store path \
             is not Hydra's, this may be why."
        ));
    };
    for (file, who) in [(".slugignore", "Heroku"), (".gcloudignore", "Google Cloud")] {
        if app_dir.join(file).exists() {
            warn(file, who);
        }
    }
    let project = fs::read_to_string(app_dir.join("project.toml")).unwrap_or_default();
    let project: toml::Table = toml::from_str(&project).unwrap_or_default();
    // The descriptor's two schemas: https://buildpacks.io/docs/reference/config/project-descriptor/
    let io = project.get("io").and_then(|io| io.get("buildpacks"));
    let filters = [io, project.get("build")]
        .into_iter()
        .flatten()
        .any(|table| table.get("exclude").is_some() || table.get("include").is_some());
    if filters {
        warn("project.toml with `include` or `exclude`", "pack");
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_git_writes_them() {
        assert_eq!(offset(&[0x00]), Some((0, 1)));
        assert_eq!(offset(&[0x7f, 9]), Some((127, 1)));
        assert_eq!(offset(&[0x80, 0x00]), Some((128, 2)));
        assert_eq!(offset(&[0x81, 0x01]), Some((257, 2)));
        assert_eq!(offset(&[0x80]), None);
    }

    #[test]
    fn what_is_no_index_is_none() {
        let mut cut = b"DIRC\0\0\0\x02\0\0\0\x01".to_vec();
        assert_eq!(parse_index(&cut), None);
        cut[7] = 9;
        assert_eq!(parse_index(&cut), None);
        assert_eq!(parse_index(b""), None);
    }
}
