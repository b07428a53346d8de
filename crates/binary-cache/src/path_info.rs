//! What is known of one store path: the part of its narinfo that a deploy needs.

use crate::{CacheUrl, Trust};
use nix_derivation::{CAHash, NixHash, StorePath};
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
    /// The NAR's URL, relative to the cache's or absolute; nothing where the cache has to be asked again.
    pub url: String,
    /// The NAR's compression, in a narinfo's words.
    pub compression: String,
    /// Bytes to download, where the cache says.
    pub file_size: Option<u64>,
    pub trust: Trust,
    /// What the path's name was made from, where its content is yet to be held against that.
    pub content: Option<CAHash>,
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
            content: narinfo
                .content_address()
                .filter(|_| trust == Trust::ContentAddressed)
                .filter(|address| !is_nar_hash(address, narinfo))
                .cloned(),
        }
    }

    #[must_use]
    pub fn download_size(&self) -> u64 {
        self.file_size.unwrap_or(self.nar_size)
    }

    /// One line that [`PathInfo::from_line`] reads: the path's base name, then the fields in their
    /// order, then the references' base names, all separated by spaces.
    ///
    /// Without the NAR's URL where it may be one that lets its bearer in, since the line goes into an
    /// image. Nothing where a field holds a space, so that it would not be read. The content is held
    /// against its name before there is anything to write, so that is not in it.
    #[must_use]
    pub fn to_line(&self, path: &StorePath) -> Option<String> {
        let fields = [&self.cache, &self.url, &self.compression];
        if fields.iter().any(|field| field.contains(' ')) {
            return None;
        }
        let url = if is_plain(&self.url) { &self.url } else { "" };
        let file_size = self
            .file_size
            .map_or_else(|| "-".to_string(), |size| size.to_string());
        let mut line = [
            path.to_basename(),
            self.nar_hash.to_nix_nixbase32_string(),
            self.nar_size.to_string(),
            self.cache.clone(),
            url.to_string(),
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
            content: None,
        };
        Some((StorePath::from_basename(path.as_bytes()).ok()?, info))
    }
}

/// Whether the path's name was made from the hash that is checked of each NAR.
fn is_nar_hash(address: &CAHash, narinfo: &NarInfo) -> bool {
    matches!(address, CAHash::Nar(hash) if hash == narinfo.nar_hash())
        && !narinfo.references().contains(narinfo.store_path())
}

/// Whether the URL of a NAR is a path in its cache, with no query but the hash that some servers want
/// to see again (`?hash=`): anything else may be a token.
fn is_plain(url: &str) -> bool {
    let (path, query) = url.split_once('?').unwrap_or((url, "hash="));
    let is_hash = |hash: &str| hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
    !path.contains("//") && query.strip_prefix("hash=").is_some_and(is_hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> StorePath {
        let path = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp-1.0";
        path.parse().unwrap()
    }

    fn info() -> PathInfo {
        PathInfo {
            nar_hash: NixHash::Sha256([7; 32]),
            nar_size: 123,
            references: BTreeSet::from([path()]),
            cache: "https://cache.nixos.org".into(),
            url: "nar/x.nar.xz?hash=y".into(),
            compression: "xz".into(),
            file_size: None,
            trust: Trust::Signed,
            content: None,
        }
    }

    #[test]
    fn a_line_holds_all_that_is_known() {
        let (path, info) = (path(), info());
        let other = PathInfo {
            references: BTreeSet::new(),
            file_size: Some(45),
            trust: Trust::Unsigned,
            ..info.clone()
        };
        for info in [info, other] {
            let line = info.to_line(&path).unwrap();
            assert_eq!(PathInfo::from_line(&line), Some((path.clone(), info)));
        }
    }

    #[test]
    fn what_may_let_its_bearer_in_is_in_no_line() {
        for url in [
            "https://bucket.example.org/x.nar?signature=secret",
            "https://bucket.example.org/secret/x.nar",
            "//bucket.example.org/secret/x.nar",
            "nar/x.nar?hash=1&token=secret",
            "nar/x.nar?token=secret",
            "nar/x.nar?hash=1#secret",
        ] {
            let info = PathInfo {
                url: url.into(),
                ..info()
            };
            let line = info.to_line(&path()).unwrap();
            assert!(!line.contains("secret"), "{line}");
            let known = PathInfo {
                url: String::new(),
                ..info
            };
            assert_eq!(PathInfo::from_line(&line), Some((path(), known)));
        }
    }

    #[test]
    fn what_is_no_such_line_is_nothing() {
        for line in ["", "a b c", "x x x x x x x x", &"- ".repeat(20)] {
            assert_eq!(PathInfo::from_line(line), None);
        }
    }
}
