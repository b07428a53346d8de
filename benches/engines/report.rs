//! Prints what was measured: a line a figure, and a table for the docs.

use crate::{Contender, Figures};
use std::fmt::Write as _;

/// The figures, in the order of the table.
const ROWS: [&str; 12] = [
    "start, ms",
    "a command by its name, ms",
    "python with its imports, ms",
    "getppid, µs",
    "stat, µs",
    "open + read + close, µs",
    "send + receive, µs",
    "python app, requests/s",
    "python files, requests/s",
    "node, requests/s",
    "nginx file, requests/s",
    "nginx page of 20 files, requests/s",
];

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn of(figures: &Figures, row: &'static str, contender: Contender) -> f64 {
    let mut values = figures.get(&(row, contender)).cloned().unwrap_or_default();
    median(&mut values)
}

/// `figure = value unit` lines.
pub(crate) fn print(figures: &Figures) {
    for row in ROWS {
        for contender in Contender::ALL {
            let (name, unit) = row.rsplit_once(", ").unwrap_or((row, ""));
            let (name, who) = (name.replace(' ', "_"), contender.name().replace(' ', "_"));
            println!(
                "engines.{who}.{name} = {:.2} {unit}",
                of(figures, row, contender)
            );
        }
    }
}

/// The table, in Markdown.
pub(crate) fn table(figures: &Figures, runs: usize) -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut text = format!("Medians of {runs}, on {cores} cores.\n\n|  |");
    for contender in Contender::ALL {
        let _ = write!(text, " {} |", contender.name());
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(Contender::ALL.len()));
    for row in ROWS {
        let _ = write!(text, "| {row} |");
        for contender in Contender::ALL {
            let value = of(figures, row, contender);
            let _ = if value < 100.0 {
                write!(text, " {value:.1} |")
            } else {
                write!(text, " {value:.0} |")
            };
        }
        text.push('\n');
    }
    text
}
