//! Variables that look like settings and are none: misspelt names, and those of earlier buildpacks.

use super::table::{OTHERS, RETIRED, SETTINGS, setting};

/// A variable that has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ineffective {
    /// Its name is nearly that of a setting.
    Misspelt { name: String, nearest: &'static str },
    /// It was a setting of an earlier buildpack.
    Retired {
        name: &'static str,
        reason: &'static str,
    },
}

/// How alike two names must be, from 0 to 1: `NIX_TRUSTED_KEYS` is meant for
/// `NIX_TRUSTED_PUBLIC_KEYS`, `NIX_REMOTE` for none.
const ALIKE: f64 = 0.68;

/// Finds the variables among `names` that the user will believe to be settings.
///
/// They are not errors: the environment of a build is shared with other buildpacks.
pub fn ineffective(names: impl IntoIterator<Item = String>) -> Vec<Ineffective> {
    names.into_iter().filter_map(judge).collect()
}

fn judge(name: String) -> Option<Ineffective> {
    if let Some((name, reason)) = RETIRED.into_iter().find(|(retired, _)| *retired == name) {
        return Some(Ineffective::Retired { name, reason });
    }
    let upper = name.to_ascii_uppercase();
    if !upper.starts_with("NIX_") || setting(&name).is_some() || OTHERS.contains(&&*name) {
        return None;
    }
    let alike = |known: &str| strsim::normalized_damerau_levenshtein(&upper, known);
    let nearest = SETTINGS
        .iter()
        .map(|setting| (alike(setting.name), setting.name))
        .max_by(|one, other| one.0.total_cmp(&other.0))?;
    (nearest.0 > ALIKE).then_some(Ineffective::Misspelt {
        name,
        nearest: nearest.1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest(name: &str) -> Option<&'static str> {
        match &ineffective([name.to_string()])[..] {
            [Ineffective::Misspelt { nearest, .. }] => Some(nearest),
            _ => None,
        }
    }

    #[test]
    fn a_misspelt_name_is_told_with_the_nearest_setting() {
        for (name, setting) in [
            ("NIX_EXTRA_BINARY_CACHES", "NIX_EXTRA_BINARY_CACHE"),
            ("NIX_BINARY_CACHE", "NIX_EXTRA_BINARY_CACHE"),
            ("NIX_ENGINES", "NIX_ENGINE"),
            ("NIX_TRUSTED_KEYS", "NIX_TRUSTED_PUBLIC_KEYS"),
            ("NIX_HYDRA_JOBS", "NIX_HYDRA_JOB"),
            ("NIX_ATTRIBUTE", "NIX_ATTRIBUTES"),
            ("nix_engine", "NIX_ENGINE"),
        ] {
            assert_eq!(nearest(name), Some(setting), "{name}");
        }
    }

    #[test]
    fn settings_and_variables_of_nix_and_others_are_left_alone() {
        let settings = SETTINGS.iter().map(|setting| setting.name);
        let others = [
            "PATH",
            "HOME",
            "NIX_REMOTE",
            "NIX_CONFIG",
            "NIX_CONF_DIR",
            "NIX_STATE_DIR",
            "NIX_LOG_DIR",
            "NIX_USER_CONF_FILES",
            "NIX_LD",
            "NIX_BUILD_CORES",
            "NIX_CFLAGS_COMPILE",
        ];
        for name in settings.chain(OTHERS).chain(others) {
            assert_eq!(ineffective([name.to_string()]), [], "{name}");
        }
    }

    #[test]
    fn a_retired_setting_is_told_with_the_reason() {
        let names = RETIRED.map(|(name, _)| name.to_string());
        assert_eq!(ineffective(names).len(), RETIRED.len());
    }
}
