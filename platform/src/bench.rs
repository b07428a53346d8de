//! What a bench is told: how often, which of its cases, and whether what it finds goes on record.

use anyhow::{Context, Result, bail, ensure};

/// What stands on a bench's command line: `[--runs N] [--write] [CASE…]`.
#[derive(Debug)]
pub struct Options {
    /// How often each contender is measured.
    pub runs: usize,
    /// Whether the table goes into the docs.
    pub write: bool,
    cases: Vec<String>,
}

impl Options {
    /// Reads `arguments` to a bench that measures `runs` times unless told otherwise, and has `cases`.
    /// Answers none where Cargo only tests whether the bench starts: then it does not say `--bench`.
    ///
    /// # Errors
    /// When there is another argument, or `--runs` has no number above 0.
    pub fn read(arguments: &[&str], runs: usize, cases: &[&str]) -> Result<Option<Self>> {
        let mut options = Self {
            runs,
            write: false,
            cases: Vec::new(),
        };
        if !arguments.contains(&"--bench") {
            return Ok(None);
        }
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match *argument {
                "--runs" => {
                    let number = rest.next().and_then(|number| number.parse().ok());
                    options.runs = number.context("--runs needs a number")?;
                }
                "--write" => options.write = true,
                "--bench" => {}
                case if cases.contains(&case) => options.cases.push(case.to_string()),
                other => bail!(
                    "{other} is not known; there are --runs N, --write{}{}",
                    if cases.is_empty() {
                        ""
                    } else {
                        " and the cases "
                    },
                    cases.join(", ")
                ),
            }
        }
        ensure!(options.runs > 0, "--runs needs at least 1");
        Ok(Some(options))
    }

    /// Whether `case` is to be measured: it was named, or none was.
    #[must_use]
    pub fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|wanted| wanted == case)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_bench_measures_what_it_is_told_to() {
        let read = |arguments: &[&str]| Options::read(arguments, 3, &["xz", "zstd"]);
        assert!(read(&[]).unwrap().is_none());
        let all = read(&["--bench"]).unwrap().unwrap();
        assert_eq!((all.runs, all.write), (3, false));
        assert!(all.wants("xz") && all.wants("zstd"));
        let one = read(&["--runs", "5", "xz", "--write", "--bench"]);
        let one = one.unwrap().unwrap();
        assert_eq!((one.runs, one.write), (5, true));
        assert!(one.wants("xz") && !one.wants("zstd"));
        for wrong in [
            &["--bench", "--runs", "0"][..],
            &["--bench", "--runs", "xz"],
            &["--bench", "--runs"],
            &["--bench", "lzma"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
