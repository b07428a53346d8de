//! The engines, and the setting `NIX_ENGINE` that picks one.

use std::fmt;
use std::str::FromStr;

/// The setting's name, the same when an image is built and when it runs.
pub const SETTING: &str = "NIX_ENGINE";

/// The values of [`SETTING`], in words.
pub const EXPECTED: &str = "`direct`, `namespace`, `proot`, `relocate` or `auto`";

/// A way to make the closure appear at `/nix/store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// It is really there.
    Direct,
    /// A mount namespace, with a user namespace where the user may not mount.
    Namespace,
    /// PRoot, which translates paths with ptrace.
    PRoot,
}

impl Engine {
    /// All of them, the cheapest first.
    pub const ALL: [Self; 3] = [Self::Direct, Self::Namespace, Self::PRoot];

    /// Its name in [`SETTING`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Namespace => "namespace",
            Self::PRoot => "proot",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A value of [`SETTING`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineSetting {
    /// It is not set: the closure as it is, run by the cheapest engine that works.
    #[default]
    Unset,
    /// This one, or an error.
    Only(Engine),
    /// The closure is rewritten to where it is in the image, and needs no engine.
    Relocate,
    /// Relocated where that is proved complete, else as if it were not set.
    Auto,
}

/// A value that [`SETTING`] does not take.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownEngine;

impl FromStr for EngineSetting {
    type Err = UnknownEngine;

    fn from_str(value: &str) -> Result<Self, UnknownEngine> {
        match value.trim() {
            "" => Ok(Self::Unset),
            "relocate" => Ok(Self::Relocate),
            "auto" => Ok(Self::Auto),
            name => Engine::ALL
                .into_iter()
                .find(|engine| engine.name() == name)
                .map(Self::Only)
                .ok_or(UnknownEngine),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_known_by_its_name() {
        for (value, setting) in [
            ("", EngineSetting::Unset),
            ("direct", EngineSetting::Only(Engine::Direct)),
            ("namespace", EngineSetting::Only(Engine::Namespace)),
            (" proot\n", EngineSetting::Only(Engine::PRoot)),
            ("relocate", EngineSetting::Relocate),
            ("auto", EngineSetting::Auto),
        ] {
            assert_eq!(value.parse(), Ok(setting));
        }
        assert_eq!("PRoot".parse::<EngineSetting>(), Err(UnknownEngine));
    }
}
