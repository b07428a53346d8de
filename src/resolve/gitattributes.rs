//! What `.gitattributes` say of files that git converts as it checks them out: those differ from what git
//! has, and are the same in every checkout. Format: git's `gitattributes(5)`.

use super::source::{Leaf, Source};
use glob::{MatchOptions, Pattern};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// How git converts a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conversion {
    None,
    /// LF becomes CRLF.
    LineEnds,
    /// It becomes what is not looked into here: another encoding, or text with its own hash in it.
    Other,
}

/// A line of a `.gitattributes`.
#[derive(Debug)]
struct Rule {
    /// Where that file is.
    directory: PathBuf,
    /// For the path below that, or the name alone.
    pattern: Pattern,
    of_path: bool,
    settings: Vec<String>,
}

/// All rules of a source, the weakest first.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<Rule>);

impl Attributes {
    pub(super) fn read(source: &Source) -> Self {
        let mut rules = Vec::new();
        source.visit(&mut |path, leaf| {
            let Leaf::File { from, .. } = leaf else {
                return;
            };
            if path.file_name() == Some(OsStr::new(".gitattributes")) {
                let text = fs::read(from).unwrap_or_default();
                let directory = path.parent().unwrap_or(Path::new(""));
                let text = String::from_utf8_lossy(&text);
                rules.extend(text.lines().filter_map(|line| Rule::parse(directory, line)));
            }
        });
        // What is nearer to a file is stronger.
        rules.sort_by_key(|rule| rule.directory.components().count());
        Self(rules)
    }

    /// How git converts the file at `path` when it checks it out.
    pub(super) fn conversion(&self, path: &Path) -> Conversion {
        let (mut text, mut crlf, mut ident, mut encoding) = (true, false, false, false);
        let rules = self.0.iter().filter(|rule| rule.is_for(path));
        for setting in rules.flat_map(|rule| &rule.settings) {
            let (is_off, name) = match setting.strip_prefix(['-', '!']) {
                Some(name) => (true, name),
                None => (false, setting.as_str()),
            };
            let (name, value) = name.split_once('=').unwrap_or((name, ""));
            match name {
                "text" => text = !setting.starts_with('-'),
                "binary" if !is_off => text = false,
                "eol" => crlf = !is_off && value == "crlf",
                "ident" => ident = !is_off,
                "working-tree-encoding" => encoding = !is_off,
                _ => {}
            }
        }
        if ident || encoding {
            Conversion::Other
        } else if text && crlf {
            Conversion::LineEnds
        } else {
            Conversion::None
        }
    }
}

impl Rule {
    fn parse(directory: &Path, line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let pattern = words.next().filter(|pattern| !pattern.starts_with('#'))?;
        let of_path = pattern.contains('/');
        Some(Self {
            directory: directory.to_path_buf(),
            pattern: Pattern::new(pattern.trim_start_matches('/')).ok()?,
            of_path,
            settings: words.map(str::to_string).collect(),
        })
    }

    fn is_for(&self, path: &Path) -> bool {
        let Ok(below) = path.strip_prefix(&self.directory) else {
            return false;
        };
        let options = MatchOptions {
            require_literal_separator: true,
            ..MatchOptions::default()
        };
        let subject = if self.of_path {
            Some(below.as_os_str())
        } else {
            path.file_name()
        };
        let subject = subject.unwrap_or_default().to_string_lossy();
        self.pattern.matches_with(&subject, options)
    }
}
