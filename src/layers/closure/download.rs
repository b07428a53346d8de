//! Fills the layers with store paths, as the engine needs them.

use super::ClosureLayerError;
use super::relocatability::{Relocatability, relocation, vouched};
use crate::config::Config;
use crate::layers::describe::{Contents, contents};
use crate::layers::progress;
use crate::layers::store_paths::{FilledStores, Plan, References, Source, StoreLayers};
use crate::log::{self, bytes};
use crate::report;
use binary_cache::{Caches, PathInfo};
use closure::Closure;
use closure::prefetch::Prefetch;
use closure::relocate::blocker::NotRelocatable;
use nix_derivation::StorePath;
use nix_hydra_start::engine::EngineSetting;
use std::collections::BTreeSet;
use std::path::Path;
use words::paths;

/// The download of a closure into its layers.
pub(super) struct Download<'a> {
    pub layers_dir: &'a Path,
    /// The bytes that were free there before anything was downloaded.
    pub free: Option<u64>,
    /// The closure layer's directory, where a relocated closure's references lead.
    pub directory: &'a Path,
    pub config: &'a Config,
    pub closure: &'a Closure,
    pub caches: &'a Caches,
    pub stores: &'a StoreLayers,
}

/// Layers that are filled, but not declared.
pub(super) struct Filled<'a> {
    pub plan: Plan<'a>,
    pub stores: FilledStores,
    pub relocatability: Relocatability,
    pub contents: Contents,
    /// The roots as the app sees them.
    pub roots: Vec<String>,
    /// Files of a relocated closure that may still name store paths, as the user vouches.
    pub vouched: BTreeSet<String>,
}

impl<'a> Filled<'a> {
    fn new(plan: Plan<'a>, stores: FilledStores, relocatability: Relocatability) -> Self {
        let roots = seen_roots(&plan);
        Self {
            contents: contents(&stores.seen, &roots),
            roots,
            plan,
            stores,
            relocatability,
            vouched: BTreeSet::new(),
        }
    }
}

impl<'a> Download<'a> {
    /// Fills the layers as the engine needs them.
    pub(super) fn run(&self, prefetch: Option<Prefetch>) -> Result<Filled<'a>, ClosureLayerError> {
        match self.config.engine {
            EngineSetting::Only(_) => self.as_it_is(References::Ignore, prefetch),
            EngineSetting::Unset => self.as_it_is(References::Count, prefetch),
            EngineSetting::Relocate => self.relocate()?.map_err(ClosureLayerError::Relocation),
            EngineSetting::Auto => match self.relocate_unless_known()? {
                Ok(filled) => Ok(filled),
                Err(reason) => self.fall_back(reason),
            },
        }
    }

    fn as_it_is(
        &self,
        references: References,
        prefetch: Option<Prefetch>,
    ) -> Result<Filled<'a>, ClosureLayerError> {
        let plan = self.plan(references);
        let stores = self.fill(&plan, prefetch)?;
        let relocatability = match &stores.report {
            Some(report) => match vouched(report.blockers.clone(), self.config) {
                Ok(_) => Relocatability::Relocatable,
                Err(reason) => Relocatability::NotRelocatable(reason),
            },
            // References were ignored, or are in a layer that is kept.
            None => Relocatability::NotChecked,
        };
        Ok(Filled::new(plan, stores, relocatability))
    }

    fn fall_back(&self, reason: NotRelocatable) -> Result<Filled<'a>, ClosureLayerError> {
        log::sub_bullet("It cannot be relocated, and is taken as it is");
        // The layers keep what was found, so that the next build need not try again.
        let mut filled = self.as_it_is(References::Count, None)?;
        filled.relocatability = Relocatability::NotRelocatable(reason);
        Ok(filled)
    }

    /// Relocates the closure, unless an earlier build has found something that prevents it: then it is
    /// not downloaded twice each time.
    fn relocate_unless_known(
        &self,
    ) -> Result<Result<Filled<'a>, NotRelocatable>, ClosureLayerError> {
        match vouched(self.stores.blockers(self.closure), self.config) {
            Ok(_) => self.relocate(),
            Err(reason) => Ok(Err(reason)),
        }
    }

    /// Downloads the closure and relocates it to its layers, if nothing prevents that. Where something
    /// does, the layers may hold parts of the closure.
    fn relocate(&self) -> Result<Result<Filled<'a>, NotRelocatable>, ClosureLayerError> {
        let relocation = match relocation(self.directory, self.closure) {
            Ok(relocation) => relocation,
            Err(reason) => return Ok(Err(reason)),
        };
        let plan = self.plan(References::Rewrite(relocation));
        let stores = self.fill(&plan, None)?;
        let report = stores.report.clone().unwrap_or_default();
        Ok(
            vouched(report.blockers.clone(), self.config).map(|vouched| {
                let relocatability = Relocatability::Relocated {
                    references: report.references,
                    files: report.files,
                };
                Filled {
                    vouched,
                    ..Filled::new(plan, stores, relocatability)
                }
            }),
        )
    }

    fn plan(&self, references: References) -> Plan<'a> {
        Plan::new(self.closure, self.layers_dir, references)
    }

    /// Fills the layers of `plan` that the previous image does not have.
    fn fill(
        &self,
        plan: &Plan,
        prefetch: Option<Prefetch>,
    ) -> Result<FilledStores, ClosureLayerError> {
        let kept = self.stores.reusable(plan);
        let filled = self.fill_all_but(plan, &kept, prefetch)?;
        // Compile hooks run here, and with all that they need.
        let hooks = contents(&filled.seen, &seen_roots(plan)).compile_hooks;
        if hooks.is_empty() || kept.is_empty() {
            return Ok(filled);
        }
        self.fill_all_but(plan, &BTreeSet::new(), None)
    }

    fn fill_all_but(
        &self,
        plan: &Plan,
        kept: &BTreeSet<String>,
        prefetch: Option<Prefetch>,
    ) -> Result<FilledStores, ClosureLayerError> {
        let is_kept = |path: &StorePath| {
            let layer = plan.placement.places.get(path);
            layer.is_some_and(|layer| kept.contains(layer))
        };
        let all = plan.closure.paths.iter();
        let (old, new): (Vec<_>, Vec<_>) = all.partition(|(path, _)| is_kept(path));
        if !old.is_empty() {
            log::sub_bullet(format!(
                "Keeping the previous image's {}, {}",
                paths(old.len()),
                bytes(sum(&old, |info| info.nar_size))
            ));
        }
        let before: Vec<u64> = match prefetch {
            Some(_) => Vec::new(),
            None => self.caches.received().map(|(_, count)| count).collect(),
        };
        let source = Source {
            caches: self.caches,
            prefetch,
        };
        let fill = || self.stores.fill(plan, kept, source);
        let filled = if new.is_empty() {
            fill()
        } else {
            let total = sum(&new, PathInfo::download_size);
            report::warn_of_space(self.layers_dir, self.free, sum(&new, |info| info.nar_size));
            let what = format!(
                "Downloading {}: {}, {} unpacked",
                paths(new.len()),
                bytes(total),
                bytes(sum(&new, |info| info.nar_size))
            );
            progress::downloading(&what, total, self.caches, &before, fill)
        };
        Ok(filled?)
    }
}

fn sum(paths: &[(&StorePath, &PathInfo)], size: impl Fn(&PathInfo) -> u64) -> u64 {
    let sizes = paths.iter().map(|(_, info)| size(info));
    sizes.fold(0, u64::saturating_add)
}

/// The roots as the app sees them.
fn seen_roots(plan: &Plan) -> Vec<String> {
    let roots = plan.closure.roots.iter();
    roots
        .map(|root| plan.seen_at(root).display().to_string())
        .collect()
}
