//! The closure as a CycloneDX 1.6 bill of materials (<https://cyclonedx.org/docs/1.6/json/>).
//!
//! It says the same of the same closure every time, so that an image whose closure has not changed
//! keeps its digest: there is neither a time nor a random serial number, nor the binary cache that
//! each path came from, since any cache may have it.

use super::package_name::purl;
use binary_cache::PathInfo;
use closure::Closure;
use nix_derivation::StorePath;
use nix_hydra_start::package_name::PackageName;
use serde_json::{Value, json};

/// The document. Hashes and sizes are those of the NAR; a licence is nowhere in a binary cache.
pub(super) fn document(closure: &Closure) -> Value {
    let component = |path: &StorePath, info: &PathInfo| {
        let package = PackageName::parse(path.name());
        let is_root = closure.roots.contains(path);
        let mut component = json!({
            "type": if is_root { "application" } else { "library" },
            "bom-ref": path.to_basename(),
            "name": package.name,
            "purl": purl(path.name()),
            "properties": [
                { "name": "nix:store_path", "value": path.to_absolute_path() },
                { "name": "nix:nar_hash", "value": info.nar_hash.to_nix_nixbase32_string() },
                { "name": "nix:nar_size", "value": info.nar_size.to_string() },
            ],
        });
        if let Some(version) = package.version {
            component["version"] = json!(version);
        }
        if let Some(output) = package.output
            && let Some(properties) = component["properties"].as_array_mut()
        {
            properties.push(json!({ "name": "nix:output", "value": output }));
        }
        if let Some(sha256) = super::sbom::sha256(info) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sha256 }]);
        }
        component
    };
    // The subject of the document is the leading root, which is not listed again.
    let subject = closure.roots.first();
    let subject = subject.and_then(|path| Some((path, closure.paths.get(path)?)));
    let others = closure
        .paths
        .iter()
        .filter(|(path, _)| Some(*path) != closure.roots.first());
    let components = others.map(|(path, info)| component(path, info));
    let dependencies = closure.paths.iter().map(|(path, info)| {
        let references = info.references.iter().filter(|other| *other != path);
        let references: Vec<String> = references.map(StorePath::to_basename).collect();
        json!({ "ref": path.to_basename(), "dependsOn": references })
    });
    let mut document = json!({
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
    });
    if let Some((path, info)) = subject {
        document["metadata"]["component"] = component(path, info);
    }
    document
}
