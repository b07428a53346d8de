//! Settings of the app: what in its source is deployed.

use super::read::{Given, Invalid, Slip};
use super::{Attribute, AttributeError, Expression, Problem, Values, Wanted};
use glob::Pattern;
use nix_derivation::StorePath;
use std::path::{Component, Path, PathBuf};

/// The files that are looked for when `NIX_FILE` is not set, in this order.
pub const EXPRESSION_FILES: [&str; 4] = ["deploy.nix", "flake.nix", "shell.nix", "default.nix"];

pub(super) fn store_path(value: &str) -> Result<Option<StorePath>, Invalid> {
    match StorePath::from_absolute_path(value.as_bytes()) {
        Ok(path) if path.is_derivation() => Err(Invalid::slip(value, Slip::Derivation)),
        Ok(path) => Ok(Some(path)),
        Err(_) => Err(Invalid::new(value)),
    }
}

/// Takes a file of the app, relative to the app.
pub(super) fn file(given: &Given) -> Result<Option<PathBuf>, Invalid> {
    let file = PathBuf::from(given.value);
    let inside = file
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if inside && given.app_dir.join(&file).exists() {
        Ok(Some(file))
    } else {
        Err(Invalid::new(given.value))
    }
}

pub(super) fn expression_file(given: &Given) -> Result<Option<PathBuf>, Invalid> {
    file(given).or_else(|invalid| attribute(given.value).and(Err(invalid)))
}

/// Fails if `word` also names a flake.
fn attribute(word: &str) -> Result<String, Invalid> {
    match word.split_once('#') {
        Some((_, attribute)) => Err(Invalid::slip(
            word,
            Slip::Installable(attribute.to_string()),
        )),
        None => Ok(word.to_string()),
    }
}

pub(super) fn attributes(value: &str) -> Result<Vec<Attribute>, Invalid> {
    let is_list = |word: &str| word.contains(',') && !word.contains(['^', '"']);
    if let Some(list) = value.split_whitespace().find(|word| is_list(word)) {
        return Err(Invalid::slip(list, Slip::Commas));
    }
    Attribute::read_all(value).map_err(|error| match error {
        AttributeError::Flake(attribute) => Invalid::slip(value, Slip::Installable(attribute)),
        AttributeError::Empty | AttributeError::OpenQuote => Invalid::new(value),
    })
}

pub(super) fn target(value: &str) -> Result<Option<String>, Invalid> {
    attribute(value).map(Some)
}

pub(super) fn source_name(value: &str) -> Result<String, Invalid> {
    match StorePath::from_parts([0; 20], value) {
        Ok(_) => Ok(value.to_string()),
        Err(_) => Err(Invalid::new(value)),
    }
}

pub(super) fn patterns(value: &str) -> Result<Vec<Pattern>, Invalid> {
    let pattern = |word| Pattern::new(word).map_err(|_| Invalid::new(word));
    value.split_whitespace().map(pattern).collect()
}

/// Parses a size with an optional unit: powers of 1000 (`MB`) or of 1024 (`MiB`).
pub(super) fn size(value: &str) -> Result<u64, Invalid> {
    let value = value.trim();
    let end = value.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = value.split_at(end.unwrap_or(value.len()));
    let unit: f64 = match unit.trim() {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        _ => return Err(Invalid::new(value)),
    };
    let number: f64 = number.parse().map_err(|_| Invalid::new(value))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a limit needs no more digits than a float has, and it is not negative"
    )]
    Ok((number * unit) as u64)
}

pub(super) fn first_expression_file(app_dir: &Path) -> Option<PathBuf> {
    EXPRESSION_FILES
        .iter()
        .map(PathBuf::from)
        .find(|file| app_dir.join(file).exists())
}

/// Returns what is to be deployed. None if no setting and no file of the app says it.
pub(super) fn wanted(
    values: &Values,
    app_dir: &Path,
    problems: &mut Vec<Problem>,
) -> Option<Wanted> {
    if let Some(path) = &values.store_path {
        return Some(Wanted::StorePath(path.clone()));
    }
    let expression = expression(values, app_dir, problems);
    match values.job.clone().filter(|_| !values.inputs) {
        Some(job) => Some(Wanted::HydraJob(job, expression)),
        None => expression.map(Wanted::Expression),
    }
}

fn expression(values: &Values, app_dir: &Path, problems: &mut Vec<Problem>) -> Option<Expression> {
    let file = values.file.clone();
    let file = file.or_else(|| first_expression_file(app_dir))?;
    let attributes = values.attributes.clone();
    let texts: Vec<String> = attributes.iter().map(|one| one.text.clone()).collect();
    let is_known = |target: &&String| texts.contains(target);
    if let Some(target) = values.target.as_ref().filter(|target| !is_known(target)) {
        problems.push(Problem::UnknownTarget {
            target: target.clone(),
            attributes: texts,
        });
    }
    Some(Expression {
        file,
        attributes,
        target: values.target.clone(),
    })
}
