//! A result that nothing can be compared with.

use super::lists::{files, shown};
use crate::doctor::our_side::OurSide;
use std::fmt::Write as _;

/// Our side in words, where there is nothing to compare with.
pub(in crate::messages) struct Alone {
    /// What was changed in the source, in one line.
    pub(in crate::messages) changed: Option<String>,
    /// What is not pinned, in one line.
    pub(in crate::messages) unpinned: Option<String>,
    pub(in crate::messages) evidence: String,
}

impl Alone {
    /// The likeliest cause of a difference.
    pub(super) fn suspicion(&self) -> Option<String> {
        self.changed.clone().or_else(|| self.unpinned.clone())
    }
}

pub(super) fn alone(ours: &OurSide) -> Alone {
    let submodules = ours.tree.missing_submodules();
    let pointers = ours.tree.lfs_pointers();
    let changed = if let [first, ..] = ours.changes.as_slice() {
        Some(format!(
            "The source has changes that are not committed, such as {first}"
        ))
    } else if let ([first, ..], false) = (submodules.as_slice(), ours.is_flake) {
        Some(format!("The git submodule {first} is missing here"))
    } else {
        None
    };
    let unpinned = ours.unpinned.first().map(|first| {
        format!(
            "The expression is not pinned: {} in {}:{}",
            first.what, first.file, first.line
        )
    });
    let mut text = String::new();
    if let Some(source) = &ours.source {
        let _ = writeln!(
            text,
            "The app's source is {source}, of {}, for {}.",
            files(ours.source_files),
            ours.system
        );
    }
    text.push_str("Sources of the app in the derivation:\n");
    let sources = ours.sources.own.iter();
    let sources: Vec<String> = sources
        .map(|(source, count)| format!("{source}  {}", files(*count)))
        .collect();
    text.push_str(&shown(&sources));
    if sources.is_empty() {
        text.push_str("    none\n");
    }
    if ours.sources.others > 0 {
        let _ = writeln!(
            text,
            "    (and {} of nixpkgs or other inputs)",
            ours.sources.others
        );
    }
    let mut section = |title: &str, lines: &[String]| {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{title}");
            text.push_str(&shown(lines));
        }
    };
    section("Not committed, so Hydra does not have it:", &ours.changes);
    let title = if ours.is_flake {
        "Submodules with nothing in them, as on Hydra unless the flake's URL has `submodules=1`:"
    } else {
        "Submodules with nothing in them:"
    };
    section(title, &submodules);
    section("Pointers of Git LFS in place of files:", &pointers);
    let lines = ours.unpinned.iter();
    let lines: Vec<String> = lines
        .map(|unpinned| format!("{}:{}: {}", unpinned.file, unpinned.line, unpinned.what))
        .collect();
    let nix_path = ours.nix_path.as_deref().unwrap_or("not set");
    section(
        &format!("Not pinned, so Hydra may have used another (NIX_PATH is {nix_path}):"),
        &lines,
    );
    Alone {
        changed,
        unpinned,
        evidence: text,
    }
}
