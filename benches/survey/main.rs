//! Counts the files of closures by format: how many there are, how many name store paths, and whether a
//! relocation rewrites those.
//!
//! Each argument is `NAME=FILE`: a file with the directories of a closure's store paths, a line each, as
//! `nix-store --query --requisites` prints them. It prints a table for `docs/engines.md`, whose cells have the
//! three numbers as far as they are not zero, and on standard error each file that prevents a relocation.

use anyhow::{Context, Result};
use closure::relocate::archives::{MAX_LOOK, look_into};
use closure::relocate::blocker::BlockerReason;
use closure::relocate::budget::Budget;
use closure::relocate::formats::{format_of, sealed};
use closure::relocate::references::{OVERLAP, ReferenceScanner, ScanHits};
use nix_derivation::StorePath;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use store_references::packing::{Packing, read_up_to};

/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;

/// What was counted of one format.
#[derive(Clone, Copy, Default)]
struct Count {
    files: usize,
    /// Those that name store paths of the closure.
    referring: usize,
    /// Those of them that a relocation does not rewrite.
    preventing: usize,
}

/// By format, then a count for each closure.
type Counts = BTreeMap<String, Vec<Count>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let closures: Vec<(&str, &str)> = arguments
        .iter()
        .filter_map(|argument| argument.split_once('='))
        .collect();
    let mut counts = Counts::new();
    for (column, (name, file)) in closures.iter().enumerate() {
        let text = fs::read_to_string(file).with_context(|| (*file).to_string())?;
        let places: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
        let paths: Vec<StorePath> = places.iter().filter_map(|place| path_of(place)).collect();
        let references = ReferenceScanner::new(&paths, None);
        let mut add = |format: String, one: Count| {
            let columns = counts.entry(format).or_default();
            columns.resize(closures.len(), Count::default());
            let count = &mut columns[column];
            count.files += one.files;
            count.referring += one.referring;
            count.preventing += one.preventing;
        };
        for place in &places {
            survey(place, &references, &Budget::new(MAX_LOOK), &mut add)
                .with_context(|| format!("{name}: {}", place.display()))?;
        }
    }
    let names: Vec<&str> = closures.iter().map(|(name, _)| *name).collect();
    print!("{}", table(&names, &counts));
    Ok(())
}

/// The store path that is in this directory.
fn path_of(place: &Path) -> Option<StorePath> {
    StorePath::from_basename(place.file_name()?.as_bytes()).ok()
}

/// Looks at what is at `place` and below.
fn survey(
    place: &Path,
    references: &ReferenceScanner,
    budget: &Budget,
    add: &mut impl FnMut(String, Count),
) -> Result<()> {
    let metadata = place.symlink_metadata()?;
    if metadata.is_dir() {
        for entry in fs::read_dir(place)? {
            survey(&entry?.path(), references, budget, add)?;
        }
    } else if metadata.is_file() {
        let (format, prevents, refers) = look_at(place, references, budget)?;
        if refers && prevents {
            eprintln!("{format}: {}", place.display());
        }
        let one = Count {
            files: 1,
            referring: usize::from(refers),
            preventing: usize::from(refers && prevents),
        };
        add(format, one);
    }
    Ok(())
}

/// The format of a file, whether a reference in it prevents a relocation, and whether it has any.
fn look_at(
    place: &Path,
    references: &ReferenceScanner,
    budget: &Budget,
) -> Result<(String, bool, bool)> {
    let mut file = File::open(place)?;
    let mut head = [0; 512];
    let length = read_up_to(&mut file, &mut head)?;
    let head = &head[..length];
    file.rewind()?;
    let plain = hits(&mut file, references)?;
    let refers = !plain.hashes.is_empty() || plain.wide;
    if let Some(name) = sealed(head) {
        return Ok((name.to_string(), true, true));
    }
    let name = place.file_name().unwrap_or_default().as_bytes();
    if let Some(packing) = Packing::of_file(name, head) {
        let inside = look_into(place, packing, references, budget)?;
        let refers = refers || !inside.hashes.is_empty();
        return Ok((packing.name().to_string(), inside.blocker.is_some(), refers));
    }
    let prevents = plain.bare || plain.wide;
    Ok(match format_of(place)?.checked() {
        Ok(name) => (name.to_string(), prevents, refers),
        Err(BlockerReason::Format(name)) => (name, true, refers),
        Err(_) => ("unknown".to_string(), true, refers),
    })
}

/// What a file names, as it is.
fn hits(file: &mut File, references: &ReferenceScanner) -> Result<ScanHits> {
    let mut hits = ScanHits::default();
    let mut buffer = vec![0; PIECE + OVERLAP];
    let mut held = 0;
    loop {
        let count = file.read(&mut buffer[held..])?;
        if count == 0 {
            return Ok(hits);
        }
        let end = held + count;
        references.look(&buffer[..end], held, &mut hits);
        held = end.min(OVERLAP);
        buffer.copy_within(end - held..end, 0);
    }
}

/// The table, in Markdown; the formats that most files with store paths have come first.
fn table(names: &[&str], counts: &Counts) -> String {
    let mut lines = vec![
        format!("| format | {} |", names.join(" | ")),
        format!("|---|{}", "---|".repeat(names.len())),
    ];
    let mut rows: Vec<_> = counts.iter().collect();
    rows.sort_by_key(|(_, columns)| {
        let sum = |of: fn(&Count) -> usize| columns.iter().map(of).sum::<usize>();
        Reverse((sum(|count| count.referring), sum(|count| count.files)))
    });
    for (format, columns) in rows {
        let cells: Vec<String> = columns.iter().map(Count::cell).collect();
        lines.push(format!("| {format} | {} |", cells.join(" | ")));
    }
    lines.join("\n") + "\n"
}

impl Count {
    fn cell(&self) -> String {
        match (self.files, self.referring, self.preventing) {
            (0, ..) => String::new(),
            (files, 0, _) => files.to_string(),
            (files, referring, 0) => format!("{files}, {referring}"),
            (files, referring, preventing) => format!("{files}, {referring}, {preventing}"),
        }
    }
}
