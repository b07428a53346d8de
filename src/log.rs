//! Sentences that several steps of the build log share.

use bullet_stream::global::print;
use closure::relocate::blocker::{Blocker, BlockerReason, NotRelocatable};
use nix_derivation::StorePath;
pub(crate) use nix_hydra_start::closure::bytes;
use words::count;

/// The line for a closure that was relocated.
pub(crate) fn relocated(files: usize, references: usize) -> String {
    let (references, files) = (count(references, "reference"), count(files, "file"));
    format!("Relocated: {references} in {files}")
}

/// The line for one that would be run by PRoot, and that could be relocated.
pub(crate) const RELOCATABLE: &str =
    "Could run with no engine, faster than under PRoot: set NIX_ENGINE=relocate";

/// The line for one that cannot be relocated.
pub(crate) fn not_relocatable(reason: &NotRelocatable) -> String {
    let why = match reason {
        NotRelocatable::DirectoryTooLong(..) => "the layer's directory has too long a name".into(),
        NotRelocatable::SamePlace(..) => "two store paths would have the same place".into(),
        NotRelocatable::Blockers(blockers) => match blockers.as_slice() {
            [] => return String::new(),
            [only] => blocker(only),
            [first, rest @ ..] => format!("{}, and {} more", blocker(first), rest.len()),
        },
    };
    format!("Needs an engine, since it cannot be relocated: {why}")
}

/// A file that prevents a relocation, and why.
pub(crate) fn blocker(blocker: &Blocker) -> String {
    format!("{} {}", blocker.file, blocker_reason(&blocker.reason))
}

/// Why a file prevents a relocation.
fn blocker_reason(reason: &BlockerReason) -> String {
    match reason {
        BlockerReason::Bare => {
            "has a store path's hash with no `/nix/store/` before it".to_string()
        }
        BlockerReason::Wide => "has a store path in UTF-16 or UTF-32".to_string(),
        BlockerReason::Packed(packing) => format!("has a store path in {} data", packing.name()),
        BlockerReason::Nested => "has a store path in a packed file in a zip".to_string(),
        BlockerReason::Signed => "has a store path in a signed jar".to_string(),
        BlockerReason::Appended => "has a store path in the zip at its end".to_string(),
        BlockerReason::Unseen(packing) => {
            format!("has more {} data than is read", packing.name())
        }
        BlockerReason::Checksum(file) => {
            format!("has a checksum or signature of `{file}`, which is rewritten")
        }
        BlockerReason::Checksums => "has more checksums than are read".to_string(),
        BlockerReason::TooMany => "has more files with store paths than are noted".to_string(),
        BlockerReason::Unfound(path) => {
            format!("refers to {path}, but in no file that can be read")
        }
        BlockerReason::Format(name) => {
            format!("has a store path, and is of a format that a rewrite would break: {name}")
        }
        BlockerReason::UnknownFormat(bytes) => format!(
            "has a store path, and is of an unknown format (it begins with {bytes}): \
             NIX_RELOCATE_IGNORE vouches for it"
        ),
        BlockerReason::Sealed(name) => {
            format!("may have a store path, but is not looked into: {name}")
        }
    }
}

/// The longest line of the log, in characters: names of store paths and files are shorter by far.
const MAX_LINE: usize = 4096;

/// A text that may hold what a server or an archive says, with its colours left out, its control
/// characters escaped and its long lines cut: none can clear the screen or hide a line of the log.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut letters = text.chars();
    let mut length = 0;
    while let Some(letter) = letters.next() {
        length = if letter == '\n' { 0 } else { length + 1 };
        if length > MAX_LINE {
            if length == MAX_LINE + 1 {
                shown.push('…');
            }
            continue;
        }
        let colour = letters
            .as_str()
            .strip_prefix('[')
            .map(|rest| {
                rest.trim_start_matches(|digit: char| digit.is_ascii_digit() || digit == ';')
            })
            // Compilers have their colours go on to the end of the line.
            .and_then(|rest| rest.strip_prefix(['m', 'K']))
            .filter(|_| letter == '\u{1b}');
        if let Some(rest) = colour {
            letters = rest.chars();
            continue;
        }
        if (letter.is_control() && letter != '\n' && letter != '\t') || is_invisible(letter) {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// The result of a step, labelled.
pub(crate) fn deploying(path: &StorePath) {
    sub_bullet(format!("Deploying {}, {path}", path.name()));
}

/// Whether a character changes the direction or the lines of the text around it, and so what it seems
/// to say (Unicode's bidirectional controls and its separators).
fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// A line of the log below a step, which may hold what a server or an archive says.
// Every other line of this kind goes through here: see `disallowed-methods` in `clippy.toml`.
#[expect(clippy::disallowed_methods, reason = "the text is made printable here")]
pub(crate) fn sub_bullet(text: impl AsRef<str>) {
    print::sub_bullet(printable(&text.as_ref().replace('\n', "\\n")));
}

/// A warning, which may hold the same.
#[expect(clippy::disallowed_methods, reason = "the text is made printable here")]
pub fn warning(text: &str) {
    print::warning(printable(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_obstacle_names_its_file_and_the_reason() {
        use store_references::packing::Packing;
        let path = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-zlib";
        let reasons = [
            BlockerReason::Bare,
            BlockerReason::Wide,
            BlockerReason::Packed(Packing::Xz),
            BlockerReason::Nested,
            BlockerReason::Signed,
            BlockerReason::Appended,
            BlockerReason::Unseen(Packing::Gzip),
            BlockerReason::Checksum("lib/a.so".into()),
            BlockerReason::Checksums,
            BlockerReason::TooMany,
            BlockerReason::Unfound(path.into()),
            BlockerReason::Format("SQLite database".into()),
            BlockerReason::UnknownFormat("ff45584500616263".into()),
            BlockerReason::Sealed("git pack".into()),
        ];
        let lines = reasons.map(|reason| {
            blocker(&Blocker {
                file: "0jn9-myapp/file".into(),
                reason,
            })
        });
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn nothing_that_a_server_says_moves_the_cursor() {
        assert_eq!(
            printable("a\u{1b}[2J\u{9b}2J\r\u{7}\tb\n\u{1b}[1;31m\u{1b}[Kred\u{1b}[0m\u{1b}[m"),
            "a\\u{1b}[2J\\u{9b}2J\\r\\u{7}\tb\nred"
        );
        assert_eq!(
            printable("txt.\u{202e}exe\u{2066}"),
            "txt.\\u{202e}exe\\u{2066}"
        );
    }

    #[test]
    fn a_line_has_an_end() {
        let long = "ä".repeat(10 * MAX_LINE);
        let cut = format!("{}…\nb", "ä".repeat(MAX_LINE));
        assert_eq!(printable(&format!("{long}\nb")), cut);
    }

    #[test]
    fn a_line_of_the_log_stays_one_whatever_is_in_it() {
        let log = bullet_stream::global::with_locked_writer(Vec::new(), || {
            sub_bullet("lib/\u{1b}[2J\r\n- Done");
            warning("\u{1b}[1A\u{1b}[2K is its name");
        });
        let log = String::from_utf8(log).unwrap();
        assert!(log.contains("  - lib/\\u{1b}[2J\\r\\n- Done\n"), "{log}");
        assert!(log.contains("\\u{1b}[1A is its name"), "{log}");
    }
}
