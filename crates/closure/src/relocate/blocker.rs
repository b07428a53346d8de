//! What prevents moving a closure: a file and the reason, in types and as layers' metadata keeps them.

use crate::relocate::relocation::DirectoryTooLong;
use nix_derivation::StorePath;
use std::path::PathBuf;
use store_references::packing::Packing;

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
    Blockers(Vec<Blocker>),
}

/// One file that cannot be moved, or that cannot be known to work elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blocker {
    /// The base name of a store path, and the path in it; the name alone where it is about it all.
    pub file: String,
    pub reason: BlockerReason,
}

/// Why a file prevents moving its closure.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockerReason {
    /// A store path's hash with no `/nix/store/` before it.
    Bare,
    /// A store path in UTF-16 or UTF-32.
    Wide,
    /// A store path in a packed file that is not packed anew here: by its packing, by its size, or
    /// because it is a link in a zip.
    Packed(Packing),
    /// A store path in a packed member of a zip.
    Nested,
    /// A store path in a signed jar, whose signature would no longer hold.
    Signed,
    /// A store path in a zip at the end of a program, which finds it by its place.
    Appended,
    /// A packed file in which there is more than can be looked at.
    Unseen(Packing),
    /// A checksum of a file that is rewritten: this one, in the same store path.
    Checksum(String),
    /// There are too many checksums in it to look at, and files beside it are rewritten.
    Checksums,
    /// There are more such files in a store path than are noted.
    TooMany,
    /// A reference that the narinfo declares, and no file has.
    Unfound(StorePath),
    /// A store path in a format that a rewrite would break: this one.
    Format(String),
    /// A store path in a format that is not known, and begins with these bytes in hexadecimal.
    UnknownFormat(String),
    /// A container that is not looked into: of this format.
    Sealed(String),
}

impl NotRelocatable {
    /// Lines that [`NotRelocatable::from_lines`] reads: one a blocker, or one for the whole.
    #[must_use]
    pub fn to_lines(&self) -> Vec<String> {
        match self {
            Self::DirectoryTooLong(directory, error) => {
                vec![format!(
                    "too-long\t{}\t{}",
                    error.excess,
                    directory.display()
                )]
            }
            Self::SamePlace(paths) => {
                let [one, other] = paths.as_ref().clone().map(|path| path.to_basename());
                vec![format!("same-place\t{one}\t{other}")]
            }
            Self::Blockers(blockers) => blockers.iter().map(Blocker::to_line).collect(),
        }
    }

    /// Reads what [`NotRelocatable::to_lines`] wrote; `None` where it did not.
    #[must_use]
    pub fn from_lines(lines: &[String]) -> Option<Self> {
        let mut parts = lines.first()?.splitn(3, '\t');
        let path = |name: &str| StorePath::from_basename(name.as_bytes()).ok();
        Some(match (parts.next()?, parts.next()?, parts.next()?) {
            ("too-long", excess, directory) => {
                let excess = excess.parse().ok()?;
                Self::DirectoryTooLong(directory.into(), DirectoryTooLong { excess })
            }
            ("same-place", one, other) => Self::SamePlace(Box::new([path(one)?, path(other)?])),
            _ => {
                let blockers = lines.iter().map(|line| Blocker::from_line(line));
                Self::Blockers(blockers.collect::<Option<_>>()?)
            }
        })
    }
}

impl Blocker {
    /// One line that [`Blocker::from_line`] reads: a code, what it is about, and the file, separated by
    /// tabs.
    #[must_use]
    pub fn to_line(&self) -> String {
        let (code, about) = self.reason.code();
        format!("{code}\t{about}\t{}", self.file)
    }

    /// Reads what [`Blocker::to_line`] wrote; `None` where it did not.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let mut parts = line.splitn(3, '\t');
        let (code, about, file) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            file: file.to_string(),
            reason: BlockerReason::from_code(code, about)?,
        })
    }
}

impl BlockerReason {
    /// A code, and what it is about, which holds no tab.
    fn code(&self) -> (&'static str, String) {
        let none = String::new;
        match self {
            Self::Bare => ("bare", none()),
            Self::Wide => ("wide", none()),
            Self::Packed(packing) => ("packed", packing.name().to_string()),
            Self::Nested => ("nested", none()),
            Self::Signed => ("signed", none()),
            Self::Appended => ("appended", none()),
            Self::Unseen(packing) => ("unseen", packing.name().to_string()),
            Self::Checksum(file) => ("checksum", file.replace('\t', " ")),
            Self::Checksums => ("checksums", none()),
            Self::TooMany => ("too-many", none()),
            Self::Unfound(path) => ("unfound", path.to_basename()),
            Self::Format(name) => ("format", name.clone()),
            Self::UnknownFormat(bytes) => ("unknown-format", bytes.clone()),
            Self::Sealed(name) => ("sealed", name.clone()),
        }
    }

    fn from_code(code: &str, about: &str) -> Option<Self> {
        Some(match code {
            "bare" => Self::Bare,
            "wide" => Self::Wide,
            "packed" => Self::Packed(Packing::from_name(about)?),
            "nested" => Self::Nested,
            "signed" => Self::Signed,
            "appended" => Self::Appended,
            "unseen" => Self::Unseen(Packing::from_name(about)?),
            "checksum" => Self::Checksum(about.to_string()),
            "checksums" => Self::Checksums,
            "too-many" => Self::TooMany,
            "unfound" => Self::Unfound(StorePath::from_basename(about.as_bytes()).ok()?),
            "format" => Self::Format(about.to_string()),
            "unknown-format" => Self::UnknownFormat(about.to_string()),
            "sealed" => Self::Sealed(about.to_string()),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_hold_all_that_prevents_a_relocation() {
        let path = |name: &str| {
            let path = format!("/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-{name}");
            path.parse::<StorePath>().unwrap()
        };
        let blocker = |reason| Blocker {
            file: "0jn9-myapp/a".into(),
            reason,
        };
        for reason in [
            NotRelocatable::DirectoryTooLong("/a/b c".into(), DirectoryTooLong { excess: 7 }),
            NotRelocatable::SamePlace(Box::new([path("a"), path("b")])),
            NotRelocatable::Blockers(vec![
                blocker(BlockerReason::Bare),
                blocker(BlockerReason::Unfound(path("a"))),
            ]),
        ] {
            assert_eq!(NotRelocatable::from_lines(&reason.to_lines()), Some(reason));
        }
        assert_eq!(NotRelocatable::from_lines(&[]), None);
    }

    #[test]
    fn a_line_holds_all_of_a_blocker() {
        let path = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-zlib";
        for reason in [
            BlockerReason::Bare,
            BlockerReason::Wide,
            BlockerReason::Packed(Packing::Xz),
            BlockerReason::Nested,
            BlockerReason::Signed,
            BlockerReason::Appended,
            BlockerReason::Unseen(Packing::Zip),
            BlockerReason::Checksum("lib/a.so".into()),
            BlockerReason::Checksums,
            BlockerReason::TooMany,
            BlockerReason::Unfound(path.parse().unwrap()),
            BlockerReason::Format("PNG image".into()),
            BlockerReason::UnknownFormat("ff45".into()),
            BlockerReason::Sealed("git pack".into()),
        ] {
            let blocker = Blocker {
                file: "0jn9-myapp/a\tfile".into(),
                reason,
            };
            assert_eq!(Blocker::from_line(&blocker.to_line()), Some(blocker));
        }
        for line in ["", "bare", "bare\t", "other\t\tfile", "packed\tother\tfile"] {
            assert_eq!(Blocker::from_line(line), None, "{line}");
        }
    }
}
