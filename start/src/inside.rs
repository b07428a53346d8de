//! The start program inside PRoot: sees whether the closure is there, and starts the app.

use crate::report::Report;
use crate::supervise::{App, Place, start};
use crate::sys;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The subcommand that starts it. Not for users: it has no help.
pub(crate) const NAME: &str = "inside";

/// The letters that tell a [`Place`].
const OWN_GROUP: char = 'g';
const FOREGROUND: char = 'f';

/// Its arguments up to the app's command: `inside PIPE PLACE ROOT VARIABLES`, where the variables are
/// those that the app must not get.
pub(crate) fn arguments<'a>(
    pipe: RawFd,
    place: Place,
    roots: &[PathBuf],
    variables: impl Iterator<Item = &'a OsStr>,
) -> [OsString; 5] {
    let mut letters = String::new();
    letters.extend(place.own_group.then_some(OWN_GROUP));
    letters.extend(place.foreground.then_some(FOREGROUND));
    let variables: Vec<_> = variables.collect();
    [
        NAME.into(),
        pipe.to_string().into(),
        letters.into(),
        roots.first().cloned().unwrap_or_default().into(),
        variables.join(OsStr::new(",")),
    ]
}

/// Does what [`arguments`] say; nothing where they say nothing sensible.
pub(crate) fn main(arguments: &[OsString]) -> Option<ExitCode> {
    let [pipe, letters, root, variables, command @ ..] = arguments else {
        return None;
    };
    let report = sys::inherited(pipe.to_str()?.parse().ok()?);
    let letters = letters.to_str()?;
    let place = Place {
        own_group: letters.contains(OWN_GROUP),
        foreground: letters.contains(FOREGROUND),
        dies_with_parent: false,
    };
    // What the terminal sends is for the app; this process takes the terminal for it.
    let (_, mask) = sys::block_signals().ok()?;
    if Path::new(root).symlink_metadata().is_err() {
        Report::Hidden.send(&report);
        return Some(ExitCode::SUCCESS);
    }
    let Some((program, arguments)) = command.split_first() else {
        Report::Works.send(&report);
        return Some(ExitCode::SUCCESS);
    };
    let app = App {
        program: program.clone(),
        arguments: arguments.to_vec(),
        changes: Vec::new(),
    };
    let mut command = app.command();
    for name in variables
        .to_str()?
        .split(',')
        .filter(|name| !name.is_empty())
    {
        command.env_remove(name);
    }
    let started = start(command, place, mask, (&report, Report::NotExecuted), || {
        Ok(())
    });
    let pid = match started {
        Ok(pid) => pid,
        Err(error) => {
            let error = error.raw_os_error().unwrap_or(libc::EAGAIN);
            Report::NotExecuted(error).send(&report);
            return Some(ExitCode::FAILURE);
        }
    };
    Report::Started(pid.as_raw_nonzero().get()).send(&report);
    // With the end of this process the app becomes the child of the one that supervises it.
    Some(ExitCode::SUCCESS)
}
