//! The closure as an SPDX 2.3 document in JSON (<https://spdx.github.io/spdx-spec/v2.3/>).
//!
//! It says the same of the same closure every time, from whichever binary cache it comes: its time is
//! the one that the lifecycle gives all files of an image, and its namespace is made from what is in it.

use super::package_name::purl;
use closure::Closure;
use nix_derivation::StorePath;
use nix_hydra_start::package_name::PackageName;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The time of every file in an image, by the lifecycle.
const CREATED: &str = "1980-01-01T00:00:01Z";

const DOCUMENT: &str = "SPDXRef-DOCUMENT";

/// The document. Checksums and sizes are those of the NAR; a licence is nowhere in a binary cache.
pub(super) fn document(closure: &Closure) -> Value {
    let mut contents = Sha256::new();
    for root in &closure.roots {
        contents.update(format!("root {}\n", root.to_basename()));
    }
    let mut packages = Vec::new();
    let mut relationships: Vec<Value> = closure
        .roots
        .iter()
        .map(|root| relationship(DOCUMENT, "DESCRIBES", &id(root)))
        .collect();
    for (path, info) in &closure.paths {
        let hash = info.nar_hash.to_nix_nixbase32_string();
        contents.update(format!("{} {hash}\n", path.to_basename()));
        let PackageName { name, version, .. } = PackageName::parse(path.name());
        let mut package = json!({
            "SPDXID": id(path),
            "name": name,
            "packageFileName": path.to_absolute_path(),
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "comment": format!("NAR of {} bytes, {hash}", info.nar_size),
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl(path.name()),
            }],
        });
        if let Some(version) = version {
            package["versionInfo"] = json!(version);
        }
        if let Some(sha256) = super::sbom::sha256(info) {
            package["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": sha256 }]);
        }
        packages.push(package);
        let references = info.references.iter().filter(|other| *other != path);
        relationships
            .extend(references.map(|other| relationship(&id(path), "DEPENDS_ON", &id(other))));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "SPDXID": DOCUMENT,
        "dataLicense": "CC0-1.0",
        "name": "closure",
        "documentNamespace": format!(
            "https://spdx.org/spdxdocs/nix-closure-{}",
            hex::encode(contents.finalize())
        ),
        "creationInfo": {
            "created": CREATED,
            "creators": [
                concat!("Tool: ", env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION")),
            ],
        },
        "packages": packages,
        "relationships": relationships,
    })
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// A path's name in the document, which may have letters, digits, dots and dashes. The hash keeps
/// two paths apart.
fn id(path: &StorePath) -> String {
    let base = path.to_basename();
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.';
    format!("SPDXRef-{}", base.replace(|c: char| !allowed(c), "-"))
}
