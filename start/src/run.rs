//! Runs a command where the closure is at `/nix/store`.

use crate::app::{App, End};
use crate::choose::{Ready, Reason, candidates, in_proot, prepare};
use crate::engine::{self, EngineSetting};
use crate::environment;
use crate::errors::{self, RunError};
use crate::execute::execute;
use crate::image::Found;
use crate::namespace::View;
use crate::say::{RUN_PROOT, say};
use crate::shell;
use crate::supervise;
use crate::sys::{self, Signals};
use std::env;
use std::ffi::OsString;
use std::io;
use std::path::Path;

/// The variable that has this program say which engine it takes, and why not another.
const LOG: &str = "NIX_ENGINE_LOG";

/// A command as it is asked for.
#[derive(Debug)]
pub(crate) struct Request {
    /// Whether the first word is text for a shell.
    pub(crate) shell: bool,
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
}

/// Runs it. Where nothing need be looked after, this program becomes the command and does not return.
pub(crate) fn run(request: Request) -> Result<End, RunError> {
    // Before all else: what process 1 does not handle, the kernel throws away.
    let signals =
        Signals::block().map_err(|error| RunError::Execute(request.program.clone(), error))?;
    let found = Found::find().map_err(|(path, error)| RunError::Image(path, error))?;
    let setting = setting()?;
    let app = app(request, &found)?;

    if found.image.is_relocated() {
        return match setting {
            EngineSetting::Only(engine) => Err(RunError::Relocated(engine)),
            _ => start(&app, None, &signals),
        };
    }
    if setting == EngineSetting::Relocate {
        return Err(RunError::NotRelocated);
    }
    if found.is_within() {
        log("the closure is in place already, by the engine that this command was started with");
        return start(&app, None, &signals);
    }
    let by_name = matches!(setting, EngineSetting::Only(_));
    let mut tried = Vec::new();
    for engine in candidates(setting) {
        let ready = prepare(engine, &found, by_name);
        if ready.is_ok() {
            log(&format!("{engine}: taken"));
        }
        match ready.and_then(|ready| launch(&app, &found, ready, &signals)) {
            Ok(ended) => return ended,
            Err(reason) => {
                log(&format!("{engine}: {}", errors::reason(&reason)));
                tried.push((engine, reason));
            }
        }
    }
    Err(RunError::NoEngine { tried, by_name })
}

/// What `NIX_ENGINE` says.
pub(crate) fn setting() -> Result<EngineSetting, RunError> {
    let value = env::var_os(engine::SETTING).unwrap_or_default();
    let value = value.to_string_lossy();
    value
        .parse()
        .map_err(|_| RunError::UnknownEngine(value.into_owned()))
}

/// The app's command and environment.
fn app(request: Request, found: &Found) -> Result<App, RunError> {
    let Request {
        shell,
        mut program,
        mut arguments,
    } = request;
    if program.is_empty() {
        return Err(RunError::Execute(program, io::ErrorKind::NotFound.into()));
    }
    if shell {
        let shell = shell::find(found).map_err(|_| RunError::NoShell(program.clone()))?;
        arguments.splice(0..0, ["-c".into(), program]);
        program = shell.into();
    }
    if let Some(profile) = shell::profile(found) {
        let shell = shell::find(found).map_err(|_| RunError::NoShell("etc/profile.d".into()))?;
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

/// Runs the app by an engine; where that turns out not to work, the next one may be tried.
fn launch(
    app: &App,
    found: &Found,
    ready: Ready,
    signals: &Signals,
) -> Result<Result<End, RunError>, Reason> {
    match ready {
        Ready::Here => Ok(start(app, None, signals)),
        Ready::Namespace(view) if sys::is_init() => Ok(start(app, Some(&view), signals)),
        Ready::Namespace(view) => {
            view.enter().map_err(Reason::Namespace)?;
            Ok(start(app, None, signals))
        }
        Ready::PRoot(proot) => {
            in_proot(Some(app), found, proot, signals).map(|end| executed(app, end))
        }
    }
}

/// Runs the app where the closure is in place, or, as process 1, in a view where it is.
///
/// Process 1 has to stay: the kernel lets it be ended by no signal that it does not handle, and gives
/// it all orphans. Any other process has a parent that does these things, so it becomes the app.
fn start(app: &App, view: Option<&View>, signals: &Signals) -> Result<End, RunError> {
    if sys::is_init() {
        let end = supervise::run(app, view, signals).map_err(|error| cannot(app, error))?;
        return executed(app, end);
    }
    signals.before.set();
    Err(cannot(app, execute(app)))
}

fn executed(app: &App, end: End) -> Result<End, RunError> {
    match end {
        End::NotExecuted(error) => Err(cannot(app, io::Error::from_raw_os_error(error))),
        end => Ok(end),
    }
}

fn cannot(app: &App, error: io::Error) -> RunError {
    RunError::Execute(app.program.clone(), error)
}

fn log(line: &str) {
    if env::var_os(LOG).is_some_and(|value| value != "0" && !value.is_empty()) {
        say(RUN_PROOT, line);
    }
}
