//! Looks up the closure of the roots, and says what is odd about it.

use super::ClosureLayerError;
use crate::config::Config;
use crate::layers::launch_layer::LayerError;
use crate::log;
use crate::root::Root;
use binary_cache::{Caches, PathInfo, Trust, Unusable};
use bullet_stream::global::print;
use closure::Closure;
use closure::plan::Previous;
use closure::prefetch::Prefetch;
use closure::relocate::references::ScanFor;
use nix_derivation::StorePath;
use nix_hydra_start::engine::EngineSetting;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;
use words::{list, paths};

/// A closure, and where it comes from.
pub(super) struct Planned {
    pub closure: Closure,
    pub caches: Arc<Caches>,
    /// The caches that cannot be used, with the reason.
    pub left_out: Vec<Unusable>,
    pub prefetch: Option<Prefetch>,
}

/// Looks up the whole closure, and checks it against its budget. Paths that are certain to be needed, and
/// need not be rewritten, are downloaded meanwhile into the new directory `waiting`, if there is one, until
/// they have a layer.
pub(super) fn plan(
    roots: &[Root],
    mut previous: Previous,
    config: &Config,
    waiting: Option<&Path>,
    open_caches: impl FnOnce() -> Caches,
) -> Result<Planned, ClosureLayerError> {
    let timer = print::sub_start_timer("Asking the binary caches");
    let caches = Arc::new(open_caches());
    let root_paths: Vec<_> = roots.iter().map(|root| root.path.clone()).collect();
    previous.verified.retain(|path, info| {
        let is_trusted = info.is_still_trusted();
        if !is_trusted {
            previous.likely.push(path.clone());
        }
        is_trusted
    });
    let scan_for = match config.engine {
        EngineSetting::Unset => Some(ScanFor::Declared),
        EngineSetting::Only(_) => Some(ScanFor::Nothing),
        // Where references lead depends on the whole closure.
        EngineSetting::Relocate | EngineSetting::Auto => None,
    };
    let prefetch = waiting.zip(scan_for).map(|(waiting, scan_for)| {
        Prefetch::begin(Arc::clone(&caches), waiting, scan_for).map_err(LayerError::at(waiting))
    });
    let prefetch = prefetch.transpose()?;
    let planned = closure::plan::plan(&caches, &root_paths, &previous, |path, info| {
        if let Some(prefetch) = &prefetch {
            prefetch.add(path, info);
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
    config.budget.check(&closure)?;
    Ok(Planned {
        closure,
        caches,
        left_out,
        prefetch,
    })
}

/// The closure of `roots` as the layers' metadata has it; `None` where a path is not known.
pub(super) fn known_closure(
    roots: &[Root],
    verified: &BTreeMap<StorePath, PathInfo>,
) -> Option<Closure> {
    let roots: Vec<_> = roots.iter().map(|root| root.path.clone()).collect();
    let mut paths = BTreeMap::new();
    let mut waiting = roots.clone();
    while let Some(path) = waiting.pop() {
        if let Entry::Vacant(place) = paths.entry(path) {
            let info = verified.get(place.key())?;
            waiting.extend(info.references.iter().cloned());
            place.insert(info.clone());
        }
    }
    Some(Closure { roots, paths })
}

/// The trust settings, as far as they decide which paths are taken.
pub(super) fn trust(config: &Config) -> Vec<String> {
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

pub(super) fn warn_of_left_out(caches: impl Iterator<Item = Unusable>) {
    for Unusable { cache, reason } in caches {
        log::warning(&format!("{cache} was left out: {reason}."));
    }
}

/// Warns of paths that no key vouches for, in each build that deploys them.
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
