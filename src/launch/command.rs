//! Tells whether a Procfile's command needs a shell, and if not, which words it has.
//!
//! A process that runs without a shell is the app itself: it gets its signals, and its exit status is
//! its own. So whatever means the same without one is run without.

use crate::layers::proot::RUN_PROOT;

/// How a command is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessCommand {
    /// These words are the program and its arguments.
    Words(Vec<String>),
    /// This text is for a shell.
    Shell(String),
}

/// Characters that, outside of quotes, may mean something to bash or sh other than themselves.
const SPECIAL: &str = "$`|&;<>()*?[]{}~!#";

/// Characters that mean something within double quotes.
const SPECIAL_QUOTED: &str = "$`";

/// First words that only a shell knows, or knows otherwise than the program of that name: bash's
/// reserved words and builtins, which include those of sh.
const SHELL_WORDS: &str = ". : [ [[ alias bg bind break builtin caller case cd command compgen complete compopt \
    continue coproc declare dirs disown do done echo elif else enable esac eval exec exit \
    export false fc fg fi for function getopts hash help history if in jobs kill let local \
    logout mapfile popd printf pushd pwd read readarray readonly return select set shift \
    shopt source suspend test then time times trap true type typeset ulimit umask unalias \
    unset until wait while";

impl ProcessCommand {
    /// Reads a Procfile's value. The `run_proot.sh` that it may begin with is left out: every process
    /// is run so.
    pub fn parse(value: &str) -> Self {
        let Some(mut words) = split(value) else {
            return Self::Shell(without_run_proot(value).to_string());
        };
        if words.len() > 1 && words[0] == "exec" && !words[1].starts_with('-') {
            words.remove(0);
        }
        if words.len() > 1 && words[0] == RUN_PROOT {
            words.remove(0);
            return Self::Words(words);
        }
        let needs_shell = words.first().is_none_or(|first| needs_shell(first));
        if needs_shell {
            return Self::Shell(value.to_string());
        }
        Self::Words(words)
    }
}

fn needs_shell(first: &str) -> bool {
    first.contains('=') || SHELL_WORDS.split(' ').any(|word| word == first)
}

fn without_run_proot(value: &str) -> &str {
    match value.strip_prefix(RUN_PROOT) {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => value,
    }
}

/// The words of a simple command without expansions. None if it needs a shell.
fn split(value: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next()? {
                        '\'' => break,
                        inside => word.push(inside),
                    }
                }
            }
            '"' => quoted(&mut characters, word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(characters.next()?),
            special if SPECIAL.contains(special) => return None,
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Some(words)
}

/// Adds the text within double quotes to `word`. None if it needs a shell.
fn quoted(characters: &mut std::str::Chars, word: &mut String) -> Option<()> {
    loop {
        match characters.next()? {
            '"' => return Some(()),
            '\\' => match characters.next()? {
                escaped @ ('$' | '`' | '"' | '\\') => word.push(escaped),
                other => word.extend(['\\', other]),
            },
            special if SPECIAL_QUOTED.contains(special) => return None,
            plain => word.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn words(words: &[&str]) -> ProcessCommand {
        ProcessCommand::Words(words.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_command_of_plain_and_quoted_words_needs_no_shell() {
        for (value, expected) in [
            ("myapp", &["myapp"] as &[&str]),
            ("run_proot.sh  myapp\t--port=80", &["myapp", "--port=80"]),
            ("exec run_proot.sh myapp", &["myapp"]),
            ("exec myapp a", &["myapp", "a"]),
            ("run_proot.sh echo hi", &["echo", "hi"]),
            ("run_proot.sh", &["run_proot.sh"]),
            ("run_proot.sh.old x", &["run_proot.sh.old", "x"]),
            (
                "a 'b $c' \"d 'e'\" f\\ g ''",
                &["a", "b $c", "d 'e'", "f g", ""],
            ),
            ("a x=y 50% ü", &["a", "x=y", "50%", "ü"]),
        ] {
            assert_eq!(ProcessCommand::parse(value), words(expected), "{value}");
        }
    }

    #[test]
    fn what_only_a_shell_understands_is_left_to_one() {
        for (value, text) in [
            ("run_proot.sh myapp --port $PORT", "myapp --port $PORT"),
            ("cd x && run_proot.sh myapp", "cd x && run_proot.sh myapp"),
            ("A=b myapp", "A=b myapp"),
            ("echo hi", "echo hi"),
            ("exec -a name myapp", "exec -a name myapp"),
            ("while myapp", "while myapp"),
            ("myapp *.txt", "myapp *.txt"),
            ("myapp ~/x", "myapp ~/x"),
            ("myapp {a,b}", "myapp {a,b}"),
            ("myapp # why", "myapp # why"),
            ("myapp \"$HOME\"", "myapp \"$HOME\""),
            ("myapp 'never ends", "myapp 'never ends"),
            ("myapp \\", "myapp \\"),
        ] {
            let expected = ProcessCommand::Shell(text.to_string());
            assert_eq!(ProcessCommand::parse(value), expected, "{value}");
        }
    }

    /// What bash makes of a command: its words, one a line.
    fn by_bash(value: &str) -> Vec<String> {
        let script = format!("app() {{ printf '%s\\n' app \"$@\"; }}; {value}");
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_string).collect()
    }

    #[test]
    fn words_are_those_that_bash_makes() {
        for value in [
            "app a b",
            r#"app "a\b" "a\"b" "a\\b" "a\$b" a\b a\\b"#,
            "app a'b'\"c\"d '' \"\" x",
            "app 'a\"b' \"a'b\" a^b a@b a%b a+b a,b a=b a:b",
        ] {
            let expected = by_bash(value);
            let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
            assert_eq!(ProcessCommand::parse(value), words(&expected), "{value}");
        }
    }
}
