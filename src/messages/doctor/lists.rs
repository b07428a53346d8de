//! Lists that are cut where they get long.

use std::fmt::Write as _;
use words::list;

/// The number of lines of a list that are shown.
pub(super) const SHOWN: usize = 8;

/// The first lines of a list, indented, and the number of the others.
pub(in crate::messages) fn shown(lines: &[String]) -> String {
    let mut text = String::new();
    for line in lines.iter().take(SHOWN) {
        let _ = writeln!(text, "    {line}");
    }
    if lines.len() > SHOWN {
        let _ = writeln!(text, "    … and {} more", lines.len() - SHOWN);
    }
    text
}

/// Up to two names, and how many more.
pub(in crate::messages) fn some(names: &[&str]) -> String {
    match names {
        [one, two, rest @ ..] if !rest.is_empty() => {
            format!("{one}, {two} and {} more", rest.len())
        }
        names => list(&names.iter().map(ToString::to_string).collect::<Vec<_>>()),
    }
}

/// The number of files, or of empty directories.
pub(super) fn count(names: &[&str]) -> String {
    if names.iter().all(|name| name.ends_with('/')) {
        return match names.len() {
            1 => "1 empty directory".to_string(),
            count => format!("{count} empty directories"),
        };
    }
    files(names.len())
}

pub(super) fn files(count: usize) -> String {
    match count {
        1 => "1 file".to_string(),
        count => format!("{count} files"),
    }
}
