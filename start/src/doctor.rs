//! Finds faults of an image where it runs: missing parts of the closure, engines that do not work, and
//! missing programs, certificates, locales and space.
//!
//! It changes nothing, and sees the same as a command that is started in the same way.

mod checks;
mod facts;
mod members;
mod remains;

use crate::closure;
use crate::image::Found;
use facts::Fact;
use std::env;
use std::fmt::Write as _;

/// Width of the report in letters. Details and long words may be longer.
const WIDTH: usize = 100;

/// Where the findings begin.
const INDENT: usize = 27;

/// How many things of a kind are named; the rest are counted.
const NAMED: usize = 5;

/// The result of an examination.
#[derive(Debug)]
pub(crate) struct Examination {
    roots: Vec<String>,
    /// Names and values.
    labels: Vec<(String, String)>,
    /// By name, the most important first.
    checks: Vec<(&'static str, Check)>,
    facts: Vec<Fact>,
}

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    /// Some apps do not work with it.
    Warning,
    /// No command runs, or what was deployed is not all there.
    Problem,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What was found by looking at one thing.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    state: State,
    finding: String,
    /// More of it, a line each.
    details: Vec<String>,
    /// What to do about it.
    cure: Option<String>,
}

impl Check {
    fn ok(finding: impl Into<String>) -> Self {
        Self {
            state: State::Ok,
            finding: finding.into(),
            details: Vec::new(),
            cure: None,
        }
    }

    fn warning(finding: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            state: State::Warning,
            cure: Some(cure.into()),
            ..Self::ok(finding)
        }
    }

    fn problem(finding: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            state: State::Problem,
            ..Self::warning(finding, cure)
        }
    }

    fn with_details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }
}

/// Looks at everything; with `thorough`, also at what is in the files of a relocated closure.
pub(crate) fn examine(found: &Found, thorough: bool) -> Examination {
    let roots = found.image.roots.iter();
    Examination {
        roots: roots.map(|root| root.display().to_string()).collect(),
        labels: found.labels(),
        checks: checks::all(found, thorough),
        facts: facts::all(|name| env::var_os(name)),
    }
}

impl Examination {
    /// Whether commands run, and all is there.
    pub(crate) fn is_well(&self) -> bool {
        self.count(State::Problem) == 0
    }

    fn count(&self, state: State) -> usize {
        let alike = self.checks.iter().filter(|(_, check)| check.state == state);
        alike.count()
    }

    /// The whole report.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("nix-hydra {}. Deployed:\n\n", env!("CARGO_PKG_VERSION"));
        for root in &self.roots {
            line(&mut text, "", "", root);
        }
        for (name, value) in &self.labels {
            let name = name.rsplit('.').next().unwrap_or(name);
            line(&mut text, "", name, value);
        }
        text.push('\n');
        for (name, check) in &self.checks {
            line(&mut text, check.state.name(), name, &check.finding);
            for detail in &check.details {
                let _ = writeln!(text, "{:1$}{detail}", "", INDENT + 2);
            }
            if let Some(cure) = &check.cure {
                line(&mut text, "", "", &format!("→ {cure}"));
            }
        }
        text.push_str("\nWhere this runs:\n\n");
        for Fact { name, value } in &self.facts {
            line(&mut text, "", name, value);
        }
        let problems = words::count(self.count(State::Problem), "problem");
        let warnings = words::count(self.count(State::Warning), "warning");
        let _ = writeln!(text, "\n{problems}, {warnings}.");
        text
    }

    /// The same as JSON, a check and a fact a line.
    pub(crate) fn json(&self) -> String {
        let checks: Vec<String> = self
            .checks
            .iter()
            .map(|(name, check)| {
                let details: Vec<String> = check.details.iter().map(|text| quoted(text)).collect();
                format!(
                    "{{\"name\":{},\"state\":{},\"finding\":{},\"details\":[{}],\"cure\":{}}}",
                    quoted(name),
                    quoted(check.state.name()),
                    quoted(&check.finding),
                    details.join(","),
                    check.cure.as_deref().map_or("null".to_string(), quoted)
                )
            })
            .collect();
        let facts: Vec<String> = self
            .facts
            .iter()
            .map(|fact| format!("{}:{}", quoted(fact.name), quoted(&fact.value)))
            .collect();
        let roots: Vec<String> = self.roots.iter().map(|root| quoted(root)).collect();
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|(name, value)| format!("{}:{}", quoted(name), quoted(value)))
            .collect();
        format!(
            "{{\"version\":{},\"well\":{},\"roots\":[{}],\n\"labels\":{{{}}},\n\"checks\":[\n{}\n],\n\"facts\":{{\n{}\n}}}}\n",
            quoted(env!("CARGO_PKG_VERSION")),
            self.is_well(),
            roots.join(","),
            labels.join(","),
            checks.join(",\n"),
            facts.join(",\n")
        )
    }
}

/// Writes a line, broken between words where it is long.
fn line(text: &mut String, state: &str, name: &str, rest: &str) {
    let _ = write!(text, "{state:<8}  {name:<16}");
    let mut at = INDENT - 1;
    for (place, word) in rest.split(' ').enumerate() {
        let length = word.chars().count();
        if place > 0 && at + 1 + length > WIDTH {
            let _ = write!(text, "\n{:1$}", "", INDENT + 2);
            at = INDENT + 2;
        } else {
            text.push(' ');
            at += 1;
        }
        text.push_str(word);
        at += length;
    }
    text.push('\n');
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            control if control < ' ' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// A member's full store path.
fn full(member: &closure::Member) -> String {
    format!("/nix/store/{}", member.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examination() -> Examination {
        let engines = vec!["namespace  works".to_string(), "proot      works".into()];
        Examination {
            roots: vec!["/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp".into()],
            labels: vec![(
                "org.opencontainers.image.url".into(),
                "https://hydra.acme.net/build/10".into(),
            )],
            checks: vec![
                (
                    "engine",
                    Check::ok("commands are run by namespace").with_details(engines),
                ),
                (
                    "shell",
                    Check::warning("there is \"none\"", ["Add bash"; 12].join(" ")),
                ),
                ("closure", Check::problem("it is gone", "Start again")),
            ],
            facts: vec![Fact {
                name: "user",
                value: "1000 (heroku)".into(),
            }],
        }
    }

    #[test]
    fn an_examination_reads_as_a_table_and_as_json() {
        let examination = examination();
        assert!(!examination.is_well());
        insta::assert_snapshot!(format!("{}\n{}", examination.text(), examination.json()));
    }

    #[test]
    fn letters_that_json_keeps_for_itself_are_escaped() {
        assert_eq!(quoted("a\"b\\c\n\u{1}→"), "\"a\\\"b\\\\c\\n\\u0001→\"");
    }
}
