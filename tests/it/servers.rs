//! Every kind of binary cache in use answers in its own way; what is fetched is the same.

use crate::common::fetch;
use crate::common::{caches, fixtures};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use binary_cache::{Answer, CacheAnswer, Caches, Unusable};
use binary_cache::{BinaryCache, Trust, Untrusted, nar_decoder};
use closure::plan::Previous;
use closure::relocate::references::ScanFor;
use http_client::{Http, Size};
use nix_archive::nar::{self, CaseHack};
use nix_derivation::{NixHash, StorePath};
use nix_hydra_buildpack::config::Config;
use nix_hydra_buildpack::error::BuildpackError;
use nix_hydra_buildpack::layers::closure::ClosureLayerError;
use platform::fixtures::Fixtures;
use platform::server::{Request, Response, Server};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const DEFAULT_INFO: &str = "StoreDir: /nix/store\n";

/// A store path as the fixtures' cache has it.
struct Object {
    /// Its narinfo.
    fields: BTreeMap<String, String>,
    nar: Vec<u8>,
}

impl Object {
    fn read(cache: &Path, hash_part: &str) -> Self {
        let text = fs::read_to_string(cache.join(format!("{hash_part}.narinfo"))).unwrap();
        let fields: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        assert_eq!(fields["Compression"], "zstd", "of the fixtures");
        let nar = zstd::decode_all(&*fs::read(cache.join(&fields["URL"])).unwrap()).unwrap();
        Self { fields, nar }
    }

    fn base(&self) -> &str {
        self.fields["StorePath"].rsplit('/').next().unwrap()
    }

    fn path(&self) -> StorePath {
        self.fields["StorePath"].parse().unwrap()
    }
}

/// The store path `root` and all that it refers to, `root` first.
fn closure(fixtures: &Fixtures, root: &str) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    let mut wanted = vec![root.trim_start_matches("/nix/store/").to_string()];
    while let Some(base) = wanted.pop() {
        if objects.iter().all(|object| object.base() != base) {
            let object = Object::read(&fixtures.cache, &base[..32]);
            let references = object.fields.get("References").cloned().unwrap_or_default();
            wanted.extend(references.split_whitespace().map(str::to_string));
            objects.push(object);
        }
    }
    objects
}

/// A few store paths that refer to each other and to themselves.
fn few(fixtures: &Fixtures) -> Vec<Object> {
    let python = closure(fixtures, &fixtures.apps["python"].store_path);
    let dash = python
        .iter()
        .find(|object| object.base().contains("-dash-"));
    let objects = closure(fixtures, dash.unwrap().base());
    assert!(objects.len() > 1);
    objects
}

/// One store path that refers to none.
fn single(fixtures: &Fixtures) -> Vec<Object> {
    closure(fixtures, &fixtures.apps["static"].store_path)
}

/// A store path, signed by nobody, that is large enough for its blocks to be decoded side by side.
fn large() -> Object {
    let content = b"the same again, ".repeat(1_100_000);
    let mut nar = Vec::new();
    nar::encode_regular(&mut nar, &content, false).unwrap();
    let hash = NixHash::Sha256(Sha256::digest(&nar).into()).to_nix_nixbase32_string();
    let fields = [
        ("StorePath", format!("/nix/store/{}-large", "0".repeat(32))),
        ("NarHash", hash),
        ("NarSize", nar.len().to_string()),
        ("Deriver", "unknown-deriver".to_string()),
        ("Sig", "other-1:AAAA".to_string()),
    ]
    .map(|(name, value)| (name.to_string(), value));
    Object {
        fields: fields.into(),
        nar,
    }
}

type Encode = fn(&[u8]) -> Vec<u8>;

/// What a kind of server answers.
#[derive(Clone, Copy)]
struct Kind<'a> {
    /// Its `nix-cache-info`.
    info: &'a str,
    /// Its narinfos, with the values of each store path in place of the names in braces.
    narinfo: &'a str,
    /// Makes its file of a NAR.
    nar: Encode,
}

/// A cache that Nix writes into a directory, as cache.nixos.org is one.
const FILES: Kind = Kind {
    info: "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n",
    narinfo: "StorePath: {path}\nURL: nar/{file hash}.nar.zst\nCompression: zstd\n\
              FileHash: sha256:{file hash}\nFileSize: {file size}\nNarHash: sha256:{nar hash}\n\
              NarSize: {nar size}\nReferences: {references}\nDeriver: {deriver}\nSig: {sig}\n",
    nar: zstd_of,
};

/// What Hydra says of itself where it serves its own store.
const HYDRA: Kind = Kind {
    info: "StoreDir: /nix/store\nWantMassQuery: 0\nPriority: 100\n",
    narinfo: "StorePath: {path}\nURL: nar/{base}\nCompression: xz\nNarHash: sha256:{nar hash}\n\
              NarSize: {nar size}\nReferences: {references}\nDeriver: {deriver}\n\
              System: x86_64-linux\nSig: {sig}\n",
    nar: xz_in_blocks,
};

/// nix-serve, and nix-serve-ng, which answers alike.
const NIX_SERVE: Kind = Kind {
    info: "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n",
    narinfo: "StorePath: {path}\nURL: nar/{hash part}-{nar hash}.nar\nCompression: none\n\
              NarHash: sha256:{nar hash}\nNarSize: {nar size}\n{references line}\
              Deriver: {deriver}\nSig: {sig}\n",
    nar: <[u8]>::to_vec,
};

const HARMONIA: Kind = Kind {
    narinfo: "StorePath: {path}\nURL: nar/{nar hash}.nar?hash={hash part}\nCompression: none\n\
              FileHash: sha256:{nar hash}\nFileSize: {nar size}\nNarHash: sha256:{nar hash}\n\
              NarSize: {nar size}\nReferences: {references}\nDeriver: {deriver}\nSig: {sig}\n",
    ..NIX_SERVE
};

/// attic calls a file `.nar` whatever it is compressed with.
const ATTIC: Kind = Kind {
    info: "WantMassQuery: 1\nStoreDir: /nix/store\nPriority: 41\n",
    narinfo: "StorePath: {path}\nURL: nar/{hash part}.nar\nCompression: zstd\n\
              NarHash: sha256:{nar hash}\nNarSize: {nar size}\nReferences: {references}\n\
              Deriver: unknown-deriver\nSig: {sig}\n",
    nar: zstd_of,
};

/// ncps signs what it passes on, after its upstream's own signature.
const NCPS: Kind = Kind {
    info: "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 10\n",
    narinfo: "StorePath: {path}\nURL: nar/{file hash}.nar.xz\nCompression: xz\n\
              FileHash: sha256:{file hash}\nFileSize: {file size}\nNarHash: sha256:{nar hash}\n\
              NarSize: {nar size}\nReferences: {references}\nDeriver: {deriver}\n\
              Sig: ncps.local:AAAA\nSig: {sig}\n",
    nar: xz_of,
};

fn xz_with(bytes: &[u8], block_size: u64) -> Vec<u8> {
    let mut builder = liblzma::stream::MtStreamBuilder::new();
    builder.threads(2).preset(0).block_size(block_size);
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), builder.encoder().unwrap());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn xz_of(bytes: &[u8]) -> Vec<u8> {
    xz_with(bytes, 1 << 30)
}

/// As Hydra's `pixz -0` does.
pub fn xz_in_blocks(bytes: &[u8]) -> Vec<u8> {
    xz_with(bytes, 512 * 1024)
}

pub fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub fn bzip2_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn gzip_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zlib_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Brotli that is as long as what is in it (RFC 7932, 9.2): no crate here encodes.
pub fn brotli_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (index, chunk) in bytes.chunks(1 << 16).enumerate() {
        // Bits from the lowest: a window of 64 KiB (before the first block alone), not the last
        // block, a length of four digits, and that the block is not compressed.
        let bits = (u32::try_from(chunk.len()).unwrap() - 1) << 3 | 1 << 19;
        let bits = if index == 0 { bits << 1 } else { bits };
        encoded.extend(&bits.to_le_bytes()[..3]);
        encoded.extend(chunk);
    }
    encoded.push(3);
    encoded
}

/// A cache of some store paths in a directory, and what a client that fetches all of them asks for.
struct Site {
    directory: TempDir,
    expected: Vec<String>,
}

impl Kind<'_> {
    fn site(&self, objects: &[Object]) -> Site {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("nix-cache-info"), self.info).unwrap();
        let mut expected = vec!["/nix-cache-info".to_string()];
        for object in objects {
            let file = (self.nar)(&object.nar);
            let narinfo = self.narinfo(object, &file);
            let name = format!("{}.narinfo", &object.base()[..32]);
            fs::write(directory.path().join(&name), &narinfo).unwrap();
            let url = field(&narinfo, "URL");
            let path = directory.path().join(url.split('?').next().unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
            expected.extend([format!("/{name}"), format!("/{url}")]);
        }
        expected.sort();
        Site {
            directory,
            expected,
        }
    }

    fn narinfo(&self, object: &Object, file: &[u8]) -> String {
        let fields = &object.fields;
        let file_hash = NixHash::Sha256(Sha256::digest(file).into()).to_nix_nixbase32_string();
        let nar_hash = Sha256::digest(&object.nar);
        let references = fields.get("References").cloned().unwrap_or_default();
        let references_line = match references.as_str() {
            "" => String::new(),
            _ => format!("References: {references}\n"),
        };
        [
            ("{path}", fields["StorePath"].clone()),
            ("{base}", object.base().to_string()),
            ("{hash part}", object.base()[..32].to_string()),
            ("{file hash}", file_hash["sha256:".len()..].to_string()),
            ("{file size}", file.len().to_string()),
            (
                "{nar hash}",
                fields["NarHash"]["sha256:".len()..].to_string(),
            ),
            ("{nar hash in hex}", hex::encode(nar_hash)),
            ("{nar hash in base64}", BASE64.encode(nar_hash)),
            ("{nar size}", fields["NarSize"].clone()),
            ("{references}", references),
            ("{references line}", references_line),
            ("{deriver}", fields["Deriver"].clone()),
            ("{sig}", fields["Sig"].clone()),
        ]
        .iter()
        .fold(self.narinfo.to_string(), |text, (name, value)| {
            text.replace(name, value)
        })
    }

    /// Fetches everything from a server of this kind, and checks what comes and what is asked.
    fn check(&self, fixtures: &Fixtures, objects: &[Object]) {
        let site = self.site(objects);
        let server = Server::start(site.directory.path()).unwrap();
        fetched(&[server.url()], fixtures, objects);
        assert_eq!(targets(server.take_requests()), site.expected);
    }

    /// The same, where the server knows the length of nothing that it sends.
    fn check_streamed(&self, fixtures: &Fixtures, objects: &[Object], end: End) {
        let site = self.site(objects);
        let server = Stream::start(site.directory.path(), end, 0);
        fetched(&[server.url()], fixtures, objects);
        assert_eq!(server.take_targets(), site.expected);
    }
}

/// The value of the narinfo's field `name`.
fn field<'a>(narinfo: &'a str, name: &str) -> &'a str {
    let mut lines = narinfo.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(other, _)| *other == name).unwrap().1
}

/// Paths and queries of requests, sorted, since they are made side by side.
fn targets(requests: Vec<Request>) -> Vec<String> {
    let mut targets: Vec<_> = requests
        .into_iter()
        .map(|request| match request.query.as_str() {
            "" => request.path,
            query => format!("{}?{query}", request.path),
        })
        .collect();
    targets.sort();
    targets
}

/// Fetches `objects`, of which the first is the root, from caches that must sign.
fn fetched(urls: &[String], fixtures: &Fixtures, objects: &[Object]) {
    fetch_all(&caches(urls, &[&fixtures.public_key], true), objects);
}

/// Fetches `objects`, of which the first is the root, and compares each, as a NAR, with the one
/// that the fixtures' cache gives.
fn fetch_all(caches: &Caches, objects: &[Object]) {
    let closure = crate::common::plan(caches, &[objects[0].path()], &Previous::default()).unwrap();
    let store = TempDir::new().unwrap();
    fetch(&closure, caches, store.path(), &ScanFor::Nothing).unwrap();
    let names: BTreeSet<String> = fs::read_dir(store.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected = objects.iter().map(|object| object.base().to_string());
    assert_eq!(names, expected.collect());
    for object in objects {
        let hash = nar::hash_path(&store.path().join(object.base()), CaseHack::Disabled);
        let expected: [u8; 32] = Sha256::digest(&object.nar).into();
        assert_eq!(hash.unwrap().sha256, expected, "{}", object.base());
    }
}

/// How an answer ends whose length is not said.
#[derive(Clone, Copy)]
enum End {
    Chunked,
    Close,
}

/// A server of a directory that makes its answers while it sends them, as Hydra's own does: it
/// knows no lengths and no ranges. It lives as long as the tests do.
struct Stream {
    url: String,
    targets: Arc<Mutex<Vec<String>>>,
}

impl Stream {
    /// Starts one that breaks off in the middle of its first `broken` NARs.
    fn start(directory: &Path, end: End, broken: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let targets = Arc::new(Mutex::new(Vec::new()));
        let (directory, log) = (directory.to_path_buf(), targets.clone());
        let broken = Arc::new(AtomicUsize::new(broken));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (directory, log, broken) = (directory.clone(), log.clone(), broken.clone());
                std::thread::spawn(move || {
                    // A client that goes away is no concern of a server.
                    let _ = serve_streams(&connection?, &directory, end, &log, &broken);
                    Ok::<_, std::io::Error>(())
                });
            }
        });
        Self { url, targets }
    }

    fn url(&self) -> String {
        self.url.clone()
    }

    fn take_targets(&self) -> Vec<String> {
        let mut targets = std::mem::take(&mut *self.targets.lock().unwrap());
        targets.sort();
        targets
    }
}

fn serve_streams(
    mut to: &TcpStream,
    directory: &Path,
    end: End,
    log: &Mutex<Vec<String>>,
    broken: &AtomicUsize,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(to.try_clone()?).lines();
    while let Some(line) = lines.next() {
        let target = line?.split(' ').nth(1).unwrap_or_default().to_string();
        log.lock().unwrap().push(target.clone());
        while lines
            .next()
            .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
        {}
        let path = target[1..].split('?').next().unwrap_or_default();
        let Ok(body) = fs::read(directory.join(path)) else {
            write!(to, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let take_one = |left: usize| left.checked_sub(1);
        let breaks = target.starts_with("/nar/")
            && broken
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one)
                .is_ok();
        let body = if breaks {
            &body[..body.len() / 2]
        } else {
            &body[..]
        };
        match end {
            End::Close => {
                write!(to, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                return to.write_all(body);
            }
            End::Chunked => {
                write!(to, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                for chunk in body.chunks(50_000) {
                    write!(to, "{:x}\r\n", chunk.len())?;
                    to.write_all(chunk)?;
                    write!(to, "\r\n")?;
                }
                if breaks {
                    return Ok(());
                }
                write!(to, "0\r\n\r\n")?;
            }
        }
    }
    Ok(())
}

#[test]
fn hydra_streams_xz_blocks_of_a_length_that_it_does_not_know() {
    let Some(fixtures) = fixtures() else { return };
    HYDRA.check_streamed(&fixtures, &few(&fixtures), End::Chunked);
    let large = [large()];
    let site = HYDRA.site(&large);
    for end in [End::Chunked, End::Close] {
        let server = Stream::start(site.directory.path(), end, 0);
        fetched(
            &[format!("{}?trusted=true", server.url())],
            &fixtures,
            &large,
        );
        assert_eq!(server.take_targets(), site.expected);
    }
}

#[test]
fn a_stream_that_breaks_off_is_read_again() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    for kind in [HYDRA, NIX_SERVE, ATTIC] {
        for end in [End::Chunked, End::Close] {
            let site = kind.site(&objects);
            let server = Stream::start(site.directory.path(), end, 1);
            fetched(&[server.url()], &fixtures, &objects);
            assert_eq!(server.take_targets().len(), site.expected.len() + 1);
        }
    }
}

#[test]
fn nix_serve_sends_nars_as_they_are_and_says_nothing_of_no_references() {
    let Some(fixtures) = fixtures() else { return };
    NIX_SERVE.check(&fixtures, &few(&fixtures));
    NIX_SERVE.check(&fixtures, &single(&fixtures));
}

#[test]
fn nix_serve_ng_streams_nars_as_they_are() {
    let Some(fixtures) = fixtures() else { return };
    NIX_SERVE.check_streamed(&fixtures, &few(&fixtures), End::Chunked);
}

#[test]
fn harmonia_is_asked_with_a_query() {
    let Some(fixtures) = fixtures() else { return };
    HARMONIA.check(&fixtures, &few(&fixtures));
}

#[test]
fn attic_sends_zstd_under_another_name() {
    let Some(fixtures) = fixtures() else { return };
    ATTIC.check(&fixtures, &few(&fixtures));
    ATTIC.check_streamed(&fixtures, &few(&fixtures), End::Chunked);
}

#[test]
fn ncps_passes_on_what_another_cache_has_signed() {
    let Some(fixtures) = fixtures() else { return };
    NCPS.check(&fixtures, &few(&fixtures));
}

#[test]
fn cache_nixos_org_has_zstd_and_for_older_paths_xz() {
    let Some(fixtures) = fixtures() else { return };
    FILES.check(&fixtures, &few(&fixtures));
    let narinfo = FILES.narinfo.replace("zstd", "xz").replace(".zst", ".xz");
    let older = Kind {
        narinfo: &narinfo,
        nar: xz_of,
        ..FILES
    };
    older.check(&fixtures, &few(&fixtures));
}

#[test]
fn a_directory_is_a_cache_as_it_is() {
    let Some(fixtures) = fixtures() else { return };
    let objects = few(&fixtures);
    for kind in [FILES, HYDRA, ATTIC] {
        let site = kind.site(&objects);
        let url = format!("file://{}", site.directory.path().display());
        fetched(&[url], &fixtures, &objects);
    }
    let site = FILES.site(&single(&fixtures));
    for ending in ["/", "?priority=10", "/?trusted=true"] {
        let url = format!("file://{}{ending}", site.directory.path().display());
        fetched(&[url], &fixtures, &single(&fixtures));
    }
}

#[test]
fn narinfos_are_read_however_they_are_written() {
    let Some(fixtures) = fixtures() else { return };
    let objects = few(&fixtures);
    let plain = FILES.narinfo;
    let edits = [
        ("CRLF", plain.replace('\n', "\r\n")),
        ("no last newline", plain.trim_end().to_string()),
        (
            "unknown keys",
            format!("System: x86_64-linux\n{plain}FutureField: a: b\nX:\n"),
        ),
        (
            "empty lines",
            plain.replace("\nNarHash", "\n\nNarHash") + "\n",
        ),
        (
            "no space after the colon",
            plain.replace(": ", ":").replace("sha256 ", "sha256:"),
        ),
        (
            "NarHash in base 16",
            plain.replace("{nar hash}", "{nar hash in hex}"),
        ),
        (
            "NarHash as SRI",
            plain.replace("sha256:{nar hash}", "sha256-{nar hash in base64}"),
        ),
        (
            "NarHash in base 64",
            plain.replace("{nar hash}", "{nar hash in base64}"),
        ),
        (
            "a full deriver",
            plain.replace("{deriver}", "/nix/store/{deriver}"),
        ),
        ("no deriver", plain.replace("Deriver: {deriver}\n", "")),
        (
            "the key that is wanted last",
            plain.replace("Sig: ", "Sig: other-1:AAAA\nSig: nonsense\nSig: "),
        ),
        (
            "neither hash nor size of the file",
            plain.replace("FileHash: sha256:{file hash}\nFileSize: {file size}\n", ""),
        ),
    ];
    for (name, narinfo) in edits {
        println!("{name}");
        let kind = Kind {
            narinfo: &narinfo.replace("URL:nar", "URL: nar"),
            ..FILES
        };
        kind.check(&fixtures, &single(&fixtures));
        // What is signed are the references too.
        let site = kind.site(&objects);
        let url = format!("file://{}", site.directory.path().display());
        let closure = crate::common::plan(
            &caches(&[url], &[&fixtures.public_key], true),
            &[objects[0].path()],
            &Previous::default(),
        )
        .unwrap();
        assert_eq!(closure.paths.len(), objects.len());
    }
}

#[test]
fn a_narinfo_that_names_no_compression_means_bzip2() {
    let Some(fixtures) = fixtures() else { return };
    for line in ["", "Compression: \n", "Compression: bzip2\n"] {
        let kind = Kind {
            narinfo: &FILES.narinfo.replace("Compression: zstd\n", line),
            nar: bzip2_of,
            ..FILES
        };
        kind.check(&fixtures, &single(&fixtures));
    }
}

#[test]
fn whatever_is_sent_may_be_encoded_once_more() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    let encodings: [(&str, Encode); 6] = [
        ("gzip", gzip_of),
        ("X-GZIP", gzip_of),
        ("zstd", zstd_of),
        ("br", brotli_of),
        ("xz", xz_of),
        ("bzip2", bzip2_of),
    ];
    for kind in [FILES, HARMONIA] {
        for (name, encode) in encodings {
            println!("{name}");
            let site = kind.site(&objects);
            let directory = site.directory.path().to_path_buf();
            let server = Server::with_hook("/", move |request| {
                let file = fs::read(directory.join(&request.path[1..])).ok()?;
                let response = Response::new(200).header("Content-Encoding", name);
                Some(response.body(encode(&file)))
            })
            .unwrap();
            fetched(&[server.url()], &fixtures, &objects);
            assert_eq!(targets(server.take_requests()), site.expected);
        }
    }
}

fn is_nar(request: &Request) -> bool {
    request.path.starts_with("/nar/")
}

/// A cache whose NARs are elsewhere: it answers a request for one with what `location` makes of its
/// target.
fn redirecting(
    directory: &Path,
    status: u16,
    location: impl Fn(&str) -> String + Send + Sync + 'static,
) -> Server {
    Server::with_hook(directory, move |request| {
        is_nar(request).then(|| {
            let location = location(&request.path);
            let response = Response::new(status).header("Location", &location);
            response.body("<a>it is elsewhere</a>")
        })
    })
    .unwrap()
}

/// A store as S3's: it takes the signature in a query, and refuses a second credential.
fn signed_storage(directory: &Path) -> Server {
    Server::with_hook(directory, |request| {
        let refused = request.header("authorization").is_some()
            || request.query != "X-Amz-Signature=5ca1ab1e&X-Amz-Expires=60";
        refused.then(|| Response::new(400).body("<Error>InvalidArgument</Error>"))
    })
    .unwrap()
}

/// The server's URL by an address that makes it another host, and that Linux leads to the same one.
pub fn other_host(server: &Server) -> String {
    server.url().replace("127.0.0.1", "0.0.0.0")
}

#[test]
fn attic_and_cachix_redirect_to_a_store_that_takes_no_second_credential() {
    let Some(fixtures) = fixtures() else { return };
    let objects = few(&fixtures);
    for (kind, status) in [(ATTIC, 307), (FILES, 302)] {
        let site = kind.site(&objects);
        let storage = signed_storage(site.directory.path());
        let host = other_host(&storage);
        let front = redirecting(site.directory.path(), status, move |path| {
            format!("{host}{path}?X-Amz-Signature=5ca1ab1e&X-Amz-Expires=60")
        });
        let url = front.url().replace("http://", "http://token:secret@");
        fetched(&[url], &fixtures, &objects);
        let basic = format!("Basic {}", BASE64.encode("token:secret"));
        for request in front.requests() {
            assert_eq!(request.header("authorization"), Some(basic.as_str()));
        }
        assert_eq!(targets(front.take_requests()), site.expected);
        assert_eq!(storage.requests().len(), objects.len());
    }
}

#[test]
fn redirects_are_followed_from_where_they_lead() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    let site = FILES.site(&objects);
    fs::create_dir(site.directory.path().join("moved")).unwrap();
    symlink("../nar", site.directory.path().join("moved/nar")).unwrap();
    for (status, prefix) in [
        (301, "/moved"),
        (308, "../moved"),
        (303, "../moved/../moved"),
    ] {
        let server = redirecting(site.directory.path(), status, move |path| {
            format!("{prefix}{path}")
        });
        fetched(&[server.url()], &fixtures, &objects);
        let moved = targets(server.take_requests()).contains(&format!(
            "/moved{}",
            site.expected
                .iter()
                .find(|target| target.starts_with("/nar/"))
                .unwrap()
        ));
        assert!(moved, "{status}");
    }
}

#[test]
fn a_redirect_that_leads_nowhere_is_an_error() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    let site = FILES.site(&objects);
    for (location, reason) in [
        ("file:///etc/passwd", "no URL for HTTP"),
        ("/nar/again", "redirects too often"),
    ] {
        let server = redirecting(site.directory.path(), 302, |_| location.to_string());
        let caches = caches(&[server.url()], &[&fixtures.public_key], true);
        let closure =
            crate::common::plan(&caches, &[objects[0].path()], &Previous::default()).unwrap();
        let store = TempDir::new().unwrap();
        let error = fetch(&closure, &caches, store.path(), &ScanFor::Nothing).unwrap_err();
        let error = format!("{error:?}");
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_nar_that_breaks_off_behind_a_redirect_or_a_query_goes_on_where_it_was() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    for kind in [ATTIC, HARMONIA] {
        let site = kind.site(&objects);
        let directory = site.directory.path().to_path_buf();
        let broken = AtomicBool::new(false);
        let storage = Server::with_hook(directory.clone(), move |request| {
            let first = !broken.swap(true, Ordering::SeqCst);
            let whole = first.then(|| fs::read(directory.join(&request.path[1..])).unwrap())?;
            let (half, rest) = whole.split_at(whole.len() / 2);
            Some(Response::new(200).body(half).missing(rest.len()))
        })
        .unwrap();
        let host = other_host(&storage);
        let front = redirecting(site.directory.path(), 307, move |path| {
            format!("{host}{path}?signed")
        });
        fetched(&[front.url()], &fixtures, &objects);
        let requests = storage.requests();
        let half = (kind.nar)(&objects[0].nar).len() / 2;
        let ranges: Vec<_> = requests
            .iter()
            .map(|request| request.header("range"))
            .collect();
        assert_eq!(ranges, [None, Some(&*format!("bytes={half}-"))]);
        assert!(requests.iter().all(|request| request.query == "signed"));
    }
}

#[test]
fn a_nar_s_url_that_has_expired_since_the_last_build_is_asked_for_again() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    let site = FILES.site(&objects);
    let server = Server::with_hook(site.directory.path(), |request| {
        (request.query == "expired").then(|| Response::new(403))
    })
    .unwrap();
    let caches = caches(&[server.url()], &[&fixtures.public_key], true);
    let mut known = Previous::default();
    known.verified = crate::common::plan(&caches, &[objects[0].path()], &known)
        .unwrap()
        .paths;
    for info in known.verified.values_mut() {
        let source = info.source.as_mut().unwrap();
        source.url.push_str("?expired");
    }
    let closure = crate::common::plan(&caches, &[objects[0].path()], &known).unwrap();
    let store = TempDir::new().unwrap();
    fetch(&closure, &caches, store.path(), &ScanFor::Nothing).unwrap();
    let queries = server
        .requests()
        .iter()
        .filter(|request| request.query == "expired")
        .count();
    assert_eq!((queries, server.requests().len()), (1, 5));
}

#[test]
fn the_user_in_any_url_is_sent_to_its_server_alone() {
    let storage = Server::with_hook("/", |_| Some(Response::new(200).body("a tool"))).unwrap();
    let location = format!("{}/moved", storage.url());
    let server = Server::with_hook("/", move |request| {
        Some(match request.path.as_str() {
            "/" => Response::new(302).header("Location", "/here"),
            _ => Response::new(302).header("Location", &location),
        })
    })
    .unwrap();
    let url = server.url().replace("http://", "http://deploy:p%40ss@");
    let body = Http::new().get(&url.parse().unwrap(), None, Size::Small);
    assert_eq!(io::read_to_string(body.unwrap()).unwrap(), "a tool");
    let sent = |server: &Server| -> Vec<_> {
        let requests = server.requests().into_iter();
        let header = requests.map(|request| request.header("authorization").map(str::to_string));
        header.collect()
    };
    let basic = format!("Basic {}", BASE64.encode("deploy:p@ss"));
    assert_eq!(sent(&server), [Some(basic.clone()), Some(basic)]);
    assert_eq!(sent(&storage), [None]);
}

#[test]
fn one_connection_serves_for_absent_paths_and_redirects_too() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    let site = FILES.site(&objects);
    let directory = site.directory.path().to_path_buf();
    let server = Server::with_hook(directory.clone(), move |request| {
        if is_nar(request) && request.query.is_empty() {
            let location = format!("{}?moved", request.path);
            return Some(
                Response::new(302)
                    .header("Location", &location)
                    .body("moved"),
            );
        }
        let absent = !directory.join(&request.path[1..]).exists();
        absent.then(|| Response::new(404).body("a page that says so"))
    })
    .unwrap();
    let cache =
        BinaryCache::open(server.url().parse().unwrap(), Http::new(), &|_, _| None).unwrap();
    for letter in ["0", "1", "2", "3"] {
        let absent = format!("/nix/store/{}-gone", letter.repeat(32));
        assert!(cache.narinfo(&absent.parse().unwrap()).unwrap().is_none());
    }
    let narinfo = cache.narinfo(&objects[0].path()).unwrap().unwrap();
    for _ in 0..2 {
        let nar = BufReader::new(cache.nar(narinfo.url()).unwrap());
        let mut nar = nar_decoder(nar, "zstd", narinfo.nar_size()).unwrap();
        assert_eq!(
            std::io::copy(&mut nar, &mut std::io::sink()).unwrap(),
            narinfo.nar_size()
        );
    }
    assert_eq!(server.requests().len(), 10);
    assert_eq!(server.connections(), 1);
}

/// What a cache says of the root of `objects` where it does not give it.
/// What is told of a server that asks for credentials and got none.
const UNAUTHORIZED: &str = "HTTP status 401 Unauthorized; no credentials for it were found";

fn answer(server: &Server, fixtures: &Fixtures, objects: &[Object]) -> Answer {
    let caches = caches(&[server.url()], &[&fixtures.public_key], true);
    let misses = crate::common::plan(&caches, &[objects[0].path()], &Previous::default());
    let misses = misses.unwrap_err();
    let CacheAnswer { cache, answer } = misses[0].answers[0].clone();
    assert_eq!(cache, server.url());
    if let Answer::Failed(reason) | Answer::Refused(reason) = &answer {
        let unusable = caches.unusable().collect();
        let error = ClosureLayerError::Miss { misses, unusable };
        let message = BuildpackError::ClosureLayer(error).message().to_string();
        assert!(
            message.contains(&server.url()) && message.contains(reason),
            "{message}"
        );
    }
    answer
}

#[test]
fn a_path_is_absent_or_the_server_says_what_it_wants() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    let failed = |reason: &str| Answer::Failed(reason.to_string());
    let refused = |reason: &str| Answer::Refused(reason.to_string());
    for (status, expected) in [
        (403, Answer::Absent),
        (404, Answer::Absent),
        (410, Answer::Absent),
        (400, failed("HTTP status 400 Bad Request")),
        (401, refused(UNAUTHORIZED)),
        (
            407,
            refused("HTTP status 407 Proxy Authentication Required"),
        ),
    ] {
        let server = Server::with_hook(&fixtures.cache, move |request| {
            (request.path != "/nix-cache-info").then(|| Response::new(status).body("<html>"))
        })
        .unwrap();
        assert_eq!(answer(&server, &fixtures, &objects), expected);
        assert_eq!(
            server.requests().len(),
            2,
            "{status} is not asked for again"
        );
    }
}

#[test]
fn a_server_that_is_no_cache_for_this_store_is_left_out_and_named() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    let no_cache = "it has no `nix-cache-info`, so it is probably not a binary cache";
    let elsewhere = "this Hydra keeps what it builds elsewhere (its `store_uri`, such as an S3 \
                     bucket): set NIX_EXTRA_BINARY_CACHE to the URL of that";
    for (status, info, reason, asked) in [
        (404, "not found", no_cache, 2),
        // Hydra's answer where it keeps its paths in S3; why is asked for in a second request.
        (
            404,
            "{\"error\":\"There is no binary cache here.\"}",
            elsewhere,
            2,
        ),
        (401, "", UNAUTHORIZED, 1),
        (403, "", "HTTP status 403 Forbidden", 1),
        (
            200,
            "Priority: 10\nStoreDir: /gnu/store\n",
            "it serves the store `/gnu/store`, not `/nix/store`",
            1,
        ),
    ] {
        let server = Server::with_hook(&fixtures.cache, move |request| {
            (request.path == "/nix-cache-info").then(|| Response::new(status).body(info))
        })
        .unwrap();
        let expected = match status {
            401 => Answer::Refused(reason.to_string()),
            403 => Answer::Refused(format!("{reason}; no credentials for it were found")),
            _ => Answer::Failed(reason.to_string()),
        };
        assert_eq!(answer(&server, &fixtures, &objects), expected);
        let targets = targets(server.take_requests());
        assert_eq!(targets, vec!["/nix-cache-info"; asked]);

        let other = Server::start(&fixtures.cache).unwrap();
        let caches = caches(&[server.url(), other.url()], &[&fixtures.public_key], true);
        fetch_all(&caches, &objects);
        let unusable: Vec<_> = caches.unusable().collect();
        let expected = Unusable {
            cache: server.url(),
            reason: reason.to_string(),
        };
        assert_eq!(unusable, [expected]);
    }
}

#[test]
fn the_url_s_priority_counts_more_than_the_cache_s() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    let low = Kind {
        info: "StoreDir: /nix/store\nPriority: 40\n",
        ..FILES
    }
    .site(&objects);
    let unset = Kind {
        info: DEFAULT_INFO,
        ..FILES
    }
    .site(&objects);
    for (one, other, first) in [
        ("", "", "40"),
        ("?priority=51", "", "unset"),
        ("", "?priority=39", "unset"),
        ("?trusted=0&priority=2", "/?priority=3&compression=xz", "40"),
        ("?priority=7", "?priority=7", "unset"),
    ] {
        let low = Server::start(low.directory.path()).unwrap();
        let unset = Server::start(unset.directory.path()).unwrap();
        let urls = [
            format!("{}{other}", unset.url()),
            format!("{}{one}", low.url()),
        ];
        fetched(&urls, &fixtures, &objects);
        let (asked, spared) = if first == "40" {
            (&low, &unset)
        } else {
            (&unset, &low)
        };
        assert_eq!(
            (asked.requests().len(), spared.requests().len()),
            (3, 1),
            "{one} {other}"
        );
    }
}

#[test]
fn a_cache_that_the_url_calls_trusted_need_not_sign() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    let narinfo = FILES.narinfo.replace("Sig: {sig}\n", "");
    let unsigned = Kind {
        narinfo: &narinfo,
        ..FILES
    }
    .site(&objects);
    let server = Server::start(unsigned.directory.path()).unwrap();
    for (parameter, trusted) in [
        ("?trusted=true", true),
        ("?trusted=1", true),
        ("/?priority=1&trusted=true", true),
        ("?trusted=false", false),
        ("?trusted=0", false),
        ("", false),
    ] {
        let url = format!("{}{parameter}", server.url());
        let caches = caches(&[url], &[&fixtures.public_key], true);
        match crate::common::plan(&caches, &[objects[0].path()], &Previous::default()) {
            Ok(closure) => {
                assert!(trusted, "{parameter}");
                assert_eq!(closure.paths[&objects[0].path()].trust, Trust::TrustedCache);
            }
            Err(misses) => {
                assert!(!trusted, "{parameter}");
                let expected = Answer::Untrusted(Untrusted::NotSigned);
                assert_eq!(misses[0].answers[0].answer, expected);
            }
        }
    }
}

#[test]
fn a_cache_below_a_path_is_asked_there() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    for kind in [FILES, HARMONIA] {
        let site = kind.site(&objects);
        let above = TempDir::new().unwrap();
        fs::create_dir(above.path().join("a b")).unwrap();
        symlink(site.directory.path(), above.path().join("a b/nix")).unwrap();
        let expected = site
            .expected
            .iter()
            .map(|target| format!("/a b/nix{target}"));
        let expected: Vec<_> = expected.collect();
        for ending in ["", "/", "?priority=10", "/?priority=10", "/#fragment"] {
            let server = Server::start(above.path()).unwrap();
            let url = format!("{}/a%20b/nix{ending}", server.url());
            fetched(&[url], &fixtures, &objects);
            assert_eq!(targets(server.take_requests()), expected, "{ending}");
        }
    }
}

/// Where the NAR of a private cache is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Beside,
    /// In the narinfo with its whole URL, on the same server.
    Absolute,
    AbsoluteElsewhere,
    AbsoluteOnOtherPort,
    RedirectHere,
    RedirectElsewhere,
    RedirectToOtherPort,
}

impl Place {
    /// Whether the server that gives the NAR in the end is the cache itself.
    fn is_here(self) -> bool {
        matches!(self, Self::Beside | Self::Absolute | Self::RedirectHere)
    }

    /// A cache that answers only with the right `Authorization`, and where its NARs are in the end:
    /// on a server that refuses any.
    fn serve(self, objects: &[Object], authorization: &str) -> (Server, Server, Site) {
        let site = FILES.site(objects);
        let directory = site.directory.path().to_path_buf();
        let storage = Server::with_hook(&directory, |request| {
            let refused = request.header("authorization").is_some();
            refused.then(|| Response::new(400))
        })
        .unwrap();
        let location = match self {
            Self::Beside | Self::Absolute | Self::RedirectHere => None,
            Self::AbsoluteOnOtherPort | Self::RedirectToOtherPort => Some(storage.url()),
            Self::AbsoluteElsewhere | Self::RedirectElsewhere => Some(other_host(&storage)),
        };
        let authorization = authorization.to_string();
        let cache = Server::with_hook(directory.clone(), move |request| {
            if request.header("authorization") != Some(&authorization) {
                return Some(Response::new(401));
            }
            let own = format!("http://{}", request.header("host")?);
            let location = location.clone().unwrap_or(own);
            let file = request.path.trim_start_matches('/');
            match self {
                Self::Absolute | Self::AbsoluteElsewhere | Self::AbsoluteOnOtherPort
                    if file.ends_with(".narinfo") =>
                {
                    let text = fs::read_to_string(directory.join(file)).unwrap();
                    let text = text.replace("URL: ", &format!("URL: {location}/"));
                    Some(Response::new(200).body(text))
                }
                Self::RedirectHere | Self::RedirectElsewhere | Self::RedirectToOtherPort
                    if is_nar(request) && request.query.is_empty() =>
                {
                    let location = format!("{location}/{file}?moved");
                    Some(Response::new(307).header("Location", &location))
                }
                _ => None,
            }
        })
        .unwrap();
        (cache, storage, site)
    }
}

#[test]
fn credentials_from_anywhere_reach_their_cache_and_no_other_server() {
    let Some(fixtures) = fixtures() else { return };
    let objects = single(&fixtures);
    let basic = format!("Basic {}", BASE64.encode("deploy:p@ss w"));
    // Files of a service binding, then the netrc file, then the user in the URL.
    let netrc = "machine 127.0.0.1 login deploy password \"p@ss w\"\n";
    let login = [("username", "deploy"), ("password", "p@ss w\n")];
    let cases = [
        ("user info", &[][..], "", "deploy:p%40ss%20w@", &*basic),
        ("netrc", &[], netrc, "", &basic),
        ("bound netrc", &[("netrc", netrc)], "", "", &basic),
        ("bound user", &login, "", "", &basic),
        (
            "bound token",
            &[("token", "t0ken\n")],
            "",
            "",
            "Bearer t0ken",
        ),
    ];
    for (name, binding, netrc, user, authorization) in cases {
        for place in [
            Place::Beside,
            Place::Absolute,
            Place::AbsoluteElsewhere,
            Place::AbsoluteOnOtherPort,
            Place::RedirectHere,
            Place::RedirectElsewhere,
            Place::RedirectToOtherPort,
        ] {
            let (cache, storage, _site) = place.serve(&objects, authorization);
            // A public cache beside it that has nothing, and is asked first.
            let public = Server::with_hook("/", |request| {
                let info = request.path == "/nix-cache-info";
                info.then(|| Response::new(200).body(DEFAULT_INFO))
            })
            .unwrap();
            let platform = TempDir::new().unwrap();
            let bound = platform.path().join("bindings/cache");
            fs::create_dir_all(&bound).unwrap();
            let common = [("type", "nix-binary-cache"), ("url", &cache.url())];
            for (file, text) in common.iter().chain(binding) {
                fs::write(bound.join(file), text).unwrap();
            }
            let netrc_file = platform.path().join("netrc");
            fs::write(&netrc_file, netrc).unwrap();
            let url = cache.url().replace("http://", &format!("http://{user}"));
            let urls = format!("{}?priority=1 {url}", other_host(&public));
            let config = config(&[
                ("NIX_EXTRA_BINARY_CACHE", &urls),
                ("NIX_DEFAULT_BINARY_CACHE", ""),
                ("NIX_TRUSTED_PUBLIC_KEYS", &fixtures.public_key),
                ("NIX_NETRC_FILE", netrc_file.to_str().unwrap()),
                ("NIX_STORE_PATH", &fixtures.apps["static"].store_path),
                ("CNB_PLATFORM_DIR", platform.path().to_str().unwrap()),
            ]);
            assert_eq!(config.caches.len(), 2, "{name}");
            println!("{name}, {place:?}");
            let caches = Caches::open(&config.caches, config.trust, &Http::new(), &hydra::sign_in);
            fetch_all(&caches, &objects);
            assert_eq!(storage.requests().is_empty(), place.is_here());
            assert_eq!(public.requests().len(), 2);
            for request in public.requests() {
                assert_eq!(request.header("authorization"), None);
            }
        }
    }
}

fn config(settings: &[(&str, &str)]) -> Config {
    let get = |name: &str| {
        let setting = settings.iter().find(|(other, _)| *other == name);
        setting.map(|(_, value)| (*value).to_string())
    };
    Config::read(get, &PathBuf::new()).unwrap()
}
