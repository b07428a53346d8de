//! The `closure` layer: what leads to every store path that the roots need, in whichever layer it is.

use super::launch_layer::{LaunchLayer, LayerError};
use super::store_paths::{FillError, Filled, Looking, Plan, Source, StoreLayers};
use crate::config::Config;
use crate::layers::describe::{Contents, contents, describe};
use crate::log::{self, bytes};
use crate::report::budget::OverBudget;
use crate::report::{self, largest_files, print_largest_paths};
use crate::root::Root;
use binary_cache::{Caches, PathInfo, Trust, Unusable};
use bullet_stream::global::print;
use closure::Closure;
use closure::fetch::FetchError;
use closure::plan::{Known, Miss, plan_telling};
use closure::prefetch::Early;
use closure::relocate::references::Sought;
use closure::relocate::relocatability::{NotRelocatable, Survey};
use closure::relocate::relocation::Relocation;
use nix_derivation::StorePath;
use nix_hydra_start::engine::EngineSetting;
use nix_hydra_start::image;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use words::{list, paths};

const NAME: &str = "closure";

/// Raised whenever what this layer or those with the store paths hold changes its form.
const FORMAT: &str = "7";

/// How many store paths `PRoot` gets a binding for. Each costs every look-up of a path about a
/// four-hundredth more; a link costs those through it nearly half more: see `docs/performance.md`.
const MAX_BOUND: usize = 40;

/// How many files and store paths `NIX_DEBUG` lists, as the earlier buildpacks did.
const LARGEST: usize = 20;

/// Why there is no closure layer. What was written of it is removed.
#[derive(Debug, thiserror::Error)]
pub enum ClosureLayerError {
    /// Paths that no binary cache could give, and caches that could not be asked, with reasons.
    #[error("no binary cache has every store path")]
    Miss {
        misses: Vec<Miss>,
        unusable: Vec<Unusable>,
    },
    #[error(transparent)]
    Fetch(#[from] Box<FetchError>),
    /// It was to be relocated, and cannot be.
    #[error(transparent)]
    Relocation(#[from] NotRelocatable),
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    #[error(transparent)]
    Layer(#[from] LayerError),
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
    open_caches: impl Fn() -> Caches,
) -> Result<ClosureLayer, ClosureLayerError> {
    let layer = LaunchLayer::new(layers_dir, NAME);
    let ignored = config.relocate_ignore.iter();
    let had_layer = layer.is_declared();
    let previous: Option<Metadata> = layer.take().map_err(ClosureLayerError::Layer)?;
    let previous = previous.filter(|previous| previous.format == FORMAT);
    let stores =
        StoreLayers::take(layers_dir, previous.is_some()).map_err(ClosureLayerError::Layer)?;
    let order = Order {
        layers_dir,
        layer,
        roots,
        wanted_roots: roots
            .iter()
            .map(|root| root.path.to_absolute_path())
            .collect(),
        config,
        trust: trust(config),
        ignored: ignored.map(|pattern| pattern.as_str().into()).collect(),
        afresh: afresh(had_layer, previous.as_ref(), config.engine),
        previous,
        stores,
    };
    print::bullet("Closure");
    if let Some(kept) = order.keep()? {
        return Ok(kept);
    }
    let known = order.known();
    let facts: BTreeSet<StorePath> = known.facts.keys().cloned().collect();
    match order.carry_out(known, &open_caches) {
        // It was built again since, and came to something else: then so may have any other.
        Err(ClosureLayerError::Fetch(error))
            if error.reason.may_be_another() && facts.contains(&error.path) =>
        {
            log::sub_bullet(format!(
                "{} is no longer what the previous image says of it: asking for everything again",
                error.path
            ));
            let guesses = Known {
                guesses: facts.into_iter().collect(),
                ..Known::default()
            };
            order.carry_out(guesses, &open_caches)
        }
        result => result,
    }
}

/// All that decides what is in the layers, and what there is of them already.
struct Order<'a> {
    layers_dir: &'a Path,
    layer: LaunchLayer,
    roots: &'a [Root],
    wanted_roots: Vec<String>,
    config: &'a Config,
    trust: Vec<String>,
    /// The patterns of files that are passed over when it is asked what stands against a relocation.
    ignored: Vec<String>,
    /// Why nothing of the previous image can be kept, if that is so.
    afresh: Option<&'static str>,
    previous: Option<Metadata>,
    stores: StoreLayers,
}

impl Order<'_> {
    /// Keeps all that the previous image has, where it is what is asked for, and says what that is.
    fn keep(&self) -> Result<Option<ClosureLayer>, ClosureLayerError> {
        let previous = self.previous.as_ref().filter(|previous| {
            previous.roots == self.wanted_roots
                && previous.trust == self.trust
                && previous.compile_hooks.is_empty()
                && previous.relocation_ignored == self.ignored
                && previous.relocation.suits(self.config.engine)
        });
        let Some(previous) = previous else {
            return Ok(None);
        };
        let kept = self.stores.keep(&previous.layers);
        if !kept.map_err(ClosureLayerError::Layer)? {
            return Ok(None);
        }
        let written = self.layer.write(previous);
        written.map_err(ClosureLayerError::Layer)?;
        log::sub_bullet(format!("Using the previous image's: {}", previous.content));
        if !previous.relocation_message.is_empty() {
            log::sub_bullet(&previous.relocation_message);
        }
        // Where something of it is not known, the lifecycle has restored the SBOM.
        if let Some(closure) = known_closure(self.roots, &self.stores.facts()) {
            self.config.budget.check(&closure)?;
            report_on(self.layers_dir, &closure)?;
            // The largest files are in layers that are not here.
            if self.config.debug {
                print_largest_paths(&closure, LARGEST);
            }
        }
        Ok(Some(ClosureLayer {
            contents: Contents {
                programs: previous.programs.clone(),
                compile_hooks: previous.compile_hooks.clone(),
            },
            is_relocated: previous.relocation == Verdict::Relocated,
        }))
    }

    /// What the previous image's metadata tells: facts where the same are trusted now, else guesses.
    fn known(&self) -> Known {
        let facts = self.stores.facts();
        let previous = self.previous.as_ref();
        if previous.is_some_and(|previous| previous.trust == self.trust) {
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

    /// The closure of the previous image, if its metadata has all of it.
    fn previous_closure(&self) -> Option<Closure> {
        let roots = self.previous.as_ref()?.roots.iter();
        let roots: Option<Vec<Root>> = roots
            .map(|root| Some(Root::from_path(root.parse().ok()?)))
            .collect();
        known_closure(&roots?, &self.stores.facts())
    }

    /// Declares the previous image's layers again after a failure: a later build with other roots is to
    /// find them.
    fn put_back(&self) -> Result<(), ClosureLayerError> {
        let Some(previous) = &self.previous else {
            return Ok(());
        };
        let put_back = self.stores.put_back();
        put_back
            .and_then(|()| self.layer.write(previous))
            .map_err(ClosureLayerError::Layer)
    }

    fn carry_out(
        &self,
        known: Known,
        open_caches: impl FnOnce() -> Caches,
    ) -> Result<ClosureLayer, ClosureLayerError> {
        let layer = &self.layer;
        // What is known may be in a layer that is kept, and is then not to be fetched.
        let waiting = self.stores.are_new().then_some(layer.path.as_path());
        let planned = plan(self.roots, known, self.config.engine, waiting, open_caches);
        if planned.is_err() {
            self.put_back()?;
        }
        let Planned {
            closure,
            caches,
            left_out,
            early,
        } = planned?;
        if let Err(over) = self.config.budget.check(&closure) {
            self.put_back()?;
            return Err(over.into());
        }
        if let Some(afresh) = self.afresh {
            log::sub_bullet(format!("Starting afresh: {afresh}"));
        }
        let work = Work {
            layers_dir: self.layers_dir,
            directory: &layer.path,
            config: self.config,
            closure: &closure,
            caches: &caches,
            stores: &self.stores,
        };
        let made = match work.fill(early).and_then(|made| {
            work.finish(layer, &made)?;
            Ok(made)
        }) {
            Ok(made) => made,
            Err(error) => {
                // Whole or nothing; the first error is the one to tell.
                let _ = layer.remove();
                let _ = self
                    .stores
                    .remove(&Plan::new(&closure, self.layers_dir, Looking::Not));
                return Err(error);
            }
        };
        if !made.message.is_empty() {
            log::sub_bullet(&made.message);
        }
        warn_of_left_out(caches.unusable().filter(|cache| !left_out.contains(cache)));
        if let Some(before) = self.previous_closure() {
            report::print_changes(&before, &closure);
        }
        report_on(self.layers_dir, &closure)?;
        if self.config.debug {
            print_largest_paths(&closure, LARGEST);
            print_largest_files(self.layers_dir, &made.filled.fresh)?;
        }
        layer
            .write(&Metadata {
                format: FORMAT.to_string(),
                roots: self.wanted_roots.clone(),
                trust: self.trust.clone(),
                content: format!(
                    "{}, {}",
                    paths(closure.paths.len()),
                    bytes(closure.nar_size())
                ),
                programs: made.contents.programs.clone(),
                compile_hooks: made.contents.compile_hooks.clone(),
                relocation: made.verdict,
                relocation_message: made.message,
                relocation_ignored: self.ignored.clone(),
                layers: made.filled.names(),
            })
            .map_err(ClosureLayerError::Layer)?;
        Ok(ClosureLayer {
            contents: made.contents,
            is_relocated: made.verdict == Verdict::Relocated,
        })
    }
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

/// Why nothing of the previous image can be kept; nothing where some of it may be.
fn afresh(
    had_layer: bool,
    previous: Option<&Metadata>,
    engine: EngineSetting,
) -> Option<&'static str> {
    match previous {
        None if had_layer => Some("the previous image is of another version of this buildpack"),
        None => Some("there is no previous image, or the platform was told to clear what it keeps"),
        Some(previous) if !previous.relocation.suits(engine) => {
            Some("the previous image is for another engine")
        }
        Some(_) => None,
    }
}

/// Writes the closure's bills of materials, and warns of what had better not be in it.
fn report_on(layers_dir: &Path, closure: &Closure) -> Result<(), ClosureLayerError> {
    report::warn_of_build_only(closure);
    write_sboms(layers_dir, closure).map_err(ClosureLayerError::Layer)
}

/// The closure of `roots` as the layers' metadata has it; nothing where a path is not known.
fn known_closure(roots: &[Root], facts: &BTreeMap<StorePath, PathInfo>) -> Option<Closure> {
    let roots: Vec<_> = roots.iter().map(|root| root.path.clone()).collect();
    let mut paths = BTreeMap::new();
    let mut waiting = roots.clone();
    while let Some(path) = waiting.pop() {
        if let Entry::Vacant(place) = paths.entry(path) {
            let info = facts.get(place.key())?;
            waiting.extend(info.references.iter().cloned());
            place.insert(info.clone());
        }
    }
    Some(Closure { roots, paths })
}

/// A closure of which all is known, and where it comes from.
struct Planned {
    closure: Closure,
    caches: Arc<Caches>,
    /// The caches that cannot be used, with the reason.
    left_out: Vec<Unusable>,
    early: Option<Early>,
}

/// Asks for the whole closure, and says what is odd about it. What is needed for certain, and need
/// not be rewritten, is fetched meanwhile, where it may be; until it has a layer it is in the new
/// directory `waiting`.
fn plan(
    roots: &[Root],
    mut known: Known,
    engine: EngineSetting,
    waiting: Option<&Path>,
    open_caches: impl FnOnce() -> Caches,
) -> Result<Planned, ClosureLayerError> {
    let timer = print::sub_start_timer("Asking the binary caches");
    let caches = Arc::new(open_caches());
    let root_paths: Vec<_> = roots.iter().map(|root| root.path.clone()).collect();
    known.facts.retain(|path, info| {
        let is_trusted = info.is_still_trusted();
        if !is_trusted {
            known.guesses.push(path.clone());
        }
        is_trusted
    });
    let sought = match engine {
        EngineSetting::Unset => Some(Sought::Declared),
        EngineSetting::Only(_) => Some(Sought::Nothing),
        // Where references lead depends on the whole closure.
        EngineSetting::Relocate | EngineSetting::Auto => None,
    };
    let early = waiting.zip(sought).map(|(waiting, sought)| {
        Early::begin(Arc::clone(&caches), waiting, sought).map_err(|reason| {
            ClosureLayerError::Layer(LayerError {
                path: waiting.to_path_buf(),
                reason,
            })
        })
    });
    let early = early.transpose()?;
    let planned = plan_telling(&caches, &root_paths, &known, |path, info| {
        if let Some(early) = &early {
            early.want(path, info);
        }
    });
    timer.done();
    let left_out: Vec<_> = caches.unusable().collect();
    let closure = planned.map_err(|misses| ClosureLayerError::Miss {
        misses,
        unusable: left_out.clone(),
    })?;
    warn_of_left_out(left_out.iter().cloned());
    warn_unsigned(&closure, &caches);
    Ok(Planned {
        closure,
        caches,
        left_out,
        early,
    })
}

fn warn_of_left_out(caches: impl Iterator<Item = Unusable>) {
    for Unusable { cache, reason } in caches {
        log::warning(&format!("{cache} was left out: {reason}."));
    }
}

/// What filling the layers needs to know.
struct Work<'a> {
    layers_dir: &'a Path,
    /// The closure layer's directory, where a relocated closure's references lead.
    directory: &'a Path,
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
    fn fill(&self, early: Option<Early>) -> Result<Made<'a>, ClosureLayerError> {
        let against = match self.config.engine {
            EngineSetting::Only(_) => {
                let plan = self.plan(Looking::Not);
                let filled = self.download(&plan, early)?;
                return Ok(Made::new(plan, filled, Verdict::Unknown, String::new()));
            }
            EngineSetting::Unset => {
                let plan = self.plan(Looking::Only);
                let filled = self.download(&plan, early)?;
                let survey = filled.survey.clone();
                let (verdict, message) = match survey.map(|survey| vouched(survey, self.config)) {
                    Some(Ok(survey)) => (Verdict::Movable, log::movable(&survey)),
                    Some(Err(against)) => (Verdict::Bound, log::bound(&against)),
                    // Layers are kept in which nobody has looked.
                    None => (Verdict::Unknown, String::new()),
                };
                return Ok(Made::new(plan, filled, verdict, message));
            }
            EngineSetting::Relocate | EngineSetting::Auto => match self.relocate()? {
                Ok(made) => return Ok(made),
                Err(against) => against,
            },
        };
        if self.config.engine == EngineSetting::Relocate {
            return Err(ClosureLayerError::Relocation(against));
        }
        log::sub_bullet("It cannot be relocated, and is taken as it is");
        // What was found is kept, so that the next build need not try again.
        let plan = self.plan(Looking::Only);
        let filled = self.download(&plan, None)?;
        let message = log::bound(&against);
        Ok(Made::new(plan, filled, Verdict::Bound, message))
    }

    fn plan(&self, references: Looking) -> Plan<'a> {
        Plan::new(self.closure, self.layers_dir, references)
    }

    /// Downloads the closure and moves it to its layers, if nothing stands against that.
    ///
    /// Where something does, the layers may hold parts of the closure. What an earlier build found
    /// counts too where it may be taken as it is, so that it is not downloaded twice each time.
    fn relocate(&self) -> Result<Result<Made<'a>, NotRelocatable>, ClosureLayerError> {
        if self.config.engine == EngineSetting::Auto {
            let earlier = Survey {
                obstacles: self.stores.obstacles(self.closure),
                ..Survey::default()
            };
            if let Err(against) = vouched(earlier, self.config) {
                return Ok(Err(against));
            }
        }
        let relocation = match relocation(self.directory, self.closure) {
            Ok(relocation) => relocation,
            Err(against) => return Ok(Err(against)),
        };
        let plan = self.plan(Looking::Moving(relocation));
        let filled = self.download(&plan, None)?;
        let survey = filled.survey.clone().unwrap_or_default();
        Ok(vouched(survey, self.config).map(|survey| {
            let message = log::relocated(&survey);
            Made::new(plan, filled, Verdict::Relocated, message)
        }))
    }

    /// Fills the layers of `plan` that the previous image does not have.
    fn download(&self, plan: &Plan, early: Option<Early>) -> Result<Filled, ClosureLayerError> {
        let kept = self.stores.reusable(plan);
        let filled = self.download_all_but(plan, &kept, early)?;
        // Hooks run here, and with all that they need.
        let hooks = contents(&filled.seen, &seen_roots(plan)).compile_hooks;
        if hooks.is_empty() || kept.is_empty() {
            return Ok(filled);
        }
        self.download_all_but(plan, &BTreeSet::new(), None)
    }

    fn download_all_but(
        &self,
        plan: &Plan,
        kept: &BTreeSet<String>,
        early: Option<Early>,
    ) -> Result<Filled, ClosureLayerError> {
        let is_kept = |path: &StorePath| {
            let layer = plan.placement.places.get(path);
            layer.is_some_and(|layer| kept.contains(layer))
        };
        let all = plan.closure.paths.iter();
        let (old, new): (Vec<_>, Vec<_>) = all.partition(|(path, _)| is_kept(path));
        let size = |paths: &[(&StorePath, &PathInfo)]| -> u64 {
            let sizes = paths.iter().map(|(_, info)| info.nar_size);
            sizes.fold(0, u64::saturating_add)
        };
        if !old.is_empty() {
            log::sub_bullet(format!(
                "Keeping the previous image's {}, {}",
                paths(old.len()),
                bytes(size(&old))
            ));
        }
        let before: Vec<u64> = match early {
            Some(_) => Vec::new(),
            None => self.caches.received().map(|(_, count)| count).collect(),
        };
        let source = Source {
            caches: self.caches,
            early,
        };
        let fill = || self.stores.fill(plan, kept, source);
        let filled = if new.is_empty() {
            fill()
        } else {
            let sizes = new.iter().map(|(_, info)| info.download_size());
            let total = sizes.fold(0, u64::saturating_add);
            report::warn_of_space(self.layers_dir, size(&new));
            let what = format!(
                "Downloading {}: {}, {} unpacked",
                paths(new.len()),
                bytes(total),
                bytes(size(&new))
            );
            super::progress::downloading(&what, total, self.caches, &before, fill)
        };
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

/// Writes what the start program needs to know of the closure, and a link to each store path, by the
/// name under which the app sees it.
fn lead_to(directory: &Path, made: &Made) -> io::Result<()> {
    let plan = &made.plan;
    for path in plan.closure.paths.keys() {
        if let Some(name) = plan.seen_at(path).file_name() {
            symlink(plan.place(path), directory.join(name))?;
        }
    }
    let bound = match made.verdict {
        Verdict::Relocated => Vec::new(),
        _ => bound(plan, &made.filled.leaving),
    };
    let image = describe(&made.filled.seen, &made.roots, bound);
    fs::write(directory.join(image::FILE), image.to_string())?;
    report::write_members(directory, plan.closure)
}

/// The places of the paths that an engine had better not reach by a link: those that must find others
/// beside them, however many, then the roots and the largest.
fn bound(plan: &Plan, leaving: &BTreeSet<String>) -> Vec<PathBuf> {
    let must = |path: &StorePath| leaving.contains(&path.to_basename());
    let mut all: Vec<(&StorePath, &PathInfo)> = plan.closure.paths.iter().collect();
    all.sort_by_key(|(path, info)| {
        let is_root = plan.closure.roots.contains(path);
        Reverse((must(path), is_root, info.nar_size))
    });
    let paths = all.into_iter().map(|(path, _)| path).enumerate();
    paths
        .take_while(|(index, path)| *index < MAX_BOUND || must(path))
        .map(|(_, path)| plan.place(path))
        .collect()
}

/// A relocation to `directory`, where every path has a place of its own.
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

fn print_largest_files(
    layers_dir: &Path,
    layers: &BTreeSet<String>,
) -> Result<(), ClosureLayerError> {
    let mut files = Vec::new();
    for name in layers {
        let path = layers_dir.join(name);
        let found = largest_files(&path, LARGEST)
            .map_err(|reason| ClosureLayerError::Layer(LayerError { path, reason }))?;
        files.extend(found);
    }
    files.sort_by(|(one_size, one), (other_size, other)| {
        other_size.cmp(one_size).then_with(|| one.cmp(other))
    });
    print::bullet("Largest files of what was downloaded, since NIX_DEBUG is set");
    for (size, path) in files.into_iter().take(LARGEST) {
        log::sub_bullet(format!("{}  {}", bytes(size), path.display()));
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
    let must_sign = config.caches.iter().filter(|cache| cache.must_sign);
    trust.extend(must_sign.map(|cache| format!("{cache} signed")));
    trust
}

fn warn_unsigned(closure: &Closure, caches: &Caches) {
    let unsigned = || {
        let infos = closure.paths.values();
        infos.filter(|info| info.trust == Trust::Unsigned)
    };
    let count = unsigned().count();
    if count == 0 {
        return;
    }
    let mut from: Vec<String> = unsigned().filter_map(|info| caches.name_of(info)).collect();
    from.sort();
    from.dedup();
    log::warning(&format!(
        "{} from {} {} taken without a signature, since no public key was given: whoever \
         controls that binary cache, or the way to it, decides what runs in this image. Set \
         NIX_TRUSTED_PUBLIC_KEYS to the cache's public key.",
        paths(count),
        list(&from),
        if count == 1 { "was" } else { "were" },
    ));
}

/// Writes the bills of materials beside the layer's directory, as the lifecycle expects them.
fn write_sboms(layers_dir: &Path, closure: &Closure) -> Result<(), LayerError> {
    let at = |format: &str| layers_dir.join(format!("{NAME}.sbom.{format}.json"));
    let documents = report::sbom::documents(closure).map_err(|reason| LayerError {
        path: at("cdx"),
        reason,
    })?;
    for (format, document) in documents {
        let path = at(format);
        fs::write(&path, document).map_err(|reason| LayerError { path, reason })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix_hydra_start::engine::Engine;

    fn previous(relocation: Verdict) -> Metadata {
        Metadata {
            format: FORMAT.to_string(),
            roots: Vec::new(),
            trust: Vec::new(),
            content: String::new(),
            programs: Vec::new(),
            compile_hooks: Vec::new(),
            relocation,
            relocation_message: String::new(),
            relocation_ignored: Vec::new(),
            layers: Vec::new(),
        }
    }

    #[test]
    fn a_build_that_can_keep_nothing_says_why() {
        let said = |had_layer, verdict: Option<Verdict>, engine| {
            afresh(had_layer, verdict.map(previous).as_ref(), engine)
        };
        let none = "there is no previous image, or the platform was told to clear what it keeps";
        let version = "the previous image is of another version of this buildpack";
        let engine = "the previous image is for another engine";
        let proot = EngineSetting::Only(Engine::PRoot);
        for (had_layer, verdict, setting, expected) in [
            (false, None, EngineSetting::Unset, Some(none)),
            (true, None, EngineSetting::Unset, Some(version)),
            (
                true,
                Some(Verdict::Movable),
                EngineSetting::Relocate,
                Some(engine),
            ),
            (
                true,
                Some(Verdict::Movable),
                EngineSetting::Auto,
                Some(engine),
            ),
            (true, Some(Verdict::Relocated), proot, Some(engine)),
            (true, Some(Verdict::Bound), EngineSetting::Auto, None),
            (true, Some(Verdict::Relocated), EngineSetting::Auto, None),
            (true, Some(Verdict::Unknown), EngineSetting::Unset, None),
        ] {
            assert_eq!(
                said(had_layer, verdict, setting),
                expected,
                "{verdict:?} {setting:?}"
            );
        }
    }
}
