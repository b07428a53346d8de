//! Bench of the download of a closure: ours beside `nix copy`, `nix-store --realise` and the floor.
//!
//! Every figure is of a whole child process, and the contenders take turns, so that whatever else
//! the machine does falls on all of them alike. The program starts itself for its own parts.

mod cases;
mod floor;
mod measure;
mod ours;
mod proxy;
mod report;
mod servers;

use anyhow::{Context, Result};
use platform::bench::{Options, Takes};
use std::path::Path;
use std::process::Command;

/// How often each contender runs a case, unless `--runs` says otherwise.
const TAKES: Takes = Takes {
    runs: Some(6),
    write: true,
    cases: &cases::NAMES,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["ours", how, url, key, root, store] => ours::run(how, url, key, root, Path::new(store)),
        ["floor", cache, root, store] => floor::run(Path::new(cache), root, Path::new(store)),
        ["proxy", upstream, latency] => proxy::run(upstream, latency.parse()?),
        _ => Options::read(&arguments, TAKES)?.map_or(Ok(()), |options| bench(&options)),
    }
}

/// Has ext4 put the directories made in this one far from each other, as those of different owners.
///
/// Without a journal it searches long for a new inode where others were freed in the last minutes:
/// two seconds for 2,000 files. So no run may delete what another is measured after, and this
/// keeps them away from what was deleted before. Other file systems have no such attribute.
fn keep_apart(directory: &Path) {
    let _ = Command::new("chattr").arg("+T").arg(directory).output();
}

fn bench(options: &Options) -> Result<()> {
    let fixtures = cases::Fixtures::read()?;
    let cases = fixtures.cases()?;
    let directory = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(&fixtures.directory)?;
    keep_apart(directory.path());
    let servers = servers::Servers::start(&cases, directory.path())?;
    let mut results = Vec::new();
    for case in cases.iter().filter(|case| options.wants(case.name)) {
        let result = measure::case(case, &fixtures, &servers, directory.path(), options.runs)
            .with_context(|| format!("the case {}", case.name))?;
        report::print(&result);
        results.push(result);
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let table = report::table(&results, &fixtures, options.runs);
    println!("\n{table}");
    if options.write {
        let table = report::with_rows_of(&table, &std::fs::read_to_string(&page)?, &cases);
        platform::docs::put(&page, "fetch", &table)?;
    }
    Ok(())
}
