//! Builds that must fail do so with a clear message, and leave no layer behind.

use crate::common::Deploy;
use platform::server::{Request, Response};
use std::fs;
use std::path::{Path, PathBuf};

/// Builds an app against a binary cache that does not do what it should; answers the message.
fn failed(deploy: &Deploy) -> String {
    let outcome = deploy.build();
    assert_eq!(outcome.detect, 0);
    assert_eq!(outcome.build, Some(1), "{}", outcome.log);
    assert!(outcome.image.is_none());
    let left: Vec<PathBuf> = [
        "closure",
        "closure.toml",
        "proot",
        "proot.toml",
        "launch.toml",
    ]
    .iter()
    .map(|name| outcome.layers.join(name))
    .chain(made_layers(&outcome.layers))
    .filter(|path| path.exists())
    .collect();
    assert!(left.is_empty(), "{left:?}");
    let log = deploy.stable(&outcome.log);
    let message = log.split("\n! ").skip(1).collect::<Vec<_>>().join("\n! ");
    format!("! {}", message.trim_end())
}

/// Whatever is left in the layers directory for the image; Nix's cached layer may stay.
fn made_layers(layers: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(layers).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| !path.to_string_lossy().contains("/nix-store"))
        .collect()
}

fn static_app(
    hook: impl Fn(&Request, Option<Vec<u8>>) -> Option<Response> + Send + Sync + 'static,
) -> Option<Deploy> {
    let cache = crate::common::fixtures()?.cache;
    let file = move |request: &Request| fs::read(cache.join(&request.path[1..])).ok();
    Deploy::with_hook("static", move |request| hook(request, file(request)))
}

fn is_narinfo(request: &Request) -> bool {
    Path::new(&request.path)
        .extension()
        .is_some_and(|extension| extension == "narinfo")
}

fn stable_paths(deploy: &Deploy, message: &str) -> String {
    let app = &deploy.fixtures.apps["static"];
    message
        .replace(&app.store_path, "/nix/store/<app>-myapp")
        .replace(&app.source, "/nix/store/<source>-source")
}

#[test]
fn a_path_that_no_cache_has() {
    let Some(deploy) = static_app(|request, _| is_narinfo(request).then(|| Response::new(404)))
    else {
        return;
    };
    let message = failed(&deploy);
    insta::assert_snapshot!(stable_paths(&deploy, &message));
}

#[test]
fn a_signature_of_another_key() {
    let Some(mut deploy) = static_app(|_, _| None) else {
        return;
    };
    let other = "other-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    deploy.set("NIX_TRUSTED_PUBLIC_KEYS", other);
    let message = failed(&deploy);
    insta::assert_snapshot!(stable_paths(&deploy, &message));
}

#[test]
fn a_signature_of_other_bytes() {
    let Some(deploy) = static_app(|request, file| {
        let text = String::from_utf8(file.filter(|_| is_narinfo(request))?).unwrap();
        // What is signed is not this size.
        let line = text
            .lines()
            .find(|line| line.starts_with("NarSize: "))?
            .to_string();
        Some(Response::new(200).body(text.replace(&line, "NarSize: 1234567")))
    }) else {
        return;
    };
    let message = failed(&deploy);
    insta::assert_snapshot!(stable_paths(&deploy, &message));
}

#[test]
fn a_signature_of_other_references() {
    let Some(deploy) = static_app(|request, file| {
        let text = String::from_utf8(file.filter(|_| is_narinfo(request))?).unwrap();
        let path = text
            .lines()
            .find_map(|line| line.strip_prefix("StorePath: "))?;
        let base = path.trim_start_matches("/nix/store/");
        let others = text
            .lines()
            .filter(|line| !line.starts_with("References:"))
            .collect::<Vec<_>>();
        // What is signed does not refer to itself.
        let text = format!("{}\nReferences: {base}\n", others.join("\n"));
        Some(Response::new(200).body(text))
    }) else {
        return;
    };
    let message = failed(&deploy);
    insta::assert_snapshot!(stable_paths(&deploy, &message));
}

#[test]
fn a_nar_with_another_hash() {
    let Some(mut deploy) = static_app(|request, file| {
        let text = String::from_utf8(file.filter(|_| is_narinfo(request))?).unwrap();
        let text: String = text
            .lines()
            .map(|line| match line.strip_prefix("NarHash: ") {
                Some(_) => format!("NarHash: sha256:{}\n", "0".repeat(52)),
                None if line.starts_with("Sig:") => String::new(),
                None => format!("{line}\n"),
            })
            .collect();
        Some(Response::new(200).body(text))
    }) else {
        return;
    };
    // Without a key the narinfo is believed; its hash is checked all the same.
    deploy.unset("NIX_TRUSTED_PUBLIC_KEYS");
    let message = failed(&deploy);
    let hash = regex_lite::Regex::new("sha256:[0-9a-z]{52}").unwrap();
    let message = stable_paths(&deploy, &message);
    insta::assert_snapshot!(hash.replace_all(&message, "sha256:<hash>"));
}

#[test]
fn a_nar_that_is_cut_short() {
    let Some(deploy) = static_app(|request, file| {
        let file = file.filter(|_| request.path.starts_with("/nar/"))?;
        Some(Response::new(200).body(&file[..file.len() / 2]))
    }) else {
        return;
    };
    let message = failed(&deploy);
    let size = regex_lite::Regex::new("after [0-9.]+ [a-zA-Z]+").unwrap();
    let message = stable_paths(&deploy, &message);
    insta::assert_snapshot!(size.replace_all(&message, "after <size>"));
}

#[test]
fn a_nar_that_was_garbage_collected() {
    let Some(deploy) = static_app(|request, _| {
        request
            .path
            .starts_with("/nar/")
            .then(|| Response::new(410))
    }) else {
        return;
    };
    let message = failed(&deploy);
    insta::assert_snapshot!(stable_paths(&deploy, &message));
}

#[test]
fn a_url_that_is_no_binary_cache() {
    let Some(deploy) = static_app(|_, _| Some(Response::new(404))) else {
        return;
    };
    let message = failed(&deploy);
    insta::assert_snapshot!(stable_paths(&deploy, &message));
}

#[test]
fn an_unsigned_path_where_no_key_was_given_is_taken_with_a_warning() {
    let Some(mut deploy) = static_app(|request, file| {
        let text = String::from_utf8(file.filter(|_| is_narinfo(request))?).unwrap();
        let unsigned = text.lines().filter(|line| !line.starts_with("Sig:"));
        Some(Response::new(200).body(unsigned.collect::<Vec<_>>().join("\n")))
    }) else {
        return;
    };
    deploy.unset("NIX_TRUSTED_PUBLIC_KEYS");
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let log = deploy.stable(&outcome.log);
    let warning = "1 store path from http://cache was taken without a signature";
    assert_eq!(log.matches(warning).count(), 1, "{log}");

    deploy.set("NIX_REQUIRE_SIGNATURES", "true");
    let outcome = deploy.build();
    assert!(!outcome.success(), "what was taken before is checked again");
    assert!(
        outcome.log.contains("without a signature"),
        "{}",
        outcome.log
    );
}

#[test]
fn a_tool_with_another_hash() {
    let Some(mut deploy) = static_app(|_, _| None) else {
        return;
    };
    let proot = deploy.tool(&deploy.fixtures.proot);
    deploy.set("NIX_PROOT_URL", &proot);
    deploy.set("NIX_PROOT_SHA256", &"0".repeat(64));
    let outcome = deploy.build();
    assert!(!outcome.success());
    assert!(!outcome.layers.join("proot").exists());
    assert!(!outcome.layers.join("proot.toml").exists());
    let log = deploy.stable(&outcome.log);
    assert!(
        log.contains("A downloaded tool has the wrong hash"),
        "{log}"
    );
    assert!(log.contains(&deploy.fixtures.proot_sha256), "{log}");
}

#[test]
fn a_setting_that_makes_no_sense_ends_the_build_before_anything_is_downloaded() {
    let Some(mut deploy) = static_app(|_, _| None) else {
        return;
    };
    deploy.set("NIX_ON_MISS", "compile");
    let message = failed(&deploy);
    insta::assert_snapshot!(message);
    assert_eq!(deploy.requests(), [] as [&str; 0]);
}
