//! The commands and links in README.md and docs/. Commands run in a copy of a checkout. Programs that
//! a test cannot run (`pack`, Docker, Heroku's) are stood in for by scripts that record their arguments,
//! which are then checked.

use crate::common::fixtures;
use nix_hydra_buildpack::config::{Config, setting};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Flags of `pack build` and `pack buildpack package` that take a value, and that the docs use.
const WITH_VALUE: [&str; 8] = [
    "--builder",
    "--buildpack",
    "--env",
    "--network",
    "--volume",
    "--target",
    "--config",
    "--platform",
];

/// The programs that are stood in for.
const RECORDED: [&str; 5] = ["pack", "docker", "kubectl", "heroku", "cargo"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files for users, with their text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut files: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .map(|name| repository().join(name))
        .into();
    for directory in ["docs", "docs/design"] {
        let entries = fs::read_dir(repository().join(directory)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.retain(|file| file.extension().is_some_and(|ending| ending == "md"));
    files.sort();
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        (file, text)
    };
    files.into_iter().map(read).collect()
}

/// The blocks of shell commands in a text.
fn shell_blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in text.lines() {
        match line.trim_start() {
            "```sh" => {
                is_open = true;
                blocks.push(String::new());
            }
            "```" => is_open = false,
            command if is_open => {
                if let Some(block) = blocks.last_mut() {
                    block.push_str(command);
                    block.push('\n');
                }
            }
            _ => {}
        }
    }
    blocks
}

fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A directory with an app in a git checkout, and the programs that are stood in for.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            directory: TempDir::new().unwrap(),
        };
        let record = format!(
            "printf '%s\\037' \"${{0##*/}}\" \"$@\" >> '{log}'; echo >> '{log}'",
            log = place.path("log").display()
        );
        for name in RECORDED {
            script(&place.path("bin").join(name), &record);
        }
        for entry in fs::read_dir(repository().join("script")).unwrap() {
            let entry = entry.unwrap();
            if entry.metadata().unwrap().permissions().mode() & 0o111 != 0 && entry.path().is_file()
            {
                script(&place.path("app/script").join(entry.file_name()), &record);
            }
        }
        fs::write(place.path("app/default.nix"), "{ }").unwrap();
        place.run(
            "git init --quiet && git add default.nix && git -c user.name=a -c user.email=a@acme.net \
             commit --quiet --message=app",
        );
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Has Nix's commands run those of the fixtures, on a store of their own.
    fn with_nix(&self, nix: &str) {
        let root = self.path("nix");
        fs::create_dir(&root).unwrap();
        for (name, more) in [("nix-store", ""), ("nix-build", "--dry-run")] {
            let run = format!(
                "export NIX_CONF_DIR='{root}' HOME='{root}' NIX_USER_CONF_FILES= NIX_CONFIG='substituters ='\n\
                 exec '{nix}/bin/{name}' --store 'local?root={root}' {more} \"$@\"",
                root = root.display()
            );
            script(&self.path("bin").join(name), &run);
        }
    }

    /// Runs a block of commands in the app, with `/tmp` in it standing for a directory of its own.
    fn run(&self, block: &str) -> String {
        fs::create_dir_all(self.path("tmp")).unwrap();
        let block = block.replace("/tmp", &self.path("tmp").display().to_string());
        let path = std::env::var("PATH").unwrap();
        let output = Command::new("bash")
            .args(["-eu", "-o", "pipefail", "-c", &block])
            .current_dir(self.path("app"))
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{block}\n{stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The commands that were stood in for since the last call, with their arguments.
    fn recorded(&self) -> Vec<Vec<String>> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let _ = fs::remove_file(self.path("log"));
        let words = |line: &str| {
            let words = line.trim_end_matches('\u{1f}').split('\u{1f}');
            words.map(str::to_string).collect()
        };
        log.lines().map(words).collect()
    }
}

/// What is wrong with a `pack build`, if anything.
fn judge_pack_build(arguments: &[String]) -> Result<(), String> {
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut rest = arguments.iter().map(String::as_str);
    while let Some(argument) = rest.next() {
        if WITH_VALUE.contains(&argument) {
            let value = rest.next().ok_or("a flag without its value")?;
            values.entry(argument).or_default().push(value);
        } else if argument.starts_with("--") && argument != "--publish" {
            return Err(format!("unknown flag {argument}"));
        }
    }
    let one = |flag: &str| values.get(flag).and_then(|values| values.first());
    one("--builder").ok_or("it names no builder")?;
    let buildpack = one("--buildpack").ok_or("it names no buildpack")?;
    if *buildpack == "." {
        return Err("the app's directory is not the buildpack".into());
    }
    if let Some(image) = buildpack.strip_prefix("docker://")
        && image
            .split('/')
            .next()
            .is_some_and(|host| host.contains(':'))
    {
        return Err("pack refuses docker:// before a port".into());
    }
    let key = format!("{}=", "A".repeat(43));
    let environment: BTreeMap<&str, String> = values["--env"]
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name, value.replace('…', &key)))
        .collect();
    if let Some(unknown) = environment.keys().find(|name| setting(name).is_none()) {
        return Err(format!("{unknown} is no setting"));
    }
    let app = TempDir::new().unwrap();
    fs::write(app.path().join("default.nix"), "").unwrap();
    let config = Config::read(|name| environment.get(name).cloned(), app.path());
    config.map(drop).map_err(|error| error.to_string())
}

#[test]
fn every_command_in_the_docs_runs() {
    let place = Place::new();
    let fixtures = fixtures();
    if let Some(fixtures) = &fixtures {
        place.with_nix(&fixtures.nix);
    }
    let mut wrong = Vec::new();
    let mut builds = 0;
    for (file, text) in documents() {
        for block in shell_blocks(&text) {
            if block.contains("nix-") && fixtures.is_none() {
                continue;
            }
            place.run(&block);
            for command in place.recorded() {
                let judged = match &command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["pack", "build", ..] => {
                        builds += 1;
                        judge_pack_build(&command[2..])
                    }
                    ["cargo", "run", rest @ ..] => match rest {
                        ["--package", "platform", "--", "package", ..] => Ok(()),
                        _ => Err("it is not the way to package".into()),
                    },
                    _ => Ok(()),
                };
                if let Err(why) = judged {
                    wrong.push(format!("{}: {why}: {command:?}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(builds >= 4, "{builds}");
}

#[test]
fn a_build_that_cannot_work_is_seen() {
    let words = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();
    for (command, why) in [
        (
            "app --buildpack x --env NIX_DEBUG=true",
            "it names no builder",
        ),
        (
            "app --builder b --buildpack . --env NIX_DEBUG=true",
            "the app's directory is not the buildpack",
        ),
        (
            "app --builder b --buildpack docker://x:5000/y --env NIX_DEBUG=true",
            "pack refuses docker:// before a port",
        ),
        (
            "app --builder b --buildpack x --env NIX_DEBUGGING=true",
            "NIX_DEBUGGING is no setting",
        ),
        (
            "app --builder b --buildpack x --env NIX_DEBUG=loud",
            "NIX_DEBUG is `loud`, which is not `true`, `false` or `doctor`",
        ),
        ("app --bilder b", "unknown flag --bilder"),
    ] {
        assert_eq!(judge_pack_build(&words(command)), Err(why.to_string()));
    }
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim_start_matches('#').trim().chars();
    let kept = letters.filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    let link = crate::common::regex(r"\]\(([^)\s]+)\)");
    let mut broken = Vec::new();
    for (file, text) in documents() {
        for found in link.captures_iter(&text) {
            let target = &found[1];
            if target.contains("://") {
                continue;
            }
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let path = match path {
                "" => file.clone(),
                path => file.parent().unwrap().join(path),
            };
            let anchors = || {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                headings.map(anchor).collect::<Vec<_>>()
            };
            if !path.exists()
                || (!fragment.is_empty() && !anchors().contains(&fragment.to_string()))
            {
                broken.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The files below a directory, relative to the repository.
fn files_below(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(repository().join(directory)).unwrap();
    let names = entries.map(|entry| entry.unwrap());
    names
        .flat_map(|entry| {
            let path = format!("{directory}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn every_file_of_code_that_a_page_names_is_there() {
    let directories = [
        "benches", "crates", "fuzz", "inside", "platform", "src", "start", "tests",
    ];
    let files: Vec<String> = directories.iter().flat_map(|it| files_below(it)).collect();
    let name = crate::common::regex(r"`([\w./-]+\.rs)`");
    let mut missing = Vec::new();
    for (file, text) in documents() {
        for found in name.captures_iter(&text) {
            // Pages name a file by its last parts, or by its crate and its place in that.
            let named = format!("/{}", &found[1]);
            let in_crate = named[1..].split_once('/');
            let in_crate = in_crate.map(|(name, rest)| format!("{name}/src/{rest}"));
            let is_there = files.iter().any(|path| {
                format!("/{path}").ends_with(&named)
                    || in_crate.as_ref().is_some_and(|it| path.ends_with(it))
            });
            if !is_there {
                missing.push(format!("{}: {}", file.display(), &found[1]));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_crate_is_in_the_picture_of_the_architecture() {
    let text = fs::read_to_string(repository().join("docs/architecture.md")).unwrap();
    let (_, after) = text.split_once("\n## Crates\n").unwrap();
    let picture = after.split("```").nth(1).unwrap();
    let shown: Vec<&str> = picture
        .lines()
        .filter_map(|line| {
            line.trim_start_matches([' ', '│', '├', '└', '─'])
                .split(' ')
                .next()
        })
        .collect();
    for entry in fs::read_dir(repository().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(shown.contains(&&*name), "{name} is not in {shown:?}");
    }
}
