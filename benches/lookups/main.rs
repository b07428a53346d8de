//! Bench of look-ups: what it costs that a closure is in many layers, against one layer for all.
//!
//! All arrangements are of the same closure and the same start program, and take turns; what counts is
//! the ratios. All runs on one core, since a path call under `PRoot` costs up to eight
//! times as much where it and the app land on two.

use anyhow::{Context, Result, ensure};
use nix_hydra_start::image::{FILE, Image as Description};
use platform::bench::{Options, Takes};
use platform::fixtures::{self, Fixtures};
use platform::image::Image;
use platform::lifecycle::Build;
use platform::process::Launch;
use platform::server::Server;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How often each arrangement is measured, unless `--runs` says otherwise.
const TAKES: Takes = Takes {
    runs: Some(12),
    write: true,
    cases: &[],
};

/// How many files of each kind are looked up, and how deep in their store paths they are.
const FILES: usize = 8;
const DEPTH: usize = 3;

/// How many processes are started one after the other in a turn.
const STARTS: usize = 4;

/// How many store paths the largest closure has that is mounted.
const MANY: usize = 300;

const LAYERS: &str = "/layers/nix_hydra";
const STORE: &str = "/nix/store";

/// Under `PRoot`: how the store paths come to `/nix/store`.
const ARRANGEMENTS: [(&str, Arrangement); 4] = [
    ("one layer", Arrangement::OneLayer),
    ("ours", Arrangement::Ours),
    ("links alone", Arrangement::Links),
    ("a binding for each path", Arrangement::Bindings),
];

/// What is measured under `PRoot`, in the order of the table.
const ROWS: [&str; 6] = [
    "`stat` in a path that ours binds, µs",
    "`open` and `close` in such a path, µs",
    "`stat` behind a link, µs",
    "`open` and `close` behind a link, µs",
    "Ruby with four libraries, ms of CPU",
    "Perl with four modules, ms of CPU",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrangement {
    OneLayer,
    /// Links, and bindings for roots and large paths.
    Ours,
    Links,
    Bindings,
}

/// The closure of programs, with another closure layer for each arrangement.
struct Bench {
    rootfs: PathBuf,
    /// The image that was built.
    image: Image,
    /// Where the links of the closure layer lead, by base names.
    links: BTreeMap<String, PathBuf>,
    programs: String,
}

/// Figures by the row, then by the column, one of each turn.
type Figures = BTreeMap<&'static str, BTreeMap<&'static str, Vec<f64>>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(Options { runs, write, .. }) = Options::read(&arguments, TAKES)? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let bench = Bench::new(directory.path())?;
    let bound = bench.description()?.bound;
    let bound: BTreeSet<String> = bound.iter().filter_map(|path| base_name(path)).collect();
    let (large, small): (Vec<_>, Vec<_>) = bench
        .links
        .iter()
        .partition(|(name, _)| bound.contains(*name));
    let files = [files(&large), files(&small)];
    ensure!(
        files.iter().all(|files| files.len() == FILES),
        "too few files"
    );
    let mut images = Vec::new();
    for (title, arrangement) in ARRANGEMENTS {
        images.push((title, bench.arranged(title, arrangement)?));
    }
    let counts = [("1", 1), ("ours", bench.links.len()), ("300", MANY)];
    let mut mounted = Vec::new();
    for (title, count) in counts {
        mounted.push((title, bench.mounting(count)?));
    }
    let (mut figures, mut starts) = (Figures::new(), BTreeMap::<_, Vec<f64>>::new());
    for turn in 0..runs {
        for place in 0..images.len() {
            let (title, image) = &images[(place + turn) % images.len()];
            let measured = bench.measure(image, &files).context(*title)?;
            for (row, value) in ROWS.into_iter().zip(measured) {
                let of_row = figures.entry(row).or_default();
                of_row.entry(*title).or_default().push(value);
            }
        }
        for place in 0..mounted.len() {
            let (title, image) = &mounted[(place + turn) % mounted.len()];
            let value = bench.start(image, "namespace", "true").context(*title)?;
            starts.entry(*title).or_default().push(value);
        }
    }
    let table = table(&bench, bound.len(), runs, &figures, &starts);
    println!("\n{table}");
    if write {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
        platform::docs::put(&page, "lookups", &table)?;
    }
    Ok(())
}

impl Bench {
    fn new(directory: &Path) -> Result<Self> {
        let fixtures = fixtures::read()?;
        let image = build(&fixtures, directory)?;
        let layer = image.layer_dir("closure").context("no closure layer")?;
        let mut links = BTreeMap::new();
        for entry in fs::read_dir(layer)? {
            let path = entry?.path();
            if let (Ok(target), Some(name)) = (path.read_link(), base_name(&path)) {
                let inside = target.strip_prefix(LAYERS)?.to_string_lossy();
                let (layer, _) = inside.split_once('/').context("no layer")?;
                let layer = image.layer_dir(layer).context("a layer is missing")?;
                links.insert(name.clone(), layer.join(name));
            }
        }
        let programs = fixtures.programs.context("no programs")?.store_path;
        Ok(Self {
            rootfs: fixtures.rootfs,
            image,
            links,
            programs,
        })
    }

    /// What the image says of itself.
    fn description(&self) -> Result<Description> {
        let layer = self
            .image
            .layer_dir("closure")
            .context("no closure layer")?;
        Ok(Description::parse(&fs::read_to_string(layer.join(FILE))?))
    }

    /// The image with another closure layer, which `fill` fills.
    fn with_closure(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Image> {
        let mut image = self.image.clone();
        let layer = image
            .record
            .layers
            .get_mut("closure")
            .context("no closure layer")?;
        layer.blob.digest = format!("closure-{}", name.replace(' ', "-"));
        let directory = image.layer_dir("closure").context("no closure layer")?;
        fs::create_dir(&directory)?;
        fill(&directory)?;
        Ok(image)
    }

    fn arranged(&self, title: &str, arrangement: Arrangement) -> Result<Image> {
        let mut description = self.description()?;
        match arrangement {
            Arrangement::OneLayer | Arrangement::Links => description.bound.clear(),
            Arrangement::Ours => {}
            Arrangement::Bindings => {
                description.bound = self
                    .links
                    .keys()
                    .map(|name| self.inside(name))
                    .collect::<Result<_>>()?;
            }
        }
        self.with_closure(title, |directory| {
            fs::write(directory.join(FILE), description.to_string())?;
            for (name, place) in &self.links {
                if arrangement == Arrangement::OneLayer {
                    let status = Command::new("cp")
                        .arg("-al")
                        .args([place, directory])
                        .status()?;
                    ensure!(status.success(), "cp failed");
                } else {
                    symlink(self.inside(name)?, directory.join(name))?;
                }
            }
            Ok(())
        })
    }

    /// The image as it would be with so many store paths, the root among them.
    fn mounting(&self, count: usize) -> Result<Image> {
        let mut description = self.description()?;
        description.bound.clear();
        let root = base_name(Path::new(&self.programs)).context("no root")?;
        self.with_closure(&count.to_string(), |directory| {
            fs::write(directory.join(FILE), description.to_string())?;
            symlink(self.inside(&root)?, directory.join(&root))?;
            let others = self.links.keys().filter(|name| **name != root);
            // Other names for the same, where there are not that many.
            for (number, name) in others.cycle().take(count - 1).enumerate() {
                let target = self.inside(name)?;
                symlink(target, directory.join(format!("{name}-{number}")))?;
            }
            Ok(())
        })
    }

    /// Where a store path is in the image.
    fn inside(&self, name: &str) -> Result<PathBuf> {
        let layer = self
            .image
            .layer_dir("closure")
            .context("no closure layer")?;
        Ok(layer.join(name).read_link()?)
    }

    /// One figure a row.
    fn measure(&self, image: &Image, files: &[Vec<String>; 2]) -> Result<Vec<f64>> {
        let perl = format!("{}/bin/perl", self.programs);
        let mut figures = Vec::new();
        for files in files {
            let mut command = vec![perl.as_str(), "-e", include_str!("probe.pl")];
            command.extend(files.iter().map(String::as_str));
            let output = self.launch(image, "proot", &command).run()?;
            ensure!(output.code == 0, "{}", output.stderr);
            for value in output.stdout.split_whitespace() {
                figures.push(value.parse()?);
            }
        }
        ensure!(figures.len() == 4, "perl said {figures:?}");
        let ruby = "ruby -rjson -rset -rtime -rtempfile -e 1";
        let perl = "perl -MPOSIX -MJSON -MIO::Socket -MFile::Temp -e 1";
        for program in [ruby, perl] {
            let command = format!("{}/bin/{program}", self.programs);
            figures.push(self.start(image, "proot", &command)?);
        }
        Ok(figures)
    }

    /// Milliseconds of the processor that a command takes, and what starts it: the least of some.
    fn start(&self, image: &Image, engine: &str, command: &str) -> Result<f64> {
        // Time that others have the core is none of it.
        let loops = format!(
            "TIMEFORMAT='%3U %3S'; for i in {{1..{STARTS}}}; do \
             time {LAYERS}/proot/bin/run_proot.sh {command} || exit; done 2>&1",
        );
        let launch = Launch::new(image, &self.rootfs).env("NIX_ENGINE", engine);
        let output = launch
            .command(["taskset", "-c", "0", "bash", "-c", &loops])
            .run()?;
        ensure!(output.code == 0, "{}", output.stderr);
        let times = output.stdout.lines().filter_map(|line| {
            let (user, system) = line.split_once(' ')?;
            Some(user.parse::<f64>().ok()? + system.parse::<f64>().ok()?)
        });
        Ok(times.fold(f64::INFINITY, f64::min) * 1e3)
    }

    fn launch(&self, image: &Image, engine: &str, command: &[&str]) -> Launch {
        let start = format!("{LAYERS}/proot/bin/run_proot.sh");
        let all = ["taskset", "-c", "0", &start];
        let all = all.iter().chain(command).map(ToString::to_string);
        Launch::new(image, &self.rootfs)
            .env("NIX_ENGINE", engine)
            .command(all)
    }
}

/// Builds an image of the closure of programs.
fn build(fixtures: &Fixtures, directory: &Path) -> Result<Image> {
    let programs = fixtures.programs.as_ref();
    let programs = programs.context("no programs: run this by script/bench lookups")?;
    let buildpack = std::env::var_os("NIX_HYDRA_BUILDPACK")
        .context("NIX_HYDRA_BUILDPACK is not set: run this by script/bench lookups")?;
    let (cache, tools) = (Server::start(&programs.cache)?, Server::start("/")?);
    let proot = tools.url().trim_end_matches('/').to_string() + &fixtures.proot.to_string_lossy();
    let app = &fixtures.apps["static"].dir;
    let outcome = Build::new(&fixtures.rootfs, buildpack, app, directory)
        .env("NIX_EXTRA_BINARY_CACHE", cache.url())
        .env("NIX_DEFAULT_BINARY_CACHE", "")
        .env("NIX_TRUSTED_PUBLIC_KEYS", &fixtures.public_key)
        .env("NIX_STORE_PATH", &programs.store_path)
        .env("NIX_ENGINE", "proot")
        .env("NIX_PROOT_URL", proot)
        .env("NIX_PROOT_SHA256", &fixtures.proot_sha256)
        .run()?;
    outcome.image.with_context(|| outcome.log.clone())
}

/// A file of each of some store paths, as deep in it as any other.
fn files(links: &[(&String, &PathBuf)]) -> Vec<String> {
    let found = links.iter().filter_map(|(name, place)| {
        let file = file_at(place, DEPTH)?;
        let file = file.strip_prefix(place).ok()?.to_string_lossy();
        Some(format!("{STORE}/{name}/{file}"))
    });
    found.take(FILES).collect()
}

/// The first file so many directories below `directory`.
fn file_at(directory: &Path, depth: usize) -> Option<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    paths.into_iter().find_map(|path| {
        let kind = path.symlink_metadata().ok()?.file_type();
        match depth {
            0 => kind.is_file().then_some(path),
            _ if kind.is_dir() => file_at(&path, depth - 1),
            _ => None,
        }
    })
}

fn base_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// What others did in between is none of it.
fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The least of all turns, each with how often it is the first column's; also printed, a line a figure.
fn cells(title: &str, columns: &[&str], of_row: &BTreeMap<&'static str, Vec<f64>>) -> String {
    let none = Vec::new();
    let of = |column: &str| of_row.get(column).unwrap_or(&none);
    let mut text = String::new();
    for (place, column) in columns.iter().enumerate() {
        let value = least(of(column));
        let ratio = value / least(of(columns[0]));
        let name = format!("{title}.{column}")
            .replace([' ', ','], "_")
            .replace('`', "");
        println!("lookups.{name} = {value:.2} ({ratio:.3})");
        let _ = match place {
            0 => write!(text, " {value:.1} |"),
            _ => write!(text, " {value:.1} ({ratio:.2}) |"),
        };
    }
    text
}

/// The tables, in Markdown.
fn table(
    bench: &Bench,
    bound: usize,
    runs: usize,
    figures: &Figures,
    starts: &BTreeMap<&'static str, Vec<f64>>,
) -> String {
    let count = bench.links.len();
    let columns = ARRANGEMENTS.map(|(title, _)| title);
    let mut text = format!(
        "The least of {runs} turns, on one core; {count} store paths, of which ours binds {bound}. In \
         brackets: to the first column.\n\n| PRoot | {} |\n|---|{}\n",
        columns.join(" | "),
        "---|".repeat(columns.len()),
    );
    for row in ROWS {
        let _ = writeln!(text, "| {row} |{}", cells(row, &columns, &figures[row]));
    }
    let _ = writeln!(
        text,
        "\n| namespace, a mount for each path | 1 path | {count} paths | {MANY} paths |\n|---|---|---|---|"
    );
    let row = "`true`, ms of CPU";
    let _ = writeln!(
        text,
        "| {row} |{}",
        cells(row, &["1", "ours", "300"], starts)
    );
    text
}
