//! The answer of `roots.nix`: what the attributes of an expression are.

use super::Root;
use super::expression::{ExpressionError, MissingAttribute, Outcome};
use nix_derivation::{StoreDir, StorePath};
use serde::Deserialize;

/// What `roots.nix` returns for one attribute.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Evaluated {
    attribute: Option<String>,
    pub(super) kind: String,
    /// Of the derivations in a set, or of all that is where an attribute is missing.
    names: Vec<String>,
    at: Vec<String>,
    name: String,
    /// The outputs to deploy, best first.
    outputs: Vec<Output>,
    /// The derivation's store path.
    derivation: Option<String>,
    main_program: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Output {
    output: String,
    path: String,
}

impl Evaluated {
    pub(super) fn into_missing(self) -> MissingAttribute {
        MissingAttribute {
            attribute: self.attribute.unwrap_or_default(),
            at: self.at,
            name: self.name,
            names: self.names,
        }
    }

    pub(super) fn add_to(self, outcome: &mut Outcome) -> Result<(), ExpressionError> {
        match self.kind.as_str() {
            "derivation" => {}
            "shell" => return Err(ExpressionError::Shell(self.attribute)),
            _ => {
                return Err(ExpressionError::NotADerivation {
                    attribute: self.attribute,
                    kind: self.kind,
                    derivations: self.names,
                });
            }
        }
        for Output { output, path } in self.outputs {
            let parsed: StorePath = StoreDir::default()
                .parse_path(path.as_bytes())
                .map_err(|error| ExpressionError::Answer(format!("{path}: {error}")))?;
            outcome.roots.push(Root {
                path: parsed,
                main_program: self.main_program.clone(),
            });
            let derivation = self.derivation.as_ref();
            outcome
                .derivations
                .push(derivation.map(|derivation| format!("{derivation}!{output}")));
        }
        Ok(())
    }
}
