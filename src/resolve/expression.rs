//! Evaluates the app's expression inside the store, as Hydra does, to the store paths it stands for.

use super::answer::Evaluated;
use super::named_sources::named_sources;
use super::said::{
    built, cannot_build, failed_download, is_by_git, last_error, missing_name, unlocked_input,
};
use super::source::{Source, SourceError};
use super::{Root, lookups, pins};
use crate::config::{Config, Expression};
use http_client::without_credentials;
use hydra::revision::Commit;
use nix_derivation::{Derivation, StorePath};
use nix_runner::nar_store::{file_in, hash_part};
use nix_runner::{Evaluation, Flakes, Imports, NOWHERE, Nix, NixError, Writes};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

/// The Nix function that turns an expression's value into [`Evaluated`]s.
pub const ROOTS_NIX: &str = include_str!("roots.nix");

/// What `<nixpkgs>` is where nothing says so.
pub const NIXPKGS_NIX: &str = include_str!("nixpkgs.nix");

/// How the errors of `nixpkgs.nix` begin.
const NIXPKGS_ERROR: &str = "nix-hydra: ";

/// What Nix says where it would have to build, and has no store for that.
const NOT_LOCAL: &str = "a primary store that isn't a local store";

/// What Nix says where it would need its own `fetchTree`; the last is of `roots.nix`.
const NO_TREES: [&str; 3] = [
    "attribute 'fetchTree' missing",
    "undefined variable 'fetchTree'",
    "of what fetchTree fetches is not known",
];

/// What an expression gave.
#[derive(Debug)]
pub struct Outcome {
    /// In the order of the attributes, the target's first.
    pub roots: Vec<Root>,
    /// What to build, `/nix/store/….drv!out` for each root; nothing for a root that is no
    /// derivation's output.
    pub derivations: Vec<Option<String>>,
    /// Whether everything was written to the store. Else an expression that looks for a copy which
    /// was not made, by a name that hides that it is one, may have gone another way.
    pub thorough: bool,
    /// Derivations that were built to evaluate.
    pub built: Vec<String>,
    /// What is fetched without a hash, in Nix's words; then another evaluation may give others.
    pub unpinned: Option<String>,
    /// What of `NIX_PATH` and the jobset's inputs Nix went on without, and why.
    pub unusable: Vec<String>,
}

/// Why an expression gave no roots.
#[derive(Debug, thiserror::Error)]
pub enum ExpressionError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Nix(#[from] NixError),
    /// Nix could not evaluate the expression; what it said, without its colours.
    #[error("the expression cannot be evaluated: {0}")]
    Evaluation(String),
    /// Nix could not evaluate the expression without what the second lists, which `NIX_PATH` or the
    /// jobset's inputs name; what it said.
    #[error("the expression cannot be evaluated: {0}")]
    Lookups(String, Vec<String>),
    /// What Nix answered is not what this program asked for.
    #[error("the result of the evaluation cannot be read: {0}")]
    Answer(String),
    #[error("{derivation} must be built before the expression can be evaluated")]
    MustBuild {
        derivation: String,
        /// What no binary cache has of it.
        outputs: Vec<String>,
    },
    #[error("the expression takes {0} from <nixpkgs>, which nothing pins")]
    Unpinned(String),
    /// A fetcher of the `<nixpkgs>` that stands in cannot do what is asked of it; what that is.
    #[error("{0}")]
    Fetcher(String),
    /// The value at this attribute (none: the whole expression) is not a derivation.
    #[error("the expression gives a {kind}, not a derivation")]
    NotADerivation {
        attribute: Option<String>,
        /// What it is, in Nix's words: `set`, `lambda`, `string`.
        kind: String,
        /// The names of the derivations in it, where it is a set of some.
        derivations: Vec<String>,
    },
    #[error("{} of the attributes to deploy are missing", .0.len())]
    Missing(Vec<MissingAttribute>),
    /// The value at this attribute is what `mkShell` makes.
    #[error("the expression gives a shell, not a package")]
    Shell(Option<String>),
    #[error("{} could not be downloaded: {}", .0.url, .0.why)]
    Download(Box<FailedDownload>),
    #[error("a content-addressed derivation has no store path before it is built")]
    ContentAddressed,
    /// Something is fetched by git, and there is none; what Nix said.
    #[error("git is missing: {0}")]
    NoGit(String),
    /// A flake's input of this name is not locked.
    #[error("the input {0} of the flake is not locked")]
    NoFlakeLock(String),
}

/// A source that no binary cache has, and whose URL does not give it.
#[derive(Debug)]
pub struct FailedDownload {
    /// Without credentials.
    pub url: String,
    pub why: String,
    /// The store paths for which the binary caches were asked, and that none has.
    pub asked: Vec<String>,
    /// Sources that a binary cache has, of which the app names the hash, and that Nix did not ask for:
    /// under another name, that is.
    pub other_names: Vec<StorePath>,
    /// What Nix said, whole.
    pub said: String,
}

/// An attribute that the expression does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingAttribute {
    /// As it was written.
    pub attribute: String,
    /// The names that lead to where it should be, and the one that is missing there.
    pub at: Vec<String>,
    pub name: String,
    /// What there is instead.
    pub names: Vec<String>,
}

/// How an expression is evaluated, as [`Evaluation`] has it.
#[derive(Debug, Clone, Copy)]
struct Mode {
    writes: Writes,
    offline: bool,
    /// Only with fetchers that ask the store for what has a hash, which `builtins.fetchTree` does not.
    from_store: bool,
}

impl Mode {
    /// How to try again after an evaluation that failed and said this; None where that would end in the
    /// same way.
    fn next(self, said: &str) -> Option<Self> {
        let with = |writes| Some(Self { writes, ..self });
        if self.writes != Writes::Local && said.contains(NOT_LOCAL) {
            return with(Writes::Local);
        }
        let is_silent = failed_download(said).is_some();
        let is_fetcher = is_silent || NO_TREES.iter().any(|words| said.contains(words));
        match self.writes {
            _ if self.from_store && (is_fetcher || self.writes != Writes::Nothing) => Some(Self {
                from_store: false,
                ..self
            }),
            // It would wait for the same URL.
            Writes::Nothing if !is_silent => with(Writes::Nars),
            _ => None,
        }
    }
}

/// An expression whose source is in the store that a Nix works on.
#[derive(Debug)]
pub struct Evaluator<'a> {
    source: &'a Source,
    expression: &'a Expression,
    config: &'a Config,
    system: &'a str,
    commit: Option<Commit>,
    /// What it will probably fetch.
    expected: Vec<StorePath>,
}

impl<'a> Evaluator<'a> {
    /// Puts `source` into the store of `nix`.
    pub fn new(
        nix: &Nix,
        source: &'a Source,
        expression: &'a Expression,
        config: &'a Config,
        system: &'a str,
    ) -> Result<Self, ExpressionError> {
        source.add_to(nix.store())?;
        Self::write_nixpkgs(nix, "")?;
        Ok(Self {
            source,
            expression,
            config,
            system,
            commit: None,
            expected: named_sources(source),
        })
    }

    /// The same, with the commit that the source is of. Flakes see it: `self.rev`.
    #[must_use]
    pub fn at(self, commit: Option<Commit>) -> Self {
        Self { commit, ..self }
    }

    /// The expression's file in the app.
    pub(super) fn file(&self) -> &Path {
        &self.expression.file
    }

    /// The flake that the expression is, as Nix takes it; nothing where it is none.
    fn flake(&self) -> String {
        if !self.expression.is_flake() {
            return String::new();
        }
        let quoted = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut flake = format!(
            "path:{}?narHash={}",
            self.source.path.to_absolute_path(),
            quoted(&self.source.nar_hash.to_sri_string())
        );
        let directory = self.expression.file.parent().unwrap_or(Path::new(""));
        if directory != Path::new("") {
            flake.push_str("&dir=");
            flake.push_str(&quoted(&directory.to_string_lossy()));
        }
        if let Some(commit) = &self.commit {
            flake.push_str(&commit.in_url());
        }
        flake
    }

    /// Evaluates the expression: without writing what it makes, where that is enough and derivations
    /// are not needed.
    pub fn evaluate(&self, nix: &Nix, thorough: bool) -> Result<Outcome, ExpressionError> {
        let mut mode = Mode {
            writes: if thorough {
                Writes::Nars
            } else {
                Writes::Nothing
            },
            offline: false,
            from_store: self.may_fetch_trees(),
        };
        let mut answer = self.run(nix, mode)?;
        while !is_answered(&answer) {
            match mode.next(&String::from_utf8_lossy(&answer.stderr)) {
                Some(next) => mode = next,
                None => return Err(self.failure(nix, &answer.stderr)?),
            }
            answer = self.run(nix, mode)?;
        }
        let evaluated: Vec<Evaluated> = serde_json::from_slice(&answer.stdout)
            .map_err(|error| ExpressionError::Answer(error.to_string()))?;
        let mut outcome = Outcome {
            roots: Vec::new(),
            derivations: Vec::new(),
            thorough: mode.writes != Writes::Nothing,
            built: built(&answer.stderr),
            unpinned: None,
            unusable: lookups::unusable(&answer.stderr, self.config),
        };
        let (missing, found): (Vec<_>, Vec<_>) = evaluated
            .into_iter()
            .partition(|value| value.kind == "missing");
        if !missing.is_empty() {
            let missing = missing.into_iter().map(Evaluated::into_missing);
            return Err(ExpressionError::Missing(missing.collect()));
        }
        for value in found {
            value.add_to(&mut outcome)?;
        }
        // What was fetched by a URL and a hash is in the store now, and not fetched again.
        if !self.expression.is_flake() && nix.has_fetched() {
            mode.offline = true;
            let again = self.run(nix, mode)?;
            if !is_answered(&again) {
                let said = nix.trimmed_error(&again.stderr, Some(&self.source.path));
                let unusable = lookups::unusable(&again.stderr, self.config);
                let unpinned = unusable.into_iter().next();
                outcome.unpinned = unpinned.or_else(|| Some(last_error(&said).to_string()));
            }
        }
        Ok(outcome)
    }

    /// Whether the expression may fetch by `fetchTree`, itself or in flake-compat, which is elsewhere.
    fn may_fetch_trees(&self) -> bool {
        !self.expression.is_flake()
            && (self.source.has("flake.lock") || pins::may_fetch_trees(self.source))
    }

    fn run(&self, nix: &Nix, mode: Mode) -> Result<std::process::Output, ExpressionError> {
        let mut attributes = self.expression.attributes.clone();
        // The target leads PATH, so it comes first.
        attributes
            .sort_by_key(|attribute| Some(&attribute.text) != self.expression.target.as_ref());
        nix.evaluate(&Evaluation {
            function: ROOTS_NIX,
            arguments: BTreeMap::from([
                ("source", self.source.path.to_absolute_path()),
                ("file", self.expression.file.to_string_lossy().into_owned()),
                ("attributes", serde_json::json!(attributes).to_string()),
                ("flake", self.flake()),
                ("system", self.system.to_string()),
                (
                    "trees",
                    if mode.from_store { NOWHERE } else { "" }.to_string(),
                ),
            ]),
            source: &self.source.path,
            nix_path: lookups::nix_path(self.config, &nixpkgs_directory(nix)),
            lookups: &lookups::for_command_line(self.config),
            pure: self.expression.is_flake(),
            writes: mode.writes,
            offline: mode.offline,
            // What fails without flakes is evaluated again with all of Nix.
            flakes: if mode.from_store {
                Flakes::Hidden
            } else {
                Flakes::Shown
            },
            imports: if self.config.allow_import_from_derivation {
                Imports::Outputs
            } else {
                Imports::Sources
            },
            expected: &self.expected,
        })
        .map_err(ExpressionError::Nix)
    }

    /// What a failed evaluation means.
    fn failure(&self, nix: &Nix, stderr: &[u8]) -> Result<ExpressionError, ExpressionError> {
        let said = nix.trimmed_error(stderr, Some(&self.source.path));
        let last = last_error(&said);
        if let Some(derivation) = cannot_build(&said).filter(|_| !nix.builds()) {
            return Ok(ExpressionError::MustBuild {
                outputs: output_paths(nix, &derivation),
                derivation,
            });
        }
        if said.contains("'ca-derivations'") {
            return Ok(ExpressionError::ContentAddressed);
        }
        // First, since whatever else is missing may be missed for their sake.
        let unusable = lookups::unusable(stderr, self.config);
        if !unusable.is_empty() {
            return Ok(ExpressionError::Lookups(said, unusable));
        }
        if let Some((url, why)) = failed_download(&said) {
            return Ok(self.download(nix, &url, &why, said));
        }
        if is_by_git(&said) && !has_git() {
            return Ok(ExpressionError::NoGit(said));
        }
        if let Some(problem) = last.strip_prefix(NIXPKGS_ERROR) {
            return Ok(ExpressionError::Fetcher(problem.to_string()));
        }
        if let Some(input) = unlocked_input(last) {
            return Ok(ExpressionError::NoFlakeLock(input.to_string()));
        }
        if !lookups::has_stand_in(self.config) {
            return Ok(ExpressionError::Evaluation(said));
        }
        if last.starts_with("file 'nixpkgs/") {
            let path = last.split('\'').nth(1).unwrap_or_default();
            return Ok(ExpressionError::Unpinned(format!("<{path}>")));
        }
        // Whether the name is missed in `<nixpkgs>` or elsewhere shows once that one has it.
        if let Some(name) = missing_name(last) {
            Self::write_nixpkgs(nix, name)?;
            let mode = Mode {
                writes: Writes::Nars,
                offline: false,
                from_store: false,
            };
            let again = self.run(nix, mode)?;
            let again = nix.trimmed_error(&again.stderr, Some(&self.source.path));
            if last_error(&again).starts_with(NIXPKGS_ERROR) {
                return Ok(ExpressionError::Unpinned(name.to_string()));
            }
        }
        Ok(ExpressionError::Evaluation(said))
    }

    fn download(&self, nix: &Nix, url: &str, why: &str, said: String) -> ExpressionError {
        let taken = nix.taken();
        let (mut asked, mut other_names) = (Vec::new(), Vec::new());
        nix.supply().missing(&mut |hash, _| {
            let known = self.expected.iter().find(|path| hash == hash_part(path));
            let unknown = || format!("/nix/store/{hash}-…");
            asked.push(known.map_or_else(unknown, StorePath::to_absolute_path));
        });
        for path in &self.expected {
            let is_taken = taken.iter().any(|(other, _)| other == path);
            if !is_taken && nix.store().has(&hash_part(path)) {
                other_names.push(path.clone());
            }
        }
        ExpressionError::Download(Box::new(FailedDownload {
            url: without_credentials(url),
            why: why.to_string(),
            asked,
            other_names,
            said,
        }))
    }

    /// Writes the `<nixpkgs>` that stands in, which tells when `missing` is taken from it.
    fn write_nixpkgs(nix: &Nix, missing: &str) -> Result<(), ExpressionError> {
        let directory = nixpkgs_directory(nix);
        let missing = if missing.is_empty() {
            "[ ]".to_string()
        } else {
            format!("[ {} ]", serde_json::json!(missing))
        };
        let written = fs::create_dir_all(&directory)
            .and_then(|()| fs::write(directory.join("default.nix"), NIXPKGS_NIX))
            .and_then(|()| fs::write(directory.join("missing.nix"), missing))
            .and_then(|()| fs::write(directory.join("nowhere.nix"), format!("\"{NOWHERE}\"")));
        written.map_err(|error| ExpressionError::Nix(NixError::Write(directory, error)))
    }
}

fn nixpkgs_directory(nix: &Nix) -> std::path::PathBuf {
    nix.scratch().join("nixpkgs")
}

/// Whether Nix has evaluated to the end. It may crash when it has printed the answer, since the thread of
/// its downloads still runs while it ends (`filetransfer.cc`).
fn is_answered(output: &std::process::Output) -> bool {
    let crashed = output.status.signal().is_some();
    output.status.success() || (crashed && output.stdout.ends_with(b"\n"))
}

fn has_git() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join("git").exists())
}

/// The outputs of a derivation that was evaluated.
fn output_paths(nix: &Nix, derivation: &str) -> Vec<String> {
    let read = || {
        let path = StorePath::from_absolute_path(derivation.as_bytes()).ok()?;
        let text = file_in(&mut nix.store().nar(&path)?)?;
        let read = Derivation::from_aterm_bytes(&text, path.name().strip_suffix(".drv")?).ok()?;
        let outputs = read.resolved_outputs().ok()?;
        let paths = outputs.values().filter_map(|output| output.path.as_ref());
        Some(paths.map(StorePath::to_absolute_path).collect())
    };
    read().unwrap_or_default()
}
