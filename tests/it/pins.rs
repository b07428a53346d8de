//! What is pinned by a hash comes from the binary caches, whichever fetcher asks for it, and its URL is
//! not waited for.

use crate::common::{fixtures, nix, output};
use crate::evaluate::{config, evaluate, nix_in_place};
use platform::fixtures::Fixtures;
use platform::nixpkgs::{SMALL, Tree};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use tempfile::TempDir;

/// A tree that is pinned, which a binary cache has.
struct Pinned {
    fixtures: Fixtures,
    cache: TempDir,
    tree: Tree,
    /// A server that takes connections and never says a word.
    silent: TcpListener,
    /// Of a Nix that has the tree in its store.
    native: TempDir,
}

impl Pinned {
    fn new() -> Option<Self> {
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
        Some(Self {
            fixtures,
            cache,
            tree,
            silent,
            native,
        })
    }

    fn url(&self) -> String {
        format!(
            "http://{}/nixpkgs.tar.gz",
            self.silent.local_addr().unwrap()
        )
    }

    /// A text with the tree's hash and its URL, which is silent.
    fn filled(&self, text: &str) -> String {
        text.replace("HASH", &self.tree.sha256())
            .replace("PATH", &self.tree.path.to_absolute_path())
            .replace("URL", &self.url())
    }

    /// An app of these files.
    fn app(&self, files: &[(&str, &str)]) -> TempDir {
        let app = TempDir::new().unwrap();
        for (name, text) in files {
            let file = app.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, self.filled(text)).unwrap();
        }
        app
    }

    /// What real Nix evaluates that has everything in its store.
    fn native_path(&self, app: &Path, settings: &[(&str, &str)]) -> String {
        let checkout = TempDir::new().unwrap();
        let checkout = checkout.path().join("source");
        crate::common::copy(app, &checkout);
        let source = output(
            nix(&self.fixtures, "nix-store", self.native.path())
                .args(["--add-fixed", "--recursive", "sha256"])
                .arg(&checkout),
        );
        let expression = if app.join("flake.nix").exists() {
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
        command.args(["--option", "experimental-features", "nix-command flakes"]);
        for (name, value) in settings {
            command.env(name, value);
        }
        output(&mut command).trim_matches('"').to_string()
    }

    /// Evaluates an app of these files here, and checks that it comes to native Nix's path.
    fn check(&self, style: &str, files: &[(&str, &str)], settings: &[(&str, &str)]) {
        let app = self.app(files);
        let cache = format!("file://{}?trusted=true", self.cache.path().display());
        let mut ours = settings.to_vec();
        ours.push(("NIX_EXTRA_BINARY_CACHE", &cache));
        let config = config(app.path(), &ours);
        let nix = nix_in_place(&self.fixtures, &config);
        let outcome = evaluate(&nix, app.path(), &config).unwrap();
        assert!(self.silent.accept().is_err(), "{style}: the URL was asked");
        assert!(!outcome.thorough, "{style}: it needed all derivations");
        let path = outcome.roots[0].path.to_absolute_path();
        assert_eq!(path, self.native_path(app.path(), settings), "{style}");
        let taken: Vec<_> = nix.taken().into_iter().map(|(path, _)| path).collect();
        assert!(taken.contains(&self.tree.path), "{style}: {taken:?}");
    }
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

const LOCK: &str = r#"{
  "nodes": {
    "nixpkgs": {
      "locked": {
        "lastModified": 1700000000,
        "narHash": "HASH",
        "owner": "acme",
        "repo": "nixpkgs",
        "rev": "3f96280da0ebc578599130c55c283036b51a9e91",
        "type": "github"
      },
      "original": { "owner": "acme", "repo": "nixpkgs", "type": "github" }
    },
    "root": { "inputs": { "nixpkgs": "nixpkgs" } }
  },
  "root": "root",
  "version": 7
}"#;

#[test]
fn a_tarball_with_a_hash_comes_from_the_binary_cache() {
    let Some(pinned) = Pinned::new() else { return };
    let text = r#"import ./app.nix (import (fetchTarball { url = "URL"; sha256 = "HASH"; }) { })"#;
    pinned.check(
        "fetchTarball",
        &[("app.nix", APP), ("default.nix", text)],
        &[],
    );
}

#[test]
fn pins_of_niv_and_npins_come_from_the_binary_cache() {
    let Some(pinned) = Pinned::new() else { return };
    let sources = r#"{ "nixpkgs": { "url": "URL", "sha256": "HASH", "type": "tarball" } }"#;
    let text = r"
      let
        sources = builtins.fromJSON (builtins.readFile ./nix/sources.json);
        fetched = builtins.mapAttrs (_: pin: fetchTarball { inherit (pin) url sha256; }) sources;
      in
      import ./app.nix (import fetched.nixpkgs { })
    ";
    let files = [
        ("app.nix", APP),
        ("default.nix", text),
        ("nix/sources.json", sources),
    ];
    pinned.check("niv", &files, &[]);
}

#[test]
fn a_locked_input_of_a_flake_comes_from_the_binary_cache() {
    let Some(pinned) = Pinned::new() else { return };
    let text = r#"{
      inputs.nixpkgs.url = "github:acme/nixpkgs";
      outputs = { self, nixpkgs }: {
        packages.x86_64-linux.default = import ./app.nix nixpkgs.legacyPackages.x86_64-linux;
      };
    }"#;
    let files = [("app.nix", APP), ("flake.nix", text), ("flake.lock", LOCK)];
    pinned.check("flake", &files, &[]);
}

#[test]
fn what_flake_compat_fetches_comes_from_the_binary_cache() {
    let Some(pinned) = Pinned::new() else { return };
    let text = r#"
      let
        lock = builtins.fromJSON (builtins.readFile ./flake.lock);
        fetchTree = builtins.fetchTree or (info: {
          outPath = fetchTarball { url = "URL"; sha256 = info.narHash; };
        });
        nixpkgs = fetchTree lock.nodes.nixpkgs.locked;
      in
      import ./app.nix (import nixpkgs.outPath { })
    "#;
    // The host that `builtins.fetchTree` would ask.
    let host = format!("\"host\": \"{}\",", pinned.silent.local_addr().unwrap());
    let lock = LOCK.replacen("\"owner\"", &format!("{host} \"owner\""), 1);
    let files = [
        ("app.nix", APP),
        ("default.nix", text),
        ("flake.lock", lock.as_str()),
    ];
    let settings = [("NIX_FILE", "default.nix")];
    let app = pinned.app(&files);
    let cache = format!("file://{}?trusted=true", pinned.cache.path().display());
    let config = config(
        app.path(),
        &[settings[0], ("NIX_EXTRA_BINARY_CACHE", &cache)],
    );
    let nix = nix_in_place(&pinned.fixtures, &config);
    let outcome = evaluate(&nix, app.path(), &config).unwrap();
    assert_eq!(outcome.roots[0].path.name(), "app");
    assert!(pinned.silent.accept().is_err(), "the URL was asked");
}

#[test]
fn a_store_path_in_nix_path_comes_from_the_binary_cache() {
    let Some(pinned) = Pinned::new() else { return };
    let nix_path = pinned.filled("nixpkgs=PATH");
    let files = [
        ("app.nix", APP),
        ("default.nix", "import ./app.nix (import <nixpkgs> { })"),
    ];
    pinned.check("NIX_PATH", &files, &[("NIX_PATH", &nix_path)]);
}
