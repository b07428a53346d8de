//! Real Nix, which evaluates expressions and does nothing else here.
//!
//! It works on a store of its own below a directory (`--store local?root=…`), which needs no
//! `/nix`, no namespace and no PRoot since Nix 2.34. The store is thrown away with the build.

pub mod archive;

use nix_derivation::StorePath;
use semver::Version;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The first version that evaluates files of a store that is not at `/nix/store`.
pub const MIN_VERSION: Version = Version::new(2, 34, 0);

/// Settings for a build container: no daemon, no root, no user namespaces, nothing to build.
const SETTINGS: &str = "\
build-users-group =
sandbox = false
filter-syscalls = false
use-sqlite-wal = false
fsync-metadata = false
substituters =
max-jobs = 0
builders =
allow-import-from-derivation = false
experimental-features = nix-command flakes
flake-registry =
accept-flake-config = false
warn-dirty = false
";

/// What restricted evaluation may fetch: anything by a URL that names its protocol, as Hydras that
/// build from pinned archives allow. What comes from there is pinned by a hash or an error.
const ALLOWED_URIS: &str =
    "https:// http:// github: gitlab: sourcehut: git+https:// tarball+https://";

/// A Nix that can be run, with a store of its own.
#[derive(Debug)]
pub struct Nix {
    /// The directory of `nix`, `nix-store` and `nix-instantiate`.
    bin: PathBuf,
    /// Holds the store, the home directory and the configuration; removed when dropped.
    scratch: TempDir,
    store: PathBuf,
}

/// Why Nix could not be set up or run.
#[derive(Debug)]
pub enum NixError {
    Write(PathBuf, io::Error),
    /// The program could not be started.
    Start(PathBuf, io::Error),
    /// The program failed at something that never fails on a sound system; what it said.
    Failed(String),
}

impl Nix {
    /// A Nix whose programs are in `bin`, with a new, empty store in a temporary directory.
    pub fn new(bin: PathBuf) -> Result<Self, NixError> {
        let scratch = tempfile::Builder::new()
            .prefix("nix-")
            .tempdir()
            .map_err(|error| NixError::Write(std::env::temp_dir(), error))?;
        let store = scratch.path().join("root/nix/store");
        for directory in [&store, &scratch.path().join("home")] {
            std::fs::create_dir_all(directory)
                .map_err(|error| NixError::Write(directory.clone(), error))?;
        }
        Ok(Self {
            bin,
            scratch,
            store,
        })
    }

    /// The directory of the Nix on `path` (a value of `PATH`), where that is new enough.
    #[must_use]
    pub fn on_path(path: &OsStr) -> Option<(PathBuf, Version)> {
        std::env::split_paths(path)
            .filter(|directory| directory.join("nix-instantiate").exists())
            .find_map(|directory| {
                let version = version(&directory)?;
                (version >= MIN_VERSION).then_some((directory, version))
            })
    }

    /// Where the store's paths are on disk.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// A directory for files that only this evaluation needs.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Makes paths valid that are on disk already, as `nix-store --load-db` takes them.
    pub fn load_db(&self, registration: &str) -> Result<(), NixError> {
        let mut command = self.command("nix-store");
        command.arg("--load-db");
        let output = run(command, registration.as_bytes())?;
        if output.status.success() {
            Ok(())
        } else {
            Err(NixError::Failed(self.trimmed_error(&output.stderr)))
        }
    }

    /// Evaluates the function in `file` with string arguments to JSON.
    ///
    /// As on Hydra, nothing but the source, `nix_path`, `lookups` (`name=URL`) and what has a URL can
    /// be read.
    pub fn evaluate(
        &self,
        file: &Path,
        arguments: &BTreeMap<&str, String>,
        source: &StorePath,
        nix_path: Option<&str>,
        lookups: &[String],
    ) -> Result<Output, NixError> {
        let mut command = self.command("nix-instantiate");
        command
            .args(["--eval", "--strict", "--json", "--read-write-mode"])
            .args(["--option", "restrict-eval", "true"])
            .args(["--option", "allowed-uris", ALLOWED_URIS])
            .arg("-I")
            .arg(format!("nix-hydra-source={}", source.to_absolute_path()))
            .arg("-I")
            .arg(format!("nix-hydra-function={}", file.display()));
        for lookup in lookups {
            command.args(["-I", lookup]);
        }
        for (name, value) in arguments {
            command.args(["--argstr", name, value]);
        }
        command.arg(file);
        if let Some(nix_path) = nix_path {
            command.env("NIX_PATH", nix_path);
        }
        run(command, &[])
    }

    /// What Nix wrote to standard error, without what is about this program's own function.
    #[must_use]
    pub fn trimmed_error(&self, stderr: &[u8]) -> String {
        let text = String::from_utf8_lossy(stderr);
        trim_trace(&text, &self.scratch.path().to_string_lossy())
    }

    fn command(&self, program: &str) -> Command {
        let home = self.scratch.path().join("home");
        let mut command = Command::new(self.bin.join(program));
        // Nothing of the user's own Nix may change what is evaluated.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"NIX_") && name != "NIX_SSL_CERT_FILE" {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_DATA_HOME", home.join("data"))
            .env("XDG_STATE_HOME", home.join("state"))
            .env("NIX_CONF_DIR", home.join("nix"))
            .env("NIX_CONFIG", SETTINGS)
            .env("NIX_PATH", "")
            .env("NO_COLOR", "1")
            .arg("--store")
            .arg(format!(
                "local?root={}",
                self.scratch.path().join("root").display()
            ));
        command
    }
}

fn run(mut command: Command, input: &[u8]) -> Result<Output, NixError> {
    let program = PathBuf::from(command.get_program());
    let start_error = |error| NixError::Start(program.clone(), error);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start_error)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read what it is given says why when it ends.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output().map_err(start_error)
}

/// Leaves out the frames of a trace that lie below `scratch`, and Nix's hints about options that
/// users of a buildpack do not have. Frames are paragraphs.
fn trim_trace(text: &str, scratch: &str) -> String {
    let kept: Vec<&str> = text
        .split("\n\n")
        .filter(|paragraph| !paragraph.contains("(stack trace truncated"))
        .filter(|paragraph| !(paragraph.contains(scratch) && paragraph.contains("… ")))
        .map(|paragraph| paragraph.trim_matches('\n'))
        .collect();
    let text = kept.join("\n\n");
    // Where the first frame was left out, so was the word before it.
    let text = text.trim();
    if text.starts_with("error:") {
        text.to_string()
    } else {
        format!("error:\n       {text}")
    }
}

fn version(bin: &Path) -> Option<Version> {
    let output = Command::new(bin.join("nix-instantiate"))
        .arg("--version")
        .output()
        .ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
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
    fn a_trace_is_kept_but_for_the_frames_of_our_own_function() {
        let said = "\
error:
       … while evaluating list element at index 0
         at /tmp/nix-1/roots.nix:6:1:
            5| # x

       … while calling the 'import' builtin
         at /tmp/nix-1/roots.nix:50:9:

       … from the app
         at /nix/store/0000-source/default.nix:1:1:

       (stack trace truncated; use '--show-trace' to show the full, detailed trace)

       error: undefined variable 'missing'
";
        assert_eq!(
            trim_trace(said, "/tmp/nix-1"),
            "\
error:
       … from the app
         at /nix/store/0000-source/default.nix:1:1:

       error: undefined variable 'missing'"
        );
        let plain = "error: syntax error, unexpected ';'";
        assert_eq!(trim_trace(plain, "/tmp/nix-1"), plain);
    }

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
