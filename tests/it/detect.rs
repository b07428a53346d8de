//! When the buildpack takes an app, and when it leaves it to another one.

use crate::common::{buildpack, fixtures, strip_ansi};
use platform::lifecycle::{Build, DETECT_FAIL};
use std::fs;
use tempfile::TempDir;

type Setting<'a> = (&'a str, &'a str);

fn detect(files: &[&str], settings: &[Setting]) -> Option<i32> {
    let fixtures = fixtures()?;
    let app = TempDir::new().unwrap();
    for file in files {
        fs::write(app.path().join(file), "").unwrap();
    }
    let image = TempDir::new().unwrap();
    let mut build = Build::new(&fixtures.rootfs, buildpack(), app.path(), image.path());
    for (name, value) in settings {
        build = build.env(*name, *value);
    }
    let outcome = build.run().unwrap();
    let said = strip_ansi(&outcome.detect_log);
    if outcome.detect == 0 {
        assert_eq!(said, "", "a buildpack that takes part says nothing");
    } else {
        assert!(
            said.starts_with("Not taken: the app has none of `deploy.nix`"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    Some(outcome.detect)
}

#[test]
fn an_app_with_a_nix_file_or_a_setting_that_names_what_to_deploy_is_taken() {
    let taken: [(&[&str], &[Setting]); 6] = [
        (&["deploy.nix"], &[]),
        (&["flake.nix"], &[]),
        (&["shell.nix"], &[]),
        (&["default.nix"], &[]),
        (&[], &[("NIX_STORE_PATH", "/nix/store/x")]),
        (&[], &[("NIX_FILE", "nix/app.nix")]),
    ];
    for (files, settings) in taken {
        let Some(status) = detect(files, settings) else {
            return;
        };
        assert_eq!(status, 0, "{files:?} {settings:?}");
    }
}

#[test]
fn an_app_without_either_is_left_to_other_buildpacks() {
    let Some(status) = detect(&["Procfile", "package.json"], &[("NIX_STORE_PATH", " ")]) else {
        return;
    };
    assert_eq!(status, DETECT_FAIL);
}
