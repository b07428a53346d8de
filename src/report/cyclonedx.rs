//! The closure as a CycloneDX 1.6 bill of materials (<https://cyclonedx.org/docs/1.6/json/>).
//!
//! It says the same of the same closure every time, so that an image whose closure has not changed
//! keeps its digest: there is neither a time nor a random serial number, nor the binary cache that
//! each path came from, since any cache may have it.

use super::package_name::{purl, split};
use closure::Closure;
use nix_derivation::StorePath;
use serde_json::{Value, json};

/// The document. Hashes and sizes are those of the NAR; a licence is nowhere in a binary cache.
pub(super) fn document(closure: &Closure) -> Value {
    let components = closure.paths.iter().map(|(path, info)| {
        let (name, version) = split(path.name());
        let is_root = closure.roots.contains(path);
        let mut component = json!({
            "type": if is_root { "application" } else { "library" },
            "bom-ref": path.to_basename(),
            "name": name,
            "purl": purl(path.name()),
            "properties": [
                { "name": "nix:store_path", "value": path.to_absolute_path() },
                { "name": "nix:nar_hash", "value": info.nar_hash.to_nix_nixbase32_string() },
                { "name": "nix:nar_size", "value": info.nar_size.to_string() },
            ],
        });
        if let Some(version) = version {
            component["version"] = json!(version);
        }
        if let Some(sha256) = super::sbom::sha256(info) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sha256 }]);
        }
        component
    });
    let dependencies = closure.paths.iter().map(|(path, info)| {
        let references = info.references.iter().filter(|other| *other != path);
        let references: Vec<String> = references.map(StorePath::to_basename).collect();
        json!({ "ref": path.to_basename(), "dependsOn": references })
    });
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [{
                    "type": "application",
                    "name": env!("CARGO_PKG_NAME"),
                    "version": env!("CARGO_PKG_VERSION"),
                }],
            },
        },
        "components": components.collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    })
}
