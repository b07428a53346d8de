//! Becomes the app, by the rules of `execvp(3)`, which are those of `nix-hydra-inside` under PRoot.
//!
//! This is not left to the C library: musl's runs no script whose first line names no interpreter.

use crate::app::App;
use crate::executable::Kind;
use crate::sys;
use std::env;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Runs a script whose first line names no interpreter.
const SHELL: &str = "/bin/sh";

/// Becomes `app`. Returns the error if that fails.
pub(crate) fn execute(app: &App) -> io::Error {
    match try_to_execute(app) {
        Ok(number) => io::Error::from_raw_os_error(number),
        Err(error) => error,
    }
}

fn try_to_execute(app: &App) -> io::Result<i32> {
    let variables = variables(app);
    let path = variables.iter().find(|(name, _)| name == "PATH");
    let path = path.map(|(_, value)| value.clone()).unwrap_or_default();
    let environment = variables.into_iter().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec())
    });
    let environment = environment.collect::<Result<Vec<_>, _>>()?;
    // The app's own words come after that for the shell.
    let words = [OsString::from(SHELL), app.program.clone()];
    let words = words.into_iter().chain(app.arguments.iter().cloned());
    let words = words.map(|word| CString::new(word.into_vec()));
    let mut words = words.collect::<Result<Vec<_>, _>>()?;
    let program = app.program.as_bytes();
    Ok(try_each(program, path.as_bytes(), |file| {
        // It is part of a text without a zero.
        let file = CString::new(file).unwrap_or_default();
        match sys::execute(&file, &words[1..], &environment) {
            libc::ENOEXEC if is_text(&file) => {
                words[1] = file;
                sys::execute(&words[0], &words, &environment)
            }
            error => error,
        }
    }))
}

/// Whether a shell may run this file, which the kernel does not: it would take a program for another
/// processor for a text, and show its bytes among errors.
fn is_text(file: &CStr) -> bool {
    let kind = Kind::of(Path::new(OsStr::from_bytes(file.to_bytes())));
    matches!(kind, Ok(Kind::Text))
}

/// The app's environment.
fn variables(app: &App) -> Vec<(OsString, OsString)> {
    let kept =
        env::vars_os().filter(|(name, _)| app.changes.iter().all(|(changed, _)| name != changed));
    let new = app.changes.iter().filter_map(|(name, value)| {
        let value = value.clone()?;
        Some((OsString::from(name), value))
    });
    kept.chain(new).collect()
}

/// Tries `program`, or where that is a mere name each file of this name on `path`; the number of the
/// error that counts.
fn try_each(program: &[u8], path: &[u8], mut execute: impl FnMut(Vec<u8>) -> i32) -> i32 {
    if program.contains(&b'/') {
        return execute(program.to_vec());
    }
    let mut error = libc::ENOENT;
    for directory in path.split(|byte| *byte == b':') {
        let mut file = directory.to_vec();
        if !file.is_empty() {
            file.push(b'/');
        }
        file.extend_from_slice(program);
        if file.len() >= libc::PATH_MAX.unsigned_abs() as usize {
            continue;
        }
        match execute(file) {
            libc::EACCES => error = libc::EACCES,
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            other => return other,
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Fork;
    use rustix::process::{WaitOptions, waitpid};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// Which files are tried, and the error, where these have other errors than not to be there.
    fn tried(program: &str, path: &str, errors: &[(&str, i32)]) -> (String, i32) {
        let mut tried = Vec::new();
        let error = try_each(program.as_bytes(), path.as_bytes(), |file| {
            let file = String::from_utf8(file).unwrap();
            let error = errors.iter().find(|(name, _)| *name == file);
            tried.push(file);
            error.map_or(libc::ENOENT, |(_, error)| *error)
        });
        (tried.join(" "), error)
    }

    #[test]
    fn a_name_is_looked_for_on_the_path_and_anything_else_is_not() {
        let none = libc::ENOENT;
        for (program, path, expected) in [
            ("./x", "/a:/b", "./x"),
            ("x", "/a::/b", "/a/x x /b/x"),
            ("x", "", "x"),
        ] {
            assert_eq!(tried(program, path, &[]), (expected.to_string(), none));
        }
        let long = "a".repeat(5000);
        assert_eq!(tried("x", &format!("{long}:/b"), &[]).0, "/b/x");
    }

    #[test]
    fn a_file_that_may_not_be_run_is_told_where_no_other_can() {
        let tried = |errors: &[(&str, i32)]| tried("x", "/a:/b:/c", errors);
        let all = |error| ("/a/x /b/x /c/x".to_string(), error);
        assert_eq!(tried(&[("/a/x", libc::EACCES)]), all(libc::EACCES));
        assert_eq!(tried(&[("/b/x", libc::ENOTDIR)]), all(libc::ENOENT));
        let ended = ("/a/x /b/x".to_string(), libc::ENOMEM);
        assert_eq!(tried(&[("/b/x", libc::ENOMEM)]), ended);
    }

    #[test]
    fn a_script_that_names_no_interpreter_is_run_by_the_shell() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("script");
        fs::write(&file, "[ \"$0 $1 $NEW\" = \"$EXPECTED\" ] && exit 7\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let expected = format!("{} a b new", file.display());
        let app = App {
            program: "script".into(),
            arguments: vec!["a b".into()],
            changes: vec![
                ("PATH", Some(directory.path().into())),
                ("NEW", Some("new".into())),
                ("EXPECTED", Some(expected.into())),
            ],
        };
        let Fork::Parent(child) = sys::fork().unwrap() else {
            execute(&app);
            sys::exit_child(1)
        };
        let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(7));
    }
}
