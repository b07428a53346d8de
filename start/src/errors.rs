//! The start program's errors and their messages.

use crate::app::End;
use crate::choose::{Reason, Tried};
use crate::engine::{EXPECTED, Engine, SETTING};
use crate::executable::{Kind, Machine};
use crate::in_proot::PRootFailure;
use crate::namespace::{Refusal, Step};
use crate::plan::{Misfit, STRICT};
use crate::proot::Lack;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// Why a command was not run.
#[derive(Debug)]
pub(crate) enum RunError {
    /// The image's description of itself cannot be read.
    Image(PathBuf, io::Error),
    /// A file with a closure cannot be read.
    Report(PathBuf, io::Error),
    /// `NIX_ENGINE` does not apply to the image, and `NIX_ENGINE_STRICT` is set.
    Setting(Misfit),
    /// None of the engines that may be used works; why, of each.
    NoEngine {
        tried: Vec<(Engine, Reason)>,
        by_name: bool,
    },
    /// Signals cannot be blocked.
    Signals(io::Error),
    /// This text needs a shell.
    NoShell(OsString),
    Execute(OsString, io::Error),
    /// The program is a script, and the interpreter that its first line names is not there.
    NoInterpreter(OsString, String),
    /// The program, or the interpreter of a script, is this file, which the kernel does not run.
    NoProgram(OsString, PathBuf, Kind),
    /// No store path of the image is called so.
    NotInClosure(String),
}

/// The exit statuses of shells for a command that cannot be run, and for one that does not exist.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

impl RunError {
    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Execute(_, error) if error.kind() == io::ErrorKind::NotFound => NOT_FOUND,
            Self::NoInterpreter(..) => NOT_FOUND,
            Self::NotInClosure(_) | Self::Report(..) => 1,
            _ => CANNOT_RUN,
        }
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Self::Image(path, error) => format!(
                "cannot read {}: {error}.\n\n\
                 It says what is in this image, and is in the layer `closure`, beside that of this \
                 program.",
                path.display()
            ),
            Self::Report(path, error) => format!(
                "cannot read {}: {error}.\n\n\
                 It must be the output of `nix-hydra closure --json`.",
                path.display()
            ),
            Self::Setting(misfit) => strict(misfit),
            Self::Signals(error) => format!("signals cannot be blocked: {error}."),
            Self::NoEngine { tried, by_name } => no_engine(tried, *by_name),
            Self::NoShell(text) => format!(
                "there is no shell for `{}`: neither the run image nor the closure has bash or sh.\n\n\
                 Write the command without what only a shell understands; or use a run image with a \
                 shell; or add bash to what is deployed.",
                text.display()
            ),
            Self::NotInClosure(wanted) => format!(
                "no store path of this image is called `{wanted}`.\n\n\
                 `nix-hydra closure --all` lists them."
            ),
            Self::NoInterpreter(program, interpreter) => no_interpreter(program, interpreter),
            Self::NoProgram(program, file, kind) => no_program(program, file, kind),
            Self::Execute(program, error) => {
                format!("cannot run {}: {error}", Path::new(program).display())
            }
        }
    }
}

/// A setting that does not apply to the image, in one line.
pub(crate) fn misfit(misfit: &Misfit) -> String {
    match misfit {
        Misfit::Unknown(value) => format!("{SETTING} is `{value}`, and takes {EXPECTED}"),
        Misfit::Relocated(engine) => format!(
            "{SETTING} is `{engine}`, but this image's closure was relocated when it was built, and \
             needs no engine"
        ),
        Misfit::NotRelocated => format!(
            "{SETTING} is `relocate`, but this image's closure was built for /nix/store, and needs an \
             engine"
        ),
    }
}

/// The warning of a setting that is ignored.
pub(crate) fn ignored(setting: &Misfit) -> String {
    format!(
        "{}; the setting is ignored (with {STRICT}=true it is an error)",
        misfit(setting)
    )
}

/// The warning of a named engine that does not work, before others are tried.
pub(crate) fn not_working(engine: Engine, why: &Reason) -> String {
    format!(
        "{SETTING} is `{engine}`, which does not work here: {}; the others are tried (with \
         {STRICT}=true it is an error)",
        reason(why)
    )
}

fn no_interpreter(program: &OsStr, interpreter: &str) -> String {
    let program = Path::new(program).display();
    match interpreter.strip_suffix('\r') {
        Some(name) => format!(
            "cannot run {program}: its first line has a Windows line end, so that its interpreter \
             would be `{name}\\r`.\n\nSave the file with Unix line ends."
        ),
        None => format!(
            "cannot run {program}: its first line names the interpreter `{interpreter}`, which is not \
             there.\n\nName one that the image has, or deploy it."
        ),
    }
}

fn no_program(program: &OsStr, file: &Path, kind: &Kind) -> String {
    let own = Machine::own();
    let what = match kind {
        Kind::Elf(machine) if *machine != own => format!(
            "a program for {machine}, and this is {own}.\n\nDeploy what was built for {own}-linux; or run the \
             image on {machine}"
        ),
        Kind::Elf(_) | Kind::CutElf => {
            "a program that is cut short or damaged.\n\nBuild it, and then the image, again"
                .to_string()
        }
        Kind::Script(_) | Kind::Text => {
            "no program.\n\nDeploy one that was built for Linux".to_string()
        }
        Kind::Other(what) => format!(
            "{what}, which Linux does not run.\n\nDeploy a program that was built for {own}-linux"
        ),
    };
    format!(
        "cannot run {}: {} is {what}.",
        Path::new(program).display(),
        file.display()
    )
}

fn strict(setting: &Misfit) -> String {
    let rebuild = match setting {
        Misfit::Unknown(_) => String::new(),
        Misfit::Relocated(engine) => format!(", or build the image again with {SETTING}={engine}"),
        Misfit::NotRelocated => format!(", or build the image again with {SETTING}=relocate"),
    };
    format!(
        "{}.\n\nUnset {SETTING}{rebuild}; or unset {STRICT}: the setting is then ignored.",
        misfit(setting)
    )
}

fn no_engine(tried: &[(Engine, Reason)], by_name: bool) -> String {
    if let ([(engine, why)], true) = (tried, by_name) {
        return format!(
            "NIX_ENGINE is `{engine}`, which does not work here: {}.\n\n\
             Unset it, or NIX_ENGINE_STRICT, to use any engine that works. Where none does, build the \
             image with\nNIX_ENGINE=relocate: it then needs none.",
            reason(why)
        );
    }
    let mut message =
        "no way to show the closure at /nix/store works here, so the command was not \
                       run.\n\n"
            .to_string();
    for (engine, why) in tried {
        let _ = writeln!(message, "    {:<10} {}", engine.name(), reason(why));
    }
    message.push_str(
        "\nBuild the image with NIX_ENGINE=relocate: it then needs none of these. Or have whoever runs \
         the\ncontainer allow ptrace or user namespaces.",
    );
    message
}

/// Whether each engine works, a line each.
pub(crate) fn tried(tried: &Tried) -> Vec<String> {
    let lines = tried.iter().map(|(engine, result)| match result {
        Ok(()) => format!("{:<10} works", engine.name()),
        Err(why) => format!("{:<10} does not work: {}", engine.name(), reason(why)),
    });
    lines.collect()
}

/// Why an engine does not work, in one line.
pub(crate) fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Absent(root) => format!("{} is not there", root.display()),
        Reason::Namespace(Refusal { step, error }) => match step {
            Step::Start => format!("it could not be tried: {error}"),
            Step::Root => "root may not mount, and in a user namespace would lose its rights over \
                           other users; NIX_ENGINE=namespace accepts that"
                .to_string(),
            Step::Unshare => format!("a user namespace is refused: {error}"),
            Step::Ids => format!("a user namespace with this user's id is refused: {error}"),
            Step::Mount => format!("mounting is refused: {error}"),
            Step::Enter => format!("entering the namespace is refused: {error}"),
        },
        Reason::Signals(error) => format!("signals cannot be blocked: {error}"),
        Reason::Lack(Lack::Program(path)) => {
            format!("the image has no PRoot, {} is missing", path.display())
        }
        Reason::Lack(Lack::TmpDir) => {
            "PRoot finds no directory that it can write to; mount one at \
                                       /tmp, or name one in PROOT_TMP_DIR"
                .to_string()
        }
        Reason::Ptrace(error) => format!("ptrace is refused: {error}"),
        Reason::PRoot(PRootFailure::Hidden) => "this PRoot translates nothing".to_string(),
        Reason::PRoot(PRootFailure::Ended(end)) => match end {
            Some(End::Exited(status)) => {
                format!("PRoot ended with status {status} before it ran anything")
            }
            Some(End::Killed(signal)) => {
                format!("PRoot was ended by signal {signal} before it ran anything")
            }
            _ => "PRoot ended before it ran anything".to_string(),
        },
        Reason::PRoot(PRootFailure::Start(error)) => format!("PRoot cannot be run: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::say::RUN_PROOT;

    fn refused() -> io::Error {
        io::Error::from_raw_os_error(libc::EPERM)
    }

    fn namespace(step: Step) -> (Engine, Reason) {
        let error = refused();
        (
            Engine::Namespace,
            Reason::Namespace(Refusal { step, error }),
        )
    }

    fn proot(reason: Reason) -> (Engine, Reason) {
        (Engine::PRoot, reason)
    }

    fn absent() -> (Engine, Reason) {
        let root = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp".into();
        (Engine::Direct, Reason::Absent(root))
    }

    #[test]
    fn messages() {
        let by_name = |tried| RunError::NoEngine {
            tried: vec![tried],
            by_name: true,
        };
        let mut errors = vec![
            RunError::NoEngine {
                tried: vec![
                    absent(),
                    namespace(Step::Unshare),
                    proot(Reason::Ptrace(refused())),
                ],
                by_name: false,
            },
            by_name(absent()),
        ];
        errors.extend(
            [Step::Start, Step::Root, Step::Ids, Step::Mount, Step::Enter]
                .map(|step| by_name(namespace(step))),
        );
        errors.extend(
            [
                Reason::Signals(refused()),
                Reason::Lack(Lack::Program(
                    "/layers/nix_hydra/proot/libexec/proot".into(),
                )),
                Reason::Lack(Lack::TmpDir),
                Reason::PRoot(PRootFailure::Hidden),
                Reason::PRoot(PRootFailure::Ended(Some(End::Exited(1)))),
                Reason::PRoot(PRootFailure::Ended(Some(End::Killed(9)))),
                Reason::PRoot(PRootFailure::Ended(None)),
                Reason::PRoot(PRootFailure::Start(io::Error::from_raw_os_error(
                    libc::ENOEXEC,
                ))),
            ]
            .map(|reason| by_name(proot(reason))),
        );
        errors.extend([
            RunError::Image(
                "/layers/nix_hydra/closure/.image".into(),
                io::Error::from_raw_os_error(libc::ENOENT),
            ),
            RunError::Setting(Misfit::Unknown("docker".into())),
            RunError::Setting(Misfit::Relocated(Engine::PRoot)),
            RunError::Setting(Misfit::NotRelocated),
            RunError::Signals(refused()),
            RunError::NoShell("myapp --port $PORT".into()),
            RunError::NotInClosure("gcc".into()),
            RunError::Execute("myapp".into(), io::Error::from_raw_os_error(libc::ENOENT)),
            RunError::NoInterpreter("myapp".into(), "/bin/sh\r".into()),
            RunError::NoInterpreter("myapp".into(), "/usr/bin/ruby".into()),
        ]);
        let file = Path::new("/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp/bin/myapp");
        let kinds = [
            Kind::Elf(Machine::ARM),
            Kind::CutElf,
            Kind::Other("a program for Windows"),
        ];
        errors.extend(kinds.map(|kind| RunError::NoProgram("myapp".into(), file.into(), kind)));
        let messages: Vec<_> = errors
            .iter()
            .map(|error| {
                format!(
                    "{RUN_PROOT}: {}\n(status {})",
                    error.message(),
                    error.status()
                )
            })
            .collect();
        let messages = messages.join("\n\n==========\n\n");
        let own = Machine::own().to_string();
        insta::assert_snapshot!(messages.replace(&own, "<own>"));
    }
}
