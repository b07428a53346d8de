//! Puts what a bench or a test has found out into a page of the docs, between two marks.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Replaces what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` in the file `page`.
///
/// # Errors
/// When the page cannot be read or written, or has no such marks.
pub fn put(page: &Path, name: &str, text: &str) -> Result<()> {
    let [begin, end] = ["begin", "end"].map(|place| format!("<!-- {name}:{place} -->"));
    let missing = |mark: &str| format!("{} has no {mark}", page.display());
    let old = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let (before, rest) = old.split_once(&begin).with_context(|| missing(&begin))?;
    let (_, after) = rest.split_once(&end).with_context(|| missing(&end))?;
    fs::write(page, format!("{before}{begin}\n{text}{end}{after}"))?;
    Ok(())
}
