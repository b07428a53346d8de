//! Building derivations, in the safest way that works here.

use super::command::run;
use super::{Nix, NixError};
use crate::engine::Engine;
use nix_derivation::StorePath;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An expression that is cheap to build, and needs nothing to be built with.
const PROBE: &str = r#"builtins.readDir (derivation {
  name = "probe";
  system = "builtin";
  builder = "builtin:buildenv";
  derivations = [ ];
  manifest = "/nowhere";
})"#;

/// Whether derivations are built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Building {
    No,
    /// In Nix's own sandbox, with these `sandbox-paths`.
    Sandboxed(String),
    /// With what the machine has in view.
    Open,
}

impl Nix {
    /// Whether derivations may be built.
    pub fn builds(&self) -> bool {
        self.building != Building::No
    }

    /// Finds a way to build, the best first: Nix's own sandbox, which needs a `/proc` of its own, as
    /// containers seldom allow; a user namespace; PRoot. In the last two, `hidden` files and directories
    /// appear empty. Returns what the log calls it.
    pub fn enable_building(
        &mut self,
        hidden: Vec<PathBuf>,
        proot: &dyn Fn(&Path) -> Result<PathBuf, String>,
    ) -> Result<&'static str, NixError> {
        if self.building != Building::No {
            return Ok(self.building_words());
        }
        self.hidden = hidden;
        let mut tried = Vec::new();
        if self.engine == Engine::Direct {
            self.building = Building::Sandboxed(self.sandbox_paths());
            match self.probe() {
                Ok(()) => return Ok(self.building_words()),
                Err(said) => tried.push(("in Nix's own sandbox".to_string(), said)),
            }
            let real = self.bin.canonicalize().unwrap_or_else(|_| self.bin.clone());
            if real.starts_with("/nix/store") {
                let hidden = "it would hide the Nix on PATH, which is at /nix/store itself";
                tried.push(("with another store at /nix".to_string(), hidden.to_string()));
                return Err(NixError::NoEngine(tried));
            }
            self.engine = Engine::Namespace;
        }
        self.building = Building::Open;
        while let Err(said) = self.probe() {
            tried.push((self.engine.name().to_string(), said));
            if self.engine != Engine::Namespace {
                return Err(NixError::NoEngine(tried));
            }
            self.engine = match self.proot(proot) {
                Ok(engine) => engine,
                Err(said) => {
                    tried.push(("under PRoot".to_string(), said));
                    return Err(NixError::NoEngine(tried));
                }
            };
        }
        Ok(self.building_words())
    }

    fn building_words(&self) -> &'static str {
        match &self.building {
            Building::Sandboxed(_) => "in Nix's own sandbox",
            _ => self.engine.name(),
        }
    }

    /// What Nix shows in its sandbox by default, but none of it where it is not there.
    fn sandbox_paths(&self) -> String {
        let mut command = self.command("nix", false);
        command.args(["config", "show", "sandbox-paths"]);
        let output = run(command, &[]).map(|output| output.stdout);
        String::from_utf8_lossy(&output.unwrap_or_default())
            .split_whitespace()
            .map(|path| format!("{path}?"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn probe(&self) -> Result<(), String> {
        let mut command = self.command("nix-instantiate", false);
        command.args(["--eval", "--read-write-mode", "--expr", PROBE]);
        self.succeeds(command).map(|_| ())
    }

    /// Builds `derivations` (`/nix/store/….drv!out`), or takes them from the binary caches; what Nix
    /// says goes to `log`, line by line. If `is_quiet`, what builders say is shown only where one fails,
    /// and then its end.
    pub fn realise(
        &self,
        derivations: &[String],
        is_quiet: bool,
        log: &mut dyn FnMut(&[u8]),
    ) -> Result<(), NixError> {
        self.copy_derivations(derivations)?;
        let mut command = self.command("nix-store", false);
        command.arg("--realise").args(derivations);
        if is_quiet {
            command.arg("--no-build-output");
        }
        let program = PathBuf::from(command.get_program());
        let start_error = |error| NixError::Start(program.clone(), error);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start_error)?;
        let mut said = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                // Nothing collects garbage in a store that is thrown away.
                if line.starts_with(b"warning: you did not specify '--add-root'") {
                    continue;
                }
                log(&line);
                let starts = line.starts_with(b"error:");
                if starts || !said.is_empty() {
                    said.extend(line);
                    said.push(b'\n');
                }
            }
        }
        let status = child.wait().map_err(start_error)?;
        // It may crash when all is done, since the thread of its downloads still runs while it ends.
        if status.success() || (status.signal().is_some() && said.is_empty()) {
            Ok(())
        } else {
            Err(NixError::Build(self.trimmed_error(&said, None)))
        }
    }

    /// Copies derivations, and what they are made from, to the store that is built in.
    fn copy_derivations(&self, derivations: &[String]) -> Result<(), NixError> {
        let paths: BTreeSet<&str> = derivations
            .iter()
            .map(|derivation| derivation.split('!').next().unwrap_or(derivation))
            .collect();
        let mut command = self.command("nix", false);
        command
            .args(["copy", "--no-check-sigs", "--from", &self.store().url()])
            .args(paths);
        self.copy(command)
    }

    /// Copies the closure of `paths` into a binary cache made of files, and returns its directory.
    pub fn copy_to_files(&self, paths: &[StorePath]) -> Result<PathBuf, NixError> {
        let directory = self.scratch.path().join("built");
        let mut command = self.command("nix", false);
        command
            .args(["copy", "--no-check-sigs", "--to"])
            .arg(format!("file://{}?compression=none", directory.display()))
            .args(paths.iter().map(StorePath::to_absolute_path));
        self.copy(command).map(|()| directory)
    }

    fn copy(&self, command: Command) -> Result<(), NixError> {
        let output = run(command, &[])?;
        if output.status.success() {
            Ok(())
        } else {
            Err(NixError::Failed(self.trimmed_error(&output.stderr, None)))
        }
    }
}
