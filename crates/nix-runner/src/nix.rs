//! A Nix that can be run, with a store of its own.

use crate::Substituters;
use crate::archive::{ArchiveError, Target};
use crate::engine::Engine;
use crate::temporary::{self, NoTemporary};
use memchr::memmem;
use nix_derivation::StorePath;
use semver::Version;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The first version that evaluates files of a store that is not at `/nix/store`.
pub const MIN_VERSION: Version = Version::new(2, 34, 0);

/// How Nix's warning about an entry of its search path begins that it goes on without.
pub const WARNING: &str = "warning: Nix search path entry '";

/// Settings for a build container: no daemon, no root, no user namespaces.
const SETTINGS: &str = "\
build-users-group =
filter-syscalls = false
fsync-metadata = false
builders =
experimental-features = nix-command flakes
flake-registry =
accept-flake-config = false
warn-dirty = false
connect-timeout = 10
download-attempts = 3
";

/// What restricted evaluation may fetch: anything by a URL that names its protocol, as Hydras that
/// build from pinned archives and private repositories allow. Nix looks at the URL before it asks the
/// binary caches, so one that cannot be reached from here must be here as well.
const ALLOWED_URIS: &str = "https:// http:// github: gitlab: sourcehut: \
    git+https:// git+http:// git+ssh:// ssh:// \
    tarball+https:// tarball+http:// file+https:// file+http://";

/// What flakes may fetch beyond that, since their lock files pin it: by protocols that nothing secures,
/// and that an evaluation with no way to any server would not be kept from.
const ALLOWED_LOCKED_URIS: &str = "git:// hg+https:// hg+http:// hg+ssh://";

/// An expression that is cheap to build, and needs nothing to be built with.
const PROBE: &str = r#"builtins.readDir (derivation {
  name = "probe";
  system = "builtin";
  builder = "builtin:buildenv";
  derivations = [ ];
  manifest = "/nowhere";
})"#;

/// A Nix that can be run, with a store of its own.
#[derive(Debug)]
pub struct Nix {
    /// The directory of `nix`, `nix-store` and `nix-instantiate`, as the engine shows it.
    bin: PathBuf,
    engine: Engine,
    building: Building,
    /// Holds the store, the home directory and the configuration; removed when dropped.
    scratch: TempDir,
    store: PathBuf,
    /// Whether its database has a write-ahead log, which some file systems cannot have.
    write_ahead: Cell<bool>,
    substituters: Substituters,
    /// Holds the programs, where they were unpacked for this.
    _programs: Option<TempDir>,
}

/// Whether derivations are built.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Building {
    No,
    /// In Nix's own sandbox, with these `sandbox-paths`.
    Sandboxed(String),
    /// With what the machine has in view.
    Open,
}

/// One evaluation, as `nix-instantiate` takes it.
#[derive(Debug)]
pub struct Evaluation<'a> {
    /// The text of a function whose arguments are strings, and its arguments.
    pub function: &'a str,
    pub arguments: BTreeMap<&'a str, String>,
    pub source: &'a StorePath,
    /// The value of `NIX_PATH`.
    pub nix_path: String,
    /// What else is looked up, as `name=URL`: `NIX_PATH` would split a URL at its colon.
    pub lookups: &'a [String],
    /// As flakes are evaluated: with access to nothing that is not pinned.
    pub pure: bool,
    /// Without writing derivations and copies of sources, which takes most of the time. What would
    /// read them again fails.
    pub read_only: bool,
    /// Without what was downloaded before, and with no way to any server.
    pub offline: bool,
}

/// Why Nix could not be set up or run.
#[derive(Debug, thiserror::Error)]
pub enum NixError {
    #[error("{path} cannot be written: {1}", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
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
    /// A Nix whose programs run from `bin`, with a new, empty store in a temporary directory.
    pub fn new(bin: PathBuf, substituters: Substituters) -> Result<Self, NixError> {
        let scratch = temporary::directory().map_err(NixError::Temporary)?;
        let store = scratch.path().join("root/nix/store");
        let home = scratch.path().join("home");
        for directory in [&store, &home] {
            std::fs::create_dir_all(directory)
                .map_err(|error| NixError::Write(directory.clone(), error))?;
        }
        substituters
            .write_netrc(&home.join("netrc"))
            .map_err(|error| NixError::Write(home.join("netrc"), error))?;
        Ok(Self {
            bin,
            engine: Engine::Direct,
            building: Building::No,
            scratch,
            store,
            write_ahead: Cell::new(true),
            substituters,
            _programs: None,
        })
    }

    /// A Nix that `unpack` unpacks: moved where it runs by itself, else with an engine that shows it
    /// where it belongs. `proot` brings a PRoot into a directory, or says why not.
    ///
    /// Answers also why an engine is needed, where one is.
    pub fn unpacked(
        unpack: &dyn Fn(&Target) -> Result<PathBuf, ArchiveError>,
        proot: &dyn Fn(&Path) -> Result<PathBuf, String>,
        substituters: Substituters,
    ) -> Result<(Self, Option<String>), NixError> {
        let mut nix = Self::new(PathBuf::new(), substituters)?;
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
        let bin = unpack(&Target::Plain(nix.store.clone())).map_err(NixError::Archive)?;
        let in_store = bin.strip_prefix(&nix.store).unwrap_or(&bin);
        nix.bin = Path::new("/nix/store").join(in_store);
        let mut tried = vec![("moved elsewhere".to_string(), reason.clone())];
        nix.engine = Engine::Namespace;
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
    #[must_use]
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
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The same, in a user namespace.
    #[must_use]
    pub fn with_namespace(self) -> Self {
        Self {
            engine: Engine::Namespace,
            ..self
        }
    }

    /// The same, under PRoot.
    pub fn with_proot(self, program: &Path) -> Result<Self, NixError> {
        let engine = self
            .proot(&|_| Ok(program.to_path_buf()))
            .map_err(|said| NixError::NoEngine(vec![("under PRoot".to_string(), said)]))?;
        Ok(Self { engine, ..self })
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

    /// Finds a way to build, the best first: Nix's own sandbox, which needs a `/proc` of its own, as
    /// containers seldom allow; a user namespace; PRoot. Answers what the log calls it.
    pub fn enable_building(
        &mut self,
        proot: &dyn Fn(&Path) -> Result<PathBuf, String>,
    ) -> Result<&'static str, NixError> {
        if self.building != Building::No {
            return Ok(self.building_words());
        }
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

    /// Runs a command to what it printed, or the last line of what it complained about.
    fn succeeds(&self, command: Command) -> Result<String, String> {
        let output = run(command, &[]).map_err(|error| match error {
            NixError::Start(program, error) => format!("{}: {error}", program.display()),
            other => format!("{other:?}"),
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = self.trimmed_error(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        Err(last.unwrap_or("it ended without a word").trim().to_string())
    }

    /// Makes paths valid that are on disk already, as `nix-store --load-db` takes them.
    pub fn load_db(&self, registration: &str) -> Result<(), NixError> {
        loop {
            let mut command = self.command("nix-store", false);
            command.arg("--load-db");
            let output = run(command, registration.as_bytes())?;
            if output.status.success() {
                return Ok(());
            }
            if !self.write_ahead.replace(false) {
                return Err(NixError::Failed(self.trimmed_error(&output.stderr)));
            }
            // Nothing was in it yet; and both kinds must not meet in one database.
            let database = self.scratch.path().join("root/nix/var");
            if let Err(error) = std::fs::remove_dir_all(&database)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(NixError::Write(database, error));
            }
        }
    }

    /// Evaluates a function with string arguments to JSON.
    ///
    /// As on Hydra, nothing but the source, `nix_path` and what has a URL can be read.
    pub fn evaluate(&self, evaluation: &Evaluation) -> Result<Output, NixError> {
        let mut command = self.command("nix-instantiate", evaluation.offline);
        let mut allowed_uris = ALLOWED_URIS.to_string();
        if evaluation.pure {
            allowed_uris = format!("{allowed_uris} {ALLOWED_LOCKED_URIS}");
        }
        command
            .args(["--eval", "--strict", "--json", "--show-trace"])
            .args(["--option", "restrict-eval", "true"])
            .args(["--option", "allowed-uris", &allowed_uris])
            .args(["--option", "pure-eval", &evaluation.pure.to_string()])
            .arg("-I")
            .arg(format!(
                "nix-hydra-source={}",
                evaluation.source.to_absolute_path()
            ));
        if !evaluation.read_only {
            command.arg("--read-write-mode");
        }
        for lookup in evaluation.lookups {
            command.args(["-I", lookup]);
        }
        for (name, value) in &evaluation.arguments {
            command.args(["--argstr", name, value]);
        }
        command.args(["--expr", evaluation.function]);
        command.env("NIX_PATH", &evaluation.nix_path);
        run(command, &[])
    }

    /// Whether an evaluation has fetched something by its URL, rather than from a binary cache.
    #[must_use]
    pub fn has_fetched(&self) -> bool {
        let cache = self.scratch.path().join("home/cache/nix");
        std::fs::read_dir(cache).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                let name = entry.file_name();
                let name = name.as_encoded_bytes();
                if name.starts_with(b"fetcher-cache") {
                    // A database that also has the hashes of paths; what was fetched, by its URL.
                    return std::fs::read(entry.path())
                        .is_ok_and(|bytes| memmem::find(&bytes, b"\"url\"").is_some());
                }
                // What Nix remembers of binary caches is no fetching.
                !name.starts_with(b"binary-cache")
            })
        })
    }

    /// Builds `derivations` (`/nix/store/….drv!out`), or takes them from the binary caches; what Nix
    /// says goes to `log`, line by line.
    pub fn realise(&self, derivations: &[String], log: &mut dyn Write) -> Result<(), NixError> {
        let mut command = self.command("nix-store", false);
        command.arg("--realise").args(derivations);
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
                // A log that nobody reads any more is no reason to stop.
                let _ = log.write_all(&line).and_then(|()| log.write_all(b"\n"));
                let starts = line.starts_with(b"error:");
                if starts || !said.is_empty() {
                    said.extend(line);
                    said.push(b'\n');
                }
            }
        }
        if child.wait().map_err(start_error)?.success() {
            Ok(())
        } else {
            Err(NixError::Build(self.trimmed_error(&said)))
        }
    }

    /// Copies the closure of `paths` into a binary cache made of files, and answers its directory.
    pub fn copy_to_files(&self, paths: &[StorePath]) -> Result<PathBuf, NixError> {
        let directory = self.scratch.path().join("built");
        let mut command = self.command("nix", false);
        command
            .args(["copy", "--no-check-sigs", "--to"])
            .arg(format!("file://{}?compression=none", directory.display()))
            .args(paths.iter().map(StorePath::to_absolute_path));
        let output = run(command, &[])?;
        if output.status.success() {
            Ok(directory)
        } else {
            Err(NixError::Failed(self.trimmed_error(&output.stderr)))
        }
    }

    /// What Nix wrote to standard error, without what is about this program's own function.
    #[must_use]
    pub fn trimmed_error(&self, stderr: &[u8]) -> String {
        let text = String::from_utf8_lossy(stderr);
        trim_trace(&text, &self.scratch.path().to_string_lossy())
    }

    fn command(&self, program: &str, offline: bool) -> Command {
        let home = self.scratch.path().join("home");
        let cache = home.join(if offline { "no-cache" } else { "cache" });
        let program = self.bin.join(program);
        let mut command =
            self.engine
                .command(program.as_os_str(), &self.shown_nix(), self.scratch.path());
        // Nothing of the user's own Nix may change what is evaluated.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"NIX_") && name != "NIX_SSL_CERT_FILE" {
                command.env_remove(name);
            }
        }
        let mut settings = format!("{SETTINGS}use-sqlite-wal = {}\n", self.write_ahead.get());
        settings.push_str(match &self.building {
            Building::No => "sandbox = false\nmax-jobs = 0\n",
            Building::Open => "sandbox = false\nmax-jobs = auto\ncores = 0\n",
            Building::Sandboxed(_) => "sandbox = true\nmax-jobs = auto\ncores = 0\n",
        });
        if let Building::Sandboxed(paths) = &self.building {
            settings.push_str("sandbox-paths = ");
            settings.push_str(paths);
            settings.push('\n');
        }
        if offline {
            settings.push_str("substituters =\ndownload-attempts = 1\n");
            // A port that nothing listens on, for every protocol that Nix and git speak.
            for name in [
                "http_proxy",
                "https_proxy",
                "all_proxy",
                "HTTPS_PROXY",
                "ALL_PROXY",
            ] {
                command.env(name, "http://127.0.0.1:9");
            }
            command.env("no_proxy", "").env("NO_PROXY", "");
            // Those without proxies, such as SSH.
            command.env("GIT_ALLOW_PROTOCOL", "file:http:https");
        } else {
            settings.push_str(&self.substituters.settings());
        }
        let store = match self.engine {
            Engine::Direct => format!("local?root={}", self.scratch.path().join("root").display()),
            Engine::Namespace | Engine::PRoot { .. } => "local".to_string(),
        };
        command
            .env("HOME", &home)
            // It puts its own temporary files where this program could.
            .envs(
                self.scratch
                    .path()
                    .parent()
                    .map(|parent| ("TMPDIR", parent)),
            )
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_CACHE_HOME", cache)
            .env("XDG_DATA_HOME", home.join("data"))
            .env("XDG_STATE_HOME", home.join("state"))
            .env("NIX_CONF_DIR", home.join("nix"))
            .env("NIX_CONFIG", settings)
            .env("NIX_PATH", "")
            .env("NO_COLOR", "1")
            .args(["--option", "netrc-file"])
            .arg(home.join("netrc"))
            .args(["--store", &store]);
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

/// Frames at each end of a trace that are shown.
const FRAMES_SHOWN: usize = 5;

/// How the lines begin that Nix prints while all is well, or of which errors tell by themselves.
const PROGRESS: [&str; 9] = [
    WARNING,
    "copying ",
    "building ",
    "unpacking ",
    "downloading ",
    "fetching ",
    "evaluating ",
    "these ",
    "this ",
];

/// Leaves out the frames of a trace that lie below `scratch` or in a text given on the command line,
/// those in its middle where there are many, and what Nix says of its progress. Frames are paragraphs.
fn trim_trace(text: &str, scratch: &str) -> String {
    let ours = |paragraph: &str| {
        paragraph.contains("… ")
            && [scratch, "«string»"]
                .iter()
                .any(|at| paragraph.contains(at))
    };
    let text = text
        .lines()
        .skip_while(|line| PROGRESS.iter().any(|words| line.starts_with(words)))
        .collect::<Vec<_>>()
        .join("\n");
    let kept: Vec<&str> = text
        .split("\n\n")
        .filter(|paragraph| !ours(paragraph))
        .map(|paragraph| paragraph.trim_matches('\n'))
        .collect();
    let text = shortened(&kept).join("\n\n");
    // Where the first frame was left out, so was the word before it.
    let text = text.trim();
    if text.starts_with("error:") {
        text.to_string()
    } else {
        format!("error:\n       {text}")
    }
}

/// The outermost and innermost paragraphs of a trace, which is long where it leads through nixpkgs.
fn shortened(paragraphs: &[&str]) -> Vec<String> {
    let owned = |paragraphs: &[&str]| paragraphs.iter().map(ToString::to_string).collect();
    let Some(left_out) = paragraphs.len().checked_sub(2 * FRAMES_SHOWN + 1) else {
        return owned(paragraphs);
    };
    let mut kept: Vec<String> = owned(&paragraphs[..FRAMES_SHOWN]);
    kept.push(format!("       ({} frames are left out)", left_out + 1));
    let innermost: Vec<String> = owned(&paragraphs[paragraphs.len() - FRAMES_SHOWN..]);
    kept.extend(innermost);
    kept
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
         at «string»:6:1:
            5| # x

       … while calling the 'import' builtin
         at /tmp/nix-1/roots.nix:50:9:

       … from the app
         at /nix/store/0000-source/default.nix:1:1:

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
        let deep: Vec<String> = (0..20).map(|n| format!("       … frame {n}")).collect();
        let deep = trim_trace(
            &format!("error:\n{}\n\n       error: no", deep.join("\n\n")),
            "/x",
        );
        assert_eq!(deep.matches("… frame").count(), 9);
        assert!(deep.contains("… frame 4\n\n       (11 frames are left out)\n\n       … frame 16"));
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
