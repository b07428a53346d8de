//! What a layer's metadata keeps of a store path: one line, with which the next build need not ask
//! for the path's narinfo again.
//!
//! A line has the base name, the NAR's SHA-256 (Nix's base 32), its size, [`Trust`] as one letter,
//! and the references, each by the first [`PREFIX`] letters of its hash. So an image's digest does not
//! depend on which cache a path came from, and no cache is named in it.

use crate::{PathInfo, Trust};
use nix_derivation::{NixHash, StorePath};
use std::collections::{BTreeMap, HashMap};

/// Letters that stand for a reference: 40 bits, so that two of 30,000 paths have the same with a
/// chance of one in 2,400. Neither is known then.
const PREFIX: usize = 8;

/// Writes the line of `path`.
pub fn to_line(path: &StorePath, info: &PathInfo) -> String {
    let hash = info.nar_hash.to_nix_nixbase32_string();
    let hash = hash.strip_prefix("sha256:").unwrap_or(&hash);
    let trust = info.trust.letter();
    let mut line = format!("{} {hash} {} {trust}", path.to_basename(), info.nar_size);
    for reference in &info.references {
        line.push(' ');
        line.push_str(&prefix(reference));
    }
    line
}

/// Reads the lines of a closure. A path is left out if its line cannot be read, or a reference of it
/// is not among the lines or not the only one of its prefix.
pub fn read_lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> BTreeMap<StorePath, PathInfo> {
    let lines: Vec<Line> = lines.into_iter().filter_map(Line::read).collect();
    let mut by_prefix: HashMap<String, Option<&StorePath>> = HashMap::new();
    for Line { path, .. } in &lines {
        by_prefix
            .entry(prefix(path))
            .and_modify(|known| *known = known.filter(|known| *known == path))
            .or_insert(Some(path));
    }
    let infos = lines.iter().filter_map(|line| {
        let references = line.references.iter();
        let references =
            references.map(|prefix| by_prefix.get(*prefix).copied().flatten().cloned());
        let info = PathInfo {
            nar_hash: line.nar_hash.clone(),
            nar_size: line.nar_size,
            references: references.collect::<Option<_>>()?,
            trust: line.trust,
            content: None,
            source: None,
        };
        Some((line.path.clone(), info))
    });
    infos.collect()
}

struct Line<'a> {
    path: StorePath,
    nar_hash: NixHash,
    nar_size: u64,
    trust: Trust,
    references: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ');
        Some(Self {
            path: StorePath::from_basename(words.next()?.as_bytes()).ok()?,
            nar_hash: NixHash::parse(&format!("sha256:{}", words.next()?)).ok()?,
            nar_size: words.next()?.parse().ok()?,
            trust: Trust::from_letter(words.next()?)?,
            references: words.collect(),
        })
    }
}

fn prefix(path: &StorePath) -> String {
    path.to_basename().chars().take(PREFIX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(hash: &str, name: &str) -> StorePath {
        format!("/nix/store/{hash:0<32}-{name}").parse().unwrap()
    }

    fn info(references: &[&StorePath], trust: Trust) -> PathInfo {
        PathInfo {
            nar_hash: NixHash::Sha256([7; 32]),
            nar_size: 123,
            references: references.iter().map(|path| (*path).clone()).collect(),
            trust,
            content: None,
            source: None,
        }
    }

    fn read(closure: &BTreeMap<StorePath, PathInfo>) -> BTreeMap<StorePath, PathInfo> {
        let lines: Vec<String> = closure
            .iter()
            .map(|(path, info)| to_line(path, info))
            .collect();
        read_lines(lines.iter().map(String::as_str))
    }

    #[test]
    fn lines_hold_all_that_is_known_of_a_closure() {
        let (app, libc) = (path("a", "myapp-1.0"), path("b", "glibc-2.40"));
        let closure = BTreeMap::from([
            (libc.clone(), info(&[&libc], Trust::ContentAddressed)),
            (app.clone(), info(&[&app, &libc], Trust::Signed)),
        ]);
        assert_eq!(read(&closure), closure);
    }

    #[test]
    fn a_path_is_not_known_without_its_references_or_with_two_of_one_prefix() {
        let (app, one, other) = (
            path("a", "app"),
            path("b", "one"),
            path("b0000001", "other"),
        );
        let twin = path("b00000001", "twin");
        let mut closure = BTreeMap::from([(app.clone(), info(&[&one], Trust::Signed))]);
        assert!(read(&closure).is_empty());
        closure.insert(one, info(&[], Trust::Signed));
        closure.insert(other, info(&[], Trust::Signed));
        assert!(read(&closure).contains_key(&app));
        closure.insert(twin, info(&[], Trust::Signed));
        assert!(!read(&closure).contains_key(&app));
    }

    #[test]
    fn anything_else_is_passed_over() {
        let path = "00000000000000000000000000000000-a";
        for line in [
            "",
            "a b c",
            path,
            &format!("{path} x 1 s"),
            &"- ".repeat(20),
        ] {
            assert!(read_lines([line]).is_empty());
        }
    }

    #[test]
    fn a_path_of_usual_length_takes_less_than_200_bytes() {
        let names: Vec<StorePath> = (0..6).map(|n| path(&n.to_string(), "x")).collect();
        let references: Vec<&StorePath> = names.iter().collect();
        let mut info = info(&references, Trust::Signed);
        info.nar_size = 123_456_789;
        assert!(to_line(&path("a", "python3.12-requests-2.32.3"), &info).len() < 200);
    }
}
