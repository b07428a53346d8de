//! A Nix that can be run, with a store of its own.

use crate::archive::{ArchiveError, Target};
use crate::engine::{Engine, View};
use crate::nar_store::NarStore;
use crate::served::{Address, serve};
use crate::supply::Supply;
use crate::temporary::{self, NoTemporary};
use crate::trace::trim_trace;
use memchr::memmem;
use nix_derivation::{NixHash, StorePath};
use semver::Version;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
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
use-sqlite-wal = false
connect-timeout = 10
download-attempts = 3
";

/// What restricted evaluation may fetch: anything by a URL that names its protocol, as Hydras that
/// build from pinned archives and private repositories allow. Nix looks at the URL before it asks the
/// binary caches, so one that cannot be reached from here must be here as well.
const ALLOWED_URIS: &str = "https:// http:// github: gitlab: sourcehut: \
    git+https:// git+http:// git+ssh:// ssh:// \
    tarball+https:// tarball+http:// file+https:// file+http://";

/// A URL that an expression may fetch, and from which nothing comes.
pub const NOWHERE: &str = "file:///nix-hydra/nowhere";

/// What flakes may fetch beyond that, since their lock files pin it: by protocols that nothing secures,
/// and that an evaluation with no way to any server would not be kept from.
const ALLOWED_LOCKED_URIS: &str = "git:// hg+https:// hg+http:// hg+ssh://";

/// What Nix sees of the build's environment: where programs are, who answers for servers, and how to
/// reach them. Nothing else of it may change what is evaluated.
const KEPT_VARIABLES: [&str; 19] = [
    "PATH",
    "USER",
    "LANG",
    "LC_ALL",
    "NIX_SSL_CERT_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "SSH_AUTH_SOCK",
    "LD_LIBRARY_PATH",
];

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
    pub writes: Writes,
    /// Without what was downloaded before, and with no way to any server.
    pub offline: bool,
    pub flakes: Flakes,
    pub imports: Imports,
    /// What it will probably ask for.
    pub expected: &'a [StorePath],
}

/// What an evaluation may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Neither derivations nor copies of sources, which takes most of the time. What would read them
    /// again fails.
    Nothing,
    /// All of them into the store of NARs, with what is imported from derivations and a cache has.
    Nars,
    /// The same, with a local store beside it, in which Nix can build, and says what it would have to.
    Local,
}

/// Whether an expression sees that this Nix has flakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flakes {
    Shown,
    /// Then there is no `builtins.fetchTree`, which asks no binary cache: flake-compat falls back on
    /// fetchers that do.
    Hidden,
}

/// What an expression may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imports {
    /// Outputs of derivations, too (import from derivation).
    Outputs,
    /// Sources alone.
    Sources,
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
    /// Answers also why an engine is needed, where one is.
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

    /// The store of NARs that it evaluates in.
    #[must_use]
    pub fn store(&self) -> &NarStore {
        self.supply.store()
    }

    /// What that store is filled from.
    #[must_use]
    pub fn supply(&self) -> &Supply {
        &self.supply
    }

    /// Whether derivations may be built.
    #[must_use]
    pub fn builds(&self) -> bool {
        self.building != Building::No
    }

    /// A directory for files that only this evaluation needs.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
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
        let said = self.trimmed_error(&output.stderr, None);
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        Err(last.unwrap_or("it ended without a word").trim().to_string())
    }

    /// Evaluates a function with string arguments to JSON.
    ///
    /// As on Hydra, nothing but the source, `nix_path` and what has a URL can be read.
    pub fn evaluate(&self, evaluation: &Evaluation) -> Result<Output, NixError> {
        if evaluation.writes != Writes::Nothing || evaluation.offline {
            return run(self.evaluating(evaluation, None), &[]);
        }
        // Where it may write nothing, it takes nothing from a binary cache but what the store has that
        // it evaluates in.
        self.supply.resume();
        let served = serve(&self.supply, |address| {
            std::thread::scope(|scope| {
                scope.spawn(|| self.supply.prefetch(evaluation.expected));
                let output = run(self.evaluating(evaluation, Some(address)), &[]);
                self.supply.stop();
                output
            })
        });
        let (output, taken) = served.map_err(NixError::Serve)?;
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(taken);
        output
    }

    /// The store paths that evaluations have taken from binary caches and URLs, with the hashes of
    /// their NARs.
    #[must_use]
    pub fn taken(&self) -> Vec<(StorePath, NixHash)> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = taken.iter().filter_map(|hash| self.store().info(hash));
        paths.collect()
    }

    /// The command of an evaluation, in the store at `address` or its files.
    fn evaluating(&self, evaluation: &Evaluation, address: Option<&Address>) -> Command {
        let mut command = self.command("nix-instantiate", evaluation.offline);
        match address {
            Some(address) => {
                let url = format!("{}?{}", address.url(), self.store().parameters());
                // Its secret is no matter for a command line. What comes last counts.
                command.args(["--store", &url]);
                let leave_out = |name: &str| match std::env::var(name) {
                    Ok(others) if !others.is_empty() => format!("{others},{}", address.host()),
                    _ => address.host(),
                };
                let hosts = leave_out("no_proxy");
                command.env("no_proxy", &hosts).env("NO_PROXY", &hosts);
            }
            None if evaluation.writes == Writes::Local || self.builds() => {
                command.args(["--eval-store", &self.store().url()]);
            }
            // What is imported from derivations comes into the store of NARs as well, and is not unpacked.
            None => {
                command.args(["--store", &self.store().url()]);
            }
        }
        let mut allowed_uris = format!("{ALLOWED_URIS} {NOWHERE}");
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
        if evaluation.flakes == Flakes::Hidden {
            command.args(["--option", "experimental-features", "nix-command"]);
        }
        if evaluation.imports == Imports::Sources {
            command.args(["--option", "allow-import-from-derivation", "false"]);
        }
        if evaluation.writes != Writes::Nothing {
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
        command
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
    /// says goes to `log`, line by line. If `is_quiet`, what builders say is shown only where one fails,
    /// and then its end.
    pub fn realise(
        &self,
        derivations: &[String],
        is_quiet: bool,
        log: &mut dyn Write,
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
                // A log that nobody reads any more is no reason to stop.
                let _ = log.write_all(&line).and_then(|()| log.write_all(b"\n"));
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
        let output = run(command, &[])?;
        if output.status.success() {
            Ok(())
        } else {
            Err(NixError::Failed(self.trimmed_error(&output.stderr, None)))
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
            Err(NixError::Failed(self.trimmed_error(&output.stderr, None)))
        }
    }

    /// What Nix wrote to standard error, without what is about this program's own function, and of a trace
    /// that leads through the source `own` little else.
    #[must_use]
    pub fn trimmed_error(&self, stderr: &[u8], own: Option<&StorePath>) -> String {
        let text = String::from_utf8_lossy(stderr);
        let own = own.map(StorePath::to_absolute_path);
        trim_trace(
            &text,
            &self.scratch.path().to_string_lossy(),
            own.as_deref(),
        )
    }

    fn command(&self, program: &str, offline: bool) -> Command {
        let home = self.scratch.path().join("home");
        let cache = home.join(if offline { "no-cache" } else { "cache" });
        let program = self.bin.join(program);
        let view = View {
            nix: &self.shown_nix(),
            hidden: &self.hidden,
            scratch: self.scratch.path(),
        };
        let mut command = self.engine.command(program.as_os_str(), view);
        // Nothing of the user's own Nix may change what is evaluated.
        for (name, _) in std::env::vars_os() {
            let kept = name
                .to_str()
                .is_some_and(|name| KEPT_VARIABLES.contains(&name));
            if !kept && !name.as_encoded_bytes().starts_with(b"PROOT_") {
                command.env_remove(name);
            }
        }
        let mut settings = SETTINGS.to_string();
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
            settings.push_str(&self.supply.substituters().settings());
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
            .env("XDG_CONFIG_DIRS", home.join("config"))
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
    use crate::Substituters;
    use binary_cache::TrustSettings;
    use binary_cache::credentials::Netrc;

    #[test]
    fn nix_sees_nothing_of_the_environment_but_what_it_needs() {
        let trust = TrustSettings {
            keys: Vec::new(),
            required: true,
        };
        let substituters = Substituters::new(Vec::new(), trust, Netrc::default());
        let supply = Arc::new(Supply::new(substituters).unwrap());
        let nix = Nix::new(PathBuf::from("/nowhere"), supply).unwrap();
        let command = nix.command("nix", false);
        let set: BTreeMap<_, _> = command.get_envs().collect();
        let is_set = |name: &str| set.get(OsStr::new(name)).is_some_and(Option::is_some);
        // Cargo sets this one for each test.
        assert_eq!(set.get(OsStr::new("CARGO_MANIFEST_DIR")), Some(&None));
        assert!(!is_set("PATH"), "it is inherited");
        for name in ["HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "NIX_CONF_DIR"] {
            assert!(is_set(name), "{name}");
        }
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
