//! Whether a closure is relocated, or could be, as the closure layer's metadata keeps it.

use crate::config::Config;
use crate::log;
use closure::Closure;
use closure::relocate::blocker::{Blocker, NotRelocatable};
use closure::relocate::relocation::Relocation;
use nix_hydra_start::engine::EngineSetting;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Whether the closure is relocated, or could be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Relocatability {
    /// So many references were rewritten, in so many files.
    Relocated { references: usize, files: usize },
    /// As it is, though nothing prevents a relocation.
    Relocatable,
    /// As it is, since this prevents a relocation.
    NotRelocatable(NotRelocatable),
    /// As it is, and never checked.
    NotChecked,
}

impl Relocatability {
    pub(super) fn is_relocated(&self) -> bool {
        matches!(self, Self::Relocated { .. })
    }

    /// Whether such a layer will do for `engine`.
    pub(super) fn is_accepted_by(&self, engine: EngineSetting) -> bool {
        match engine {
            EngineSetting::Relocate => self.is_relocated(),
            EngineSetting::Auto => self.is_relocated() || matches!(self, Self::NotRelocatable(_)),
            EngineSetting::Unset | EngineSetting::Only(_) => !self.is_relocated(),
        }
    }

    /// The line of the log for it, if there is anything to say. A relocation is of no use where an engine
    /// is named, nor, with none named, where PRoot would not run the app.
    pub(super) fn message(&self, engine: EngineSetting) -> Option<String> {
        match engine {
            EngineSetting::Only(_) => return None,
            EngineSetting::Unset if !would_need_proot() => return None,
            EngineSetting::Unset | EngineSetting::Auto | EngineSetting::Relocate => {}
        }
        match self {
            Self::Relocated { references, files } => Some(log::relocated(*files, *references)),
            Self::Relocatable => Some(log::RELOCATABLE.to_string()),
            Self::NotRelocatable(reason) => Some(log::not_relocatable(reason)),
            Self::NotChecked => None,
        }
    }
}

/// Whether PRoot would run the app in a container like this one, which refuses namespaces. A process of
/// its own tries that, since this one has threads; an image without `unshare` is taken for such a container.
fn would_need_proot() -> bool {
    let mut unshare = Command::new("unshare");
    let tried = unshare.args(["--user", "--mount", "--", "true"]).output();
    !tried.is_ok_and(|output| output.status.success())
}

/// A relocation to `directory`, where every path has a place of its own.
pub(super) fn relocation(
    directory: &Path,
    closure: &Closure,
) -> Result<Relocation, NotRelocatable> {
    let relocation = Relocation::new(directory)
        .map_err(|error| NotRelocatable::DirectoryTooLong(directory.to_path_buf(), error))?;
    let mut places = BTreeMap::new();
    for path in closure.paths.keys() {
        // A reference is known by the hash alone, so that alone must differ.
        let place = relocation.reference(path);
        if let Some(other) = places.insert(place, path) {
            return Err(NotRelocatable::SamePlace(
                other.to_string(),
                path.to_string(),
            ));
        }
    }
    Ok(relocation)
}

/// The files that the user vouches for, where nothing else prevents a relocation.
pub(super) fn vouched(
    blockers: Vec<Blocker>,
    config: &Config,
) -> Result<BTreeSet<String>, NotRelocatable> {
    let (vouched, blockers): (Vec<_>, Vec<_>) = blockers.into_iter().partition(|blocker| {
        let mut patterns = config.relocate_ignore.iter();
        patterns.any(|pattern| pattern.matches(&blocker.file))
    });
    if blockers.is_empty() {
        Ok(vouched.into_iter().map(|blocker| blocker.file).collect())
    } else {
        Err(NotRelocatable::Blockers(blockers))
    }
}
