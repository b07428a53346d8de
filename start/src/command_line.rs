//! The start program's commands.

use crate::app::End;
use crate::choose::{candidates, try_all};
use crate::closure::Closure;
use crate::doctor;
use crate::engine::{EngineSetting, SETTING};
use crate::errors::{self, RunError};
use crate::image::Found;
use crate::picture;
use crate::run::{self, Request};
use crate::say::{RUN_PROOT, say};
use crate::sys;
use crate::why;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

const HELP: &str = "\
Looks after a Nix closure in an image.

Usage: nix-hydra run COMMAND [ARGUMENT]...    run a command with the closure at /nix/store
       nix-hydra engines                      say which engines work here
       nix-hydra closure                      say what is in this image, and how large it is
       nix-hydra why PATH                     say why a store path is in this image
       nix-hydra doctor                       say what is wrong with this image, where it runs
       run_proot.sh COMMAND [ARGUMENT]...     the same as nix-hydra run

Each takes --help.
";

const RUN_HELP: &str = "\
Runs a command where the image's Nix closure is at /nix/store, with the bin directories of the
deployed store paths first on PATH. Its exit status, or the signal that ended it, is passed on.

Usage: run_proot.sh COMMAND [ARGUMENT]...
       nix-hydra run COMMAND [ARGUMENT]...
       nix-hydra run --shell TEXT [ARGUMENT]...

  --shell    TEXT is for a shell: the run image's bash or sh, else one of the closure

NIX_ENGINE      direct, namespace or proot: use this engine, or fail; unset, the first that works
NIX_ENGINE_LOG  1: say on standard error which engine is taken, and why not another
";

const ENGINES_HELP: &str = "\
Says which engines, the ways to make the closure appear at /nix/store, work here, and why the others
do not. The exit status is 0 if a command would run.

Usage: nix-hydra engines
";

const CLOSURE_HELP: &str = "\
Says what is in this image: how large it is, the 20 largest store paths, each with the shortest chain
of references that pulls it in, and what programs rarely need when they run.

Usage: nix-hydra closure [--all | --json | --svg]

  --all     every store path, not the largest alone
  --json    all that is known, as JSON: roots, and of each path its size and references
  --svg     a picture: a box for each store path, as large as it is, with its chain under the pointer
";

const WHY_HELP: &str = "\
Says why a store path is in this image: the shortest chain of references from what is deployed, and
everything that refers to it.

Usage: nix-hydra why PATH

  PATH    a store path, a file in one, a name such as gcc-14.3.0, or the beginning of a name

The exit status is 1 if nothing in the image is called so.
";

const DOCTOR_HELP: &str = "\
Says what is wrong with this image, where it runs: whether all of the closure is there, whether a
command would run and by which engine, and what it would lack: programs, a shell, certificates,
locales, room for temporary files. Then what the kernel and the container allow. Nothing is changed.

Usage: nix-hydra doctor [--json]

  --json    the same, as JSON

Each line is `ok`, a `warning` (some apps do not work with it) or a `problem`, with what to do. The exit
status is 1 if there is a problem. It sees what its own environment has: `launcher -- nix-hydra doctor`
gives it that of the app.
";

/// What a program answers for words that it does not know.
const USAGE: u8 = 2;

/// Runs the program whose words, the first its own name, are these.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    let is_run_proot = Path::new(&name)
        .file_name()
        .is_some_and(|name| name == RUN_PROOT);
    if is_run_proot {
        return run(&words);
    }
    let Some((command, rest)) = words.split_first() else {
        return usage(HELP);
    };
    match command.to_str() {
        Some("run") => run(rest),
        Some("engines") => engines(rest),
        Some("closure") => closure(rest),
        Some("why") => why(rest),
        Some("doctor") => doctor(rest),
        _ if is_help(command) => help(HELP),
        _ => usage(HELP),
    }
}

fn is_help(word: &OsString) -> bool {
    word == "--help" || word == "-h"
}

fn help(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

fn usage(text: &str) -> ExitCode {
    eprint!("{text}");
    ExitCode::from(USAGE)
}

fn run(words: &[OsString]) -> ExitCode {
    let (shell, words) = match words {
        [] => return usage(RUN_HELP),
        [first, ..] if is_help(first) => return help(RUN_HELP),
        [first, rest @ ..] if first == "--shell" => (true, rest),
        words => (false, words),
    };
    let Some((program, arguments)) = words.split_first() else {
        return usage(RUN_HELP);
    };
    let request = Request {
        shell,
        program: program.clone(),
        arguments: arguments.to_vec(),
    };
    match run::run(request) {
        Ok(end) => pass_on(end),
        Err(error) => failed(&error),
    }
}

fn failed(error: &RunError) -> ExitCode {
    say(RUN_PROOT, &error.message());
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

fn engines(words: &[OsString]) -> ExitCode {
    match words {
        [] => {}
        [word] if is_help(word) => return help(ENGINES_HELP),
        _ => return usage(ENGINES_HELP),
    }
    let checked = run::setting().and_then(|setting| Ok((setting, find()?)));
    match checked {
        Ok((setting, found)) => list(setting, &found),
        Err(error) => failed(&error),
    }
}

fn closure(words: &[OsString]) -> ExitCode {
    let words: Vec<_> = words.iter().map(|word| word.to_str()).collect();
    let form: fn(&Closure) -> String = match words[..] {
        [] => |closure| why::report(closure, why::LARGEST),
        [Some("--all")] => |closure| why::report(closure, usize::MAX),
        [Some("--json")] => ToString::to_string,
        [Some("--svg")] => picture::svg,
        [Some("--help" | "-h")] => return help(CLOSURE_HELP),
        _ => return usage(CLOSURE_HELP),
    };
    match read_closure() {
        Ok(closure) => print_out(&form(&closure)),
        Err(error) => failed(&error),
    }
}

fn why(words: &[OsString]) -> ExitCode {
    let wanted = match words {
        [word] if is_help(word) => return help(WHY_HELP),
        [word] => word.to_string_lossy(),
        _ => return usage(WHY_HELP),
    };
    match read_closure() {
        Ok(closure) => match why::why(&closure, &wanted) {
            Some(text) => print_out(&text),
            None => failed(&RunError::NotInClosure(wanted.into_owned())),
        },
        Err(error) => failed(&error),
    }
}

fn find() -> Result<Found, RunError> {
    Found::find().map_err(|(path, error)| RunError::Image(path, error))
}

/// What the image says its closure is made of.
fn read_closure() -> Result<Closure, RunError> {
    let closure = find()?.closure();
    closure.map_err(|(path, error)| RunError::Image(path, error))
}

fn doctor(words: &[OsString]) -> ExitCode {
    let words: Vec<_> = words.iter().map(|word| word.to_str()).collect();
    let as_json = match words[..] {
        [] => false,
        [Some("--json")] => true,
        [Some("--help" | "-h")] => return help(DOCTOR_HELP),
        _ => return usage(DOCTOR_HELP),
    };
    let examination = match find() {
        Ok(found) => doctor::examine(&found),
        Err(error) => return failed(&error),
    };
    let printed = print_out(&if as_json {
        examination.json()
    } else {
        examination.text()
    });
    if examination.is_well() {
        printed
    } else {
        ExitCode::FAILURE
    }
}

/// Prints text to whoever reads it, as long as they do.
fn print_out(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints whether each engine works, and which one a command is run by.
fn list(setting: EngineSetting, found: &Found) -> ExitCode {
    if found.image.is_relocated() {
        println!("The closure is relocated: commands need no engine.");
        return ExitCode::SUCCESS;
    }
    let mut working = Vec::new();
    for (engine, tried) in try_all(setting, found) {
        match tried {
            Ok(()) => {
                println!("{:<10} works", engine.name());
                working.push(engine);
            }
            Err(reason) => {
                let reason = errors::reason(&reason);
                println!("{:<10} does not work: {reason}", engine.name());
            }
        }
    }
    let mut candidates = candidates(setting).into_iter();
    let taken = candidates.find(|engine| working.contains(engine));
    let value = env::var(SETTING).unwrap_or_default();
    let when = match setting {
        EngineSetting::Unset => format!("{SETTING} is not set"),
        _ => format!("{SETTING} is `{}`", value.trim()),
    };
    if let (Some(engine), false) = (taken, setting == EngineSetting::Relocate) {
        println!("{when}: commands are run by {engine}.");
        ExitCode::SUCCESS
    } else {
        println!("{when}: no command can be run.");
        ExitCode::FAILURE
    }
}
