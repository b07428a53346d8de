//! A closure that is fetched here is, file by file, the one that real Nix fetches.

use crate::common::fetch;
use crate::common::{caches, fixtures, nix, output};
use binary_cache::{Answer, CacheAnswer, Caches, TrustSettings, Unusable};
use closure::fetch::{FetchFailure, fetch_each};
use closure::plan::Previous;
use closure::queue::{Queue, QueuedPath};
use closure::relocate::references::ScanFor;
use http_client::{Http, Patience};
use nix_derivation::{NixHash, StorePath};
use platform::fixtures::Fixtures;
use platform::server::{Response, Server};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A file as Nix sees one: content, executable bit, or a link's target.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File { executable: bool, content: Vec<u8> },
    Link(PathBuf),
}

fn tree(directory: &Path) -> BTreeMap<PathBuf, Entry> {
    fn walk(root: &Path, at: &Path, into: &mut BTreeMap<PathBuf, Entry>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let entry = if metadata.is_dir() {
                walk(root, &path, into);
                Entry::Directory
            } else if metadata.is_symlink() {
                Entry::Link(fs::read_link(&path).unwrap())
            } else {
                Entry::File {
                    executable: metadata.permissions().mode() & 0o100 != 0,
                    content: fs::read(&path).unwrap(),
                }
            };
            into.insert(path.strip_prefix(root).unwrap().to_path_buf(), entry);
        }
    }
    let mut entries = BTreeMap::new();
    walk(directory, directory, &mut entries);
    entries
}

fn root(fixtures: &Fixtures, app: &str) -> StorePath {
    fixtures.apps[app].store_path.parse().unwrap()
}

fn fetched(caches: &Caches, root: &StorePath) -> TempDir {
    let store = TempDir::new().unwrap();
    let closure =
        crate::common::plan(caches, std::slice::from_ref(root), &Previous::default()).unwrap();
    fetch(&closure, caches, store.path(), &ScanFor::Nothing).unwrap();
    store
}

/// The binary cache at `from` copied by real Nix with another compression.
fn recompressed(fixtures: &Fixtures, app: &str, compression: &str, to: &Path) {
    output(
        std::process::Command::new(Path::new(&fixtures.nix).join("bin/nix"))
            .env("HOME", to)
            .env("NIX_CONFIG", "experimental-features = nix-command")
            .args([
                "copy",
                "--from",
                &format!("file://{}", fixtures.cache.display()),
            ])
            .args([
                "--to",
                &format!("file://{}?compression={compression}", to.display()),
            ])
            .args(["--option", "trusted-public-keys", &fixtures.public_key])
            .arg(&fixtures.apps[app].store_path),
    );
}

#[test]
fn a_closure_is_what_nix_copy_makes_of_it() {
    let Some(fixtures) = fixtures() else { return };
    let server = Server::start(&fixtures.cache).unwrap();
    let ours = fetched(
        &caches(&[server.url()], &[&fixtures.public_key], true),
        &root(&fixtures, "python"),
    );
    let nix_root = TempDir::new().unwrap();
    output(
        nix(&fixtures, "nix", nix_root.path())
            .args(["copy", "--from", &server.url()])
            .args(["--option", "trusted-public-keys", &fixtures.public_key])
            .args(["--to", &format!("local?root={}", nix_root.path().display())])
            .arg(&fixtures.apps["python"].store_path),
    );
    let theirs = tree(&nix_root.path().join("nix/store"));
    let theirs: BTreeMap<_, _> = theirs
        .into_iter()
        .filter(|(path, _)| !path.starts_with(".links"))
        .collect();
    let ours = tree(ours.path());
    assert!(theirs.len() > 500, "{} entries", theirs.len());
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        theirs.keys().collect::<Vec<_>>()
    );
    for (path, entry) in &theirs {
        assert!(ours[path] == *entry, "{} differs", path.display());
    }
}

#[test]
fn every_compression_gives_the_same_files() {
    let Some(fixtures) = fixtures() else { return };
    let app = "static";
    let url = |directory: &Path| format!("file://{}", directory.display());
    let keys = [fixtures.public_key.as_str()];
    let expected = fetched(
        &caches(&[url(&fixtures.cache)], &keys, true),
        &root(&fixtures, app),
    );
    let expected = tree(expected.path());
    for compression in ["none", "xz", "bzip2", "gzip", "br", "zstd"] {
        let cache = TempDir::new().unwrap();
        recompressed(&fixtures, app, compression, cache.path());
        let store = fetched(
            &caches(&[url(cache.path())], &keys, true),
            &root(&fixtures, app),
        );
        assert!(tree(store.path()) == expected, "{compression}");
    }
}

#[test]
fn files_have_the_modes_of_a_nix_store() {
    let Some(fixtures) = fixtures() else { return };
    let url = format!("file://{}", fixtures.cache.display());
    let store = fetched(
        &caches(&[url], &[&fixtures.public_key], true),
        &root(&fixtures, "static"),
    );
    let program = store
        .path()
        .join(root(&fixtures, "static").to_basename())
        .join("bin/myapp");
    let mode = program.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o555);
}

#[test]
fn a_path_is_taken_from_the_first_cache_that_has_it() {
    let Some(fixtures) = fixtures() else { return };
    let empty = TempDir::new().unwrap();
    fs::write(
        empty.path().join("nix-cache-info"),
        "StoreDir: /nix/store\nPriority: 10\n",
    )
    .unwrap();
    let (first, second) = (
        Server::start(empty.path()).unwrap(),
        Server::start(&fixtures.cache).unwrap(),
    );
    // Named in the other order: the priorities decide.
    let caches = caches(&[second.url(), first.url()], &[&fixtures.public_key], true);
    fetched(&caches, &root(&fixtures, "static"));
    assert_eq!(
        first.requests().len(),
        2,
        "its nix-cache-info and a narinfo"
    );
    assert_eq!(second.requests().len(), 3, "the same and a NAR");
}

#[test]
fn a_cache_that_is_down_is_left_out_where_another_has_the_path() {
    let Some(fixtures) = fixtures() else { return };
    let server = Server::start(&fixtures.cache).unwrap();
    let broken = Server::with_hook("/", |_| Some(Response::new(401))).unwrap();
    let caches = caches(&[broken.url(), server.url()], &[&fixtures.public_key], true);
    fetched(&caches, &root(&fixtures, "static"));
    let unusable: Vec<_> = caches.unusable().collect();
    let url = broken.url().trim_end_matches('/').to_string();
    assert_eq!(
        unusable,
        [Unusable {
            cache: url,
            reason: "HTTP status 401 Unauthorized; no credentials for it were found".to_string(),
        }]
    );
}

#[test]
fn a_missing_path_comes_with_the_chain_that_wants_it_and_every_answer() {
    let Some(fixtures) = fixtures() else { return };
    let root = root(&fixtures, "python");
    let missing = "libsqlite3-0";
    let directory = fixtures.cache.clone();
    let server = Server::with_hook(&fixtures.cache, move |request| {
        let narinfo = directory.join(request.path.trim_start_matches('/'));
        let text = fs::read_to_string(narinfo).unwrap_or_default();
        let is_it = request.path.ends_with(".narinfo")
            && text
                .lines()
                .next()
                .is_some_and(|line| line.contains(missing));
        is_it.then(|| Response::new(404))
    })
    .unwrap();
    let caches = caches(&[server.url()], &[&fixtures.public_key], true);
    let misses = crate::common::plan(&caches, std::slice::from_ref(&root), &Previous::default())
        .unwrap_err();
    assert_eq!(misses.len(), 1);
    assert!(misses[0].path.name().starts_with(missing));
    assert_eq!(misses[0].wanted_by.first(), Some(&root));
    let url = server.url().trim_end_matches('/').to_string();
    let expected = CacheAnswer {
        cache: url,
        answer: Answer::Absent,
    };
    assert_eq!(misses[0].answers, [expected]);
}

#[test]
fn a_body_that_breaks_off_goes_on_where_it_was() {
    let Some(fixtures) = fixtures() else { return };
    let broken = AtomicUsize::new(0);
    let directory = fixtures.cache.clone();
    let server = Server::with_hook(&fixtures.cache, move |request| {
        if !request.path.starts_with("/nar/") || broken.fetch_add(1, Ordering::Relaxed) > 0 {
            return None;
        }
        let whole = fs::read(directory.join(&request.path[1..])).unwrap();
        let half = whole.len() / 2;
        Some(
            Response::new(200)
                .body(&whole[..half])
                .missing(whole.len() - half),
        )
    })
    .unwrap();
    let caches = caches(&[server.url()], &[&fixtures.public_key], true);
    fetched(&caches, &root(&fixtures, "static"));
    let ranges: Vec<_> = server
        .requests()
        .iter()
        .filter_map(|request| request.header("range").map(str::to_string))
        .collect();
    assert_eq!(ranges.len(), 1, "{ranges:?}");
}

#[test]
fn passing_failures_are_tried_again() {
    let Some(fixtures) = fixtures() else { return };
    let count = AtomicUsize::new(0);
    let server = Server::with_hook(&fixtures.cache, move |_| {
        let answer = [503, 429, 500, 200][count.fetch_add(1, Ordering::Relaxed) % 4];
        (answer != 200).then(|| Response::new(answer).header("Retry-After", "0"))
    })
    .unwrap();
    let caches = caches(&[server.url()], &[&fixtures.public_key], true);
    fetched(&caches, &root(&fixtures, "static"));
}

#[test]
fn a_server_that_says_when_to_come_again_is_asked_no_sooner() {
    let Some(fixtures) = fixtures() else { return };
    // The server's clock is what counts, and is years off.
    let date = "Mon, 01 Jan 2001 10:00:00 GMT";
    for (status, when, least) in [
        (408, "1", 1),
        (429, "2", 2),
        (503, "Mon, 01 Jan 2001 10:00:03 GMT", 3),
        (503, "Mon, 01 Jan 2001 09:00:00 GMT", 0),
    ] {
        let asked: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let seen = Arc::clone(&asked);
        let server = Server::with_hook(&fixtures.cache, move |request| {
            if !request.path.ends_with(".narinfo") {
                return None;
            }
            let mut asked = seen.lock().unwrap();
            asked.push(Instant::now());
            let busy = Response::new(status).header("Date", date);
            (asked.len() == 1).then(|| busy.header("Retry-After", when))
        })
        .unwrap();
        let caches = caches(&[server.url()], &[&fixtures.public_key], true);
        fetched(&caches, &root(&fixtures, "static"));
        let asked = asked.lock().unwrap();
        let waited = asked[1] - asked[0];
        let expected = Duration::from_secs(least)..Duration::from_secs(least + 10);
        assert!(expected.contains(&waited), "{status}, {when}: {waited:?}");
    }
}

#[test]
fn a_cache_that_has_a_new_url_for_a_lost_nar_each_time_is_not_asked_for_ever() {
    let Some(fixtures) = fixtures() else { return };
    let directory = fixtures.cache.clone();
    let count = AtomicUsize::new(0);
    let server = Server::with_hook(&fixtures.cache, move |request| {
        if request.path.starts_with("/nar/") {
            return Some(Response::new(404));
        }
        let text = fs::read_to_string(directory.join(&request.path[1..])).unwrap();
        let number = count.fetch_add(1, Ordering::Relaxed);
        let text = text.replace("URL: nar/", &format!("URL: nar/{number}/"));
        Some(Response::new(200).body(text.as_bytes()))
    })
    .unwrap();
    let caches = caches(&[server.url()], &[&fixtures.public_key], true);
    let root = root(&fixtures, "static");
    let closure = crate::common::plan(&caches, &[root], &Previous::default()).unwrap();
    let store = TempDir::new().unwrap();
    let error = fetch(&closure, &caches, store.path(), &ScanFor::Nothing).unwrap_err();
    assert!(
        matches!(&error.reason, FetchFailure::Open(error) if error.is_absent()),
        "{error:?}"
    );
    let nars = server.requests();
    let nars = nars
        .iter()
        .filter(|request| request.path.starts_with("/nar/"));
    assert_eq!(nars.count(), 3);
}

#[test]
fn a_cache_that_goes_down_after_the_plan_is_waited_for_once() {
    let Some(fixtures) = fixtures() else { return };
    let other = Server::start(&fixtures.cache).unwrap();
    let is_down = Arc::new(AtomicBool::new(false));
    let goes_down = Arc::clone(&is_down);
    let first = Server::with_hook(&fixtures.cache, move |_| {
        let fails = goes_down.load(Ordering::Relaxed);
        fails.then(|| Response::new(500))
    })
    .unwrap();
    let caches = caches(&[first.url(), other.url()], &[&fixtures.public_key], true);
    let root = root(&fixtures, "python");
    let closure =
        crate::common::plan(&caches, std::slice::from_ref(&root), &Previous::default()).unwrap();
    let url = first.url().trim_end_matches('/').to_string();
    assert!(
        closure
            .paths
            .values()
            .all(|info| caches.name_of(info).as_ref() == Some(&url))
    );
    assert_eq!(caches.unusable().count(), 0);
    let _ = first.take_requests();
    is_down.store(true, Ordering::Relaxed);
    let store = TempDir::new().unwrap();
    let queue = Queue::of(closure.paths.iter().map(|(path, info)| QueuedPath {
        path: path.clone(),
        info: info.clone(),
        place: store.path().join(path.to_basename()),
    }));
    let fetched = fetch_each(&queue, &caches, &ScanFor::Nothing).unwrap();
    // Those that are at work at once are asked for in all their attempts, and nothing later.
    let asked: BTreeSet<_> = first.requests().into_iter().map(|one| one.path).collect();
    let nars = asked
        .iter()
        .filter(|path| path.starts_with("/nar/"))
        .count();
    assert!((4..=32).contains(&nars), "{asked:?}");
    let unusable: Vec<_> = caches.unusable().map(|unusable| unusable.cache).collect();
    assert_eq!(unusable, [url]);
    // What is kept of a path is where it came from in the end.
    let from = other.url().trim_end_matches('/').to_string();
    assert!(
        fetched
            .iter()
            .all(|(wanted, _)| caches.name_of(&wanted.info).as_ref() == Some(&from))
    );
    assert_eq!(fetched.len(), closure.paths.len());
    assert!(fetched.len() > 20);
}

#[test]
fn a_cache_that_fails_again_and_again_is_left_alone_and_one_that_fails_now_and_then_is_not() {
    let Some(fixtures) = fixtures() else { return };
    let other = Server::start(&fixtures.cache).unwrap();
    let python = root(&fixtures, "python");
    for (one_in, is_left_out) in [(1, true), (5, false)] {
        // The same path fails each time that it is asked for.
        let broken = Server::with_hook(&fixtures.cache, move |request| {
            let fails = request.path.ends_with(".narinfo")
                && usize::from(request.path.as_bytes()[1]) % one_in == 0;
            fails.then(|| Response::new(500))
        })
        .unwrap();
        let caches = caches(&[broken.url(), other.url()], &[&fixtures.public_key], true);
        let closure =
            crate::common::plan(&caches, std::slice::from_ref(&python), &Previous::default());
        assert!(closure.unwrap().paths.len() > 20);
        assert_eq!(
            caches.unusable().count(),
            usize::from(is_left_out),
            "{one_in}"
        );
    }
}

#[test]
fn a_path_of_which_no_url_was_kept_is_asked_for_again() {
    let Some(fixtures) = fixtures() else { return };
    let server = Server::start(&fixtures.cache).unwrap();
    let keys = [fixtures.public_key.as_str()];
    let closure = || {
        let caches = caches(&[server.url()], &keys, true);
        let root = root(&fixtures, "static");
        let mut closure = crate::common::plan(&caches, &[root], &Previous::default()).unwrap();
        closure
            .paths
            .values_mut()
            .for_each(|info| info.source = None);
        closure
    };
    let store = TempDir::new().unwrap();
    let caches_now = caches(&[server.url()], &keys, true);
    fetch(&closure(), &caches_now, store.path(), &ScanFor::Nothing).unwrap();
    assert_eq!(fs::read_dir(store.path()).unwrap().count(), 1);

    // It was in a cache that is no longer named, and the other one does not have it.
    let empty = TempDir::new().unwrap();
    fs::write(
        empty.path().join("nix-cache-info"),
        "StoreDir: /nix/store\n",
    )
    .unwrap();
    let others = caches(&[format!("file://{}", empty.path().display())], &keys, true);
    let store = TempDir::new().unwrap();
    let error = fetch(&closure(), &others, store.path(), &ScanFor::Nothing).unwrap_err();
    assert!(
        matches!(&error.reason, FetchFailure::Lost(answers) if answers[0].answer == Answer::Absent),
        "{error:?}"
    );

    // It is there, but is another one.
    let mut closure = closure();
    for info in closure.paths.values_mut() {
        info.nar_hash = NixHash::Sha256([0; 32]);
    }
    let store = TempDir::new().unwrap();
    let error = fetch(&closure, &caches_now, store.path(), &ScanFor::Nothing).unwrap_err();
    assert!(
        matches!(&error.reason, FetchFailure::Lost(answers) if answers[0].answer == Answer::Another),
        "{error:?}"
    );
}

/// A binary cache that has nothing, and takes hours to say so.
fn slow_to_say_no() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            thread::spawn(move || -> io::Result<()> {
                let mut head = [0; 4096];
                let count = connection.read(&mut head)?;
                if head[..count].starts_with(b"GET /nix-cache-info ") {
                    let info = "StoreDir: /nix/store\n";
                    let length = info.len();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n");
                    return write!(connection, "{head}Connection: close\r\n\r\n{info}");
                }
                write!(
                    connection,
                    "HTTP/1.1 404 No\r\nContent-Length: 60000\r\n\r\n"
                )?;
                loop {
                    connection.write_all(b" ")?;
                    thread::sleep(Duration::from_millis(100));
                }
            });
        }
    });
    url
}

#[test]
fn an_answer_that_nobody_wants_is_not_read_for_hours() {
    let Some(fixtures) = fixtures() else { return };
    let server = Server::start(&fixtures.cache).unwrap();
    let impatient = Http::with_patience(Patience {
        read: Duration::from_secs(1),
        ..Patience::default()
    });
    let urls = [slow_to_say_no(), server.url()].map(|url| url.parse().unwrap());
    let trust = TrustSettings {
        keys: vec![fixtures.public_key.parse().unwrap()],
        required: true,
    };
    let caches = Caches::open(&urls, trust, &impatient, &hydra::sign_in);
    assert_eq!(caches.unusable().count(), 0);
    let started = Instant::now();
    fetched(&caches, &root(&fixtures, "static"));
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn what_an_earlier_build_knows_is_not_asked_for_again() {
    let Some(fixtures) = fixtures() else { return };
    let server = Server::start(&fixtures.cache).unwrap();
    let caches = caches(&[server.url()], &[&fixtures.public_key], true);
    let root = root(&fixtures, "python");
    let before =
        crate::common::plan(&caches, std::slice::from_ref(&root), &Previous::default()).unwrap();
    // As after a change of the app: everything but the root is as it was.
    let mut known = Previous {
        verified: before.paths.clone(),
        likely: Vec::new(),
    };
    known.verified.remove(&root);
    let _ = server.take_requests();
    let again = crate::common::plan(&caches, std::slice::from_ref(&root), &known).unwrap();
    assert_eq!(again.paths, before.paths);
    let asked: Vec<_> = server
        .take_requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    let hash_part = root.to_basename()[..32].to_string();
    assert_eq!(asked, [format!("/{hash_part}.narinfo")]);
}

/// Requests that a slow server answers now, and the most that it ever did at once.
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[test]
fn guesses_are_asked_for_at_once_and_only_count_where_they_are_needed() {
    let Some(fixtures) = fixtures() else { return };
    let server = Server::with_hook(&fixtures.cache, |_| {
        MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(100));
        NOW.fetch_sub(1, Ordering::SeqCst);
        None
    })
    .unwrap();
    let caches = caches(&[server.url()], &[&fixtures.public_key], true);
    let python = root(&fixtures, "python");
    let all =
        crate::common::plan(&caches, std::slice::from_ref(&python), &Previous::default()).unwrap();
    let by_depth = MOST.swap(0, Ordering::SeqCst);
    let mut likely: Vec<_> = all.paths.keys().cloned().collect();
    likely.push(root(&fixtures, "static"));
    likely.push(
        "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-gone"
            .parse()
            .unwrap(),
    );
    let known = Previous {
        likely,
        ..Previous::default()
    };
    let again = crate::common::plan(&caches, std::slice::from_ref(&python), &known).unwrap();
    assert_eq!(again.paths, all.paths);
    let at_once = MOST.load(Ordering::SeqCst);
    assert!(
        at_once >= 30 && at_once > by_depth,
        "{at_once} at once, {by_depth} before"
    );
}

#[test]
fn a_nar_that_one_cache_has_lost_is_taken_from_another() {
    let Some(fixtures) = fixtures() else { return };
    let lost = Server::with_hook(&fixtures.cache, |request| {
        request
            .path
            .starts_with("/nar/")
            .then(|| Response::new(410))
    })
    .unwrap();
    let broken = Server::with_hook(&fixtures.cache, |request| {
        let is_nar = request.path.starts_with("/nar/");
        is_nar.then(|| Response::new(200).body("<html>a proxy's opinion</html>"))
    })
    .unwrap();
    let sound = Server::start(&fixtures.cache).unwrap();
    let urls = [lost.url(), broken.url(), sound.url()];
    let caches = caches(&urls, &[&fixtures.public_key], true);
    fetched(&caches, &root(&fixtures, "static"));
}
