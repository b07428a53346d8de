//! What is known of one store path: the part of its narinfo that a deploy needs.

use crate::cache::{CacheUrl, Trust};
use nix_derivation::{NixHash, StorePath};
use nix_narinfo::NarInfo;
use std::collections::BTreeSet;

/// A store path of a closure: what its NAR must be, where it is, and why that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    pub nar_hash: NixHash,
    /// Bytes of the NAR, decoded.
    pub nar_size: u64,
    pub references: BTreeSet<StorePath>,
    /// The binary cache, as [`CacheUrl`] prints it.
    pub cache: String,
    /// The NAR's URL, relative to the cache's or absolute.
    pub url: String,
    /// The NAR's compression, in a narinfo's words.
    pub compression: String,
    /// Bytes to download, where the cache says.
    pub file_size: Option<u64>,
    pub trust: Trust,
}

/// Words of [`PathInfo::to_line`] before the references.
const FIELDS: usize = 8;

impl PathInfo {
    #[must_use]
    pub fn new(narinfo: &NarInfo, cache: &CacheUrl, trust: Trust) -> Self {
        Self {
            nar_hash: narinfo.nar_hash().clone(),
            nar_size: narinfo.nar_size(),
            references: narinfo.references().clone(),
            cache: cache.to_string(),
            url: narinfo.url().to_string(),
            compression: narinfo.compression().as_str().to_string(),
            file_size: narinfo.file_size(),
            trust,
        }
    }

    #[must_use]
    pub fn download_size(&self) -> u64 {
        self.file_size.unwrap_or(self.nar_size)
    }

    /// One line that [`PathInfo::from_line`] reads: the path's base name, then the fields in their
    /// order, then the references' base names, all separated by spaces.
    ///
    /// Nothing where the NAR's URL is absolute: it may be one that lets its bearer in, and the line
    /// goes into an image. Nothing either where a field holds a space, so that it would not be read.
    #[must_use]
    pub fn to_line(&self, path: &StorePath) -> Option<String> {
        let fields = [&self.cache, &self.url, &self.compression];
        if self.url.contains("://") || fields.iter().any(|field| field.contains(' ')) {
            return None;
        }
        let file_size = self
            .file_size
            .map_or_else(|| "-".to_string(), |size| size.to_string());
        let mut line = [
            path.to_basename(),
            self.nar_hash.to_nix_nixbase32_string(),
            self.nar_size.to_string(),
            self.cache.clone(),
            self.url.clone(),
            self.compression.clone(),
            file_size,
            self.trust.as_str().to_string(),
        ]
        .join(" ");
        for reference in &self.references {
            line.push(' ');
            line.push_str(&reference.to_basename());
        }
        Some(line)
    }

    /// Reads what [`PathInfo::to_line`] wrote; nothing where it did not.
    #[must_use]
    pub fn from_line(line: &str) -> Option<(StorePath, Self)> {
        let words: Vec<&str> = line.split(' ').collect();
        let (fields, references) = words.split_at_checked(FIELDS)?;
        let [path, hash, size, cache, url, compression, file_size, trust] = fields else {
            return None;
        };
        let info = Self {
            nar_hash: hash.parse().ok()?,
            nar_size: size.parse().ok()?,
            references: references
                .iter()
                .map(|name| StorePath::from_basename(name.as_bytes()).ok())
                .collect::<Option<_>>()?,
            cache: (*cache).to_string(),
            url: (*url).to_string(),
            compression: (*compression).to_string(),
            file_size: match *file_size {
                "-" => None,
                size => Some(size.parse().ok()?),
            },
            trust: Trust::from_word(trust)?,
        };
        Some((StorePath::from_basename(path.as_bytes()).ok()?, info))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_holds_all_that_is_known() {
        let path: StorePath = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp-1.0"
            .parse()
            .unwrap();
        let info = PathInfo {
            nar_hash: NixHash::Sha256([7; 32]),
            nar_size: 123,
            references: BTreeSet::from([path.clone()]),
            cache: "https://cache.nixos.org".into(),
            url: "nar/x.nar.xz?hash=y".into(),
            compression: "xz".into(),
            file_size: None,
            trust: Trust::Signed,
        };
        let other = PathInfo {
            references: BTreeSet::new(),
            file_size: Some(45),
            trust: Trust::Unsigned,
            ..info.clone()
        };
        for info in [info.clone(), other] {
            let line = info.to_line(&path).unwrap();
            assert_eq!(PathInfo::from_line(&line), Some((path.clone(), info)));
        }
        let presigned = PathInfo {
            url: "https://bucket.example.org/x.nar?signature=secret".into(),
            ..info
        };
        assert_eq!(presigned.to_line(&path), None);
    }

    #[test]
    fn what_is_no_such_line_is_nothing() {
        for line in ["", "a b c", "x x x x x x x x", &"- ".repeat(20)] {
            assert_eq!(PathInfo::from_line(line), None);
        }
    }
}
