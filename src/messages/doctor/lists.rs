//! Lists that are cut where they get long.

use crate::doctor::tree::{Change, TreeDifference};
use std::borrow::Borrow;
use words::list;

/// The number of lines of a list that are shown.
pub(in crate::messages) const SHOWN: usize = 8;

/// The first lines of a list, indented, and the number of the others.
pub(in crate::messages) fn shown(lines: &[String]) -> String {
    words::listed(lines, SHOWN, "    ")
}

/// Up to two names, and how many more.
pub(in crate::messages) fn some<T: Borrow<str>>(names: &[T]) -> String {
    match names {
        [one, two, rest @ ..] if !rest.is_empty() => {
            let (one, two) = (one.borrow(), two.borrow());
            format!("{one}, {two} and {} more", rest.len())
        }
        names => list(names),
    }
}

/// The files that differ from those that are `there`, with the words that `change` has for one that both have.
pub(in crate::messages) fn differing(
    difference: &TreeDifference,
    there: &str,
    change: impl Fn(Change) -> &'static str,
) -> Vec<String> {
    let here = difference.only_here.iter();
    let here = here.map(|name| format!("{name}  only here"));
    let other = difference.only_there.iter();
    let other = other.map(|name| format!("{name}  only {there}"));
    let changed = difference.changed.iter();
    let changed = changed.map(|(name, one)| format!("{name}  {}", change(*one)));
    here.chain(other).chain(changed).collect()
}

/// The number of files, or of empty directories.
pub(super) fn count<T: Borrow<str>>(names: &[T]) -> String {
    if !names.iter().all(|name| name.borrow().ends_with('/')) {
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
