//! What earlier builds evaluated: the same inputs give the same roots, so nothing is evaluated twice.
//!
//! Only evaluations whose outcome hangs on nothing but their inputs are kept: those that fetched
//! nothing without a hash, looked nothing up in `NIX_PATH`, and cannot have asked for the time. Nix's
//! restricted mode tells that (`builtins.currentTime`), but nothing of the environment.

use crate::config::{Config, Expression};
use crate::root::Root;
use hydra::revision::Commit;
use nix_derivation::{StoreDir, StorePath};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Evaluations that are kept, the newest first: enough to go back to an earlier revision.
const KEPT: usize = 16;

/// Everything that decides what an evaluation gives, as one hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

/// All that is kept, as it is in its file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memo {
    evaluations: Vec<Remembered>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    key: Key,
    roots: Vec<RememberedRoot>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RememberedRoot {
    path: String,
    main_program: Option<String>,
}

impl Key {
    /// The key of an evaluation, or nothing where its inputs cannot all be named. `nix` says which
    /// Nix evaluates, `functions` are the texts of this program's own Nix code; `commit` is what flakes
    /// see of it.
    #[must_use]
    pub fn new(
        source: &StorePath,
        commit: Option<&Commit>,
        expression: &Expression,
        config: &Config,
        system: &str,
        nix: &str,
        functions: &[&str],
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
            system,
            nix,
            functions,
        ]);
        Some(Self(hex::encode(Sha256::digest(inputs.to_string()))))
    }
}

impl Memo {
    /// The roots that this evaluation gave.
    #[must_use]
    pub fn recall(&self, key: &Key) -> Option<Vec<Root>> {
        let found = self.evaluations.iter().find(|kept| kept.key == *key)?;
        let roots = found.roots.iter().map(|root| {
            let path = StoreDir::default().parse_path(root.path.as_bytes()).ok()?;
            Some(Root {
                path,
                main_program: root.main_program.clone(),
            })
        });
        roots.collect()
    }

    /// Adds an evaluation, and forgets the oldest.
    pub fn remember(&mut self, key: Key, roots: &[Root]) {
        self.evaluations.retain(|kept| kept.key != key);
        let roots = roots
            .iter()
            .map(|root| RememberedRoot {
                path: root.path.to_absolute_path(),
                main_program: root.main_program.clone(),
            })
            .collect();
        self.evaluations.insert(0, Remembered { key, roots });
        self.evaluations.truncate(KEPT);
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
        Key::new(
            &source,
            commit.as_ref(),
            expression,
            &config,
            system,
            nix,
            &["x"],
        )
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
    fn the_newest_are_kept_and_come_back_from_a_file() {
        let mut memo = Memo::default();
        for number in 0..=KEPT {
            memo.remember(
                Key(number.to_string()),
                &[root("a"), root(&number.to_string())],
            );
        }
        let memo: Memo = serde_json::from_str(&serde_json::to_string(&memo).unwrap()).unwrap();
        assert_eq!(memo.recall(&Key("0".into())), None);
        let newest = KEPT.to_string();
        assert_eq!(
            memo.recall(&Key(newest.clone())),
            Some(vec![root("a"), root(&newest)])
        );
    }
}
