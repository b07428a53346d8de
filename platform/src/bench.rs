//! What a bench is told: how often, which of its cases, and whether what it finds goes on record.

use anyhow::{Context, Result, bail, ensure};
use std::fmt;

/// What a bench can be told: `[--runs N] [--write] [CASE…]`, or some of that.
#[derive(Clone, Copy, Debug)]
pub struct Takes {
    /// How often it measures unless it is told; where it cannot be told, none.
    pub runs: Option<usize>,
    /// Whether it has a table for the docs.
    pub write: bool,
    pub cases: &'static [&'static str],
}

/// What stands on a bench's command line.
#[derive(Debug)]
pub struct Options {
    /// How often each contender is measured.
    pub runs: usize,
    /// Whether the table goes into the docs.
    pub write: bool,
    cases: Vec<String>,
}

impl Options {
    /// Reads `arguments` to a bench that takes these. Answers none where Cargo only tests whether the
    /// bench starts: then it does not say `--bench`.
    ///
    /// # Errors
    /// When there is another argument, or `--runs` has no number above 0.
    pub fn read(arguments: &[impl AsRef<str>], takes: Takes) -> Result<Option<Self>> {
        let mut options = Self {
            runs: takes.runs.unwrap_or(1),
            write: false,
            cases: Vec::new(),
        };
        let mut rest = arguments.iter().map(AsRef::as_ref);
        if !rest.clone().any(|argument| argument == "--bench") {
            return Ok(None);
        }
        while let Some(argument) = rest.next() {
            match argument {
                "--runs" if takes.runs.is_some() => {
                    let number = rest.next().and_then(|number| number.parse().ok());
                    options.runs = number.context("--runs needs a number")?;
                }
                "--write" if takes.write => options.write = true,
                "--bench" => {}
                case if takes.cases.contains(&case) => options.cases.push(case.to_string()),
                other => bail!("{other} is not known; there are: {takes}"),
            }
        }
        ensure!(options.runs > 0, "--runs needs at least 1");
        Ok(Some(options))
    }

    /// Whether `case` is to be measured: it was named, or none was.
    pub fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|wanted| wanted == case)
    }
}

impl fmt::Display for Takes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.runs.map(|_| "--runs N");
        let write = self.write.then_some("--write");
        let words = runs.into_iter().chain(write);
        let words: Vec<&str> = words.chain(self.cases.iter().copied()).collect();
        formatter.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bench_measures_what_it_is_told_to() {
        let takes = Takes {
            runs: Some(3),
            write: true,
            cases: &["xz", "zstd"],
        };
        let read = |arguments: &[&str]| Options::read(arguments, takes);
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

    #[test]
    fn a_bench_refuses_what_it_would_not_heed() {
        let takes = Takes {
            runs: None,
            write: false,
            cases: &["many"],
        };
        for wrong in [&["--bench", "--runs", "2"][..], &["--bench", "--write"]] {
            let error = Options::read(wrong, takes).unwrap_err().to_string();
            let told = format!("{} is not known; there are: many", wrong[1]);
            assert_eq!(error, told);
        }
        assert!(Options::read(&["--bench", "many"], takes).is_ok());
    }
}
