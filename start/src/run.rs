//! Runs a command where the closure is at `/nix/store`.

use crate::app::{App, End};
use crate::choose::{Ready, Reason, in_proot, prepare};
use crate::environment;
use crate::errors::{self, RunError};
use crate::executable::{Kind, Machine, behind};
use crate::execute::execute;
use crate::image::Found;
use crate::namespace::View;
use crate::plan::Plan;
use crate::say::{RUN_PROOT, say};
use crate::shell;
use crate::supervise;
use crate::sys::{self, Signals};
use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::io;
use std::path::Path;

/// The variable that turns on messages about the engine that is taken.
const LOG: &str = "NIX_ENGINE_LOG";

/// A command with its arguments.
#[derive(Debug)]
pub(crate) enum Request {
    /// A program, looked for on `PATH` unless it is a path.
    Command(OsString, Vec<OsString>),
    /// A program of the roots.
    Deployed(OsString, Vec<OsString>),
    /// Text for a shell.
    Shell(OsString, Vec<OsString>),
}

/// Runs a command. Where no process has to be supervised, this program becomes the command and does not
/// return.
pub(crate) fn run(request: Request) -> Result<End, RunError> {
    // Before all else: the kernel discards signals that process 1 does not handle.
    let signals = Signals::block().map_err(RunError::Signals)?;
    let found = Found::find().map_err(|(path, error)| RunError::Image(path, error))?;
    let app = app(request, &found)?;
    let plan = Plan::here(&found.image);
    match plan.misfit {
        Some(misfit) if plan.strict => return Err(RunError::Setting(misfit)),
        // Within an engine, the command that started it has warned.
        Some(misfit) if found.image.is_relocated() || !found.is_within() => {
            say(RUN_PROOT, &errors::ignored(&misfit));
        }
        _ => {}
    }
    if found.image.is_relocated() {
        return start(&app, &found, None, &signals);
    }
    if found.is_within() {
        log("the closure is in place already, by the engine that this command was started with");
        return start(&app, &found, None, &signals);
    }
    let mut tried = Vec::new();
    for engine in plan.engines {
        let by_name = plan.named == Some(engine);
        let ready = prepare(engine, &found, by_name);
        if ready.is_ok() {
            log(&format!("{engine}: taken"));
        }
        match ready.and_then(|ready| launch(&app, &found, ready, &signals)) {
            Ok(ended) => return ended,
            Err(reason) => {
                if by_name && !plan.strict {
                    say(RUN_PROOT, &errors::not_working(engine, &reason));
                } else {
                    log(&format!("{engine}: {}", errors::reason(&reason)));
                }
                tried.push((engine, reason));
            }
        }
    }
    let by_name = plan.strict && plan.named.is_some();
    Err(RunError::NoEngine { tried, by_name })
}

/// The app's command and environment.
fn app(request: Request, found: &Found) -> Result<App, RunError> {
    let (mut program, mut arguments) = match request {
        Request::Command(program, arguments) => (program, arguments),
        Request::Deployed(name, arguments) => (deployed(name, found)?, arguments),
        Request::Shell(text, mut arguments) => {
            let shell = shell::find(found).ok_or_else(|| RunError::NoShell(text.clone()))?;
            arguments.splice(0..0, ["-c".into(), text]);
            (shell.into(), arguments)
        }
    };
    if program.is_empty() {
        return Err(RunError::Execute(program, io::ErrorKind::NotFound.into()));
    }
    if let Some(profile) = shell::profile(found) {
        let shell = shell::find(found).ok_or_else(|| RunError::NoShell("etc/profile.d".into()))?;
        arguments.splice(0..0, ["-c".into(), profile, "sh".into(), program]);
        program = shell.into();
    }
    let changes = environment::changes(&found.image, |name| env::var_os(name), Path::exists);
    Ok(App {
        program,
        arguments,
        changes,
    })
}

/// The full path of the roots' program `name`. Looked for on `PATH`, it could be the link by which this
/// program was started.
fn deployed(name: OsString, found: &Found) -> Result<OsString, RunError> {
    let mut programs = found
        .image
        .roots
        .iter()
        .map(|root| root.join("bin").join(&name));
    let program = programs.find(|program| found.followed(program).is_some());
    program
        .map(OsString::from)
        .ok_or_else(|| RunError::Execute(name, io::ErrorKind::NotFound.into()))
}

/// Runs the app by an engine; where that turns out not to work, the next one may be tried.
fn launch(
    app: &App,
    found: &Found,
    ready: Ready,
    signals: &Signals,
) -> Result<Result<End, RunError>, Reason> {
    match ready {
        Ready::Here => Ok(start(app, found, None, signals)),
        Ready::Namespace(view) if sys::is_init() => Ok(start(app, found, Some(&view), signals)),
        Ready::Namespace(view) => {
            view.enter().map_err(Reason::Namespace)?;
            Ok(start(app, found, None, signals))
        }
        Ready::PRoot(proot) => {
            // PRoot takes a carriage return for a space, and the script for one of Unix; it starts a
            // program for another processor, which ends by a signal.
            if let Some(error) = unfit(app, found, false) {
                return Ok(Err(error));
            }
            in_proot(Some(app), found, proot, signals).map(|end| executed(app, found, end))
        }
    }
}

/// Runs the app where the closure is in place, or, as process 1, in a view where it is.
///
/// Process 1 has to stay: the kernel lets it be ended by no signal that it does not handle, and gives
/// it all orphans. Any other process has a parent that does these things, so it becomes the app.
fn start(
    app: &App,
    found: &Found,
    view: Option<&View>,
    signals: &Signals,
) -> Result<End, RunError> {
    if sys::is_init() {
        let ended = supervise::run(app, view, signals);
        let end = ended.map_err(|error| cannot(app, found, error))?;
        return executed(app, found, end);
    }
    signals.before.set();
    Err(cannot(app, found, execute(app)))
}

fn executed(app: &App, found: &Found, end: End) -> Result<End, RunError> {
    match end {
        End::NotExecuted(error) => Err(cannot(app, found, io::Error::from_raw_os_error(error))),
        end => Ok(end),
    }
}

/// The error of an app that could not be executed. "Not found" may be the interpreter of a script.
fn cannot(app: &App, found: &Found, error: io::Error) -> RunError {
    let unfit = match error.raw_os_error() {
        Some(libc::ENOENT) => unfit(app, found, false),
        // The last two come of program headers that are beyond the file's end.
        Some(libc::ENOEXEC | libc::EIO | libc::EOPNOTSUPP) => unfit(app, found, true),
        _ => None,
    };
    unfit.unwrap_or_else(|| RunError::Execute(app.program.clone(), error))
}

/// Why the kernel does not run the app's file, where its first bytes tell. `is_refused` says that the
/// kernel has tried.
fn unfit(app: &App, found: &Found, is_refused: bool) -> Option<RunError> {
    let mut files = app.files().into_iter();
    let file = files.find(|file| found.followed(file).is_some())?;
    let followed = |path: &Path| Ok::<_, Infallible>(found.followed(path));
    let Ok(behind) = behind(&file, followed);
    let (file, kind) = behind?;
    let program = app.program.clone();
    match kind {
        Kind::Script(interpreter) => Some(RunError::NoInterpreter(program, interpreter)),
        Kind::Text => None,
        Kind::Elf(machine) if Machine::own().runs(machine) && !is_refused => None,
        kind => Some(RunError::NoProgram(program, file, kind)),
    }
}

fn log(line: &str) {
    if env::var_os(LOG).is_some_and(|value| value != "0" && !value.is_empty()) {
        say(RUN_PROOT, line);
    }
}
