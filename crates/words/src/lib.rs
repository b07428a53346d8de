//! Words that every part of the log shares: counts, lists and durations as people say them.

use std::borrow::Borrow;
use std::time::Duration;

/// `1 file`, `30 files`.
pub fn count(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// `1 store path`, `30 store paths`.
pub fn paths(count: usize) -> String {
    self::count(count, "store path")
}

/// `a`, `a and b`, `a, b and c`.
pub fn list<T: Borrow<str>>(items: &[T]) -> String {
    match items {
        [] => String::new(),
        [only] => only.borrow().to_string(),
        [first @ .., last] => format!("{} and {}", first.join(", "), last.borrow()),
    }
}

/// The first `shown` of some lines, and a last one with the number of the others.
pub fn first<T: ToString>(lines: &[T], shown: usize) -> Vec<String> {
    let mut first: Vec<String> = lines.iter().take(shown).map(T::to_string).collect();
    if lines.len() > shown {
        first.push(format!("… and {} more", lines.len() - shown));
    }
    first
}

/// The same as a text, with `indent` before each line.
pub fn listed<T: ToString>(lines: &[T], shown: usize, indent: &str) -> String {
    let mut text = String::new();
    for line in first(lines, shown) {
        text.extend([indent, &line, "\n"]);
    }
    text
}

/// `40 seconds`, `3 minutes`, `2 hours`, `5 days`.
pub fn duration(time: Duration) -> String {
    let seconds = usize::try_from(time.as_secs()).unwrap_or(usize::MAX);
    match seconds {
        0..120 => count(seconds, "second"),
        120..7200 => count(seconds / 60, "minute"),
        7200..172_800 => count(seconds / 3600, "hour"),
        _ => count(seconds / 86_400, "day"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        for (seconds, text) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (180, "3 minutes"),
            (7200, "2 hours"),
            (400_000, "4 days"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn many_are_named_by_their_first() {
        assert_eq!(first(&[0, 1, 2], 3), ["0", "1", "2"]);
        assert_eq!(first(&[0, 1, 2, 3], 2), ["0", "1", "… and 2 more"]);
        assert_eq!(listed(&[0, 1], 1, "- "), "- 0\n- … and 1 more\n");
    }

    #[test]
    fn lists_read_as_sentences() {
        let items = ["a", "b", "c"];
        assert_eq!(list(&items[..1]), "a");
        assert_eq!(list(&items[..2]), "a and b");
        assert_eq!(list(&items), "a, b and c");
    }
}
