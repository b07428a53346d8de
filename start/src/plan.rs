//! Which engines a command may be run by: the image and the setting `NIX_ENGINE`.
//!
//! Where an image runs, the setting is a wish. Platforms give one set of variables to builds and to
//! running images, so an image often meets a value that is for the next build: it warns and runs as it
//! can. With `NIX_ENGINE_STRICT=true` it fails.

use crate::engine::{Engine, EngineSetting, SETTING};
use crate::image::Image;
use std::env;

/// The variable that makes a setting that cannot be followed an error.
pub(crate) const STRICT: &str = "NIX_ENGINE_STRICT";

/// The engines to try.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In the order in which they are tried. A relocated image needs none.
    pub(crate) engines: Vec<Engine>,
    /// The one that the setting names.
    pub(crate) named: Option<Engine>,
    /// Why the setting does not apply to this image.
    pub(crate) misfit: Option<Misfit>,
    pub(crate) strict: bool,
    /// The value of the setting.
    value: String,
}

/// A setting that does not apply to the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// No engine has this name.
    Unknown(String),
    /// An engine for a relocated image.
    Relocated(Engine),
    /// `relocate` for an image that was not relocated.
    NotRelocated,
}

impl Plan {
    /// The plan for this process's environment.
    pub(crate) fn here(image: &Image) -> Self {
        let value = |name: &str| env::var_os(name).unwrap_or_default();
        Self::new(image, |name| value(name).to_string_lossy().into_owned())
    }

    fn new(image: &Image, variable: impl Fn(&str) -> String) -> Self {
        let value = variable(SETTING);
        let setting = value.parse::<EngineSetting>();
        let misfit = match setting {
            Err(_) => Some(Misfit::Unknown(value.clone())),
            Ok(EngineSetting::Only(engine)) if image.is_relocated() => {
                Some(Misfit::Relocated(engine))
            }
            Ok(EngineSetting::Relocate) if !image.is_relocated() => Some(Misfit::NotRelocated),
            Ok(_) => None,
        };
        let named = match setting {
            Ok(EngineSetting::Only(engine)) if misfit.is_none() => Some(engine),
            _ => None,
        };
        let strict = !matches!(variable(STRICT).trim(), "" | "0" | "false");
        let others = Engine::ALL.into_iter().filter(|engine| {
            let is_allowed = !strict || named.is_none();
            is_allowed && Some(*engine) != named
        });
        Self {
            engines: if image.is_relocated() {
                Vec::new()
            } else {
                named.into_iter().chain(others).collect()
            },
            named,
            misfit,
            strict,
            value,
        }
    }

    /// Whether no command is run because of the setting.
    pub(crate) fn is_error(&self) -> bool {
        self.strict && self.misfit.is_some()
    }

    /// The setting in words.
    pub(crate) fn setting(&self) -> String {
        match self.value.trim() {
            "" => format!("{SETTING} is not set"),
            value => format!("{SETTING} is `{value}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Engine::{Direct, Namespace, PRoot};

    fn plan(root: &str, setting: &str, strict: &str) -> Plan {
        let image = Image::parse(&format!("root {root}\n"));
        let value = |name: &str| if name == SETTING { setting } else { strict };
        Plan::new(&image, |name| value(name).to_string())
    }

    #[test]
    fn a_named_engine_is_tried_first_and_alone_only_if_that_is_demanded() {
        let plan = |setting, strict| plan("/nix/store/a-app", setting, strict).engines;
        assert_eq!(plan("", ""), Engine::ALL);
        assert_eq!(plan("proot", ""), [PRoot, Direct, Namespace]);
        assert_eq!(plan("proot", "false"), [PRoot, Direct, Namespace]);
        assert_eq!(plan("proot", "true"), [PRoot]);
        assert_eq!(plan("auto", "true"), Engine::ALL);
        assert_eq!(plan("relocate", ""), Engine::ALL);
    }

    #[test]
    fn a_setting_for_another_image_is_a_misfit() {
        let misfit = |root, setting| plan(root, setting, "").misfit;
        let (store, layer) = ("/nix/store/a-app", "/layers/nix_hydra/closure/a-app");
        for (root, setting) in [(store, "auto"), (layer, "auto"), (layer, "relocate")] {
            assert_eq!(misfit(root, setting), None);
        }
        assert_eq!(misfit(store, "relocate"), Some(Misfit::NotRelocated));
        assert_eq!(misfit(layer, "proot"), Some(Misfit::Relocated(PRoot)));
        let unknown = Misfit::Unknown("docker".into());
        assert_eq!(misfit(layer, "docker"), Some(unknown));
    }
}
