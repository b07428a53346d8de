//! An evaluation: what `nix-instantiate` is given, and the store that it takes sources from.

use super::command::run;
use super::{Nix, NixError};
use crate::served::{Address, serve};
use closure::parallel::lock;
use memchr::memmem;
use nix_derivation::{NixHash, StorePath};
use std::collections::BTreeMap;
use std::process::{Command, Output};

/// How Nix's warning about an entry of its search path begins that it goes on without.
pub const WARNING: &str = "warning: Nix search path entry '";

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

impl Nix {
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
        lock(&self.taken).extend(taken);
        output
    }

    /// The store paths that evaluations have taken from binary caches and URLs, with the hashes of
    /// their NARs.
    pub fn taken(&self) -> Vec<(StorePath, NixHash)> {
        let taken = lock(&self.taken);
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
}
