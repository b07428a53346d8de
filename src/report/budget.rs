//! Limits that the user sets for the closure: its size, and packages that must not be in it.

use super::members;
use closure::Closure;
use glob::Pattern;
use nix_hydra_start::closure::name;
use nix_hydra_start::package_name::PackageName;

/// How many of the largest paths are listed for a closure that is too large.
const LARGEST: usize = 5;

/// The settings `NIX_CLOSURE_LIMIT` and `NIX_FORBID`.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    /// Bytes of all NARs.
    pub limit: Option<u64>,
    /// Patterns of names without their hashes, or of packages' names without their versions.
    pub forbid: Vec<Pattern>,
}

/// Why a closure is not deployed. Chains are in words, from a root to the path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverBudget {
    #[error("the closure has {size} bytes, more than {limit}")]
    TooLarge {
        size: u64,
        limit: u64,
        /// The largest paths: bytes, and the chain.
        largest: Vec<(u64, String)>,
    },
    /// Each pattern with the chain of a path that it matches.
    #[error("the closure has forbidden store paths")]
    Forbidden(Vec<(String, String)>),
}

impl Budget {
    /// Whether there are any limits.
    pub fn is_set(&self) -> bool {
        self.limit.is_some() || !self.forbid.is_empty()
    }

    /// Checks a closure before it is downloaded.
    pub fn check(&self, closure: &Closure) -> Result<(), OverBudget> {
        if !self.is_set() {
            return Ok(());
        }
        let closure = members(closure);
        let chains = closure.chains();
        let forbidden: Vec<_> = closure
            .by_size()
            .into_iter()
            .filter_map(|index| {
                let pattern = self.forbids(name(&closure.paths()[index].path))?;
                Some((pattern.to_string(), closure.chain_words(&chains[index])))
            })
            .collect();
        if !forbidden.is_empty() {
            return Err(OverBudget::Forbidden(forbidden));
        }
        match self.limit {
            Some(limit) if closure.size() > limit => Err(OverBudget::TooLarge {
                size: closure.size(),
                limit,
                largest: closure
                    .by_size()
                    .into_iter()
                    .take(LARGEST)
                    .map(|index| {
                        let size = closure.paths()[index].size;
                        (size, closure.chain_words(&chains[index]))
                    })
                    .collect(),
            }),
            _ => Ok(()),
        }
    }

    /// The pattern that forbids a path of this name. Another output than `out` has to be matched as a
    /// whole: `gcc` does not forbid `gcc-14.3.0-lib`, which compiled programs need.
    fn forbids(&self, name: &str) -> Option<&str> {
        let package = PackageName::parse(name);
        let mut patterns = self.forbid.iter();
        let found = patterns.find(|pattern| {
            pattern.matches(name) || (package.output.is_none() && pattern.matches(package.name))
        });
        found.map(Pattern::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(forbid: &[&str]) -> Budget {
        let patterns = forbid.iter();
        Budget {
            limit: None,
            forbid: patterns.map(|text| Pattern::new(text).unwrap()).collect(),
        }
    }

    #[test]
    fn a_pattern_is_of_a_whole_name_or_of_a_package_in_any_version() {
        let budget = budget(&["gcc", "ghc-9.8.*", "*-dev"]);
        for (name, forbidden) in [
            ("gcc-14.3.0", Some("gcc")),
            ("gcc", Some("gcc")),
            ("gcc-14.3.0-lib", None),
            ("gcc-wrapper-14.3.0", None),
            ("ghc-9.8.4", Some("ghc-9.8.*")),
            ("ghc-9.10.1", None),
            ("openssl-3.4.1-dev", Some("*-dev")),
            ("openssl-3.4.1", None),
        ] {
            assert_eq!(budget.forbids(name), forbidden, "{name}");
        }
    }

    #[test]
    fn a_closure_over_its_budget_is_told_with_the_chains() {
        let closure = crate::report::sample();
        let size = closure.nar_size();
        assert_eq!(budget(&[]).check(&closure), Ok(()));
        let limited = |limit| Budget {
            limit: Some(limit),
            forbid: Vec::new(),
        };
        assert_eq!(limited(size).check(&closure), Ok(()));
        let too_large = limited(size - 1).check(&closure).unwrap_err();
        assert!(
            matches!(too_large, OverBudget::TooLarge { size: all, ref largest, .. }
            if all == size && largest[0].1.starts_with("myapp"))
        );
        let forbidden = budget(&["gtk+*"]).check(&closure).unwrap_err();
        assert!(matches!(forbidden, OverBudget::Forbidden(ref paths)
            if paths[0].0 == "gtk+*" && paths[0].1.starts_with("myapp")));
    }
}
