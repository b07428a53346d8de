//! What a build takes where a cache or a closure is far from ordinary: very many files, one very large
//! file, long latency, hardly any connections.
//!
//! The closures are made up as they are asked for, so nothing needs setting up. Each case is fetched
//! by a child process, whose time and memory are what counts; the server runs beside it.

use anyhow::{Result, ensure};
use binary_cache::Caches;
use binary_cache::TrustSettings;
use closure::plan::Previous;
use closure::prefetch::Prefetch;
use closure::relocate::references::ScanFor;
use http_client::Http;
use nix_archive::nar::Encoder;
use nix_derivation::{NixHash, StorePath};
use nix_hydra_buildpack::limits;
use platform::bench::{Options, Takes};
use platform::narrow;
use platform::server::{Request, Response, Server};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wait4::Wait4 as _;

const TAKES: Takes = Takes {
    runs: None,
    write: false,
    cases: &[
        "many",
        "huge",
        "latency",
        "two_requests",
        "five_connections",
        "two_connections",
    ],
};

/// A closure that is a binary tree of store paths, all of the same shape.
#[derive(Clone, Copy)]
struct Shape {
    paths: usize,
    files: usize,
    file_size: usize,
}

const MANY: Shape = Shape {
    paths: 5_000,
    files: 60,
    file_size: 400,
};

const SOME: Shape = Shape {
    paths: 300,
    files: 30,
    file_size: 4_000,
};

const HUGE: u64 = 3 * 1024 * 1024 * 1024;

const LATENCY: Duration = Duration::from_millis(200);

/// What a server with few workers takes for one request.
const WORK: Duration = Duration::from_millis(10);

/// Connections, or requests, that a small cache allows.
const ALLOWED: usize = 2;

/// Connections that nix-serve's server takes.
const WORKERS: usize = 5;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["fetch", url, store] => run(url, Path::new(store)),
        _ => Options::read(&arguments, TAKES)?.map_or(Ok(()), |options| bench(&options)),
    }
}

fn bench(options: &Options) -> Result<()> {
    if options.wants("many") {
        let server = made_up(MANY, |_| None)?;
        case("many", &server.url(), MANY.paths)?;
    }
    if options.wants("huge") {
        let directory = tempfile::tempdir()?;
        let narinfo = huge(&directory.path().join("nar"))?;
        let server = Server::with_hook(directory.path(), move |request| match &*request.path {
            "/nar" => None,
            "/nix-cache-info" => Some(Response::new(200)),
            _ => Some(Response::new(200).body(narinfo.clone())),
        })?;
        case("huge", &server.url(), 1)?;
    }
    if options.wants("latency") {
        let server = made_up(SOME, |_| {
            std::thread::sleep(LATENCY);
            None
        })?;
        case("latency", &server.url(), SOME.paths)?;
    }
    if options.wants("two_requests") {
        let active = AtomicUsize::new(0);
        let server = made_up(SOME, move |_| {
            let busy = active.fetch_add(1, Ordering::SeqCst) >= ALLOWED;
            if !busy {
                std::thread::sleep(WORK);
            }
            active.fetch_sub(1, Ordering::SeqCst);
            busy.then(|| Response::new(503))
        })?;
        case("two_requests", &server.url(), SOME.paths)?;
    }
    for (name, connections) in [("five_connections", WORKERS), ("two_connections", ALLOWED)] {
        if options.wants(name) {
            let server = made_up(SOME, |_| {
                std::thread::sleep(WORK);
                None
            })?;
            case(name, &narrow::way_to(&server, connections)?, SOME.paths)?;
        }
    }
    Ok(())
}

/// The child: what a build does with no engine named.
fn run(url: &str, store: &Path) -> Result<()> {
    limits::set();
    let trust = TrustSettings {
        keys: Vec::new(),
        required: true,
    };
    let url = format!("{url}?trusted=true").parse();
    let url = url.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let caches = Arc::new(Caches::open(&[url], trust, &Http::new(), &hydra::sign_in));
    fs::create_dir(store)?;
    let early = Prefetch::begin(Arc::clone(&caches), &store.join("early"), ScanFor::Declared)?;
    let planned = closure::plan::plan(&caches, &[path(0)?], &Previous::default(), |path, info| {
        early.add(path, info);
    });
    planned.map_err(|misses| anyhow::anyhow!("{:?}", misses.first()))?;
    let fetched = early.finish(|path| store.join(path.to_basename()));
    fetched.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    Ok(())
}

/// Fetches a closure of so many paths, and prints what it took.
fn case(name: &str, url: &str, paths: usize) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = directory.path().join("store");
    let started = Instant::now();
    let ended = Command::new(std::env::current_exe()?)
        .args(["fetch", url])
        .arg(&store)
        .stdin(Stdio::null())
        .spawn()?
        .wait4()?;
    let wall = started.elapsed().as_secs_f64();
    ensure!(ended.status.success(), "{name} failed");
    let found = fs::read_dir(&store)?.count();
    ensure!(found == paths, "{name}: {found} of {paths} store paths");
    let cpu = ended.rusage.utime + ended.rusage.stime;
    println!("{name}.wall = {wall:.2} s");
    println!("{name}.cpu = {:.2} s", cpu.as_secs_f64());
    println!("{name}.peak = {} MiB", ended.rusage.maxrss / 1024 / 1024);
    Ok(())
}

fn base(number: usize) -> String {
    format!("{number:032}-made-up")
}

fn path(number: usize) -> Result<StorePath> {
    Ok(format!("/nix/store/{}", base(number)).parse()?)
}

/// A cache of made-up store paths, where `hook` does not answer first.
fn made_up(
    shape: Shape,
    hook: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static,
) -> Result<Server> {
    Server::with_hook("/", move |request| {
        if let Some(response) = hook(request) {
            return Some(response);
        }
        let name = request.path.rsplit('/').next().unwrap_or_default();
        let number = name.get(..32).and_then(|digits| digits.parse().ok());
        let Some(number) = number else {
            return Some(Response::new(200).body("StoreDir: /nix/store\n"));
        };
        let nar = nar(shape, number).unwrap_or_default();
        if !name.ends_with(".narinfo") {
            return Some(Response::new(200).body(nar));
        }
        let children = [2 * number + 1, 2 * number + 2].into_iter();
        let references: Vec<_> = children
            .filter(|child| *child < shape.paths)
            .map(base)
            .collect();
        let text = narinfo(
            number,
            &Sha256::digest(&nar).into(),
            nar.len() as u64,
            "none",
        );
        let text = format!("{text}References: {}\n", references.join(" "));
        Some(Response::new(200).body(text))
    })
}

fn narinfo(number: usize, hash: &[u8; 32], size: u64, compression: &str) -> String {
    let base = base(number);
    let hash = NixHash::Sha256(*hash).to_nix_nixbase32_string();
    format!(
        "StorePath: /nix/store/{base}\nURL: nar\nCompression: {compression}\nNarHash: {hash}\n\
         NarSize: {size}\n"
    )
    .replace(
        "URL: nar\n",
        &match compression {
            "none" => format!("URL: nar/{base}\n"),
            _ => "URL: nar\n".to_string(),
        },
    )
}

fn nar(shape: Shape, number: usize) -> Result<Vec<u8>> {
    let mut encoder = Encoder::new(Vec::new())?;
    encoder.start_directory(None)?;
    for file in 0..shape.files {
        let line = format!("file {file} of store path {number}\n");
        let content: Vec<u8> = line.bytes().cycle().take(shape.file_size).collect();
        let name = format!("file-{file:04}");
        let mut writer =
            encoder.start_regular(Some(name.as_bytes()), false, content.len() as u64)?;
        writer.write_all(&content)?;
        writer.finish()?;
    }
    encoder.end_directory()?;
    Ok(encoder.finish()?)
}

/// Writes a NAR of one file of [`HUGE`] bytes, compressed, and answers its narinfo.
fn huge(to: &Path) -> Result<String> {
    struct Hashed<W> {
        writer: W,
        hasher: Sha256,
        size: u64,
    }
    impl<W: Write> Write for Hashed<W> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.writer.write(bytes)?;
            self.hasher.update(&bytes[..count]);
            self.size += count as u64;
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.writer.flush()
        }
    }
    let sink = Hashed {
        writer: zstd::Encoder::new(File::create(to)?, 1)?.auto_finish(),
        hasher: Sha256::new(),
        size: 0,
    };
    let mut encoder = Encoder::new(sink)?;
    let mut writer = encoder.start_regular(None, false, HUGE)?;
    let block: Vec<u8> = (0..64 * 1024_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for _ in 0..HUGE / block.len() as u64 {
        writer.write_all(&block)?;
    }
    writer.finish()?;
    let sink = encoder.finish()?;
    let hash: [u8; 32] = sink.hasher.finalize().into();
    Ok(narinfo(0, &hash, sink.size, "zstd"))
}
