//! Procfiles: what is taken makes processes that the lifecycle takes, with the words as they were
//! written; what is not taken is named by its line.

use nix_hydra_buildpack::launch::command::ProcessCommand;
use nix_hydra_buildpack::launch::procfile::{Procfile, ProcfileWarning};
use std::collections::BTreeSet;
use std::fmt::Write as _;

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (procfile, _) = match Procfile::parse(&text) {
        Ok(parsed) => parsed,
        Err(error) => {
            let text = text.replace("\r\n", "\n");
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            let line = text.split(['\n', '\r']).nth(error.line - 1);
            assert_eq!(line, Some(error.text.as_str()));
            return;
        }
    };
    let mut names = BTreeSet::new();
    let mut written = String::new();
    for (name, value) in procfile.processes() {
        assert!(names.insert(name), "{name}");
        assert!(!value.contains('\n') && value.trim() == value && !value.is_empty());
        writeln!(written, "{name}: {value}").expect("it is written to memory");
        if let ProcessCommand::Words(words) = ProcessCommand::parse(value) {
            assert_eq!(
                ProcessCommand::parse(&quoted(&words)),
                ProcessCommand::Words(words)
            );
        }
    }
    for name in &names {
        // What the buildpack specification allows; else the process would be left out.
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        assert!(name.chars().all(is_allowed) && !name.is_empty(), "{name}");
    }
    if let Some(default) = procfile.default_process("web") {
        assert!(names.contains(default));
    }

    let (again, warnings) = Procfile::parse(&written).expect("it was taken before");
    assert_eq!(again, procfile);
    let expected: &[ProcfileWarning] = if names.is_empty() {
        &[ProcfileWarning::Empty]
    } else {
        &[]
    };
    assert_eq!(warnings, expected);
}

/// The command of these words and no others, as a shell reads it.
fn quoted(words: &[String]) -> String {
    words
        .iter()
        .fold("run_proot.sh".to_string(), |mut command, word| {
            command.push_str(" '");
            command.push_str(&word.replace('\'', r"'\''"));
            command.push('\'');
            command
        })
}
