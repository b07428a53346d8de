//! What the image says of itself: its bills of materials, and the commands of the start program.

use crate::common::Deploy;
use nix_hydra_start::closure::Closure;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(layers: &Path, format: &str) -> Value {
    let file = layers.join(format!("closure.sbom.{format}.json"));
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn the_image_has_the_same_bills_of_materials_whether_its_closure_is_new_or_kept() {
    let Some(mut deploy) = Deploy::new("python") else {
        return;
    };
    let path = deploy.fixtures.apps["python"].store_path.clone();
    let url = deploy.cache.url();
    let with_password = url.replace("://", "://user:hunter2@");
    deploy
        .set("NIX_STORE_PATH", &path)
        .set("NIX_EXTRA_BINARY_CACHE", &with_password);
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let sbom = outcome.image.unwrap().record.sbom.unwrap();

    let cyclonedx = read(&outcome.layers, "cdx");
    let components = cyclonedx["components"].as_array().unwrap();
    assert_eq!(components.len(), 30);
    let root = path.strip_prefix("/nix/store/").unwrap();
    let applications: Vec<&Value> = components
        .iter()
        .filter(|component| component["type"] == "application")
        .map(|component| &component["bom-ref"])
        .collect();
    assert_eq!(applications, [root]);
    let spdx = read(&outcome.layers, "spdx");
    assert_eq!(spdx["packages"].as_array().unwrap().len(), 30);
    for document in [&cyclonedx, &spdx] {
        assert!(!document.to_string().contains("hunter2"));
    }

    let again = deploy.build();
    assert!(again.success(), "{}", again.log);
    let image = again.image.unwrap();
    assert_eq!(image.changed_layers(), [] as [&str; 0]);
    assert_eq!(image.record.sbom.as_ref(), Some(&sbom));

    // A platform that restores no bills of materials.
    fs::remove_dir_all(image.dir.join("blobs").join(&sbom.digest)).unwrap();
    let unrestored = deploy.build();
    assert!(unrestored.success(), "{}", unrestored.log);
    let image = unrestored.image.unwrap();
    assert_eq!(image.changed_layers(), [] as [&str; 0]);
    assert_eq!(image.record.sbom, Some(sbom));
}

#[test]
fn the_start_program_says_what_is_in_the_image_and_why() {
    let Some(mut deploy) = Deploy::new("python") else {
        return;
    };
    let path = deploy.fixtures.apps["python"].store_path.clone();
    deploy.set("NIX_STORE_PATH", &path);
    let image = deploy.built();

    let json = deploy.run(&image, ["nix-hydra", "closure", "--json"]);
    let value: Value = serde_json::from_str(&json.stdout).unwrap();
    let listed: BTreeSet<&str> = value["paths"]
        .as_array()
        .unwrap()
        .iter()
        .map(|path| path["path"].as_str().unwrap())
        .collect();
    assert_eq!(listed.len(), 30);
    assert_eq!(Closure::parse(&json.stdout).unwrap().paths().len(), 30);

    let report = deploy.run(&image, ["nix-hydra", "closure"]);
    assert!(
        report.stdout.starts_with("30 store paths, 65.7 MB."),
        "{report:?}"
    );
    assert!(report.stdout.contains(&path), "{report:?}");
    let chains = report.stdout.matches("myapp → ").count();
    assert!(chains >= 19, "{report:?}");

    let picture = deploy.run(&image, ["nix-hydra", "closure", "--svg"]);
    assert_eq!(picture.stdout.matches("<title>").count(), 30);

    let why = deploy.run(&image, ["nix-hydra", "why", &path]);
    assert!(
        why.stdout.ends_with("  It is deployed by name.\n"),
        "{why:?}"
    );
    let unknown = deploy.run(&image, ["nix-hydra", "why", "gcc-14.3.0"]);
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.stderr.contains("no store path of this image"),
        "{unknown:?}"
    );
    for command in ["closure", "why", "engines", "run"] {
        let help = deploy.run(&image, ["nix-hydra", command, "--help"]);
        assert_eq!(help.code, 0, "{help:?}");
        assert!(
            help.stdout.contains(&format!("nix-hydra {command}")),
            "{help:?}"
        );
    }
}
