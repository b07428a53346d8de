//! The start program's commands.
//!
//! It has several names: `nix-hydra` takes a command, `run_proot.sh` is `nix-hydra run`, and by any
//! other name it runs the deployed program of that name.

use crate::app::End;
use crate::changes::Changes;
use crate::choose::{first_working, try_all};
use crate::closure::Closure;
use crate::doctor;
use crate::errors::{self, RunError};
use crate::help;
use crate::image::{Found, STORE_DIR};
use crate::page;
use crate::picture;
use crate::plan::Plan;
use crate::run::{self, Request};
use crate::say::{RUN_PROOT, say};
use crate::seen_store::SeenStore;
use crate::sys;
use crate::why;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

/// The name by which the first word is a command of this program.
const NAME: &str = "nix-hydra";

/// A command that prints an answer.
struct Command {
    name: &'static str,
    help: &'static str,
    answer: fn(&[OsString]) -> Result<ExitCode, Stop>,
}

/// Why a command prints no answer.
enum Stop {
    /// Its words are wrong.
    Usage,
    Failed(RunError),
}

impl From<RunError> for Stop {
    fn from(error: RunError) -> Self {
        Self::Failed(error)
    }
}

const COMMANDS: [Command; 5] = [
    Command {
        name: "engines",
        help: help::ENGINES_HELP,
        answer: engines,
    },
    Command {
        name: "closure",
        help: help::CLOSURE_HELP,
        answer: closure,
    },
    Command {
        name: "why",
        help: help::WHY_HELP,
        answer: why,
    },
    Command {
        name: "diff",
        help: help::DIFF_HELP,
        answer: diff,
    },
    Command {
        name: "doctor",
        help: help::DOCTOR_HELP,
        answer: doctor,
    },
];

/// The exit status for wrong words.
const USAGE: u8 = 2;

/// Runs the program whose words, the first its own name, are these.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = words.into_iter();
    let called = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    // A caller may give any first word.
    let file = sys::executed_file().unwrap_or(called);
    match Path::new(&file).file_name() {
        Some(name) if name == RUN_PROOT => run(&words),
        Some(name) if name != NAME => deployed(name, words),
        _ => command(&words),
    }
}

/// Runs a command of `nix-hydra`.
pub fn command(words: &[OsString]) -> ExitCode {
    let Some((command, rest)) = words.split_first() else {
        return usage(help::HELP);
    };
    if let Some(command) = COMMANDS.iter().find(|known| command == known.name) {
        return command.run(rest);
    }
    match command.to_str() {
        Some("run") => run(rest),
        Some("check") => {
            say(NAME, help::NO_CHECK);
            ExitCode::from(USAGE)
        }
        Some("--help" | "-h") => print_help(help::HELP),
        Some("--version" | "-V") => {
            println!("{NAME} {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            let command = command.to_string_lossy();
            let nearest = nearest(&command).map(|near| format!(" Did you mean `{near}`?"));
            let nearest = nearest.unwrap_or_default();
            say(
                NAME,
                &format!("there is no command `{command}`.{nearest}\n"),
            );
            usage(help::HELP)
        }
    }
}

/// The command that a misspelt one is likely to mean.
fn nearest(command: &str) -> Option<&'static str> {
    let similar = |name: &&str| strsim::jaro_winkler(command, name);
    let names = COMMANDS.iter().map(|command| command.name);
    let nearest = names
        .chain(["run", "check"])
        .max_by(|one, other| similar(one).total_cmp(&similar(other)));
    nearest.filter(|name| similar(name) > 0.7)
}

impl Command {
    fn run(&self, words: &[OsString]) -> ExitCode {
        if words.iter().any(is_help) {
            return print_help(self.help);
        }
        match (self.answer)(words) {
            Ok(status) => status,
            Err(Stop::Usage) => usage(self.help),
            Err(Stop::Failed(error)) => failed(&format!("{NAME} {}", self.name), &error),
        }
    }
}

fn is_help(word: &OsString) -> bool {
    word == "--help" || word == "-h"
}

fn print_help(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

fn usage(text: &str) -> ExitCode {
    eprint!("{text}");
    ExitCode::from(USAGE)
}

/// Runs the program `name` of the roots.
fn deployed(name: &OsStr, arguments: Vec<OsString>) -> ExitCode {
    finish(run::run(Request::Deployed(name.to_owned(), arguments)))
}

fn run(words: &[OsString]) -> ExitCode {
    let request = match words {
        [] => return usage(help::RUN_HELP),
        [first, ..] if is_help(first) => return print_help(help::RUN_HELP),
        [first] if first == "--shell" => return usage(help::RUN_HELP),
        [first, text, rest @ ..] if first == "--shell" => {
            Request::Shell(text.clone(), rest.to_vec())
        }
        [program, rest @ ..] => Request::Command(program.clone(), rest.to_vec()),
    };
    finish(run::run(request))
}

fn finish(ended: Result<End, RunError>) -> ExitCode {
    match ended {
        Ok(end) => pass_on(end),
        Err(error) => failed(RUN_PROOT, &error),
    }
}

fn failed(name: &str, error: &RunError) -> ExitCode {
    say(name, &error.message());
    ExitCode::from(error.status())
}

/// Ends as the app has ended.
fn pass_on(end: End) -> ExitCode {
    let status = match end {
        End::Exited(status) => status,
        End::Killed(signal) => {
            // No signal ends process 1.
            if !sys::is_init() {
                sys::die_by(signal);
            }
            128 + signal
        }
        End::NotExecuted(_) => 127,
    };
    ExitCode::from(u8::try_from(status & 0xff).unwrap_or(u8::MAX))
}

fn engines(words: &[OsString]) -> Result<ExitCode, Stop> {
    match words {
        [] => Ok(list(&find()?)),
        _ => Err(Stop::Usage),
    }
}

/// What `nix-hydra closure` prints, and of what.
#[derive(Debug, Default)]
struct ClosureWords<'a> {
    /// The option that says it; none for the report.
    form: Option<&'a str>,
    file: Option<&'a OsStr>,
    since: Option<&'a OsStr>,
}

impl<'a> ClosureWords<'a> {
    /// None if the words are wrong.
    fn parse(words: &'a [OsString]) -> Option<Self> {
        let mut parsed = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.to_str() {
                Some("--since") => parsed.since = Some(words.next()?),
                Some(form @ ("--all" | "--json" | "--svg" | "--html")) if parsed.form.is_none() => {
                    parsed.form = Some(form);
                }
                Some(option) if option.starts_with('-') => return None,
                _ if parsed.file.is_none() => parsed.file = Some(word),
                _ => return None,
            }
        }
        (parsed.since.is_none() || parsed.form == Some("--html")).then_some(parsed)
    }
}

fn closure(words: &[OsString]) -> Result<ExitCode, Stop> {
    let words = ClosureWords::parse(words).ok_or(Stop::Usage)?;
    Ok(print_out(&shown_closure(&words)?))
}

fn shown_closure(words: &ClosureWords) -> Result<String, RunError> {
    let (closure, found) = if let Some(file) = words.file {
        (read_closure(file)?, None)
    } else {
        let (found, closure) = find_closure()?;
        (closure, Some(found))
    };
    let store = found.as_ref().map(Found::seen_store);
    let store = store.unwrap_or_else(|| SeenStore::new(STORE_DIR));
    Ok(match words.form {
        Some("--all") => why::report(&closure, &store, usize::MAX),
        Some("--json") => closure.to_string(),
        Some("--svg") => picture::svg(&closure, &store),
        Some("--html") => {
            let before = words.since.map(read_closure).transpose()?;
            let layer = |path: &str| found.as_ref()?.layer_of(&store.shown(path));
            page::html(&closure, &store, layer, before.as_ref())
        }
        _ => why::report(&closure, &store, why::LARGEST),
    })
}

fn why(words: &[OsString]) -> Result<ExitCode, Stop> {
    let [wanted] = words else {
        return Err(Stop::Usage);
    };
    let (found, closure) = find_closure()?;
    let store = found.seen_store();
    let file_in = |base: &str| {
        let place = found.followed(Path::new(&store.path(base)))?;
        why::file_named(&place, wanted)
    };
    let wanted = wanted.to_string_lossy();
    let text = why::why(&closure, &store, &wanted, file_in)
        .ok_or_else(|| RunError::NotInClosure(wanted.to_string()))?;
    Ok(print_out(&text))
}

fn diff(words: &[OsString]) -> Result<ExitCode, Stop> {
    let (before, after) = match words {
        [before] => (before, None),
        [before, after] => (before, Some(after)),
        _ => return Err(Stop::Usage),
    };
    let before = read_closure(before)?;
    let after = match after {
        Some(file) => read_closure(file)?,
        None => find_closure()?.1,
    };
    let lines = Changes::between(&before, &after).lines();
    Ok(print_out(&(lines.join("\n") + "\n")))
}

/// A closure from the output of `nix-hydra closure --json`.
fn read_closure(file: &OsStr) -> Result<Closure, RunError> {
    let unread = |error| RunError::Report(file.into(), error);
    let text = std::fs::read_to_string(file).map_err(unread)?;
    Closure::parse(&text).ok_or_else(|| unread(io::ErrorKind::InvalidData.into()))
}

fn find() -> Result<Found, RunError> {
    Found::find().map_err(|(path, error)| RunError::Image(path, error))
}

fn find_closure() -> Result<(Found, Closure), RunError> {
    let found = find()?;
    let closure = found.closure();
    let closure = closure.map_err(|(path, error)| RunError::Image(path, error))?;
    Ok((found, closure))
}

fn doctor(words: &[OsString]) -> Result<ExitCode, Stop> {
    let (mut as_json, mut thorough) = (false, false);
    for word in words {
        match word.to_str() {
            Some("--json") => as_json = true,
            Some("--thorough") => thorough = true,
            _ => return Err(Stop::Usage),
        }
    }
    let examination = doctor::examine(&find()?, thorough);
    let printed = print_out(&if as_json {
        examination.json()
    } else {
        examination.text()
    });
    Ok(if examination.is_well() {
        printed
    } else {
        ExitCode::FAILURE
    })
}

/// Prints `text`. A reader that has closed the pipe has read enough.
fn print_out(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints whether each engine works, and which one a command is run by.
fn list(found: &Found) -> ExitCode {
    let plan = Plan::here(&found.image);
    if let Some(misfit) = &plan.misfit {
        say("nix-hydra engines", &errors::ignored(misfit));
    }
    if found.image.is_relocated() {
        println!("The closure is relocated: commands need no engine.");
        return exit_code(!plan.is_error());
    }
    let tried = try_all(plan.named, found);
    println!("{}", errors::tried(&tried).join("\n"));
    let taken = first_working(&plan.engines, &tried).filter(|_| !plan.is_error());
    match taken {
        Some(engine) => println!("{}: commands are run by {engine}.", plan.setting()),
        None => println!("{}: no command can be run.", plan.setting()),
    }
    exit_code(taken.is_some())
}

fn exit_code(is_well: bool) -> ExitCode {
    if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_command_is_told_the_nearest_one() {
        assert_eq!(nearest("engine"), Some("engines"));
        assert_eq!(nearest("docter"), Some("doctor"));
        assert_eq!(nearest("install"), None);
    }
}
