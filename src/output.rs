//! Wordings that several steps of the build log share.

use crate::closure::plan::Caches;
use crate::closure::progress::{PACE, watch};
use crate::closure::survey::{Obstacle, Reason, Survey};
use crate::layers::closure::NotRelocatable;
use crate::tools::{Tool, ToolSource};
use bullet_stream::global::print;
pub(crate) use nix_hydra_start::closure::bytes;
use std::time::{Duration, Instant};

/// `1 store path`, `30 store paths`.
pub(crate) fn paths(count: usize) -> String {
    match count {
        1 => "1 store path".to_string(),
        count => format!("{count} store paths"),
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// `40 seconds`, `3 minutes`, `2 hours`, `5 days`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// Runs `work`, a download of `total` bytes of NARs, under the heading `what`: says how it gets on
/// where it takes long, and in the end how much came from which cache since they had sent `before`, or
/// in all.
pub(crate) fn downloading<T: Send, E: Send>(
    what: &str,
    total: u64,
    caches: &Caches,
    before: &[u64],
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    let from_each = || {
        let before = before.iter().chain(std::iter::repeat(&0));
        let now = caches.received().zip(before);
        now.map(|((cache, now), before)| (cache, now - before))
    };
    let begun = Instant::now();
    let mut timer = Some(print::sub_start_timer(what));
    let done = watch(
        total,
        || from_each().map(|(_, count)| count).sum(),
        PACE,
        |line| match timer.take() {
            Some(timer) => timer.cancel(line),
            None => sub_bullet(line),
        },
        work,
    );
    match timer {
        Some(timer) => {
            timer.done();
        }
        None => sub_bullet(format!("Done after {}", duration(begun.elapsed()))),
    }
    if done.is_ok() {
        for (cache, count) in from_each().filter(|(_, count)| *count > 0) {
            sub_bullet(format!("{} came from {cache}", bytes(count)));
        }
    }
    done
}

/// What is said of a closure that was moved into its layer.
pub(crate) fn relocated(survey: &Survey) -> String {
    format!("Relocated: {}, none left out", extent(survey))
}

/// What is said of one that was not, but could be.
pub(crate) fn movable(survey: &Survey) -> String {
    format!(
        "Could run with no engine: NIX_ENGINE=relocate would rewrite {}, and leave none out",
        extent(survey)
    )
}

/// What is said of one that could not.
pub(crate) fn bound(reason: &NotRelocatable) -> String {
    let why = match reason {
        NotRelocatable::DirectoryTooLong(..) => "the layer's directory has too long a name".into(),
        NotRelocatable::SamePlace(_) => "two store paths would have the same place".into(),
        NotRelocatable::Obstacles(obstacles) => match obstacles.as_slice() {
            [] => return String::new(),
            [only] => obstacle(only),
            [first, rest @ ..] => format!("{}, and {} more", obstacle(first), rest.len()),
        },
    };
    format!("Needs an engine, since it cannot be relocated: {why}")
}

fn extent(survey: &Survey) -> String {
    let count = |count, what| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    format!(
        "{} in {}",
        count(survey.references, "reference"),
        count(survey.files, "file")
    )
}

/// A file that stands against a relocation, and why.
pub(crate) fn obstacle(obstacle: &Obstacle) -> String {
    format!("{} {}", obstacle.file, against(&obstacle.reason))
}

/// Why a file stands against a relocation.
pub(crate) fn against(reason: &Reason) -> String {
    match reason {
        Reason::Bare => "has a store path's hash with no `/nix/store/` before it".to_string(),
        Reason::Wide => "has a store path in UTF-16 or UTF-32".to_string(),
        Reason::Packed(packing) => format!("has a store path in {} data", packing.name()),
        Reason::Nested => "has a store path in a packed file in a zip".to_string(),
        Reason::Signed => "has a store path in a signed jar".to_string(),
        Reason::Appended => "has a store path in the zip at its end".to_string(),
        Reason::Unseen(packing) => format!("has more {} data than is read", packing.name()),
        Reason::Checksum(file) => format!("has a checksum of `{file}`, which is rewritten"),
        Reason::Checksums => "has more checksums than are read".to_string(),
        Reason::Told(words) => words.clone(),
        Reason::TooMany => "has more files with store paths than are noted".to_string(),
        Reason::Unfound(path) => format!("refers to {path}, but in no file that can be read"),
    }
}

/// A text with the users and passwords of the URLs in it left out.
pub(crate) fn without_credentials(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c == '/' || c.is_whitespace());
        let host = after[..end.unwrap_or(after.len())].rfind('@');
        rest = &after[host.map_or(0, |at| at + 1)..];
    }
    shown.push_str(rest);
    shown
}

/// `Nix 2.35.2` for a pinned tool, else the setting that names it.
pub(crate) fn tool_name(source: &ToolSource) -> String {
    let (name, setting) = match source.tool {
        Tool::Nix => ("Nix", "NIX_ARCHIVE_URL"),
        Tool::PRoot => ("PRoot", "NIX_PROOT_URL"),
    };
    match &source.version {
        Some(version) => format!("{name} {version}"),
        None => format!("the {name} of {setting}"),
    }
}

/// A text that may hold what a server or an archive says, with its colours left out and its control
/// characters escaped: none can clear the screen or hide a line of the log.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
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
        if letter.is_control() && letter != '\n' && letter != '\t' {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// A line of the log below a step, which may hold what a server or an archive says.
// Every other line of this kind goes through here: see `disallowed-methods` in `clippy.toml`.
#[expect(clippy::disallowed_methods)]
pub(crate) fn sub_bullet(text: impl AsRef<str>) {
    print::sub_bullet(printable(text.as_ref()).replace('\n', "\\n"));
}

/// A warning, which may hold the same.
#[expect(clippy::disallowed_methods)]
pub fn warning(text: &str) {
    print::warning(printable(text));
}

/// Settings of the earlier buildpacks that have nothing to say any more, and why.
const RETIRED_SETTINGS: [(&str, &str); 3] = [
    ("NIX_BUILD_FLAGS", "no `nix-build` is run"),
    ("NIX_APP_NAME", "NIX_TARGET says whose programs come first"),
    (
        "NIX_VERSION",
        "Nix is pinned; NIX_ARCHIVE_URL names another one",
    ),
];

/// Warns of settings that an app for an earlier buildpack may still have.
pub fn warn_of_retired_settings(setting: impl Fn(&str) -> Option<String>) {
    for (name, reason) in RETIRED_SETTINGS {
        if setting(name).is_some_and(|value| !value.trim().is_empty()) {
            warning(&format!("{name} is set, but has no effect: {reason}."));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_obstacle_names_its_file_and_the_reason() {
        use crate::closure::packed::Packing;
        let path = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-zlib";
        let reasons = [
            Reason::Bare,
            Reason::Wide,
            Reason::Packed(Packing::Xz),
            Reason::Nested,
            Reason::Signed,
            Reason::Appended,
            Reason::Unseen(Packing::Gzip),
            Reason::Checksum("lib/a.so".into()),
            Reason::Checksums,
            Reason::TooMany,
            Reason::Unfound(path.parse().unwrap()),
        ];
        let lines = reasons.map(|reason| {
            obstacle(&Obstacle {
                file: "0jn9-myapp/file".into(),
                reason,
            })
        });
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn every_retired_setting_is_in_the_contract() {
        let contract = include_str!("../docs/application_contract.md");
        for (name, _) in RETIRED_SETTINGS {
            assert!(contract.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn credentials_are_left_out_of_any_text_with_urls() {
        for (text, shown) in [
            (
                "a=https://u:p@x.net/y@z:b=flake:git+https://t@y.net/r?rev=1",
                "a=https://x.net/y@z:b=flake:git+https://y.net/r?rev=1",
            ),
            ("nixpkgs=/pins", "nixpkgs=/pins"),
            ("http://u:p@", "http://"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }

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
    fn nothing_that_a_server_says_moves_the_cursor() {
        assert_eq!(
            printable("a\u{1b}[2J\u{9b}2J\r\u{7}\tb\n\u{1b}[1;31m\u{1b}[Kred\u{1b}[0m\u{1b}[m"),
            "a\\u{1b}[2J\\u{9b}2J\\r\\u{7}\tb\nred"
        );
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

    #[test]
    fn lists_read_as_sentences() {
        let items = ["a", "b", "c"].map(String::from);
        assert_eq!(list(&items[..1]), "a");
        assert_eq!(list(&items[..2]), "a and b");
        assert_eq!(list(&items), "a, b and c");
    }
}
