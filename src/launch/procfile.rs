//! The Procfile: which processes an app has, as Heroku's Procfile buildpack specifies it.

use std::io;
use std::path::PathBuf;

/// Processes in the order of the file; each value is a shell command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Procfile {
    processes: Vec<(String, String)>,
}

/// Longest name of a process type.
const MAX_KEY_LENGTH: usize = 63;

/// Why there is no Procfile to use.
#[derive(Debug, thiserror::Error)]
pub enum ProcfileError {
    #[error("{path} cannot be read: {1}", path = .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Line(#[from] BadLine),
}

/// A line that a Procfile cannot have: its number, from 1, and its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct BadLine {
    pub line: usize,
    pub text: String,
    #[source]
    pub reason: LineError,
}

/// The fault of a line of a Procfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("no `name:` at its beginning")]
    NoKey,
    /// The name has characters, or a length, that a process type cannot have.
    #[error("not a name of a process")]
    BadKey,
    #[error("no command after the colon")]
    NoCommand,
}

/// A peculiarity of a Procfile whose meaning is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcfileWarning {
    /// The name was written in capitals, with `_` or after spaces: as written, and as it is used.
    Renamed(String, String),
    /// The name is there more than once; the last one counts.
    Duplicate(String),
    /// There is no process in it.
    Empty,
}

impl Procfile {
    /// Reads the text of a Procfile, with or without a byte order mark. Lines end with a line feed, a
    /// carriage return, or both.
    pub fn parse(text: &str) -> Result<(Self, Vec<ProcfileWarning>), BadLine> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut processes: Vec<(String, String)> = Vec::new();
        let mut warnings = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let refuse = |reason| BadLine {
                line: index + 1,
                text: line.to_string(),
                reason,
            };
            let (written, value) = line.split_once(':').ok_or(refuse(LineError::NoKey))?;
            let key = written.trim_start_matches([' ', '\t']);
            let key = key.to_ascii_lowercase().replace('_', "-");
            if key.is_empty() {
                return Err(refuse(LineError::NoKey));
            }
            if !is_key(&key) {
                return Err(refuse(LineError::BadKey));
            }
            let value = value.trim();
            if value.is_empty() {
                return Err(refuse(LineError::NoCommand));
            }
            if key != written {
                warnings.push(ProcfileWarning::Renamed(written.to_string(), key.clone()));
            }
            if let Some(earlier) = processes.iter().position(|(name, _)| *name == key) {
                warnings.push(ProcfileWarning::Duplicate(key.clone()));
                processes.remove(earlier);
            }
            processes.push((key, value.to_string()));
        }
        if processes.is_empty() {
            warnings.push(ProcfileWarning::Empty);
        }
        Ok((Self { processes }, warnings))
    }

    /// Names and commands, in the order of the file.
    pub fn processes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.processes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The process that runs when none is named: `preferred`, or the only one there is.
    pub fn default_process(&self, preferred: &str) -> Option<&str> {
        match self.processes.as_slice() {
            [(only, _)] => Some(only),
            _ => self
                .processes
                .iter()
                .map(|(name, _)| name.as_str())
                .find(|name| *name == preferred),
        }
    }
}

fn is_key(key: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    key.len() <= MAX_KEY_LENGTH
        && key.bytes().all(|byte| inner(byte) || byte == b'-')
        && key.bytes().next().is_some_and(inner)
        && key.bytes().last().is_some_and(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        Procfile::parse(text).unwrap().0.processes
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_string(), value.to_string())
    }

    #[test]
    fn blank_lines_comments_and_carriage_returns_are_passed_over() {
        assert_eq!(
            parsed("# processes\r\n\r\nweb:   myapp --verbose # not a comment\r\n  \nw-1:x:y"),
            [
                pair("web", "myapp --verbose # not a comment"),
                pair("w-1", "x:y")
            ]
        );
    }

    #[test]
    fn a_byte_order_mark_and_carriage_returns_alone_lose_no_process() {
        let expected = [pair("web", "a"), pair("worker", "b")];
        assert_eq!(parsed("\u{feff}web: a\nworker: b\n"), expected);
        assert_eq!(parsed("web: a\rworker: b\r"), expected);
    }

    #[test]
    fn capitals_and_underscores_are_changed_with_a_warning() {
        let (procfile, warnings) = Procfile::parse("Data_Worker: x").unwrap();
        assert_eq!(procfile.processes, [pair("data-worker", "x")]);
        assert_eq!(
            warnings,
            [ProcfileWarning::Renamed(
                "Data_Worker".into(),
                "data-worker".into()
            )]
        );
    }

    #[test]
    fn spaces_before_a_name_are_taken_away_with_a_warning() {
        let (procfile, warnings) = Procfile::parse(" \tweb: x").unwrap();
        assert_eq!(procfile.processes, [pair("web", "x")]);
        assert_eq!(
            warnings,
            [ProcfileWarning::Renamed(" \tweb".into(), "web".into())]
        );
    }

    #[test]
    fn a_file_without_processes_is_taken_with_a_warning() {
        let (procfile, warnings) = Procfile::parse("\n# web: x\n").unwrap();
        assert_eq!(procfile.processes, []);
        assert_eq!(warnings, [ProcfileWarning::Empty]);
    }

    #[test]
    fn of_two_processes_with_one_name_the_last_counts() {
        let (procfile, warnings) = Procfile::parse("web: a\nworker: b\nweb: c").unwrap();
        assert_eq!(procfile.processes, [pair("worker", "b"), pair("web", "c")]);
        assert_eq!(warnings, [ProcfileWarning::Duplicate("web".into())]);
    }

    #[test]
    fn lines_that_mean_nothing_are_refused_with_their_number() {
        let long = format!("{}: x", "a".repeat(64));
        for (line, reason) in [
            ("web:", LineError::NoCommand),
            ("myapp", LineError::NoKey),
            (": myapp", LineError::NoKey),
            ("-web: x", LineError::BadKey),
            ("web-: x", LineError::BadKey),
            ("we.b: x", LineError::BadKey),
            ("my web: x", LineError::BadKey),
            (&long, LineError::BadKey),
        ] {
            let error = Procfile::parse(&format!("ok: x\n{line}")).unwrap_err();
            assert_eq!((error.line, error.reason), (2, reason), "{line}");
        }
    }

    #[test]
    fn the_default_is_web_or_the_only_one() {
        let default = |text| {
            let (procfile, _) = Procfile::parse(text).unwrap();
            procfile.default_process("web").map(str::to_string)
        };
        assert_eq!(default("worker: a\nweb: b").as_deref(), Some("web"));
        assert_eq!(default("worker: a").as_deref(), Some("worker"));
        assert_eq!(default("worker: a\nother: b"), None);
    }
}
