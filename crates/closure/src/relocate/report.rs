//! Says whether a closure can be moved: what is rewritten, and what prevents it.

use crate::relocate::archives::{MAX_LOOK, look_into};
use crate::relocate::blocker::{Blocker, BlockerReason};
use crate::relocate::budget::Budget;
use crate::relocate::checksums::checksummed;
use crate::relocate::findings::Findings;
use crate::relocate::formats::format_of;
use crate::relocate::references::{HashPart, ReferenceScanner, hash_part};
use crate::relocate::scan::is_bytecode;
use nix_derivation::StorePath;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What was found in the files of some store paths.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelocationReport {
    /// Files and links in which references were rewritten, or would be.
    pub files: usize,
    /// The references in them.
    pub references: usize,
    /// How many of them are of which format, or packed how.
    pub formats: BTreeMap<String, usize>,
    /// What prevents moving the closure, in the order of the files' names.
    pub blockers: Vec<Blocker>,
    /// Whether a relative link leads out of a store path, and so counts on its neighbours.
    pub has_escaping_links: bool,
    /// The hash parts of references to paths outside the closure, where references are rewritten. They are
    /// of no use without the closure, and not kept.
    #[serde(skip)]
    pub foreign: BTreeSet<HashPart>,
}

/// Files of a store path, each with a reason.
type Found = Vec<(PathBuf, BlockerReason)>;

impl RelocationReport {
    /// Completes the `findings` of the store path that is now at `place`: looks into packed files, at
    /// checksums, and whether every reference that it declares was found.
    pub fn new<'a>(
        path: &StorePath,
        place: &Path,
        mut findings: Findings,
        declared: impl IntoIterator<Item = &'a StorePath>,
        scanner: &ReferenceScanner,
    ) -> io::Result<Self> {
        let mut found = Found::new();
        let bare = findings.bare.iter().cloned();
        found.extend(bare.map(|file| (file, BlockerReason::Bare)));
        let wide = findings.wide.iter().cloned();
        found.extend(wide.map(|file| (file, BlockerReason::Wide)));
        let sealed = findings.sealed.iter();
        found
            .extend(sealed.map(|(file, format)| {
                (file.clone(), BlockerReason::Sealed((*format).to_string()))
            }));
        let mut formats = BTreeMap::new();
        if findings.links > 0 {
            formats.insert("link".to_string(), findings.links);
        }
        found.extend(check_formats(place, &findings, &mut formats)?);
        found.extend(look_into_packed(
            place,
            &mut findings,
            scanner,
            &mut formats,
        )?);
        found.extend(check_checksums(place, &findings)?);
        if findings.is_full() {
            found.push((PathBuf::new(), BlockerReason::TooMany));
        }
        let declared = declared.into_iter();
        let unfound = declared.filter(|path| {
            let hash = hash_part(path);
            hash.is_some_and(|hash| !findings.hashes.contains(&hash))
        });
        found
            .extend(unfound.map(|path| (PathBuf::new(), BlockerReason::Unfound(path.to_string()))));
        let blockers = found.into_iter().map(|(file, reason)| Blocker {
            file: in_store_path(path, &file),
            reason,
        });
        let mut blockers: Vec<_> = blockers.collect();
        blockers.sort();
        blockers.dedup();
        Ok(Self {
            files: findings.rewritten.len() + findings.links,
            references: findings.references,
            formats,
            blockers,
            has_escaping_links: findings.has_escaping_links,
            foreign: findings.foreign,
        })
    }

    /// Adds the report of other store paths; sort the blockers once all are there.
    pub fn add(&mut self, other: Self) {
        self.files += other.files;
        self.references += other.references;
        for (format, count) in other.formats {
            *self.formats.entry(format).or_default() += count;
        }
        self.blockers.extend(other.blockers);
        self.has_escaping_links |= other.has_escaping_links;
        self.foreign.extend(other.foreign);
    }
}

/// The files with references whose format does not allow a rewrite, or is not known. These alone are read
/// again; a rewrite changes nothing by which a format is told.
fn check_formats(
    place: &Path,
    findings: &Findings,
    formats: &mut BTreeMap<String, usize>,
) -> io::Result<Found> {
    let mut found = Found::new();
    let rewritten = findings.rewritten.iter();
    for file in rewritten.filter(|file| !findings.sealed.contains_key(*file)) {
        match format_of(&within(place, file))?.checked() {
            Ok(format) => *formats.entry(format.to_string()).or_default() += 1,
            Err(blocker) => found.push((file.clone(), blocker)),
        }
    }
    Ok(found)
}

/// Looks into packed files, and notes those that are rewritten.
fn look_into_packed(
    place: &Path,
    findings: &mut Findings,
    scanner: &ReferenceScanner,
    formats: &mut BTreeMap<String, usize>,
) -> io::Result<Found> {
    let mut found = Found::new();
    let mut foreign = BTreeSet::new();
    let budget = Budget::new(MAX_LOOK);
    for (file, (packing, plain)) in &findings.packed {
        let inside = look_into(&within(place, file), *packing, scanner, &budget)?;
        let unaccounted = !plain.is_subset(&inside.hashes);
        findings.hashes.extend(inside.hashes);
        foreign.extend(inside.foreign);
        if let Some(blocker) = inside.blocker {
            found.push((file.clone(), blocker));
        } else if unaccounted {
            // It only looks packed, or has them where no unpacking leads, such as a member's name.
            found.push((file.clone(), BlockerReason::Packed(*packing)));
        } else if inside.references > 0 {
            findings.references += inside.references;
            *formats.entry(packing.name().to_string()).or_default() += 1;
            findings.rewritten.insert(file.clone());
        }
    }
    findings.add_foreign(foreign);
    Ok(found)
}

/// The lists of checksums that name a file which is rewritten.
fn check_checksums(place: &Path, findings: &Findings) -> io::Result<Found> {
    let mut found = Found::new();
    for file in &findings.checksums {
        let Some(all_named) = checksummed(&within(place, file), file)? else {
            if !findings.rewritten.is_empty() {
                found.push((file.clone(), BlockerReason::Checksums));
            }
            continue;
        };
        for named in all_named {
            // Bytecode may change where it refers to nothing.
            if findings.rewritten.contains(&named) || is_bytecode(named.as_os_str().as_bytes()) {
                let named = named.display().to_string();
                found.push((file.clone(), BlockerReason::Checksum(named)));
            }
        }
    }
    Ok(found)
}

/// A store path that is one file has no path in it.
fn within(place: &Path, file: &Path) -> PathBuf {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    const PATH: &str = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp";
    const OTHER: &str = "/nix/store/0jn93wz4pk00k76grv8ing8js0yz8cpd-lib";

    fn reported(findings: Findings, place: &Path) -> RelocationReport {
        let [path, other] = [PATH, OTHER].map(|path| path.parse::<StorePath>().unwrap());
        let references = ReferenceScanner::new([&path, &other], None);
        RelocationReport::new(&path, place, findings, [&other], &references).unwrap()
    }

    #[test]
    fn a_reference_that_no_file_names_prevents_the_move() {
        let place = TempDir::new().unwrap();
        let report = reported(Findings::default(), place.path());
        let blocker = Blocker {
            file: "xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp".to_string(),
            reason: BlockerReason::Unfound(OTHER.parse().unwrap()),
        };
        assert_eq!(report.blockers, [blocker]);
    }

    #[test]
    fn a_checksum_counts_where_the_file_it_is_of_is_rewritten() {
        let place = TempDir::new().unwrap();
        fs::create_dir(place.path().join("lib")).unwrap();
        fs::write(place.path().join("lib/a.so"), b"\x7fELF").unwrap();
        let sum = "a".repeat(64);
        fs::write(
            place.path().join("SHA256SUMS"),
            format!("{sum}  lib/a.so\n{sum} *lib/b.so\nno checksum\n"),
        )
        .unwrap();
        fs::write(place.path().join("lib/.a.so.hmac"), format!("{sum}\n")).unwrap();
        let findings = Findings {
            hashes: hash_part(&OTHER.parse().unwrap()).into_iter().collect(),
            rewritten: [PathBuf::from("lib/a.so")].into(),
            checksums: ["SHA256SUMS", "lib/.a.so.hmac"].map(PathBuf::from).into(),
            references: 1,
            ..Findings::default()
        };
        let report = reported(findings, place.path());
        let name = "xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp";
        let expected = ["SHA256SUMS", "lib/.a.so.hmac"].map(|file| Blocker {
            file: format!("{name}/{file}"),
            reason: BlockerReason::Checksum("lib/a.so".to_string()),
        });
        assert_eq!(report.blockers, expected);
        assert_eq!((report.files, report.references), (1, 1));
    }

    /// The blockers of a list with this text at `share/SHA256SUMS`, beside `lib/a.so`, which is
    /// rewritten.
    fn against(text: &str) -> Vec<BlockerReason> {
        let place = TempDir::new().unwrap();
        for directory in ["lib", "share"] {
            fs::create_dir(place.path().join(directory)).unwrap();
        }
        fs::write(place.path().join("lib/a.so"), b"\x7fELF").unwrap();
        fs::write(place.path().join("share/SHA256SUMS"), text).unwrap();
        let findings = Findings {
            hashes: hash_part(&OTHER.parse().unwrap()).into_iter().collect(),
            rewritten: [PathBuf::from("lib/a.so")].into(),
            checksums: [PathBuf::from("share/SHA256SUMS")].into(),
            ..Findings::default()
        };
        let blockers = reported(findings, place.path()).blockers;
        blockers.into_iter().map(|found| found.reason).collect()
    }

    #[test]
    fn a_name_in_a_list_of_checksums_is_followed_wherever_it_leads() {
        let sum = "A1".repeat(16);
        let expected = [BlockerReason::Checksum("lib/a.so".to_string())];
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
        let bytecode = BlockerReason::Checksum("share/a.pyc".to_string());
        assert_eq!(against(&format!("{sum}  a.pyc")), [bytecode]);
    }

    #[test]
    fn a_signature_counts_where_the_file_it_is_of_is_rewritten() {
        let place = TempDir::new().unwrap();
        fs::write(place.path().join("a.so"), b"\x7fELF").unwrap();
        for name in ["a.so.sig", "b.so.sig"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        let findings = Findings {
            hashes: hash_part(&OTHER.parse().unwrap()).into_iter().collect(),
            rewritten: [PathBuf::from("a.so")].into(),
            checksums: ["a.so.sig", "b.so.sig"].map(PathBuf::from).into(),
            ..Findings::default()
        };
        let blockers = reported(findings, place.path()).blockers;
        let reasons: Vec<_> = blockers.into_iter().map(|found| found.reason).collect();
        assert_eq!(reasons, [BlockerReason::Checksum("a.so".to_string())]);
    }

    #[test]
    fn a_list_of_checksums_too_large_to_read_prevents_the_move() {
        let line = format!("{}  other\n", "a".repeat(64));
        assert_eq!(against(&line.repeat(15_000)), [BlockerReason::Checksums]);
    }
}
