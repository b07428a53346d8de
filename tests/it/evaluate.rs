//! Evaluation gives the store path that the Hydra side built, since it happens inside the store.

use crate::common::{copy, fixtures, nix, output};
use nix_hydra_buildpack::config::{Config, Wanted};
use nix_hydra_buildpack::nix::Nix;
use nix_hydra_buildpack::nix::archive;
use nix_hydra_buildpack::resolve::Root;
use nix_hydra_buildpack::resolve::expression::{ExpressionError, evaluate};
use nix_hydra_buildpack::resolve::source::Source;
use platform::fixtures::Fixtures;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Evaluates the app in a directory as a build does, with a Nix that is where it was built.
fn roots(
    fixtures: &Fixtures,
    app: &Path,
    settings: &[(&str, &str)],
) -> Result<Vec<Root>, ExpressionError> {
    let nix = Nix::new(Path::new(&fixtures.nix).join("bin")).unwrap();
    roots_by(&nix, app, settings)
}

fn roots_by(
    nix: &Nix,
    app: &Path,
    settings: &[(&str, &str)],
) -> Result<Vec<Root>, ExpressionError> {
    let setting = |name: &str| {
        let found = settings.iter().find(|(set, _)| *set == name);
        found.map(|(_, value)| (*value).to_string())
    };
    let config = Config::read(setting, app).unwrap();
    let Wanted::Expression(expression) = &config.wanted else {
        panic!("an expression");
    };
    let source = Source::read(app, &config.source_name).unwrap();
    evaluate(nix, &source, expression, &config, "x86_64-linux")
}

fn one(fixtures: &Fixtures, app: &Path, settings: &[(&str, &str)]) -> Root {
    let mut roots = roots(fixtures, app, settings).unwrap();
    assert_eq!(roots.len(), 1);
    roots.remove(0)
}

/// An app of one expression that needs nothing else.
fn app(expression: &str) -> TempDir {
    let app = TempDir::new().unwrap();
    fs::write(app.path().join("default.nix"), expression).unwrap();
    app
}

const DERIVATION: &str = r#"
name: outputs: derivation {
  inherit name outputs;
  system = builtins.currentSystem;
  builder = "/bin/sh";
}
"#;

fn error(expression: &str, settings: &[(&str, &str)]) -> Option<String> {
    let fixtures = fixtures()?;
    let app = app(expression);
    match roots(&fixtures, app.path(), settings) {
        Err(ExpressionError::Evaluation(said)) => Some(said),
        other => panic!("an error of the evaluation, not {other:?}"),
    }
}

#[test]
fn every_sample_app_evaluates_to_the_path_that_hydra_built() {
    let Some(fixtures) = fixtures() else { return };
    // The release archive's Nix, moved out of `/nix`.
    let unpacked = archive::unpack_temporarily(&fixtures.nix_archive).unwrap();
    for (name, sample) in &fixtures.apps {
        let nix = Nix::new(unpacked.bin.clone()).unwrap();
        let root = roots_by(&nix, &sample.dir, &[]).unwrap().remove(0);
        assert_eq!(root.path.to_absolute_path(), sample.store_path, "{name}");
        assert_eq!(root.main_program.as_deref(), Some("myapp"), "{name}");
    }
}

#[test]
fn evaluating_outside_the_store_would_give_another_path() {
    let Some(fixtures) = fixtures() else { return };
    let sample = &fixtures.apps["python"];
    let root = TempDir::new().unwrap();
    let app = root.path().join("app");
    copy(&sample.dir, &app);
    let derivation =
        output(nix(&fixtures, "nix-instantiate", root.path()).arg(app.join("shell.nix")));
    let derivation = derivation.split('!').next().unwrap();
    let path = output(
        nix(&fixtures, "nix-store", root.path())
            .args(["--query", "--outputs"])
            .arg(derivation),
    );
    assert_ne!(path, sample.store_path);
}

#[test]
fn a_changed_file_changes_the_path() {
    let Some(fixtures) = fixtures() else { return };
    let sample = &fixtures.apps["static"];
    let changed = TempDir::new().unwrap();
    copy(&sample.dir, changed.path());
    fs::write(changed.path().join("stray.log"), "x").unwrap();
    let root = one(&fixtures, changed.path(), &[]);
    assert_ne!(root.path.to_absolute_path(), sample.store_path);
}

#[test]
fn attributes_give_roots_with_the_target_first() {
    let Some(fixtures) = fixtures() else { return };
    let app = app(&format!(
        "{{ }}: let drv = ({DERIVATION}); in {{ web = drv \"web\" [ \"out\" ]; jobs.worker = drv \"worker\" [ \"out\" ]; }}"
    ));
    let settings = [
        ("NIX_ATTRIBUTES", "web jobs.worker"),
        ("NIX_TARGET", "jobs.worker"),
    ];
    let names: Vec<_> = roots(&fixtures, app.path(), &settings)
        .unwrap()
        .iter()
        .map(|root| root.path.name().to_string())
        .collect();
    assert_eq!(names, ["worker", "web"]);
}

#[test]
fn the_outputs_that_a_package_installs_are_deployed() {
    let Some(fixtures) = fixtures() else { return };
    let app = app(&format!(
        "let drv = ({DERIVATION}) \"tool\" [ \"out\" \"bin\" \"man\" ]; in drv // {{ meta.outputsToInstall = [ \"bin\" \"man\" ]; }}"
    ));
    let names: Vec<_> = roots(&fixtures, app.path(), &[])
        .unwrap()
        .iter()
        .map(|root| root.path.name().to_string())
        .collect();
    assert_eq!(names, ["tool-bin", "tool-man"]);
}

#[test]
fn nix_path_is_where_names_in_angle_brackets_are_looked_up() {
    let Some(fixtures) = fixtures() else { return };
    let pins = TempDir::new().unwrap();
    fs::write(pins.path().join("default.nix"), DERIVATION).unwrap();
    let app = app("import <pins> \"pinned\" [ \"out\" ]");
    let nix_path = format!("pins={}", pins.path().display());
    let root = one(&fixtures, app.path(), &[("NIX_PATH", &nix_path)]);
    assert_eq!(root.path.name(), "pinned");
}

#[test]
fn a_locked_flake_is_deployed_by_its_default_package_or_an_attribute() {
    let Some(fixtures) = fixtures() else { return };
    let app = TempDir::new().unwrap();
    let flake = r#"{
      outputs = _: let drv = name: derivation {
        inherit name; system = "x86_64-linux"; builder = "/bin/sh"; src = ./.;
      }; in {
        packages.x86_64-linux.default = drv "default";
        packages.x86_64-linux.other = drv "other";
        hydraJobs.app = drv "job";
      };
    }"#;
    fs::write(app.path().join("flake.nix"), flake).unwrap();
    match roots(&fixtures, app.path(), &[]) {
        Err(ExpressionError::NoFlakeLock) => {}
        other => panic!("{other:?}"),
    }
    let lock = r#"{"nodes":{"root":{}},"root":"root","version":7}"#;
    fs::write(app.path().join("flake.lock"), lock).unwrap();
    for (attributes, name) in [
        ("", "default"),
        ("other", "other"),
        ("hydraJobs.app", "job"),
    ] {
        let root = one(&fixtures, app.path(), &[("NIX_ATTRIBUTES", attributes)]);
        assert_eq!(root.path.name(), name);
    }
}

#[test]
fn a_set_of_derivations_is_answered_with_their_names() {
    let Some(fixtures) = fixtures() else { return };
    let app = app(&format!(
        "let drv = ({DERIVATION}); in {{ web = drv \"web\" [ \"out\" ]; worker = drv \"worker\" [ \"out\" ]; version = 1; broken = throw \"x\"; }}"
    ));
    match roots(&fixtures, app.path(), &[]) {
        Err(ExpressionError::NotADerivation {
            attribute: None,
            kind,
            derivations,
        }) => {
            assert_eq!(kind, "set");
            assert_eq!(derivations, ["web", "worker"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_of_the_expression_come_with_nix_s_own_words() {
    for (expression, words) in [
        ("{ }: let x = ; in x", "syntax error"),
        ("{ }: missing", "undefined variable 'missing'"),
        ("let x = x; in x", "infinite recursion"),
        ("import <nixpkgs> { }", "file 'nixpkgs' was not found"),
        (
            "builtins.readFile \"/etc/passwd\"",
            "forbidden in restricted mode",
        ),
        ("{ name }: name", "without required argument 'name'"),
    ] {
        let Some(said) = error(expression, &[]) else {
            return;
        };
        assert!(said.contains(words), "{expression}: {said}");
        assert!(
            !said.contains('\u{1b}') && !said.contains("roots.nix"),
            "{said}"
        );
    }
}

#[test]
fn an_attribute_that_is_not_there_is_answered_with_those_that_are() {
    let Some(said) = error("{ web = 1; worker = 2; }", &[("NIX_ATTRIBUTES", "wbe")]) else {
        return;
    };
    assert!(
        said.contains("attribute `wbe` is missing; there are: web, worker"),
        "{said}"
    );
}

#[test]
fn what_would_have_to_be_built_to_evaluate_is_refused() {
    let expression = format!("import (({DERIVATION}) \"generated\" [ \"out\" ])");
    let Some(said) = error(&expression, &[]) else {
        return;
    };
    assert!(said.contains("import-from-derivation"), "{said}");
}
