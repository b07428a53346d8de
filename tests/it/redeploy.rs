//! What a redeploy keeps of the previous image, and when it starts afresh: with the same layers.

use crate::common::{Deploy, copy, output, python_app_answers, strip_ansi};
use closure::place::is_layer;
use nix_derivation::{HashAlgorithm, hash_bytes};
use platform::image::Image;
use platform::lifecycle::Outcome;
use platform::process::Launch;
use platform::server::{Response, Server};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// The layers with store paths, and their digests.
fn digests(image: &Image) -> BTreeMap<String, String> {
    let layers = image.record.layers.iter();
    layers
        .filter(|(name, _)| is_layer(name))
        .map(|(name, layer)| (name.clone(), layer.blob.digest.clone()))
        .collect()
}

#[test]
fn a_root_of_the_same_closure_moves_only_what_says_so() {
    let Some(mut deploy) = Deploy::new("python") else {
        return;
    };
    let app = deploy.fixtures.apps["python"].store_path.clone();
    deploy.set("NIX_STORE_PATH", &app);
    let before = digests(&deploy.built());
    // Python alone, which the app refers to, is in a layer of its own already or gets one.
    let cache = &deploy.fixtures.cache;
    let narinfo = fs::read_to_string(cache.join(format!("{}.narinfo", &app[11..43]))).unwrap();
    let python = narinfo
        .split_whitespace()
        .find(|word| word.contains("-python3-"))
        .unwrap();
    deploy.set("NIX_STORE_PATH", &format!("/nix/store/{python}"));
    deploy.requests();
    let image = deploy.built();
    let changed = image.changed_layers();
    let after = digests(&image);
    for (name, digest) in &after {
        let same = before.get(name) == Some(digest);
        assert_eq!(same, !changed.contains(&name.as_str()), "{name}");
    }
    assert!(changed.len() < 4, "{changed:?}");
    let print = ["run_proot.sh", "python3", "-c", "print(6 * 7)"];
    let output = deploy.run(&image, print);
    assert_eq!(output.stdout, "42\n", "{output:?}");
}

/// The digests of all that an image has of its closure: its layers, what leads to them, and the bills
/// of materials.
fn whole(image: &Image) -> BTreeMap<String, String> {
    let mut digests = digests(image);
    let closure = &image.record.layers["closure"].blob.digest;
    let sbom = &image.record.sbom.as_ref().unwrap().digest;
    digests.insert("closure".to_string(), closure.clone());
    digests.insert("bills of materials".to_string(), sbom.clone());
    digests
}

#[test]
fn layers_and_bills_of_materials_are_the_same_whichever_cache_and_compression_they_come_from() {
    let Some(mut deploy) = Deploy::new("python") else {
        return;
    };
    let fixtures = &deploy.fixtures;
    let app = fixtures.apps["python"].store_path.clone();
    let other = TempDir::new().unwrap();
    let from = format!("file://{}", fixtures.cache.display());
    let to = format!("file://{}?compression=none", other.path().display());
    let root = TempDir::new().unwrap();
    let mut copy = Command::new(Path::new(&fixtures.nix).join("bin/nix"));
    copy.env("HOME", root.path())
        .env("NIX_CONF_DIR", root.path())
        .env("NIX_USER_CONF_FILES", "")
        .env("NIX_CONFIG", "experimental-features = nix-command")
        .args([
            "copy",
            "--no-check-sigs",
            "--from",
            &from,
            "--to",
            &to,
            &app,
        ]);
    output(&mut copy);
    let server = Server::start(other.path()).unwrap();
    deploy.set("NIX_STORE_PATH", &app);
    let one = whole(&deploy.built());
    let mut deploy = Deploy::new("python").unwrap();
    deploy
        .set("NIX_STORE_PATH", &app)
        .set("NIX_EXTRA_BINARY_CACHE", &server.url());
    assert_eq!(whole(&deploy.built()), one);

    // Nor does it matter whose word was taken for it.
    let mut deploy = Deploy::new("python").unwrap();
    deploy
        .set("NIX_STORE_PATH", &app)
        .unset("NIX_TRUSTED_PUBLIC_KEYS");
    assert_eq!(whole(&deploy.built()), one);
}

#[test]
fn all_layers_are_the_same_whatever_files_the_platform_lets_others_read() {
    let Some(mut deploy) = python() else { return };
    let one = all_digests(&deploy.built());
    let mut deploy_privately = python().unwrap();
    let private = ["sh", "-c", "umask 077; exec \"$@\"", "sh"];
    deploy_privately.in_sandbox(move |sandbox| sandbox.started_by(private));
    assert_eq!(all_digests(&deploy_privately.built()), one);
    for deploy in [&mut deploy, &mut deploy_privately] {
        deploy.set("NIX_ENGINE", "relocate");
    }
    assert_eq!(
        all_digests(&deploy_privately.built()),
        all_digests(&deploy.built())
    );
}

/// The sample Python app, as a store path.
fn python() -> Option<Deploy> {
    let mut deploy = Deploy::new("python")?;
    deploy.set_path("python");
    Some(deploy)
}

/// The digest of every layer.
fn all_digests(image: &Image) -> BTreeMap<String, String> {
    let layers = image.record.layers.iter();
    layers
        .map(|(name, layer)| (name.clone(), layer.blob.digest.clone()))
        .collect()
}

/// The image of a build, and why it says that it keeps nothing.
fn built(outcome: Outcome) -> (Image, Option<String>) {
    assert!(outcome.success(), "{}", outcome.log);
    let log = strip_ansi(&outcome.log);
    let mut lines = log.lines();
    let why = lines.find_map(|line| line.trim_start().strip_prefix("- Starting afresh: "));
    (outcome.image.unwrap(), why.map(str::to_string))
}

fn downloaded(deploy: &Deploy) -> usize {
    let requests = deploy.requests().into_iter();
    requests.filter(|path| path.starts_with("/nar/")).count()
}

fn works(deploy: &Deploy, image: &Image) {
    let answer = python_app_answers(Launch::new(image, &deploy.fixtures.rootfs));
    assert_eq!(answer["app"], "myapp");
}

const NO_PREVIOUS: &str =
    "there is no previous image, or the platform was told to clear what it keeps";

#[test]
fn without_a_previous_image_all_is_downloaded_and_the_layers_are_the_same() {
    let Some(deploy) = python() else { return };
    let (image, why) = built(deploy.build());
    assert_eq!(why.as_deref(), Some(NO_PREVIOUS));
    let (first, all) = (all_digests(&image), downloaded(&deploy));
    assert_eq!(all, 30);

    let (image, why) = built(deploy.to_build().clear_cache().run().unwrap());
    assert_eq!(why.as_deref(), Some(NO_PREVIOUS));
    assert_eq!(downloaded(&deploy), all);
    assert_eq!(all_digests(&image), first);
    // So the exporter finds that it has them all.
    assert_eq!(image.changed_layers(), [] as [&str; 0]);

    // The image is deleted, and the platform's cache is not.
    fs::remove_file(image.dir.join("image.json")).unwrap();
    fs::remove_dir_all(image.dir.join("blobs")).unwrap();
    let (image, why) = built(deploy.build());
    assert_eq!(why.as_deref(), Some(NO_PREVIOUS));
    assert_eq!(downloaded(&deploy), all);
    assert_eq!(all_digests(&image), first);
    works(&deploy, &image);
}

#[test]
fn nothing_is_kept_of_an_image_of_another_version_of_this_buildpack() {
    let Some(deploy) = python() else { return };
    let (image, _) = built(deploy.build());
    let (first, all) = (all_digests(&image), downloaded(&deploy));
    let earlier = |change: &dyn Fn(&mut Value)| {
        let file = image.dir.join("image.json");
        let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        change(&mut record["layers"]);
        fs::write(&file, record.to_string()).unwrap();
        let (image, why) = built(deploy.build());
        let version =
            "the previous image is of another version of this buildpack, or for another processor";
        assert_eq!(why.as_deref(), Some(version));
        assert_eq!(downloaded(&deploy), all);
        assert_eq!(all_digests(&image), first);
        works(&deploy, &image);
    };
    // Its number alone differs; or all that it says does, and it had one layer for all.
    earlier(&|layers| layers["closure"]["data"]["format"] = json!("0"));
    earlier(&|layers| {
        layers["closure"]["data"] = json!({"roots": 1.0});
        let layers = layers.as_object_mut().unwrap();
        layers.retain(|name, _| !is_layer(name));
    });
}

#[test]
fn a_changed_engine_moves_the_closure_and_back_again() {
    let Some(mut deploy) = python() else { return };
    deploy.set("NIX_ENGINE", "proot");
    let (image, _) = built(deploy.build());
    let first = all_digests(&image);
    works(&deploy, &image);
    let engine = Some("the previous image is for another engine");

    deploy.set("NIX_ENGINE", "relocate");
    let (image, why) = built(deploy.build());
    assert_eq!(why.as_deref(), engine);
    assert_ne!(all_digests(&image)["closure"], first["closure"]);
    works(&deploy, &image);

    deploy.set("NIX_ENGINE", "proot");
    let (image, why) = built(deploy.build());
    assert_eq!(why.as_deref(), engine);
    assert_eq!(all_digests(&image), first);
    works(&deploy, &image);
}

#[test]
fn a_cache_whose_nars_have_whole_urls_is_asked_for_no_more_of_them_than_any_other() {
    let Some(deploy) = python() else { return };
    let directory = deploy.fixtures.cache.clone();
    let app = deploy.fixtures.apps["python"].store_path.clone();
    let narinfo = directory.join(format!("{}.narinfo", &app[11..43]));
    let narinfo = fs::read_to_string(narinfo).unwrap();
    let mut words = narinfo.split_whitespace();
    let python3 = words.find(|word| word.contains("-python3-")).unwrap();
    let counts = [false, true].map(|whole| {
        let directory = directory.clone();
        let server = Server::with_hook(&deploy.fixtures.cache, move |request| {
            let file = request.path.trim_start_matches('/');
            if !whole || !file.ends_with(".narinfo") {
                return None;
            }
            let text = fs::read_to_string(directory.join(file)).ok()?;
            let host = request.header("host")?;
            let text = text.replace("URL: ", &format!("URL: http://{host}/"));
            Some(Response::new(200).body(text))
        })
        .unwrap();
        let mut deploy = python().unwrap();
        deploy.set("NIX_EXTRA_BINARY_CACHE", &server.url());
        let before = digests(&deploy.built());
        let nars = || {
            let requests = server.take_requests().into_iter();
            requests
                .filter(|request| request.path.starts_with("/nar/"))
                .count()
        };
        let all = nars();
        deploy.set("NIX_STORE_PATH", &format!("/nix/store/{python3}"));
        let image = deploy.built();
        let kept = digests(&image);
        let kept = kept
            .iter()
            .filter(|(name, digest)| before.get(*name) == Some(*digest));
        assert!(kept.count() > 2);
        (all, nars())
    });
    assert_eq!(counts[0], counts[1]);
    assert!(counts[0].1 * 2 < counts[0].0, "{counts:?}");
}

#[test]
fn a_path_that_was_built_again_meanwhile_and_is_another_is_taken_as_it_is_now() {
    let Some(mut deploy) = python() else { return };
    let cache = TempDir::new().unwrap();
    copy(&deploy.fixtures.cache, cache.path());
    let server = Server::start(cache.path()).unwrap();
    let url = format!("{}?trusted=true", server.url());
    deploy.set("NIX_EXTRA_BINARY_CACHE", &url);
    deploy.built();
    let app = deploy.fixtures.apps["python"].store_path.clone();
    let narinfo = |hash_part: &str| cache.path().join(format!("{hash_part}.narinfo"));
    let text = fs::read_to_string(narinfo(&app[11..43])).unwrap();
    let mut words = text.split_whitespace();
    let python3 = words.find(|word| word.contains("-python3-")).unwrap();
    // The same name, references and key, and other bytes in a file.
    let text = fs::read_to_string(narinfo(&python3[..32])).unwrap();
    let url = text
        .lines()
        .find_map(|line| line.strip_prefix("URL: "))
        .unwrap();
    let packed = fs::read(cache.path().join(url)).unwrap();
    let mut nar = zstd::decode_all(&packed[..]).unwrap();
    let word = b"Python Software Foundation";
    let at = nar.windows(word.len()).position(|window| window == word);
    nar[at.unwrap()] = b'p';
    let hash = hash_bytes(HashAlgorithm::Sha256, &nar).to_nix_nixbase32_string();
    fs::write(cache.path().join("nar/other.nar"), nar).unwrap();
    let lines = text
        .lines()
        .filter_map(|line| match line.split_once(": ")?.0 {
            "URL" => Some("URL: nar/other.nar\n".to_string()),
            "Compression" => Some("Compression: none\n".to_string()),
            "NarHash" => Some(format!("NarHash: {hash}\n")),
            "FileHash" | "FileSize" | "Sig" => None,
            _ => Some(format!("{line}\n")),
        });
    fs::write(narinfo(&python3[..32]), lines.collect::<String>()).unwrap();
    fs::remove_file(cache.path().join(url)).unwrap();
    // As a root it is in another layer, and has to be fetched.
    deploy.set("NIX_STORE_PATH", &format!("/nix/store/{python3}"));
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let log = strip_ansi(&outcome.log);
    let said = format!("/nix/store/{python3} is no longer what the previous image says of it");
    assert!(log.contains(&said), "{log}");
}

#[test]
fn a_cache_that_is_down_is_named_where_another_one_has_the_path() {
    let Some(mut deploy) = python() else { return };
    let gone = Server::start(&deploy.fixtures.cache).unwrap().url();
    let both = format!("{gone} {}", deploy.cache.url());
    deploy.set("NIX_EXTRA_BINARY_CACHE", &both);
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let log = strip_ansi(&outcome.log);
    let gone = gone.trim_end_matches('/');
    assert!(log.contains(&format!("{gone} was left out: ")), "{log}");

    // One whose NARs are on a server that is down.
    let Some(mut deploy) = python() else { return };
    let half = Server::with_hook(&deploy.fixtures.cache, |request| {
        request
            .path
            .starts_with("/nar/")
            .then(|| Response::new(503))
    })
    .unwrap();
    let both = format!("{} {}", half.url(), deploy.cache.url());
    deploy.set("NIX_EXTRA_BINARY_CACHE", &both);
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let log = strip_ansi(&outcome.log);
    let url = half.url();
    let said = format!(
        "{} was left out: HTTP status 503",
        url.trim_end_matches('/')
    );
    assert!(log.contains(&said), "{log}");
}

#[test]
fn what_an_unsigned_cache_gave_is_warned_of_in_each_build_and_gone_with_the_cache() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let path = deploy.fixtures.apps["static"].store_path.clone();
    let url = deploy.cache.url();
    let engines = [None, Some("relocate")];
    for engine in engines {
        deploy
            .set("NIX_STORE_PATH", &path)
            .set("NIX_EXTRA_BINARY_CACHE", &url)
            .set("NIX_TRUSTED_PUBLIC_KEYS", "");
        if let Some(engine) = engine {
            deploy.set("NIX_ENGINE", engine);
        }
        for _ in 0..2 {
            let outcome = deploy.build();
            assert!(outcome.success(), "{}", outcome.log);
            let log = strip_ansi(&outcome.log);
            assert!(log.contains("taken without a signature"), "{log}");
        }
        assert_eq!(deploy.built().changed_layers(), [] as [&str; 0]);
        // Another cache, which does not have it.
        let other = Server::start(TempDir::new().unwrap().path()).unwrap();
        deploy.set("NIX_EXTRA_BINARY_CACHE", &other.url());
        let outcome = deploy.build();
        assert!(!outcome.success(), "{}", outcome.log);
        deploy.set("NIX_EXTRA_BINARY_CACHE", &url);
        deploy.built();
    }
}
