//! The `closure` layer: what leads to every store path that the roots need, in whichever layer it is.

use super::launch_layer::{LaunchLayer, LayerError};
use super::store_paths::{FillError, Filled, Plan, StoreLayers};
use crate::cache::Trust;
use crate::closure::Closure;
use crate::closure::fetch::FetchError;
use crate::closure::path_info::PathInfo;
use crate::closure::plan::{Caches, Known, Miss};
use crate::closure::relocate::{DirectoryTooLong, Relocation};
use crate::closure::survey::{Obstacle, Survey};
use crate::config::Config;
use crate::launch::describe::{Contents, contents, describe};
use crate::output::{self, bytes, list, paths};
use crate::report::largest_files;
use crate::resolve::Root;
use bullet_stream::global::print;
use nix_derivation::StorePath;
use nix_hydra_start::engine::EngineSetting;
use nix_hydra_start::image;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Raised whenever what the layer holds for the same roots changes its form.
const FORMAT: &str = "4";

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
    /// The layers in which the store paths are.
    layers: Vec<String>,
}

/// What a build needs to know of a closure layer, whether it was filled or kept.
#[derive(Debug)]
pub struct ClosureLayer {
    pub contents: Contents,
    /// Whether the closure was moved into the layer, and needs no engine.
    pub is_relocated: bool,
}

/// Fills the layers with the closure of `roots`, but for what the previous image has already, and
/// answers what is in the roots. One with compile hooks, which run here, is always filled.
pub fn handle(
    layers_dir: &Path,
    roots: &[Root],
    config: &Config,
    open_caches: impl FnOnce() -> Caches,
) -> Result<ClosureLayer, ClosureLayerError> {
    let layer = LaunchLayer::new(layers_dir, "closure");
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
    let is_known = layer.is_declared();
    let previous: Option<Metadata> = layer.take().map_err(ClosureLayerError::Layer)?;
    let previous = previous.filter(|previous| previous.format == FORMAT);
    let stores = StoreLayers::take(layers_dir).map_err(ClosureLayerError::Layer)?;
    print::bullet("Closure");
    if let Some(previous) = &previous
        && previous.roots == wanted_roots
        && previous.trust == trust
        && previous.compile_hooks.is_empty()
        && previous.relocation_ignored == ignored
        && previous.relocation.suits(config.engine)
        && stores
            .keep(&previous.layers)
            .map_err(ClosureLayerError::Layer)?
    {
        layer.write(previous).map_err(ClosureLayerError::Layer)?;
        print::sub_bullet(format!("Using the previous image's: {}", previous.content));
        if !previous.relocation_message.is_empty() {
            print::sub_bullet(&previous.relocation_message);
        }
        return Ok(ClosureLayer {
            contents: Contents {
                programs: previous.programs.clone(),
                compile_hooks: previous.compile_hooks.clone(),
            },
            is_relocated: previous.relocation == Verdict::Relocated,
        });
    }

    match &previous {
        None if is_known => {
            print::sub_bullet("Starting afresh: the previous image is of another version of this");
        }
        Some(previous) if !previous.relocation.may_suit(config.engine) => {
            print::sub_bullet("Starting afresh: the previous image is for another engine");
        }
        _ => {}
    }
    let known = known(
        &stores,
        previous.is_some_and(|previous| previous.trust == trust),
    );
    let (closure, caches) = plan(roots, known, open_caches)?;
    let work = Work {
        layers_dir,
        config,
        closure: &closure,
        caches: &caches,
        stores: &stores,
    };
    let made = match work.fill().and_then(|made| {
        work.finish(&layer, &made)?;
        Ok(made)
    }) {
        Ok(made) => made,
        Err(error) => {
            // Whole or nothing; the first error is the one to tell.
            let _ = layer.remove();
            let _ = stores.remove(&Plan::in_place(&closure, layers_dir));
            return Err(error);
        }
    };
    if !made.message.is_empty() {
        print::sub_bullet(&made.message);
    }
    if config.debug {
        print_largest_files(layers_dir, &made.filled.fresh)?;
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
            programs: made.contents.programs.clone(),
            compile_hooks: made.contents.compile_hooks.clone(),
            relocation: made.verdict,
            relocation_message: made.message,
            relocation_ignored: ignored,
            layers: made.filled.names(),
        })
        .map_err(ClosureLayerError::Layer)?;
    Ok(ClosureLayer {
        contents: made.contents,
        is_relocated: made.verdict == Verdict::Relocated,
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

    /// Whether layers of another closure of which this was said may be among what is asked for.
    fn may_suit(self, engine: EngineSetting) -> bool {
        match engine {
            EngineSetting::Relocate => self == Self::Relocated,
            EngineSetting::Auto => true,
            EngineSetting::Unset | EngineSetting::Only(_) => self != Self::Relocated,
        }
    }
}

/// Asks for the whole closure, and says what is odd about it.
fn plan(
    roots: &[Root],
    mut known: Known,
    open_caches: impl FnOnce() -> Caches,
) -> Result<(Closure, Caches), ClosureLayerError> {
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
    Ok((closure, caches))
}

/// What filling the layers needs to know.
struct Work<'a> {
    layers_dir: &'a Path,
    config: &'a Config,
    closure: &'a Closure,
    caches: &'a Caches,
    stores: &'a StoreLayers,
}

/// Layers that are filled, but not declared.
struct Made<'a> {
    plan: Plan<'a>,
    filled: Filled,
    verdict: Verdict,
    message: String,
    contents: Contents,
    /// The roots as the app sees them.
    roots: Vec<String>,
}

impl<'a> Made<'a> {
    fn new(plan: Plan<'a>, filled: Filled, verdict: Verdict, message: String) -> Self {
        let roots = seen_roots(&plan);
        Self {
            contents: contents(&filled.seen, &roots),
            roots,
            plan,
            filled,
            verdict,
            message,
        }
    }
}

impl<'a> Work<'a> {
    /// Fills the layers as the engine wants them.
    fn fill(&self) -> Result<Made<'a>, ClosureLayerError> {
        let engine = self.config.engine;
        let mut against = None;
        if matches!(engine, EngineSetting::Relocate | EngineSetting::Auto) {
            match self.relocate(engine == EngineSetting::Auto)? {
                Ok((plan, filled)) => {
                    let message = output::relocated(&filled.survey);
                    return Ok(Made::new(plan, filled, Verdict::Relocated, message));
                }
                Err(reason) if engine == EngineSetting::Relocate => {
                    return Err(ClosureLayerError::Relocation(reason));
                }
                Err(reason) => against = Some(reason),
            }
            print::sub_bullet("It cannot be relocated, and is taken as it is");
        }
        let plan = Plan::in_place(self.closure, self.layers_dir);
        let filled = self.download(&plan)?;
        let against = match against {
            Some(against) => Err(against),
            None => relocations(&plan, self.layers_dir)
                .and_then(|_| vouched(filled.survey.clone(), self.config)),
        };
        let (verdict, message) = match against {
            Ok(survey) => (Verdict::Movable, output::movable(&survey)),
            Err(against) => (Verdict::Bound, output::bound(&against)),
        };
        let message = match engine {
            EngineSetting::Only(_) => String::new(),
            _ => message,
        };
        Ok(Made::new(plan, filled, verdict, message))
    }

    /// Downloads the closure and moves it to its layers, if nothing stands against that.
    ///
    /// Where something does, the layers may hold parts of the closure. What an earlier build found
    /// counts too where it may be taken as it is, so that it is not downloaded twice each time.
    fn relocate(
        &self,
        or_not: bool,
    ) -> Result<Result<(Plan<'a>, Filled), NotRelocatable>, ClosureLayerError> {
        if or_not {
            let earlier = Survey {
                obstacles: self.stores.obstacles(self.closure),
                ..Survey::default()
            };
            if let Err(against) = vouched(earlier, self.config) {
                return Ok(Err(against));
            }
        }
        let plan = Plan::in_place(self.closure, self.layers_dir);
        let relocations = match relocations(&plan, self.layers_dir) {
            Ok(relocations) => relocations,
            Err(against) => return Ok(Err(against)),
        };
        let plan = plan.relocated(relocations);
        let mut filled = self.download(&plan)?;
        match vouched(filled.survey.clone(), self.config) {
            Ok(survey) => {
                filled.survey = survey;
                Ok(Ok((plan, filled)))
            }
            Err(against) => Ok(Err(against)),
        }
    }

    /// Fills the layers of `plan` that the previous image does not have.
    fn download(&self, plan: &Plan) -> Result<Filled, ClosureLayerError> {
        let kept = self.stores.reusable(plan);
        let filled = self.download_all_but(plan, &kept)?;
        // Hooks run here, and with all that they need.
        if kept.is_empty()
            || contents(&filled.seen, &seen_roots(plan))
                .compile_hooks
                .is_empty()
        {
            return Ok(filled);
        }
        self.download_all_but(plan, &BTreeSet::new())
    }

    fn download_all_but(
        &self,
        plan: &Plan,
        kept: &BTreeSet<String>,
    ) -> Result<Filled, ClosureLayerError> {
        let is_kept = |path: &StorePath| {
            let layer = plan.placement.places.get(path);
            layer.is_some_and(|layer| kept.contains(layer))
        };
        let all = plan.closure.paths.iter();
        let (old, new): (Vec<_>, Vec<_>) = all.partition(|(path, _)| is_kept(path));
        let size = |paths: &[(&StorePath, &PathInfo)]| -> u64 {
            paths.iter().map(|(_, info)| info.nar_size).sum()
        };
        if !old.is_empty() {
            print::sub_bullet(format!(
                "Keeping the previous image's {}, {}",
                paths(old.len()),
                bytes(size(&old))
            ));
        }
        let timer = (!new.is_empty()).then(|| {
            print::sub_start_timer(format!(
                "Downloading {}: {}, {} unpacked",
                paths(new.len()),
                bytes(new.iter().map(|(_, info)| info.download_size()).sum()),
                bytes(size(&new))
            ))
        });
        let filled = self.stores.fill(plan, kept, self.caches);
        if let Some(timer) = timer {
            timer.done();
        }
        filled.map_err(|error| match error {
            FillError::Fetch(error) => ClosureLayerError::Fetch(error),
            FillError::Layer(error) => ClosureLayerError::Layer(error),
        })
    }

    /// Declares the layers, and fills the closure layer with what leads to them.
    fn finish(&self, layer: &LaunchLayer, made: &Made) -> Result<(), ClosureLayerError> {
        layer.create().map_err(ClosureLayerError::Layer)?;
        lead_to(&layer.path, made).map_err(|reason| {
            ClosureLayerError::Layer(LayerError {
                path: layer.path.clone(),
                reason,
            })
        })?;
        self.stores
            .write(&made.filled)
            .map_err(ClosureLayerError::Layer)
    }
}

/// The roots as the app sees them.
fn seen_roots(plan: &Plan) -> Vec<String> {
    let roots = plan.closure.roots.iter();
    roots
        .map(|root| plan.seen_at(root).display().to_string())
        .collect()
}

/// Writes what the start program needs to know of the closure, and links to its paths, through which
/// it appears in one directory.
fn lead_to(directory: &Path, made: &Made) -> io::Result<()> {
    let mut bound = Vec::new();
    if made.verdict != Verdict::Relocated {
        let links = directory.join(image::LINKS);
        fs::create_dir(&links)?;
        for path in made.plan.closure.paths.keys() {
            symlink(made.plan.place(path), links.join(path.to_basename()))?;
        }
        let own = made.plan.placement.own.iter();
        bound = own.map(|path| made.plan.place(path)).collect();
    }
    let image = describe(&made.filled.seen, &made.roots, bound);
    fs::write(directory.join(image::FILE), image.to_string())
}

/// A relocation to each layer of `plan`, where every path has a place of its own.
fn relocations(
    plan: &Plan,
    layers_dir: &Path,
) -> Result<BTreeMap<String, Relocation>, NotRelocatable> {
    let mut relocations = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (name, paths) in &plan.placement.layers {
        let directory = layers_dir.join(name);
        let relocation = Relocation::new(&directory)
            .map_err(|error| NotRelocatable::DirectoryTooLong(directory, error))?;
        for path in paths {
            // A reference is known by the hash alone, so that alone must differ.
            let place = relocation.reference(path);
            if let Some(other) = places.insert(place, path) {
                return Err(NotRelocatable::SamePlace(Box::new([
                    other.clone(),
                    path.clone(),
                ])));
            }
        }
        relocations.insert(name.clone(), relocation);
    }
    Ok(relocations)
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

fn print_largest_files(
    layers_dir: &Path,
    layers: &BTreeSet<String>,
) -> Result<(), ClosureLayerError> {
    let mut files = Vec::new();
    for name in layers {
        let path = layers_dir.join(name);
        let found = largest_files(&path, LARGEST_FILES)
            .map_err(|reason| ClosureLayerError::Layer(LayerError { path, reason }))?;
        files.extend(found);
    }
    files.sort_by(|(one_size, one), (other_size, other)| {
        other_size.cmp(one_size).then_with(|| one.cmp(other))
    });
    print::bullet("Largest files of what was downloaded, since NIX_DEBUG is set");
    for (size, path) in files.into_iter().take(LARGEST_FILES) {
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
fn known(stores: &StoreLayers, same_trust: bool) -> Known {
    let facts: BTreeMap<StorePath, PathInfo> = stores.facts().collect();
    if same_trust {
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
