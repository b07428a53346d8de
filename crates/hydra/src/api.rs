//! The shapes of Hydra's answers, as far as they are used.
//!
//! Source: `as_json` and `json_hint` of Hydra's `Schema::Result` classes. Which of them are numbers
//! depends on the database's driver, so numbers are also read from text.

use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// A page of `jobset/P/J/evals`, newest first. Evaluations that brought no new builds are not in it.
#[derive(Debug, Deserialize)]
pub struct Evaluations {
    pub evals: Vec<Evaluation>,
    /// The next page, as `?page=2`.
    pub next: Option<String>,
}

/// `eval/N`.
#[derive(Debug, Clone, Deserialize)]
pub struct Evaluation {
    #[serde(deserialize_with = "number")]
    pub id: u64,
    /// 0: it brought no new builds, and is in no list.
    #[serde(default, deserialize_with = "optional_number")]
    pub hasnewbuilds: Option<u64>,
    /// The locked URL of a flake's jobset.
    #[serde(default)]
    pub flake: Option<String>,
    /// By name.
    #[serde(default, rename = "jobsetevalinputs")]
    pub inputs: BTreeMap<String, Input>,
}

/// An input of an evaluation, as it was checked out.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Input {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub uri: Option<String>,
    #[serde(default)]
    pub revision: Option<String>,
}

/// The name under which the flake itself counts as an input.
const FLAKE: &str = "flake";

/// An input of an evaluation, and the revision that it has there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InputRevision {
    pub input: String,
    pub revision: String,
}

/// `build/N`.
#[derive(Debug, Clone, Deserialize)]
pub struct Build {
    #[serde(deserialize_with = "number")]
    pub id: u64,
    #[serde(deserialize_with = "number")]
    pub finished: u64,
    /// Null as long as it is not finished.
    #[serde(default, deserialize_with = "optional_number")]
    pub buildstatus: Option<u64>,
    pub project: String,
    pub jobset: String,
    pub job: String,
    pub nixname: Option<String>,
    pub system: String,
    /// Null in some lists.
    #[serde(default)]
    pub drvpath: Option<String>,
    /// When it was queued, in seconds of Unix time.
    #[serde(default, deserialize_with = "optional_number")]
    pub timestamp: Option<u64>,
    /// The numbers of the evaluations that it is part of.
    #[serde(default)]
    pub jobsetevals: Vec<u64>,
    /// By name.
    #[serde(default, rename = "buildoutputs")]
    pub outputs: BTreeMap<String, Output>,
}

/// An output of a build.
#[derive(Debug, Clone, Deserialize)]
pub struct Output {
    /// Null while it is not known, as with content-addressed derivations.
    pub path: Option<String>,
}

/// `build/N/step/M`, which Hydras have since 2026.
#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    pub drvpath: Option<String>,
    pub machine: Option<String>,
    #[serde(default, deserialize_with = "optional_number")]
    pub starttime: Option<u64>,
}

/// `jobset/P/J`, and `jobset/P/J/errors`, which has `errormsg` as well.
#[derive(Debug, Clone, Deserialize)]
pub struct Jobset {
    /// Its present name, which a renamed jobset's old name leads to.
    #[serde(default)]
    pub name: Option<String>,
    /// 0: it is never evaluated.
    #[serde(default, deserialize_with = "optional_number")]
    pub enabled: Option<u64>,
    /// When Hydra last looked for changes.
    #[serde(default, deserialize_with = "optional_number")]
    pub lastcheckedtime: Option<u64>,
    /// Seconds between two looks; 0: it is evaluated only when Hydra is told to.
    #[serde(default, deserialize_with = "optional_number")]
    pub checkinterval: Option<u64>,
    /// Since when it is to be evaluated, while it is.
    #[serde(default, deserialize_with = "optional_number")]
    pub triggertime: Option<u64>,
    /// Since when it is being evaluated, while it is.
    #[serde(default, deserialize_with = "optional_number")]
    pub starttime: Option<u64>,
    /// Why an input could not be fetched.
    #[serde(default, deserialize_with = "text")]
    pub fetcherrormsg: Option<String>,
    /// The errors of the last evaluation; none in `jobset/P/J`.
    #[serde(default, deserialize_with = "text")]
    pub errormsg: Option<String>,
}

/// `search?query=…`, of which only the builds by their derivation matter here.
#[derive(Debug, Deserialize)]
pub struct Found {
    #[serde(default)]
    pub buildsdrv: Vec<Build>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(u64),
    Text(String),
    Flag(bool),
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    optional_number(deserializer)?.ok_or_else(|| serde::de::Error::custom("no number"))
}

fn optional_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match Option::<Number>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Number::Whole(number)) => Ok(Some(number)),
        Some(Number::Flag(flag)) => Ok(Some(u64::from(flag))),
        Some(Number::Text(text)) if text.is_empty() => Ok(None),
        Some(Number::Text(text)) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

/// A text; none if it is empty.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.filter(|text| !text.is_empty()))
}

impl Evaluation {
    /// The inputs whose revision begins with `revision`, or the one named `only` if its revision
    /// does. A flake counts as the input `flake`.
    pub fn revisions_at(&self, revision: &str, only: Option<&str>) -> Vec<InputRevision> {
        let mut found = self.revisions();
        found.retain(|found| {
            only.is_none_or(|only| only == found.input)
                && found.revision.to_ascii_lowercase().starts_with(revision)
        });
        // The flake counts only where no other input has it.
        if found.iter().any(|found| found.input != FLAKE) {
            found.retain(|found| found.input != FLAKE);
        }
        found
    }

    /// The URL of the repository that `revision` is of, without credentials and query.
    pub fn source_of(&self, revision: &str, only: Option<&str>) -> Option<String> {
        let found = self.revisions_at(revision, only).into_iter().next()?;
        let url = match self.inputs.get(&found.input) {
            Some(input) => input.uri.as_deref()?,
            None => self.flake_source()?.trim_start_matches("git+"),
        };
        let url = url.split('?').next().unwrap_or(url);
        Some(http_client::redact_url(url.trim_end_matches('/')))
    }

    /// All inputs that have a revision.
    pub fn revisions(&self) -> Vec<InputRevision> {
        let inputs = self.inputs.iter();
        let mut revisions: Vec<_> = inputs
            .filter_map(|(name, input)| {
                Some(InputRevision {
                    input: name.clone(),
                    revision: input.revision.clone()?,
                })
            })
            .collect();
        revisions.extend(self.flake_revision().map(|revision| InputRevision {
            input: FLAKE.to_string(),
            revision: revision.to_string(),
        }));
        revisions
    }

    /// A flake's URL without its lock: what is the same of all evaluations of a jobset.
    pub fn flake_source(&self) -> Option<&str> {
        let url = self.flake.as_deref()?;
        let revision = self.flake_revision()?;
        let end = url.find(revision)?;
        Some(&url[..end])
    }

    /// The revision that a flake's locked URL holds, in its path or as `rev`.
    pub fn flake_revision(&self) -> Option<&str> {
        let url = self.flake.as_deref()?;
        let mut words = url.split(|c: char| !c.is_ascii_alphanumeric());
        words.find(|word| {
            matches!(word.len(), 40 | 64)
                && word
                    .chars()
                    .all(|c| c.is_ascii_digit() || matches!(c, 'a'..='f'))
        })
    }
}

impl Build {
    pub fn is_finished(&self) -> bool {
        self.finished != 0
    }

    pub fn succeeded(&self) -> bool {
        self.is_finished() && self.buildstatus == Some(0)
    }
}

impl Jobset {
    /// Whether it is neither being evaluated nor about to be.
    pub fn is_idle(&self) -> bool {
        self.starttime.is_none() && self.triggertime.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REVISION: &str = "84a3aecb1d976366060d0f0fd4df7d67b0855f5e";

    fn evaluation(flake: &str) -> Evaluation {
        serde_json::from_value(serde_json::json!({
            "id": "2",
            "flake": flake,
            "jobsetevalinputs": {
                "app": { "type": "git", "revision": "AB3adfe", "uri": "x", "value": null },
                "officialRelease": { "type": "boolean", "value": "false", "revision": null, "uri": null },
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_revision_is_found_among_the_inputs_or_in_a_flake_s_url() {
        for flake in [
            format!("github:acme/app/{REVISION}?narHash=sha256-47DEQpj8HBSa"),
            format!("git+https://acme.net/app?ref=main&rev={REVISION}"),
        ] {
            let evaluation = evaluation(&flake);
            assert_eq!(evaluation.id, 2);
            let inputs = |revision, only| {
                let found = evaluation.revisions_at(revision, only).into_iter();
                found.map(|found| found.input).collect::<Vec<_>>()
            };
            assert_eq!(inputs("ab3", None), ["app"]);
            assert_eq!(inputs("84a3ae", None), ["flake"]);
            assert_eq!(inputs("84a3ae", Some("app")), [""; 0]);
            assert_eq!(inputs("ab3", Some("other")), [""; 0]);
            assert_eq!(evaluation.flake_revision(), Some(REVISION));
        }
    }
}
