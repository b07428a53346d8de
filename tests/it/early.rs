//! Store paths are fetched while their closure is still being found out; it is the same closure, and
//! what nobody needs in the end is gone.

use crate::common::{Deploy, caches, fixtures, strip_ansi};
use closure::fetch::fetch_each;
use closure::plan::Previous;
use closure::prefetch::Prefetch;
use closure::queue::{Queue, QueuedPath};
use closure::relocate::references::{ReferenceScanner, ScanFor};
use closure::relocate::report::RelocationReport;
use nix_derivation::StorePath;
use platform::narrow;
use platform::server::{Response, Server};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What the Python app's closure has, far from its root.
const DEEP: &str = "libsqlite3-0";

/// Longer than any build here takes, and than an answer is waited for.
const LONG: Duration = Duration::from_mins(10);

/// Whether the narinfo of [`DEEP`] is asked for.
fn is_deep(cache: &Path, request: &str) -> bool {
    request.ends_with(".narinfo")
        && fs::read_to_string(cache.join(request.trim_start_matches('/')))
            .is_ok_and(|text| text.lines().next().is_some_and(|line| line.contains(DEEP)))
}

fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// The app in Python from a cache that keeps the narinfo of [`DEEP`] back until it was asked for this
/// many NARs, and then answers with `status`.
fn python(nars: usize, status: u16, nar: impl Fn() + Send + Sync + 'static) -> Option<Deploy> {
    let cache = fixtures()?.cache;
    let asked = AtomicUsize::new(0);
    let mut deploy = Deploy::with_hook("python", move |request| {
        if request.path.starts_with("/nar/") {
            asked.fetch_add(1, Ordering::SeqCst);
            nar();
        } else {
            // A cache that answers at once is asked for few at once.
            std::thread::sleep(Duration::from_millis(10));
        }
        if !is_deep(&cache, &request.path) {
            return None;
        }
        let early = wait_until(|| asked.load(Ordering::SeqCst) >= nars);
        let status = if early { status } else { 500 };
        (status != 200).then(|| Response::new(status))
    })?;
    deploy.set_path("python");
    Some(deploy)
}

#[test]
fn nars_are_downloaded_while_narinfos_are_awaited() {
    let Some(deploy) = python(20, 200, || ()) else {
        return;
    };
    let image = deploy.built();
    assert_eq!(deploy.run(&image, ["nix-hydra", "doctor"]).code, 0);
}

#[test]
fn a_miss_ends_the_downloads_that_have_begun_and_leaves_nothing_of_them() {
    let ended = Arc::new(AtomicBool::new(false));
    let hold = Arc::clone(&ended);
    let silent = move || {
        wait_until(|| hold.load(Ordering::SeqCst));
    };
    let Some(deploy) = python(10, 404, silent) else {
        return;
    };
    let outcome = deploy.build();
    ended.store(true, Ordering::SeqCst);
    let log = strip_ansi(&outcome.log);
    assert_eq!(outcome.build, Some(1), "{log}");
    assert!(
        log.contains(DEEP) && log.contains("does not have the path"),
        "{log}"
    );
    // Nobody has waited for an answer for so long as to ask again.
    let mut asked = deploy.requests();
    asked.retain(|request| request.contains("/nar/"));
    let count = asked.len();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), count);
    assert!(!outcome.layers.join("closure").exists());
}

#[test]
fn a_cache_that_serves_few_connections_is_asked_no_more_than_it_serves() {
    for connections in [1, 2, 5] {
        let Some(mut deploy) = Deploy::new("python") else {
            return;
        };
        let path = deploy.fixtures.apps["python"].store_path.clone();
        let url = narrow::way_to(&deploy.cache, connections).unwrap();
        deploy
            .set("NIX_STORE_PATH", &path)
            .set("NIX_EXTRA_BINARY_CACHE", &url);
        deploy.built();
    }
}

#[test]
fn what_a_path_declares_is_all_that_is_found_in_it_with_the_whole_closure_known() {
    let Some(fixtures) = fixtures() else { return };
    let server = Server::start(&fixtures.cache).unwrap();
    let caches = Arc::new(caches(&[server.url()], &[&fixtures.public_key], true));
    let root: StorePath = fixtures.apps["python"].store_path.parse().unwrap();
    let closure = crate::common::plan(&caches, &[root], &Previous::default()).unwrap();
    let found =
        |fetched: Vec<(QueuedPath, RelocationReport)>| -> BTreeMap<String, RelocationReport> {
            let found = fetched.into_iter();
            found
                .map(|(wanted, survey)| (wanted.path.to_basename(), survey))
                .collect()
        };

    let directory = TempDir::new().unwrap();
    let (later, early) = (directory.path().join("later"), directory.path().join("x"));
    fs::create_dir(&later).unwrap();
    fs::create_dir(&early).unwrap();
    let wanted = closure.paths.iter().map(|(path, info)| QueuedPath {
        path: path.clone(),
        info: info.clone(),
        place: later.join(path.to_basename()),
    });
    let all = ScanFor::All(ReferenceScanner::new(closure.paths.keys(), None));
    let expected = found(fetch_each(&Queue::of(wanted), &caches, &all).unwrap());
    assert!(expected.values().any(|survey| survey.references > 0));

    let waiting = directory.path().join("early");
    let begun = Prefetch::begin(Arc::clone(&caches), &waiting, ScanFor::Declared).unwrap();
    for (path, info) in &closure.paths {
        begun.add(path, info);
    }
    let fetched = begun.finish(|path| early.join(path.to_basename()));
    assert_eq!(found(fetched.unwrap()), expected);
    assert!(!waiting.exists());
    assert_eq!(fs::read_dir(&early).unwrap().count(), closure.paths.len());
}
