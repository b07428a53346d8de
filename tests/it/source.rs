//! The source's store path is the one that real Nix computes for a git checkout of the same tree.

use crate::common::{fixtures, nix, output};
use nix_hydra_buildpack::resolve::source::Source;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A tree with everything that git can hold, and much that it cannot.
fn awkward_tree(at: &Path) {
    let write = |name: &str, text: &[u8]| {
        let file = at.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    write("default.nix", b"{ }: 1\n");
    write("empty", b"");
    write("crlf.txt", b"one\r\ntwo\r\n");
    write("a/b/c/deep", b"deep");
    write("a-b", b"sorts before a/b in bytes");
    write("a.b", b"and so does this");
    write("with space and 'quotes'", b"x");
    write("\u{fc}ml\u{e4}ut", b"x");
    write("binary", &[0, 1, 2, 255, 254, 10, 13]);
    write("large", &vec![7; 300_001]);
    fs::write(at.join(OsStr::from_bytes(b"not-utf8-\xff")), b"x").unwrap();
    write("bin/run", b"#!/bin/sh\n");
    let mode = |name: &str, mode| {
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("bin/run", 0o755);
    mode("empty", 0o700);
    mode("a-b", 0o611);
    symlink("a/b/c/deep", at.join("link")).unwrap();
    symlink("nowhere", at.join("dangling")).unwrap();
    symlink("/etc/passwd", at.join("absolute")).unwrap();
    symlink("a", at.join("link-to-directory")).unwrap();
}

fn real_path(tree: &Path) -> Option<String> {
    let fixtures = fixtures()?;
    let root = TempDir::new().unwrap();
    Some(output(
        nix(&fixtures, "nix-store", root.path())
            .args(["--add-fixed", "--recursive", "sha256"])
            .arg(tree),
    ))
}

#[test]
fn the_store_path_of_any_tree_is_the_one_that_nix_gives_it() {
    let directory = TempDir::new().unwrap();
    let tree = directory.path().join("source");
    awkward_tree(&tree);
    let Some(real) = real_path(&tree) else { return };
    let ours = Source::read(&tree, "source").unwrap();
    assert_eq!(ours.path.to_absolute_path(), real);
}

#[test]
fn what_is_written_to_the_store_has_the_hash_that_was_computed() {
    let directory = TempDir::new().unwrap();
    let tree = directory.path().join("source");
    awkward_tree(&tree);
    let source = Source::read(&tree, "source").unwrap();
    let store = TempDir::new().unwrap();
    let written = source.write_to(store.path()).unwrap();
    let again = Source::read(&written, "source").unwrap();
    assert_eq!(again.nar_hash, source.nar_hash);
    assert_eq!(again.nar_size, source.nar_size);
}

#[test]
fn the_path_is_that_of_a_git_checkout_without_its_git_directories() {
    let directory = TempDir::new().unwrap();
    let (app, checkout) = (
        directory.path().join("app"),
        directory.path().join("source"),
    );
    awkward_tree(&app);
    let git = |directory: &Path, arguments: &[&str]| {
        output(
            Command::new("git")
                .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
                .args(["-c", "core.autocrlf=false", "-C"])
                .arg(directory)
                .args(arguments),
        )
    };
    git(&app, &["init", "--quiet"]);
    git(&app, &["add", "--all"]);
    git(&app, &["commit", "--quiet", "--message", "all"]);
    let (from, to) = (app.to_str().unwrap(), checkout.to_str().unwrap());
    git(
        directory.path(),
        &["clone", "--quiet", "--no-local", from, to],
    );
    fs::remove_dir_all(checkout.join(".git")).unwrap();
    let Some(real) = real_path(&checkout) else {
        return;
    };

    // The directory that a platform gives has its history, and what git does not keep.
    fs::create_dir_all(app.join("empty-directory/below")).unwrap();
    fs::create_dir_all(app.join("submodule")).unwrap();
    fs::write(
        app.join("submodule/.git"),
        "gitdir: ../.git/modules/submodule\n",
    )
    .unwrap();
    let ours = Source::read(&app, "source").unwrap();
    assert_eq!(ours.path.to_absolute_path(), real);
}

#[test]
fn an_old_hydra_s_name_gives_another_path() {
    let directory = TempDir::new().unwrap();
    let tree = directory.path().join("git-export");
    awkward_tree(&tree);
    let Some(real) = real_path(&tree) else { return };
    let ours = Source::read(&tree, "git-export").unwrap();
    assert_eq!(ours.path.to_absolute_path(), real);
    assert_ne!(Source::read(&tree, "source").unwrap().path, ours.path);
}
