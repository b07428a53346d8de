//! A Nix that can be run, with a store of its own.

mod building;
mod command;
mod evaluation;

use self::building::Building;
pub use self::evaluation::{Evaluation, Flakes, Imports, NOWHERE, WARNING, Writes};
use crate::archive::{ArchiveError, Target};
use crate::engine::Engine;
use crate::nar_store::NarStore;
use crate::supply::Supply;
use crate::temporary::{self, NoTemporary};
use semver::Version;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// The first version that evaluates files of a store that is not at `/nix/store`.
pub const MIN_VERSION: Version = Version::new(2, 34, 0);

/// A Nix that can be run, with a store of its own.
#[derive(Debug)]
pub struct Nix {
    /// The directory of `nix`, `nix-store` and `nix-instantiate`, as the engine shows it.
    bin: PathBuf,
    engine: Engine,
    building: Building,
    /// What is hidden from what is built without a sandbox.
    hidden: Vec<PathBuf>,
    /// Holds the store, the home directory and the configuration; removed when dropped.
    scratch: TempDir,
    /// What it evaluates in, and where that is filled from.
    supply: Arc<Supply>,
    /// The hash parts of the store paths that evaluations have taken from there.
    taken: Mutex<BTreeSet<String>>,
    /// Holds the programs, where they were unpacked for this.
    _programs: Option<TempDir>,
}

/// Why Nix could not be set up or run.
#[derive(Debug, thiserror::Error)]
pub enum NixError {
    #[error("{path} cannot be written: {1}", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// The store of NARs could not be served.
    #[error("nothing can be served on loopback: {0}")]
    Serve(#[source] io::Error),
    #[error(transparent)]
    Temporary(#[from] NoTemporary),
    /// The program could not be started.
    #[error("{path} cannot be started: {1}", path = .0.display())]
    Start(PathBuf, #[source] io::Error),
    /// The program failed at something that never fails on a sound system; what it said.
    #[error("Nix failed: {0}")]
    Failed(String),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive holds a version that is too old.
    #[error("Nix {0} is too old")]
    TooOld(Version),
    /// Nothing shows Nix its store here: each way, and why it does not work.
    #[error("nothing shows Nix its store here")]
    NoEngine(Vec<(String, String)>),
    /// A derivation could not be built; the end of what Nix said.
    #[error("a derivation could not be built: {0}")]
    Build(String),
}

impl Nix {
    /// A Nix whose programs run from `bin`, which evaluates in the store of `supply`.
    pub fn new(bin: PathBuf, supply: Arc<Supply>) -> Result<Self, NixError> {
        let scratch = temporary::directory().map_err(NixError::Temporary)?;
        let home = scratch.path().join("home");
        for directory in [&scratch.path().join("root/nix/store"), &home] {
            std::fs::create_dir_all(directory)
                .map_err(|error| NixError::Write(directory.clone(), error))?;
        }
        supply
            .substituters()
            .write_netrc(&home.join("netrc"))
            // Where git looks for it.
            .and_then(|()| std::os::unix::fs::symlink("netrc", home.join(".netrc")))
            .map_err(|error| NixError::Write(home.join("netrc"), error))?;
        Ok(Self {
            bin,
            engine: Engine::Direct,
            building: Building::No,
            hidden: Vec::new(),
            scratch,
            supply,
            taken: Mutex::default(),
            _programs: None,
        })
    }

    /// A Nix that `unpack` unpacks: moved where it runs by itself, else with an engine that shows it
    /// where it belongs. `proot` brings a PRoot into a directory, or says why not.
    ///
    /// Also returns why an engine is needed; None if none is.
    pub fn unpacked(
        unpack: &dyn Fn(&Target) -> Result<PathBuf, ArchiveError>,
        proot: &dyn Fn(&Path) -> Result<PathBuf, String>,
        supply: Arc<Supply>,
    ) -> Result<(Self, Option<String>), NixError> {
        let mut nix = Self::new(PathBuf::new(), supply)?;
        let mut reason = String::new();
        for directory in temporary::candidates() {
            let Ok(programs) = temporary::directory_in(&directory) else {
                continue;
            };
            let Ok(target) = Target::relocated(programs.path()) else {
                reason = format!("{} has too long a name", directory.display());
                continue;
            };
            nix.bin = unpack(&target).map_err(NixError::Archive)?;
            match nix.version() {
                Ok(version) if version < MIN_VERSION => return Err(NixError::TooOld(version)),
                Ok(_) => {
                    let nix = Self {
                        _programs: Some(programs),
                        ..nix
                    };
                    return Ok((nix, None));
                }
                Err(said) => reason = said,
            }
        }

        // It goes into the very store that is shown at `/nix`.
        let store = nix.shown_nix().join("store");
        let bin = unpack(&Target::Plain(store.clone())).map_err(NixError::Archive)?;
        let in_store = bin.strip_prefix(&store).unwrap_or(&bin);
        nix.bin = Path::new("/nix/store").join(in_store);
        let mut tried = vec![("moved elsewhere".to_string(), reason.clone())];
        nix = nix.with_engine(Engine::Namespace);
        let version = nix.version().or_else(|said| {
            tried.push((nix.engine.name().to_string(), said));
            nix.engine = nix.proot(proot).inspect_err(|said| {
                tried.push(("under PRoot".to_string(), said.clone()));
            })?;
            nix.version()
        });
        match version {
            Ok(version) if version < MIN_VERSION => Err(NixError::TooOld(version)),
            Ok(_) => Ok((nix, Some(reason))),
            Err(_) => Err(NixError::NoEngine(tried)),
        }
    }

    /// The directory of the Nix on `path` (a value of `PATH`), where that is new enough.
    pub fn on_path(path: &OsStr) -> Option<(PathBuf, Version)> {
        std::env::split_paths(path)
            .filter(|directory| directory.join("nix-instantiate").exists())
            .find_map(|directory| {
                let output = Command::new(directory.join("nix-instantiate"))
                    .arg("--version")
                    .output()
                    .ok()?;
                let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
                (version >= MIN_VERSION).then_some((directory, version))
            })
    }

    /// How its programs are started.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The same, whose programs are started in this way.
    #[must_use]
    pub fn with_engine(self, engine: Engine) -> Self {
        Self { engine, ..self }
    }

    /// The store of NARs that it evaluates in.
    pub fn store(&self) -> &NarStore {
        self.supply.store()
    }

    /// What that store is filled from.
    pub fn supply(&self) -> &Supply {
        &self.supply
    }

    /// A directory for files that only this evaluation needs.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn proot(&self, proot: &dyn Fn(&Path) -> Result<PathBuf, String>) -> Result<Engine, String> {
        let program = proot(self.scratch.path())?;
        Engine::tried_proot(&program, &self.shown_nix(), self.scratch.path())
            .ok_or_else(|| "it does not work here: it may trace no processes".to_string())
    }

    /// The directory that engines show as `/nix`.
    fn shown_nix(&self) -> PathBuf {
        self.scratch.path().join("root/nix")
    }

    fn version(&self) -> Result<Version, String> {
        let mut command = self.command("nix-instantiate", false);
        command.arg("--version");
        let output = self.succeeds(command)?;
        parse_version(&output).ok_or_else(|| format!("it says that it is `{}`", output.trim()))
    }
}

/// Reads `nix-instantiate (Nix) 2.34.8`, or `… (Lix, like Nix) 2.93.0` which is another program.
fn parse_version(text: &str) -> Option<Version> {
    let (_, version) = text.trim().split_once("(Nix) ")?;
    let numbers: String = version
        .chars()
        .take_while(|character| character.is_ascii_digit() || *character == '.')
        .collect();
    let numbers = numbers.trim_end_matches('.');
    Version::parse(numbers)
        .or_else(|_| Version::parse(&format!("{numbers}.0")))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_nix_prints_them() {
        for (text, version) in [
            (
                "nix-instantiate (Nix) 2.34.8\n",
                Some(Version::new(2, 34, 8)),
            ),
            (
                "nix-instantiate (Nix) 2.36pre20261001_abc",
                Some(Version::new(2, 36, 0)),
            ),
            ("nix-instantiate (Lix, like Nix) 2.93.0", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text), version, "{text}");
        }
    }
}
