//! The settings that a platform would give a build: those of the environment, and of the app's
//! `project.toml` (<https://buildpacks.io/docs/reference/config/project-descriptor/>).

use super::arguments::Arguments;
use app_dir::FileError;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

const PROJECT: &str = "project.toml";

/// Bytes of a `project.toml`.
const MAX_PROJECT: u64 = 1 << 20;

/// Variables of Nix's own that a laptop has for its Nix, and no build image has.
const OF_THE_MACHINE: [&str; 2] = ["NIX_PATH", "NIX_CONFIG"];

/// Variables by name: an option of the command comes before the environment, and that before
/// `project.toml`.
#[derive(Debug)]
pub(super) struct Settings {
    variables: BTreeMap<String, String>,
    /// Whether `project.toml` has platforms leave files out.
    pub is_part: bool,
}

/// `project.toml` cannot be read; the reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UnreadableProject(String);

/// The tables of `project.toml` that matter here, in version 0.2 of its schema and in 0.1.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Project {
    io: Io,
    build: BuildTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Io {
    buildpacks: Buildpacks,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Buildpacks {
    build: BuildTable,
    include: Vec<String>,
    exclude: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BuildTable {
    env: Vec<Variable>,
    include: Vec<String>,
    exclude: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
}

impl Settings {
    pub(super) fn read(arguments: &Arguments) -> Result<Self, UnreadableProject> {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let pair = (name.into_string().ok()?, value.into_string().ok()?);
            (!OF_THE_MACHINE.contains(&&*pair.0)).then_some(pair)
        });
        let project = Project::read(&arguments.directory)?;
        let (new, old) = (project.io.buildpacks, project.build);
        let patterns = [&new.include, &new.exclude, &old.include, &old.exclude];
        let of_project = old.env.into_iter().chain(new.build.env);
        let of_project = of_project.map(|variable| (variable.name, variable.value));
        Ok(Self {
            is_part: patterns.into_iter().any(|patterns| !patterns.is_empty()),
            variables: of_project
                .chain(environment)
                .chain(arguments.env.iter().cloned())
                .collect(),
        })
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    /// The names of those that are not empty.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        let set = self
            .variables
            .iter()
            .filter(|(_, value)| !value.trim().is_empty());
        set.map(|(name, _)| name.clone())
    }
}

impl Project {
    fn read(app_dir: &Path) -> Result<Self, UnreadableProject> {
        match app_dir::read_to_string(app_dir, Path::new(PROJECT), MAX_PROJECT) {
            Ok(text) => toml::from_str(&text).map_err(|error| UnreadableProject(error.to_string())),
            Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(error) => Err(UnreadableProject(io::Error::from(error).to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(project: &str, options: &[(&str, &str)]) -> Result<Settings, UnreadableProject> {
        let app = tempfile::tempdir().unwrap();
        std::fs::write(app.path().join(PROJECT), project).unwrap();
        let options = options.iter();
        Settings::read(&Arguments {
            directory: app.path().to_path_buf(),
            env: options.map(|(a, b)| ((*a).into(), (*b).into())).collect(),
            arch: "amd64".into(),
            wait: false,
            json: false,
        })
    }

    #[test]
    fn project_toml_has_settings_in_either_version_and_an_option_comes_before_them() {
        let both = "[_]\nschema-version = \"0.2\"\n\
                    [[build.env]]\nname = \"NIX_FILE\"\nvalue = \"old.nix\"\n\
                    [[build.env]]\nname = \"NIX_TARGET\"\nvalue = \"web\"\n\
                    [[io.buildpacks.build.env]]\nname = \"NIX_FILE\"\nvalue = \"new.nix\"\n";
        let found = settings(both, &[("NIX_TARGET", "worker")]).unwrap();
        assert_eq!(found.get("NIX_FILE").as_deref(), Some("new.nix"));
        assert_eq!(found.get("NIX_TARGET").as_deref(), Some("worker"));
        assert!(found.names().any(|name| name == "NIX_FILE"));
        assert!(found.get("PATH").is_some(), "of the environment");
        assert!(!found.is_part);
    }

    #[test]
    fn files_that_a_platform_leaves_out_are_noticed() {
        let part = settings("[io.buildpacks]\nexclude = [\"result\"]\n", &[]).unwrap();
        assert!(part.is_part);
    }

    #[test]
    fn a_project_toml_that_cannot_be_read_says_where() {
        let error = settings("[[build.env]]\nname = 1\n", &[]).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
