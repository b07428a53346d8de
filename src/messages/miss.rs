//! Words for a root that no binary cache has, where there is no Hydra to compare with.

use super::doctor::{Alone, SHOWN, difference_in, differing, shown, some};
use crate::doctor::before::{Before, Change};
use crate::doctor::cause::Cause;
use crate::doctor::compare::{Difference, name};
use crate::doctor::inputs::Inputs;
use nix_derivation::StorePath;
use std::fmt::Write as _;

/// Where the other side of a comparison is.
const BEFORE: &str = "in the previous image's";

/// The answer and the explanation for a root that no binary cache has, without a Hydra to ask: a
/// source that was changed here, what differs from the previous image, then what the caches lack of
/// all that the root is made from.
pub(super) fn told(
    root: &str,
    alone: &Alone,
    why: &str,
    inputs: Option<&Inputs>,
    before: Option<&Before>,
) -> (String, String) {
    // Then its pins are not to blame.
    let is_alike = inputs.is_some_and(|found| found.direct > 0 && found.direct_missing.is_empty());
    let before = before.map(since_before);
    let inputs = inputs.map(|found| in_caches(found, root));
    let mut text = String::new();
    let told = [&before, &inputs].into_iter().flatten();
    let mut answers: Vec<&String> = alone.changed.iter().collect();
    for told in told {
        text.push_str(&told.evidence);
        if !told.evidence.is_empty() {
            text.push('\n');
        }
        answers.extend(&told.answer);
    }
    answers.extend(alone.unpinned.iter().filter(|_| !is_alike));
    let nothing =
        || format!("No binary cache has {root}: this revision may not have been built yet");
    let answer = answers.first().map_or_else(nothing, ToString::to_string);
    let _ = write!(
        text,
        "{}\n{why}. With NIX_HYDRA_URL (and NIX_HYDRA_JOB), both sides are compared; so are they with\n\
         the previous image where a binary cache has its derivation (`nix copy --derivation`).\n",
        alone.evidence
    );
    (answer, text.trim_start().to_string())
}

/// A comparison without Hydra in words.
struct Compared {
    /// One line, if it tells anything.
    answer: Option<String>,
    evidence: String,
}

/// What differs from the previous image.
fn since_before(Before { root, change }: &Before) -> Compared {
    let mut evidence = match change {
        Change::Paths(0, other) if other.is_empty() => String::new(),
        _ => format!("The previous image has {root}.\n"),
    };
    let answer = match change {
        Change::None => Some(format!(
            "The previous image has the same {}, but no binary cache has it any more",
            root.name()
        )),
        Change::Causes(causes) => {
            let mut answers = causes.iter().take(SHOWN).map(cause_since_before);
            let first = answers.next();
            let mut lines = match causes.first() {
                Some(Cause::Source(source)) => differing(&source.difference, BEFORE, |_| "differs"),
                _ => Vec::new(),
            };
            lines.extend(answers);
            evidence.push_str(&shown(&lines));
            first
        }
        Change::Paths(same, other) => {
            let lines = other
                .iter()
                .map(|(here, there)| format!("{here}  here\n    {there}  there"));
            let _ = match other.len() {
                0 if *same == 0 => Ok(()),
                0 => writeln!(
                    evidence,
                    "All else in it, {}, is made in the same way here.",
                    words::paths(*same)
                ),
                _ => writeln!(
                    evidence,
                    "Of what else is in it, {} are made in the same way here, and {} otherwise:",
                    same,
                    other.len(),
                ),
            };
            evidence.push_str(&shown(&lines.collect::<Vec<_>>()));
            other
                .first()
                .map(|(here, there)| another_nixpkgs(here.name(), there.name()))
        }
    };
    Compared { answer, evidence }
}

/// The answer for another dependency than the previous image's.
fn another_nixpkgs(here: &str, there: &str) -> String {
    let pair = if here == there {
        format!("{here} differs")
    } else {
        format!("{here} here, {there} there")
    };
    format!(
        "Its dependencies differ from the previous image's, as with another nixpkgs, and no binary cache \
         has a build with them: {pair}"
    )
}

/// A cause in one line.
fn cause_since_before(cause: &Cause) -> String {
    match cause {
        Cause::Source(source) => {
            let names: Vec<&str> = source.difference.names().collect();
            let told = if names.is_empty() {
                String::new()
            } else {
                format!(": {}", some(&names))
            };
            format!(
                "The source is new since the previous image, and no binary cache has a build of it yet{told}"
            )
        }
        Cause::System(here, there) => {
            format!("It is for {here} here, but for {there} in the previous image")
        }
        Cause::Dependencies(cause) => another_nixpkgs(&cause.ours, &cause.theirs),
        Cause::Revision(derivation, variable, here, there) => {
            let variable = Difference::Variable(variable.clone(), here.clone(), there.clone());
            difference_in(derivation, &variable, BEFORE)
        }
        Cause::Other(derivation, difference) => difference_in(derivation, difference, BEFORE),
    }
}

/// What the binary caches have of what the root is made from.
fn in_caches(inputs: &Inputs, root: &str) -> Compared {
    let (direct, direct_missing) = (inputs.direct, &inputs.direct_missing);
    let (first_missing, cut_short) = (&inputs.first_missing, inputs.cut_short);
    let names = |paths: &[StorePath]| {
        let names = paths.iter().map(|path| name(path).to_string());
        names.collect::<Vec<_>>()
    };
    let missing = direct_missing.len();
    let mut evidence = match (direct, missing) {
        (0, _) => String::new(),
        (1, 0) => "The binary caches have the one derivation that it is made from.\n".to_string(),
        (all, 0) => format!("The binary caches have all {all} derivations that it is made from.\n"),
        (all, some) if all == some => {
            format!("No binary cache has any of the {all} derivations that it is made from:\n")
        }
        (all, some) => {
            format!("Of the {all} derivations that it is made from, no binary cache has {some}:\n")
        }
    };
    evidence.push_str(&shown(&names(direct_missing)));
    let deeper: Vec<String> = names(first_missing)
        .into_iter()
        .filter(|name| !names(direct_missing).contains(name))
        .collect();
    if !deeper.is_empty() && !cut_short {
        evidence.push_str("What is missing below these:\n");
        evidence.push_str(&shown(&deeper));
    }
    let not_only = |paths| {
        let paths = some(&names(paths));
        format!("Not only {root} is missing, but also what it is made from: {paths}")
    };
    let answer = match (direct, missing, first_missing.as_slice()) {
        (0, ..) => None,
        (_, 0, _) => Some(format!(
            "Only {root} itself is missing, and the binary caches have all that it is made from: this \
             revision may not have been built yet"
        )),
        (all, missing, _) if all == missing && (cut_short || all > 1) => Some(format!(
            "No binary cache has anything that {root} is made from, as with another nixpkgs, or without the \
             cache of its nixpkgs: {}",
            some(&names(direct_missing))
        )),
        (_, _, []) => Some(not_only(direct_missing)),
        (_, _, first) => Some(not_only(first)),
    };
    Compared { answer, evidence }
}
