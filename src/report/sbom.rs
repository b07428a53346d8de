//! The closure's bills of materials, which the lifecycle puts into the image's SBOM layer, at
//! `/layers/sbom/launch/<buildpack>/<layer>/sbom.{cdx,spdx}.json`.
//!
//! For a layer that is kept, the lifecycle restores the files of the previous image, where the
//! platform does so at all. What is known of a kept closure makes the same files again, so they are
//! written in every build.

use super::{cyclonedx, spdx};
use binary_cache::PathInfo;
use closure::Closure;
use nix_derivation::NixHash;
use std::io;

/// The bills of materials of a closure, each with the format in its file's name: `cdx` or `spdx`.
pub fn documents(closure: &Closure) -> io::Result<[(&'static str, Vec<u8>); 2]> {
    Ok([
        ("cdx", serde_json::to_vec(&cyclonedx::document(closure))?),
        ("spdx", serde_json::to_vec(&spdx::document(closure))?),
    ])
}

/// The NAR's SHA-256 in hexadecimal; other algorithms are only in old caches.
pub(super) fn sha256(info: &PathInfo) -> Option<String> {
    match &info.nar_hash {
        NixHash::Sha256(digest) => Some(hex::encode(digest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use jsonschema::Registry;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn schema(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_cyclonedx_document_is_one_by_the_official_schema() {
        let registry = Registry::new()
            .add(
                "http://cyclonedx.org/schema/spdx.SNAPSHOT.schema.json",
                schema(include_str!("../../tests/schemas/spdx.schema.json")),
            )
            .unwrap()
            .add(
                "http://cyclonedx.org/schema/jsf-0.82.SNAPSHOT.schema.json",
                schema(include_str!("../../tests/schemas/jsf-0.82.schema.json")),
            )
            .unwrap()
            .prepare()
            .unwrap();
        let validator = jsonschema::options()
            .with_registry(&registry)
            .build(&schema(include_str!(
                "../../tests/schemas/bom-1.6.schema.json"
            )))
            .unwrap();
        let mut document = cyclonedx::document(&sample());
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
    fn both_documents_read_as_they_should() {
        let documents = [cyclonedx::document(&sample()), spdx::document(&sample())];
        for (name, document) in ["cyclonedx", "spdx"].into_iter().zip(&documents) {
            insta::assert_snapshot!(name, serde_json::to_string_pretty(document).unwrap());
        }
    }

    #[test]
    fn the_spdx_document_is_read_by_another_reader_and_is_whole() {
        let text = spdx::document(&sample()).to_string();
        let document: spdx_rs::models::SPDX = serde_json::from_str(&text).unwrap();
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

    #[test]
    fn the_same_paths_with_other_roots_are_another_spdx_document() {
        let namespace = |closure| spdx::document(&closure)["documentNamespace"].clone();
        let mut other = sample();
        other.roots.extend(other.paths.keys().next_back().cloned());
        assert_ne!(other.roots, sample().roots);
        assert_ne!(namespace(other), namespace(sample()));
        assert_eq!(namespace(sample()), namespace(sample()));
    }

    #[test]
    fn the_documents_are_the_same_each_time() {
        assert_eq!(documents(&sample()).unwrap(), documents(&sample()).unwrap());
    }
}
