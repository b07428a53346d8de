//! Tries the engines, here and now.

use crate::app::{App, End};
use crate::engine::Engine;
use crate::image::Found;
use crate::in_proot::{self, PRootFailure};
use crate::namespace::{Refusal, View};
use crate::proot::{Lack, PRoot};
use crate::say::{RUN_PROOT, SLOW_PROOT, say};
use crate::sys::{self, Signals};
use std::io;
use std::path::PathBuf;

/// Why an engine does not work here.
#[derive(Debug)]
pub(crate) enum Reason {
    /// This root is not where the closure is to be seen.
    Absent(PathBuf),
    Namespace(Refusal),
    /// Signals cannot be blocked, which every run needs.
    Signals(io::Error),
    Lack(Lack),
    /// `ptrace` is refused.
    Ptrace(io::Error),
    /// Nothing ran in PRoot, even without its filter.
    PRoot(PRootFailure),
}

/// An engine that is ready to run something.
#[derive(Debug)]
pub(crate) enum Ready {
    /// Nothing need be done.
    Here,
    Namespace(View),
    /// Whether it really works shows when it runs.
    PRoot(PRoot),
}

/// Makes `engine` ready. `by_name` is whether the user has named it.
pub(crate) fn prepare(engine: Engine, found: &Found, by_name: bool) -> Result<Ready, Reason> {
    match engine {
        Engine::Direct => match found.absent_root() {
            None => Ok(Ready::Here),
            Some(root) => Err(Reason::Absent(root.to_path_buf())),
        },
        Engine::Namespace => View::make(&found.store, by_name)
            .map(Ready::Namespace)
            .map_err(Reason::Namespace),
        Engine::PRoot => {
            let proot = PRoot::find(found).map_err(Reason::Lack)?;
            // PRoot itself would go on at length about other causes.
            sys::try_ptrace().map_err(Reason::Ptrace)?;
            Ok(Ready::PRoot(proot))
        }
    }
}

/// Tries `engine` here, up to the point where it would run the app.
fn try_out(engine: Engine, found: &Found, by_name: bool) -> Result<(), Reason> {
    let signals = Signals::block().map_err(Reason::Signals)?;
    let tried = prepare(engine, found, by_name).and_then(|ready| match ready {
        Ready::Here | Ready::Namespace(_) => Ok(()),
        Ready::PRoot(proot) => in_proot(None, found, proot, &signals).map(drop),
    });
    signals.before.set();
    tried
}

/// Runs `app` in PRoot to its end; without an app, only tries PRoot. A PRoot that translates nothing
/// is run again without its filter.
pub(crate) fn in_proot(
    app: Option<&App>,
    found: &Found,
    proot: PRoot,
    signals: &Signals,
) -> Result<End, Reason> {
    match in_proot::run(app, found, &proot, signals) {
        Err(PRootFailure::Hidden) if proot.has_filter() => {
            let slow = in_proot::run(app, found, &proot.without_filter(), signals);
            slow.inspect(|_| say(RUN_PROOT, SLOW_PROOT))
        }
        ended => ended,
    }
    .map_err(Reason::PRoot)
}

/// Engines that were tried, each with the reason why it does not work, if it does not.
pub(crate) type Tried = Vec<(Engine, Result<(), Reason>)>;

/// The first of `engines` that works.
pub(crate) fn first_working(engines: &[Engine], tried: &Tried) -> Option<Engine> {
    let works = |engine: &Engine| {
        let mut tried = tried.iter();
        tried.any(|(own, result)| own == engine && result.is_ok())
    };
    engines.iter().copied().find(works)
}

/// Tries every engine, also those that are not in the plan. `named` is the one that the user names.
pub(crate) fn try_all(named: Option<Engine>, found: &Found) -> Tried {
    let tried = Engine::ALL
        .into_iter()
        .map(|engine| (engine, try_out(engine, found, named == Some(engine))));
    tried.collect()
}
