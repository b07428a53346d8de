//! What the build before evaluated: the same inputs give the same roots, so nothing is evaluated twice.
//!
//! It is in the image's metadata, not in the build cache: of that nothing is believed that it says itself.
//! Only evaluations whose outcome hangs on nothing but their inputs are kept: those that fetched
//! nothing without a hash, looked nothing up in `NIX_PATH`, and cannot have asked for the time. Nix's
//! restricted mode tells that (`builtins.currentTime`), but nothing of the environment.

use crate::config::{Config, Expression};
use crate::root::Root;
use hydra::revision::Commit;
use nix_derivation::{StoreDir, StorePath};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Everything that decides what an evaluation gives, as one hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

/// An evaluation and what it gave, in the metadata of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memo {
    key: Key,
    roots: Vec<RememberedRoot>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RememberedRoot {
    path: String,
    main_program: Option<String>,
}

impl Key {
    /// The key of an evaluation, or nothing where its inputs cannot all be named. `commit` is what flakes
    /// see of it; `evaluator` are the system, the Nix, and the texts of this program's own Nix code.
    pub fn new(
        source: &StorePath,
        commit: Option<&Commit>,
        expression: &Expression,
        config: &Config,
        evaluator: [&str; 4],
    ) -> Option<Self> {
        // What is in these places may change.
        if config.nix_path.is_some() {
            return None;
        }
        let inputs = serde_json::json!([
            source.to_absolute_path(),
            commit,
            expression.file.to_str()?,
            expression.attributes,
            expression.target,
            // Hydra names these by their revisions.
            config.lookups,
            evaluator,
        ]);
        Some(Self(hex::encode(Sha256::digest(inputs.to_string()))))
    }
}

impl Memo {
    pub fn new(key: &Key, roots: &[Root]) -> Self {
        let roots = roots.iter().map(|root| RememberedRoot {
            path: root.path.to_absolute_path(),
            main_program: root.main_program.clone(),
        });
        Self {
            key: key.clone(),
            roots: roots.collect(),
        }
    }

    /// The roots, if the evaluation was this one.
    pub fn recall(&self, key: &Key) -> Option<Vec<Root>> {
        let roots = self.roots.iter().map(|root| {
            let path = StoreDir::default().parse_path(root.path.as_bytes()).ok()?;
            Some(Root {
                path,
                main_program: root.main_program.clone(),
            })
        });
        (self.key == *key).then(|| roots.collect())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str) -> Root {
        let path = format!("/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-{name}");
        Root {
            path: path.parse().unwrap(),
            main_program: Some(name.to_string()),
        }
    }

    fn key(settings: &[(&str, &str)], source: &str, system: &str, nix: &str) -> Option<Key> {
        let app = tempfile::tempdir().unwrap();
        std::fs::write(app.path().join("default.nix"), "").unwrap();
        let setting = |name: &str| {
            let found = settings.iter().find(|(set, _)| *set == name);
            found.map(|(_, value)| (*value).to_string())
        };
        let config = Config::read(setting, app.path()).unwrap();
        let crate::config::Wanted::Expression(expression) = &config.wanted else {
            return None;
        };
        let commit = Commit::find(config.hydra.revision.as_ref(), app.path());
        let source = root(source).path;
        let evaluator = [system, nix, "x", "y"];
        Key::new(&source, commit.as_ref(), expression, &config, evaluator)
    }

    #[test]
    fn everything_that_may_change_the_outcome_is_in_the_key() {
        let all = [
            key(&[], "source", "x86_64-linux", "2.34"),
            key(&[], "git-export", "x86_64-linux", "2.34"),
            key(&[], "source", "aarch64-linux", "2.34"),
            key(&[], "source", "x86_64-linux", "2.35"),
            key(
                &[("NIX_REVISION", "3f96280da0ebc578599130c55c283036b51a9e91")],
                "source",
                "x86_64-linux",
                "2.34",
            ),
            key(
                &[("NIX_ATTRIBUTES", "a b")],
                "source",
                "x86_64-linux",
                "2.34",
            ),
            key(
                &[("NIX_ATTRIBUTES", "a b"), ("NIX_TARGET", "b")],
                "source",
                "x86_64-linux",
                "2.34",
            ),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(one.is_some());
            assert!(!all[..place].contains(one), "{place}");
        }
        assert_eq!(all[0], key(&[], "source", "x86_64-linux", "2.34"));
        let pinned_nowhere = key(
            &[("NIX_PATH", "nixpkgs=/x")],
            "source",
            "x86_64-linux",
            "2.34",
        );
        assert_eq!(pinned_nowhere, None);
    }

    #[test]
    fn an_evaluation_is_recalled_by_its_own_key_alone() {
        let roots = [root("a"), Root::from_path(root("b").path)];
        let memo = Memo::new(&Key("one".into()), &roots);
        let memo: Memo = toml::from_str(&toml::to_string(&memo).unwrap()).unwrap();
        assert_eq!(memo.recall(&Key("one".into())).as_deref(), Some(&roots[..]));
        assert_eq!(memo.recall(&Key("other".into())), None);
    }
}
