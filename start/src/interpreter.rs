//! Why a program that exists "does not exist": the interpreter that its first line names is missing.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The kernel reads no more of a script's first line, `BINPRM_BUF_SIZE` of `linux/binfmts.h`.
const FIRST_LINE: u64 = 256;

/// The interpreter of the script `file` as its first line has it, with a carriage return that the line
/// may end with.
pub(crate) fn of_script(file: &Path) -> Option<String> {
    let mut start = Vec::new();
    File::open(file)
        .and_then(|file| file.take(FIRST_LINE).read_to_end(&mut start))
        .ok()?;
    let line = start.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let words = line.split(|byte| matches!(byte, b' ' | b'\t'));
    let interpreter = words.into_iter().find(|word| !word.is_empty())?;
    Some(String::from_utf8_lossy(interpreter).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_interpreter_is_the_first_word_of_the_first_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("script");
        let interpreter = |text: &str| {
            fs::write(&file, text).unwrap();
            of_script(&file)
        };
        let some = |name: &str| Some(name.to_string());
        assert_eq!(interpreter("#!/bin/sh\nexit\n"), some("/bin/sh"));
        assert_eq!(interpreter("#! /bin/sh -e\n"), some("/bin/sh"));
        assert_eq!(interpreter("#!/bin/sh\r\nexit\r\n"), some("/bin/sh\r"));
        assert_eq!(interpreter("exit\n"), None);
    }
}
