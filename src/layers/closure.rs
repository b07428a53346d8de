//! The `closure` layer: every store path that the roots need, in the image alone.

use super::launch_layer::{LaunchLayer, LayerError, LayerState};
use crate::cache::Trust;
use crate::closure::Closure;
use crate::closure::fetch::{FetchError, fetch};
use crate::closure::path_info::PathInfo;
use crate::closure::plan::{Caches, Known, Miss};
use crate::closure::references::References;
use crate::closure::relocate::{DirectoryTooLong, Relocation};
use crate::closure::survey::{Obstacle, Survey};
use crate::config::Config;
use crate::launch::describe::{Contents, Store, contents, describe};
use crate::output::{self, bytes, list, paths};
use crate::report::{self, largest_files, print_largest_paths};
use crate::resolve::Root;
use bullet_stream::global::print;
use nix_derivation::StorePath;
use nix_hydra_start::engine::EngineSetting;
use nix_hydra_start::image;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const NAME: &str = "closure";

/// Raised whenever what the layer holds for the same roots changes its form.
const FORMAT: &str = "4";

/// How many files and store paths `NIX_DEBUG` lists, as the earlier buildpacks did.
const LARGEST: usize = 20;

/// Why there is no closure layer. What was written of it is removed.
#[derive(Debug)]
pub enum ClosureLayerError {
    /// Paths that no binary cache could give, and caches that could not be asked, with reasons.
    Miss {
        misses: Vec<Miss>,
        unusable: Vec<(String, String)>,
    },
    Fetch(Box<FetchError>),
    /// It was to be relocated, and cannot be.
    Relocation(NotRelocatable),
    Layer(LayerError),
}

/// Why a closure cannot be moved into its layer.
#[derive(Debug, PartialEq, Eq)]
pub enum NotRelocatable {
    /// The layer's directory has too long a name.
    DirectoryTooLong(PathBuf, DirectoryTooLong),
    /// These two paths would have the same place.
    SamePlace(Box<[StorePath; 2]>),
    /// These files would not work there.
    Obstacles(Vec<Obstacle>),
}

/// Whether the closure is relocated, or could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Relocated,
    /// As it is, though nothing stands against a relocation.
    Movable,
    /// As it is, since files stand against a relocation.
    Bound,
    /// As it is, and nobody asked.
    Unknown,
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
    /// The programs and compile hooks of the roots, as [`Contents`] has them.
    programs: Vec<String>,
    compile_hooks: Vec<String>,
    relocation: Verdict,
    /// What is said of it, and the patterns of files that were passed over for it.
    relocation_message: String,
    relocation_ignored: Vec<String>,
    /// What is known of every path, a [`PathInfo`] line each: the next build need not ask again.
    paths: Vec<String>,
}

/// What a build needs to know of a closure layer, whether it was filled or kept.
#[derive(Debug)]
pub struct ClosureLayer {
    pub contents: Contents,
    /// Whether the closure was moved into the layer, and needs no engine.
    pub is_relocated: bool,
}

/// A layer that was filled.
struct Filled {
    closure: Closure,
    relocation: Verdict,
    message: String,
    /// The roots as the app sees them.
    roots: Vec<String>,
}

/// Fills the layer with the closure of `roots`, unless the previous image has it already, and
/// answers what is in the roots. One with compile hooks, which run here, is always filled.
pub fn handle(
    layers_dir: &Path,
    roots: &[Root],
    config: &Config,
    open_caches: impl FnOnce() -> Caches,
) -> Result<ClosureLayer, ClosureLayerError> {
    let layer = LaunchLayer::new(layers_dir, NAME);
    let wanted_roots: Vec<String> = roots
        .iter()
        .map(|root| root.path.to_absolute_path())
        .collect();
    let trust = trust(config);
    let ignored: Vec<String> = config
        .relocate_ignore
        .iter()
        .map(|pattern| pattern.as_str().to_string())
        .collect();
    let state = layer
        .keep_if::<Metadata>(|previous| {
            previous.format == FORMAT
                && previous.roots == wanted_roots
                && previous.trust == trust
                && previous.compile_hooks.is_empty()
                && previous.relocation_ignored == ignored
                && previous.relocation.suits(config.engine)
        })
        .map_err(ClosureLayerError::Layer)?;
    print::bullet("Closure");
    if let LayerState::Kept(previous) = state {
        print::sub_bullet(format!("Using the previous image's: {}", previous.content));
        if !previous.relocation_message.is_empty() {
            print::sub_bullet(&previous.relocation_message);
        }
        // Where something of it is not known, the lifecycle has restored the SBOM.
        if let Some(closure) = known_closure(roots, &previous.paths) {
            report_on(layers_dir, &closure)?;
        }
        return Ok(ClosureLayer {
            contents: Contents {
                programs: previous.programs,
                compile_hooks: previous.compile_hooks,
            },
            is_relocated: previous.relocation == Verdict::Relocated,
        });
    }

    let known = match &state {
        LayerState::Empty { previous } => known(previous.as_ref(), &trust),
        LayerState::Kept(_) => Known::default(),
    };
    let filled = fill(&layer.path, roots, config, known, open_caches)
        .and_then(|filled| Ok((describe_to(&layer.path, &filled)?, filled)));
    let (contents, filled) = match filled {
        Ok(filled) => filled,
        Err(error) => {
            // Whole or nothing; the first error is the one to tell.
            let _ = layer.remove();
            return Err(error);
        }
    };
    if !filled.message.is_empty() {
        print::sub_bullet(&filled.message);
    }
    let closure = filled.closure;
    report_on(layers_dir, &closure)?;
    if config.debug {
        print_largest_paths(&closure, LARGEST);
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
            programs: contents.programs.clone(),
            compile_hooks: contents.compile_hooks.clone(),
            relocation: filled.relocation,
            relocation_message: filled.message,
            relocation_ignored: ignored,
            paths: closure
                .paths
                .iter()
                .filter_map(|(path, info)| info.to_line(path))
                .collect(),
        })
        .map_err(ClosureLayerError::Layer)?;
    Ok(ClosureLayer {
        contents,
        is_relocated: filled.relocation == Verdict::Relocated,
    })
}

impl Verdict {
    /// Whether a layer of which this was said is what `engine` asks for.
    fn suits(self, engine: EngineSetting) -> bool {
        match engine {
            EngineSetting::Relocate => self == Self::Relocated,
            EngineSetting::Auto => matches!(self, Self::Relocated | Self::Bound),
            EngineSetting::Unset | EngineSetting::Only(_) => self != Self::Relocated,
        }
    }
}

/// Writes what the start program needs to know of the closure, and answers what the build does.
fn describe_to(directory: &Path, filled: &Filled) -> Result<Contents, ClosureLayerError> {
    let file = directory.join(image::FILE);
    let store = match filled.relocation {
        Verdict::Relocated => Store::relocated(directory),
        _ => Store::in_place(directory),
    };
    describe(&store, &filled.roots)
        .and_then(|image| fs::write(&file, image.to_string()))
        .and_then(|()| report::write_members(directory, &filled.closure))
        .and_then(|()| contents(&store, &filled.roots))
        .map_err(|reason| ClosureLayerError::Layer(LayerError { path: file, reason }))
}

/// Writes the closure's bills of materials, and warns of what had better not be in it.
fn report_on(layers_dir: &Path, closure: &Closure) -> Result<(), ClosureLayerError> {
    report::warn_of_build_only(closure);
    report::sbom::write(layers_dir, NAME, closure).map_err(ClosureLayerError::Layer)
}

/// The closure of `roots` as a layer's metadata has it; nothing where a path is not known.
fn known_closure(roots: &[Root], lines: &[String]) -> Option<Closure> {
    let paths: BTreeMap<_, _> = lines
        .iter()
        .map(|line| PathInfo::from_line(line))
        .collect::<Option<_>>()?;
    let roots: Vec<_> = roots.iter().map(|root| root.path.clone()).collect();
    let needed = paths.values().flat_map(|info: &PathInfo| &info.references);
    let is_whole = needed.chain(&roots).all(|path| paths.contains_key(path));
    is_whole.then_some(Closure { roots, paths })
}

fn fill(
    directory: &Path,
    roots: &[Root],
    config: &Config,
    mut known: Known,
    open_caches: impl FnOnce() -> Caches,
) -> Result<Filled, ClosureLayerError> {
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

    let in_place = |relocation, message| Filled {
        roots: closure
            .roots
            .iter()
            .map(StorePath::to_absolute_path)
            .collect(),
        closure: closure.clone(),
        relocation,
        message,
    };
    let against = match config.engine {
        EngineSetting::Only(_) => {
            download(&closure, &caches, directory, None)?;
            return Ok(in_place(Verdict::Unknown, String::new()));
        }
        EngineSetting::Unset => {
            let references = References::new(closure.paths.keys(), None);
            let survey = download(&closure, &caches, directory, Some(&references))?;
            return Ok(match vouched(survey, config) {
                Ok(survey) => in_place(Verdict::Movable, output::movable(&survey)),
                Err(against) => in_place(Verdict::Bound, output::bound(&against)),
            });
        }
        EngineSetting::Relocate | EngineSetting::Auto => {
            match relocate(directory, config, &closure, &caches)? {
                Ok((relocation, survey)) => {
                    return Ok(Filled {
                        roots: closure
                            .roots
                            .iter()
                            .map(|root| relocation.place(&root.to_basename()))
                            .map(|place| place.display().to_string())
                            .collect(),
                        relocation: Verdict::Relocated,
                        message: output::relocated(&survey),
                        closure,
                    });
                }
                Err(against) => against,
            }
        }
    };
    if config.engine == EngineSetting::Relocate {
        return Err(ClosureLayerError::Relocation(against));
    }
    print::sub_bullet("It cannot be relocated, and is taken as it is");
    empty(directory).map_err(ClosureLayerError::Layer)?;
    download(&closure, &caches, directory, None)?;
    Ok(in_place(Verdict::Bound, output::bound(&against)))
}

/// Downloads the closure and moves it to `directory`, if nothing stands against that.
///
/// Where something does, `directory` may hold part of the closure.
fn relocate(
    directory: &Path,
    config: &Config,
    closure: &Closure,
    caches: &Caches,
) -> Result<Result<(Relocation, Survey), NotRelocatable>, ClosureLayerError> {
    let relocation = match relocation(directory, closure) {
        Ok(relocation) => relocation,
        Err(against) => return Ok(Err(against)),
    };
    let references = References::new(closure.paths.keys(), Some(relocation.clone()));
    let survey = download(closure, caches, directory, Some(&references))?;
    Ok(vouched(survey, config).map(|survey| (relocation, survey)))
}

fn relocation(directory: &Path, closure: &Closure) -> Result<Relocation, NotRelocatable> {
    let relocation = Relocation::new(directory)
        .map_err(|error| NotRelocatable::DirectoryTooLong(directory.to_path_buf(), error))?;
    let mut places = BTreeMap::new();
    for path in closure.paths.keys() {
        // A reference is known by the hash alone, so that alone must differ.
        let place = relocation.reference(path);
        if let Some(other) = places.insert(place, path) {
            return Err(NotRelocatable::SamePlace(Box::new([
                other.clone(),
                path.clone(),
            ])));
        }
    }
    Ok(relocation)
}

/// The survey, where nothing stands against a relocation but what the user vouches for.
fn vouched(mut survey: Survey, config: &Config) -> Result<Survey, NotRelocatable> {
    survey.obstacles.retain(|obstacle| {
        let mut patterns = config.relocate_ignore.iter();
        !patterns.any(|pattern| pattern.matches(&obstacle.file))
    });
    if survey.obstacles.is_empty() {
        Ok(survey)
    } else {
        Err(NotRelocatable::Obstacles(survey.obstacles))
    }
}

fn download(
    closure: &Closure,
    caches: &Caches,
    directory: &Path,
    references: Option<&References>,
) -> Result<Survey, ClosureLayerError> {
    let what = format!(
        "Downloading {}: {}, {} unpacked",
        paths(closure.paths.len()),
        bytes(closure.download_size()),
        bytes(closure.nar_size())
    );
    let fetched = output::downloading(&what, closure.download_size(), caches, || {
        fetch(closure, caches, directory, references)
    });
    fetched.map_err(|error| ClosureLayerError::Fetch(Box::new(error)))
}

/// Removes whatever is in the directory, but not itself.
fn empty(directory: &Path) -> Result<(), LayerError> {
    fs::remove_dir_all(directory)
        .and_then(|()| fs::create_dir(directory))
        .map_err(|reason| LayerError {
            path: directory.to_path_buf(),
            reason,
        })
}

fn print_largest_files(directory: &Path) -> Result<(), ClosureLayerError> {
    let files = largest_files(directory, LARGEST).map_err(|reason| {
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
