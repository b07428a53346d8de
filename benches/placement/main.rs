//! Bench of placements: what moves, and what two apps share, with ours and with other ways to group.
//!
//! Nothing is downloaded: the big closure's graph and sizes are all that decides. Each path in turn is
//! the one that changes, with all that depends on it; what moves are the layers that have one of these.

use anyhow::{Context, Result, anyhow};
use binary_cache::Caches;
use binary_cache::TrustSettings;
use closure::Closure;
use closure::place::{MAX_LAYERS, Placement};
use closure::plan::Previous;
use http_client::Http;
use nix_derivation::StorePath;
use platform::bench::{Options, Takes};
use platform::fixtures;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const TAKES: Takes = Takes {
    runs: None,
    write: true,
    cases: &[],
};

/// Pairs of apps that are compared.
const PAIRS: u64 = 60;

/// The library whose change has a column of its own.
const LIBRARY: &str = "libpng16-16-";

/// `big.json`, as far as it is needed here.
#[derive(Deserialize)]
struct Big {
    root: String,
    caches: BTreeMap<String, PathBuf>,
}

type Layers = Vec<BTreeSet<StorePath>>;

/// A way to place a closure.
struct Way {
    name: &'static str,
    title: &'static str,
    place: fn(&Closure) -> Layers,
}

const WAYS: [Way; 6] = [
    Way {
        name: "ours",
        title: "this one: the largest 30 or so alone, the rest in groups that change together",
        place: ours,
    },
    Way {
        name: "common_roots",
        title: "the same alone, the rest with those that the same of the app's references need",
        place: by_common_roots,
    },
    Way {
        name: "names",
        title: "the largest 40 alone, the rest in 20 by name without version",
        place: by_name,
    },
    Way {
        name: "popularity",
        title: "the 61 with the most dependents, times size, alone, the rest in one (Nixery)",
        place: by_popularity,
    },
    Way {
        name: "largest",
        title: "the largest 61 alone, the rest in one",
        place: by_size,
    },
    Way {
        name: "one",
        title: "one layer for all",
        place: |closure| vec![closure.paths.keys().cloned().collect()],
    },
];

/// What a way to place comes to.
struct Figures {
    in_sum: f64,
    in_the_median: f64,
    library: f64,
    shared: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(options) = Options::read(&arguments, TAKES)? else {
        return Ok(());
    };
    let closure = big()?;
    let pairs = pairs(&closure)?;
    let in_both: Vec<f64> = pairs.iter().map(common).collect();
    let in_both = mean(&in_both);
    println!("placement.paths = {} paths", closure.paths.len());
    println!("placement.in_both = {in_both:.2} x");
    let mut table = format!(
        "{} paths; {PAIRS} pairs of apps, of which {:.0} % of the bytes are in both.\n\n\
         | placement | in sum | in the median | `libpng` | shared |\n|---|---|---|---|---|\n",
        closure.paths.len(),
        in_both * 100.0
    );
    for way in WAYS {
        let figures = way.figures(&closure, &pairs)?;
        for (name, value) in [
            ("in_sum", figures.in_sum),
            ("in_the_median", figures.in_the_median),
            ("library", figures.library),
            ("shared", figures.shared),
        ] {
            println!("placement.{}.{name} = {value:.2} x", way.name);
        }
        writeln!(
            table,
            "| {} | {:.2} | {:.2} | {:.2} | {:.0} % |",
            way.title,
            figures.in_sum,
            figures.in_the_median,
            figures.library,
            figures.shared * 100.0
        )?;
    }
    println!("\n{table}");
    if options.write {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
        platform::docs::put(&page, "placement", table.trim_end())?;
    }
    Ok(())
}

/// The big closure, as its binary cache describes it.
fn big() -> Result<Closure> {
    let file = fixtures::path().with_file_name("big.json");
    let text = std::fs::read(&file).context("run script/setup big")?;
    let big: Big = serde_json::from_slice(&text)?;
    let cache = big.caches.get("none").context("big.json names no cache")?;
    let url = format!("file://{}", cache.display());
    let url = url.parse().map_err(|error| anyhow!("{url}: {error:?}"))?;
    let trust = TrustSettings {
        keys: Vec::new(),
        required: false,
    };
    let caches = Caches::open(&[url], trust, &Http::new(), &hydra::sign_in);
    closure::plan::plan(
        &caches,
        &[big.root.parse()?],
        &Previous::default(),
        |_, _| {},
    )
    .map_err(|misses| anyhow!("{misses:?}"))
}

impl Way {
    fn figures(&self, closure: &Closure, pairs: &[[Closure; 2]]) -> Result<Figures> {
        let layers = (self.place)(closure);
        anyhow::ensure!(layers.len() <= MAX_LAYERS, "{} has too many", self.name);
        let placed: usize = layers.iter().map(BTreeSet::len).sum();
        anyhow::ensure!(placed == closure.paths.len(), "{} loses some", self.name);
        let sizes: Vec<u64> = layers.iter().map(|layer| size(closure, layer)).collect();
        let dependents = dependents(closure);
        let (mut moved, mut least, mut ratios, mut library) = (0, 0, Vec::new(), 0.0);
        for (path, changed) in &dependents {
            let touched = layers.iter().zip(&sizes);
            let touched = touched.filter(|(layer, _)| !layer.is_disjoint(changed));
            let with_them: u64 = touched.map(|(_, size)| size).sum();
            let must = size(closure, changed);
            moved += with_them;
            least += must;
            let times = ratio(with_them, must);
            if path.name().starts_with(LIBRARY) {
                library = times;
            }
            ratios.push(times);
        }
        ratios.sort_by(f64::total_cmp);
        let shared: Vec<f64> = pairs
            .iter()
            .map(|[one, other]| {
                let first: BTreeSet<_> = (self.place)(one).into_iter().collect();
                let second = (self.place)(other).into_iter();
                let same = second.filter(|layer| first.contains(layer));
                let same: u64 = same.map(|layer| size(other, &layer)).sum();
                ratio(same, other.nar_size())
            })
            .collect();
        Ok(Figures {
            in_sum: ratio(moved, least),
            in_the_median: ratios[ratios.len() / 2],
            library,
            shared: mean(&shared),
        })
    }
}

/// Each path, and all that changes with it.
fn dependents(closure: &Closure) -> BTreeMap<StorePath, BTreeSet<StorePath>> {
    let mut all: BTreeMap<StorePath, BTreeSet<StorePath>> = BTreeMap::new();
    for path in closure.paths.keys() {
        for other in reached(closure, [path]) {
            all.entry(other).or_default().insert(path.clone());
        }
    }
    all
}

/// What `roots` need, themselves included.
fn reached<'a>(
    closure: &'a Closure,
    roots: impl IntoIterator<Item = &'a StorePath>,
) -> BTreeSet<StorePath> {
    let mut met: BTreeSet<StorePath> = BTreeSet::new();
    let mut waiting: Vec<&StorePath> = roots.into_iter().collect();
    while let Some(path) = waiting.pop() {
        if met.insert(path.clone())
            && let Some(info) = closure.paths.get(path)
        {
            waiting.extend(&info.references);
        }
    }
    met
}

/// Pairs of apps: each is the closure without one to three of what its root refers to.
fn pairs(closure: &Closure) -> Result<Vec<[Closure; 2]>> {
    let mut seed: u64 = 1;
    let mut below = move |limit: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap_or(0) % limit
    };
    let mut app = |letter: &str| -> Result<Closure> {
        let root = &closure.roots[0];
        let mut info = closure.paths[root].clone();
        info.references.remove(root);
        for _ in 0..=below(3) {
            let at = below(info.references.len());
            let gone = info.references.iter().nth(at).cloned();
            gone.map(|gone| info.references.remove(&gone));
        }
        let base_name = format!("{}-{}", letter.repeat(32), root.name());
        let own = StorePath::from_basename(base_name.as_bytes())?;
        let mut paths = closure.paths.clone();
        let kept = reached(closure, &info.references);
        paths.retain(|path, _| kept.contains(path));
        paths.insert(own.clone(), info);
        Ok(Closure {
            roots: vec![own],
            paths,
        })
    };
    (0..PAIRS).map(|_| Ok([app("0")?, app("1")?])).collect()
}

/// How much of the second app's bytes is in the first one too.
fn common([one, other]: &[Closure; 2]) -> f64 {
    let paths = other.paths.iter();
    let both = paths.filter(|(path, _)| one.paths.contains_key(*path));
    ratio(both.map(|(_, info)| info.nar_size).sum(), other.nar_size())
}

fn size(closure: &Closure, paths: &BTreeSet<StorePath>) -> u64 {
    let infos = paths.iter().filter_map(|path| closure.paths.get(path));
    infos.map(|info| info.nar_size).sum()
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn ours(closure: &Closure) -> Layers {
    Placement::of(closure).layers.into_values().collect()
}

fn by_common_roots(closure: &Closure) -> Layers {
    let own = Placement::of(closure).own;
    let mut needed_by: BTreeMap<StorePath, BTreeSet<&StorePath>> = BTreeMap::new();
    for reference in closure
        .roots
        .iter()
        .flat_map(|root| &closure.paths[root].references)
    {
        for path in reached(closure, [reference]) {
            needed_by.entry(path).or_default().insert(reference);
        }
    }
    let mut groups: BTreeMap<BTreeSet<&StorePath>, BTreeSet<StorePath>> = BTreeMap::new();
    for path in closure.paths.keys().filter(|path| !own.contains(path)) {
        let roots = needed_by.get(path).cloned().unwrap_or_default();
        groups.entry(roots).or_default().insert(path.clone());
    }
    let mut groups: Layers = groups.into_values().collect();
    groups.sort_by_key(|group| Reverse(size(closure, group)));
    let most = MAX_LAYERS - own.len() - 1;
    let rest = groups.split_off(most.min(groups.len()));
    let alone = own.into_iter().map(|path| BTreeSet::from([path]));
    let rest: BTreeSet<StorePath> = rest.into_iter().flatten().collect();
    let all = alone.chain(groups).chain([rest]);
    all.filter(|layer| !layer.is_empty()).collect()
}

fn by_name(closure: &Closure) -> Layers {
    let mut layers = alone(closure, 40, |path| closure.paths[path].nar_size);
    let rest = layers.pop().unwrap_or_default();
    let mut groups: BTreeMap<u8, BTreeSet<StorePath>> = BTreeMap::new();
    for path in rest {
        let name = path.name();
        let is_version = |part: &&str| part.starts_with(|first: char| first.is_ascii_digit());
        let parts: Vec<&str> = name
            .split('-')
            .take_while(|part| !is_version(part))
            .collect();
        let hash = Sha256::digest(parts.join("-"));
        groups.entry(hash[0] % 20).or_default().insert(path);
    }
    layers.extend(groups.into_values());
    layers
}

fn by_popularity(closure: &Closure) -> Layers {
    let dependents = dependents(closure);
    let count = |path: &StorePath| u64::try_from(dependents[path].len()).unwrap_or(u64::MAX);
    alone(closure, MAX_LAYERS - 1, |path| {
        closure.paths[path].nar_size.saturating_mul(count(path))
    })
}

fn by_size(closure: &Closure) -> Layers {
    alone(closure, MAX_LAYERS - 1, |path| closure.paths[path].nar_size)
}

/// The first `count` by `weight` alone, and the rest in one layer.
fn alone(closure: &Closure, count: usize, weight: impl Fn(&StorePath) -> u64) -> Layers {
    let mut paths: Vec<&StorePath> = closure.paths.keys().collect();
    paths.sort_by_key(|path| Reverse(weight(path)));
    let rest = paths.split_off(count.min(paths.len()));
    let alone = paths.into_iter().map(|path| BTreeSet::from([path.clone()]));
    let rest: BTreeSet<StorePath> = rest.into_iter().cloned().collect();
    alone
        .chain([rest])
        .filter(|layer| !layer.is_empty())
        .collect()
}
