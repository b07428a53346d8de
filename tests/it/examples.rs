//! The sample apps of `fixtures/apps`, each deployed by what its own `project.toml` says.

use crate::common::{Deploy, copy, free_port, regex};
use crate::hydra_server::{HydraServer, build, eval, git, revision};
use http_client::{ApiRequest, Http};
use platform::image::Image;
use platform::process::Launch;
use platform::sandbox::Forbidden;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/apps")
        .join(name)
}

/// The settings in the `project.toml` of the sample app `name`.
fn settings(name: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(directory(name).join("project.toml")).unwrap();
    let project: toml::Table = text.parse().unwrap();
    let variables = project["io"]["buildpacks"]["build"]["env"].as_array();
    let pair = |variable: &toml::Value| {
        let text = |key| variable[key].as_str().unwrap().to_string();
        (text("name"), text("value"))
    };
    variables.unwrap().iter().map(pair).collect()
}

/// Has `deploy` do what the `project.toml` of `name` says, with the binary cache of the fixtures for the
/// one that is named, and `path` for the store path.
fn set_up(deploy: &mut Deploy, name: &str, path: &str) {
    for (variable, value) in settings(name) {
        match variable.as_str() {
            "NIX_EXTRA_BINARY_CACHE" => assert_eq!(value, "https://hydra.acme.net"),
            "NIX_TRUSTED_PUBLIC_KEYS" => assert!(value.starts_with("hydra.acme.net-1:")),
            "NIX_STORE_PATH" => {
                deploy.set("NIX_STORE_PATH", path);
            }
            _ => {
                deploy.set(&variable, &value);
            }
        }
    }
}

/// Builds, and answers the image and the log.
fn built(deploy: &Deploy) -> (Image, String) {
    let outcome = deploy.build();
    assert!(outcome.success(), "{}{}", outcome.detect_log, outcome.log);
    let log = deploy.stable(&outcome.log);
    let log = regex("/nix/store/[0-9a-z]{32}-").replace_all(&log, "/nix/store/<hash>-");
    (outcome.image.unwrap(), log.into_owned())
}

/// The page that the image's default process serves.
fn page(launch: Launch) -> String {
    let port = free_port();
    let _web = launch.env("PORT", &port.to_string()).start().unwrap();
    let url = format!("http://127.0.0.1:{port}/").parse().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Http::new().call_api(&url, None, ApiRequest::Get, 10_000) {
            Ok(reply) => return String::from_utf8(reply.body).unwrap(),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_procfile_and_a_store_path_are_enough() {
    let Some(mut deploy) = Deploy::new("relocate") else {
        return;
    };
    let path = deploy.fixtures.apps["relocate"].store_path.clone();
    fs::remove_dir_all(deploy.app()).unwrap();
    copy(&directory("store-path"), deploy.app());
    set_up(&mut deploy, "store-path", &path);
    let (image, log) = built(&deploy);
    insta::assert_snapshot!("store_path", log);
    let page = page(Launch::new(&image, &deploy.fixtures.rootfs));
    assert!(page.contains("relocated closure"), "{page}");
}

#[test]
fn a_flake_is_deployed() {
    let Some(mut deploy) = Deploy::new("flake") else {
        return;
    };
    set_up(&mut deploy, "flake", "");
    let (image, log) = built(&deploy);
    insta::assert_snapshot!("flake", log);
    let page = page(Launch::new(&image, &deploy.fixtures.rootfs));
    assert!(page.contains("a flake"), "{page}");
}

#[test]
fn a_hydra_job_is_deployed() {
    let Some(fixtures) = crate::common::fixtures() else {
        return;
    };
    let path = fixtures.apps["hydra-job"].store_path.clone();
    let hydra = HydraServer::new(|state| {
        let inputs = json!({ "my-project": git("https://git.acme.net/site", &revision('a')) });
        let mut build = build(10, &[1], &path);
        build["job"] = json!("site");
        state.jobs.insert((1, "site".to_string()), 10);
        state.add(eval(1, &inputs), build);
    });
    let Some(mut deploy) = Deploy::with_hook("hydra-job", hydra.hook()) else {
        return;
    };
    set_up(&mut deploy, "hydra-job", "");
    deploy.set("NIX_REVISION", &revision('a'));
    let (image, log) = built(&deploy);
    insta::assert_snapshot!("hydra_job", log);
    let page = page(Launch::new(&image, &deploy.fixtures.rootfs));
    assert!(page.contains("a Hydra job"), "{page}");
}

#[test]
fn a_relocated_closure_runs_where_no_engine_could() {
    let Some(mut deploy) = Deploy::new("relocate") else {
        return;
    };
    set_up(&mut deploy, "relocate", "");
    let (image, log) = built(&deploy);
    insta::assert_snapshot!("relocate", log);
    let launch = Launch::new(&image, &deploy.fixtures.rootfs).sandbox(|sandbox| {
        sandbox
            .forbid(Forbidden::Ptrace)
            .forbid(Forbidden::UserNamespaces)
    });
    let page = page(launch);
    assert!(page.contains("a relocated closure"), "{page}");
}

#[test]
fn every_sample_says_in_its_files_what_it_shows() {
    let samples: Vec<_> = ["store-path", "flake", "hydra-job", "relocate"].into();
    for name in samples {
        for file in ["project.toml", "Procfile"] {
            let text = fs::read_to_string(directory(name).join(file)).unwrap();
            assert!(text.starts_with("# "), "{name}/{file}");
        }
    }
}
