//! `nix-hydra check` tells what a build would come to: the two never disagree.

use crate::common::{Deploy, free_port, regex, strip_ansi};
use crate::hydra::full_hydra;
use crate::hydra_server::revision;
use nix_hydra_start::closure::Closure;
use platform::lifecycle::Outcome;
use platform::sandbox::Output;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// The message that a build ended with, without its frame.
fn message(log: &str) -> String {
    let log = strip_ansi(log);
    let lines: Vec<&str> = log.trim_end().lines().rev().collect();
    let framed = lines.iter().take_while(|line| line.starts_with('!'));
    let mut message: Vec<&str> = framed
        .map(|line| {
            line.trim_start_matches('!')
                .strip_prefix(' ')
                .unwrap_or_default()
        })
        .collect();
    message.reverse();
    message.join("\n")
}

/// A check, and then a build: they say the same.
fn agreed(deploy: &Deploy) -> (Output, Outcome) {
    let kept = TempDir::new().unwrap();
    let check = deploy.check(&[], kept.path());
    let nars = deploy
        .requests()
        .into_iter()
        .filter(|path| path.starts_with("/nar/"));
    assert_eq!(nars.count(), 0, "a check downloads nothing of the closure");
    let outcome = deploy.build();
    assert_eq!(
        check.code == 0,
        outcome.success(),
        "{check:?}\n\n{}{}",
        outcome.detect_log,
        outcome.log
    );
    if !outcome.success() {
        // Paths of the app are others in a build.
        let message = message(&outcome.log).replace("/workspace", "/app");
        assert!(!message.is_empty(), "{}", outcome.log);
        assert!(check.stdout.contains(&message), "{message}\n\n{check:?}");
    }
    (check, outcome)
}

/// What a check says, with what differs from run to run replaced.
fn shown(deploy: &Deploy, check: &Output) -> String {
    let text = deploy.stable(&check.stdout);
    regex("[0-9a-z]{32}-")
        .replace_all(&text, "<hash>-")
        .into_owned()
}

#[test]
fn a_hit_by_evaluation_says_what_a_deploy_would_find() {
    let Some(deploy) = Deploy::new("python") else {
        return;
    };
    let (check, outcome) = agreed(&deploy);
    insta::assert_snapshot!("hit", shown(&deploy, &check));
    // The sizes are those that the build has found.
    let log = deploy.stable(&outcome.log);
    assert!(
        log.contains("Downloading 30 store paths: 22.6 MB, 65.7 MB unpacked"),
        "{log}"
    );
}

#[test]
fn another_check_downloads_no_nix() {
    let Some(deploy) = Deploy::new("static") else {
        return;
    };
    let kept = TempDir::new().unwrap();
    for is_downloaded in [true, false] {
        deploy.requests();
        let check = deploy.check(&[], kept.path());
        assert_eq!(check.code, 0, "{check:?}");
        let mut requests = deploy.requests().into_iter();
        let archive = requests.any(|path| path.contains("nix") && path.contains(".tar"));
        assert_eq!(archive, is_downloaded, "{check:?}");
    }
}

#[test]
fn a_store_path_needs_no_nix() {
    let Some(deploy) = Deploy::by_path("python") else {
        return;
    };
    let (check, _) = agreed(&deploy);
    assert!(!check.stderr.contains("Nix 2"), "{check:?}");
}

#[test]
fn a_job_of_hydra_is_found_with_its_page_and_the_image_has_its_origin() {
    let Some(fixtures) = crate::common::fixtures() else {
        return;
    };
    let hydra = full_hydra(&fixtures.apps["static"].store_path);
    let Some(mut deploy) = Deploy::with_hook("static", hydra.hook()) else {
        return;
    };
    deploy
        .set("NIX_HYDRA_JOB", "acme/main/myapp")
        .set("NIX_REVISION", &revision('a'));
    let (check, outcome) = agreed(&deploy);
    insta::assert_snapshot!("job", shown(&deploy, &check));

    let image = outcome.image.unwrap();
    let labels: Vec<String> = image
        .record
        .labels
        .iter()
        .map(|label| format!("{}={}", label.key, label.value))
        .collect();
    let url = deploy.cache.url();
    let page = format!(
        "org.opencontainers.image.url={}/build/10",
        url.trim_end_matches('/')
    );
    assert!(labels.contains(&page), "{labels:?}");
    let source = "org.opencontainers.image.source=https://git.acme.net/my-project".to_string();
    assert!(labels.contains(&source), "{labels:?}");
    let doctor = deploy.run(&image, ["nix-hydra", "doctor"]).stdout;
    for label in image.record.labels {
        assert!(doctor.contains(&label.value), "{doctor}");
    }
}

#[test]
fn a_build_of_hydra_that_is_not_done_is_pending() {
    let Some(fixtures) = crate::common::fixtures() else {
        return;
    };
    let hydra = full_hydra(&fixtures.apps["static"].store_path);
    hydra.state().builds.get_mut(&10).unwrap()["finished"] = 0.into();
    let Some(mut deploy) = Deploy::with_hook("static", hydra.hook()) else {
        return;
    };
    deploy
        .set("NIX_HYDRA_JOB", "acme/main/myapp")
        .set("NIX_REVISION", &revision('a'))
        .set("NIX_HYDRA_WAIT", "0");
    let (check, _) = agreed(&deploy);
    assert_eq!(check.code, 1);
    assert!(
        check.stdout.starts_with("Not yet: Hydra is not done\n"),
        "{check:?}"
    );
}

#[test]
fn a_miss_is_diagnosed_as_a_build_does() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let file = deploy.app().join("myapp.c");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, text + "\n").unwrap();
    let (check, _) = agreed(&deploy);
    assert_eq!(check.code, 1);
    insta::assert_snapshot!("miss", shown(&deploy, &check));

    // Nothing is compiled, even where a deploy would.
    deploy.set("NIX_ON_MISS", "build");
    let kept = TempDir::new().unwrap();
    let check = deploy.check(&["--json"], kept.path());
    assert_eq!(check.code, 1, "{check:?}");
    let answer: Value = serde_json::from_str(&check.stdout).unwrap();
    assert_eq!(answer["status"], "miss");
    assert_eq!(answer["compiles"], true);
}

#[test]
fn what_a_deploy_would_refuse_or_not_reach_is_told_alike() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    for (name, value, status, beginning) in [
        (
            "NIX_ENGINE",
            "docker",
            2,
            "Wrong settings: The setting NIX_ENGINE cannot be used\n",
        ),
        ("NIX_CLOSURE_LIMIT", "10MB", 1, "A deploy would fail: "),
        ("NIX_FORBID", "libssl3", 1, "A deploy would fail: "),
        (
            "NIX_TRUSTED_PUBLIC_KEYS",
            "acme:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
            1,
            "Miss: ",
        ),
        (
            "NIX_STORE_PATH",
            "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-none",
            1,
            "Miss: ",
        ),
    ] {
        let before = deploy.setting(name);
        deploy.set(name, value);
        let (check, _) = agreed(&deploy);
        assert_eq!(check.code, status, "{name}: {check:?}");
        assert!(check.stdout.starts_with(beginning), "{name}: {check:?}");
        match before {
            Some(before) => deploy.set(name, &before),
            None => deploy.unset(name),
        };
    }
    fs::write(deploy.app().join("Procfile"), "web myapp\n").unwrap();
    assert_eq!(agreed(&deploy).0.code, 2);
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    deploy.set("NIX_EXTRA_BINARY_CACHE", &nowhere);
    fs::write(deploy.app().join("Procfile"), "web: myapp\n").unwrap();
    let (check, _) = agreed(&deploy);
    assert!(
        check.stdout.starts_with("A deploy would fail: "),
        "{check:?}"
    );
}

#[test]
fn without_a_procfile_the_process_is_said_to_be_unknown() {
    let Some(deploy) = Deploy::by_path("python") else {
        return;
    };
    fs::remove_file(deploy.app().join("Procfile")).unwrap();
    let (check, _) = agreed(&deploy);
    let processes =
        "Processes  web: `myapp` if there is such a program, or the only one: not known";
    assert!(check.stdout.contains(processes), "{check:?}");
}

#[test]
fn settings_may_be_in_project_toml_and_what_the_machine_s_nix_has_is_left_out() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let mut project = String::from("[_]\nschema-version = \"0.2\"\n");
    for name in ["NIX_EXTRA_BINARY_CACHE", "NIX_TRUSTED_PUBLIC_KEYS"] {
        let value = deploy.setting(name).unwrap();
        let variable = format!("name = \"{name}\"\nvalue = \"{value}\"\n");
        project.push_str("[[io.buildpacks.build.env]]\n");
        project.push_str(&variable);
        deploy.unset(name);
    }
    // It is a part of the source.
    let path = deploy.fixtures.apps["static"].store_path.clone();
    fs::write(deploy.app().join("project.toml"), project).unwrap();
    deploy.set("NIX_PATH", "nixpkgs=http://127.0.0.1:9/");
    let kept = TempDir::new().unwrap();
    let setting = format!("NIX_STORE_PATH={path}");
    let check = deploy.check(&["--env", &setting], kept.path());
    assert_eq!(check.code, 0, "{check:?}");
    assert!(!check.stderr.contains("NIX_PATH"), "{check:?}");
    fs::write(deploy.app().join("project.toml"), "[").unwrap();
    let check = deploy.check(&[], kept.path());
    assert_eq!(check.code, 2, "{check:?}");
}

#[test]
fn the_json_of_two_checks_can_be_compared_where_there_is_no_image() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    let directory = TempDir::new().unwrap();
    let kept = TempDir::new().unwrap();
    let other = deploy.fixtures.apps["static"].store_path.clone();
    let mut files = Vec::new();
    for name in ["before", "after"] {
        let check = deploy.check(&["--json"], kept.path());
        assert_eq!(check.code, 0, "{check:?}");
        let answer: Value = serde_json::from_str(&check.stdout).unwrap();
        assert_eq!(answer["status"], "hit");
        let paths = answer["paths"].as_array().unwrap().len();
        assert_eq!(Closure::parse(&check.stdout).unwrap().paths().len(), paths);
        files.push(directory.path().join(name));
        fs::write(files.last().unwrap(), check.stdout).unwrap();
        deploy.set("NIX_STORE_PATH", &other);
    }
    let program = |name: &str, words: &[&str]| {
        let program = crate::common::buildpack().join("bin").join(name);
        crate::common::output(Command::new(program).args(words).args(&files))
    };
    let diff = program("nix-hydra", &["diff"]);
    assert!(diff.contains("687.3 kB (-65.0 MB)"), "{diff}");
    let page = Command::new(crate::common::buildpack().join("bin/nix-hydra"))
        .args(["closure", "--html", "--since"])
        .args(&files)
        .output()
        .unwrap();
    let page = String::from_utf8(page.stdout).unwrap();
    assert!(page.contains("\"since\":[\"687.3 kB (-65.0 MB)"), "{page}");
}

#[test]
fn wrong_words_are_refused_and_the_help_names_the_statuses() {
    let program = crate::common::buildpack().join("bin/nix-hydra");
    let run = |words: &[&str]| {
        let output = Command::new(&program).args(words).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };
    let (status, help) = run(&["check", "--help"]);
    assert_eq!(status, 0);
    assert!(help.contains("The exit status is 0"), "{help}");
    assert_eq!(run(&["check", "--jsn"]).0, 2);
    let (status, help) = run(&["--help"]);
    assert_eq!(status, 0);
    assert!(help.contains("nix-hydra check [DIR]"), "{help}");
    // The buildpack's own program takes the command as well.
    let own = Command::new(Path::new(&program).with_file_name("build"))
        .args(["check", "--help"])
        .output()
        .unwrap();
    assert!(own.status.success());
}
