//! The `closure` layer: what leads to every store path that the roots need, in whichever layer it is.
//!
//! A build reuses the previous image's layers if they are up to date. Else it looks up the closure
//! ([`planned`]), downloads what is new ([`download`]), checks that it is for the image's processor
//! ([`processor`]), writes the links ([`links`]) and the metadata.

mod download;
mod links;
mod metadata;
mod planned;
pub mod processor;
mod relocatability;

use self::download::{Download, Filled};
use self::metadata::{FORMAT, Metadata, closure_of};
pub use self::metadata::{previous, recall};
use self::planned::{Planned, known_closure, plan, trust, warn_of_left_out};
use self::processor::WrongProcessor;
use self::relocatability::{Relocatability, relocation};
use super::launch_layer::{LaunchLayer, LayerError};
use super::store_paths::{FillError, Plan, StoreLayers};
use crate::config::Config;
use crate::layers::describe::Contents;
use crate::layers::memo::{Key, Memo};
use crate::log::{self, bytes};
use crate::report::budget::OverBudget;
use crate::report::{self, print_formats, print_largest_files, print_largest_paths};
use crate::root::Root;
use binary_cache::{Caches, Trust, Unusable};
use closure::Closure;
use closure::fetch::FetchError;
use closure::plan::{Miss, Previous};
use closure::relocate::blocker::NotRelocatable;
use nix_derivation::StorePath;
use nix_hydra_start::engine::EngineSetting;
use nix_hydra_start::executable::Machine;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use words::paths;

const NAME: &str = "closure";

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
    WrongProcessor(#[from] WrongProcessor),
    #[error(transparent)]
    Layer(#[from] LayerError),
}

impl From<FillError> for ClosureLayerError {
    fn from(error: FillError) -> Self {
        match error {
            FillError::Fetch(error) => Self::Fetch(error),
            FillError::Layer(error) => Self::Layer(error),
        }
    }
}

/// What a build needs to know of a closure layer, whether it was filled or kept.
#[derive(Debug)]
pub struct ClosureLayer {
    pub contents: Contents,
    /// Whether the closure was moved into the layer, and needs no engine.
    pub is_relocated: bool,
    pub moved: Moved,
    /// What changed since the previous image's closure, in lines of the log; empty if it is the same, or
    /// not known.
    pub changes: Vec<String>,
}

/// How large a closure is, and what a build had to move of it, in bytes.
#[derive(Debug, Default)]
pub struct Moved {
    pub paths: usize,
    pub size: u64,
    pub downloaded: u64,
    /// The layers with store paths that the previous image does not have, and their store paths' bytes.
    pub layers: usize,
    pub new: u64,
}

/// What the layers are to hold.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub roots: &'a [Root],
    /// The key by which the next build recognises the same evaluation.
    pub memo: Option<&'a Key>,
    /// The image's processor.
    pub machine: Machine,
}

/// Fills the layers with the closure of the roots, except for those that the previous image has already.
/// Returns what is in the roots. One with compile hooks, which run here, is always filled.
pub fn handle(
    layers_dir: &Path,
    target: Target,
    config: &Config,
    open_caches: impl Fn() -> Caches,
) -> Result<ClosureLayer, ClosureLayerError> {
    let build = ClosureBuild::new(layers_dir, target, config)?;
    if let Some(kept) = build.reuse()? {
        return Ok(kept);
    }
    let previous = build.previous_paths();
    let verified: Vec<StorePath> = previous.verified.keys().cloned().collect();
    match build.run(previous, &open_caches) {
        // It was built again since, with another result: then so may have been any other.
        Err(ClosureLayerError::Fetch(error))
            if error.reason.may_be_another() && verified.contains(&error.path) =>
        {
            log::sub_bullet(format!(
                "{} is no longer what the previous image says of it: asking for everything again",
                error.path
            ));
            build.run(Previous::likely(verified), &open_caches)
        }
        // Nix would take the other build. What depends on it must be planned with it.
        Err(ClosureLayerError::Fetch(error)) if error.has_other_build && error.cache.is_some() => {
            let cache = error.cache.clone().unwrap_or_default();
            log::sub_bullet(format!(
                "{} cannot be had from {cache}, but another binary cache has its own build of it: asking \
                 {cache} last",
                error.path
            ));
            build.run(Previous::likely(verified), || {
                let mut caches = open_caches();
                caches.ask_last(&cache);
                caches
            })
        }
        result => result,
    }
}

/// Looks up the closure of `roots`, and checks what can be checked of it without its content: all that
/// [`handle`] does before it downloads. Also returns the caches.
pub fn look_up(
    layers_dir: &Path,
    roots: &[Root],
    config: &Config,
    open_caches: impl FnOnce() -> Caches,
) -> Result<(Closure, Arc<Caches>), ClosureLayerError> {
    let planned = plan(roots, Previous::default(), config, None, open_caches)?;
    if config.engine == EngineSetting::Relocate {
        relocation(&layers_dir.join(NAME), &planned.closure)?;
    }
    report::warn_of_build_only(&planned.closure);
    Ok((planned.closure, planned.caches))
}

/// All that decides what is in the layers, and what there is of them already.
struct ClosureBuild<'a> {
    layers_dir: &'a Path,
    layer: LaunchLayer,
    roots: &'a [Root],
    machine: Machine,
    memo: Option<Memo>,
    config: &'a Config,
    /// Why nothing of the previous image can be kept, if that is so.
    afresh: Option<&'static str>,
    previous: Option<Metadata>,
    stores: StoreLayers,
}

impl<'a> ClosureBuild<'a> {
    fn new(
        layers_dir: &'a Path,
        target: Target<'a>,
        config: &'a Config,
    ) -> Result<Self, ClosureLayerError> {
        let layer = LaunchLayer::new(layers_dir, NAME);
        let had_layer = layer.is_declared();
        let previous: Option<Metadata> = layer.take()?;
        let previous = previous.filter(|previous| {
            previous.format == FORMAT && previous.machine == target.machine.to_string()
        });
        let stores = StoreLayers::take(layers_dir, previous.is_some())?;
        let relocation = previous.as_ref().map(|previous| &previous.relocation);
        Ok(Self {
            layers_dir,
            layer,
            roots: target.roots,
            machine: target.machine,
            memo: target.memo.map(|key| Memo::new(key, target.roots)),
            config,
            afresh: afresh(had_layer, relocation, config.engine),
            previous,
            stores,
        })
    }

    /// Keeps all of the previous image's layers, if they are up to date, and says what they hold.
    fn reuse(&self) -> Result<Option<ClosureLayer>, ClosureLayerError> {
        let Some(previous) = self
            .previous
            .as_ref()
            .filter(|previous| self.is_up_to_date(previous))
        else {
            return Ok(None);
        };
        // What nothing vouches for is only taken of a cache that has it now, with a warning in each build.
        // The caches that are trusted, and what was built here, are among the trust settings.
        let known = known_closure(self.roots, &self.stores.verified());
        let Some(closure) = known.filter(|closure| {
            let mut infos = closure.paths.values();
            infos.all(|info| info.trust != Trust::Unsigned)
        }) else {
            return Ok(None);
        };
        self.config.budget.check(&closure)?;
        if !self.stores.keep(&previous.layers)? {
            return Ok(None);
        }
        self.layer.write(&Metadata {
            memo: self.memo.clone(),
            ..previous.clone()
        })?;
        log::sub_bullet(format!(
            "Using the previous image's: {}, {}",
            paths(closure.paths.len()),
            bytes(closure.nar_size()),
        ));
        // What it could be was said when it was deployed first.
        if self.config.engine != EngineSetting::Unset
            && let Some(message) = previous.relocation.message(self.config.engine)
        {
            log::sub_bullet(message);
        }
        self.report_on(&closure)?;
        // The largest files are in layers that are not here.
        if self.config.debug {
            print_largest_paths(&closure, LARGEST);
            print_formats(&self.stores.formats(&previous.layers));
        }
        Ok(Some(ClosureLayer {
            contents: previous.contents.clone(),
            is_relocated: previous.relocation.is_relocated(),
            moved: Moved {
                paths: closure.paths.len(),
                size: closure.nar_size(),
                ..Moved::default()
            },
            changes: Vec::new(),
        }))
    }

    fn is_up_to_date(&self, previous: &Metadata) -> bool {
        previous.roots == self.root_names()
            && previous.trust == trust(self.config)
            && previous.contents.compile_hooks.is_empty()
            && previous.relocation_ignored == self.ignored()
            && previous.relocation.is_accepted_by(self.config.engine)
    }

    fn root_names(&self) -> Vec<String> {
        let roots = self.roots.iter();
        roots.map(|root| root.path.to_absolute_path()).collect()
    }

    /// The patterns of files that the user vouches for.
    fn ignored(&self) -> Vec<String> {
        let patterns = self.config.relocate_ignore.iter();
        patterns.map(|pattern| pattern.as_str().into()).collect()
    }

    /// What the previous image's metadata says: verified under the same trust settings, else only likely.
    fn previous_paths(&self) -> Previous {
        let verified = self.stores.verified();
        let previous = self.previous.as_ref();
        if previous.is_some_and(|previous| previous.trust == trust(self.config)) {
            return Previous {
                verified,
                likely: Vec::new(),
            };
        }
        Previous::likely(verified.into_keys().collect())
    }

    /// Plans, downloads, and writes the links and the metadata.
    fn run(
        &self,
        previous: Previous,
        open_caches: impl FnOnce() -> Caches,
    ) -> Result<ClosureLayer, ClosureLayerError> {
        let mut undo = Undo::new(self);
        // What is known may be in a layer that is kept, and is then not to be fetched. A closure that has
        // limits is downloaded once it is known to keep to them.
        let is_early = self.stores.are_new() && !self.config.budget.is_set();
        let waiting = is_early.then_some(self.layer.path.as_path());
        // Content comes while it is planned.
        let free = report::free_space(self.layers_dir);
        let planned = plan(self.roots, previous, self.config, waiting, open_caches)?;
        undo.remove_all = true;
        if let Some(afresh) = self.afresh {
            log::sub_bullet(format!("Starting afresh: {afresh}"));
        }
        let Planned {
            closure,
            caches,
            left_out,
            prefetch,
        } = planned;
        let download = Download {
            layers_dir: self.layers_dir,
            directory: &self.layer.path,
            free,
            config: self.config,
            closure: &closure,
            caches: &caches,
            stores: &self.stores,
        };
        let filled = download.run(prefetch)?;
        processor::check(&filled, self.machine)?;
        self.layer.create()?;
        links::write_links(&self.layer.path, &filled).map_err(LayerError::at(&self.layer.path))?;
        self.stores.write(&filled.stores)?;
        if let Some(message) = filled.relocatability.message(self.config.engine) {
            log::sub_bullet(message);
        }
        warn_of_left_out(caches.unusable().filter(|cache| !left_out.contains(cache)));
        self.report_on(&closure)?;
        if self.config.debug {
            print_largest_paths(&closure, LARGEST);
            if let Some(report) = &filled.stores.report {
                print_formats(&report.formats);
            }
            print_largest_files(self.layers_dir, &filled.stores.fresh, LARGEST)
                .map_err(|(path, reason)| LayerError { path, reason })?;
        }
        self.layer.write(&self.metadata(&filled))?;
        undo.is_done = true;
        let before = self.previous.as_ref();
        let before = before.and_then(|previous| closure_of(previous, &self.stores));
        let changes = before.map(|before| report::changes(&before, &closure));
        let changes = changes.unwrap_or_default();
        let moved = self.moved(&filled.plan, &caches);
        Ok(ClosureLayer {
            contents: filled.contents,
            is_relocated: filled.relocatability.is_relocated(),
            moved,
            changes,
        })
    }

    /// What of a closure is new to the previous image.
    fn moved(&self, plan: &Plan, caches: &Caches) -> Moved {
        let kept = self.stores.reusable(plan);
        let layers = plan.placement.layers.iter();
        let new: Vec<_> = layers.filter(|(name, _)| !kept.contains(*name)).collect();
        let paths = new.iter().flat_map(|(_, paths)| *paths);
        let sizes = paths.filter_map(|path| Some(plan.closure.paths.get(path)?.nar_size));
        Moved {
            paths: plan.closure.paths.len(),
            size: plan.closure.nar_size(),
            downloaded: caches.received().map(|(_, count)| count).sum(),
            layers: new.len(),
            new: sizes.fold(0, u64::saturating_add),
        }
    }

    fn metadata(&self, filled: &Filled) -> Metadata {
        Metadata {
            format: FORMAT.to_string(),
            machine: self.machine.to_string(),
            roots: self.root_names(),
            trust: trust(self.config),
            contents: filled.contents.clone(),
            relocation: filled.relocatability.clone(),
            relocation_ignored: self.ignored(),
            layers: filled.stores.names(),
            memo: self.memo.clone(),
        }
    }

    /// Writes the closure's bills of materials, and warns of what should rather not be in it.
    fn report_on(&self, closure: &Closure) -> Result<(), LayerError> {
        report::warn_of_build_only(closure);
        write_sboms(self.layers_dir, closure)
    }
}

/// Writes the bills of materials beside the layer's directory, as the lifecycle expects them.
fn write_sboms(layers_dir: &Path, closure: &Closure) -> Result<(), LayerError> {
    let at = |format: &str| layers_dir.join(format!("{NAME}.sbom.{format}.json"));
    let documents = report::sbom::documents(closure).map_err(LayerError::at(at("cdx")))?;
    for (format, document) in documents {
        fs::write(at(format), document).map_err(LayerError::at(at(format)))?;
    }
    Ok(())
}

/// Undoes a build that fails, on drop: the image's layers are whole or as they were.
struct Undo<'a> {
    build: &'a ClosureBuild<'a>,
    /// Whether layers may have been written to. Until then the previous image's are put back, for the
    /// next build with other roots, built meanwhile.
    remove_all: bool,
    is_done: bool,
}

impl<'a> Undo<'a> {
    fn new(build: &'a ClosureBuild<'a>) -> Self {
        Self {
            build,
            remove_all: false,
            is_done: false,
        }
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let ClosureBuild { layer, stores, .. } = self.build;
        // The error that ended the build is the one to report.
        let _ = match &self.build.previous {
            _ if self.is_done => Ok(()),
            _ if self.remove_all => layer.remove().and_then(|()| stores.remove()),
            Some(previous) => stores.put_back().and_then(|()| layer.write(previous)),
            None => Ok(()),
        };
    }
}

/// Why nothing of the previous image can be kept; `None` where some of it may be.
fn afresh(
    had_layer: bool,
    previous: Option<&Relocatability>,
    engine: EngineSetting,
) -> Option<&'static str> {
    match previous {
        None if had_layer => Some(
            "the previous image is of another version of this buildpack, or for another processor",
        ),
        None => Some("there is no previous image, or the platform was told to clear what it keeps"),
        Some(previous) if !previous.is_accepted_by(engine) => {
            Some("the previous image is for another engine")
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Relocatability::{NotChecked, Relocatable};
    use super::*;
    use nix_hydra_start::engine::Engine;

    #[test]
    fn a_build_that_can_keep_nothing_says_why() {
        let none = "there is no previous image, or the platform was told to clear what it keeps";
        let version =
            "the previous image is of another version of this buildpack, or for another processor";
        let engine = "the previous image is for another engine";
        let proot = EngineSetting::Only(Engine::PRoot);
        let auto = EngineSetting::Auto;
        let relocated = Relocatability::Relocated {
            references: 2,
            files: 1,
        };
        let not_relocatable = Relocatability::NotRelocatable(NotRelocatable::Blockers(Vec::new()));
        for (had_layer, previous, setting, expected) in [
            (false, None, EngineSetting::Unset, Some(none)),
            (true, None, EngineSetting::Unset, Some(version)),
            (
                true,
                Some(&Relocatable),
                EngineSetting::Relocate,
                Some(engine),
            ),
            (true, Some(&Relocatable), auto, Some(engine)),
            (true, Some(&relocated), proot, Some(engine)),
            (true, Some(&not_relocatable), auto, None),
            (true, Some(&relocated), auto, None),
            (true, Some(&NotChecked), EngineSetting::Unset, None),
        ] {
            assert_eq!(
                afresh(had_layer, previous, setting),
                expected,
                "{previous:?} {setting:?}"
            );
        }
    }
}
