//! Checks that what is deployed is for the image's processor, by the programs of the roots.
//!
//! The system that a binary cache names does not decide: a package may be built on one processor for
//! another.

use super::download::Filled;
use crate::log;
use binary_cache::NarSource;
use closure::Closure;
use nix_derivation::StorePath;
use nix_hydra_start::executable::Machine;

/// A root whose programs the image's processor does not run.
#[derive(Debug, thiserror::Error)]
#[error("{root} is for {programs}, and the image for {image}")]
pub struct WrongProcessor {
    pub root: StorePath,
    pub programs: Machine,
    pub image: Machine,
}

/// Checks the roots whose programs are here. Those in layers that are kept were checked when these
/// were filled, for the same processor.
pub(super) fn check(filled: &Filled, image: Machine) -> Result<(), WrongProcessor> {
    for root in &filled.plan.closure.roots {
        let programs = filled.stores.machines(&filled.plan, root);
        if let Some(programs) = image.foreign_among(&programs) {
            return Err(WrongProcessor {
                root: root.clone(),
                programs,
                image,
            });
        }
        if programs.is_empty() {
            warn_of_system(filled.plan.closure, root, image);
        }
    }
    Ok(())
}

/// Warns of a root whose programs tell nothing, if the binary cache says that it was built for another
/// processor.
fn warn_of_system(closure: &Closure, root: &StorePath, image: Machine) {
    let source = closure
        .paths
        .get(root)
        .and_then(|info| info.source.as_ref());
    let Some(NarSource {
        system: Some(system),
        ..
    }) = source
    else {
        return;
    };
    let processor = system.split('-').next().and_then(Machine::named);
    if processor.is_some_and(|processor| !image.runs(processor)) {
        log::warning(&format!(
            "{root} was built for {system}, and the image is for {image}-linux. No program of it shows \
             whether it depends on that."
        ));
    }
}
