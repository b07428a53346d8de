//! A new commit of an app that pins a tree of nixpkgs' shape: native Nix with everything in its store,
//! and ours with all that a build does.

use crate::{config, kept_nix, text};
use anyhow::{Context, Result, bail, ensure};
use nix_hydra_buildpack::config::Wanted;
use nix_hydra_buildpack::resolve::expression::Evaluator;
use nix_hydra_buildpack::resolve::source::Source;
use nix_runner::Nix;
use nix_runner::kept::Kept;
use nix_runner::supply::Supply;
use platform::bench::Options;
use platform::fixtures::Fixtures;
use platform::nixpkgs::{NIXPKGS, Tree};
use platform::server::Server;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;
use wait4::Wait4 as _;

const PINS: [(&str, &str); 2] = [("tarball", "`fetchTarball`"), ("flake", "a flake's input")];

const CONTENDERS: [(&str, &str); 3] = [
    ("native", "Nix at `/nix/store`, everything in its store"),
    (
        "first",
        "ours, nothing kept: the tree from a cache on loopback",
    ),
    ("later", "ours, with the layer of the build before"),
];

/// Seconds, and bytes at most.
#[derive(Clone, Copy)]
struct Figures {
    wall: f64,
    processor: f64,
    peak: f64,
}

/// All that the buildpack does between a restored `nix-store` layer and the root, which is returned.
pub(crate) fn ours(nix: &Path, app: &Path, cache: &str, kept: &Path) -> Result<String> {
    let config = config(app, &format!("{cache}?trusted=true"))?;
    let Wanted::Expression(expression) = &config.wanted else {
        bail!("no expression");
    };
    let source = Source::read(app, "source").map_err(text)?;
    let kept = Kept::new(kept.to_path_buf());
    let supply = Arc::new(Supply::new(config.substituters()).map_err(text)?);
    let (nix, _) = std::thread::scope(|scope| {
        scope.spawn(|| kept.restore(supply.store()));
        Nix::unpacked(
            &|target| kept_nix(nix)?.unpack(target),
            &|_| Err("not here".to_string()),
            Arc::clone(&supply),
        )
    })
    .map_err(text)?;
    let outcome = Evaluator::new(&nix, &source, expression, &config, "x86_64-linux")
        .and_then(|evaluator| evaluator.evaluate(&nix, false))
        .map_err(text)?;
    let mut taken = nix.taken();
    taken.retain(|(path, _)| *path != source.path);
    kept.keep(nix.store(), &taken)?;
    let root = outcome.roots.first().context("no root")?;
    Ok(root.path.to_absolute_path())
}

/// The tree in a cache, and in a store of native Nix.
struct Setting<'a> {
    fixtures: &'a Fixtures,
    nix: &'a Path,
    tree: Tree,
    cache: Server,
    _files: TempDir,
}

pub(crate) fn bench(options: &Options, fixtures: &Fixtures, nix: &Path) -> Result<String> {
    let files = TempDir::new()?;
    let (tree, compressed) = generate_elsewhere(files.path())?;
    let setting = Setting {
        fixtures,
        nix,
        tree,
        cache: Server::start(files.path())?,
        _files: files,
    };
    let mut table = format!(
        "Medians of {}, Nix {}. The tree has {} files in {} directories, {} MB as a NAR and {} MB in the \
         cache; {} of its files are read.\n\n\
         | | wall, on disk | processor | wall, in memory | processor | memory |\n|---|---|---|---|---|---|\n",
        options.runs,
        fixtures.nix_version,
        NIXPKGS.files,
        NIXPKGS.directories,
        setting.tree.nar_size / 1_000_000,
        compressed / 1_000_000,
        NIXPKGS.read,
    );
    let places = [
        ("disk", std::env::temp_dir()),
        ("memory", PathBuf::from("/dev/shm")),
    ];
    let mut all = Vec::new();
    for (place, directory) in &places {
        all.push(setting.measure(options.runs, place, directory)?);
    }
    for (row, (pin, contender, title)) in rows().into_iter().enumerate() {
        let [disk, memory] = [all[0][row], all[1][row]];
        for (place, figures) in [("disk", disk), ("memory", memory)] {
            println!(
                "nixpkgs.{pin}.{contender}.{place}.wall = {:.3} s",
                figures.wall
            );
            println!(
                "nixpkgs.{pin}.{contender}.{place}.cpu = {:.3} s",
                figures.processor
            );
        }
        println!(
            "nixpkgs.{pin}.{contender}.peak = {:.0} MB",
            memory.peak / 1e6
        );
        let _ = writeln!(
            table,
            "| {title} | {:.2} s | {:.2} s | {:.2} s | {:.2} s | {:.0} MB |",
            disk.wall,
            disk.processor,
            memory.wall,
            memory.processor,
            disk.peak.max(memory.peak) / 1e6
        );
    }
    Ok(table)
}

/// Generates the tree into a cache. Prints its store path, hash and size, and how large it is there.
pub(crate) fn generate(cache: &Path) -> Result<()> {
    let tree = Tree::into_cache(&NIXPKGS, "", cache)?;
    let compressed = pack(cache)?;
    println!(
        "{} {} {} {compressed}",
        tree.path,
        tree.sha256(),
        tree.nar_size
    );
    Ok(())
}

/// Generates the tree in a process of its own: what is started by one with much memory counts as having
/// had it.
fn generate_elsewhere(cache: &Path) -> Result<(Tree, u64)> {
    let output = Command::new(std::env::current_exe()?)
        .arg("generate")
        .arg(cache)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let [path, hash, size, compressed] = text.split_whitespace().collect::<Vec<_>>()[..] else {
        bail!("it printed {text}");
    };
    let tree = Tree {
        path: path.parse()?,
        nar_hash: hash.parse()?,
        nar_size: size.parse()?,
    };
    Ok((tree, compressed.parse()?))
}

fn rows() -> Vec<(&'static str, &'static str, String)> {
    let mut rows = Vec::new();
    for (pin, by) in PINS {
        for (contender, title) in CONTENDERS {
            rows.push((pin, contender, format!("pinned by {by}; {title}")));
        }
    }
    rows
}

/// Compresses the NAR of a cache, and returns how large it is then.
fn pack(cache: &Path) -> Result<u64> {
    for entry in fs::read_dir(cache)? {
        let file = entry?.path();
        if file
            .extension()
            .is_none_or(|extension| extension != "narinfo")
        {
            continue;
        }
        let narinfo = fs::read_to_string(&file)?;
        let nar = narinfo.lines().find_map(|line| line.strip_prefix("URL: "));
        let nar = nar.context("no URL")?;
        let packed = cache.join(format!("{nar}.zst"));
        zstd::stream::copy_encode(File::open(cache.join(nar))?, File::create(&packed)?, 3)?;
        let narinfo = narinfo
            .replace(nar, &format!("{nar}.zst"))
            .replace("Compression: none", "Compression: zstd");
        fs::write(&file, narinfo)?;
        return Ok(packed.metadata()?.len());
    }
    bail!("the cache is empty")
}

impl Setting<'_> {
    /// The medians of each row, with all temporary files below `directory`.
    fn measure(&self, runs: usize, place: &str, directory: &Path) -> Result<Vec<Figures>> {
        let work = TempDir::new_in(directory)?;
        let native = work.path().join("native");
        let copy = self
            .native("nix", &native)
            .args(["copy", "--no-check-sigs", "--from", &self.cache.url()])
            .arg(self.tree.path.to_absolute_path())
            .output()?;
        ensure!(
            copy.status.success(),
            "{}",
            String::from_utf8_lossy(&copy.stderr)
        );
        let mut rows: Vec<Vec<Figures>> = vec![Vec::new(); PINS.len() * CONTENDERS.len()];
        for run in 0..runs {
            for (index, (pin, _)) in PINS.iter().enumerate() {
                let app = work.path().join(format!("{pin}-{run}"));
                self.write_app(pin, &app, run)?;
                let kept = work.path().join(format!("kept-{pin}-{run}"));
                let mut expected = None;
                for (column, (contender, _)) in CONTENDERS.iter().enumerate() {
                    let mut command = match *contender {
                        "native" => self.evaluate_natively(pin, &app, &native)?,
                        _ => self.evaluate_here(&app, &kept)?,
                    };
                    command.env("TMPDIR", work.path());
                    let (figures, root) = timed(&mut command)?;
                    let expected = expected.get_or_insert_with(|| root.clone());
                    ensure!(*expected == root, "{place} {pin} {contender}: {root}");
                    rows[index * CONTENDERS.len() + column].push(figures);
                }
            }
        }
        Ok(rows.iter().map(|runs| median(runs)).collect())
    }

    fn write_app(&self, pin: &str, app: &Path, commit: usize) -> Result<()> {
        fs::create_dir_all(app)?;
        fs::write(app.join("commit"), commit.to_string())?;
        let package = "pkgs: derivation { name = \"app\"; system = \"x86_64-linux\"; \
                       builder = \"/bin/sh\"; src = ./.; dependency = pkgs.p0; }";
        fs::write(app.join("package.nix"), package)?;
        let hash = self.tree.sha256();
        if pin == "tarball" {
            let text = format!(
                "import ./package.nix (import (fetchTarball {{ url = \"http://127.0.0.1:9/x.tar.gz\"; \
                 sha256 = \"{hash}\"; }}) {{ }})"
            );
            return Ok(fs::write(app.join("default.nix"), text)?);
        }
        let rev = "3f96280da0ebc578599130c55c283036b51a9e91";
        let flake = "{ inputs.nixpkgs.url = \"github:acme/nixpkgs\"; outputs = { self, nixpkgs }: {
            packages.x86_64-linux.default = import ./package.nix nixpkgs.legacyPackages.x86_64-linux; }; }";
        fs::write(app.join("flake.nix"), flake)?;
        let original = serde_json::json!({ "type": "github", "owner": "acme", "repo": "nixpkgs" });
        let mut locked = original.clone();
        locked["rev"] = rev.into();
        locked["lastModified"] = 1.into();
        locked["narHash"] = hash.into();
        let lock = serde_json::json!({
            "nodes": {
                "root": { "inputs": { "nixpkgs": "nixpkgs" } },
                "nixpkgs": { "locked": locked, "original": original },
            },
            "root": "root",
            "version": 7,
        });
        Ok(fs::write(app.join("flake.lock"), lock.to_string())?)
    }

    fn native(&self, program: &str, root: &Path) -> Command {
        let mut command = Command::new(Path::new(&self.fixtures.nix).join("bin").join(program));
        command
            .env("HOME", root)
            .env("NIX_CONF_DIR", root)
            .env("NIX_USER_CONF_FILES", "")
            .env("NIX_PATH", "")
            .env(
                "NIX_CONFIG",
                "experimental-features = nix-command flakes\nsubstituters =\nbuild-users-group =\n\
                 fsync-metadata = false\nflake-registry =",
            )
            .arg("--store")
            .arg(format!("local?root={}", root.display()));
        command
    }

    /// Native Nix's evaluation of an app that is in its store.
    fn evaluate_natively(&self, pin: &str, app: &Path, root: &Path) -> Result<Command> {
        let checkout = TempDir::new()?;
        let checkout = checkout.path().join("source");
        fs::create_dir(&checkout)?;
        for file in fs::read_dir(app)? {
            let file = file?;
            fs::copy(file.path(), checkout.join(file.file_name()))?;
        }
        let added = self
            .native("nix-store", root)
            .args(["--add-fixed", "--recursive", "sha256"])
            .arg(&checkout)
            .output()?;
        ensure!(
            added.status.success(),
            "{}",
            String::from_utf8_lossy(&added.stderr)
        );
        let source = String::from_utf8(added.stdout)?;
        let source = source.trim();
        let expression = match pin {
            "tarball" => format!("(import {source}/default.nix).outPath"),
            _ => format!(
                "(builtins.getFlake \"path:{source}\").packages.x86_64-linux.default.outPath"
            ),
        };
        let mut command = self.native("nix-instantiate", root);
        command.args(["--eval", "--strict", "--json", "--expr", &expression]);
        Ok(command)
    }

    fn evaluate_here(&self, app: &Path, kept: &Path) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("pinned")
            .arg(self.nix)
            .arg(app)
            .arg(self.cache.url())
            .arg(kept);
        Ok(command)
    }
}

fn timed(command: &mut Command) -> Result<(Figures, String)> {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut output = String::new();
    child
        .stdout
        .take()
        .context("no output")?
        .read_to_string(&mut output)?;
    let ended = child.wait4()?;
    let wall = started.elapsed().as_secs_f64();
    ensure!(ended.status.success(), "{command:?} failed");
    let usage = ended.rusage;
    let figures = Figures {
        wall,
        processor: (usage.utime + usage.stime).as_secs_f64(),
        peak: u32::try_from(usage.maxrss / 1024).map(f64::from)? * 1024.0,
    };
    Ok((figures, output.trim().trim_matches('"').to_string()))
}

fn median(runs: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Figures {
        wall: of(|run| run.wall),
        processor: of(|run| run.processor),
        peak: of(|run| run.peak),
    }
}
