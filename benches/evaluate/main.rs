//! Bench of an evaluation: ours, whole, beside the same Nix at `/nix/store` and the same under PRoot.
//!
//! Ours is all that a build does between a restored `nix-store` layer and the root: it unpacks Nix,
//! puts the source into a store, and evaluates, with every derivation written or without. The others
//! only evaluate. They take turns. `nixpkgs.rs` does the same with a tree of nixpkgs' shape.

mod nixpkgs;

use anyhow::{Context, Result, bail, ensure};
use binary_cache::TrustSettings;
use binary_cache::credentials::Netrc;
use nix_hydra_buildpack::config::{Config, Wanted};
use nix_hydra_buildpack::resolve::expression::Evaluator;
use nix_hydra_buildpack::resolve::source::Source;
use nix_runner::archive::ArchiveError;
use nix_runner::archive::{Target, unpack_release};
use nix_runner::programs::{self, Programs};
use nix_runner::supply::Supply;
use nix_runner::{AccessTokens, Nix, Substituters};
use platform::bench::{Options, Takes};
use platform::fixtures::{self, Fixtures};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;

const TAKES: Takes = Takes {
    runs: Some(5),
    write: true,
    cases: &["derivations", "nixpkgs"],
};

/// What is compared with what, like with like.
const RATIOS: [(&str, &str, &str); 3] = [
    ("ratio_to_native", "ours_full", "native"),
    ("ratio_to_native_read_only", "ours", "native_read_only"),
    ("proot_to_native", "proot", "native"),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["ours", kept, app, thorough] => {
            let root = ours(Path::new(kept), Path::new(app), thorough == "true")?;
            println!("{root}");
            Ok(())
        }
        ["pinned", nix, app, cache, kept] => {
            let root = nixpkgs::ours(Path::new(nix), Path::new(app), cache, Path::new(kept))?;
            println!("{root}");
            Ok(())
        }
        ["generate", cache] => nixpkgs::generate(Path::new(cache)),
        _ => Options::read(&arguments, TAKES)?.map_or(Ok(()), |options| bench(&options)),
    }
}

/// All that the buildpack does; answers the root.
fn ours(kept: &Path, app: &Path, thorough: bool) -> Result<String> {
    let config = config(app, "")?;
    let Wanted::Expression(expression) = &config.wanted else {
        bail!("no expression");
    };
    let source = Source::read(app, "source").map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let (nix, _) = Nix::unpacked(
        &|target| kept_nix(kept)?.unpack(target),
        &|_| Err("not here".to_string()),
        Arc::new(Supply::new(config.substituters())?),
    )
    .map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let outcome = Evaluator::new(&nix, &source, expression, &config, "x86_64-linux")
        .and_then(|evaluator| evaluator.evaluate(&nix, thorough))
        .map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let root = outcome.roots.first().context("no root")?;
    Ok(root.path.to_absolute_path())
}

fn config(app: &Path, cache: &str) -> Result<Config> {
    let setting = |name: &str| match name {
        "NIX_DEFAULT_BINARY_CACHE" => Some(String::new()),
        "NIX_EXTRA_BINARY_CACHE" => Some(cache.to_string()),
        _ => None,
    };
    Config::read(setting, app).map_err(text)
}

/// The Nix of the layer, whose signatures are checked.
fn kept_nix(kept: &Path) -> Result<Programs, ArchiveError> {
    let open = || {
        let fixtures = fixtures::read().ok()?;
        Programs::open(kept, &fixtures.nix.parse().ok()?, &trust(&fixtures)?)
    };
    open().ok_or(ArchiveError::NoNix)
}

fn trust(fixtures: &Fixtures) -> Option<TrustSettings> {
    Some(TrustSettings {
        keys: vec![fixtures.public_key.parse().ok()?],
        required: true,
    })
}

fn text(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow::anyhow!("{error:?}")
}

/// A contender's name, as figures have it, its description, and its runs in seconds.
struct Contender {
    name: &'static str,
    title: &'static str,
    runs: Vec<f64>,
}

impl Contender {
    fn median(&self) -> f64 {
        let mut runs = self.runs.clone();
        runs.sort_by(f64::total_cmp);
        runs.get(runs.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

fn bench(options: &Options) -> Result<()> {
    let fixtures = fixtures::read()?;
    if options.wants("derivations") {
        bench_derivations(options, &fixtures)?;
    }
    if options.wants("nixpkgs") {
        let work = TempDir::new()?;
        let kept = kept(&fixtures, work.path())?;
        let table = nixpkgs::bench(options, &fixtures, &kept)?;
        println!("\n{table}");
        if options.write {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
            platform::docs::put(&path, "nixpkgs", &table)?;
        }
    }
    Ok(())
}

/// Nix as the layer has it.
fn kept(fixtures: &Fixtures, work: &Path) -> Result<PathBuf> {
    let cache = TempDir::new()?;
    fixtures.push_nix(cache.path())?;
    let url = format!("file://{}", cache.path().display());
    let url = url.parse().map_err(text)?;
    let trust = trust(fixtures).context("the key of the fixtures")?;
    let substituters =
        Substituters::new(vec![url], trust, Netrc::default(), AccessTokens::default());
    let supply = Supply::new(substituters).map_err(text)?;
    let kept = work.join("nix");
    programs::fetch(&kept, &fixtures.nix.parse().map_err(text)?, &supply).map_err(text)?;
    Ok(kept)
}

fn bench_derivations(options: &Options, fixtures: &Fixtures) -> Result<()> {
    let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/evaluate");
    let work = TempDir::new()?;
    let kept = kept(fixtures, work.path())?;
    let mut contenders = [
        ("xz", "unpacking the release"),
        ("unpack", "unpacking it from the layer"),
        (
            "ours_full",
            "ours: unpacking it, the source, evaluating, all derivations written",
        ),
        (
            "native",
            "Nix at `/nix/store` evaluating, all derivations written",
        ),
        (
            "ours",
            "ours: unpacking it, the source, evaluating, nothing written",
        ),
        (
            "native_read_only",
            "Nix at `/nix/store` evaluating, nothing written",
        ),
        (
            "proot",
            "Nix under PRoot evaluating, all derivations written",
        ),
    ]
    .map(|(name, title)| Contender {
        name,
        title,
        runs: Vec::new(),
    });
    let mut root = None;
    for turn in 0..options.runs {
        for contender in &mut contenders {
            let directory = work.path().join(format!("{}-{turn}", contender.name));
            std::fs::create_dir(&directory)?;
            let (seconds, answer) = match contender.name {
                "xz" => timed_unpacking(fixtures, None)?,
                "unpack" => timed_unpacking(fixtures, Some(&kept))?,
                name @ ("ours" | "ours_full") => {
                    let mut command = Command::new(std::env::current_exe()?);
                    let thorough = (name == "ours_full").to_string();
                    timed(command.arg("ours").arg(&kept).arg(&app).arg(thorough))?
                }
                name => {
                    let proot = (name == "proot").then_some(fixtures.proot.as_path());
                    let read_only = name == "native_read_only";
                    by_nix(fixtures, &app, &directory, proot, read_only)?
                }
            };
            if let Some(answer) = answer {
                let first = root.get_or_insert_with(|| answer.clone());
                ensure!(*first == answer, "{} got another root", contender.name);
            }
            contender.runs.push(seconds);
        }
    }
    report(&contenders, options, fixtures)
}

type Timed = (f64, Option<String>);

fn timed_unpacking(fixtures: &Fixtures, kept: Option<&Path>) -> Result<Timed> {
    let directory = TempDir::new()?;
    let started = Instant::now();
    let target = Target::relocated(directory.path());
    let target = target.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let unpacked = match kept {
        Some(kept) => kept_nix(kept).and_then(|nix| nix.unpack(&target)),
        None => unpack_release(&fixtures.nix_archive, &target),
    };
    unpacked.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    Ok((started.elapsed().as_secs_f64(), None))
}

fn timed(command: &mut Command) -> Result<Timed> {
    let started = Instant::now();
    let output = command.output()?;
    let seconds = started.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    Ok((seconds, Some(text.trim().trim_matches('"').to_string())))
}

/// Evaluates as Hydra's Nix would, in a new store; only the evaluation is timed.
fn by_nix(
    fixtures: &Fixtures,
    app: &Path,
    directory: &Path,
    proot: Option<&Path>,
    read_only: bool,
) -> Result<Timed> {
    let store = directory.join("nix/store");
    std::fs::create_dir_all(&store)?;
    let checkout = directory.join("source");
    std::fs::create_dir(&checkout)?;
    for file in std::fs::read_dir(app)? {
        let file = file?;
        std::fs::copy(file.path(), checkout.join(file.file_name()))?;
    }
    let in_place = PathBuf::from(&fixtures.nix).join("bin");
    let command = |program: &str, view: bool| {
        let program = in_place.join(program);
        let mut command = if let Some(proot) = proot.filter(|_| view) {
            let mut command = Command::new(proot);
            command.arg("-b");
            command.arg(format!("{}:/nix", directory.join("nix").display()));
            command.arg(program).args(["--store", "local"]);
            command
        } else {
            let mut command = Command::new(program);
            let store = format!("local?root={}", directory.display());
            command.args(["--store", &store]);
            command
        };
        command
            .env("HOME", directory)
            .env("NIX_CONF_DIR", directory)
            .env("NIX_USER_CONF_FILES", "")
            .env("NIX_PATH", "")
            .env(
                "NIX_CONFIG",
                "substituters =\nbuild-users-group =\nfsync-metadata = false\nsandbox = false",
            );
        command
    };
    let source = timed(
        command("nix-store", false)
            .args(["--add-fixed", "--recursive", "sha256"])
            .arg(&checkout),
    )?;
    let source = source.1.context("no source")?;
    if proot.is_some() {
        unpack_release(&fixtures.nix_archive, &Target::Plain(store))
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
    }
    let expression = format!("(import {source}/default.nix {{ }}).outPath");
    let mut evaluate = command("nix-instantiate", true);
    evaluate.args(["--eval", "--strict", "--json", "--expr", &expression]);
    if !read_only {
        evaluate.arg("--read-write-mode");
    }
    timed(&mut evaluate)
}

fn report(contenders: &[Contender], options: &Options, fixtures: &Fixtures) -> Result<()> {
    for contender in contenders {
        println!(
            "evaluate.{}.wall = {:.3} s",
            contender.name,
            contender.median()
        );
    }
    let median = |name: &str| {
        let found = contenders.iter().find(|contender| contender.name == name);
        found.map_or(f64::NAN, Contender::median)
    };
    for (name, of, to) in RATIOS {
        println!("evaluate.{name}.wall = {:.2} x", median(of) / median(to));
    }

    let mut table = format!(
        "Medians of {runs}, on {} cores, Nix {}, an expression of 5,000 derivations.\n\n\
         | what | wall time | to the same by Nix at `/nix/store` |\n|---|---|---|\n",
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        fixtures.nix_version,
        runs = options.runs,
    );
    for contender in contenders {
        let ratio = RATIOS.iter().find(|(_, of, _)| *of == contender.name);
        let ratio = ratio.map_or(String::new(), |(_, of, to)| {
            format!("{:.2}", median(of) / median(to))
        });
        let _ = writeln!(
            table,
            "| {} | {:.2} s | {ratio} |",
            contender.title,
            contender.median()
        );
    }
    println!("\n{table}");
    if options.write {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
        platform::docs::put(&path, "evaluate", &table)?;
    }
    Ok(())
}
