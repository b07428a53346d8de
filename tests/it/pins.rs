//! What is pinned by a hash comes from the binary caches, whichever fetcher asks for it, and its URL is
//! not waited for.

use crate::common::{fixtures, nix, output};
use crate::evaluate::{config, evaluate, nix_in_place};
use nix_hydra_buildpack::config::{Config, Wanted};
use nix_hydra_buildpack::resolve::expression::{Evaluator, ExpressionError, Outcome};
use nix_hydra_buildpack::resolve::source::Source;
use nix_runner::Nix;
use nix_runner::kept::Kept;
use platform::fixtures::Fixtures;
use platform::nixpkgs::{SMALL, Tree};
use platform::server::Server;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use tempfile::TempDir;

/// A tree that is pinned, which a binary cache has.
pub struct Pinned {
    fixtures: Fixtures,
    url: String,
    cache: TempDir,
    tree: Tree,
    /// A server that takes connections and never says a word.
    silent: TcpListener,
    /// Of a Nix that has the tree in its store.
    native: TempDir,
}

impl Pinned {
    /// With this URL instead of that of a silent server, if one is given.
    pub fn new(url: Option<&str>) -> Option<Self> {
        let fixtures = fixtures()?;
        let cache = TempDir::new().unwrap();
        let tree = Tree::into_cache(&SMALL, "a note", cache.path()).unwrap();
        let native = TempDir::new().unwrap();
        output(
            nix(&fixtures, "nix", native.path())
                .args(["copy", "--no-check-sigs", "--from"])
                .arg(format!("file://{}", cache.path().display()))
                .arg(tree.path.to_absolute_path()),
        );
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        silent.set_nonblocking(true).unwrap();
        let address = silent.local_addr().unwrap();
        Some(Self {
            url: url.map_or_else(
                || format!("http://{address}/nixpkgs.tar.gz"),
                str::to_string,
            ),
            fixtures,
            cache,
            tree,
            silent,
            native,
        })
    }

    /// A text with the tree's hash and its URL, which is silent.
    fn filled(&self, text: &str) -> String {
        text.replace("HASH", &self.tree.sha256())
            .replace("PATH", &self.tree.path.to_absolute_path())
            .replace("URL", &self.url)
    }

    /// An app of these files.
    fn app(&self, files: &[(&str, impl AsRef<str>)]) -> TempDir {
        let app = TempDir::new().unwrap();
        for (name, text) in files {
            let file = app.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, self.filled(text.as_ref())).unwrap();
        }
        app
    }

    /// What real Nix evaluates that has everything in its store.
    fn native_path(&self, app: &Path, file: &str, nix_path: &str) -> String {
        let checkout = TempDir::new().unwrap();
        let checkout = checkout.path().join("source");
        crate::common::copy(app, &checkout);
        let source = output(
            nix(&self.fixtures, "nix-store", self.native.path())
                .args(["--add-fixed", "--recursive", "sha256"])
                .arg(&checkout),
        );
        let expression = if file == "flake.nix" {
            format!("(builtins.getFlake \"path:{source}\").packages.x86_64-linux.default.outPath")
        } else {
            format!("(import {source}/default.nix).outPath")
        };
        let mut command = nix(&self.fixtures, "nix-instantiate", self.native.path());
        command.args([
            "--eval",
            "--json",
            "--read-write-mode",
            "--expr",
            &expression,
        ]);
        // Without flakes flake-compat takes what is in the store, here as there.
        let features = if file == "flake.nix" {
            "nix-command flakes"
        } else {
            "nix-command"
        };
        command.args(["--option", "experimental-features", features]);
        command.env("NIX_PATH", nix_path);
        output(&mut command).trim_matches('"').to_string()
    }

    /// What is evaluated here, without its URL, and what native Nix gets.
    pub fn paths(&self, style: &Style) -> (String, String) {
        let app = self.app(&style.files);
        let cache = format!("file://{}?trusted=true", self.cache.path().display());
        let nix_path = self.filled(style.nix_path);
        let settings = [
            ("NIX_EXTRA_BINARY_CACHE", cache.as_str()),
            ("NIX_PATH", &nix_path),
            ("NIX_FILE", style.file),
        ];
        let config = config(app.path(), &settings);
        let nix = nix_in_place(&self.fixtures, &config);
        let outcome = evaluate(&nix, app.path(), &config).unwrap();
        let name = style.name;
        assert!(self.silent.accept().is_err(), "{name}: the URL was asked");
        assert!(!outcome.thorough, "{name}: it needed all derivations");
        let taken: Vec<_> = nix.taken().into_iter().map(|(path, _)| path).collect();
        assert!(taken.contains(&self.tree.path), "{name}: {taken:?}");
        let ours = outcome.roots[0].path.to_absolute_path();
        // Nor by an evaluation that writes everything.
        let [_, full] = evaluate_twice(&nix, app.path(), &config);
        assert_eq!(full.roots, outcome.roots, "{name}");
        assert!(self.silent.accept().is_err(), "{name}: the URL was asked");
        (ours, self.native_path(app.path(), style.file, &nix_path))
    }
}

/// A way to pin nixpkgs.
pub struct Style {
    pub name: &'static str,
    file: &'static str,
    nix_path: &'static str,
    files: Vec<(&'static str, String)>,
}

impl Style {
    fn new(name: &'static str, text: &'static str) -> Self {
        Self {
            name,
            file: "default.nix",
            nix_path: "",
            files: vec![("app.nix", APP.into()), ("default.nix", text.into())],
        }
    }

    fn and(mut self, name: &'static str, text: &str) -> Self {
        self.files.push((name, text.into()));
        self
    }

    fn flake(name: &'static str, text: &str, lock: &str) -> Self {
        Self {
            name,
            file: "flake.nix",
            nix_path: "",
            files: vec![("app.nix", APP.into())],
        }
        .and("flake.nix", text)
        .and("flake.lock", lock)
    }
}

pub fn styles() -> Vec<Style> {
    let niv = r#"{ "nixpkgs": { "url": "URL", "sha256": "HASH", "type": "tarball" } }"#;
    let npins = r#"{ "version": 5, "pins": { "nixpkgs": { "type": "Channel", "url": "URL", "hash": "HASH" } } }"#;
    let compat = r#"
      let
        lock = builtins.fromJSON (builtins.readFile ./flake.lock);
        fetchTree = builtins.fetchTree or (info: {
          outPath = fetchTarball { url = "URL"; sha256 = info.narHash; };
        });
        nixpkgs = fetchTree lock.nodes.nixpkgs.locked;
      in
      import ./app.nix (import nixpkgs.outPath { })
    "#;
    vec![
        Style::new(
            "nixpkgs by `fetchTarball`",
            r#"import ./app.nix (import (fetchTarball { url = "URL"; sha256 = "HASH"; }) { })"#,
        ),
        Style::new(
            "nixpkgs by niv",
            r"
              let
                sources = builtins.fromJSON (builtins.readFile ./nix/sources.json);
                fetched = builtins.mapAttrs (_: pin: fetchTarball { inherit (pin) url sha256; }) sources;
              in
              import ./app.nix (import fetched.nixpkgs { })
            ",
        )
        .and("nix/sources.json", niv),
        Style::new(
            "nixpkgs by npins",
            r"
              let
                data = builtins.fromJSON (builtins.readFile ./npins/sources.json);
                fetch = pin: builtins.fetchTarball { inherit (pin) url; sha256 = pin.hash; };
              in
              import ./app.nix (import (builtins.mapAttrs (_: fetch) data.pins).nixpkgs { })
            ",
        )
        .and("npins/sources.json", npins),
        Style::flake(
            "nixpkgs as a flake's input",
            r#"{
              inputs.nixpkgs.url = "github:acme/nixpkgs";
              outputs = { self, nixpkgs }: {
                packages.x86_64-linux.default = import ./app.nix nixpkgs.legacyPackages.x86_64-linux;
              };
            }"#,
            &lock(&[]),
        ),
        Style::flake(
            "nixpkgs as a flake's input that another input follows",
            r#"{
              inputs.nixpkgs.url = "github:acme/nixpkgs";
              inputs.again = { url = "github:acme/nixpkgs"; flake = false; };
              outputs = { self, nixpkgs, again }: {
                packages.x86_64-linux.default = import ./app.nix (import again { });
              };
            }"#,
            &lock(&["again"]),
        ),
        Style::new("nixpkgs by flake-compat", compat).and("flake.lock", &lock(&[])),
        Style {
            nix_path: "nixpkgs=PATH",
            ..Style::new(
                "a store path in `NIX_PATH`",
                "import ./app.nix (import <nixpkgs> { })",
            )
        },
    ]
}

const APP: &str = r#"
pkgs: derivation {
  name = "app";
  system = "x86_64-linux";
  builder = "/bin/sh";
  src = ./.;
  dependency = pkgs.p0;
}
"#;

/// A lock file with the tree as the input `nixpkgs`, and as one that is no flake by each of the names `more`.
fn lock(more: &[&str]) -> String {
    let node = |name: &str, flake: &str| {
        format!(
            r#""{name}": {{
              {flake}
              "locked": {{
                "lastModified": 1700000000, "narHash": "HASH", "owner": "acme", "repo": "nixpkgs",
                "rev": "3f96280da0ebc578599130c55c283036b51a9e91", "type": "github"
              }},
              "original": {{ "owner": "acme", "repo": "nixpkgs", "type": "github" }}
            }},"#
        )
    };
    let mut nodes = node("nixpkgs", "");
    let mut inputs = vec![r#""nixpkgs": "nixpkgs""#.to_string()];
    for name in more {
        nodes += &node(name, r#""flake": false,"#);
        inputs.push(format!(r#""{name}": "{name}""#));
    }
    let inputs = inputs.join(", ");
    format!(
        r#"{{ "nodes": {{ {nodes} "root": {{ "inputs": {{ {inputs} }} }} }}, "root": "root", "version": 7 }}"#
    )
}

#[test]
fn whatever_pins_it_a_source_comes_from_the_caches_and_its_silent_url_is_not_asked() {
    let Some(pinned) = Pinned::new(None) else {
        return;
    };
    for style in styles() {
        let (ours, native) = pinned.paths(&style);
        assert_eq!(ours, native, "{}", style.name);
    }
}

/// Takes a package out of the tree; the path of what it gives depends on nothing else.
const BY_TREE: &str = r#"
  tree: derivation {
    name = "app";
    system = "x86_64-linux";
    builder = "/bin/sh";
    dependency = (import tree { }).p0;
  }
"#;

/// How a miss evaluates: at first with nothing written, then in full. Returns both outcomes.
fn evaluate_twice(nix: &Nix, app: &Path, config: &Config) -> [Outcome; 2] {
    let Wanted::Expression(expression) = &config.wanted else {
        panic!("an expression");
    };
    let source = Source::read(app, &config.source_name).unwrap();
    [false, true].map(|thorough| {
        let evaluator = Evaluator::new(nix, &source, expression, config, "x86_64-linux").unwrap();
        evaluator.evaluate(nix, thorough).unwrap()
    })
}

#[test]
fn a_miss_fetches_a_source_once_and_unpacks_nothing_whichever_fetcher_asks() {
    let Some(pinned) = Pinned::new(None) else {
        return;
    };
    let github = "type = \"github\"; owner = \"acme\"; repo = \"nixpkgs\";
        rev = \"3f96280da0ebc578599130c55c283036b51a9e91\";";
    let styles = [
        "fetchTarball { url = \"URL\"; sha256 = \"HASH\"; }".to_string(),
        "builtins.fetchTree { type = \"tarball\"; url = \"URL\"; narHash = \"HASH\"; }".to_string(),
        // In a file of its own, and by what else it tells.
        format!("let it = import ./pin.nix {{ {github} narHash = \"HASH\"; }}; in assert it.shortRev == \"3f96280\"; it"),
        "(import <nixpkgs> { }).fetchzip { url = \"URL\"; hash = \"HASH\"; }".to_string(),
        "(import <nixpkgs> { }).fetchgit { url = \"URL\"; rev = \"x\"; hash = \"HASH\"; name = \"source\"; }"
            .to_string(),
    ];
    let mut roots = Vec::new();
    for style in &styles {
        let text = format!("import ./by-tree.nix ({style})");
        let files = [
            ("by-tree.nix", BY_TREE),
            ("pin.nix", "locked: builtins.fetchTree locked"),
            ("default.nix", text.as_str()),
        ];
        let app = pinned.app(&files);
        let cache = Server::start(pinned.cache.path()).unwrap();
        let settings = [(
            "NIX_EXTRA_BINARY_CACHE",
            format!("{}?trusted=true", cache.url()),
        )];
        let settings = settings
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let config = config(app.path(), &settings);
        let nix = nix_in_place(&pinned.fixtures, &config);
        let outcomes = evaluate_twice(&nix, app.path(), &config);
        assert!(outcomes[1].thorough);
        roots.extend(outcomes.map(|outcome| outcome.roots[0].path.clone()));
        assert!(
            pinned.silent.accept().is_err(),
            "{style}: the URL was asked"
        );
        let requests = cache.take_requests().into_iter();
        let nars = requests
            .filter(|request| request.path.contains("/nar/"))
            .count();
        assert_eq!(nars, 1, "{style}");
        let unpacked = fs::read_dir(nix.scratch().join("root/nix/store")).unwrap();
        let unpacked = unpacked.flatten().map(|entry| entry.file_name());
        let unpacked: Vec<_> = unpacked.filter(|name| name != ".links").collect();
        assert!(unpacked.is_empty(), "{style}: {unpacked:?}");
    }
    roots.dedup();
    assert_eq!(roots.len(), 1, "{roots:?}");
}

#[test]
fn a_source_that_no_cache_has_under_its_name_is_told_with_what_the_caches_have() {
    let Some(pinned) = Pinned::new(Some("http://127.0.0.1:9/x.tar.gz")) else {
        return;
    };
    let text = r#"import (fetchTarball { name = "pkgs"; url = "URL"; sha256 = "HASH"; }) { }"#;
    let app = pinned.app(&[("default.nix", text)]);
    let cache = format!("file://{}?trusted=true", pinned.cache.path().display());
    let config = config(app.path(), &[("NIX_EXTRA_BINARY_CACHE", &cache)]);
    let nix = nix_in_place(&pinned.fixtures, &config);
    let error = evaluate(&nix, app.path(), &config).unwrap_err();
    let ExpressionError::Download(failed) = error else {
        panic!("{error:?}");
    };
    assert_eq!(failed.url, "http://127.0.0.1:9/x.tar.gz");
    assert_eq!(failed.other_names, std::slice::from_ref(&pinned.tree.path));
    assert_eq!(failed.asked.len(), 1, "{:?}", failed.asked);
}

#[test]
fn a_content_addressed_derivation_is_told_as_one() {
    let Some(pinned) = Pinned::new(None) else {
        return;
    };
    let text = r#"derivation { name = "x"; system = "x86_64-linux"; builder = "/bin/sh";
      __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; }"#;
    let app = pinned.app(&[("default.nix", text)]);
    let config = config(app.path(), &[]);
    let nix = nix_in_place(&pinned.fixtures, &config);
    let error = evaluate(&nix, app.path(), &config).unwrap_err();
    assert!(
        matches!(error, ExpressionError::ContentAddressed),
        "{error:?}"
    );
}

#[test]
fn a_later_evaluation_takes_its_sources_from_the_layer() {
    let Some(pinned) = Pinned::new(None) else {
        return;
    };
    let layer = TempDir::new().unwrap();
    let kept = Kept::new(layer.path().join("sources"));
    let style = &styles()[0];
    let app = pinned.app(&style.files);
    let cache = format!("file://{}?trusted=true", pinned.cache.path().display());
    let mut roots = Vec::new();
    for caches in [cache.as_str(), ""] {
        let config = config(app.path(), &[("NIX_EXTRA_BINARY_CACHE", caches)]);
        let nix = nix_in_place(&pinned.fixtures, &config);
        kept.restore(nix.store());
        roots.push(evaluate(&nix, app.path(), &config).unwrap().roots);
        kept.keep(nix.store(), &nix.taken()).unwrap();
    }
    assert_eq!(roots[0], roots[1]);
    assert!(pinned.silent.accept().is_err(), "the URL was asked");

    // What is not what its name says is not taken, and not kept.
    let files = || fs::read_dir(layer.path().join("sources")).unwrap();
    for file in files() {
        fs::write(file.unwrap().path(), "no archive").unwrap();
    }
    let config = config(app.path(), &[]);
    let nix = nix_in_place(&pinned.fixtures, &config);
    kept.restore(nix.store());
    assert_eq!(nix.store().paths().count(), 0);
    assert_eq!(files().count(), 0);
}
