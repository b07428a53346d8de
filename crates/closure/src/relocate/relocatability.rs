//! Says whether a closure can be moved: what was found and rewritten, and what stands against it.

use crate::relocate::archives::{Fixed, MAX_LOOK, Packing, look_into};
use crate::relocate::budget::Budget;
use crate::relocate::references::{HashPart, References, hash_part};
use crate::relocate::relocation::DirectoryTooLong;
use crate::relocate::scan::is_bytecode;
use nix_derivation::StorePath;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Why a closure cannot be moved into its layer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRelocatable {
    /// The layer's directory has too long a name.
    #[error("{path} has too long a name", path = .0.display())]
    DirectoryTooLong(PathBuf, #[source] DirectoryTooLong),
    /// These two paths would have the same place.
    #[error("two store paths would have the same place")]
    SamePlace(Box<[StorePath; 2]>),
    /// These files would not work there.
    #[error("some files would not work elsewhere")]
    Obstacles(Vec<Obstacle>),
}

/// The largest file that is taken for a list of checksums.
const MAX_CHECKSUM_FILE: u64 = 1024 * 1024;

/// Fewest hexadecimal digits of a checksum: MD5's.
const MIN_CHECKSUM: usize = 32;

/// What checksums are made by, as the names of their lists have it.
const ALGORITHMS: [&[u8]; 7] = [
    b"md5", b"sha1", b"sha224", b"sha256", b"sha384", b"sha512", b"b2",
];

/// Bytes that notes of the files of one store path may take: those of a hundred thousand files with
/// references, which no store path has, and little beside what many of them unpacked at once take.
const MAX_NOTES: usize = 16 * 1024 * 1024;

/// Bytes that a note takes beside its file's name, roughly.
const NOTE_SIZE: usize = 100;

/// What was found in the files of some store paths.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Files and links in which references were rewritten, or would be.
    pub files: usize,
    /// The references in them.
    pub references: usize,
    /// What stands against moving the closure, in the order of the files' names.
    pub obstacles: Vec<Obstacle>,
    /// Whether a relative link leads out of a store path, and so counts on what is beside it.
    pub leaves: bool,
}

/// One file that cannot be moved, or that cannot be known to work elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Obstacle {
    /// The base name of a store path, and the path in it; the name alone where it is about it all.
    pub file: String,
    pub reason: Reason,
}

/// What is wrong with a file that is to be moved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A store path's hash with no `/nix/store/` before it.
    Bare,
    /// A store path in UTF-16 or UTF-32.
    Wide,
    /// A store path in a packed file.
    Packed(Packing),
    /// A store path in a packed member of a zip.
    Nested,
    /// A store path in a signed jar.
    Signed,
    /// A store path in a zip at the end of a program.
    Appended,
    /// A packed file in which there is more than can be looked at.
    Unseen(Packing),
    /// A checksum of a file that is rewritten: this one, in the same store path.
    Checksum(String),
    /// There are too many checksums in it to look at, and files beside it are rewritten.
    Checksums,
    /// There are more such files in a store path than are noted.
    TooMany,
    /// A reference that the narinfo names, and no file.
    Unfound(StorePath),
    /// What an earlier build said of it.
    Told(String),
}

/// What was met while one store path was unpacked. Paths are relative to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// The hash parts in file contents, names and targets of links.
    pub hashes: BTreeSet<HashPart>,
    /// References in contents and targets.
    pub references: usize,
    /// Files in which there were any.
    pub rewritten: BTreeSet<PathBuf>,
    /// Links in whose targets there were any.
    pub links: usize,
    pub bare: BTreeSet<PathBuf>,
    pub wide: BTreeSet<PathBuf>,
    /// Files that are packed, with the hash parts that lie in them unpacked.
    pub packed: BTreeMap<PathBuf, (Packing, BTreeSet<HashPart>)>,
    /// Files whose name says that they hold checksums.
    pub checksums: BTreeSet<PathBuf>,
    /// Whether the target of a relative link is outside; noted whether references are looked for or
    /// not.
    pub leaves: bool,
    /// Bytes of all these notes.
    notes: usize,
}

impl Met {
    /// Whether a file of this name, with so many hash parts, may be noted too.
    pub(crate) fn has_room(&mut self, path: &Path, hashes: usize) -> bool {
        let note = NOTE_SIZE + path.as_os_str().len() + hashes * size_of::<HashPart>();
        self.notes += note;
        self.notes <= MAX_NOTES
    }
}

impl Survey {
    pub fn add(&mut self, other: Self) {
        self.files += other.files;
        self.references += other.references;
        self.obstacles.extend(other.obstacles);
        self.leaves |= other.leaves;
    }
}

/// Completes what was `met` in the store path that is now at `place`: looks into packed files,
/// at checksums, and whether every reference that it declares was found.
pub fn survey<'a>(
    path: &StorePath,
    place: &Path,
    mut met: Met,
    declared: impl IntoIterator<Item = &'a StorePath>,
    references: &References,
) -> io::Result<Survey> {
    let mut found = Vec::new();
    if met.notes > MAX_NOTES {
        found.push((PathBuf::new(), Reason::TooMany));
    }
    found.extend(met.bare.iter().map(|file| (file.clone(), Reason::Bare)));
    found.extend(met.wide.iter().map(|file| (file.clone(), Reason::Wide)));
    let budget = Budget::new(MAX_LOOK);
    for (file, (packing, plain)) in &met.packed {
        let inside = look_into(&within(place, file), *packing, references, &budget)?;
        let unaccounted = !plain.is_subset(&inside.hashes);
        met.hashes.extend(inside.hashes);
        if let Some(fixed) = inside.fixed {
            found.push((file.clone(), fixed.into()));
        } else if unaccounted {
            // It only looks packed, or has them where no unpacking leads, such as a member's name.
            found.push((file.clone(), Reason::Packed(*packing)));
        } else if inside.references > 0 {
            met.references += inside.references;
            met.rewritten.insert(file.clone());
        }
    }
    for file in &met.checksums {
        let Some(all_named) = checksummed(&within(place, file), file)? else {
            if !met.rewritten.is_empty() {
                found.push((file.clone(), Reason::Checksums));
            }
            continue;
        };
        for named in all_named {
            // Bytecode may change where it refers to nothing.
            if met.rewritten.contains(&named) || is_bytecode(named.as_os_str().as_bytes()) {
                let named = named.display().to_string();
                found.push((file.clone(), Reason::Checksum(named)));
            }
        }
    }
    for reference in declared {
        if hash_part(reference).is_some_and(|hash| !met.hashes.contains(&hash)) {
            found.push((PathBuf::new(), Reason::Unfound(reference.clone())));
        }
    }
    let mut obstacles: Vec<_> = found
        .into_iter()
        .map(|(file, reason)| Obstacle {
            file: in_store_path(path, &file),
            reason,
        })
        .collect();
    obstacles.sort();
    obstacles.dedup();
    Ok(Survey {
        files: met.rewritten.len() + met.links,
        references: met.references,
        obstacles,
        leaves: met.leaves,
    })
}

impl From<Fixed> for Reason {
    fn from(fixed: Fixed) -> Self {
        match fixed {
            Fixed::Packing(packing) => Self::Packed(packing),
            Fixed::Nested => Self::Nested,
            Fixed::Signed => Self::Signed,
            Fixed::Appended => Self::Appended,
            Fixed::Unseen(packing) => Self::Unseen(packing),
        }
    }
}

/// A store path that is one file has no path in it.
pub(crate) fn within(place: &Path, file: &Path) -> PathBuf {
    if file.as_os_str().is_empty() {
        place.to_path_buf()
    } else {
        place.join(file)
    }
}

fn in_store_path(path: &StorePath, file: &Path) -> String {
    let name = path.to_basename();
    if file.as_os_str().is_empty() {
        name
    } else {
        format!("{name}/{}", file.display())
    }
}

/// Whether a file of this name holds checksums of others beside it.
#[must_use]
pub fn is_checksum_file(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let stem = name.strip_suffix(b".txt").unwrap_or(&name);
    let dot = stem.iter().rposition(|byte| *byte == b'.');
    let is_ending = dot.is_some();
    let word = &stem[dot.map_or(0, |dot| dot + 1)..];
    if matches!(word, b"hmac" | b"checksums") {
        return is_ending == (word == b"hmac");
    }
    // `md5sum` alone is a program.
    let is_list = is_ending || word.ends_with(b"s") || stem.len() < name.len();
    match word.strip_suffix(b"s").unwrap_or(word).strip_suffix(b"sum") {
        Some(algorithm) => is_list && ALGORITHMS.contains(&algorithm),
        None => is_ending && ALGORITHMS.contains(&word),
    }
}

/// The files that the checksum file at `path` vouches for, named as `file` is; none where it is too
/// large to be read.
///
/// A line with nothing but a checksum is about the file that the checksum file is named after, where
/// `.name.hmac` is libgcrypt's and OpenSSL's habit.
fn checksummed(path: &Path, file: &Path) -> io::Result<Option<Vec<PathBuf>>> {
    if fs::metadata(path)?.len() > MAX_CHECKSUM_FILE {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    let directory = file.parent().unwrap_or(Path::new(""));
    let mut named = Vec::new();
    for name in text.lines().filter_map(name_on) {
        if name.is_empty() {
            let own = file.file_stem().unwrap_or_default().as_bytes();
            let own = own.strip_prefix(b".").unwrap_or(own);
            named.push(directory.join(std::ffi::OsStr::from_bytes(own)));
        } else {
            named.extend(beside(directory, name));
        }
    }
    Ok(Some(named))
}

/// The name on a line with a checksum: `<sum>  <name>` as `sha256sum` has it, or with no name; or
/// `SHA256 (<name>) = <sum>` as the BSDs and OpenSSL have it.
fn name_on(line: &str) -> Option<&str> {
    let is_sum = |word: &str| {
        word.len() >= MIN_CHECKSUM && word.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let (sum, name) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    if is_sum(sum) {
        return Some(name.trim_start_matches([' ', '*']).trim_end());
    }
    let (name, sum) = line.rsplit_once('=')?;
    let (_, name) = name.trim_end().strip_suffix(')')?.split_once('(')?;
    is_sum(sum.trim()).then_some(name)
}

/// What `name` means in `directory`, both of a store path; none where it leads out of that.
fn beside(directory: &Path, name: &str) -> Option<PathBuf> {
    let mut path = directory.to_path_buf();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const PATH: &str = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp";
    const OTHER: &str = "/nix/store/0jn93wz4pk00k76grv8ing8js0yz8cpd-lib";

    fn surveyed(met: Met, place: &Path) -> Survey {
        let [path, other] = [PATH, OTHER].map(|path| path.parse::<StorePath>().unwrap());
        let references = References::new([&path, &other], None);
        survey(&path, place, met, [&other], &references).unwrap()
    }

    #[test]
    fn a_reference_that_no_file_names_stands_against_the_move() {
        let place = TempDir::new().unwrap();
        let survey = surveyed(Met::default(), place.path());
        let obstacle = Obstacle {
            file: "xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp".to_string(),
            reason: Reason::Unfound(OTHER.parse().unwrap()),
        };
        assert_eq!(survey.obstacles, [obstacle]);
    }

    #[test]
    fn a_checksum_counts_where_the_file_it_is_of_is_rewritten() {
        let place = TempDir::new().unwrap();
        fs::create_dir(place.path().join("lib")).unwrap();
        let sum = "a".repeat(64);
        fs::write(
            place.path().join("SHA256SUMS"),
            format!("{sum}  lib/a.so\n{sum} *lib/b.so\nno checksum\n"),
        )
        .unwrap();
        fs::write(place.path().join("lib/.a.so.hmac"), format!("{sum}\n")).unwrap();
        let met = Met {
            hashes: hash_part(&OTHER.parse().unwrap()).into_iter().collect(),
            rewritten: [PathBuf::from("lib/a.so")].into(),
            checksums: ["SHA256SUMS", "lib/.a.so.hmac"].map(PathBuf::from).into(),
            references: 1,
            ..Met::default()
        };
        let survey = surveyed(met, place.path());
        let name = "xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp";
        let expected = ["SHA256SUMS", "lib/.a.so.hmac"].map(|file| Obstacle {
            file: format!("{name}/{file}"),
            reason: Reason::Checksum("lib/a.so".to_string()),
        });
        assert_eq!(survey.obstacles, expected);
        assert_eq!((survey.files, survey.references), (1, 1));
    }

    /// The obstacles of a list with this text at `share/SHA256SUMS`, beside `lib/a.so`, which is
    /// rewritten.
    fn against(text: &str) -> Vec<Reason> {
        let place = TempDir::new().unwrap();
        fs::create_dir(place.path().join("share")).unwrap();
        fs::write(place.path().join("share/SHA256SUMS"), text).unwrap();
        let met = Met {
            hashes: hash_part(&OTHER.parse().unwrap()).into_iter().collect(),
            rewritten: [PathBuf::from("lib/a.so")].into(),
            checksums: [PathBuf::from("share/SHA256SUMS")].into(),
            ..Met::default()
        };
        let obstacles = surveyed(met, place.path()).obstacles;
        obstacles.into_iter().map(|found| found.reason).collect()
    }

    #[test]
    fn a_name_in_a_list_of_checksums_is_followed_wherever_it_leads() {
        let sum = "A1".repeat(16);
        let expected = [Reason::Checksum("lib/a.so".to_string())];
        for line in [
            format!("{sum}  ../lib/a.so"),
            format!("{sum} *.././lib//x/../a.so"),
            format!("{sum}\t../lib/a.so"),
            format!("SHA256 (../lib/a.so) = {sum}"),
            format!("SHA2-256(../lib/a.so)= {sum}"),
        ] {
            assert_eq!(against(&line), expected, "{line}");
        }
        for line in [
            format!("{sum}  lib/a.so"),
            format!("{sum}  ../../lib/a.so"),
            format!("{sum}  /lib/a.so"),
            "size (../lib/a.so) = 12".to_string(),
        ] {
            assert_eq!(against(&line), [], "{line}");
        }
        let bytecode = Reason::Checksum("share/a.pyc".to_string());
        assert_eq!(against(&format!("{sum}  a.pyc")), [bytecode]);
    }

    #[test]
    fn a_list_of_checksums_too_large_to_read_stands_against_the_move() {
        let line = format!("{}  other\n", "a".repeat(64));
        assert_eq!(against(&line.repeat(15_000)), [Reason::Checksums]);
    }

    #[test]
    fn checksum_files_are_known_by_their_names() {
        for name in [
            "x.sha256",
            "SHA512SUMS",
            "sha256sums.txt",
            ".libx.so.1.hmac",
            "a.MD5",
            "x.tar.sha256sum",
            "x.sha512sum",
            "x.md5sum",
            "md5sum.txt",
            "x.sha384",
            "SHA384SUMS",
            "B2SUMS",
            "checksums.txt",
        ] {
            assert!(is_checksum_file(name.as_bytes()), "{name}");
        }
        for name in [
            "sha256.h",
            "RECORD",
            "md5",
            "md5sum",
            "checksums.py",
            "x.checksums",
        ] {
            assert!(!is_checksum_file(name.as_bytes()), "{name}");
        }
    }
}
