//! The memory that is promised is enough whatever the NARs' windows are and however many paths there are:
//! a build that is killed for memory is a failure.

use crate::common::{Deploy, strip_ansi};
use crate::conditions::{Group, MEMORY};
use crate::hostile::Node::File;
use crate::hostile::{ROOT, asked, member, nar};
use platform::server::{Request, Response, Server};
use std::io::Write;
use std::sync::Arc;

const MIB: usize = 1024 * 1024;

/// A NAR of so many bytes, and packed by zstd with a window of 2 to the power of `log` bytes.
fn packed(size: usize, log: u32) -> (Vec<u8>, Vec<u8>) {
    let text = (0..1000).map(|number| number.to_string());
    let text = text.collect::<Vec<_>>().join(" ");
    let nar = nar(&File(text.repeat(size / text.len()).as_bytes()));
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(log).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.long_distance_matching(log > 24).unwrap();
    encoder.write_all(&nar).unwrap();
    (nar, encoder.finish().unwrap())
}

/// What `request` asks of a cache where the root refers to `count` paths, and each to the five after it.
/// The NAR of a path is the one of `nars` that `which` says.
fn answered(
    request: &Request,
    count: usize,
    nars: &[(Vec<u8>, Vec<u8>, &str)],
    which: impl Fn(usize) -> usize,
) -> Option<Response> {
    let ok = Response::new(200);
    let base = |number: usize| format!("{number:032}-x");
    if request.path == "/nix-cache-info" {
        return Some(ok.body("StoreDir: /nix/store\n"));
    }
    if let Some(index) = request.path.strip_prefix("/nar/") {
        let index: usize = index.parse().ok()?;
        return Some(ok.body(nars[index].1.clone()));
    }
    let path = asked(request)?;
    let number: Option<usize> = path.split('-').next()?.parse().ok();
    let references: Vec<String> = match number {
        None => (0..count).map(base).collect(),
        Some(number) => (number + 1..count.min(number + 6)).map(base).collect(),
    };
    let index = number.map_or(0, &which);
    let (nar, _, compression) = &nars[index];
    let text = member(&path, &references, nar)
        .replace("URL: nar/root", &format!("URL: nar/{index}"))
        .replace("Compression: none", &format!("Compression: {compression}"));
    Some(ok.body(text))
}

/// Builds the root of `server` with no more memory than is promised.
fn builds_in_little_memory(server: &Server, engine: &str) {
    let (Some(mut deploy), Some(group)) = (Deploy::new("static"), Group::new(MEMORY)) else {
        return;
    };
    let words = group.words();
    deploy
        .set("NIX_STORE_PATH", ROOT)
        .set(
            "NIX_EXTRA_BINARY_CACHE",
            &format!("{}?trusted=true", server.url()),
        )
        .set("NIX_ENGINE", engine)
        .in_sandbox(move |sandbox| sandbox.started_by(words.clone()));
    std::fs::write(deploy.app().join("Procfile"), "web: true\n").unwrap();
    let outcome = deploy.build();
    let log = strip_ansi(&outcome.log);
    assert!(outcome.success(), "{:?} {log}", outcome.build);
}

#[test]
fn many_large_windows_take_no_more_memory_than_is_promised() {
    // As `zstd -19` and `zstd --long=27` have them; so many at once would take a gigabyte.
    let usual = packed(9 * MIB, 23);
    let long = packed(130 * MIB, 27);
    let nars = Arc::new([(usual.0, usual.1, "zstd"), (long.0, long.1, "zstd")]);
    let server = Server::with_hook("/", move |request| {
        answered(request, 44, nars.as_ref(), |number| {
            usize::from(number % 11 == 0)
        })
    })
    .unwrap();
    builds_in_little_memory(&server, "proot");
}

#[test]
fn a_big_closure_takes_no_more_memory_than_is_promised() {
    let small = nar(&File(b"small"));
    let nars = Arc::new([(small.clone(), small, "none")]);
    let server = Server::with_hook("/", move |request| {
        answered(request, 5_000, nars.as_ref(), |_| 0)
    })
    .unwrap();
    builds_in_little_memory(&server, "proot");
}
