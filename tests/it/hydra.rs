//! What Hydra built is found by revision, waited for, and deployed without Nix.

use crate::common::Deploy;
use crate::evaluate::evaluate_fully;
use crate::hydra_server::{HydraServer, PASSWORD, State, USER, build, eval, git, now, revision};
use binary_cache::CacheUrl;
use http_client::{Credentials, Endpoint, Http, HttpError};

use hydra::revision::find;
use hydra::{DeployError, Deployed, Target, deploy};
use hydra::{Hydra, HydraError, Polling, inputs};
use hydra::{Job, Revision};
use nix_hydra_buildpack::config::{Config, Wanted};
use nix_hydra_buildpack::error::BuildpackError;
use nix_hydra_buildpack::resolve::ResolveError;
use nix_hydra_buildpack::resolve::source::Source;
use platform::server::{Response, Server};
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const APP: &str = "https://git.acme.net/my-project";
const NIXPKGS: &str = "https://github.com/NixOS/nixpkgs.git";
const PATH: &str = "/nix/store/y26qxcq1gg2hrqpxdc58b2fghv2bhxjg-myapp";

/// A Hydra that is asked over HTTP.
struct Asked {
    hydra: Hydra,
    server: Server,
    server_state: HydraServer,
    /// What was said.
    log: Vec<String>,
    files: TempDir,
}

impl Asked {
    fn new(fill: impl FnOnce(&mut State)) -> Self {
        let server_state = HydraServer::new(fill);
        let files = TempDir::new().unwrap();
        let server = Server::with_hook(files.path(), server_state.hook()).unwrap();
        Self {
            hydra: Hydra::new(server.url().parse().unwrap(), Http::new()),
            server,
            server_state,
            log: Vec::new(),
            files,
        }
    }

    fn signing_in_as(mut self, user: &str, password: &str) -> Self {
        let mut url: Endpoint = self.server.url().parse().unwrap();
        url.credentials = Some(Credentials::Basic {
            user: user.to_string(),
            password: password.to_string(),
        });
        self.hydra = Hydra::new(url, Http::new());
        self
    }

    fn deploy(&mut self, revision: &str, settings: Settings) -> Result<Deployed, DeployError> {
        self.deploy_job("acme/main/myapp", revision, settings)
    }

    fn deploy_job(
        &mut self,
        job: &str,
        revision: &str,
        settings: Settings,
    ) -> Result<Deployed, DeployError> {
        let job: Job = job.parse().unwrap();
        let revision = Revision {
            name: revision.to_string(),
            from: "NIX_REVISION".to_string(),
        };
        let polling = Polling {
            total: settings.wait,
            first: Duration::from_millis(5),
            longest: Duration::from_millis(5),
            line: Duration::from_millis(1),
        };
        let (hydra, log) = (&mut self.hydra, &mut self.log);
        let target = Target {
            job: &job,
            revision: &revision,
            input: settings.input,
            system: "x86_64-linux",
        };
        deploy(hydra, &target, polling, &mut |line| {
            log.push(line.to_string());
        })
    }

    fn message(&mut self, revision: &str) -> String {
        self.message_with(revision, Settings::default())
    }

    fn message_with(&mut self, revision: &str, settings: Settings) -> String {
        let error = self.deploy(revision, settings).unwrap_err();
        self.text(error)
    }

    fn said(&self) -> String {
        self.log
            .join("\n")
            .replace(&self.server.url(), "http://hydra")
    }

    fn text(&self, error: DeployError) -> String {
        let text = BuildpackError::from(ResolveError::from(error))
            .message()
            .to_string();
        assert!(!text.contains(PASSWORD), "{text}");
        text.replace(&self.server.url(), "http://hydra")
    }
}

#[derive(Default, Clone, Copy)]
struct Settings {
    wait: Duration,
    input: Option<&'static str>,
}

const PATIENT: Settings = Settings {
    wait: Duration::from_secs(20),
    input: None,
};

fn at(digit: char) -> Value {
    json!({
        "my-project": git(APP, &revision(digit)),
        "nixpkgs": git(NIXPKGS, &revision('0')),
        "officialRelease": { "type": "boolean", "value": "false", "uri": null, "revision": null, "dependency": null },
    })
}

/// One evaluation, of the revision of a's, with build 10 of it.
fn one(state: &mut State) {
    state.add(eval(1, &at('a')), build(10, &[1], PATH));
}

#[test]
fn a_revision_is_deployed_though_newer_ones_are_built() {
    let mut asked = Asked::new(|state| {
        for number in 1..=45 {
            let digit = if number == 3 { 'a' } else { 'b' };
            let path = format!("/nix/store/y26qxcq1gg2hrqpxdc58b2fghv2bhxjg-myapp-{number}");
            state.add(
                eval(number, &at(digit)),
                build(number * 10, &[number], &path),
            );
        }
    });
    let deployed = asked.deploy(&revision('a'), Settings::default()).unwrap();
    assert_eq!(deployed.build.id, 30);
    assert_eq!(deployed.paths[0].name(), "myapp-3");
    // The newest that has it counts, and as many pages are read as are needed.
    let newest = asked.deploy("bbbbbbb", Settings::default()).unwrap();
    assert_eq!(newest.build.id, 450);
    let paths: Vec<_> = asked.server.requests();
    let paths: Vec<_> = paths.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/jobset/acme/main/evals",
            "/jobset/acme/main/evals",
            "/jobset/acme/main/evals",
            "/eval/3/job/myapp",
            "/build/30",
            "/jobset/acme/main/evals",
            "/eval/45/job/myapp",
            "/build/450",
        ]
    );
}

#[test]
fn while_a_revision_is_built_again_the_build_that_it_has_already_is_named() {
    const OLDER: &str = "/nix/store/0c6kkf7pw4ix5v9gxjfb4k2sg9v1mssv-myapp";
    let mut asked = Asked::new(|state| {
        state.add(eval(1, &at('a')), build(10, &[1], OLDER));
        state.add(eval(2, &at('b')), build(20, &[2], PATH));
        // The same revision, with another nixpkgs.
        let mut inputs = at('a');
        inputs["nixpkgs"] = git(NIXPKGS, &revision('1'));
        let mut unfinished = build(30, &[3], PATH);
        unfinished["finished"] = json!(0);
        unfinished["buildstatus"] = Value::Null;
        state.add(eval(3, &inputs), unfinished);
    });
    let named = "Evaluation 1 has the same revision, with other inputs, and its build has succeeded: \
                 http://hydra/build/10";
    let message = asked.message(&revision('a'));
    assert!(message.contains(named), "{message}");
    assert!(
        message.contains(&format!("NIX_STORE_PATH={OLDER} deploys that.")),
        "{message}"
    );
    assert!(asked.said().contains(named), "{}", asked.said());
    // One that failed is no help.
    asked.server_state.state().builds.get_mut(&10).unwrap()["buildstatus"] = json!(1);
    let message = asked.message(&revision('a'));
    assert!(!message.contains("Evaluation 1"), "{message}");
    // Where the newest is finished, it is the one.
    asked
        .server_state
        .state()
        .builds
        .insert(30, build(30, &[3], PATH));
    let deployed = asked.deploy(&revision('a'), Settings::default()).unwrap();
    assert_eq!(deployed.build.id, 30);
}

#[test]
fn a_renamed_jobset_is_followed() {
    let mut asked = Asked::new(one);
    let deployed = asked.deploy_job("acme:old:myapp", &revision('a'), Settings::default());
    assert_eq!(deployed.unwrap().build.id, 10);
}

#[test]
fn the_latest_build_of_a_renamed_jobset_is_found_though_hydra_s_redirect_loses_the_system() {
    let mut asked = Asked::new(one);
    let deployed = asked.deploy_job("acme:old:myapp", "latest", Settings::default());
    assert_eq!(deployed.unwrap().build.id, 10);
}

#[test]
fn the_latest_build_of_a_jobset_that_is_not_there_is_told_apart_from_none() {
    let mut asked = Asked::new(one);
    let mut message = |job| {
        let error = asked.deploy_job(job, "latest", Settings::default());
        asked.text(error.unwrap_err())
    };
    assert!(message("acme:main:myap").contains("Hydra never built acme:main:myap"));
    assert!(message("acme:mian:myapp").contains("Jobset ‘mian’ doesn't exist."));
    assert!(message("acem:main:myapp").contains("Project ‘acem’ doesn't exist."));
}

/// An evaluation of a flake, with new builds or without.
fn of_flake(id: u64, digit: char, new: u64) -> Value {
    let mut evaluation = eval(id, &json!({}));
    evaluation["flake"] = json!(format!("git+{APP}?ref=main&rev={}", revision(digit)));
    evaluation["hasnewbuilds"] = json!(new);
    evaluation
}

#[test]
fn a_flake_s_evaluation_without_new_builds_is_deployed_as_the_one_before() {
    let mut asked = Asked::new(|state| {
        state.add(of_flake(1, 'c', 1), build(10, &[1], PATH));
        // Another jobset's is between them, and a number that was never used.
        state.evals.insert(0, of_flake(2, 'd', 0));
        state.of_other.push(2);
        state.evals.insert(0, of_flake(4, 'd', 0));
    });
    let deployed = asked.deploy(&revision('d'), PATIENT).unwrap();
    assert_eq!(deployed.build.id, 10);
    let said = asked.said();
    assert!(
        said.contains("Evaluation 4 has revision dddddddddddd and brought no new builds: it built the same as evaluation 1"),
        "{said}"
    );
}

#[test]
fn a_flake_s_evaluation_that_comes_about_between_two_requests_is_deployed_itself() {
    let mut asked = Asked::new(|state| {
        state.add(of_flake(1, 'c', 1), build(10, &[1], PATH));
    });
    asked.server_state.on(|state, _| {
        // The list was read, and is asked about the jobset itself.
        if state.evals.len() == 1 && state.times("/jobset/acme/main") == 1 {
            state.add(of_flake(2, 'd', 1), build(20, &[2], PATH));
        }
    });
    let deployed = asked.deploy(&revision('d'), PATIENT).unwrap();
    assert_eq!(deployed.build.id, 20);
}

/// A jobset with an evaluation of a's revision, of a repository of which those of f's, a's and b's are
/// fetched. Hydra looks at it while it is waited for, if `is_checked`.
fn fetched(is_checked: bool) -> Asked {
    let asked = Asked::new(|state| {
        one(state);
        state.fetched = ['f', 'a', 'b'].map(revision).into();
    });
    asked.server_state.on(move |state, before| {
        if is_checked && before == 1 {
            state.jobset["lastcheckedtime"] = json!(now());
        }
    });
    asked
}

#[test]
fn a_revision_that_hydra_has_fetched_and_does_not_evaluate_is_not_waited_for() {
    let advice = format!("Deploy that with NIX_REVISION={}.", revision('a'));
    for (digit, why) in [
        ('b', "it brought no new builds"),
        ('f', "has evaluated a later one"),
    ] {
        let mut asked = fetched(true);
        let started = Instant::now();
        let message = asked.message_with(&revision(digit), PATIENT);
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(message.contains(why), "{message}");
        assert!(message.contains(&advice), "{message}");
    }
    // Where Hydra only evaluates when it is told to, nothing is to be waited for.
    let mut asked = fetched(false);
    asked.server_state.state().jobset["checkinterval"] = json!(0);
    let message = asked.message_with(&revision('b'), PATIENT);
    assert!(message.contains(&advice), "{message}");
}

#[test]
fn a_revision_that_hydra_has_fetched_for_another_jobset_or_is_to_evaluate_is_waited_for() {
    let brief = Settings {
        wait: Duration::from_millis(300),
        input: None,
    };
    let waits = |asked: &mut Asked| {
        let message = asked.message_with(&revision('b'), brief);
        assert!(
            message.contains("wait longer with NIX_HYDRA_WAIT"),
            "{message}"
        );
    };
    waits(&mut fetched(false));
    let mut triggered = fetched(true);
    triggered.server_state.state().jobset["triggertime"] = json!(now() - 5);
    waits(&mut triggered);
    assert!(
        triggered
            .said()
            .contains("Hydra was told to evaluate the jobset 5 seconds ago")
    );
    // The errors of single jobs are those of an evaluation that came about.
    let mut with_errors = fetched(true);
    with_errors.server_state.state().errormsg = "in job ‘other’:\nerror: x\n\n".to_string();
    let message = with_errors.message_with(&revision('b'), PATIENT);
    assert!(message.contains("it brought no new builds"), "{message}");
    assert!(!message.contains("error: x"), "{message}");
}

#[test]
fn a_flake_is_found_by_the_revision_in_its_locked_url() {
    let mut asked = Asked::new(|state| {
        let mut of_flake = eval(1, &json!({}));
        of_flake["flake"] = json!(format!("git+{APP}?ref=main&rev={}", revision('c')));
        state.add(of_flake, build(10, &[1], PATH));
    });
    let deployed = asked.deploy(&revision('c'), Settings::default()).unwrap();
    assert_eq!(deployed.paths[0].to_absolute_path(), PATH);
}

#[test]
fn outputs_with_programs_come_first() {
    let mut asked = Asked::new(|state| {
        let mut with_outputs = build(10, &[1], PATH);
        let path = |name: &str| json!({ "path": format!("{PATH}{name}") });
        with_outputs["buildoutputs"] = json!({
            "out": path(""), "man": path("-man"), "dev": path("-dev"), "bin": path("-bin"),
        });
        state.add(eval(1, &at('a')), with_outputs);
    });
    let deployed = asked.deploy(&revision('a'), Settings::default()).unwrap();
    let names: Vec<_> = deployed
        .paths
        .iter()
        .map(nix_derivation::StorePath::name)
        .collect();
    assert_eq!(names, ["myapp-bin", "myapp"]);
}

#[test]
fn the_latest_build_is_taken_only_where_it_is_asked_for_and_its_revision_is_told() {
    let mut asked = Asked::new(|state| {
        one(state);
        let mut failed = build(20, &[2], PATH);
        failed["buildstatus"] = json!(1);
        state.add(eval(2, &at('b')), failed);
    });
    let deployed = asked.deploy("latest", Settings::default()).unwrap();
    assert_eq!(deployed.build.id, 10);
    insta::assert_snapshot!(asked.said());
}

#[test]
fn hydra_is_waited_for_until_it_has_evaluated_and_built() {
    let mut asked = Asked::new(|state| state.jobset["starttime"] = json!(now() - 60));
    asked.server_state.on(|state, before| {
        let unfinished = || {
            let mut build = build(10, &[1], PATH);
            build["finished"] = json!(0);
            for null in ["buildstatus", "starttime", "stoptime"] {
                build[null] = Value::Null;
            }
            build["timestamp"] = json!(now() - 180);
            build
        };
        match (state.evals.len(), before) {
            (0, 2) => state.add(eval(1, &at('a')), unfinished()),
            (1, 2) => {
                state.steps.insert((10, 1), json!({
                    "machine": "", "system": "x86_64-linux", "stepnr": 1, "starttime": now() - 90, "resolveddrvpath": null,
                    "drvpath": "/nix/store/ab9zv2y5gm8hr6g318p0s6kaclwj4slr-libfoo-1.0.drv", "build": {},
                }));
                state.steps.insert((10, 2), json!({
                    "machine": "builder@mac-7.acme.net", "system": "x86_64-linux", "stepnr": 2, "starttime": now() - 30, "resolveddrvpath": null,
                    "drvpath": "/nix/store/ab9zv2y5gm8hr6g318p0s6kaclwj4slr-myapp.drv", "build": {},
                }));
            }
            (1, 4) => {
                state.builds.insert(10, build(10, &[1], PATH));
            }
            _ => {}
        }
    });
    let deployed = asked.deploy(&revision('a'), PATIENT).unwrap();
    assert_eq!(deployed.paths[0].to_absolute_path(), PATH);
    // The clock goes on meanwhile.
    let regex = regex_lite::Regex::new(r"\d+ seconds").unwrap();
    let said = regex.replace_all(&asked.said(), "N seconds").into_owned();
    // How often each was seen depends on the clock.
    let mut lines: Vec<&str> = said.lines().collect();
    lines.dedup();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_hydra_that_stumbles_while_it_is_waited_for_is_asked_again() {
    let mut asked = Asked::new(|_| {});
    let inner = asked.server_state.hook();
    let stumbles = std::sync::atomic::AtomicUsize::new(0);
    let server_state = asked.server_state.clone();
    // It has neither evaluated nor built when it is asked first, and then stumbles at each step for
    // longer than one question is repeated: five times.
    asked.server = Server::with_hook("/nonexistent", move |request| {
        use std::sync::atomic::Ordering::SeqCst;
        let is_asked = |path: &str| request.path == path;
        let count = stumbles.load(SeqCst);
        let stumble = match count {
            0..5 => is_asked("/jobset/acme/main"),
            5..10 => is_asked("/jobset/acme/main/evals"),
            10..15 => is_asked("/build/10") && server_state.state().builds[&10]["finished"] == 0,
            _ => false,
        };
        if !stumble {
            return inner(request);
        }
        stumbles.fetch_add(1, SeqCst);
        let mut state = server_state.state();
        match count {
            9 => {
                let mut unfinished = build(10, &[1], PATH);
                unfinished["finished"] = json!(0);
                state.add(eval(1, &at('a')), unfinished);
            }
            14 => {
                state.builds.insert(10, build(10, &[1], PATH));
            }
            _ => {}
        }
        Some(Response::new(502))
    })
    .unwrap();
    asked.hydra = Hydra::new(asked.server.url().parse().unwrap(), Http::new());
    assert_eq!(asked.deploy(&revision('a'), PATIENT).unwrap().build.id, 10);
    let silent = |line: &&String| line.contains("does not answer");
    let count = asked.log.iter().filter(silent).count();
    assert_eq!(count, 3, "{:?}", asked.log);
}

#[test]
fn every_way_for_a_build_to_end_has_words_and_shows_the_log() {
    let mut asked = Asked::new(one);
    let lines: Vec<_> = (1..=40)
        .map(|line| format!("\u{1b}[32mline\u{1b}[0m {line}"))
        .collect();
    let log = lines.join("\n");
    let mut messages = Vec::new();
    let statuses = [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12].map(|status| json!(status));
    for status in statuses.into_iter().chain([Value::Null]) {
        {
            let mut state = asked.server_state.state();
            state.builds.get_mut(&10).unwrap()["buildstatus"] = status.clone();
            state.logs.clear();
            state.steps.clear();
            match status.as_u64() {
                Some(1) => {
                    let name = "ab9zv2y5gm8hr6g318p0s6kaclwj4slr-myapp.drv";
                    state.logs.insert(name.to_string(), log.clone());
                }
                // The log is that of the dependency.
                Some(2) => {
                    let name = "ab9zv2y5gm8hr6g318p0s6kaclwj4slr-libfoo-1.0.drv";
                    state
                        .logs
                        .insert(name.to_string(), "no rule to make foo\n".to_string());
                    state.steps.insert((10, 1), json!({
                        "machine": "", "system": "x86_64-linux", "stepnr": 1, "starttime": 1_588_365_711,
                        "drvpath": format!("/nix/store/{name}"), "resolveddrvpath": null, "build": {},
                    }));
                }
                _ => {}
            }
        }
        messages.push(asked.message(&revision('a')));
    }
    insta::assert_snapshot!(messages.join("\n\n==========\n\n"));
}

#[test]
fn what_hydra_has_not_done_yet_is_told_with_what_it_does() {
    let mut messages = Vec::new();
    let mut asked = Asked::new(one);
    messages.push(asked.message(&revision('d')));
    let wait = Settings {
        wait: Duration::from_millis(1100),
        input: Some("my-project"),
    };
    messages.push(asked.message_with(&revision('d'), wait));
    asked.server_state.state().jobset["fetcherrormsg"] = json!(
        "error fetching latest change from git repo at `https://git.acme.net/my-project':\nfatal: could not read Username"
    );
    messages.push(asked.message(&revision('d')));
    asked.server_state.state().jobset["fetcherrormsg"] = json!("");
    asked.server_state.state().errormsg =
        "at top-level:\nerror: undefined variable 'x'\n       at release.nix:2:3\n\n".to_string();
    messages.push(asked.message(&revision('d')));
    asked.server_state.state().errormsg = String::new();
    asked.server_state.state().jobset["enabled"] = json!(0);
    // Nothing would come of waiting.
    messages.push(asked.message_with(&revision('d'), PATIENT));
    asked.server_state.state().builds.get_mut(&10).unwrap()["finished"] = json!(0);
    asked.server_state.state().builds.get_mut(&10).unwrap()["timestamp"] = json!(now() - 7300);
    messages.push(asked.message(&revision('a')));
    // An old Hydra tells less.
    asked.server_state.state().is_old = true;
    messages.push(asked.message(&revision('a')));
    asked.server_state.state().busy.push(10);
    messages.push(asked.message(&revision('a')));
    insta::assert_snapshot!(messages.join("\n\n==========\n\n"));
}

#[test]
fn what_cannot_be_found_is_told_with_what_there_is() {
    let mut messages = Vec::new();
    let mut asked = Asked::new(|state| {
        state.add(
            eval(
                1,
                &json!({
                    "my-project": git(APP, &format!("{}1", "a".repeat(39))),
                    "library": git(APP, &format!("{}2", "a".repeat(39))),
                }),
            ),
            build(10, &[1], PATH),
        );
    });
    messages.push(asked.message("aaaaaaa"));
    // Where the input is named, there is no doubt.
    let input = |input| Settings {
        input: Some(input),
        ..Settings::default()
    };
    assert_eq!(
        asked.deploy("aaaaaaa", input("library")).unwrap().build.id,
        10
    );
    messages.push(asked.message_with("aaaaaaa", input("my-porject")));
    let revision = format!("{}1", "a".repeat(39));
    for job in ["acme/main/myap", "acme/mian/myapp", "acem/main/myapp"] {
        let error = asked
            .deploy_job(job, &revision, Settings::default())
            .unwrap_err();
        messages.push(asked.text(error));
    }
    asked.server_state.state().errormsg =
        "in job ‘other’:\nerror: x\n\nin job ‘myap’:\nerror: attribute 'pythn3' missing\n\n"
            .to_string();
    let error = asked.deploy_job("acme/main/myap", &revision, Settings::default());
    messages.push(asked.text(error.unwrap_err()));
    asked.server_state.state().builds.get_mut(&10).unwrap()["system"] = json!("aarch64-darwin");
    messages.push(asked.message(&revision));
    messages.push(asked.message("latest"));
    asked.server_state.state().builds.get_mut(&10).unwrap()["system"] = json!("x86_64-linux");
    asked.server_state.state().builds.get_mut(&10).unwrap()["buildoutputs"]["out"]["path"] =
        Value::Null;
    messages.push(asked.message(&revision));
    insta::assert_snapshot!(messages.join("\n\n==========\n\n"));
}

#[test]
fn a_private_hydra_is_signed_in_to_once_whatever_it_believes_its_url_to_be() {
    let mut asked = Asked::new(|state| {
        one(state);
        state.private = true;
    })
    .signing_in_as(USER, PASSWORD);
    assert_eq!(
        asked
            .deploy(&revision('a'), Settings::default())
            .unwrap()
            .build
            .id,
        10
    );
    let logins = asked.server.requests();
    let logins = logins.iter().filter(|request| request.path == "/login");
    // The first came from the URL that the user named, the second from the one it believes in.
    assert_eq!(logins.count(), 2);
    // Its cookie is for it as a binary cache as well, and for nobody else.
    let info = asked.files.path().join("nix-cache-info");
    fs::write(info, "StoreDir: /nix/store\n").unwrap();
    let mut caches = vec!["https://cache.nixos.org".parse().unwrap()];
    asked.hydra.add_to(&mut caches);
    asked.hydra.let_into(&mut caches);
    let cookies: Vec<_> = caches
        .iter()
        .map(|cache| {
            matches!(
                cache.endpoint.credentials,
                Some(Credentials::Session { .. })
            )
        })
        .collect();
    assert_eq!(cookies, [true, false]);
}

#[test]
fn a_private_hydra_that_lets_nobody_in_is_told_apart() {
    let private = |state: &mut State| {
        one(state);
        state.private = true;
    };
    let mut without = Asked::new(private);
    let mut wrong = Asked::new(private).signing_in_as(USER, "letmein");
    let messages = [
        without.message(&revision('a')),
        wrong.message(&revision('a')),
    ];
    insta::assert_snapshot!(messages.join("\n\n==========\n\n"));
}

#[test]
fn credentials_and_cookie_go_to_no_other_host() {
    let files = TempDir::new().unwrap();
    fs::create_dir(files.path().join("log")).unwrap();
    let name = "ab9zv2y5gm8hr6g318p0s6kaclwj4slr-myapp.drv";
    fs::write(
        files.path().join("log").join(name),
        "make: *** [all] Error 2\n",
    )
    .unwrap();
    // As cache.nixos.org has its logs.
    let bucket = Server::with_hook("/nonexistent", move |request| {
        let text = fs::read(files.path().join(request.path.trim_start_matches('/'))).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&text).unwrap();
        let answer = Response::new(200).header("Content-Encoding", "gzip");
        Some(answer.body(encoder.finish().unwrap()))
    })
    .unwrap();
    let mut asked = Asked::new(|state| {
        one(state);
        state.private = true;
        state.builds.get_mut(&10).unwrap()["buildstatus"] = json!(1);
        state.log_prefix = Some(format!("{}/", bucket.url()));
    })
    .signing_in_as(USER, PASSWORD);
    let message = asked.message(&revision('a'));
    assert!(message.contains("make: *** [all] Error 2"), "{message}");
    let requests = bucket.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("authorization"), None);
    assert_eq!(requests[0].header("cookie"), None);
}

#[test]
fn the_first_binary_cache_that_is_a_hydra_is_asked() {
    let asked = Asked::new(one);
    let other = Server::start("/nonexistent").unwrap();
    let job: Job = "acme/main/myapp".parse().unwrap();
    let caches: Vec<CacheUrl> = [
        "file:///nonexistent".to_string(),
        other.url(),
        asked.server.url(),
    ]
    .iter()
    .map(|url| url.parse().unwrap())
    .collect();
    let found = Hydra::find(&caches, Some(&job), &Http::new()).unwrap();
    assert_eq!(found.to_string(), asked.server.url());
    let none = Hydra::find(&caches[..2], Some(&job), &Http::new()).unwrap_err();
    let none = BuildpackError::from(ResolveError::from(none))
        .message()
        .to_string();
    let nobody = Hydra::find(&[], Some(&job), &Http::new()).unwrap_err();
    let nobody = BuildpackError::from(ResolveError::from(nobody))
        .message()
        .to_string();
    // A proxy that wants something else.
    let proxy = Server::with_hook("/nonexistent", |_| Some(Response::new(401))).unwrap();
    let mut refused = Hydra::new(proxy.url().parse().unwrap(), Http::new());
    let refused = refused.get::<Value>("build/1").unwrap_err();
    let refused = BuildpackError::from(ResolveError::from(refused))
        .message()
        .to_string();
    let refused = refused.replace(&proxy.url(), "http://proxy");
    let elsewhere = Hydra::new(other.url().parse().unwrap(), Http::new());
    let mut elsewhere = Asked {
        hydra: elsewhere,
        ..asked
    };
    let wrong = elsewhere.message(&revision('a'));
    let down = HydraError::Http {
        url: "http://hydra/build/1".to_string(),
        error: HttpError::Transport("Connection refused (os error 111)".to_string()),
    };
    let down = BuildpackError::from(ResolveError::from(down))
        .message()
        .to_string();
    let messages = [none, nobody, wrong, refused, down].join("\n\n==========\n\n");
    insta::assert_snapshot!(messages.replace(&other.url(), "http://other"));
}

#[test]
fn of_several_caches_the_hydra_that_has_the_jobset_is_asked() {
    let refuses = |status, body: Value| {
        let hook = move |_: &_| Some(Response::new(status).body(body.to_string()));
        Server::with_hook("/nonexistent", hook).unwrap()
    };
    let attic = refuses(
        404,
        json!({ "code": 404, "error": "NotFound", "message": "The URL you requested was not found." }),
    );
    let other = refuses(404, json!({ "error": "Project ‘acme’ doesn't exist." }));
    let asked = Asked::new(one);
    let job: Job = "acme/main/myapp".parse().unwrap();
    let found = |servers: &[&Server]| {
        let caches: Vec<CacheUrl> = servers
            .iter()
            .map(|server| server.url().parse().unwrap())
            .collect();
        let found = Hydra::find(&caches, Some(&job), &Http::new());
        found.map(|hydra| hydra.to_string())
    };
    let own = asked.server.url();
    assert_eq!(found(&[&attic, &other, &asked.server]).unwrap(), own);
    assert_eq!(found(&[&attic, &other]).unwrap(), other.url());
    let none = found(&[&attic]).unwrap_err();
    assert!(matches!(none, HydraError::NoHydra { .. }), "{none:?}");
}

#[test]
fn a_cache_that_may_be_the_hydra_is_told_with_what_it_said() {
    let job: Job = "acme/main/myapp".parse().unwrap();
    let no_hydra = Server::start("/nonexistent").unwrap();
    let down = Server::with_hook("/nonexistent", |_| Some(Response::new(502))).unwrap();
    let proxy = Server::with_hook("/nonexistent", |_| Some(Response::new(401))).unwrap();
    let nobody = format!("http://127.0.0.1:{}", crate::common::free_port());
    let urls = [
        (no_hydra.url(), "http://other"),
        (down.url(), "http://down"),
        (proxy.url(), "http://proxy"),
        (nobody, "http://nobody"),
    ];
    let message = |named: &[usize]| {
        let urls = &urls;
        let caches: Vec<CacheUrl> = named
            .iter()
            .map(|index| urls[*index].0.parse().unwrap())
            .collect();
        let error = Hydra::find(&caches, Some(&job), &Http::new()).unwrap_err();
        let text = BuildpackError::from(ResolveError::from(error))
            .message()
            .to_string();
        urls.iter()
            .fold(text, |text, (url, name)| text.replace(url, name))
    };
    let messages = [&[0, 1][..], &[0, 2], &[3], &[0, 2, 3]].map(message);
    insta::assert_snapshot!(messages.join("\n\n==========\n\n"));
}

#[test]
fn a_hydra_leads_nobody_to_a_link_local_address() {
    let metadata = "http://169.254.169.254";
    let mut asked = Asked::new(one);
    asked.server = Server::with_hook("/nonexistent", move |request| {
        let to = format!("{metadata}{}", request.path);
        Some(Response::new(302).header("Location", &to))
    })
    .unwrap();
    asked.hydra = Hydra::new(asked.server.url().parse().unwrap(), Http::new());
    let error = asked.hydra.get::<Value>("latest/meta-data").unwrap_err();
    let text = asked.text(error.into());
    assert!(
        text.contains("it redirects to a link-local address"),
        "{text}"
    );
    // One that a proxy knows by such an address is asked where it was named.
    let mut asked = Asked::new(|state| {
        one(state);
        state.base = metadata.to_string();
    });
    let deployed = asked.deploy(&revision('a'), Settings::default());
    assert_eq!(deployed.unwrap().build.id, 10);
}

#[test]
fn a_password_is_not_sent_for_ever_to_a_hydra_that_does_not_know_its_url() {
    let logins = std::sync::atomic::AtomicUsize::new(0);
    let mut asked = Asked::new(|_| {});
    asked.server = Server::with_hook("/nonexistent", move |request| {
        let said = if request.path == "/login" {
            let count = logins.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            assert!(count < 20, "for ever");
            let other = ["a", "b"][count % 2];
            format!("POST requests should come from ‘http://{other}/’.")
        } else {
            "This page requires you to sign in.".to_string()
        };
        let body = json!({ "error": said }).to_string();
        Some(Response::new(403).body(body))
    })
    .unwrap();
    let mut asked = asked.signing_in_as(USER, PASSWORD);
    let error = asked.hydra.get::<Value>("build/1").unwrap_err();
    assert!(matches!(error, HydraError::SignIn { .. }), "{error:?}");
    let requests = asked.server.requests();
    let logins = requests.iter().filter(|request| request.path == "/login");
    assert_eq!(logins.count(), 3);
}

#[test]
fn the_revision_is_the_one_that_is_named_else_that_of_a_clean_checkout() {
    let app = TempDir::new().unwrap();
    let unknown = find(None, app.path()).unwrap_err();
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-C"])
            .arg(app.path())
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    git(&["init", "--quiet"]);
    fs::write(app.path().join("main.py"), "x").unwrap();
    fs::write(app.path().join(".gitignore"), "*.log\n").unwrap();
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "--message", "all"]);
    assert_eq!(
        find(None, app.path()).unwrap().name,
        git(&["rev-parse", "HEAD"])
    );
    fs::write(app.path().join("main.py"), "y").unwrap();
    for number in 0..7 {
        fs::write(app.path().join(format!("{number}.log")), "").unwrap();
    }
    let changed = find(None, app.path()).unwrap_err();
    fs::write(app.path().join(".git/HEAD"), "nonsense").unwrap();
    let broken = find(None, app.path()).unwrap_err();
    let named = Revision {
        name: revision('a'),
        from: "SOURCE_VERSION".to_string(),
    };
    assert_eq!(find(Some(&named), app.path()).unwrap(), named);
    let messages = [unknown, changed, broken].map(|error| {
        let error = BuildpackError::from(ResolveError::Hydra(DeployError::Revision(error)));
        let message = error.message().to_string();
        message.replace(app.path().to_str().unwrap(), "/workspace")
    });
    insta::assert_snapshot!(messages.join("\n\n==========\n\n"));
}

#[test]
fn the_jobset_s_inputs_are_looked_up_after_what_the_user_set() {
    let mut asked = Asked::new(|state| {
        one(state);
        let mut newer = at('b');
        newer["nixpkgs"] = git(NIXPKGS, &revision('1'));
        newer["secrets"] = git("git@git.acme.net:secrets", &revision('2'));
        state.add(eval(2, &newer), build(20, &[2], PATH));
    });
    let job: Job = "acme/main/myapp".parse().unwrap();
    let mut logs = Vec::new();
    for (digit, nix_path) in [('a', Some("a=/a:nixpkgs=/pins")), ('f', None)] {
        let name = revision(digit);
        let inputs = inputs::find(&mut asked.hydra, &job, Some(&name), None);
        let inputs = inputs.unwrap().unwrap();
        let mut lines = inputs.lines(Some(&name));
        lines.extend(inputs.lookups(nix_path));
        logs.push(lines.join("\n"));
    }
    insta::assert_snapshot!(logs.join("\n\n"));
}

pub fn full_hydra(path: &str) -> HydraServer {
    HydraServer::new(|state| state.add(eval(1, &at('a')), build(10, &[1], path)))
}

/// The store path of a sample app.
fn sample(name: &str) -> Option<String> {
    let fixtures = crate::common::fixtures()?;
    Some(fixtures.apps[name].store_path.clone())
}

/// A sample app whose binary cache is a private Hydra that built it, and the app's store path.
fn from_private_hydra() -> Option<(Deploy, String)> {
    let path = sample("static")?;
    let hydra = full_hydra(&path);
    hydra.state().private = true;
    let deploy = Deploy::with_hook("static", hydra.hook())?;
    Some((deploy, path))
}

/// The URL of an app's binary cache, with what lets one into it.
fn with_password(deploy: &Deploy, password: &str) -> String {
    let user = format!("http://{USER}:{password}@");
    deploy.cache.url().replace("http://", &user)
}

#[test]
fn a_job_is_deployed_with_no_nix_from_a_private_hydra_that_is_the_binary_cache() {
    let Some((mut deploy, path)) = from_private_hydra() else {
        return;
    };
    let url = with_password(&deploy, PASSWORD);
    // No expression is needed.
    fs::remove_file(deploy.app().join("shell.nix")).ok();
    fs::remove_file(deploy.app().join("default.nix")).ok();
    deploy
        .set("NIX_EXTRA_BINARY_CACHE", &url)
        .set("NIX_HYDRA_JOB", "acme/main/myapp")
        .set("SOURCE_VERSION", &revision('a'));
    let outcome = deploy.build();
    assert!(outcome.success(), "{}{}", outcome.detect_log, outcome.log);
    let requests = deploy.requests();
    assert!(
        !requests.iter().any(|path| path.contains("nix-2.")),
        "{requests:?}"
    );
    assert!(!outcome.log.contains(PASSWORD), "{}", outcome.log);
    let log = deploy
        .stable(&outcome.log)
        .replace(&path, "/nix/store/<app>-myapp");
    insta::assert_snapshot!(log);
}

#[test]
fn a_private_hydra_that_is_the_binary_cache_of_an_evaluated_app_is_signed_in_to() {
    let Some((mut deploy, _)) = from_private_hydra() else {
        return;
    };
    let right = with_password(&deploy, PASSWORD);
    let wrong = with_password(&deploy, "letmein");
    deploy.set("NIX_EXTRA_BINARY_CACHE", &wrong);
    let outcome = deploy.build();
    assert!(!outcome.success(), "{}", outcome.log);
    let hint = "requires credentials, or refused the ones it got";
    assert!(outcome.log.contains(hint), "{}", outcome.log);
    deploy.set("NIX_EXTRA_BINARY_CACHE", &right);
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    assert!(!outcome.log.contains("left out"), "{}", outcome.log);
}

#[test]
fn what_hydra_says_moves_no_cursor_in_the_log() {
    let Some(path) = sample("static") else { return };
    let hydra = HydraServer::new(|state| {
        let inputs = json!({ "app\u{1b}[2J\n- Done": git(APP, &revision('a')) });
        state.add(eval(1, &inputs), build(10, &[1], &path));
    });
    let Some(mut deploy) = Deploy::with_hook("static", hydra.hook()) else {
        return;
    };
    deploy
        .set("NIX_HYDRA_JOB", "acme/main/myapp")
        .set("NIX_REVISION", &revision('a'));
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let shown = "of input app\\u{1b}[2J\\n- Done\n";
    assert!(outcome.log.contains(shown), "{}", outcome.log);
}

#[test]
fn what_hydra_has_built_and_nobody_has_kept_is_told_apart() {
    let hydra = full_hydra(PATH);
    let Some(mut deploy) = Deploy::with_hook("static", hydra.hook()) else {
        return;
    };
    deploy
        .set("NIX_HYDRA_JOB", "acme/main/myapp")
        .set("NIX_REVISION", &revision('a'));
    let outcome = deploy.build();
    assert!(!outcome.success(), "{}", outcome.log);
    let log = deploy.stable(&outcome.log);
    let error: Vec<&str> = log.lines().filter(|line| line.starts_with('!')).collect();
    insta::assert_snapshot!(error.join("\n"));
}

#[test]
fn a_hydra_is_a_binary_cache_unless_it_says_that_it_is_none() {
    let names = |hydra: &mut Hydra, named: &[String]| -> Vec<String> {
        let mut caches = named.iter().map(|url| url.parse().unwrap()).collect();
        hydra.add_to(&mut caches);
        caches.iter().map(ToString::to_string).collect()
    };
    let mut asked = Asked::new(|state| state.stores_elsewhere = true);
    assert_eq!(names(&mut asked.hydra, &[]), [""; 0]);
    let own = asked.server.url();
    // Whoever names it as one is to read why it is none.
    assert_eq!(
        names(&mut asked.hydra, std::slice::from_ref(&own)),
        [own.as_str()]
    );
    let proxy = Server::with_hook("/nonexistent", |_| Some(Response::new(401))).unwrap();
    let mut closed = Hydra::new(proxy.url().parse().unwrap(), Http::new());
    assert_eq!(
        names(&mut closed, std::slice::from_ref(&own)),
        [proxy.url(), own]
    );
}

#[test]
fn the_hydra_that_is_named_is_a_binary_cache_also_without_a_job() {
    let Some(path) = sample("static") else { return };
    let Some(mut deploy) = Deploy::with_hook("static", full_hydra(&path).hook()) else {
        return;
    };
    let url = deploy.cache.url();
    deploy
        .unset("NIX_EXTRA_BINARY_CACHE")
        .set("NIX_HYDRA_URL", &url);
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let log = deploy.stable(&outcome.log);
    assert!(log.contains("Evaluating `"), "{log}");
    assert!(log.contains("320.0 kB came from http://cache"), "{log}");
}

/// A checkout as Hydra has it, and as it is fetched from a git server.
#[test]
fn an_input_that_git_serves_gets_the_store_path_of_hydra_s_checkout() {
    let Some(fixtures) = crate::common::fixtures() else {
        return;
    };
    let directory = TempDir::new().unwrap();
    let repository = directory.path().join("library");
    fs::create_dir(&repository).unwrap();
    fs::write(
        repository.join("default.nix"),
        "derivation { name = \"library\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; src = ./.; }",
    )
    .unwrap();
    let git_in = |arguments: &[&str]| {
        let mut command = Command::new("git");
        crate::common::output(
            command
                .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-C"])
                .arg(&repository)
                .args(arguments),
        )
    };
    git_in(&["init", "--quiet"]);
    git_in(&["add", "--all"]);
    git_in(&["commit", "--quiet", "--message", "one"]);
    let head = git_in(&["rev-parse", "HEAD"]);
    git_in(&["update-server-info"]);
    let source = Source::read(&repository, "source").unwrap();

    let git_server = Server::start(directory.path()).unwrap();
    let uri = format!("{}/library/.git", git_server.url());
    let mut asked = Asked::new(|state| {
        let inputs = json!({ "library": git(&uri, &head) });
        state.add(eval(1, &inputs), build(10, &[1], PATH));
    });
    let job: Job = "acme/main/myapp".parse().unwrap();
    let inputs = inputs::find(&mut asked.hydra, &job, None, None);
    let inputs = inputs.unwrap().unwrap();

    let app = TempDir::new().unwrap();
    fs::write(app.path().join("default.nix"), "import <library>").unwrap();
    let mut config = Config::read(|_| None, app.path()).unwrap();
    config.lookups = inputs.lookups(None);
    let Wanted::Expression(expression) = &config.wanted else {
        panic!("an expression");
    };
    let app_source = Source::read(app.path(), "source").unwrap();
    let (nix, roots) = evaluate_fully(&fixtures, &app_source, expression, &config);
    assert_eq!(roots[0].path.name(), "library");
    // It is imported from there, so `./.` in it is a copy named after it.
    let copied = format!("-{}", source.path.to_basename());
    let names: Vec<_> = nix.store().paths().map(|path| path.to_basename()).collect();
    assert!(
        names.iter().any(|name| name.ends_with(&copied)),
        "{names:?}"
    );
}

#[test]
fn a_hydra_that_stores_elsewhere_says_what_to_set() {
    let Some(path) = sample("static") else { return };
    let hydra = full_hydra(&path);
    hydra.state().stores_elsewhere = true;
    let Some(mut deploy) = Deploy::with_hook("static", hydra.hook()) else {
        return;
    };
    deploy
        .set("NIX_HYDRA_JOB", "acme/main/myapp")
        .set("NIX_REVISION", &revision('a'));
    let outcome = deploy.build();
    assert!(!outcome.success(), "{}", outcome.log);
    let log = deploy
        .stable(&outcome.log)
        .replace(&path, "/nix/store/<app>-myapp");
    let error: Vec<&str> = log.lines().filter(|line| line.starts_with('!')).collect();
    insta::assert_snapshot!(error.join("\n"));
    // Where it is named, Hydra itself is not even mentioned.
    let cache = Server::start(&deploy.fixtures.cache).unwrap();
    let hydra_url = deploy.cache.url();
    deploy
        .set("NIX_HYDRA_URL", &hydra_url)
        .set("NIX_EXTRA_BINARY_CACHE", &cache.url());
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    assert!(!outcome.log.contains("left out"), "{}", outcome.log);
}
