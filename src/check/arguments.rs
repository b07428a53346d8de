//! The words of the command.

use lexopt::prelude::{Long, Short, Value, ValueExt};
use std::ffi::OsString;
use std::path::PathBuf;

pub(super) const HELP: &str = "\
Says whether a deploy of an app would find all of it in the binary caches, how much it would download,
and which processes the image would have. It reads the app and its settings, evaluates or asks Hydra,
and asks the binary caches, as a build does; it downloads nothing of what is deployed.

Usage: nix-hydra check [OPTION]... [DIR]

  DIR                   the app (default: the current directory)
  -e, --env NAME=VALUE  a setting, as with pack; it comes before one of the environment or of the app's
                        project.toml, [[io.buildpacks.build.env]]
  --arch ARCH           amd64 or arm64 (default: this machine's)
  --wait                wait for Hydra as a deploy does, up to NIX_HYDRA_WAIT
  --json                the answer as JSON; nix-hydra diff and closure read it as well

The answer is on standard output, the log on standard error. The exit status is 0 if a deploy would find
everything, 1 if it would not, and 2 if the settings or the words of the command are wrong. NIX_PATH and
NIX_CONFIG of the environment are the machine's, and are used only if --env or project.toml sets them.
";

/// What is checked, and how.
#[derive(Debug)]
pub(super) struct Arguments {
    pub directory: PathBuf,
    pub env: Vec<(String, String)>,
    /// As buildpacks call it.
    pub arch: String,
    pub wait: bool,
    pub json: bool,
}

impl Arguments {
    /// Parses the words after the command. None if help is asked for.
    pub(super) fn parse(words: &[OsString]) -> Result<Option<Self>, lexopt::Error> {
        let mut directory = None;
        let mut arguments = Self {
            directory: PathBuf::new(),
            env: Vec::new(),
            arch: this_machine().to_string(),
            wait: false,
            json: false,
        };
        let mut parser = lexopt::Parser::from_args(words);
        while let Some(word) = parser.next()? {
            match word {
                Short('h') | Long("help") => return Ok(None),
                Long("json") => arguments.json = true,
                Long("wait") => arguments.wait = true,
                Long("arch") => arguments.arch = parser.value()?.string()?,
                Short('e') | Long("env") => {
                    let pair = parser.value()?.string()?;
                    let (name, value) = pair
                        .split_once('=')
                        .ok_or_else(|| format!("--env takes NAME=VALUE, not `{pair}`"))?;
                    arguments.env.push((name.to_string(), value.to_string()));
                }
                Value(word) if directory.is_none() => directory = Some(PathBuf::from(word)),
                other => return Err(other.unexpected()),
            }
        }
        if !["amd64", "arm64"].contains(&&*arguments.arch) {
            return Err(format!("--arch takes amd64 or arm64, not `{}`", arguments.arch).into());
        }
        let directory = directory.unwrap_or_else(|| ".".into());
        let found = std::fs::canonicalize(&directory);
        arguments.directory = found
            .ok()
            .filter(|found| found.is_dir())
            .ok_or_else(|| format!("{} is not a directory", directory.display()))?;
        Ok(Some(arguments))
    }
}

fn this_machine() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Option<Arguments>, String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        Arguments::parse(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_app_is_the_current_directory_unless_one_is_named() {
        let here = std::env::current_dir().unwrap();
        let arguments = parse(&["--json", "-e", "NIX_FILE=a=b"]).unwrap().unwrap();
        assert_eq!(arguments.directory, here);
        assert_eq!(arguments.env, [("NIX_FILE".into(), "a=b".into())]);
        assert!(arguments.json && !arguments.wait);
        let arguments = parse(&["--arch=arm64", "src"]).unwrap().unwrap();
        assert_eq!(arguments.directory, here.join("src"));
        assert_eq!(arguments.arch, "arm64");
        assert!(parse(&["--help"]).unwrap().is_none());
    }

    #[test]
    fn wrong_words_are_named() {
        for (words, error) in [
            (&["--jsn"][..], "invalid option '--jsn'"),
            (&["a", "b"], "unexpected argument \"b\""),
            (
                &["-e", "NIX_FILE"],
                "--env takes NAME=VALUE, not `NIX_FILE`",
            ),
            (
                &["--arch", "riscv64"],
                "--arch takes amd64 or arm64, not `riscv64`",
            ),
            (&["/nowhere"], "/nowhere is not a directory"),
        ] {
            assert_eq!(parse(words).unwrap_err(), error);
        }
    }
}
