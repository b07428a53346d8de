//! Derivations that are not those that Hydra built.

use super::lists::SHOWN;
use super::{HYDRA, Told};
use crate::doctor::cause::Dependencies;
use crate::doctor::compare::{Difference, Side};
use crate::doctor::our_side::OurSide;
use hydra::api::InputRevision;
use std::fmt::Write as _;
use words::list;

/// The longest value of a variable that is shown in full, in characters.
const VALUE_LENGTH: usize = 100;

pub(super) fn dependencies(dependencies: &Dependencies, ours: &OurSide) -> Told {
    let (name, theirs) = (&dependencies.ours, &dependencies.theirs);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}, the first derivation that differs in itself, is reached by {}:\n    {}",
        name,
        dependencies.way.join(" → "),
        difference_in(name, &dependencies.difference, HYDRA)
    );
    let _ = writeln!(
        text,
        "{}{} derivations differ in all.\n",
        if dependencies.more { "More than " } else { "" },
        dependencies.pairs
    );
    for InputRevision { input, revision } in &dependencies.inputs {
        let _ = writeln!(text, "Hydra's input {input} is {revision}.");
    }
    let _ = writeln!(
        text,
        "NIX_PATH here is {}.",
        ours.nix_path.as_deref().unwrap_or("not set")
    );
    for unpinned in ours.unpinned.iter().take(SHOWN) {
        let _ = writeln!(
            text,
            "Not pinned: {} ({}:{})",
            unpinned.what, unpinned.file, unpinned.line
        );
    }
    text.push('\n');
    let pair = if name == theirs {
        format!("{name} differs")
    } else {
        format!("{name} here, {theirs} on Hydra")
    };
    Told {
        answer: format!("Its dependencies differ from Hydra's, as with another nixpkgs: {pair}"),
        evidence: text,
        cure: "Pin nixpkgs in the app (`fetchTarball` with the revision in its URL and its `sha256`), so that\n\
               both sides use the same; or set NIX_HYDRA_INPUTS=true, to use Hydra's inputs here.\n",
    }
}

/// A difference of one derivation, in one line, to one that is `there`.
pub(in crate::messages) fn difference_in(
    derivation: &str,
    difference: &Difference,
    there: &str,
) -> String {
    match difference {
        Difference::System(ours, theirs) => {
            format!("{derivation} is for {ours} here, but for {theirs} {there}")
        }
        Difference::Builder(ours, theirs) => {
            format!("{derivation} is built by {ours} here, but by {theirs} {there}")
        }
        Difference::Arguments(ours, theirs) => {
            let different = ours.iter().zip(theirs).find(|(one, other)| one != other);
            let (one, other) = different.map_or((None, None), |(one, other)| {
                (Some(one.as_str()), Some(other.as_str()))
            });
            format!(
                "The builder of {derivation} gets other arguments: {} here, {} {there}",
                value(one),
                value(other)
            )
        }
        Difference::Variable(variable, ours, theirs) => format!(
            "`{variable}` of {derivation} is {} here, but {} {there}",
            value(ours.as_deref()),
            value(theirs.as_deref())
        ),
        Difference::Source(_, ours, theirs) => {
            format!("{derivation} is made of {ours} here, but of {theirs} {there}")
        }
        Difference::SourceOnly(side, path) => {
            format!(
                "{derivation} is made of {} {}",
                path.name(),
                only(*side, there)
            )
        }
        Difference::InputOnly(side, path) => format!(
            "{derivation} is made with {} {}",
            path.name().trim_end_matches(".drv"),
            only(*side, there)
        ),
        Difference::Outputs(ours, theirs) => format!(
            "{derivation} has the outputs {} here, but {} {there}",
            list(ours),
            list(theirs)
        ),
    }
}

fn only(side: Side, there: &str) -> String {
    match side {
        Side::Here => "only here".to_string(),
        Side::There => format!("only {there}"),
    }
}

/// A variable's value, in one line that is not too long.
pub(super) fn value(value: Option<&str>) -> String {
    let Some(value) = value else {
        return "not set".to_string();
    };
    let line = value.replace('\n', "\\n");
    if line.chars().count() > VALUE_LENGTH {
        let start: String = line.chars().take(VALUE_LENGTH).collect();
        format!("`{start}…`")
    } else {
        format!("`{line}`")
    }
}
