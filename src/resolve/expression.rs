//! Evaluates the app's expression inside the store, as Hydra does, to the store paths it stands for.

use super::Root;
use super::source::{Source, SourceError};
use crate::config::{Config, Expression};
use crate::nix::{Nix, NixError};
use nix_derivation::{StoreDir, StorePath};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;

/// The Nix function that turns an expression's value into what [`Evaluated`] holds.
const ROOTS_NIX: &str = include_str!("roots.nix");

/// Why an expression gave no roots.
#[derive(Debug)]
pub enum ExpressionError {
    Source(SourceError),
    Nix(NixError),
    /// Nix could not evaluate the expression; what it said, without its colours.
    Evaluation(String),
    /// What Nix answered is not what this program asked for.
    Answer(String),
    /// The value at this attribute (none: the whole expression) is not a derivation.
    NotADerivation {
        attribute: Option<String>,
        /// What it is, in Nix's words: `set`, `lambda`, `string`.
        kind: String,
        /// The names of the derivations in it, where it is a set of some.
        derivations: Vec<String>,
    },
    /// A flake whose inputs are not locked.
    NoFlakeLock,
}

/// What `roots.nix` answers for one attribute.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Evaluated {
    attribute: Option<String>,
    kind: String,
    derivations: Vec<String>,
    /// The outputs to deploy, best first.
    outputs: Vec<String>,
    main_program: Option<String>,
}

/// Puts `source` into the store that `nix` works on and evaluates `expression` in it.
///
/// The roots come in the order of the attributes, the target's first.
pub fn evaluate(
    nix: &Nix,
    source: &Source,
    expression: &Expression,
    config: &Config,
    system: &str,
) -> Result<Vec<Root>, ExpressionError> {
    let is_flake = expression
        .file
        .file_name()
        .is_some_and(|name| name == "flake.nix");
    let in_store = source
        .write_to(nix.store())
        .map_err(ExpressionError::Source)?;
    if is_flake
        && !in_store
            .join(expression.file.with_file_name("flake.lock"))
            .exists()
    {
        return Err(ExpressionError::NoFlakeLock);
    }
    nix.load_db(&source.registration())
        .map_err(ExpressionError::Nix)?;

    let function = nix.scratch().join("roots.nix");
    fs::write(&function, ROOTS_NIX)
        .map_err(|error| ExpressionError::Nix(NixError::Write(function.clone(), error)))?;
    let mut attributes = expression.attributes.clone();
    // The target leads PATH, so it comes first.
    attributes.sort_by_key(|attribute| Some(attribute) != expression.target.as_ref());
    let arguments = BTreeMap::from([
        ("source", source.path.to_absolute_path()),
        ("file", expression.file.to_string_lossy().into_owned()),
        ("attributes", serde_json::json!(attributes).to_string()),
        ("flake", is_flake.to_string()),
        ("system", system.to_string()),
    ]);
    let answer = nix
        .evaluate(
            &function,
            &arguments,
            &source.path,
            config.nix_path.as_deref(),
            &config.lookups,
        )
        .map_err(ExpressionError::Nix)?;
    if !answer.status.success() {
        return Err(ExpressionError::Evaluation(
            nix.trimmed_error(&answer.stderr),
        ));
    }
    let evaluated: Vec<Evaluated> = serde_json::from_slice(&answer.stdout)
        .map_err(|error| ExpressionError::Answer(error.to_string()))?;
    let mut roots = Vec::new();
    for value in evaluated {
        roots.extend(value.into_roots()?);
    }
    Ok(roots)
}

impl Evaluated {
    fn into_roots(self) -> Result<Vec<Root>, ExpressionError> {
        if self.kind != "derivation" {
            return Err(ExpressionError::NotADerivation {
                attribute: self.attribute,
                kind: self.kind,
                derivations: self.derivations,
            });
        }
        self.outputs
            .iter()
            .map(|output| {
                let path: StorePath = StoreDir::default()
                    .parse_path(output.as_bytes())
                    .map_err(|error| ExpressionError::Answer(format!("{output}: {error}")))?;
                Ok(Root {
                    path,
                    main_program: self.main_program.clone(),
                })
            })
            .collect()
    }
}
