//! Whole logs, as their readers see them. A first build, a miss without a Hydra and a build on a miss are in
//! `deploy.rs`, relocated ones in `relocate.rs`.

use crate::common::{Deploy, free_port, regex};
use crate::conditions::Small;
use crate::hydra::full_hydra;
use crate::hydra_server::{HydraServer, now, revision};
use serde_json::{Value, json};
use std::fs;

/// A whole log with what differs from run to run replaced.
fn log(deploy: &Deploy) -> String {
    let outcome = deploy.build();
    let log = deploy.stable(&format!("{}{}", outcome.detect_log, outcome.log));
    let log = regex("[0-9a-z]{32}-").replace_all(&log, "<hash>-");
    let log =
        regex("only [1-9][0-9.]* [a-zA-Z]+ were free").replace_all(&log, "only <size> were free");
    let log = regex("127.0.0.1:[0-9]+").replace_all(&log, "<address>");
    let log = regex("<hash>-[^ \\n]*/[^ \\n]* could not").replace_all(&log, "<file> could not");
    regex(r"\d+ seconds")
        .replace_all(&log, "N seconds")
        .into_owned()
}

/// The static sample app, deployed by a job of a Hydra that has built it.
fn by_job() -> Option<(Deploy, HydraServer)> {
    let fixtures = crate::common::fixtures()?;
    let hydra = full_hydra(&fixtures.apps["static"].store_path);
    let mut deploy = Deploy::with_hook("static", hydra.hook())?;
    deploy
        .set("NIX_HYDRA_JOB", "acme/main/myapp")
        .set("NIX_REVISION", &revision('a'));
    Some((deploy, hydra))
}

#[test]
fn a_redeploy() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    deploy.built();
    let programs = deploy.fixtures.apps["static"].store_path.clone();
    deploy
        .set("NIX_STORE_PATH", &programs)
        .set("NIX_REVISION", &revision('a'));
    insta::assert_snapshot!(log(&deploy));
}

#[test]
fn a_miss_where_hydra_has_another_revision() {
    let Some(fixtures) = crate::common::fixtures() else {
        return;
    };
    let hydra = full_hydra(&fixtures.apps["static"].store_path);
    let Some(mut deploy) = Deploy::with_hook("static", hydra.hook()) else {
        return;
    };
    let file = deploy.app().join("myapp.c");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, text + "\n").unwrap();
    let url = deploy.cache.url();
    deploy
        .set("NIX_HYDRA_URL", &url)
        .set("NIX_REVISION", &revision('b'));
    insta::assert_snapshot!(log(&deploy));
}

#[test]
fn a_job_that_is_waited_for() {
    let Some((deploy, hydra)) = by_job() else {
        return;
    };
    let done = hydra.state().builds[&10].clone();
    {
        let mut state = hydra.state();
        let build = state.builds.get_mut(&10).unwrap();
        build["finished"] = json!(0);
        for null in ["buildstatus", "starttime", "stoptime"] {
            build[null] = Value::Null;
        }
        build["timestamp"] = json!(now() - 180);
    }
    let mut asked = 0;
    hydra.on(move |state, _| {
        asked += 1;
        if asked > 3 {
            state.builds.insert(10, done.clone());
        }
    });
    insta::assert_snapshot!(log(&deploy));
}

#[test]
fn a_job_that_failed() {
    let Some((deploy, hydra)) = by_job() else {
        return;
    };
    {
        let mut state = hydra.state();
        state.builds.get_mut(&10).unwrap()["buildstatus"] = json!(1);
        let name = "ab9zv2y5gm8hr6g318p0s6kaclwj4slr-myapp.drv";
        let said = "unpacking sources\nmyapp.c:3: error: expected `;'\n";
        state.logs.insert(name.to_string(), said.to_string());
    }
    insta::assert_snapshot!(log(&deploy));
}

#[test]
fn no_procfile() {
    let Some(deploy) = Deploy::by_path("python") else {
        return;
    };
    fs::remove_file(deploy.app().join("Procfile")).unwrap();
    insta::assert_snapshot!(log(&deploy));
}

#[test]
fn two_wrong_settings() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    deploy
        .set("NIX_ENGINE", "docker")
        .set("NIX_HYDRA_WAIT", "soon");
    insta::assert_snapshot!(log(&deploy));
}

#[test]
fn a_cache_that_is_down() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    deploy.set("NIX_EXTRA_BINARY_CACHE", &nowhere);
    insta::assert_snapshot!(log(&deploy));
}

#[test]
fn no_key() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    deploy.unset("NIX_TRUSTED_PUBLIC_KEYS");
    insta::assert_snapshot!(log(&deploy));
}

#[test]
fn another_key() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    let key = "acme:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    deploy.set("NIX_TRUSTED_PUBLIC_KEYS", key);
    insta::assert_snapshot!(log(&deploy));
}

#[test]
fn a_full_disk() {
    let Some(deploy) = Deploy::by_path("python") else {
        return;
    };
    let Some(_small) = Small::new(deploy.image(), "12m") else {
        return;
    };
    insta::assert_snapshot!(log(&deploy));
}
