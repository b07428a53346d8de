//! Bench of a redeploy: what is downloaded, unpacked and exported again when some of a closure changes.
//!
//! Histories are simulated on the big closure. A changed path has another hash, and so has all that
//! refers to it; its content is what it was, so that every byte that moves is one that had to, or
//! one that shares a layer with such. The least that can move is told in both measures: the changed
//! paths' NARs, and what they are in a tar.

mod export;

use anyhow::{Context, Result, ensure};
use export::{Export, Exports};
use platform::bench::{Options, Takes};
use platform::fixtures;
use platform::image::Image;
use platform::lifecycle::{Build, Outcome};
use platform::server::{Response, Server};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Characters of a hash part.
const HASH_LENGTH: usize = 32;

/// What changes in each history: the path whose name begins so, and all that depends on it.
const HISTORIES: [(&str, Option<&str>); 5] = [
    ("nothing", None),
    ("the app", Some("big")),
    ("one small library", Some("libpng16-16-")),
    ("one large library", Some("libllvm14-")),
    ("everything", Some("libgcc-s1-")),
];

/// `big.json`, as far as it is needed here.
#[derive(Deserialize)]
struct Big {
    root: String,
    caches: BTreeMap<String, PathBuf>,
}

/// The part of a narinfo that is needed here.
struct Entry {
    size: u64,
    file_size: u64,
    references: Vec<String>,
    text: String,
}

/// The big closure by base names.
type Closure = BTreeMap<String, Entry>;

/// What one redeploy moved.
struct Figures {
    downloaded: u64,
    unpacked: u64,
    exported: u64,
    /// Of what is exported, what the changed paths are alone.
    least_exported: u64,
    seconds: f64,
    /// The export by the real lifecycle, where it is there.
    export: Option<Export>,
    requests: usize,
}

const TAKES: Takes = Takes {
    runs: None,
    write: true,
    cases: &[],
};

/// What every history begins with.
struct Bench<'a> {
    fixtures: fixtures::Fixtures,
    buildpack: PathBuf,
    app: &'a Path,
    cache: &'a Path,
    closure: Closure,
    root: String,
    exports: Option<Exports<'a>>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(options) = Options::read(&arguments, TAKES)? else {
        return Ok(());
    };
    let fixtures = fixtures::read()?;
    let big = fixtures::path().with_file_name("big.json");
    let text =
        fs::read(&big).with_context(|| format!("{}: run script/setup big", big.display()))?;
    let big: Big = serde_json::from_slice(&text)?;
    let cache = big.caches.get("zstd").context("no zstd cache")?;
    let root = big.root.trim_start_matches("/nix/store/").to_string();
    let app = tempfile::tempdir()?;
    fs::write(app.path().join("Procfile"), "web: run_proot.sh true\n")?;
    let buildpack = std::env::var_os("NIX_HYDRA_BUILDPACK")
        .context("NIX_HYDRA_BUILDPACK is not set: run this by script/bench redeploy")?;
    let bench = Bench {
        exports: Exports::find(app.path(), buildpack.clone().into(), beside(&fixtures)?),
        buildpack: buildpack.into(),
        app: app.path(),
        closure: read(cache, &root)?,
        fixtures,
        cache,
        root,
    };
    let one_layer = bench.export_one_layer()?;
    let closure = &bench.closure;
    let mut table = String::from(
        "| what changed | paths | their NARs | unpacked | of the least | downloaded, of the least | \
         in changed layers | of the least | one layer | in the buildpack | exported in | pushed | one layer |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (title, seed) in HISTORIES {
        let changed = seed.map_or_else(BTreeSet::new, |seed| dependents(closure, seed));
        ensure!(seed.is_none() || !changed.is_empty(), "no path is {title}");
        let figures = bench.redeploy(&changed)?;
        let sum = |size: fn(&Entry) -> u64| -> u64 {
            changed.iter().map(|name| size(&closure[name])).sum()
        };
        let (least, least_file) = (sum(|path| path.size), sum(|path| path.file_size));
        let all: u64 = closure.values().map(|path| path.size).sum();
        let ratio = |value: u64, least: u64| match least {
            0 => "-".to_string(),
            _ => format!("{:.2}", float(value) / float(least)),
        };
        let figure = title.replace(' ', "_");
        for (name, value, unit) in [
            ("downloaded", figures.downloaded, "bytes"),
            ("least_downloaded", least_file, "bytes"),
            ("unpacked", figures.unpacked, "bytes"),
            ("exported", figures.exported, "bytes"),
            ("least_exported", figures.least_exported, "bytes"),
            ("least", least, "bytes"),
            ("nar_requests", figures.requests as u64, "requests"),
        ] {
            println!("redeploy.{figure}.{name} = {value} {unit}");
        }
        println!("redeploy.{figure}.seconds = {:.3} s", figures.seconds);
        if let Some(Export { seconds, pushed }) = figures.export {
            println!("redeploy.{figure}.export_seconds = {seconds:.3} s");
            println!("redeploy.{figure}.pushed = {pushed} bytes");
        }
        let left_out = || "left out".to_string();
        let seconds = |export: Export| format!("{:.1} s", export.seconds);
        let pushed = |export: Export| format!("{:.1} MB", float(export.pushed) / 1e6);
        let _ = writeln!(
            table,
            "| {title} | {} | {:.1} MB | {:.1} MB | {} | {} | {:.1} MB | {} | {:.1} MB | {:.2} s | {} | {} | {} |",
            changed.len(),
            float(least) / 1e6,
            float(figures.unpacked) / 1e6,
            ratio(figures.unpacked, least),
            ratio(figures.downloaded, least_file),
            float(figures.exported) / 1e6,
            ratio(figures.exported, figures.least_exported),
            if changed.is_empty() {
                0.0
            } else {
                float(all) / 1e6
            },
            figures.seconds,
            figures.export.map_or_else(left_out, seconds),
            figures.export.map_or_else(left_out, pushed),
            match one_layer {
                _ if changed.is_empty() => "-".to_string(),
                Some(export) => format!("{}, {}", seconds(export), pushed(export)),
                None => left_out(),
            },
        );
    }
    println!("\n{table}");
    if options.write {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
        platform::docs::put(&page, "redeploy", &table)?;
    }
    Ok(())
}

impl Bench<'_> {
    /// What a user sets to deploy `root` from this cache.
    fn env(&self, cache: &Server, tools: &Server, root: &str) -> Vec<(&'static str, String)> {
        let proot = self.fixtures.proot.to_string_lossy();
        vec![
            ("NIX_EXTRA_BINARY_CACHE", cache.url()),
            ("NIX_DEFAULT_BINARY_CACHE", String::new()),
            ("NIX_STORE_PATH", format!("/nix/store/{root}")),
            (
                "NIX_PROOT_URL",
                tools.url().trim_end_matches('/').to_string() + &proot,
            ),
            ("NIX_PROOT_SHA256", self.fixtures.proot_sha256.clone()),
        ]
    }

    /// The closure as this platform builds it into an image.
    fn build(&self, env: Vec<(&'static str, String)>, directory: &Path) -> Result<Outcome> {
        let rootfs = &self.fixtures.rootfs;
        let mut build = Build::new(rootfs, &self.buildpack, self.app, directory);
        for (name, value) in env {
            build = build.env(name, value);
        }
        let outcome = build.run()?;
        ensure!(outcome.success(), "{}", outcome.log);
        Ok(outcome)
    }

    /// A directory beside the fixtures, for what is large.
    fn directory(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::tempdir_in(beside(&self.fixtures)?)?)
    }

    /// What the export of one layer for all takes.
    fn export_one_layer(&self) -> Result<Option<Export>> {
        let Some(exports) = &self.exports else {
            return Ok(None);
        };
        let (server, tools) = (Server::start(self.cache)?, Server::start("/")?);
        let directory = self.directory()?;
        let env = self.env(&server, &tools, &self.root);
        let outcome = self.build(env, &directory.path().join("image"))?;
        let image = outcome.image.context("no image")?;
        let export = export::told(exports.one_layer(&image, directory.path()));
        if let Some(Export { seconds, pushed }) = export {
            println!("redeploy.one_layer.export_seconds = {seconds:.3} s");
            println!("redeploy.one_layer.pushed = {pushed} bytes");
        }
        Ok(export)
    }

    /// Builds the closure, and again where `changed` has changed.
    fn redeploy(&self, changed: &BTreeSet<String>) -> Result<Figures> {
        let (closure, root) = (&self.closure, &self.root);
        let narinfos: BTreeMap<String, String> = changed
            .iter()
            .map(|name| {
                let renamed = renamed(name, changed);
                let file = format!("/{}.narinfo", &renamed[..HASH_LENGTH]);
                (file, rewritten(&closure[name].text, changed))
            })
            .collect();
        let server = Server::with_hook(self.cache, move |request| {
            let text = narinfos.get(&request.path)?;
            Some(Response::new(200).body(text.clone()))
        })?;
        let tools = Server::start("/")?;
        let directory = self.directory()?;
        let build = |root: &str| self.build(self.env(&server, &tools, root), directory.path());
        build(root)?;
        let _ = server.take_requests();
        let outcome = build(&renamed(root, changed))?;
        let nars: Vec<String> = server
            .take_requests()
            .into_iter()
            .filter(|request| request.path.starts_with("/nar/"))
            .map(|request| request.path)
            .collect();
        let fetched = |path: &&Entry| nars.iter().any(|nar| path.text.contains(&nar[1..]));
        let fetched: Vec<&Entry> = closure.values().filter(fetched).collect();
        let image: Image = outcome.image.context("no image")?;
        let mut least_exported = 0;
        for name in image.record.layers.keys() {
            let layer = image.layer_dir(name).context("a layer is missing")?;
            for one in changed {
                let path = layer.join(renamed(one, changed));
                if name != "closure" && path.symlink_metadata().is_ok() {
                    least_exported += in_tar(&path, format!("/layers/nix_hydra/{name}").len())?;
                }
            }
        }
        let layers = image.record.layers.values();
        let exports = self.exports.as_ref();
        let env = |root: &str| self.env(&server, &tools, root);
        let (before, after) = (env(root), env(&renamed(root, changed)));
        let export = exports.and_then(|exports| export::told(exports.redeploy(&before, &after)));
        Ok(Figures {
            export,
            least_exported,
            downloaded: fetched.iter().map(|path| path.file_size).sum(),
            unpacked: fetched.iter().map(|path| path.size).sum(),
            exported: layers
                .filter(|layer| !layer.reused)
                .map(|layer| layer.blob.bytes)
                .sum(),
            seconds: outcome.build_time.as_secs_f64(),
            requests: nars.len(),
        })
    }
}

/// Where the fixtures are: a directory for what is large.
fn beside(fixtures: &fixtures::Fixtures) -> Result<&Path> {
    fixtures.rootfs.parent().context("no directory")
}

/// Reads the closure of `root` from the narinfos in `cache`.
fn read(cache: &Path, root: &str) -> Result<Closure> {
    let mut closure = Closure::new();
    let mut waiting = vec![root.to_string()];
    while let Some(name) = waiting.pop() {
        if closure.contains_key(&name) {
            continue;
        }
        let file = cache.join(format!("{}.narinfo", &name[..HASH_LENGTH]));
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let field = |key: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        };
        let number = |key| -> Result<u64> { Ok(field(key).context("no size")?.parse()?) };
        let references = field("References").unwrap_or_default().split_whitespace();
        let references: Vec<String> = references.map(str::to_string).collect();
        waiting.extend(references.iter().cloned());
        let path = Entry {
            size: number("NarSize")?,
            file_size: number("FileSize")?,
            references,
            text: text.clone(),
        };
        closure.insert(name, path);
    }
    Ok(closure)
}

/// The paths whose name begins with `seed`, and all that refer to them.
fn dependents(closure: &Closure, seed: &str) -> BTreeSet<String> {
    let is_seed = |name: &&String| name[HASH_LENGTH + 1..].starts_with(seed);
    let mut changed: BTreeSet<String> = closure.keys().filter(is_seed).cloned().collect();
    loop {
        let before = changed.len();
        for (name, path) in closure {
            if path.references.iter().any(|other| changed.contains(other)) {
                changed.insert(name.clone());
            }
        }
        if changed.len() == before {
            return changed;
        }
    }
}

/// The name that a path has in the second build: a changed one's hash is turned around.
fn renamed(name: &str, changed: &BTreeSet<String>) -> String {
    if !changed.contains(name) {
        return name.to_string();
    }
    let (hash, rest) = name.split_at(HASH_LENGTH);
    hash.chars().rev().collect::<String>() + rest
}

/// The narinfo of a changed path.
fn rewritten(text: &str, changed: &BTreeSet<String>) -> String {
    let mut new = String::new();
    for line in text.lines() {
        let (key, value) = line.split_once(": ").unwrap_or((line, ""));
        let value = match key {
            "Sig" => continue,
            "StorePath" => {
                let name = value.trim_start_matches("/nix/store/");
                format!("/nix/store/{}", renamed(name, changed))
            }
            "References" => {
                let names = value.split_whitespace();
                let names: Vec<_> = names.map(|name| renamed(name, changed)).collect();
                names.join(" ")
            }
            _ => value.to_string(),
        };
        let _ = writeln!(new, "{key}: {value}");
    }
    new
}

/// Bytes of a file or a directory in a tar, where so many letters are before its name: a header each,
/// the content in full blocks, and two more blocks for each name and target that a header has no room
/// for.
fn in_tar(path: &Path, before: usize) -> Result<u64> {
    const BLOCK: u64 = 512;
    const MAX_NAME: usize = 100;
    let metadata = path.symlink_metadata()?;
    let name = before + 1 + path.file_name().map_or(0, std::ffi::OsStr::len);
    let mut size = BLOCK;
    let target = match path.read_link() {
        Ok(target) => target.as_os_str().len(),
        Err(_) => 0,
    };
    for length in [name, target] {
        if length > MAX_NAME {
            size += 2 * BLOCK;
        }
    }
    if metadata.is_file() {
        size += metadata.len().next_multiple_of(BLOCK);
    } else if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            size += in_tar(&entry?.path(), name)?;
        }
    }
    Ok(size)
}

fn float(bytes: u64) -> f64 {
    bytes as f64
}
