//! Lists that are cut where they get long.

use words::list;

/// The number of lines of a list that are shown.
pub(in crate::messages) const SHOWN: usize = 8;

/// The first lines of a list, indented, and the number of the others.
pub(in crate::messages) fn shown(lines: &[String]) -> String {
    words::listed(lines, SHOWN, "    ")
}

/// Up to two names, and how many more.
pub(in crate::messages) fn some(names: &[&str]) -> String {
    match names {
        [one, two, rest @ ..] if !rest.is_empty() => {
            format!("{one}, {two} and {} more", rest.len())
        }
        names => list(names),
    }
}

/// The number of files, or of empty directories.
pub(super) fn count(names: &[&str]) -> String {
    if !names.iter().all(|name| name.ends_with('/')) {
        return files(names.len());
    }
    match names.len() {
        1 => "1 empty directory".to_string(),
        count => format!("{count} empty directories"),
    }
}

pub(super) fn files(count: usize) -> String {
    words::count(count, "file")
}
