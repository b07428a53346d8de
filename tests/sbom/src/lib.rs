//! Reads the bills of materials by their official schemas, and as other tools do.
//!
//! The documents are those on record in the snapshots of `src/report/sbom.rs`, whose tests hold that
//! they are what a build writes. This is a crate of its own because its libraries take longer to compile
//! than all of the buildpack's, and nothing else needs them.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "a test that fails so says where")]

use jsonschema::Registry;
use serde_json::Value;
use std::collections::BTreeSet;

/// The document in a snapshot, which has a header between lines of three dashes.
fn document(snapshot: &str) -> Value {
    let document = snapshot.splitn(3, "---\n").nth(2).unwrap();
    serde_json::from_str(document).unwrap()
}

fn schema(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_cyclonedx_document_is_one_by_the_official_schema() {
    let registry = Registry::new()
        .add(
            "http://cyclonedx.org/schema/spdx.SNAPSHOT.schema.json",
            schema(include_str!("../schemas/spdx.schema.json")),
        )
        .unwrap()
        .add(
            "http://cyclonedx.org/schema/jsf-0.82.SNAPSHOT.schema.json",
            schema(include_str!("../schemas/jsf-0.82.schema.json")),
        )
        .unwrap()
        .prepare()
        .unwrap();
    let validator = jsonschema::options()
        .with_registry(&registry)
        .build(&schema(include_str!("../schemas/bom-1.6.schema.json")))
        .unwrap();
    let mut document = document(include_str!(
        "../../../src/report/snapshots/nix_hydra_buildpack__report__sbom__tests__cyclonedx.snap"
    ));
    let errors: Vec<String> = validator
        .iter_errors(&document)
        .map(|error| error.to_string())
        .collect();
    assert_eq!(errors, [] as [&str; 0]);
    // The schema does tell a wrong one.
    document["components"][0]["hashes"][0]["content"] = "no hash".into();
    assert!(!validator.is_valid(&document));
}

#[test]
fn the_spdx_document_is_read_by_another_reader_and_is_whole() {
    let document = document(include_str!(
        "../../../src/report/snapshots/nix_hydra_buildpack__report__sbom__tests__spdx.snap"
    ));
    let document: spdx_rs::models::SPDX = serde_json::from_value(document).unwrap();
    assert_eq!(document.package_information.len(), 3);
    let ids: BTreeSet<&str> = document
        .package_information
        .iter()
        .map(|package| package.package_spdx_identifier.as_str())
        .chain(["SPDXRef-DOCUMENT"])
        .collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(document.relationships.len(), 4);
    for relationship in &document.relationships {
        assert!(ids.contains(relationship.spdx_element_id.as_str()));
        assert!(ids.contains(relationship.related_spdx_element.as_str()));
    }
}
