//! `nix-hydra check`: tells what a deploy of an app would come to, before it is pushed.
//!
//! It takes the steps of a build (see [`crate::deploy`]) on a laptop or in CI, up to the content of the
//! closure: of that, only the narinfos are downloaded. [`settings`] reads what a platform gives a build;
//! [`answer`] has the words. The log goes to standard error, the answer to standard output.

mod answer;
mod arguments;
mod settings;

use self::answer::{Answer, Failure, Found};
use self::arguments::Arguments;
use self::settings::Settings;
use crate::build::Build;
use crate::config::OnMiss;
use crate::deploy::{self, Prepared, prepare};
use crate::error::BuildpackError;
use crate::layers::nix_store::NixStoreLayer;
use crate::{interrupt, layers, limits, log, resolve};
use bullet_stream::global::print;
use nix_runner::temporary;
use rustix::fs::FlockOperation;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tempfile::TempDir;

/// The command.
pub const NAME: &str = "check";

/// Where an image has the buildpack's layers: a relocation depends on how long that is.
const LAYERS_DIR: &str = "/layers/nix_hydra";

/// Runs the command with these words after its name.
pub fn main(words: &[OsString]) -> ExitCode {
    let arguments = match Arguments::parse(words) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{}", arguments::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprint!("nix-hydra {NAME}: {error}\n\n{}", arguments::HELP);
            return ExitCode::from(answer::USAGE);
        }
    };
    limits::set();
    interrupt::watch();
    let started = print::buildpack(concat!(
        "nix-hydra check, version ",
        env!("CARGO_PKG_VERSION")
    ));
    let answer = ask(&arguments);
    print::all_done(&Some(started));
    let text = if arguments.json {
        answer.json()
    } else {
        answer.text()
    };
    // A reader that has closed the pipe has read enough.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::from(answer.status())
}

fn ask(arguments: &Arguments) -> Answer {
    let settings = match Settings::read(arguments) {
        Ok(settings) => settings,
        Err(error) => return Answer::Failure(Failure::of_settings(&error)),
    };
    deploy::warn_of_ineffective_settings(settings.names());
    if settings.is_part {
        log::warning(
            "project.toml includes or excludes files, which this check does not: check a clean checkout. \
             Files that git does not have are named below, as a deploy would name them.",
        );
    }
    let prepared = match prepare(|name| settings.get(name), &arguments.directory) {
        Ok(prepared) => prepared,
        Err(error) => return Answer::Failure(Failure::of(error)),
    };
    let builds = prepared.config.on_miss == OnMiss::Build;
    match look(arguments, prepared) {
        Ok(found) => Answer::Found(Box::new(found)),
        Err(error) => Answer::Failure(Failure::of(error).unless_built(builds)),
    }
}

/// Finds the closure that a deploy would download.
fn look(arguments: &Arguments, prepared: Prepared) -> Result<Found, BuildpackError> {
    let Prepared {
        mut config,
        procfile,
        http,
        mut hydra,
    } = prepared;
    // Nothing is built here, even to evaluate.
    config.on_miss = OnMiss::Error;
    if !arguments.wait {
        config.hydra.wait = Duration::ZERO;
    }
    let kept = Kept::open();
    let layers_dir = Path::new(LAYERS_DIR);
    let build = Build {
        app_dir: &arguments.directory,
        buildpack_dir: &buildpack_dir(),
        layers_dir,
        arch: &arguments.arch,
        config: &config,
        http: &http,
        open_nix_store: &|| NixStoreLayer::at(&kept.path).map_err(|error| error.to_string()),
    };
    let mut resolved = resolve::resolve(&build, hydra.as_mut())?;
    let found = deploy::from_caches(&build, &mut resolved, hydra.as_ref(), |resolved, caches| {
        layers::closure::look_up(layers_dir, &resolved.roots, &config, || {
            deploy::open(&build, caches)
        })
    });
    let (closure, caches) =
        found.map_err(|error| deploy::explain(error, &build, &resolved, hydra.as_mut()))?;
    deploy::compare_if_asked(&build, &resolved, hydra.as_mut());
    let main_program = resolved.roots.first();
    Ok(Found {
        from: answer::sources(&closure, &caches),
        main_program: main_program.and_then(|root| root.main_program.clone()),
        closure,
        page: resolved.origin.map(|origin| origin.page),
        procfile,
        engine: config.engine,
    })
}

/// The directory of the buildpack, or what a release has of it: PRoot is in it.
fn buildpack_dir() -> PathBuf {
    let program = std::env::current_exe().and_then(fs::canonicalize);
    let program = program.unwrap_or_default();
    let directory = program.parent().and_then(Path::parent);
    directory.unwrap_or(Path::new("/")).to_path_buf()
}

/// What one check keeps for the next: Nix, and the sources that it took.
struct Kept {
    path: PathBuf,
    /// Others wait meanwhile.
    _lock: Option<File>,
    _temporary: Option<TempDir>,
}

impl Kept {
    /// Opens it in the user's cache directory; in a temporary one where there is none that can be written.
    fn open() -> Self {
        let absolute = |name| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let caches = absolute("XDG_CACHE_HOME");
        let caches = caches.or_else(|| Some(absolute("HOME")?.join(".cache")));
        let path = caches.map(|caches| caches.join("nix-hydra"));
        if let Some(path) = path
            && fs::create_dir_all(&path).is_ok()
            && let Ok(lock) = File::create(path.join("lock"))
        {
            // Where it cannot be locked, hashes still tell what is whole.
            let _ = rustix::fs::flock(&lock, FlockOperation::LockExclusive);
            return Self {
                path,
                _lock: Some(lock),
                _temporary: None,
            };
        }
        let temporary = temporary::directory().ok();
        Self {
            path: temporary
                .as_ref()
                .map_or_else(std::env::temp_dir, |directory| {
                    directory.path().to_path_buf()
                }),
            _lock: None,
            _temporary: temporary,
        }
    }
}
