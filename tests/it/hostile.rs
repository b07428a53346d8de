//! Caches, servers and archives that mean harm: each trick ends in a message that names it, and
//! nothing outside the store path's own place is touched.

#![allow(clippy::too_many_lines, reason = "tables of tricks are long")]

use crate::common::fetch;
use crate::common::{digest, regex, unpacked};
use crate::servers::{bzip2_of, gzip_of, other_host, xz_in_blocks, xz_of, zlib_of, zstd_of};
use binary_cache::CacheUrl;
use binary_cache::Caches;
use binary_cache::TrustSettings;
use closure::Closure;
use closure::plan::Previous;
use closure::relocate::references::ScanFor;
use http_client::{Http, Patience};
use nix_derivation::NixHash;
use nix_hydra_buildpack::error::BuildpackError;
use nix_hydra_buildpack::layers::closure::ClosureLayerError;
use nix_hydra_buildpack::layers::proot;
use nix_hydra_buildpack::resolve::ResolveError;
use nix_hydra_buildpack::tools::Download;
use nix_hydra_buildpack::tools::{Tool, ToolSource};
use nix_runner::NixError;
use nix_runner::archive::{Target, unpack_release};
use platform::greedy::{xz_with_a_large_dictionary, zstd_with_window};
use platform::server::{Request, Response, Server};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The store path that is asked for.
pub const ROOT: &str = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-root";

const OK: &str = "HTTP/1.1 200 OK\r\n";

/// As patient as a test can be.
const IMPATIENT: Patience = Patience {
    response: Duration::from_secs(1),
    slow_response: Duration::from_secs(1),
    read: Duration::from_secs(1),
    retry: Duration::from_secs(1),
};

/// What a NAR holds; no rule of the format is kept unless the test keeps it.
pub enum Node<'a> {
    File(&'a [u8]),
    Link(&'a [u8]),
    Directory(Vec<(&'a [u8], Node<'a>)>),
    /// Tokens as they are.
    Tokens(Vec<&'a [u8]>),
}

use Node::{Directory, File, Link, Tokens};

fn token(nar: &mut Vec<u8>, bytes: &[u8]) {
    nar.extend((bytes.len() as u64).to_le_bytes());
    nar.extend(bytes);
    nar.resize(nar.len().next_multiple_of(8), 0);
}

fn write_node(nar: &mut Vec<u8>, node: &Node) {
    let mut tokens = |tokens: &[&[u8]]| tokens.iter().for_each(|bytes| token(nar, bytes));
    match node {
        File(content) => tokens(&[b"(", b"type", b"regular", b"contents", content, b")"]),
        Link(target) => tokens(&[b"(", b"type", b"symlink", b"target", target, b")"]),
        Tokens(all) => tokens(all),
        Directory(entries) => {
            tokens(&[b"(", b"type", b"directory"]);
            for (name, child) in entries {
                for bytes in [&b"entry"[..], b"(", b"name", name, b"node"] {
                    token(nar, bytes);
                }
                write_node(nar, child);
                token(nar, b")");
            }
            token(nar, b")");
        }
    }
}

pub fn nar(node: &Node) -> Vec<u8> {
    let mut nar = Vec::new();
    token(&mut nar, b"nix-archive-1");
    write_node(&mut nar, node);
    nar
}

/// Directories in each other, and a file in the last.
fn deep(depth: usize) -> Node<'static> {
    (0..depth).fold(File(b"deep"), |node, _| Directory(vec![(b"d", node)]))
}

fn hash(bytes: &[u8]) -> String {
    NixHash::Sha256(Sha256::digest(bytes).into()).to_nix_nixbase32_string()
}

pub fn narinfo(nar: &[u8], size: u64, compression: &str) -> String {
    let hash = hash(nar);
    format!(
        "StorePath: {ROOT}\nURL: nar/root\nCompression: {compression}\nNarHash: {hash}\n\
         NarSize: {size}\n"
    )
}

/// A cache that answers `narinfo` for every path, and `file` for every NAR.
pub fn cache(narinfo: String, file: Vec<u8>) -> Server {
    Server::with_hook("/", move |request| answer(request, &narinfo, &file)).unwrap()
}

pub fn answer(request: &Request, narinfo: &str, file: &[u8]) -> Option<Response> {
    let ok = Response::new(200);
    match request.path.as_str() {
        "/nix-cache-info" => Some(ok.body("StoreDir: /nix/store\n")),
        path if path.ends_with(".narinfo") => Some(ok.body(narinfo)),
        path if path.starts_with("/nar/") => Some(ok.body(file)),
        _ => None,
    }
}

pub fn open(url: &str, http: &Http) -> Caches {
    let url: CacheUrl = format!("{url}?trusted=true").parse().unwrap();
    let trust = TrustSettings {
        keys: Vec::new(),
        required: true,
    };
    Caches::open(&[url], trust, http, &hydra::sign_in)
}

pub fn plan(caches: &Caches) -> Result<Closure, String> {
    let planned = crate::common::plan(caches, &[ROOT.parse().unwrap()], &Previous::default());
    planned.map_err(|misses| {
        let unusable = caches.unusable().collect();
        said(ClosureLayerError::Miss { misses, unusable })
    })
}

pub fn said(error: ClosureLayerError) -> String {
    let message = BuildpackError::ClosureLayer(error).message().to_string();
    let message = message.replace("0.0.0.0", "127.0.0.1");
    // How much of a header has come differs.
    let message = regex("too big: [0-9]+").replace(&message, "too big: …");
    without_port(&message)
}

fn without_port(message: &str) -> String {
    let message = regex("http://127.0.0.1:[0-9]+").replace_all(message, "http://cache");
    message.into_owned()
}

/// A store in a directory that has other things in it, which must stay as they are.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Self {
        // With so short a name that a store in it can be relocated to.
        let home = tempfile::Builder::new().prefix("").tempdir_in("/tmp");
        let home = home.unwrap();
        fs::create_dir_all(home.path().join("layers/store")).unwrap();
        fs::write(home.path().join("secret"), "untouched").unwrap();
        fs::write(home.path().join("layers/other"), "untouched").unwrap();
        Self(home)
    }

    pub fn store(&self) -> std::path::PathBuf {
        self.0.path().join("layers/store")
    }

    /// Checks that nothing came to be, changed or went but in the store path's own place.
    pub fn check(self, name: &str) {
        let place = self.store().join(ROOT.rsplit('/').next().unwrap());
        match place.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(place).unwrap(),
            Ok(_) => fs::remove_file(place).unwrap(),
            Err(_) => {}
        }
        assert_eq!(
            digest(self.0.path()),
            digest(Self::new().0.path()),
            "{name}"
        );
    }
}

/// Plans and fetches from a cache, and answers what went wrong, if anything did.
fn attempt(name: &str, server: &Server, http: &Http) -> Result<(), String> {
    let caches = open(&server.url(), http);
    let home = Home::new();
    let result = plan(&caches).and_then(|closure| {
        fetch(&closure, &caches, &home.store(), &ScanFor::Nothing)
            .map(|_| ())
            .map_err(|error| said(ClosureLayerError::Fetch(Box::new(error))))
    });
    home.check(name);
    result
}

/// What was said of each trick, one after the other.
fn told(cases: Vec<(String, Result<(), String>)>) -> String {
    let mut all = String::new();
    for (name, result) in cases {
        // What to do next is the same for all.
        let message = match &result {
            Ok(()) => "(taken)".to_string(),
            Err(message) => message.split("\n\n").take(2).collect::<Vec<_>>().join("\n"),
        };
        let _ = writeln!(all, "=== {name}\n{message}\n");
    }
    all
}

#[test]
fn a_nar_that_plays_tricks_is_refused_and_writes_nothing_elsewhere() {
    let long = [b'n'; 256];
    let target = vec![b't'; 4096];
    let escape: Vec<(&[u8], Node)> = vec![
        (b"a", Link(b"../../..")),
        (b"a", Directory(vec![(b"secret", File(b"changed"))])),
    ];
    let tricks: Vec<(&str, Node)> = vec![
        ("a name of two dots", Directory(vec![(b"..", File(b"x"))])),
        ("a name of one dot", Directory(vec![(b".", File(b"x"))])),
        ("no name", Directory(vec![(b"", File(b"x"))])),
        (
            "a name with a slash",
            Directory(vec![(b"../secret", File(b"x"))]),
        ),
        (
            "an absolute name",
            Directory(vec![(b"/etc/passwd", File(b"x"))]),
        ),
        ("a name with NUL", Directory(vec![(b"a\0b", File(b"x"))])),
        ("a name of 256 bytes", Directory(vec![(&long, File(b"x"))])),
        ("a link, then a file through it", Directory(escape)),
        (
            "the same name twice",
            Directory(vec![(b"a", File(b"x")), (b"a", File(b"y"))]),
        ),
        (
            "names out of order",
            Directory(vec![(b"b", File(b"x")), (b"a", File(b"y"))]),
        ),
        (
            "a name that moves the cursor",
            Directory(vec![(b"b", File(b"x")), (b"\x1b[2J", File(b"y"))]),
        ),
        ("a link to nothing", Link(b"")),
        ("a link with NUL", Directory(vec![(b"l", Link(b"/etc\0"))])),
        (
            "a link of 4096 bytes",
            Directory(vec![(b"l", Link(&target))]),
        ),
        ("65 directories in each other", deep(65)),
        (
            "a kind that there is not",
            Tokens(vec![b"(", b"type", b"device", b")"]),
        ),
        (
            "a second kind",
            Tokens(vec![b"(", b"type", b"symlink", b"target", b"/", b"type"]),
        ),
        ("nothing", Tokens(vec![])),
    ];
    let mut cases: Vec<_> = tricks
        .iter()
        .map(|(name, node)| ((*name).to_string(), nar(node)))
        .collect();
    let sound = nar(&File(b"content"));
    let mut broken = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut nar = sound.clone();
        change(&mut nar);
        cases.push((name.to_string(), nar));
    };
    // The content's padding is one byte, before the last token.
    broken("padding that is not zero", &|nar| nar[sound.len() - 17] = 1);
    broken("something after the end", &|nar| nar.extend([0; 8]));
    broken("an end before the end", &|nar| nar.truncate(64));
    // The content's length is the token before it.
    let length = sound.len() - 16 - 8 - 8;
    broken("a file of 2^63 bytes", &|nar| nar[length + 7] = 0x80);
    broken("a token of 2^63 bytes", &|nar| nar[24 + 7] = 0x80);
    broken("no NAR", &|nar| *nar = b"<html>".to_vec());

    let told = told(
        cases
            .into_iter()
            .map(|(name, nar)| {
                let server = cache(narinfo(&nar, nar.len() as u64, "none"), nar);
                let result = attempt(&name, &server, &Http::new());
                assert!(result.is_err(), "{name} was taken");
                (name, result)
            })
            .collect(),
    );
    insta::assert_snapshot!(told);
}

#[test]
fn a_nar_that_only_looks_like_a_trick_is_taken_as_it_is() {
    let long = [b'n'; 255];
    for node in [
        // Links are written, and never followed.
        Link(b"../../secret"),
        Directory(vec![(b"up", Link(b"../../..")), (b"up~", File(b"x"))]),
        Directory(vec![(b"passwd", Link(b"/etc/passwd"))]),
        // Names that are one to other systems.
        Directory(vec![
            (b"A", File(b"1")),
            (b"a", File(b"2")),
            (b"a~nix~case~hack~1", File(b"3")),
        ]),
        Directory(vec![(b"...", File(b"x")), (b"\xff\n\x1b", File(b"y"))]),
        Directory(vec![(&long, File(b""))]),
        deep(63),
    ] {
        let nar = nar(&node);
        let server = cache(narinfo(&nar, nar.len() as u64, "none"), nar);
        attempt("sound", &server, &Http::new()).unwrap();
    }
}

#[test]
fn a_size_that_lies_and_a_bomb_end_at_the_size_that_was_promised() {
    let content = vec![0; 20 << 20];
    let bomb = nar(&File(&content));
    let size = bomb.len() as u64;
    let small = nar(&File(b"small"));
    let mut cases = Vec::new();
    let mut case = |name: &str, server: &Server| {
        let started = Instant::now();
        let result = attempt(name, server, &Http::new());
        // Unoptimised, on a machine that does much else.
        assert!(started.elapsed() < Duration::from_mins(1), "{name}");
        cases.push((name.to_string(), result));
    };
    for (compression, packed) in [
        ("xz", xz_of(&bomb)),
        ("zstd", zstd_of(&bomb)),
        ("gzip", gzip_of(&bomb)),
        ("bzip2", bzip2_of(&bomb)),
        ("deflate", zlib_of(&bomb)),
        ("br", crate::servers::brotli_of(&bomb)),
        ("none", bomb.clone()),
    ] {
        // One that says a megabyte, and has a hundred.
        let server = cache(narinfo(&bomb, 1 << 20, compression), packed);
        case(&format!("a bomb in {compression}"), &server);
    }
    // So large that its blocks are decoded side by side.
    let server = cache(narinfo(&bomb, 17 << 20, "xz"), xz_in_blocks(&bomb));
    case("a bomb in blocks of xz", &server);
    let packed = xz_with_a_large_dictionary(xz_in_blocks(&small));
    for (name, size) in [
        ("an xz dictionary of 1.5 GiB", small.len() as u64),
        ("one where blocks are decoded side by side", 17 << 20),
    ] {
        case(name, &cache(narinfo(&small, size, "xz"), packed.clone()));
    }
    let packed = zstd_with_window(28, &small);
    let server = cache(narinfo(&small, small.len() as u64, "zstd"), packed);
    case("a zstd window of 256 MiB", &server);
    // Each of these is nothing, and may be followed by another one.
    for (compression, beginning, nothing) in [
        ("gzip", vec![], gzip_of(b"")),
        ("bzip2", vec![], bzip2_of(b"")),
        // A block that is not compressed (RFC 1951, 3.2.4), after zlib's header.
        ("deflate", vec![0x78, 1], vec![0, 0, 0, 0xff, 0xff]),
        // Metadata of no bytes (RFC 7932, 9.2), after the size of the window.
        ("br", vec![0x0c], vec![6]),
    ] {
        let count = (3 << 20) / nothing.len();
        let packed = [beginning, nothing.repeat(count)].concat();
        let server = cache(narinfo(&small, small.len() as u64, compression), packed);
        case(
            &format!("nothing in {compression}, again and again"),
            &server,
        );
    }
    let huge = "18446744073709551615";
    let claims = |text: &str| narinfo(&small, 0, "none").replace("NarSize: 0", text);
    for (name, text) in [
        ("no size", "NarSize: 0"),
        ("a negative size", "NarSize: -1"),
        ("a size of 2^64", "NarSize: 18446744073709551616"),
        ("a size that is no number", "NarSize: 0x10"),
        ("a size far too large", &format!("NarSize: {huge}")),
        (
            "a file size far too large",
            &format!("NarSize: {}\nFileSize: {huge}", small.len()),
        ),
    ] {
        case(name, &cache(claims(text), small.clone()));
    }
    let other = narinfo(&bomb, size, "xz");
    case(
        "another compression than it says",
        &cache(other, zstd_of(&bomb)),
    );
    let escape = narinfo(&small, small.len() as u64, "\x1b[2Jlz4");
    case(
        "a compression that moves the cursor",
        &cache(escape, small.clone()),
    );
    insta::assert_snapshot!(told(cases));
}

#[test]
fn a_narinfo_that_plays_tricks_is_refused() {
    let small = nar(&File(b"small"));
    let sound = narinfo(&small, small.len() as u64, "none");
    let replaced = |from: &str, to: &str| {
        assert!(sound.contains(from), "{from}");
        sound.replace(from, to)
    };
    let many: String = (0..30_000).fold("References:".into(), |mut all, number| {
        let _ = write!(all, " {number:032}-x");
        all
    });
    let other = "/nix/store/00000000000000000000000000000000-other";
    let url = |to: &str| replaced("nar/root", to);
    let tricks = [
        ("of another path", replaced(ROOT, other)),
        ("of another store", replaced("/nix/store/", "/gnu/store/")),
        (
            "of a path that leads out",
            replaced("-root", "-..%2f../x/../../etc"),
        ),
        (
            "without a path",
            replaced(&format!("StorePath: {ROOT}\n"), ""),
        ),
        // The last one counts, as in Nix.
        ("of two paths", format!("{sound}StorePath: {other}\n")),
        (
            "of two hashes",
            format!("{sound}NarHash: {}\n", hash(b"other")),
        ),
        (
            "with a hash that is none",
            replaced("NarHash: sha256:", "NarHash: sha256:e"),
        ),
        (
            "with a hash of nothing known",
            replaced("NarHash: sha256:", "NarHash: crc32:"),
        ),
        (
            "with a reference that leads out",
            format!("{sound}References: {}-../../etc/passwd\n", "0".repeat(32)),
        ),
        (
            "with a reference of another store",
            format!("{sound}References: /gnu/store/x\n"),
        ),
        (
            "with a line that is none",
            format!("{sound}\u{1b}[2Jgone\n"),
        ),
        (
            "with a NUL",
            format!("{sound}References: {}-a\0b\n", "0".repeat(32)),
        ),
        ("of more than a megabyte", format!("{sound}{many}\n")),
        ("of a NAR in a file", url("file:///etc/passwd")),
        (
            "of a NAR in the cloud's metadata",
            url("http://169.254.169.254/latest/meta-data"),
        ),
        (
            "of a NAR there by another name",
            url("http://[::ffff:a9fe:a9fe]/latest"),
        ),
        (
            "of a NAR by a way that nobody knows",
            url("gopher://127.0.0.1/x"),
        ),
        ("of a NAR at nothing", url("")),
    ];
    let told = tricks
        .into_iter()
        .map(|(name, text)| {
            let result = attempt(name, &cache(text, small.clone()), &Http::new());
            (name.to_string(), result)
        })
        .collect();
    insta::assert_snapshot!(self::told(told));
}

/// A path's narinfo with these references, of which only the graph matters.
pub fn member(base: &str, references: &[String], nar: &[u8]) -> String {
    narinfo(nar, nar.len() as u64, "none").replace(ROOT, &format!("/nix/store/{base}"))
        + &format!("References: {}\n", references.join(" "))
}

/// The base name that `request` asks for, with a hash that is this number in digits.
pub fn asked(request: &Request) -> Option<String> {
    let hash = request.path.strip_prefix('/')?.strip_suffix(".narinfo")?;
    let name = if ROOT.contains(hash) { "root" } else { "x" };
    Some(format!("{hash}-{name}"))
}

#[test]
fn graphs_of_any_shape_are_walked_to_their_end_or_refused() {
    let small = nar(&File(b"small"));
    let base = |number: usize| format!("{number:032}-x");
    let root = ROOT.rsplit('/').next().unwrap().to_string();
    // Two paths that refer to each other, and each to itself.
    let content = small.clone();
    let expected = root.clone();
    let cycle = Server::with_hook("/", move |request| {
        let references = [expected.clone(), base(1)];
        let text = asked(request).map(|path| member(&path, &references, &content));
        answer(request, &text.unwrap_or_default(), &content)
    })
    .unwrap();
    let caches = open(&cycle.url(), &Http::new());
    let closure = plan(&caches).unwrap();
    assert_eq!(closure.paths.len(), 2);
    let store = TempDir::new().unwrap();
    fetch(&closure, &caches, store.path(), &ScanFor::Nothing).unwrap();

    // 10,000 references, each of which is asked for.
    let content = small.clone();
    let wide = Server::with_hook("/", move |request| {
        let path = asked(request).unwrap_or_default();
        let count = if path == root { 10_000 } else { 0 };
        let references: Vec<_> = (0..count).map(base).collect();
        answer(request, &member(&path, &references, &content), &content)
    })
    .unwrap();
    let closure = plan(&open(&wide.url(), &Http::new())).unwrap();
    assert_eq!(closure.paths.len(), 10_001);
    let paths: BTreeSet<String> = wide.requests().into_iter().map(|one| one.path).collect();
    assert_eq!(paths.len(), 10_002);

    // A path that refers to the next, and so on, of which the 500th is not there.
    let content = small.clone();
    let chain = Server::with_hook("/", move |request| {
        let path = asked(request).unwrap_or_default();
        let number: usize = path[..path.len().min(32)].parse().unwrap_or(0);
        if number == 500 {
            return Some(Response::new(404));
        }
        let references = [base(number + 1)];
        answer(request, &member(&path, &references, &content), &content)
    })
    .unwrap();
    let told = plan(&open(&chain.url(), &Http::new())).unwrap_err();
    insta::assert_snapshot!(told);

    // No end of new paths.
    let endless = Server::with_hook("/", move |request| {
        let path = asked(request).unwrap_or_default();
        let seed: usize = path[..path.len().min(32)].parse().unwrap_or(0);
        let next = (0..2_500).map(|number| base((seed + 1) * 100_000 % 999_983_111 + number));
        let text = member(&path, &next.collect::<Vec<_>>(), &small);
        answer(request, &text, &small)
    })
    .unwrap();
    let told = plan(&open(&endless.url(), &Http::new())).unwrap_err();
    insta::assert_snapshot!(told);
}

/// A server that answers each request for `path` with what `write` writes; the rest is sound.
fn raw(
    path: &'static str,
    write: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let write = std::sync::Arc::new(write);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (Ok(mut connection), write) = (connection, write.clone()) else {
                continue;
            };
            std::thread::spawn(move || {
                let mut head = [0; 4096];
                let count = connection.read(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..count]).into_owned();
                let small = nar(&File(b"small"));
                let text = narinfo(&small, small.len() as u64, "none");
                let body = match head.split(' ').nth(1).unwrap_or_default() {
                    // A client that goes away is no concern of a server.
                    target if target.contains(path) => return drop(write(&mut connection)),
                    "/nix-cache-info" => b"StoreDir: /nix/store\n".to_vec(),
                    target if target.ends_with(".narinfo") => text.into_bytes(),
                    _ => small,
                };
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len());
                let _ = write!(connection, "{head}Connection: close\r\n\r\n");
                let _ = connection.write_all(&body);
            });
        }
    });
    url
}

/// What a server does in place of an answer.
type Play = Box<dyn Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync>;

#[test]
fn a_server_that_plays_tricks_is_left_in_time() {
    let forever = |to: &mut TcpStream, bytes: &[u8]| -> std::io::Result<()> {
        loop {
            to.write_all(bytes)?;
        }
    };
    let slowly = |to: &mut TcpStream, head: &str, bytes: &[u8]| -> std::io::Result<()> {
        write!(to, "{OK}{head}")?;
        for byte in bytes.iter().cycle() {
            to.write_all(&[*byte])?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    };
    let long = "Content-Length: 1000000\r\n\r\n";
    // That which the narinfo is of, so that nothing is wrong with it but its speed.
    let sound = self::nar(&File(b"small"));
    let whole = String::from_utf8(sound.clone()).unwrap();
    let narinfo = ".narinfo";
    let nar = "/nar/";
    let say = |text: String| -> Play { Box::new(move |to| to.write_all(text.as_bytes())) };
    let redirect = |to: &str| say(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\n\r\n"));
    let flood = |count, length| {
        let header = format!("X-Header: {}\r\n", "x".repeat(length));
        say(format!("{OK}{}\r\n", header.repeat(count)))
    };
    let tricks: Vec<(&str, &str, Play)> = vec![
        (
            "an endless narinfo",
            narinfo,
            Box::new(move |to| {
                write!(to, "{OK}\r\n")?;
                forever(to, &[b'x'; 4096])
            }),
        ),
        (
            "an endless NAR",
            nar,
            Box::new(move |to| {
                write!(to, "{OK}\r\n")?;
                forever(to, &[b'x'; 4096])
            }),
        ),
        (
            "headers without end",
            narinfo,
            Box::new(move |to| {
                write!(to, "{OK}")?;
                forever(to, b"X-Header: value\r\n")
            }),
        ),
        (
            "an endless header",
            narinfo,
            Box::new(move |to| {
                write!(to, "{OK}X-Header: ")?;
                forever(to, &[b'x'; 4096])
            }),
        ),
        (
            "a trickling header",
            narinfo,
            Box::new(move |to| slowly(to, "X-Header: ", b"x")),
        ),
        (
            "an endless line",
            narinfo,
            Box::new(move |to| {
                write!(to, "HTTP/1.1 200 ")?;
                forever(to, &[b'x'; 4096])
            }),
        ),
        ("a flood of headers", narinfo, flood(129, 1)),
        ("a flood of long headers", narinfo, flood(100, 1000)),
        (
            "a trickling narinfo",
            narinfo,
            Box::new(move |to| slowly(to, long, b"x")),
        ),
        (
            "a trickling NAR",
            nar,
            Box::new(move |to| slowly(to, long, &sound)),
        ),
        (
            "a NAR that never comes",
            nar,
            Box::new(move |to| {
                write!(to, "{OK}Content-Length: 1000000\r\n\r\n")?;
                std::thread::sleep(Duration::from_secs(30));
                Ok(())
            }),
        ),
        (
            "no answer",
            narinfo,
            Box::new(|_| {
                std::thread::sleep(Duration::from_secs(30));
                Ok(())
            }),
        ),
        (
            "no HTTP",
            narinfo,
            say("SSH-2.0-OpenSSH_9.2\r\n\r\n".into()),
        ),
        ("nothing", narinfo, say(String::new())),
        (
            "a negative length",
            nar,
            say(format!("{OK}Content-Length: -1\r\n\r\n")),
        ),
        (
            "two lengths",
            nar,
            say(format!(
                "{OK}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"
            )),
        ),
        (
            "chunks that are none",
            nar,
            say(format!("{OK}Transfer-Encoding: chunked\r\n\r\nzz\r\n")),
        ),
        (
            "a chunk of 2^64 bytes",
            nar,
            say(format!(
                "{OK}Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n{whole}"
            )),
        ),
        (
            "a chunk of a byte less",
            nar,
            say(format!(
                "{OK}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{whole}"
            )),
        ),
        (
            "an encoding that is a bomb",
            nar,
            Box::new({
                let bomb = gzip_of(&self::nar(&File(&vec![0; 20 << 20])));
                move |to| {
                    write!(to, "{OK}Content-Encoding: gzip\r\n\r\n")?;
                    to.write_all(&bomb)
                }
            }),
        ),
        (
            "an encoding that nobody knows",
            nar,
            say(format!(
                "{OK}Content-Encoding: rot13\r\nContent-Length: 1\r\n\r\nx"
            )),
        ),
        (
            "a narinfo's redirect to itself",
            narinfo,
            redirect("/x.narinfo"),
        ),
        (
            "a narinfo's redirect to a file",
            narinfo,
            redirect("file:///etc/x.narinfo"),
        ),
        (
            "a narinfo's redirect to the cloud's metadata",
            narinfo,
            redirect("http://169.254.169.254/x.narinfo"),
        ),
        ("a redirect to itself", nar, redirect("/nar/root")),
        ("a redirect to a file", nar, redirect("file:///etc/passwd")),
        (
            "a redirect to the cloud's metadata",
            nar,
            redirect("http://169.254.169.254/latest/meta-data/"),
        ),
        (
            "a redirect there in digits",
            nar,
            redirect("http://2852039166/latest"),
        ),
        ("a redirect to nowhere", nar, redirect("http://\u{1b}[2J/")),
        (
            "a status that there is not",
            nar,
            say("HTTP/1.1 999 \u{1b}[2J\r\nContent-Length: 0\r\n\r\n".into()),
        ),
        (
            "another try in half a thousand million years",
            narinfo,
            say(format!(
                "HTTP/1.1 503 Busy\r\nRetry-After: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                u64::MAX
            )),
        ),
    ];
    // Side by side, since each waits.
    let told = std::thread::scope(|scope| {
        let running: Vec<_> = tricks
            .into_iter()
            .map(|(name, path, write)| {
                let url = raw(path, write);
                scope.spawn(move || {
                    let home = Home::new();
                    let caches = open(&url, &Http::with_patience(IMPATIENT));
                    let started = Instant::now();
                    let result = plan(&caches).and_then(|closure| {
                        fetch(&closure, &caches, &home.store(), &ScanFor::Nothing)
                            .map(|_| ())
                            .map_err(|error| said(ClosureLayerError::Fetch(Box::new(error))))
                    });
                    assert!(started.elapsed() < Duration::from_secs(20), "{name}");
                    assert!(result.is_err(), "{name} was taken");
                    home.check(name);
                    (name.to_string(), result)
                })
            })
            .collect();
        told(running.into_iter().map(|one| one.join().unwrap()).collect())
    });
    insta::assert_snapshot!(told);
}

#[test]
fn a_tool_that_is_redirected_astray_is_refused() {
    let http = Http::with_patience(IMPATIENT);
    let told = ["/tool", "file:///etc/passwd", "http://169.254.169.254/tool"]
        .map(|location| {
            let head = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n");
            let url = raw("/tool", move |to| to.write_all(head.as_bytes()));
            let source = ToolSource {
                tool: Tool::PRoot,
                download: Download {
                    url: format!("{url}/tool").parse().unwrap(),
                    sha256: [0; 32],
                },
                version: None,
            };
            let home = Home::new();
            let error = proot::program_in(&home.store(), &source, &http).unwrap_err();
            home.check(location);
            let message = BuildpackError::PRootLayer(error).message().to_string();
            (location.to_string(), Err(without_port(&message)))
        })
        .into();
    insta::assert_snapshot!(self::told(told));
}

#[test]
fn a_cache_that_says_nonsense_of_itself_is_left_out() {
    let told = [
        (
            "another store",
            "StoreDir: /nix/store/../../tmp\n".to_string(),
        ),
        (
            "a store that moves the cursor",
            "StoreDir: \u{1b}[2J\u{1b}[H\n".to_string(),
        ),
        ("far too much", "x".repeat(100_000)),
    ]
    .map(|(name, info)| {
        let server = Server::with_hook("/", move |request| {
            let info = Response::new(200).body(info.clone());
            (request.path == "/nix-cache-info").then_some(info)
        })
        .unwrap();
        let result = plan(&open(&other_host(&server), &Http::new()));
        (name.to_string(), result.map(|_| ()))
    });
    insta::assert_snapshot!(self::told(told.into()));
}

const NIX: &str = "nix-2.35.2-x86_64-linux/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-nix";

/// What an entry of a tar archive is.
#[derive(Clone, Copy)]
enum Entry {
    File(&'static [u8]),
    /// A header that promises so many bytes.
    Size(u64),
    Link(&'static str),
    HardLink(&'static str),
    Kind(tar::EntryType),
    /// A long name of so many bytes, in a header of its own.
    LongName(u64),
}

/// A tar archive of these entries, their names as they are.
fn tar_of(entries: &[(&str, Entry)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, entry) in entries {
        let mut header = tar::Header::new_gnu();
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o755);
        let mut content: &[u8] = b"";
        let mut linked = |to: &str, kind| {
            header.set_entry_type(kind);
            header.as_old_mut().linkname[..to.len()].copy_from_slice(to.as_bytes());
        };
        match *entry {
            Entry::File(bytes) => content = bytes,
            Entry::Size(_) => {}
            Entry::Link(to) => linked(to, tar::EntryType::Symlink),
            Entry::HardLink(to) => linked(to, tar::EntryType::Link),
            Entry::Kind(kind) => header.set_entry_type(kind),
            Entry::LongName(_) => header.set_entry_type(tar::EntryType::GNULongName),
        }
        header.set_size(content.len() as u64);
        if let Entry::Size(size) | Entry::LongName(size) = *entry {
            header.set_size(size);
        }
        header.set_cksum();
        archive.append(&header, content).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn a_release_of_nix_that_plays_tricks_is_refused_and_writes_nothing_elsewhere() {
    let inside = |name: &str| format!("{NIX}/{name}");
    let program = (inside("bin/nix-instantiate"), Entry::File(b"#!/bin/sh"));
    let tricks: Vec<(&str, Vec<(String, Entry)>)> = vec![
        (
            "a name that leads out",
            vec![(inside("../../../../secret"), Entry::File(b"x"))],
        ),
        (
            "an absolute name",
            vec![("/tmp/secret".into(), Entry::File(b"x"))],
        ),
        (
            "no store path",
            vec![("nix/store/nix/bin/nix".into(), Entry::File(b"x"))],
        ),
        (
            "a link, then a file through it",
            vec![
                (inside("etc"), Entry::Link("../../..")),
                (inside("etc/secret"), Entry::File(b"changed")),
            ],
        ),
        (
            "a store path that is a link",
            vec![
                (NIX.into(), Entry::Link("..")),
                (inside("secret"), Entry::File(b"changed")),
            ],
        ),
        (
            "a hard link to a file outside",
            vec![(inside("passwd"), Entry::HardLink("/etc/passwd"))],
        ),
        (
            "a hard link through a link",
            vec![
                (inside("etc"), Entry::Link("/etc")),
                (
                    inside("passwd"),
                    Entry::HardLink(
                        "nix-2.35.2-x86_64-linux/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-nix/etc/passwd",
                    ),
                ),
            ],
        ),
        (
            "the same file twice",
            vec![program.clone(), program.clone()],
        ),
        (
            "a device",
            vec![(inside("null"), Entry::Kind(tar::EntryType::Char))],
        ),
        (
            "a pipe",
            vec![(inside("pipe"), Entry::Kind(tar::EntryType::Fifo))],
        ),
        (
            "a file of a terabyte",
            vec![(inside("huge"), Entry::Size(1 << 40))],
        ),
        (
            "a long name of 8 exabytes",
            vec![
                (inside("x"), Entry::LongName(u64::MAX / 2)),
                program.clone(),
            ],
        ),
        ("no Nix", vec![(inside("bin/sh"), Entry::File(b"x"))]),
        ("nothing", vec![]),
    ];
    let mut cases: Vec<_> = tricks
        .into_iter()
        .map(|(name, entries)| {
            let entries: Vec<_> = entries
                .iter()
                .map(|(name, entry)| (&**name, *entry))
                .collect();
            (name, xz_of(&tar_of(&entries)))
        })
        .collect();
    let sound = xz_of(&tar_of(&[(&program.0, program.1)]));
    cases.push(("one that is cut off", sound[..sound.len() / 2].to_vec()));
    cases.push(("one in another compression", zstd_of(b"tar")));
    // Compressed files in a row are one file.
    let endless = xz_of(&vec![0; 64 << 20]).repeat(33);
    cases.push(("gigabytes behind its end", [&sound[..], &endless].concat()));
    let lies = tar_of(&[(&inside("bin/nix-instantiate"), Entry::Size(100_000))]);
    cases.push(("a file that ends early", xz_of(&lies)));
    // What is no store path is passed over, but counts.
    let mut bomb = xz_of(&tar_of(&[("nix/README", Entry::Size(3 << 30))])[..512]);
    bomb.extend(endless);
    cases.push(("a bomb", bomb));
    let try_each = |to: fn(&Path) -> Target| -> String {
        let unpacked = |bytes: &[u8], name: &str| {
            let home = Home::new();
            let archive = TempDir::new().unwrap();
            let file = archive.path().join("nix.tar.xz");
            fs::write(&file, bytes).unwrap();
            let packed = archive.path().join("nix.tar.zst");
            let result = unpack_release(&file, &to(&home.store()), Some(&packed));
            let error = result.map(|_| ()).map_err(|error| {
                let message =
                    BuildpackError::from(ResolveError::Nix(NixError::Archive(error))).message();
                // Of a path that is moved only a part of the hash is left.
                regex("/[^ ]*/layers/store/[0-9a-z]*-nix/")
                    .replace_all(&message.to_string(), "/store/…-nix/")
                    .into_owned()
            });
            assert!(error.is_err(), "{name} was taken");
            fs::remove_dir_all(home.store()).unwrap();
            fs::create_dir(home.store()).unwrap();
            home.check(name);
            (name.to_string(), error)
        };
        let cases = cases.iter();
        told(cases.map(|(name, bytes)| unpacked(bytes, name)).collect())
    };
    let moved = try_each(|store| Target::relocated(store).unwrap());
    let plain = try_each(|store| Target::Plain(store.to_path_buf()));
    assert_eq!(moved, plain);
    insta::assert_snapshot!(moved);
}

#[test]
fn an_archive_of_proot_that_plays_tricks_is_refused_and_writes_nothing_elsewhere() {
    let elf = &b"\x7fELF"[..];
    // Gzip members in a row are one file.
    let mut bomb = gzip_of(&tar_of(&[("bomb", Entry::Size(320 << 20))])[..512]);
    bomb.extend(gzip_of(&vec![0; 16 << 20]).repeat(20));
    bomb.extend(gzip_of(&tar_of(&[("proot", Entry::File(elf))])));
    let cases = [
        (
            "no program of PRoot",
            tar_of(&[("proot", Entry::File(b"#!/bin/sh"))]),
        ),
        ("a link", tar_of(&[("bin/proot", Entry::Link("/bin/sh"))])),
        (
            "a hard link",
            tar_of(&[("bin/proot", Entry::HardLink("/bin/sh"))]),
        ),
        (
            "a program of a terabyte",
            tar_of(&[("proot", Entry::Size(1 << 40))]),
        ),
        (
            "a program that is cut short",
            [&tar_of(&[("proot", Entry::Size(4096))])[..512], elf].concat(),
        ),
        ("nothing", tar_of(&[])),
    ]
    .map(|(name, tar)| (name, gzip_of(&tar)));
    let mut huge = elf.to_vec();
    huge.resize((64 << 20) + 1, 0);
    let sound = gzip_of(&tar_of(&[("proot", Entry::File(elf))]));
    let cut = sound[..sound.len() / 2].to_vec();
    let http = Http::new();
    let told = cases
        .into_iter()
        .chain([
            ("a bomb", bomb),
            ("a bare program of 64 MiB", huge),
            ("one that is cut off", cut),
        ])
        .map(|(name, bytes)| {
            let home = Home::new();
            let archive = TempDir::new().unwrap();
            let file = archive.path().join("proot.tar.gz");
            fs::write(&file, &bytes).unwrap();
            let source = ToolSource {
                tool: Tool::PRoot,
                download: Download {
                    url: format!("file://{}", file.display()).parse().unwrap(),
                    sha256: Sha256::digest(&bytes).into(),
                },
                version: None,
            };
            let result = proot::program_in(&home.store(), &source, &http);
            let error = result
                .map(|_| ())
                .map_err(|error| BuildpackError::PRootLayer(error).message().to_string());
            assert!(error.is_err(), "{name} was taken");
            home.check(name);
            (name.to_string(), error)
        })
        .collect();
    insta::assert_snapshot!(self::told(told));
}

/// Where a name leads out of it, an entry of the app's own source is part of the app: links are
/// kept as links, and nothing is followed.
#[test]
fn links_in_the_app_s_source_are_not_followed() {
    use nix_hydra_buildpack::resolve::source::Source;
    let app = TempDir::new().unwrap();
    fs::write(app.path().join("Procfile"), "web: x\n").unwrap();
    std::os::unix::fs::symlink("/etc", app.path().join("etc")).unwrap();
    std::os::unix::fs::symlink("loop", app.path().join("loop")).unwrap();
    let source = Source::read(app.path(), "source").unwrap();
    assert_eq!(source.files, 3);
    let home = Home::new();
    let written = unpacked(&source, &home.store().join("source"));
    assert_eq!(
        fs::read_link(written.join("etc")).unwrap(),
        Path::new("/etc")
    );
    assert_eq!(
        fs::read_link(written.join("loop")).unwrap(),
        Path::new("loop")
    );
}
