//! Whether a closure is relocated, or could be, as the closure layer's metadata keeps it.

use crate::config::Config;
use crate::log;
use closure::Closure;
use closure::relocate::blocker::{Blocker, NotRelocatable};
use closure::relocate::relocation::Relocation;
use closure::relocate::report::RelocationReport;
use nix_hydra_start::engine::EngineSetting;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Whether the closure is relocated, or could be, with the counts and reasons.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Relocatability {
    pub verdict: Verdict,
    /// Counts of what was rewritten, or would be: strings, as all of a layer's metadata.
    files: String,
    references: String,
    /// What prevents a relocation, as [`NotRelocatable::to_lines`] has it.
    reasons: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    Relocated,
    /// As it is, though nothing prevents a relocation.
    Relocatable,
    /// As it is, since something prevents a relocation.
    NotRelocatable,
    /// As it is, and never checked.
    NotChecked,
}

impl Verdict {
    /// Whether a layer with this verdict will do for `engine`.
    pub(super) fn is_accepted_by(self, engine: EngineSetting) -> bool {
        match engine {
            EngineSetting::Relocate => self == Self::Relocated,
            EngineSetting::Auto => matches!(self, Self::Relocated | Self::NotRelocatable),
            EngineSetting::Unset | EngineSetting::Only(_) => self != Self::Relocated,
        }
    }
}

impl Relocatability {
    pub(super) fn not_checked() -> Self {
        Self::new(Verdict::NotChecked, 0, 0)
    }

    pub(super) fn relocated(report: &RelocationReport) -> Self {
        Self::new(Verdict::Relocated, report.files, report.references)
    }

    pub(super) fn relocatable(report: &RelocationReport) -> Self {
        Self::new(Verdict::Relocatable, report.files, report.references)
    }

    pub(super) fn not_relocatable(reason: &NotRelocatable) -> Self {
        Self {
            reasons: reason.to_lines(),
            ..Self::new(Verdict::NotRelocatable, 0, 0)
        }
    }

    fn new(verdict: Verdict, files: usize, references: usize) -> Self {
        Self {
            verdict,
            files: files.to_string(),
            references: references.to_string(),
            reasons: Vec::new(),
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
        let count = |text: &str| text.parse().unwrap_or_default();
        let (files, references) = (count(&self.files), count(&self.references));
        match self.verdict {
            Verdict::Relocated => Some(log::relocated(files, references)),
            Verdict::Relocatable => Some(log::RELOCATABLE.to_string()),
            Verdict::NotRelocatable => {
                let reason = NotRelocatable::from_lines(&self.reasons)?;
                Some(log::not_relocatable(&reason))
            }
            Verdict::NotChecked => None,
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
            return Err(NotRelocatable::SamePlace(Box::new([
                other.clone(),
                path.clone(),
            ])));
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
