//! Evaluation gives the store path that the Hydra side built, since it happens inside the store.

use crate::common::{Deploy, copy, fixtures, nix, output};
use crate::source::{commit, git};
use hydra::revision::Commit;
use nix_hydra_buildpack::config::{Config, Expression, Wanted};
use nix_hydra_buildpack::error::BuildpackError;
use nix_hydra_buildpack::resolve::ResolveError;
use nix_hydra_buildpack::resolve::expression::{Evaluator, ExpressionError, Outcome};
use nix_hydra_buildpack::resolve::source::Source;
use nix_hydra_buildpack::root::Root;
use nix_runner::Nix;
use nix_runner::archive::{self, ArchiveError, Target};
use nix_runner::engine::Engine;
use nix_runner::supply::Supply;
use platform::fixtures::Fixtures;
use platform::server::Server;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

const SYSTEM: &str = "x86_64-linux";

pub fn config(app: &Path, settings: &[(&str, &str)]) -> Config {
    let setting = |name: &str| {
        let found = settings.iter().find(|(set, _)| *set == name);
        let default = (name == "NIX_DEFAULT_BINARY_CACHE").then_some("");
        found
            .map(|(_, value)| *value)
            .or(default)
            .map(str::to_string)
    };
    Config::read(setting, app).unwrap()
}

/// What is filled from the binary caches of these settings.
pub fn supply(config: &Config) -> Arc<Supply> {
    Arc::new(Supply::new(config.substituters()).unwrap())
}

/// A Nix that is where it was built, with the binary caches of these settings.
pub fn nix_in_place(fixtures: &Fixtures, config: &Config) -> Nix {
    let bin = Path::new(&fixtures.nix).join("bin");
    Nix::new(bin, supply(config)).unwrap()
}

/// Evaluates the app in a directory as a build does.
pub fn evaluate(nix: &Nix, app: &Path, config: &Config) -> Result<Outcome, ExpressionError> {
    let Wanted::Expression(expression) = &config.wanted else {
        panic!("an expression");
    };
    let source = Source::read(app, &config.source_name).unwrap();
    Evaluator::new(nix, &source, expression, config, SYSTEM)?
        .at(Commit::find(config.hydra.revision.as_ref(), app))
        .evaluate(nix, false)
}

/// Evaluates an expression as Hydra does, with all derivations written, by a Nix that asks no cache.
pub fn evaluate_fully(
    fixtures: &Fixtures,
    source: &Source,
    expression: &Expression,
    config: &Config,
) -> (Nix, Vec<Root>) {
    let alone = Config {
        caches: Vec::new(),
        ..config.clone()
    };
    let nix = nix_in_place(fixtures, &alone);
    let evaluator = Evaluator::new(&nix, source, expression, config, SYSTEM).unwrap();
    let roots = evaluator.evaluate(&nix, true).unwrap().roots;
    (nix, roots)
}

fn roots(
    fixtures: &Fixtures,
    app: &Path,
    settings: &[(&str, &str)],
) -> Result<Vec<Root>, ExpressionError> {
    let config = config(app, settings);
    let outcome = evaluate(&nix_in_place(fixtures, &config), app, &config)?;
    Ok(outcome.roots)
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

const DERIVATION_OF_ALL: &str =
    r#"derivation { name = "app"; system = "x86_64-linux"; builder = "/bin/sh"; src = ./.; }"#;

fn no_proot(_: &Path) -> Result<std::path::PathBuf, String> {
    Err("there is none".into())
}

fn error(expression: &str, settings: &[(&str, &str)]) -> Option<ExpressionError> {
    let fixtures = fixtures()?;
    let app = app(expression);
    Some(roots(&fixtures, app.path(), settings).unwrap_err())
}

fn under_proot(nix: Nix, proot: &Path) -> Nix {
    let shown = nix.scratch().join("root/nix");
    let engine = Engine::tried_proot(proot, &shown, nix.scratch()).unwrap();
    nix.with_engine(engine)
}

#[test]
fn every_sample_app_evaluates_to_the_path_that_hydra_built() {
    let Some(fixtures) = fixtures() else { return };
    // The release archive's Nix, moved out of `/nix`.
    let unpack = |target: &Target| archive::unpack_release(&fixtures.nix_archive, target);
    for (name, sample) in &fixtures.apps {
        let config = config(&sample.dir, &[]);
        let (nix, needs_engine) = Nix::unpacked(&unpack, &no_proot, supply(&config)).unwrap();
        assert_eq!(needs_engine, None);
        let root = evaluate(&nix, &sample.dir, &config)
            .unwrap()
            .roots
            .remove(0);
        assert_eq!(root.path.to_absolute_path(), sample.store_path, "{name}");
        // Those that show ways to deploy have a Procfile and no more.
        let main_program = (root.path.name() == "myapp").then_some("myapp");
        assert_eq!(root.main_program.as_deref(), main_program, "{name}");
    }
}

#[test]
fn a_nix_that_cannot_be_moved_runs_in_a_namespace_or_under_proot() {
    let Some(fixtures) = fixtures() else { return };
    let sample = &fixtures.apps["static"];
    let unpack = |target: &Target| match target {
        Target::Relocated(relocation) => {
            let program = relocation.directory().join("nix-instantiate");
            fs::write(&program, "#!/bin/sh\necho 'it does not run' >&2\nexit 1\n").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            Ok(relocation.directory().to_path_buf())
        }
        Target::Plain(_) => archive::unpack_release(&fixtures.nix_archive, target),
    };
    let proot = |_: &Path| Ok(fixtures.proot.clone());
    let config = config(&sample.dir, &[]);
    let (nix, reason) = Nix::unpacked(&unpack, &proot, supply(&config)).unwrap();
    assert_eq!(reason.unwrap(), "it does not run");
    assert_eq!(nix.engine().name(), "in a user namespace");
    let root = evaluate(&nix, &sample.dir, &config)
        .unwrap()
        .roots
        .remove(0);
    assert_eq!(root.path.to_absolute_path(), sample.store_path);

    let nix = under_proot(nix, &fixtures.proot);
    assert_eq!(nix.engine().name(), "under PRoot");
    let root = evaluate(&nix, &sample.dir, &config)
        .unwrap()
        .roots
        .remove(0);
    assert_eq!(root.path.to_absolute_path(), sample.store_path);
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
fn attributes_are_taken_as_nix_writes_them() {
    let Some(fixtures) = fixtures() else { return };
    let app = app(&format!(
        "let drv = ({DERIVATION}); in {{ \"hello.x\" = drv \"hello\" [ \"out\" ];
           a.\"b.c\".d = drv \"deep\" [ \"out\" \"bin\" ]; }}"
    ));
    for (attributes, expected) in [
        ("\"hello.x\"", &["hello"] as &[&str]),
        ("a.\"b.c\".d^bin", &["deep-bin"]),
        ("a.\"b.c\".d^*", &["deep", "deep-bin"]),
    ] {
        let roots = roots(&fixtures, app.path(), &[("NIX_ATTRIBUTES", attributes)]).unwrap();
        let names: Vec<_> = roots.iter().map(|root| root.path.name()).collect();
        assert_eq!(names, expected, "{attributes}");
    }
    let settings = [("NIX_ATTRIBUTES", "hello a.\"b.c\".e \"hello.x\"^man")];
    let error = roots(&fixtures, app.path(), &settings).unwrap_err();
    let ExpressionError::Missing(missing) = error else {
        panic!("{error:?}");
    };
    let found: Vec<_> = missing
        .iter()
        .map(|one| (one.at.join("."), one.name.as_str(), one.names.join(" ")))
        .collect();
    assert_eq!(
        found,
        [
            (String::new(), "hello", "a hello.x".to_string()),
            ("a.b.c".to_string(), "e", "d".to_string()),
            (String::new(), "^man", "^out".to_string()),
        ]
    );
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
fn what_nix_path_names_and_nix_cannot_use_is_an_error_and_not_the_stand_in() {
    let Some(fixtures) = fixtures() else { return };
    let fetch =
        "(import <nixpkgs> { }).fetchurl { url = \"http://127.0.0.1:9/x\"; sha256 = \"\"; }";
    let app = app(fetch);
    let missing = "`nixpkgs=/missing` does not exist";
    let refused = "`nixpkgs=http://127.0.0.1/x.tar.gz` cannot be downloaded";
    for (nix_path, lookup, entry) in [
        ("nixpkgs=/missing", "", missing),
        ("/missing", "", "`/missing` does not exist"),
        ("nixpkgs=http://SECRET@127.0.0.1/x.tar.gz", "", refused),
        (
            "nixpkgs=http://127.0.0.1/x.tar.gz?token=SECRET",
            "",
            refused,
        ),
        ("", "nixpkgs=http://me:SECRET@127.0.0.1/x.tar.gz", refused),
        (
            "a=/:nixpkgs=http://me:SECRET@127.0.0.1/x.tar.gz",
            "",
            "`nixpkgs=http://me` cannot be downloaded",
        ),
    ] {
        let mut config = config(app.path(), &[("NIX_PATH", nix_path)]);
        config.lookups = Vec::from_iter((!lookup.is_empty()).then(|| lookup.to_string()));
        let nix = nix_in_place(&fixtures, &config);
        match evaluate(&nix, app.path(), &config) {
            Err(ExpressionError::Lookups(said, entries)) => {
                assert_eq!(entries, [entry]);
                assert!(!said.contains("SECRET"), "{said}");
            }
            other => panic!("{nix_path}: {other:?}"),
        }
    }
}

#[test]
fn what_is_missing_of_nix_path_and_not_needed_is_told() {
    let Some(fixtures) = fixtures() else { return };
    let app = app(DERIVATION_OF_ALL);
    let config = config(app.path(), &[("NIX_PATH", "pins=/missing")]);
    let nix = nix_in_place(&fixtures, &config);
    let outcome = evaluate(&nix, app.path(), &config).unwrap();
    assert_eq!(outcome.unusable, ["`pins=/missing` does not exist"]);
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
fn a_flake_without_inputs_needs_no_lock_file() {
    let Some(fixtures) = fixtures() else { return };
    let app = TempDir::new().unwrap();
    let flake =
        format!("{{ outputs = _: {{ packages.x86_64-linux.default = {DERIVATION_OF_ALL}; }}; }}");
    fs::write(app.path().join("flake.nix"), flake).unwrap();
    assert_eq!(one(&fixtures, app.path(), &[]).path.name(), "app");
}

#[test]
fn a_flake_knows_its_revision_from_a_clean_checkout_or_the_platform() {
    let Some(fixtures) = fixtures() else { return };
    let app = TempDir::new().unwrap();
    let name = "app-${self.shortRev or \"dirty\"}-${self.lastModifiedDate}";
    let flake = format!(
        "{{ outputs = {{ self }}: {{ packages.x86_64-linux.default = {}; }}; }}",
        DERIVATION_OF_ALL.replace("app", name)
    );
    fs::write(app.path().join("flake.nix"), flake).unwrap();
    commit(app.path());
    let head = git(app.path(), &["rev-parse", "HEAD"]);
    let short = &head[..7];
    let named = [("NIX_REVISION", head.as_str())];
    let name = |settings: &[(&str, &str)]| {
        let root = one(&fixtures, app.path(), settings);
        root.path.name().to_string()
    };
    assert_eq!(name(&[]), format!("app-{short}-20231114221320"));
    assert_eq!(name(&[("NIX_REVISION", "latest")]), name(&[]));
    assert_eq!(
        name(&[("SOURCE_VERSION", &"ab".repeat(20))]),
        "app-abababa-19700101000000"
    );
    fs::write(app.path().join("stray"), "x").unwrap();
    assert_eq!(name(&[]), "app-dirty-19700101000000");
    assert_eq!(name(&named), format!("app-{short}-20231114221320"));
    fs::remove_dir_all(app.path().join(".git")).unwrap();
    assert_eq!(name(&named), format!("app-{short}-19700101000000"));
}

#[test]
fn a_flake_may_be_in_a_directory_of_any_name() {
    let Some(fixtures) = fixtures() else { return };
    let app = TempDir::new().unwrap();
    let directory = app.path().join("my & own%20app?");
    fs::create_dir(&directory).unwrap();
    let derivation = DERIVATION_OF_ALL.replace("src = ./.;", "");
    let flake = format!("{{ outputs = _: {{ packages.x86_64-linux.default = {derivation}; }}; }}");
    fs::write(directory.join("flake.nix"), flake).unwrap();
    let file = [("NIX_FILE", "my & own%20app?/flake.nix")];
    assert_eq!(one(&fixtures, app.path(), &file).path.name(), "app");
}

#[test]
fn an_input_that_no_lock_file_pins_is_named() {
    let Some(fixtures) = fixtures() else { return };
    let empty = r#"{"nodes":{"root":{}},"root":"root","version":7}"#;
    for (inputs, lock) in [
        ("inputs.pins.url = \"github:acme/pins\";", None),
        ("inputs.pins.url = \"github:acme/pins\";", Some(empty)),
        ("inputs.pins.url = \"pins\";", None),
        // An input that only the function's argument names.
        ("", None),
    ] {
        let app = TempDir::new().unwrap();
        let flake = format!("{{ {inputs} outputs = {{ self, pins }}: pins; }}");
        fs::write(app.path().join("flake.nix"), flake).unwrap();
        if let Some(lock) = lock {
            fs::write(app.path().join("flake.lock"), lock).unwrap();
        }
        match roots(&fixtures, app.path(), &[]) {
            Err(ExpressionError::NoFlakeLock(input)) => assert_eq!(input, "pins"),
            other => panic!("{inputs}: {other:?}"),
        }
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
    let Some(fixtures) = fixtures() else { return };
    let mut texts = String::new();
    for (name, settings, expression) in [
        ("syntax", &[][..], "{ }: let x = ; in x"),
        ("a variable", &[], "{ }: missing"),
        ("an attribute", &[], "{ }: (import ./lib.nix).missing"),
        ("recursion", &[], "let x = x; in x"),
        ("an argument", &[], "{ name }: name"),
        ("a throw", &[], "{ }: (import ./lib.nix).broken"),
        ("a file outside", &[], "builtins.readFile \"/etc/passwd\""),
        (
            "a restricted URL",
            &[],
            "builtins.fetchurl \"ftp://example.org/x\"",
        ),
        ("a missing pin", &[], "(import <nixpkgs> { }).hello"),
        (
            "a missing pin in scope",
            &[],
            "with import <nixpkgs> { }; stdenv",
        ),
        ("a missing pin of a file", &[], "import <nixpkgs/lib>"),
        ("a name that nothing has", &[], "import <pins>"),
        (
            "what a fetcher cannot do",
            &[],
            "toString ((import <nixpkgs> { }).fetchzip { url = \"https://example.org/x.zip\"; sha256 = \"\"; postFetch = \"x\"; })",
        ),
        (
            "a wrong attribute",
            &[("NIX_ATTRIBUTES", "wbe")],
            "{ web = 1; worker = 2; }",
        ),
        ("mkShell", &[], MK_SHELL),
    ] {
        let app = app(expression);
        fs::write(
            app.path().join("lib.nix"),
            "{ broken = throw \"it is broken\"; }\n",
        )
        .unwrap();
        let error = roots(&fixtures, app.path(), settings).unwrap_err();
        let message = BuildpackError::from(ResolveError::Expression(error)).message();
        let _ = write!(texts, "========== {name}\n{message}\n\n");
    }
    insta::assert_snapshot!("errors_of_expressions", texts);
}

/// What nixpkgs's `mkShell` makes, as far as it shows.
const MK_SHELL: &str = r#"derivation {
  name = "nix-shell";
  system = "x86_64-linux";
  builder = "/bin/sh";
  phases = [ "buildPhase" ];
  shellHook = "";
}"#;

#[test]
fn an_older_nixpkgs_s_shell_is_recognised_as_well() {
    let old = MK_SHELL
        .replace("nix-shell", "my-shell")
        .replace("phases = [ \"buildPhase\" ]", "nobuildPhase = \"exit 1\"");
    match error(&old, &[]) {
        Some(ExpressionError::Shell(None)) | None => {}
        other => panic!("{other:?}"),
    }
}

/// The project of the original README, but for the nixpkgs that it pins.
const README_SHELL: &str = r#"{
  nixpkgs ?
    let
      inherit (import <nixpkgs> {}) fetchFromGitHub;
    in
      import
        ( fetchFromGitHub
          {
            owner = "NixOS";
            repo = "nixpkgs";
            rev = "3f96280da0ebc578599130c55c283036b51a9e91";
            sha256 = "SHA256";
          }
        ) { config.allowUnfree = true; }
}:

let

  inherit (nixpkgs) pkgs;

in pkgs.callPackage ./. {};
"#;

const README_DEFAULT: &str = r#"{ mkDerivation, helper }: mkDerivation {
  name = "my-project";
  src = ./.;
  inherit helper;
}
"#;

/// As much of nixpkgs as these apps need. Its fetcher is a derivation that a machine would build.
const NIXPKGS: &str = r#"{ system ? builtins.currentSystem, config ? { } }:
let
  pkgs = {
    inherit pkgs;
    callPackage = file: arguments:
      let f = import file; in f (builtins.intersectAttrs (builtins.functionArgs f) pkgs // arguments);
    mkDerivation = attributes: derivation ({ inherit system; builder = "/bin/sh"; } // attributes);
    helper = pkgs.mkDerivation { name = "helper"; };
    fetchFromGitHub = { owner, repo, rev, sha256 }: derivation {
      inherit system owner repo rev;
      name = "source";
      builder = "/bin/sh";
      args = [ "-c" "curl | tar" ];
      outputHashMode = "recursive";
      outputHashAlgo = "sha256";
      outputHash = sha256;
    };
  };
in pkgs
"#;

/// A binary cache of files that holds one source, `nixpkgs`, and the Hydra that has it.
struct Hydra {
    directory: TempDir,
    fixtures: Fixtures,
    /// The hash of `nixpkgs`.
    sha256: String,
}

impl Hydra {
    fn new() -> Option<Self> {
        let fixtures = fixtures()?;
        let directory = TempDir::new().unwrap();
        let source = directory.path().join("nixpkgs/source");
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("default.nix"), NIXPKGS).unwrap();
        let mut hydra = Self {
            directory,
            fixtures,
            sha256: String::new(),
        };
        hydra.sha256 = output(
            Command::new(Path::new(&hydra.fixtures.nix).join("bin/nix-hash"))
                .args(["--type", "sha256", "--base32"])
                .arg(&source),
        );
        let path = hydra.add(&source);
        output(
            nix(&hydra.fixtures, "nix", hydra.directory.path())
                .args(["copy", "--to", &hydra.cache()])
                .arg(path),
        );
        Some(hydra)
    }

    fn cache(&self) -> String {
        format!("file://{}/cache", self.directory.path().display())
    }

    fn nixpkgs(&self) -> std::path::PathBuf {
        self.directory.path().join("nixpkgs/source")
    }

    fn add(&self, tree: &Path) -> String {
        output(
            nix(&self.fixtures, "nix-store", self.directory.path())
                .args(["--add-fixed", "--recursive", "sha256"])
                .arg(tree),
        )
    }

    /// What Hydra gets for an expression in a checkout of `app`, with a real `<nixpkgs>`.
    fn evaluate(&self, app: &Path, file: &str) -> String {
        let checkout = TempDir::new().unwrap();
        let checkout = checkout.path().join("source");
        copy(app, &checkout);
        let source = self.add(&checkout);
        let nixpkgs = format!("nixpkgs={}", self.nixpkgs().display());
        let derivation = output(
            nix(&self.fixtures, "nix-instantiate", self.directory.path())
                .args(["-I", &nixpkgs])
                .arg(format!("{source}/{file}")),
        );
        let derivation = derivation.split('!').next().unwrap();
        output(
            nix(&self.fixtures, "nix-store", self.directory.path())
                .args(["--query", "--outputs"])
                .arg(derivation),
        )
    }
}

fn readme_app(sha256: &str) -> TempDir {
    let app = app(README_DEFAULT);
    // The semicolon at its end is one too many for Nix; everybody leaves it out.
    let shell = README_SHELL.replace("SHA256", sha256);
    fs::write(app.path().join("shell.nix"), shell.replace("{};\n", "{}\n")).unwrap();
    app
}

#[test]
fn the_original_readme_s_example_works_with_no_nixpkgs_at_hand() {
    let Some(hydra) = Hydra::new() else { return };
    let app = readme_app(&hydra.sha256);
    let caches = [("NIX_EXTRA_BINARY_CACHE", hydra.cache())];
    let caches = caches.each_ref().map(|(name, url)| (*name, url.as_str()));
    let config = config(app.path(), &caches);
    let nix = nix_in_place(&hydra.fixtures, &config);
    let outcome = evaluate(&nix, app.path(), &config).unwrap();
    let path = outcome.roots[0].path.to_absolute_path();
    assert_eq!(path, hydra.evaluate(app.path(), "shell.nix"));
    // Its nixpkgs came from the binary cache; the URL was not asked.
    assert!(!nix.has_fetched());
    assert_eq!(outcome.unpinned, None);
    assert_eq!(outcome.built, [] as [&str; 0]);
}

#[test]
fn what_an_unpinned_fetcher_fetches_may_be_built_with_and_not_only_imported() {
    let Some(hydra) = Hydra::new() else { return };
    let app = app(&format!(
        "derivation {{ name = \"x\"; system = \"x86_64-linux\"; builder = \"/bin/sh\";
           src = (import <nixpkgs> {{ }}).fetchFromGitHub {{ owner = \"o\"; repo = \"r\"; rev = \"1\"; sha256 = \"{}\"; }};
         }}",
        hydra.sha256
    ));
    let cache = hydra.cache();
    let root = one(
        &hydra.fixtures,
        app.path(),
        &[("NIX_EXTRA_BINARY_CACHE", &cache)],
    );
    assert_eq!(
        root.path.to_absolute_path(),
        hydra.evaluate(app.path(), "default.nix")
    );
}

#[test]
fn a_url_is_asked_where_no_binary_cache_has_the_source() {
    let Some(hydra) = Hydra::new() else { return };
    let tarballs = TempDir::new().unwrap();
    output(
        Command::new("tar")
            .arg("-C")
            .arg(hydra.directory.path().join("nixpkgs"))
            .arg("-czf")
            .arg(tarballs.path().join("nixpkgs.tar.gz"))
            .arg("source"),
    );
    let server = Server::start(tarballs.path()).unwrap();
    let fetch = |hash: &str| {
        format!(
            "(import (fetchTarball {{ name = \"source\"; url = \"{}/nixpkgs.tar.gz\"; {hash} }}) {{ }}).helper",
            server.url().trim_end_matches('/')
        )
    };
    let pinned = app(&fetch(&format!("sha256 = \"{}\";", hydra.sha256)));
    let config = config(pinned.path(), &[]);
    let nix = nix_in_place(&hydra.fixtures, &config);
    let outcome = evaluate(&nix, pinned.path(), &config).unwrap();
    assert!(nix.has_fetched());
    assert_eq!(outcome.unpinned, None);

    let unpinned = app(&fetch(""));
    let nix = nix_in_place(&hydra.fixtures, &config);
    let again = evaluate(&nix, unpinned.path(), &config).unwrap();
    assert_eq!(again.roots, outcome.roots);
    let said = again.unpinned.unwrap();
    assert!(said.contains("nixpkgs.tar.gz"), "{said}");
}

#[test]
fn what_is_fetched_without_a_hash_is_a_warning_unless_a_revision_pins_it() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let tarballs = TempDir::new().unwrap();
    let pins = tarballs.path().join("pins");
    fs::create_dir(&pins).unwrap();
    fs::write(pins.join("default.nix"), DERIVATION_OF_ALL).unwrap();
    let server = Server::start(tarballs.path()).unwrap();
    let url = server.url().trim_end_matches('/').to_string();
    deploy.set("NIX_FILE", "pinned.nix");
    for (name, warned) in [
        ("3f96280da0ebc578599130c55c283036b51a9e91", false),
        ("main", true),
    ] {
        let archive = tarballs.path().join(format!("{name}.tar.gz"));
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(tarballs.path()).arg("-czf").arg(archive);
        output(tar.arg("pins"));
        let expression = format!("import (fetchTarball \"{url}/{name}.tar.gz\")");
        fs::write(deploy.app().join("pinned.nix"), expression).unwrap();
        // No cache has it; what is said comes before that.
        let log = deploy.build().log;
        let log = log.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(log.contains("so every build evaluates it again"), "{log}");
        assert_eq!(log.contains("If no revision pins it"), warned, "{log}");
    }
}

#[test]
fn a_flake_s_inputs_come_from_the_binary_caches() {
    let Some(hydra) = Hydra::new() else { return };
    let cache = hydra.cache();
    // Where they are from cannot be reached from here, by whatever protocol.
    for (kind, url) in [
        ("tarball", "http://127.0.0.1:9/nixpkgs.tar.gz"),
        ("git", "ssh://git@127.0.0.1:9/nixpkgs.git"),
        ("git", "git@127.0.0.1:nixpkgs.git"),
        ("git", "http://127.0.0.1:9/nixpkgs.git"),
        ("git", "git://127.0.0.1:9/nixpkgs.git"),
        ("hg", "https://127.0.0.1:9/nixpkgs"),
    ] {
        let app = app_with_locked_nixpkgs(&hydra, kind, url);
        let root = one(
            &hydra.fixtures,
            app.path(),
            &[("NIX_EXTRA_BINARY_CACHE", &cache)],
        );
        assert_eq!(root.path.name(), "helper", "{url}");
    }
    let app = app_with_locked_nixpkgs(&hydra, "tarball", "http://127.0.0.1:9/nixpkgs.tar.gz");
    let error = roots(&hydra.fixtures, app.path(), &[]).unwrap_err();
    assert!(matches!(error, ExpressionError::Download(_)), "{error:?}");
}

/// A flake whose only input is locked to the `nixpkgs` of `hydra`.
fn app_with_locked_nixpkgs(hydra: &Hydra, kind: &str, url: &str) -> TempDir {
    let app = TempDir::new().unwrap();
    let flake = format!(
        r#"{{
          inputs.nixpkgs = {{ type = "{kind}"; url = "{url}"; flake = false; }};
          outputs = {{ nixpkgs, ... }}: {{
            packages.x86_64-linux.default = (import nixpkgs {{ system = "x86_64-linux"; }}).helper;
          }};
        }}"#
    );
    fs::write(app.path().join("flake.nix"), flake).unwrap();
    let nixpkgs = Source::read(&hydra.nixpkgs(), "source").unwrap();
    let mut locked = serde_json::json!({
        "type": kind,
        "url": url,
        "narHash": nixpkgs.nar_hash.to_sri_string(),
    });
    if kind != "tarball" {
        locked["rev"] = "3f96280da0ebc578599130c55c283036b51a9e91".into();
    }
    let lock = serde_json::json!({
        "version": 7,
        "root": "root",
        "nodes": {
            "root": { "inputs": { "nixpkgs": "nixpkgs" } },
            "nixpkgs": {
                "flake": false,
                "original": { "type": kind, "url": url },
                "locked": locked,
            },
        },
    });
    fs::write(app.path().join("flake.lock"), lock.to_string()).unwrap();
    app
}

#[test]
fn a_private_repository_may_be_fetched_with_ssh() {
    let rev = "3f96280da0ebc578599130c55c283036b51a9e91";
    let fetch =
        format!("builtins.fetchGit {{ url = \"ssh://git@127.0.0.1:9/x.git\"; rev = \"{rev}\"; }}");
    // Nobody listens there; but Nix asks.
    match error(&fetch, &[]) {
        Some(ExpressionError::Evaluation(said)) => {
            assert!(said.contains("Failed to fetch git repository"), "{said}");
        }
        None => {}
        other => panic!("{other:?}"),
    }
}

/// Imports what a derivation makes, which Nix can build by itself.
const IMPORTS: &str = r#"
let
  file = builtins.toFile "generated.nix" "name: derivation { inherit name; system = \"x86_64-linux\"; builder = \"/bin/sh\"; }";
  generated = derivation {
    name = "generated.nix";
    system = "builtin";
    builder = "builtin:fetchurl";
    url = "file://${file}";
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashFile "sha256" file;
  };
in
import generated "app"
"#;

#[test]
fn what_must_be_built_to_evaluate_is_named_and_built_in_the_cheapest_way() {
    let Some(fixtures) = fixtures() else { return };
    let app = app(IMPORTS);
    let config = config(app.path(), &[]);
    let proot = |_: &Path| Ok(fixtures.proot.clone());
    for engine in ["in Nix's own sandbox", "in a user namespace", "under PRoot"] {
        let mut nix = nix_outside(&fixtures, &config);
        nix = match engine {
            "in a user namespace" => nix.with_engine(Engine::Namespace),
            "under PRoot" => under_proot(nix, &fixtures.proot),
            _ => nix,
        };
        let derivation = match evaluate(&nix, app.path(), &config) {
            Err(ExpressionError::MustBuild {
                derivation,
                outputs,
            }) => {
                assert!(outputs[0].ends_with("-generated.nix"), "{outputs:?}");
                derivation
            }
            other => panic!("{other:?}"),
        };
        assert!(derivation.ends_with("-generated.nix.drv"), "{derivation}");
        assert_eq!(nix.enable_building(Vec::new(), &proot).unwrap(), engine);
        let outcome = evaluate(&nix, app.path(), &config).unwrap();
        assert_eq!(outcome.roots[0].path.name(), "app");
        assert_eq!(outcome.built, [derivation]);
    }
}

/// Imports what a builder finds in two places, `SECRET` and `LAYERS`, as a derivation's name.
const LOOKS: &str = r#"
let
  found = derivation {
    name = "found";
    system = "x86_64-linux";
    builder = "/bin/sh";
    args = [ "-c" ''
      seen=nothing
      if read -r line <SECRET/token; then seen=$line; fi
      if echo x >LAYERS/written; then seen=written-$seen; fi
      echo "\"$seen\"" >$out
    '' ];
  };
in
derivation { name = import found; system = "x86_64-linux"; builder = "/bin/sh"; }
"#;

#[test]
fn what_is_built_to_evaluate_sees_no_credentials_and_writes_into_no_layer() {
    let Some(fixtures) = fixtures() else { return };
    let places = tempfile::tempdir().unwrap();
    let (secret, layers) = (places.path().join("secret"), places.path().join("layers"));
    for directory in [&secret, &layers] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(secret.join("token"), "canary\n").unwrap();
    let expression = LOOKS
        .replace("SECRET", secret.to_str().unwrap())
        .replace("LAYERS", layers.to_str().unwrap());
    let app = app(&expression);
    let config = config(app.path(), &[]);
    let proot = |_: &Path| Ok(fixtures.proot.clone());
    for engine in ["in a user namespace", "under PRoot"] {
        let built = |hidden: Vec<PathBuf>| {
            let nix = nix_outside(&fixtures, &config);
            let mut nix = match engine {
                "under PRoot" => under_proot(nix, &fixtures.proot),
                _ => nix.with_engine(Engine::Namespace),
            };
            assert_eq!(nix.enable_building(hidden, &proot).unwrap(), engine);
            let outcome = evaluate(&nix, app.path(), &config).unwrap();
            outcome.roots[0].path.name().to_string()
        };
        assert_eq!(built(Vec::new()), "written-canary", "{engine}");
        fs::remove_file(layers.join("written")).unwrap();
        let hidden = built(vec![secret.clone(), layers.clone()]);
        assert!(!hidden.contains("canary"), "{engine}: {hidden}");
        assert!(!layers.join("written").exists(), "{engine}");
    }
}

#[test]
fn an_import_from_derivation_is_refused_where_the_setting_says_so() {
    let Some(fixtures) = fixtures() else { return };
    let app = app(IMPORTS);
    let config = config(app.path(), &[("NIX_ALLOW_IMPORT_FROM_DERIVATION", "false")]);
    let proot = |_: &Path| Ok(fixtures.proot.clone());
    let mut nix = nix_outside(&fixtures, &config);
    nix.enable_building(Vec::new(), &proot).unwrap();
    let error = evaluate(&nix, app.path(), &config).unwrap_err();
    let ExpressionError::Evaluation(said) = &error else {
        panic!("{error:?}");
    };
    assert!(said.contains("allow-import-from-derivation"), "{said}");
}

/// A Nix that was moved out of the store, as PRoot needs it.
fn nix_outside(fixtures: &Fixtures, config: &Config) -> Nix {
    let unpack = |target: &Target| -> Result<_, ArchiveError> {
        archive::unpack_release(&fixtures.nix_archive, target)
    };
    let (nix, _) = Nix::unpacked(&unpack, &no_proot, supply(config)).unwrap();
    nix
}

#[test]
fn nothing_is_written_for_an_evaluation_that_reads_nothing_back() {
    let Some(fixtures) = fixtures() else { return };
    let name = |text: &str| {
        format!(
            "derivation {{ name = {text}; system = \"x86_64-linux\"; builder = \"/bin/sh\"; src = ./.; }}"
        )
    };
    for (text, thorough) in [
        ("\"app\"", false),
        (
            "if builtins.pathExists \"${./.}/default.nix\" then \"app\" else \"wrong\"",
            true,
        ),
        ("builtins.readFile (builtins.toFile \"name\" \"app\")", true),
    ] {
        let app = app(&name(text));
        let config = config(app.path(), &[]);
        let nix = nix_in_place(&fixtures, &config);
        let outcome = evaluate(&nix, app.path(), &config).unwrap();
        assert_eq!(outcome.roots[0].path.name(), "app");
        assert_eq!(outcome.thorough, thorough, "{text}");
    }
}

#[test]
fn every_fetcher_of_the_stand_in_gives_what_nixpkgs_s_own_would() {
    let Some(hydra) = Hydra::new() else { return };
    let files = TempDir::new().unwrap();
    output(
        Command::new("tar")
            .arg("-C")
            .arg(hydra.directory.path().join("nixpkgs"))
            .arg("-czf")
            .arg(files.path().join("x.tar.gz"))
            .arg("source"),
    );
    fs::write(files.path().join("x.txt"), "x").unwrap();
    let server = Server::start(files.path()).unwrap();
    let url = server.url().trim_end_matches('/').to_string();
    let text = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    let nixpkgs = &hydra.sha256;
    let cache = hydra.cache();
    let root = |source: &str| {
        let app = app(&format!(
            "derivation {{ name = \"x\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; src = {source}; }}"
        ));
        one(
            &hydra.fixtures,
            app.path(),
            &[("NIX_EXTRA_BINARY_CACHE", &cache)],
        )
        .path
    };
    // A derivation of which only name and hash count, as nixpkgs's are.
    let fixed = |name: &str, mode: &str, hash: &str| {
        root(&format!(
            "derivation {{ name = \"{name}\"; system = \"x86_64-linux\"; builder = \"/bin/sh\";
               outputHashMode = \"{mode}\"; outputHashAlgo = \"sha256\"; outputHash = \"{hash}\"; }}"
        ))
    };
    let fetched = |call: &str| root(&format!("(import <nixpkgs> {{ }}).{call}"));
    let source = fixed("source", "recursive", nixpkgs);
    for call in [
        format!(
            "fetchFromGitLab {{ group = \"g\"; owner = \"o\"; repo = \"r\"; rev = \"v1\"; hash = \"{nixpkgs}\"; }}"
        ),
        format!(
            "fetchFromGitHub {{ owner = \"o\"; repo = \"r\"; tag = \"v1\"; sha256 = \"{nixpkgs}\"; }}"
        ),
        format!("fetchzip {{ url = \"{url}/x.tar.gz\"; sha256 = \"{nixpkgs}\"; }}"),
    ] {
        assert_eq!(fetched(&call), source, "{call}");
    }
    assert_eq!(
        fetched(&format!(
            "fetchurl {{ url = \"{url}/x.txt\"; sha256 = \"{text}\"; }}"
        )),
        fixed("x.txt", "flat", text)
    );
    let rev = "3f96280da0ebc578599130c55c283036b51a9e91";
    for (url, name) in [
        ("https://example.org/o/repo.git", "repo-3f96280"),
        ("https://example.org/o/repo/", "repo-3f96280"),
        ("git@example.org:repo.git", "repo-3f96280"),
    ] {
        let call = format!(
            "\"${{((import <nixpkgs> {{ }}).fetchgit {{ url = \"{url}\"; rev = \"{rev}\"; sha256 = \"{nixpkgs}\"; }}).name}}\""
        );
        assert_eq!(root(&call), root(&format!("\"{name}\"")), "{url}");
    }
}

#[test]
fn an_answer_is_taken_of_a_nix_that_crashes_when_it_has_given_it() {
    let app = app("{ }");
    let bin = TempDir::new().unwrap();
    let config = config(app.path(), &[]);
    let answer = r#"[{ "kind": "derivation", "outputs": [{ "output": "out", "path": "PATH" }] }]"#;
    let path = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp";
    let answer = answer.replace("PATH", path);
    for (printed, is_whole) in [(format!("{answer}\\n"), true), (answer, false)] {
        let script = format!("#!/bin/sh\nprintf '{printed}'\nkill -SEGV $$\n");
        let program = bin.path().join("nix-instantiate");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let nix = Nix::new(bin.path().to_path_buf(), supply(&config)).unwrap();
        let outcome = evaluate(&nix, app.path(), &config);
        let roots = outcome.map(|outcome| outcome.roots[0].path.to_absolute_path());
        assert_eq!(roots.ok().as_deref(), is_whole.then_some(path));
    }
}

#[test]
fn the_first_nix_on_path_that_is_new_enough_is_taken() {
    let Some(fixtures) = fixtures() else { return };
    let bin = Path::new(&fixtures.nix).join("bin");
    let old = TempDir::new().unwrap();
    let program = old.path().join("nix-instantiate");
    fs::write(&program, "#!/bin/sh\necho 'nix-instantiate (Nix) 2.33.9'\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = |directories: &[&Path]| std::env::join_paths(directories).unwrap();
    let (found, version) = Nix::on_path(&path(&[old.path(), &bin])).unwrap();
    assert_eq!(found, bin);
    assert_eq!(version.to_string(), fixtures.nix_version);
    assert_eq!(Nix::on_path(&path(&[old.path()])), None);
}
