//! The two sides are made to differ with real Nix, and the doctor says in what.

use crate::common::{Deploy, caches, copy, fixtures, nix, output};
use crate::evaluate::evaluate_fully;
use crate::hydra_server::{HydraServer, State, build, eval, git, revision};
use binary_cache::{PathInfo, Trust};
use closure::Closure;
use http_client::Http;
use hydra::Hydra;
use nix_derivation::{Derivation, NixHash, StorePath};
use nix_hydra_buildpack::config::{Config, Wanted};
use nix_hydra_buildpack::doctor::stores::EvaluatedStore;
use nix_hydra_buildpack::doctor::{Diagnosis, Evaluated, diagnose};
use nix_hydra_buildpack::resolve::source::Source;
use platform::fixtures::Fixtures;
use platform::server::{Request, Response, Server};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// An app that needs nothing but its source; what it takes from outside has defaults.
const PLAIN: &str = r#"
{ system ? "x86_64-linux", version ? "1.0", rev ? "", shell ? "/bin/sh" }:
derivation {
  name = "myapp";
  inherit system version;
  builder = shell;
  args = [ "-c" "cp -r $src $out" ];
  src = ./.;
  banner = "myapp ${version} ${rev}";
}
"#;

/// One that takes `part` from nixpkgs.
fn with_nixpkgs(part: &str) -> String {
    format!(
        r#"
{{ pkgs ? import <nixpkgs> {{ }} }}:
derivation {{
  name = "myapp";
  system = "x86_64-linux";
  builder = "/bin/sh";
  src = ./.;
  inherit (pkgs) {part};
}}
"#
    )
}

/// One whose builder is a script of nixpkgs, as that of `stdenv.mkDerivation` is, and which has scripts and
/// a part of the tree of its own.
const WITH_SCRIPTS: &str = r#"
{ pkgs ? import <nixpkgs> { } }:
derivation {
  name = "myapp";
  system = "x86_64-linux";
  builder = "/bin/sh";
  args = [ "-e" pkgs.setup ];
  install = ./install.sh;
  src = builtins.path {
    path = ./.;
    name = "only-bin";
    filter = path: _: builtins.match ".*/bin(/.*)?" path != null;
  };
  inherit (pkgs) curl;
}
"#;

/// One that is all in its arguments.
const VARIED: &str = r#"
{ extra ? false, outputs ? [ "out" ], flag ? "-c", called ? "source", level ? 1 }:
let
  tool = derivation { name = "tool-1.0"; system = "x86_64-linux"; builder = "/bin/sh"; };
in
derivation (
  {
    name = "myapp";
    system = "x86_64-linux";
    builder = "/bin/sh";
    args = [ flag "make" ];
    src = builtins.path { path = ./.; name = called; };
    inherit outputs;
    __structuredAttrs = true;
    optimise.level = level;
  }
  // (if extra then { needs.tool = tool; } else { })
)
"#;

/// One whose source leaves files out, but is named after the whole.
const FILTERED: &str = r#"
derivation {
  name = "myapp";
  system = "x86_64-linux";
  builder = "/bin/sh";
  src = builtins.filterSource (path: type: baseNameOf path == "main.py") ./.;
}
"#;

/// Stands in for nixpkgs: what matters is that all is made with a `stdenv` that is made of a file.
fn nixpkgs(version: &str) -> String {
    format!(
        r#"{{ }}:
rec {{
  stdenv = derivation {{
    name = "stdenv-linux"; system = "x86_64-linux"; builder = "/bin/sh"; setup = ./setup.sh;
    shell = "bash-5.{version}";
  }};
  zlib = derivation {{
    name = "zlib-1.{version}"; system = "x86_64-linux"; builder = "/bin/sh"; inherit stdenv;
  }};
  setup = ./setup.sh;
  curl = derivation {{
    name = "curl-8.{version}"; system = "x86_64-linux"; builder = "/bin/sh"; inherit stdenv zlib;
  }};
  fetched = let rev = builtins.hashString "sha1" "{version}"; in derivation {{
    name = "source"; system = "x86_64-linux"; builder = "/bin/sh"; inherit rev;
    urls = [ "https://example.org/archive/${{rev}}.tar.gz" ];
    outputHash = builtins.hashString "sha256" "{version}"; outputHashAlgo = "sha256";
  }};
}}
"#
    )
}

fn write(directory: &Path, name: &str, text: &str) {
    let file = directory.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

fn executable(directory: &Path, name: &str, mode: u32) {
    fs::set_permissions(directory.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// Both sides of one case, before they are evaluated.
struct Case {
    name: &'static str,
    directory: TempDir,
    /// Arguments of the expression on Hydra's side.
    arguments: String,
    settings: Vec<(&'static str, String)>,
    outside: bool,
    source_name: &'static str,
}

impl Case {
    fn new(name: &'static str, expression: &str, differ: impl FnOnce(&mut Self)) -> Self {
        let directory = TempDir::new().unwrap();
        let mut case = Self {
            name,
            directory,
            arguments: String::new(),
            settings: Vec::new(),
            outside: false,
            source_name: "source",
        };
        for side in [case.here(), case.there()] {
            write(&side, "default.nix", expression);
            write(&side, "main.py", "print('hello')\nprint('world')\n");
            write(&side, "bin/run", "#!/bin/sh\n");
            executable(&side, "bin/run", 0o755);
        }
        differ(&mut case);
        case
    }

    fn here(&self) -> PathBuf {
        self.directory.path().join("here")
    }

    fn there(&self) -> PathBuf {
        self.directory.path().join("myapp-checkout")
    }

    fn both(&self, name: &str, text: &str) {
        write(&self.here(), name, text);
        write(&self.there(), name, text);
    }

    fn argument(&mut self, name: &str, value: &str) {
        write!(self.arguments, "{name} = \"{value}\";").unwrap();
    }

    /// Hydra's checkout, by its name.
    fn checkout(&self) -> PathBuf {
        let checkout = self.directory.path().join(self.source_name);
        if !checkout.exists() {
            copy(&self.there(), &checkout);
            for link in fs::read_dir(self.there()).unwrap().flatten() {
                if link.file_type().unwrap().is_symlink() {
                    let target = checkout.join(link.file_name());
                    fs::remove_file(&target).unwrap();
                    symlink(fs::read_link(link.path()).unwrap(), target).unwrap();
                }
            }
        }
        checkout
    }
}

/// What real Nix makes of Hydra's sides, in one store and one binary cache.
struct Built {
    _store: TempDir,
    cache: TempDir,
    /// A derivation and its output for each case.
    derivations: Vec<(String, String)>,
}

/// `nixpkgs` is what `<nixpkgs>` is for all of them.
fn build_all(fixtures: &Fixtures, cases: &[Case], nixpkgs: &Path) -> Built {
    let (store, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let lines = |text: String| text.lines().map(str::to_string).collect::<Vec<_>>();
    let run = |program: &str| nix(fixtures, program, store.path());
    let sources = lines(output(
        run("nix-store")
            .args(["--add-fixed", "--recursive", "sha256"])
            .args(cases.iter().map(Case::checkout)),
    ));
    let mut expression = String::from("[");
    for (case, source) in cases.iter().zip(&sources) {
        let outside = case.there();
        let place = if case.outside {
            outside.to_str().unwrap()
        } else {
            source
        };
        write!(
            expression,
            "(let v = import {place}/default.nix; in if builtins.isFunction v then v {{ {} }} else v)",
            case.arguments
        )
        .unwrap();
    }
    expression.push(']');
    let instantiated = lines(output(
        run("nix-instantiate")
            .arg("-I")
            .arg(format!("nixpkgs={}", nixpkgs.display()))
            .args(["--expr", &expression]),
    ));
    // Where it is not `out`, the name of the output that it stands for follows.
    let derivations: Vec<_> = instantiated
        .iter()
        .map(|path| path.split('!').next().unwrap().to_string())
        .collect();
    let output_of = |derivation: &String| {
        let text = fs::read(store.path().join(derivation.trim_start_matches('/'))).unwrap();
        let path: StorePath = derivation.parse().unwrap();
        let name = path.name().strip_suffix(".drv").unwrap();
        let derivation = Derivation::from_aterm_bytes(&text, name).unwrap();
        let outputs = derivation.resolved_outputs().unwrap();
        outputs["out"].path.as_ref().unwrap().to_absolute_path()
    };
    let outputs: Vec<_> = derivations.iter().map(output_of).collect();
    let to = format!(
        "file://{}?secret-key={}&compression=zstd",
        cache.path().display(),
        fixtures.secret_key_file.display()
    );
    let copy = |options: &[&str], paths: &[String]| {
        let mut command = run("nix");
        output(
            command
                .args(["copy", "--to", &to])
                .args(options)
                .args(paths),
        );
    };
    copy(&["--derivation"], &derivations);
    // Hydra serves all that is in its store, also the checkouts that nothing refers to.
    copy(&[], &sources);
    Built {
        _store: store,
        cache,
        derivations: derivations.into_iter().zip(outputs).collect(),
    }
}

/// A Hydra that serves its store, with one build.
struct HydraSide {
    state: HydraServer,
    server: Server,
}

impl HydraSide {
    fn new(cache: &Path, fill: impl FnOnce(&mut State)) -> Self {
        let state = HydraServer::new(fill);
        let server = Server::with_hook(cache, state.hook()).unwrap();
        Self { state, server }
    }

    fn build(&self, (derivation, path): &(String, String)) {
        let mut made = build(10, &[1], path);
        made["drvpath"] = json!(derivation);
        let mut state = self.state.state();
        state.evals.clear();
        let inputs = json!({
            "my-project": git("https://git.acme.net/my-project", &revision('a')),
            "nixpkgs": git("https://github.com/NixOS/nixpkgs", &revision('0')),
        });
        state.add(eval(1, &inputs), made);
    }

    fn text(&self, diagnosis: &Diagnosis) -> String {
        let text = format!("{}\n\n{}", diagnosis.answer(), diagnosis.explanation());
        assert!(text.lines().count() <= 45, "more than one page: {text}");
        text.replace(&self.server.url(), "http://hydra")
    }
}

/// Evaluates the app as a build does, and has it diagnosed.
fn diagnosis(
    fixtures: &Fixtures,
    app: &Path,
    settings: &[(&str, String)],
    server: Option<&Server>,
) -> Diagnosis {
    look(fixtures, app, settings, server, None)
}

/// A root that no binary cache has.
struct Missing<'a> {
    /// The directory of a binary cache.
    cache: &'a Path,
    /// The names of the derivations whose outputs it has as well.
    present: &'a [&'a str],
    /// The derivation and the output that it has of the same name, in the previous image.
    before: Option<&'a (String, String)>,
    /// Paths that are in the previous image besides.
    also_before: Vec<StorePath>,
}

impl Missing<'_> {
    /// A server of the cache, which promises what `made` has of the names.
    fn server(&self, made: &BTreeSet<StorePath>) -> Server {
        let is_present = |path: &&StorePath| self.present.contains(&path.name());
        let mut promised: BTreeMap<String, String> = made
            .iter()
            .filter(is_present)
            .map(|path| narinfo(path, ""))
            .collect();
        if let Some((derivation, output)) = self.before {
            let base_name = derivation.trim_start_matches("/nix/store/");
            promised.extend([narinfo(&output.parse().unwrap(), base_name)]);
        }
        let hook = move |request: &Request| {
            let narinfo = promised.get(&request.path)?;
            Some(Response::new(200).body(narinfo.as_str()))
        };
        Server::with_hook(self.cache, hook).unwrap()
    }

    fn closure(&self) -> Option<Closure> {
        let (_, output) = self.before?;
        let root: StorePath = output.parse().unwrap();
        let info = PathInfo {
            nar_hash: NixHash::Sha256([7; 32]),
            nar_size: 1,
            references: BTreeSet::new(),
            trust: Trust::Signed,
            content: None,
            source: None,
        };
        let paths = self.also_before.iter().chain([&root]);
        Some(Closure {
            paths: paths.map(|path| (path.clone(), info.clone())).collect(),
            roots: vec![root],
        })
    }
}

/// The place of a narinfo, and the narinfo.
fn narinfo(path: &StorePath, deriver: &str) -> (String, String) {
    let hash = path.to_basename()[..32].to_string();
    let zeros = "0".repeat(52);
    let text = format!(
        "StorePath: {path}\nURL: nar/x\nNarHash: sha256:{zeros}\nNarSize: 120\nReferences: \nDeriver: {deriver}\n"
    );
    (format!("/{hash}.narinfo"), text)
}

fn look(
    fixtures: &Fixtures,
    app: &Path,
    settings: &[(&str, String)],
    server: Option<&Server>,
    missing: Option<&Missing>,
) -> Diagnosis {
    let setting = |name: &str| {
        let found = settings.iter().find(|(set, _)| *set == name);
        found.map(|(_, value)| value.clone())
    };
    let config = Config::read(setting, app).unwrap();
    let (Wanted::Expression(expression) | Wanted::HydraJob(_, Some(expression))) = &config.wanted
    else {
        panic!("an expression");
    };
    let source = Source::read(app, &config.source_name).unwrap();
    let (nix, roots) = evaluate_fully(fixtures, &source, expression, &config);
    let before = missing.and_then(Missing::closure);
    let evaluated = Evaluated {
        store: nix.store(),
        root: &roots[0].path,
        source: &source,
        expression,
        system: "x86_64-linux",
        is_missing: missing.is_some(),
        before: before.as_ref(),
    };
    let mut hydra = server.map(|server| Hydra::new(server.url().parse().unwrap(), Http::new()));
    let hydra = hydra.as_mut().ok_or("There is no Hydra to ask".to_string());
    let made = EvaluatedStore(nix.store()).outputs();
    let cache = missing.map(|missing| missing.server(&made));
    let urls: Vec<String> = server
        .or(cache.as_ref())
        .iter()
        .map(|it| it.url())
        .collect();
    diagnose(&evaluated, &config, hydra, |_| {
        caches(&urls, &[&fixtures.public_key], true)
    })
}

fn git_in(directory: &Path, arguments: &[&str]) {
    output(
        Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(["-c", "core.autocrlf=false", "-C"])
            .arg(directory)
            .args(arguments),
    );
}

#[allow(
    clippy::too_many_lines,
    reason = "a table of differences, a few lines each"
)]
fn cases(pins: &Path) -> Vec<Case> {
    let job = |case: &mut Case| {
        case.settings
            .push(("NIX_HYDRA_JOB", "acme/main/myapp".to_string()));
    };
    vec![
        Case::new("stray_file", PLAIN, |case| {
            write(&case.here(), "main.pyc", "x");
        }),
        Case::new("many_stray_files", PLAIN, |case| {
            for number in 0..20 {
                write(&case.here(), &format!("node_modules/{number:02}.js"), "x");
            }
        }),
        Case::new("executable_bit", PLAIN, |case| {
            executable(&case.here(), "bin/run", 0o644);
        }),
        Case::new("line_endings", PLAIN, |case| {
            write(
                &case.here(),
                "main.py",
                "print('hello')\r\nprint('world')\r\n",
            );
        }),
        Case::new("missing_submodule", PLAIN, |case| {
            let modules = "[submodule \"foo\"]\n\tpath = vendor/foo\n\turl = ../foo\n";
            case.both(".gitmodules", modules);
            write(&case.there(), "vendor/foo/foo.c", "int foo;\n");
        }),
        Case::new("submodule_of_submodule", PLAIN, |case| {
            let modules =
                |path: &str| format!("[submodule \"x\"]\n\tpath = {path}\n\turl = ../x\n");
            case.both(".gitmodules", &modules("vendor"));
            case.both("vendor/.gitmodules", &modules("deep"));
            write(&case.here(), "vendor/deep/file", "x");
            fs::create_dir(case.there().join("vendor/deep")).unwrap();
        }),
        Case::new("empty_directory", PLAIN, |case| {
            let modules = "[submodule \"x\"]\n\tpath = vendor\n\turl = ../x\n";
            case.both(".gitmodules", modules);
            fs::create_dir(case.there().join("vendor")).unwrap();
        }),
        Case::new("git_export", PLAIN, |case| case.source_name = "git-export"),
        Case::new("git_export_cured", PLAIN, |case| {
            case.source_name = "git-export";
            let name = "git-export".to_string();
            case.settings.push(("NIX_SOURCE_NAME", name));
        }),
        Case::new("outside_the_store", PLAIN, |case| case.outside = true),
        Case::new("nixpkgs", &with_nixpkgs("curl"), |case| {
            for (name, version) in [("ours", "2"), ("theirs", "3")] {
                write(pins, &format!("{name}/default.nix"), &nixpkgs(version));
                write(
                    pins,
                    &format!("{name}/setup.sh"),
                    &format!("echo {version}\n"),
                );
            }
            let path = format!("nixpkgs={}", pins.join("ours").display());
            case.settings.push(("NIX_PATH", path));
        }),
        // `fetched` is at a commit.
        Case::new("nixpkgs_fetched", &with_nixpkgs("fetched"), |case| {
            let path = format!("nixpkgs={}", pins.join("ours").display());
            case.settings.push(("NIX_PATH", path));
        }),
        Case::new("nixpkgs_scripts", WITH_SCRIPTS, |case| {
            case.both("install.sh", "");
            let path = format!("nixpkgs={}", pins.join("ours").display());
            case.settings.push(("NIX_PATH", path));
        }),
        Case::new("own_scripts", WITH_SCRIPTS, |case| {
            write(&case.here(), "install.sh", "here\n");
            write(&case.there(), "install.sh", "there\n");
            write(&case.here(), "bin/stray", "");
            let path = format!("nixpkgs={}", pins.join("theirs").display());
            case.settings.push(("NIX_PATH", path));
        }),
        Case::new("system", PLAIN, |case| {
            case.argument("system", "aarch64-linux");
        }),
        Case::new("revision", PLAIN, |case| {
            case.argument("rev", &revision('a'));
        }),
        Case::new("short_revision", PLAIN, |case| {
            case.argument("version", "1.0pre12_aaaaaaa");
        }),
        Case::new("uncommitted", PLAIN, |case| {
            git_in(&case.here(), &["init", "--quiet"]);
            git_in(&case.here(), &["add", "--all"]);
            git_in(&case.here(), &["commit", "--quiet", "--message", "all"]);
            write(&case.here(), "main.py", "print('changed')\n");
            write(&case.here(), "new/file.py", "");
        }),
        Case::new("lfs", PLAIN, |case| {
            write(&case.here(), "data.bin", "the file itself");
            let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 15\n";
            write(&case.there(), "data.bin", pointer);
        }),
        Case::new("export_subst", PLAIN, |case| {
            write(&case.here(), "version.txt", "0123456\n");
            write(&case.there(), "version.txt", "$Format:%h$\n");
        }),
        Case::new("left_out", PLAIN, |case| {
            write(&case.there(), "tests/data.txt", "x");
            write(&case.there(), "tests/test.py", "x");
        }),
        Case::new("link", PLAIN, |case| {
            write(&case.here(), "latest.py", "main.py");
            symlink("main.py", case.there().join("latest.py")).unwrap();
        }),
        Case::new("content", PLAIN, |case| {
            write(&case.here(), "main.py", "print('hello, world')\n");
        }),
        Case::new("filtered", FILTERED, |case| {
            write(&case.here(), "notes.txt", "x");
        }),
        Case::new("variable", PLAIN, |case| case.argument("version", "2.0")),
        Case::new("builder", PLAIN, |case| case.argument("shell", "/bin/bash")),
        Case::new("dependency_more", VARIED, |case| {
            case.arguments.push_str("extra = true;");
        }),
        Case::new("outputs", VARIED, |case| {
            case.arguments.push_str("outputs = [ \"out\" \"doc\" ];");
        }),
        Case::new("arguments", VARIED, |case| case.argument("flag", "-ec")),
        Case::new("other_name", VARIED, |case| case.argument("called", "app")),
        Case::new("structured", VARIED, |case| {
            case.arguments.push_str("level = 2;");
        }),
        Case::new("nothing", PLAIN, job),
    ]
}

#[test]
fn each_cause_is_named_with_its_cure() {
    let Some(fixtures) = fixtures() else { return };
    let pins = TempDir::new().unwrap();
    let cases = cases(pins.path());
    let built = build_all(&fixtures, &cases, &pins.path().join("theirs"));
    let text = |(case, built_case): (&Case, &(String, String))| {
        let hydra = HydraSide::new(built.cache.path(), |_| {});
        hydra.build(built_case);
        let server = Some(&hydra.server);
        let found = diagnosis(&fixtures, &case.here(), &case.settings, server);
        let pins = pins.path().to_str().unwrap();
        (case.name, hydra.text(&found).replace(pins, "/pins"))
    };
    let all: Vec<_> = cases.iter().zip(&built.derivations).collect();
    let texts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .chunks(all.len().div_ceil(3))
            .map(|some| scope.spawn(|| some.iter().map(|case| text(*case)).collect::<Vec<_>>()))
            .collect();
        let texts = threads.into_iter().map(|thread| thread.join().unwrap());
        texts.flatten().collect()
    });
    for (name, text) in texts {
        insta::assert_snapshot!(name, text);
    }
}

#[test]
fn a_revision_that_no_evaluation_has_is_compared_with_the_newest() {
    let Some(fixtures) = fixtures() else { return };
    let case = |name, differ: fn(&mut Case)| Case::new(name, PLAIN, differ);
    let cases = [
        case("same", |_| {}),
        case("stray", |case| write(&case.here(), "main.pyc", "x")),
    ];
    let built = build_all(&fixtures, &cases, Path::new("/none"));
    let settings = [
        ("NIX_HYDRA_JOB", "acme/main/myapp".to_string()),
        ("NIX_REVISION", revision('d')),
    ];
    let texts: Vec<_> = cases
        .iter()
        .zip(&built.derivations)
        .map(|(case, derivation)| {
            let hydra = HydraSide::new(built.cache.path(), |_| {});
            hydra.build(derivation);
            let found = diagnosis(&fixtures, &case.here(), &settings, Some(&hydra.server));
            hydra.text(&found)
        })
        .collect();
    // Nothing new was built of it, so there is no evaluation of it to wait for.
    assert!(texts[0].starts_with("The derivation evaluated here is the one that Hydra built\n"));
    insta::assert_snapshot!(texts[1]);
}

/// Against a Hydra whose derivations nobody serves.
#[test]
fn what_hydra_says_of_the_build_is_told_where_nothing_can_be_compared() {
    let Some(fixtures) = fixtures() else { return };
    let case = Case::new("facts", PLAIN, |_| {});
    let nothing = TempDir::new().unwrap();
    let hydra = HydraSide::new(nothing.path(), |_| {});
    let job = ("NIX_HYDRA_JOB", "acme/main/myapp".to_string());
    let other = "/nix/store/ab9zv2y5gm8hr6g318p0s6kaclwj4slr-myapp.drv".to_string();
    let path = "/nix/store/y26qxcq1gg2hrqpxdc58b2fghv2bhxjg-myapp".to_string();
    hydra.build(&(other, path));
    let look = |settings: &[(&str, String)]| {
        let found = diagnosis(&fixtures, &case.here(), settings, Some(&hydra.server));
        hydra.text(&found)
    };
    let named = |digit| ("NIX_REVISION", revision(digit));
    let mut texts = vec![look(&[job.clone(), named('a')])];
    texts.push(look(&[job.clone(), named('d')]));
    // The newest has no such job.
    let jobs = std::mem::take(&mut hydra.state.state().jobs);
    texts.push(look(&[job.clone(), named('d')]));
    hydra.state.state().jobs = jobs;
    // Found by its name, of another revision.
    texts.push(look(&[named('d')]));
    let change = |key: &str, value: serde_json::Value| {
        hydra.state.state().builds.get_mut(&10).unwrap()[key] = value;
    };
    change("system", json!("aarch64-linux"));
    texts.push(look(std::slice::from_ref(&job)));
    change("system", json!("x86_64-linux"));
    change("buildstatus", json!(1));
    texts.push(look(std::slice::from_ref(&job)));
    change("finished", json!(0));
    texts.push(look(std::slice::from_ref(&job)));
    hydra.state.state().builds.clear();
    texts.push(look(&[]));
    insta::assert_snapshot!(texts.join("\n\n==========\n\n"));
}

#[test]
fn why_hydra_could_not_be_asked_is_told() {
    let Some(fixtures) = fixtures() else { return };
    let case = Case::new("closed", PLAIN, |_| {});
    let closed = Server::with_hook("/nonexistent", |_| Some(Response::new(401))).unwrap();
    let found = diagnosis(&fixtures, &case.here(), &[], Some(&closed));
    let text = found.explanation().replace(&closed.url(), "http://hydra");
    let why = "http://hydra could not be asked: Hydra cannot be asked without credentials \
               (http://hydra/search?query=-myapp.drv: HTTP status 401 Unauthorized; no credentials for it were found).";
    assert!(text.contains(why), "{text}");
    // Also where it is only one of the binary caches.
    let hook = |request: &Request| (request.path == "/api/queue").then(|| Response::new(401));
    let Some(mut deploy) = Deploy::with_hook("static", hook) else {
        return;
    };
    deploy.set("NIX_DEBUG", "doctor");
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let log = deploy.stable(&outcome.log);
    let why = "Hydra cannot be asked without credentials \
               (http://cache/api/queue?nr=1: HTTP status 401 Unauthorized; no credentials for it were found)";
    assert!(log.contains(why), "{log}");
}

#[test]
fn without_a_hydra_what_enters_and_what_is_not_pinned_is_told() {
    let Some(fixtures) = fixtures() else { return };
    let mut texts = Vec::new();
    let pins = TempDir::new().unwrap();
    write(pins.path(), "default.nix", &nixpkgs("2"));
    write(pins.path(), "setup.sh", "");
    let nix_path = ("NIX_PATH", format!("nixpkgs={}", pins.path().display()));
    let unpinned = Case::new("unpinned", &with_nixpkgs("curl"), |_| {});
    let nothing = Case::new("nothing", PLAIN, |case| {
        // Nothing pins it, and nothing evaluates it; it would be the stand-in, the same everywhere.
        case.both("old.nix", "import <nixpkgs> { }\n");
    });
    let uncommitted = cases(pins.path())
        .into_iter()
        .find(|case| case.name == "uncommitted");
    let submodule = Case::new("submodule", PLAIN, |case| {
        case.both(".gitmodules", "[submodule \"foo\"]\n\tpath = vendor/foo\n");
    });
    for (case, settings) in [
        (&unpinned, vec![nix_path]),
        (&nothing, Vec::new()),
        (&uncommitted.unwrap(), Vec::new()),
        (&submodule, Vec::new()),
    ] {
        let found = diagnosis(&fixtures, &case.here(), &settings, None);
        let text = format!("{}\n\n{}", found.answer(), found.explanation());
        texts.push(text.replace(pins.path().to_str().unwrap(), "/pins"));
    }
    insta::assert_snapshot!(texts.join("\n\n==========\n\n"));
}

/// One that is made with a library of its own and with what nixpkgs has.
const WITH_LIBRARY: &str = r#"
let
  pkgs = import ./nixpkgs.nix { };
  library = derivation {
    name = "library-1.0"; system = "x86_64-linux"; builder = "/bin/sh"; inherit (pkgs) stdenv zlib;
  };
in
derivation {
  name = "myapp-1.0";
  system = "x86_64-linux";
  builder = "/bin/sh";
  src = builtins.path { path = ./main.py; name = "main.py"; };
  inherit library;
  inherit (pkgs) stdenv curl;
}
"#;

#[test]
fn a_miss_without_a_hydra_is_explained_by_what_the_caches_and_the_previous_image_have() {
    let Some(fixtures) = fixtures() else { return };
    let case = |name, differ: fn(&mut Case)| {
        Case::new(name, WITH_LIBRARY, |case| {
            case.both("nixpkgs.nix", &nixpkgs("2"));
            case.both("setup.sh", "");
            differ(case);
        })
    };
    let cases = [
        case("miss_alike", |_| {}),
        case("miss_source", |case| {
            write(&case.here(), "main.py", "print('new')\n");
        }),
        case("miss_nixpkgs", |case| {
            write(&case.here(), "nixpkgs.nix", &nixpkgs("3"));
        }),
        case("miss_uncommitted", |case| {
            git_in(&case.here(), &["init", "--quiet"]);
            git_in(&case.here(), &["add", "--all"]);
            git_in(&case.here(), &["commit", "--quiet", "--message", "all"]);
            write(&case.here(), "main.py", "print('changed')\n");
        }),
    ];
    let built = build_all(&fixtures, &cases, Path::new("/none"));
    let [alike, source, nixpkgs, uncommitted] = &cases;
    let nothing = TempDir::new().unwrap();
    write(nothing.path(), "nix-cache-info", "StoreDir: /nix/store\n");
    let text = |case: &Case, missing: &Missing| {
        let found = look(&fixtures, &case.here(), &[], None, Some(missing));
        let text = format!("{}\n\n{}", found.answer_to_miss(), found.explanation());
        assert!(text.lines().count() <= 45, "more than one page: {text}");
        text
    };
    let none = |present| Missing {
        cache: nothing.path(),
        present,
        before: None,
        also_before: Vec::new(),
    };
    let all = ["library-1.0", "stdenv-linux", "zlib-1.2", "curl-8.2"];
    insta::assert_snapshot!("miss_alone", text(alike, &none(&all)));
    insta::assert_snapshot!("miss_with_a_library", text(alike, &none(&all[1..])));
    insta::assert_snapshot!("miss_with_everything", text(alike, &none(&[])));
    insta::assert_snapshot!("miss_uncommitted", text(uncommitted, &none(&all)));
    // The cache has the previous image's derivation, which is the same for all.
    let known = |case: &Case| {
        let missing = Missing {
            cache: built.cache.path(),
            before: Some(&built.derivations[0]),
            ..none(&[])
        };
        text(case, &missing)
    };
    insta::assert_snapshot!("miss_source", known(source));
    insta::assert_snapshot!("miss_nixpkgs", known(nixpkgs));
    // It has the outputs alone.
    let path = |name: &str| -> StorePath {
        format!("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-{name}")
            .parse()
            .unwrap()
    };
    let unknown = Missing {
        before: Some(&built.derivations[0]),
        also_before: vec![path("zlib-1.1"), path("unrelated-1")],
        ..none(&all[1..])
    };
    insta::assert_snapshot!("miss_other_paths", text(nixpkgs, &unknown));
    let same = Missing {
        before: Some(&built.derivations[0]),
        ..none(&all)
    };
    insta::assert_snapshot!("miss_collected", text(alike, &same));
}

/// The whole way, with the stray file that a platform left.
#[test]
fn a_deploy_whose_path_is_missing_ends_with_the_doctor_s_answer() {
    let Some(fixtures) = fixtures() else { return };
    let case = Case::new("deploy", PLAIN, |_| {});
    let built = build_all(&fixtures, std::slice::from_ref(&case), Path::new("/none"));
    let hydra = HydraSide::new(built.cache.path(), |_| {});
    hydra.build(&built.derivations[0]);
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    for file in fs::read_dir(deploy.app()).unwrap().flatten() {
        if file.path().is_dir() {
            fs::remove_dir_all(file.path()).unwrap();
        } else {
            fs::remove_file(file.path()).unwrap();
        }
    }
    copy(&case.there(), deploy.app());
    write(deploy.app(), ".platform/env", "x");
    let url = hydra.server.url();
    deploy.set("NIX_EXTRA_BINARY_CACHE", &url);
    let outcome = deploy.build();
    assert!(!outcome.success(), "{}", outcome.log);
    let log = deploy.stable(&outcome.log).replace(&url, "http://hydra");
    insta::assert_snapshot!("missing", log);
    // Asked for, it is told of what Hydra deploys as well.
    deploy
        .set("NIX_HYDRA_JOB", "acme/main/myapp")
        .set("NIX_REVISION", &revision('a'))
        .set("NIX_DEBUG", "doctor");
    let path = deploy.fixtures.apps["static"].store_path.clone();
    hydra.state.state().builds.get_mut(&10).unwrap()["buildoutputs"]["out"]["path"] = json!(path);
    let binaries = Server::start(&deploy.fixtures.cache).unwrap();
    deploy.set(
        "NIX_EXTRA_BINARY_CACHE",
        &format!("{url} {}", binaries.url()),
    );
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    let log = deploy.stable(&outcome.log).replace(&url, "http://hydra");
    let start = log.find("- Doctor").unwrap();
    insta::assert_snapshot!(
        "asked_for",
        log[start..].replace(&path, "/nix/store/<app>-myapp")
    );
}
