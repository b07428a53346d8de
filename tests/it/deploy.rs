//! The whole way: from an app and a binary cache to a running process, and again.

use crate::common::{Deploy, own_layer, python_app_answers, regex, strip_ansi};
use crate::hostile::{self, Node};
use platform::process::Launch;
use platform::sandbox::Forbidden;
use platform::server::{Request, Response, Server};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn a_path_whose_nar_is_gone_is_taken_as_another_cache_has_built_it_itself() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let nar = |text: &'static [u8]| {
        let program = vec![
            b"(".as_slice(),
            b"type",
            b"regular",
            b"executable",
            b"",
            b"contents",
            text,
            b")",
        ];
        let bin = Node::Directory(vec![(b"app", Node::Tokens(program))]);
        hostile::nar(&Node::Directory(vec![(b"bin", bin)]))
    };
    let (one, other) = (nar(b"#!/bin/one\n"), nar(b"#!/bin/other\n"));
    let describe = |nar: &[u8]| hostile::narinfo(nar, nar.len() as u64, "none");
    let narinfo = describe(&one);
    let gone = Server::with_hook("/", move |request| {
        let is_nar = request.path.starts_with("/nar/");
        if is_nar {
            return Some(Response::new(404));
        }
        hostile::answer(request, &narinfo, &[])
    })
    .unwrap();
    let has_own = hostile::cache(describe(&other), other.clone());
    let urls = format!(
        "{}?trusted=1&priority=1 {}?trusted=1",
        gone.url(),
        has_own.url()
    );
    deploy.set("NIX_EXTRA_BINARY_CACHE", &urls);
    deploy.set("NIX_STORE_PATH", hostile::ROOT);
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    assert!(
        outcome.log.contains("has its own build of it"),
        "{}",
        outcome.log
    );
    // It is planned as it is from now on.
    let _ = gone.take_requests();
    deploy.built();
    let nars = gone
        .requests()
        .into_iter()
        .filter(|request| request.path.starts_with("/nar/"));
    assert_eq!(nars.count(), 0);
}

#[test]
fn the_python_app_answers_under_proot_as_an_ordinary_user_without_nix_in_view() {
    let Some(deploy) = Deploy::new("python") else {
        return;
    };
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    insta::assert_snapshot!("first_build", deploy.stable(&outcome.log));
    let image = outcome.image.unwrap();
    let answer = python_app_answers(Launch::new(&image, &deploy.fixtures.rootfs));
    assert_eq!(answer["app"], "myapp");
    assert_eq!(answer["uid"], 1000);
    assert!(answer["openssl"].as_str().unwrap().starts_with("OpenSSL"));
    let seen = deploy.run(&image, ["sh", "-c", "ls -d /nix /nix/store 2>&1; true"]);
    assert!(seen.stdout.contains("No such file"), "{seen:?}");
}

#[test]
fn another_proot_is_taken_where_the_settings_name_it() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let proot = deploy.tool(&deploy.fixtures.proot);
    let sha256 = deploy.fixtures.proot_sha256.clone();
    deploy.set("NIX_PROOT_URL", &proot);
    deploy.set("NIX_PROOT_SHA256", &sha256);
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let log = strip_ansi(&outcome.log);
    assert!(
        log.contains("Downloading the PRoot of NIX_PROOT_URL"),
        "{log}"
    );
}

#[test]
fn a_second_build_fetches_nothing_and_keeps_every_layer() {
    let Some(deploy) = Deploy::new("python") else {
        return;
    };
    deploy.built();
    deploy.requests();
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    assert_eq!(deploy.requests(), [] as [&str; 0]);
    insta::assert_snapshot!("second_build", deploy.stable(&outcome.log));
    let image = outcome.image.unwrap();
    assert_eq!(image.changed_layers(), [] as [&str; 0]);
    let version = deploy.run(&image, ["run_proot.sh", "sh", "-c", "command -v myapp"]);
    assert_eq!(
        version.stdout.trim(),
        format!("{}/bin/myapp", deploy.fixtures.apps["python"].store_path)
    );
}

#[test]
fn a_changed_app_gets_a_new_closure_and_keeps_proot() {
    let Some(mut deploy) = Deploy::new("python") else {
        return;
    };
    deploy.built();
    deploy.requests();
    let other = deploy.fixtures.apps["static"].store_path.clone();
    deploy.set("NIX_STORE_PATH", &other);
    let image = deploy.built();
    let root = own_layer(&image, &other);
    assert_eq!(image.changed_layers(), [root.as_str(), "closure"]);
    let requests = deploy.requests();
    let nars = requests
        .iter()
        .filter(|path| path.starts_with("/nar/"))
        .count();
    assert_eq!(nars, 1, "{requests:?}");
}

#[test]
fn a_command_runs_however_a_procfile_words_it() {
    let Some(deploy) = Deploy::new("static") else {
        return;
    };
    let procfile = "\
        plain: myapp args one 'two words'\n\
        wrapped: run_proot.sh myapp args one 'two words'\n\
        nested: sh -c 'cd nix && run_proot.sh myapp args one \"two words\"'\n\
        twice: run_proot.sh run_proot.sh myapp args one 'two words'\n";
    // The source is another one then; the Procfile is not what is deployed.
    fs::write(deploy.app().join("Procfile"), procfile).unwrap();
    let mut deploy = deploy;
    deploy.set_path("static");
    let image = deploy.built();
    for process in ["plain", "wrapped", "nested", "twice"] {
        let output = Launch::new(&image, &deploy.fixtures.rootfs)
            .process(process)
            .run()
            .unwrap();
        assert_eq!(output.code, 0, "{process}: {}", output.stderr);
        assert_eq!(output.stdout, "one\ntwo words\n", "{process}");
    }
}

#[test]
fn a_command_s_status_comes_out() {
    let Some(deploy) = Deploy::by_path("static") else {
        return;
    };
    let image = deploy.built();
    for status in [0, 1, 42, 255] {
        let output = deploy.run(
            &image,
            ["run_proot.sh", "myapp", "exit", &status.to_string()],
        );
        assert_eq!(output.code, status);
    }
}

#[test]
fn a_store_path_needs_neither_nix_nor_source() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let path = deploy.fixtures.apps["static"].store_path.clone();
    deploy.set("NIX_STORE_PATH", &path);
    for file in ["default.nix", "myapp.c"] {
        fs::remove_file(deploy.app().join(file)).unwrap();
    }
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let requests = deploy.requests();
    assert!(
        !requests.iter().any(|path| path.ends_with(".tar.xz")),
        "{requests:?}"
    );
    assert!(!outcome.layers.join("nix-store").exists());
}

#[test]
fn the_log_says_which_cache_gave_how_much() {
    // The first binary cache has the large paths alone.
    let Some(mut deploy) = Deploy::with_hook("static", |request| {
        let is_narinfo = request.path.ends_with(".narinfo");
        (is_narinfo && request.path.as_str() < "/h").then(|| Response::new(404))
    }) else {
        return;
    };
    let rest = Server::start(&deploy.fixtures.cache).unwrap();
    let caches = format!("{} {}?priority=90", deploy.cache.url(), rest.url());
    let path = deploy.fixtures.apps["python"].store_path.clone();
    deploy
        .set("NIX_STORE_PATH", &path)
        .set("NIX_EXTRA_BINARY_CACHE", &caches);
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let log = deploy.stable(&outcome.log);
    let log = log.replace(rest.url().trim_end_matches('/'), "http://other");
    insta::assert_snapshot!("two_caches", log);
}

#[test]
fn a_long_download_says_how_it_gets_on() {
    let Some(mut deploy) = Deploy::with_hook("static", |request| {
        if request.path.starts_with("/nar/") {
            sleep(Duration::from_secs(11));
        }
        None
    }) else {
        return;
    };
    deploy.set_path("static");
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let log = strip_ansi(&outcome.log);
    let said = regex(
        r"unpacked \.+ \(0 bytes of 320.0 kB, and nothing came for 1[0-9] seconds\)\n  - Done after 1[0-9] seconds\n  - 320.0 kB came from http://127",
    );
    assert!(said.is_match(&log), "{log}");
}

#[test]
fn a_miss_is_explained_after_what_was_done_so_far() {
    let Some(deploy) = Deploy::new("static") else {
        return;
    };
    let file = deploy.app().join("myapp.c");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, text + "\n").unwrap();
    let outcome = deploy.build();
    assert!(!outcome.success());
    let log = deploy.stable(&outcome.log);
    let log = regex("[0-9a-z]{32}-").replace_all(&log, "<hash>-");
    insta::assert_snapshot!("a_miss", log);
}

#[test]
fn a_miss_after_a_deploy_is_compared_with_the_previous_image() {
    let Some(deploy) = Deploy::new("static") else {
        return;
    };
    deploy.built();
    fs::write(deploy.app().join("new.c"), "").unwrap();
    let outcome = deploy.build();
    assert!(!outcome.success());
    let log = deploy.stable(&outcome.log);
    let log = regex("[0-9a-z]{32}-").replace_all(&log, "<hash>-");
    let doctor = &log[log.find("- Doctor").unwrap()..];
    insta::assert_snapshot!("a_miss_after_a_deploy", doctor);
}

#[test]
fn nix_debug_lists_what_is_large() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    deploy.set("NIX_DEBUG", "1");
    let outcome = deploy.build();
    let log = deploy.stable(&outcome.log);
    let log = regex("[0-9a-z]{32}-").replace_all(&log, "<hash>-");
    insta::assert_snapshot!("debug", log);

    let again = deploy.stable(&deploy.build().log);
    let largest = "- Largest store paths, since NIX_DEBUG is set\n  - 687.3 kB  myapp\n";
    assert!(again.contains("Using the previous image's"), "{again}");
    assert!(again.contains(largest), "{again}");
}

#[test]
fn nothing_that_only_builds_need_is_in_the_image() {
    let Some(deploy) = Deploy::new("static") else {
        return;
    };
    let image = deploy.built();
    let layers: Vec<_> = image.record.layers.keys().map(String::as_str).collect();
    let root = own_layer(&image, &deploy.fixtures.apps["static"].store_path);
    assert_eq!(layers, [root.as_str(), "closure", "proot"]);
}

/// An app that Nix can build with nothing but itself: links to the files of its source.
const BUILDABLE: &str = r#"derivation {
  name = "myapp";
  system = "builtin";
  builder = "builtin:buildenv";
  derivations = [ [ "true" 5 1 ./. ] ];
  manifest = "/nowhere";
}
"#;

fn buildable(deploy: &Deploy) {
    for entry in fs::read_dir(deploy.app()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            fs::remove_dir_all(entry.path()).unwrap();
        } else {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    fs::create_dir(deploy.app().join("bin")).unwrap();
    let program = deploy.app().join("bin/myapp");
    fs::write(&program, "#!/bin/sh\necho built here\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(deploy.app().join("default.nix"), BUILDABLE).unwrap();
}

#[test]
fn what_no_binary_cache_has_is_built_where_that_is_asked_for() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    buildable(&deploy);
    let refused = deploy.build();
    assert!(!refused.success());
    assert!(
        refused.log.contains("No binary cache has myapp"),
        "{}",
        refused.log
    );

    deploy.set("NIX_ON_MISS", "build");
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    // Which way there is depends on the machine, and what was built is in a directory of the moment.
    let log = deploy.stable(&outcome.log);
    let log = regex("/nix/store/[0-9a-z]{32}-").replace_all(&log, "/nix/store/<hash>-");
    let log = regex("/tmp/nix-[^/]+/").replace_all(&log, "/tmp/nix-<build>/");
    let log = regex(r"Done \((< )?[0-9.]+s\)").replace_all(&log, "Done (<time>)");
    let log = ["in Nix's own sandbox", "in a user namespace", "under PRoot"]
        .iter()
        .fold(log.into_owned(), |log, engine| {
            log.replace(engine, "<engine>")
        });
    insta::assert_snapshot!("built_on_a_miss", log);
    let image = outcome.image.unwrap();
    let output = deploy.run(&image, ["run_proot.sh", "myapp"]);
    assert_eq!(output.stdout, "built here\n", "{}", output.stderr);

    // What was built is kept: nothing is evaluated, built or fetched again.
    deploy.requests();
    let again = deploy.build();
    assert!(again.success(), "{}", again.log);
    assert!(!again.log.contains("Build"), "{}", again.log);
    assert_eq!(again.image.unwrap().changed_layers(), [] as [&str; 0]);
    assert_eq!(deploy.requests(), [] as [&str; 0]);
}

/// How often an app was evaluated in a build that must fail, and its log.
fn failed(deploy: &Deploy) -> (usize, String) {
    let outcome = deploy.build();
    assert!(!outcome.success(), "{}", outcome.log);
    assert!(!outcome.log.contains("Building"), "{}", outcome.log);
    let log = deploy.stable(&outcome.log);
    (log.matches("- Evaluating `").count(), log)
}

#[test]
fn what_a_binary_cache_may_have_is_neither_built_nor_evaluated_twice() {
    let nothing_built = "- Miss\n  - Nothing is built: not every binary cache says";
    for (status, said) in [
        (400, "http://cache: HTTP status 400 Bad Request"),
        (401, "http://cache: HTTP status 401 Unauthorized"),
    ] {
        let hook = move |request: &Request| {
            let is_narinfo = request.path.contains(".narinfo");
            is_narinfo.then(|| Response::new(status))
        };
        let Some(mut deploy) = Deploy::with_hook("static", hook) else {
            return;
        };
        buildable(&deploy);
        let (evaluations, log) = failed(&deploy);
        assert_eq!(evaluations, 1, "{log}");
        assert!(log.contains(said) && !log.contains("- Miss"), "{log}");
        deploy.set("NIX_ON_MISS", "build");
        let (evaluations, log) = failed(&deploy);
        assert_eq!(evaluations, 1, "{log}");
        assert!(log.contains(said) && log.contains(nothing_built), "{log}");
    }
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let other = "other-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    deploy
        .set("NIX_TRUSTED_PUBLIC_KEYS", other)
        .set("NIX_ON_MISS", "build");
    let (evaluations, log) = failed(&deploy);
    assert_eq!(evaluations, 1, "{log}");
    assert!(log.contains("which is not trusted"), "{log}");
    assert!(log.contains(nothing_built), "{log}");
}

#[test]
fn what_is_named_by_its_store_path_cannot_be_built_which_is_said() {
    let hook = |request: &Request| {
        let is_narinfo = request.path.contains(".narinfo");
        is_narinfo.then(|| Response::new(404))
    };
    let Some(mut deploy) = Deploy::with_hook("static", hook) else {
        return;
    };
    let path = deploy.fixtures.apps["static"].store_path.clone();
    deploy
        .set("NIX_STORE_PATH", &path)
        .set("NIX_ON_MISS", "build");
    let (_, log) = failed(&deploy);
    let said = "- Miss\n  - Nothing is built: there is no derivation, since NIX_STORE_PATH names what was built";
    assert!(log.contains(said), "{log}");
}

#[test]
fn an_app_of_which_a_part_is_missing_is_not_evaluated_twice() {
    let Some(fixtures) = crate::common::fixtures() else {
        return;
    };
    let root = &fixtures.apps["python"].store_path["/nix/store/".len()..];
    let narinfo = fixtures.cache.join(format!("{}.narinfo", &root[..32]));
    let narinfo = fs::read_to_string(narinfo).unwrap();
    let references = narinfo
        .lines()
        .find_map(|line| line.strip_prefix("References: "));
    let mut references = references.unwrap().split(' ');
    let part = references.find(|path| *path != root).unwrap()[..32].to_string();
    let hook = move |request: &Request| {
        let is_part = request.path == format!("/{part}.narinfo");
        is_part.then(|| Response::new(404))
    };
    let Some(deploy) = Deploy::with_hook("python", hook) else {
        return;
    };
    let (evaluations, log) = failed(&deploy);
    assert_eq!(evaluations, 1, "{log}");
    assert!(log.contains("wanted by /nix/store/"), "{log}");
    assert!(!log.contains("- Miss"), "{log}");
}

#[test]
fn without_any_binary_cache_the_app_is_built_under_proot_if_need_be() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    buildable(&deploy);
    deploy.unset("NIX_EXTRA_BINARY_CACHE");
    deploy.forbid(Forbidden::UserNamespaces);
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    assert!(
        outcome.log.contains("Building under PRoot"),
        "{}",
        outcome.log
    );
    let output = deploy.run(&outcome.image.unwrap(), ["run_proot.sh", "myapp"]);
    assert_eq!(output.stdout, "built here\n", "{}", output.stderr);
}

#[test]
fn a_redeploy_says_what_changed() {
    let Some(mut deploy) = Deploy::new("python") else {
        return;
    };
    deploy.built();
    deploy.set_path("static");
    let revision = "0123456789abcdef0123456789abcdef01234567";
    deploy.set("NIX_REVISION", revision);
    let outcome = deploy.build();
    let labels = outcome.image.unwrap().record.labels;
    let label = labels
        .iter()
        .find(|label| label.key == "org.opencontainers.image.revision");
    assert_eq!(label.unwrap().value, revision);
    let log = deploy.stable(&outcome.log);
    let changes = "- Changes since the previous image\n  - 687.3 kB (-65.0 MB): ";
    assert!(log.contains(changes), "{log}");
    assert!(log.contains(" is gone\n"), "{log}");
    // The same closure once more has no changes to tell.
    let log = deploy.stable(&deploy.build().log);
    assert!(!log.contains("Changes since"), "{log}");
}

#[test]
fn a_closure_over_its_budget_fails_with_the_chains_before_anything_is_downloaded() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    for (setting, value, said) in [
        (
            "NIX_CLOSURE_LIMIT",
            "10MB",
            "It has 65.7 MB, but NIX_CLOSURE_LIMIT is 10.0 MB.",
        ),
        ("NIX_FORBID", "perl libssl3", "- `libssl3`: myapp → "),
    ] {
        deploy.set(setting, value);
        let outcome = deploy.build();
        deploy.unset(setting);
        assert!(!outcome.success(), "{}", outcome.log);
        let log = deploy.stable(&outcome.log);
        assert!(log.contains(said), "{log}");
        assert!(!log.contains("Downloading "), "{log}");
    }
    deploy.set("NIX_CLOSURE_LIMIT", "70MB");
    deploy.set("NIX_FORBID", "gcc ghc *-dev");
    deploy.built();
}
