//! The `closure` layer: every store path that the roots need, in the image alone.

use super::launch_layer::{LaunchLayer, LayerError, LayerState};
use crate::cache::Trust;
use crate::closure::Closure;
use crate::closure::fetch::{FetchError, fetch};
use crate::closure::path_info::PathInfo;
use crate::closure::plan::{Caches, Known, Miss};
use crate::config::Config;
use crate::launch::ROOTS_FILE;
use crate::output::{self, bytes, list, paths};
use crate::report::largest_files;
use crate::resolve::Root;
use bullet_stream::global::print;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Raised whenever what the layer holds for the same roots changes its form.
const FORMAT: &str = "1";

/// How many files `NIX_DEBUG` lists, as the earlier buildpacks did.
const LARGEST_FILES: usize = 20;

/// Why there is no closure layer. What was written of it is removed.
#[derive(Debug)]
pub enum ClosureLayerError {
    /// Paths that no binary cache could give, and caches that could not be asked, with reasons.
    Miss {
        misses: Vec<Miss>,
        unusable: Vec<(String, String)>,
    },
    Fetch(Box<FetchError>),
    Layer(LayerError),
}

impl ClosureLayerError {
    /// Whether there are paths that building could bring.
    #[must_use]
    pub fn is_miss(&self) -> bool {
        matches!(self, Self::Miss { .. })
    }
}

/// What the image's layer was made from, and what is in it.
#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    format: String,
    /// Full store paths, the one that leads `PATH` first.
    roots: Vec<String>,
    /// Whose word was taken; another answer now means that all must be checked again.
    trust: Vec<String>,
    /// Count and size of the store paths, in words.
    content: String,
    /// What is known of every path, a [`PathInfo`] line each: the next build need not ask again.
    paths: Vec<String>,
}

/// Fills the layer with the closure of `roots`, unless the previous image has it already.
pub fn handle(
    layers_dir: &Path,
    roots: &[Root],
    config: &Config,
    open_caches: impl FnOnce() -> Caches,
) -> Result<(), ClosureLayerError> {
    let layer = LaunchLayer::new(layers_dir, "closure");
    let wanted_roots: Vec<String> = roots
        .iter()
        .map(|root| root.path.to_absolute_path())
        .collect();
    let trust = trust(config);
    let state = layer
        .keep_if::<Metadata>(|previous| {
            previous.format == FORMAT && previous.roots == wanted_roots && previous.trust == trust
        })
        .map_err(ClosureLayerError::Layer)?;
    print::bullet("Closure");
    if let LayerState::Kept(previous) = state {
        print::sub_bullet(format!("Using the previous image's: {}", previous.content));
        return Ok(());
    }

    let known = match &state {
        LayerState::Empty { previous } => known(previous.as_ref(), &trust),
        LayerState::Kept(_) => Known::default(),
    };
    let closure = match fill(&layer.path, roots, known, open_caches) {
        Ok(closure) => closure,
        Err(error) => {
            // Whole or nothing; the first error is the one to tell.
            let _ = layer.remove();
            return Err(error);
        }
    };
    if config.debug {
        print_largest_files(&layer.path)?;
    }
    layer
        .write(&Metadata {
            format: FORMAT.to_string(),
            roots: wanted_roots,
            trust,
            content: format!(
                "{}, {}",
                paths(closure.paths.len()),
                bytes(closure.nar_size())
            ),
            paths: closure
                .paths
                .iter()
                .filter_map(|(path, info)| info.to_line(path))
                .collect(),
        })
        .map_err(ClosureLayerError::Layer)
}

fn fill(
    directory: &Path,
    roots: &[Root],
    mut known: Known,
    open_caches: impl FnOnce() -> Caches,
) -> Result<Closure, ClosureLayerError> {
    let timer = print::sub_start_timer("Asking the binary caches");
    let caches = open_caches();
    let root_paths: Vec<_> = roots.iter().map(|root| root.path.clone()).collect();
    known.facts.retain(|_, info| caches.upholds(info));
    let planned = caches.plan(&root_paths, &known);
    timer.done();
    let unusable: Vec<_> = caches.unusable().collect();
    let closure = planned.map_err(|misses| ClosureLayerError::Miss {
        misses,
        unusable: unusable.clone(),
    })?;
    for (cache, reason) in unusable {
        output::warning(&format!("{cache} was left out: {reason}."));
    }
    warn_unsigned(&closure);

    let timer = print::sub_start_timer(format!(
        "Downloading {}: {}, {} unpacked",
        paths(closure.paths.len()),
        bytes(closure.download_size()),
        bytes(closure.nar_size())
    ));
    let fetched = fetch(&closure, &caches, directory);
    timer.done();
    fetched.map_err(|error| ClosureLayerError::Fetch(Box::new(error)))?;

    let mut lines = String::new();
    for root in roots {
        lines.push_str(&root.path.to_absolute_path());
        lines.push('\n');
    }
    let roots_file = directory.join(ROOTS_FILE);
    fs::write(&roots_file, lines).map_err(|reason| {
        ClosureLayerError::Layer(LayerError {
            path: roots_file,
            reason,
        })
    })?;
    Ok(closure)
}

fn print_largest_files(directory: &Path) -> Result<(), ClosureLayerError> {
    let files = largest_files(directory, LARGEST_FILES).map_err(|reason| {
        ClosureLayerError::Layer(LayerError {
            path: directory.to_path_buf(),
            reason,
        })
    })?;
    print::bullet("Largest files, since NIX_DEBUG is set");
    for (size, path) in files {
        print::sub_bullet(format!("{}  {}", bytes(size), path.display()));
    }
    Ok(())
}

/// The policy under which paths were taken, as far as it decides which ones are.
fn trust(config: &Config) -> Vec<String> {
    let mut trust: Vec<String> = config
        .trust
        .keys
        .iter()
        .map(|key| format!("{}:{}", key.name, hex::encode(key.key.as_bytes())))
        .collect();
    if !config.trust.required {
        trust.push("unsigned".to_string());
    }
    for cache in config.caches.iter().filter(|cache| cache.trusted) {
        trust.push(cache.to_string());
    }
    trust
}

fn warn_unsigned(closure: &Closure) {
    let unsigned = || {
        let infos = closure.paths.values();
        infos.filter(|info| info.trust == Trust::Unsigned)
    };
    let count = unsigned().count();
    if count == 0 {
        return;
    }
    let mut from: Vec<String> = unsigned().map(|info| info.cache.clone()).collect();
    from.sort();
    from.dedup();
    output::warning(&format!(
        "{} from {} {} taken without a signature, since no public key was given: whoever \
         controls that binary cache, or the way to it, decides what runs in this image. Set \
         NIX_TRUSTED_PUBLIC_KEYS to the cache's public key.",
        paths(count),
        list(&from),
        if count == 1 { "was" } else { "were" },
    ));
}

/// What the previous image's metadata tells: facts where the same are trusted now, else guesses.
fn known(previous: Option<&Metadata>, trust: &[String]) -> Known {
    let Some(previous) = previous.filter(|previous| previous.format == FORMAT) else {
        return Known::default();
    };
    let lines = previous.paths.iter();
    let facts = lines.filter_map(|line| PathInfo::from_line(line)).collect();
    if previous.trust == trust {
        return Known {
            facts,
            guesses: Vec::new(),
        };
    }
    Known {
        guesses: facts.into_keys().collect(),
        facts: BTreeMap::new(),
    }
}
