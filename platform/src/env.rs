//! Environment variables as layers change them: the lifecycle's `env` package on Buildpack API
//! 0.10, where a file with no suffix overrides.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) type Env = BTreeMap<String, String>;

/// Puts a layer's `bin` before `PATH` and its `lib` before `LD_LIBRARY_PATH`, where it has them.
/// `layer` is the directory on this machine, `inside` the path that the process will see.
pub(crate) fn add_layer_root(env: &mut Env, layer: &Path, inside: &Path) {
    for (directory, variable) in [("bin", "PATH"), ("lib", "LD_LIBRARY_PATH")] {
        if layer.join(directory).exists() {
            let path = inside.join(directory);
            let before = env.get(variable).cloned().unwrap_or_default();
            env.insert(
                variable.to_owned(),
                join(&path.to_string_lossy(), ":", &before),
            );
        }
    }
}

/// Applies the files of a layer's `env`, `env.launch` or `env.launch/<process>` directory, in the
/// order of their names; a directory that is not there changes nothing.
pub(crate) fn add_env_dir(env: &mut Env, directory: &Path) -> Result<()> {
    for file in files(directory)? {
        let (name, action) = match file.split_once('.') {
            Some((name, action)) => (name, action),
            None => (file.as_str(), "override"),
        };
        let read = |file: &str| {
            let path = directory.join(file);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let value = read(&file)?;
        let before = env.get(name).cloned().unwrap_or_default();
        let delimiter = || read(&format!("{name}.delim")).unwrap_or_default();
        let after = match action {
            "override" => value,
            "default" | "append" if before.is_empty() => value,
            "prepend" => join(&value, &delimiter(), &before),
            "append" => before + &delimiter() + &value,
            _ => continue,
        };
        env.insert(name.to_owned(), after);
    }
    Ok(())
}

fn join(first: &str, delimiter: &str, second: &str) -> String {
    if second.is_empty() {
        first.to_owned()
    } else {
        format!("{first}{delimiter}{second}")
    }
}

/// Names of a directory's files, sorted; empty where there is no such directory.
fn files(directory: &Path) -> Result<Vec<String>> {
    Ok(entries(directory, false)?
        .into_iter()
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect())
}

/// Paths of a directory's files, or of its directories, sorted; empty where it is not there.
pub(crate) fn entries(directory: &Path, directories: bool) -> Result<Vec<PathBuf>> {
    let read = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.with_context(|| format!("reading {}", directory.display()))?,
    };
    let mut paths = Vec::new();
    for entry in read {
        let path = entry?.path();
        if path.is_dir() == directories {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
