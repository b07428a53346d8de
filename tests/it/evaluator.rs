//! The Nix that evaluates: where it comes from, and that nothing is believed because the build cache
//! has it.

use crate::common::{Deploy, regex, strip_ansi};
use platform::server::Server;
use sha2::Digest as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;

/// A signed binary cache with the closure of the fixtures' Nix.
static NIX: LazyLock<TempDir> = LazyLock::new(|| {
    let directory = TempDir::new().unwrap();
    let fixtures = platform::fixtures::read().unwrap();
    fixtures.push_nix(directory.path()).unwrap();
    directory
});

/// The sample app, which is evaluated by a Nix from that cache. None without fixtures.
fn deploy() -> Option<(Deploy, Server)> {
    let mut deploy = Deploy::new("static")?;
    let server = Server::start(NIX.path()).unwrap();
    let nix = deploy.fixtures.nix.clone();
    let caches = format!("{} {}", deploy.cache.url(), server.url());
    deploy
        .unset("NIX_ARCHIVE_URL")
        .unset("NIX_ARCHIVE_SHA256")
        .set("NIX_EVALUATOR", &nix)
        .set("NIX_EXTRA_BINARY_CACHE", &caches);
    Some((deploy, server))
}

/// Builds, and returns the log.
fn built(deploy: &Deploy) -> String {
    let outcome = deploy.build();
    let log = strip_ansi(&outcome.log);
    assert!(outcome.success(), "{log}");
    log
}

/// The key of the evaluation that the image's metadata has.
fn key(deploy: &Deploy) -> String {
    let metadata = fs::read_to_string(deploy.image().join("image.json")).unwrap();
    let found = regex("\"memo\": ?\\{\\s*\"key\": ?\"([0-9a-f]{64})").captures(&metadata);
    found.unwrap()[1].to_string()
}

/// Has the next build evaluate again.
fn forget(deploy: &Deploy) {
    let file = deploy.image().join("image.json");
    let metadata = fs::read_to_string(&file).unwrap();
    fs::write(file, metadata.replace(&key(deploy), &"0".repeat(64))).unwrap();
}

/// The files of the build cache that are below `directory` of the `nix-store` layer.
fn kept(deploy: &Deploy, directory: &str) -> Vec<PathBuf> {
    let blobs = fs::read_dir(deploy.image().join("cache/blobs")).unwrap();
    let layers = blobs.map(|blob| blob.unwrap().path().join(directory));
    let files = layers
        .filter_map(|layer| fs::read_dir(layer).ok())
        .flatten();
    files
        .map(|file| file.unwrap().path())
        .filter(|path| path.is_file())
        .collect()
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|it| it == extension)
}

fn asked_for_nars(server: &Server) -> usize {
    let requests = server.take_requests();
    let nars = requests.iter().filter(|it| it.path.starts_with("/nar/"));
    nars.count()
}

const KEPT: &str = "Using nix-2.34.8 from the cache";

#[test]
fn nix_comes_from_the_binary_caches_and_is_kept_with_its_signatures() {
    let Some((mut deploy, server)) = deploy() else {
        return;
    };
    let log = built(&deploy);
    assert!(
        log.contains("Taking nix-2.34.8 from the binary caches"),
        "{log}"
    );
    assert!(asked_for_nars(&server) > 20);
    let narinfos = kept(&deploy, "nix");
    let narinfos = narinfos
        .iter()
        .filter(|file| has_extension(file, "narinfo"));
    for narinfo in narinfos {
        let text = fs::read_to_string(narinfo).unwrap();
        assert!(text.contains("\nSig: fixtures-1:"), "{text}");
    }
    // An app that changed nothing needs no Nix, and one that has needs no cache for it.
    assert!(built(&deploy).contains("was evaluated before"));
    forget(&deploy);
    let cache = deploy.cache.url();
    deploy.set("NIX_EXTRA_BINARY_CACHE", &cache);
    let log = built(&deploy);
    assert!(log.contains(KEPT), "{log}");
    assert_eq!(asked_for_nars(&server), 0);
}

#[test]
fn a_nix_that_was_changed_in_the_build_cache_is_not_used() {
    let Some((deploy, server)) = deploy() else {
        return;
    };
    built(&deploy);
    let _ = server.take_requests();
    let is_nix = |file: &&PathBuf| {
        let text = fs::read_to_string(file).unwrap_or_default();
        has_extension(file, "narinfo") && text.contains("-nix-bin-")
    };
    let other = |nar: &Path, after_middle: usize| {
        let mut content = zstd::decode_all(fs::File::open(nar).unwrap()).unwrap();
        let middle = content.len() / 2;
        content[middle + after_middle] ^= 1;
        content
    };

    // Another content than is signed.
    forget(&deploy);
    let files = kept(&deploy, "nix");
    let narinfo = files.iter().find(is_nix).unwrap();
    let nar = narinfo.with_extension("nar.zst");
    let content = other(&nar, 0);
    fs::write(&nar, zstd::bulk::compress(&content, 1).unwrap()).unwrap();
    let log = built(&deploy);
    assert!(log.contains("The build cache is not used for Nix"), "{log}");
    assert!(log.contains("the NAR has the hash"), "{log}");
    assert!(asked_for_nars(&server) > 20);

    // The same, with a narinfo that says so: then no key has signed it.
    forget(&deploy);
    let files = kept(&deploy, "nix");
    let narinfo = files.iter().find(is_nix).unwrap();
    let nar = narinfo.with_extension("nar.zst");
    let content = other(&nar, 1);
    fs::write(&nar, zstd::bulk::compress(&content, 1).unwrap()).unwrap();
    let text = fs::read_to_string(narinfo).unwrap();
    let (_, after) = text.split_once("NarHash: ").unwrap();
    let before = after.lines().next().unwrap();
    let hash = nix_derivation::NixHash::Sha256(sha2::Sha256::digest(&content).into());
    let text = text.replace(before, &hash.to_nix_nixbase32_string());
    fs::write(narinfo, text).unwrap();
    let log = built(&deploy);
    assert!(!log.contains(KEPT), "{log}");
    assert!(asked_for_nars(&server) > 20);
}

#[test]
fn a_nix_that_no_trusted_key_has_signed_is_not_run() {
    let Some((mut deploy, server)) = deploy() else {
        return;
    };
    deploy
        .unset("NIX_TRUSTED_PUBLIC_KEYS")
        .set("NIX_EXTRA_BINARY_CACHE", &server.url());
    let outcome = deploy.build();
    let log = strip_ansi(&outcome.log);
    assert!(!outcome.success());
    let said = "No binary cache gives the Nix to evaluate with";
    assert!(
        log.contains(said) && log.contains("no trusted key has signed"),
        "{log}"
    );
    assert_eq!(asked_for_nars(&server), 0);

    // A release takes its place.
    let archive = deploy.tool(&deploy.fixtures.nix_archive.clone());
    let sha256 = deploy.fixtures.nix_archive_sha256.clone();
    deploy
        .set("NIX_ARCHIVE_URL", &archive)
        .set("NIX_ARCHIVE_SHA256", &sha256);
    let log = strip_ansi(&deploy.build().log);
    assert!(
        log.contains("Taking the release instead: no trusted key"),
        "{log}"
    );
    assert!(log.contains("Evaluating `default.nix`"), "{log}");
}

#[test]
fn a_release_that_was_changed_in_the_build_cache_is_downloaded_again() {
    let Some(deploy) = Deploy::new("static") else {
        return;
    };
    built(&deploy);
    let is_archive = |file: &PathBuf| has_extension(file, "tar");
    let archive = || kept(&deploy, "").into_iter().find(is_archive).unwrap();
    forget(&deploy);
    deploy.requests();
    built(&deploy);
    let fetches = |requests: Vec<String>| {
        let archives = requests.iter().filter(|path| path.ends_with(".tar.xz"));
        archives.count()
    };
    assert_eq!(fetches(deploy.requests()), 0);

    // Whatever stands beside it.
    let file = archive();
    let text = fs::read(&file).unwrap();
    fs::write(&file, &text[..text.len() - 1]).unwrap();
    let hash = hex::encode(sha2::Sha256::digest(&text[..text.len() - 1]));
    fs::write(file.with_extension("zst.sha256"), hash).unwrap();
    forget(&deploy);
    built(&deploy);
    assert_eq!(fetches(deploy.requests()), 1);
}

#[test]
fn an_app_that_is_unchanged_needs_no_nix_and_no_build_cache() {
    let Some(deploy) = Deploy::new("static") else {
        return;
    };
    built(&deploy);
    fs::remove_dir_all(deploy.image().join("cache")).unwrap();
    deploy.requests();
    let log = built(&deploy);
    assert!(log.contains("`default.nix` was evaluated before"), "{log}");
    assert_eq!(deploy.requests(), Vec::<String>::new());
}

#[test]
fn what_the_build_cache_says_of_an_evaluation_is_not_believed() {
    let Some(deploy) = Deploy::new("static") else {
        return;
    };
    built(&deploy);
    // As the memo was kept until it moved to the image's metadata.
    let other = &deploy.fixtures.apps["python"].store_path;
    let memo = format!(
        "{{\"evaluations\":[{{\"key\":\"{}\",\"roots\":[{{\"path\":\"{other}\",\"main_program\":null}}]}}]}}",
        key(&deploy)
    );
    let file = kept(&deploy, "").remove(0).with_file_name("memo.json");
    fs::write(file, memo).unwrap();
    let log = built(&deploy);
    assert!(!log.contains(other.as_str()), "{log}");
}
