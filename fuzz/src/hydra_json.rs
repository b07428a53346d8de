//! Hydra's answers: whatever JSON they are, they are read or refused, and a number means the same
//! written as text. The first byte says which answer it is.

use hydra::api::{Build, Evaluation, Evaluations, Found, InputRevision, Jobset, Step};
use hydra::short;
use serde_json::Value;

/// Fields that Hydra sends as numbers, or as text, as its database has it.
const NUMBERS: [&str; 4] = ["id", "finished", "buildstatus", "timestamp"];

pub fn run(data: &[u8]) {
    let Some((kind, json)) = data.split_first() else {
        return;
    };
    match kind {
        b'e' => {
            if let Ok(page) = serde_json::from_slice::<Evaluations>(json) {
                page.evals.iter().for_each(evaluation);
            }
        }
        b'v' => {
            if let Ok(one) = serde_json::from_slice(json) {
                evaluation(&one);
            }
        }
        b'b' => {
            if let Ok(one) = serde_json::from_slice(json) {
                build(&one);
                same_as_text(json, &one);
            }
        }
        b'f' => {
            if let Ok(found) = serde_json::from_slice::<Found>(json) {
                found.buildsdrv.iter().for_each(build);
            }
        }
        b'j' => drop(serde_json::from_slice::<Jobset>(json)),
        _ => drop(serde_json::from_slice::<Step>(json)),
    }
}

fn evaluation(evaluation: &Evaluation) {
    for InputRevision { revision, .. } in evaluation.revisions() {
        assert!(revision.starts_with(short(&revision)));
        if revision.is_ascii() {
            let start = short(&revision).to_ascii_lowercase();
            assert!(!evaluation.revisions_at(&start, None).is_empty());
        }
    }
    if let Some(revision) = evaluation.flake_revision() {
        assert!(matches!(revision.len(), 40 | 64));
    }
}

fn build(build: &Build) {
    assert!(!build.succeeded() || build.is_finished());
}

/// The same build with its numbers as text is the same build.
fn same_as_text(json: &[u8], build: &Build) {
    let Ok(Value::Object(mut object)) = serde_json::from_slice(json) else {
        return;
    };
    for name in NUMBERS {
        if let Some(value) = object.get_mut(name)
            && value.is_u64()
        {
            *value = Value::String(value.to_string());
        }
    }
    let as_text: Build = serde_json::from_value(Value::Object(object)).expect("it is a build");
    assert_eq!(format!("{as_text:?}"), format!("{build:?}"));
}
