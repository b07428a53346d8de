//! Words that every part of the log shares: counts, lists and durations as people say them.

use std::time::Duration;

/// `1 store path`, `30 store paths`.
#[must_use]
pub fn paths(count: usize) -> String {
    match count {
        1 => "1 store path".to_string(),
        count => format!("{count} store paths"),
    }
}

/// `a`, `a and b`, `a, b and c`.
#[must_use]
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// `40 seconds`, `3 minutes`, `2 hours`, `5 days`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
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
    fn lists_read_as_sentences() {
        let items = ["a", "b", "c"].map(String::from);
        assert_eq!(list(&items[..1]), "a");
        assert_eq!(list(&items[..2]), "a and b");
        assert_eq!(list(&items), "a, b and c");
    }
}
