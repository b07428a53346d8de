//! Prints what was measured: a line a figure, and a table for the docs.

use crate::cases::{Case, Fixtures};
use crate::measure::{Contender, Figures, Measured};
use std::fmt::Write as _;

/// Who ours is compared with, and what the figures of that are called.
const OTHERS: [(Contender, &str); 5] = [
    (Contender::Plain, "ratio_to_plain"),
    (Contender::Moved, "ratio_to_moved"),
    (Contender::NixCopy, "ratio_to_copy"),
    (Contender::Realise, "ratio_to_realise"),
    (Contender::Floor, "ratio_to_floor"),
];

impl Measured {
    fn of(&self, contender: Contender) -> Figures {
        let found = self.contenders.iter().find(|(who, _)| *who == contender);
        found.map(|(_, figures)| *figures).unwrap_or_default()
    }
}

impl Figures {
    fn cpu(&self) -> f64 {
        self.user + self.sys
    }
}

/// `figure = value unit` lines.
pub(crate) fn print(measured: &Measured) {
    let case = measured.name;
    println!("fetch.{case}.paths = {} paths", measured.paths);
    println!("fetch.{case}.bytes = {} bytes", measured.bytes);
    for (contender, figures) in &measured.contenders {
        let who = contender.name();
        println!("fetch.{case}.{who}.wall = {:.3} s", figures.wall);
        println!("fetch.{case}.{who}.user = {:.3} s", figures.user);
        println!("fetch.{case}.{who}.sys = {:.3} s", figures.sys);
        // The floor holds everything in memory.
        if *contender != Contender::Floor {
            println!(
                "fetch.{case}.{who}.peak = {:.0} MiB",
                mebibytes(figures.peak)
            );
        }
    }
    let ours = measured.of(Contender::Ours);
    for (contender, name) in OTHERS {
        let other = measured.of(contender);
        println!("fetch.{case}.{name}.wall = {:.2} x", ours.wall / other.wall);
        println!(
            "fetch.{case}.{name}.cpu = {:.2} x",
            ours.cpu() / other.cpu()
        );
    }
}

/// The table, in Markdown.
pub(crate) fn table(results: &[Measured], fixtures: &Fixtures, runs: usize) -> String {
    let big = &fixtures.big;
    let mut text = format!(
        "Medians, on {} cores. The big closure: {} store paths, {:.2} GB of NARs, {} files. \
         Nix {}. Each cell: wall time, CPU time, peak memory; then ours as a ratio of the wall time \
         (to `nix copy` also of the CPU time). Ours looks for references, as a build does by default; \
         the last column has wall and CPU time where they are rewritten, as ratios to unpacking without a search.\n\n\
         | case | runs | downloaded | ours | `nix copy` | `nix-store --realise` | floor | to copy | to realise | to floor | relocated |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        big.paths,
        gigabytes(big.nar_bytes),
        big.files,
        fixtures.nix_version,
    );
    for measured in results {
        let ours = measured.of(Contender::Ours);
        let [plain, moved, copy, realise, floor] =
            OTHERS.map(|(contender, _)| measured.of(contender));
        let _ = writeln!(
            text,
            "| {} | {runs} | {:.0} MB | {} | {} | {} | {:.2} s, {:.2} s | {:.2}, CPU {:.2} | {:.2} | {:.2} | {:.2}, CPU {:.2} |",
            measured.title,
            gigabytes(measured.bytes) * 1000.0,
            cell(ours),
            cell(copy),
            cell(realise),
            floor.wall,
            floor.cpu(),
            ours.wall / copy.wall,
            ours.cpu() / copy.cpu(),
            ours.wall / realise.wall,
            ours.wall / floor.wall,
            moved.wall / plain.wall,
            moved.cpu() / plain.cpu(),
        );
    }
    text
}

/// `table`, and of the cases that it lacks the rows that `page` has.
pub(crate) fn with_rows_of(table: &str, page: &str, all: &[Case]) -> String {
    let row = |text: &str, case: &Case| {
        let start = format!("| {} |", case.title);
        let mut lines = text.lines();
        let found = lines.find(|line| line.starts_with(&start));
        found.map(|line| format!("{line}\n"))
    };
    let heading = table.split_inclusive('\n').take(4);
    let rows = all.iter();
    let rows = rows.filter_map(|case| row(table, case).or_else(|| row(page, case)));
    heading.map(str::to_string).chain(rows).collect()
}

fn cell(figures: Figures) -> String {
    let peak = mebibytes(figures.peak);
    format!(
        "{:.2} s, {:.2} s, {peak:.0} MiB",
        figures.wall,
        figures.cpu()
    )
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}
