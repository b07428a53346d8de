//! The source's store path is the one that real Nix computes for a git checkout of the same tree.

use crate::common::{fixtures, nix, output, unpacked};
use nix_hydra_buildpack::resolve::checkout::warnings;
use nix_hydra_buildpack::resolve::source::Source;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A tree with everything that git can hold, and much that it cannot.
pub fn awkward_tree(at: &Path) {
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

pub fn git(directory: &Path, arguments: &[&str]) -> String {
    output(
        Command::new("git")
            // The same commits everywhere.
            .env("GIT_AUTHOR_DATE", "@1700000000 +0000")
            .env("GIT_COMMITTER_DATE", "@1700000000 +0000")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args([
                "-c",
                "core.autocrlf=false",
                "-c",
                "protocol.file.allow=always",
                "-C",
            ])
            .arg(directory)
            .args(arguments),
    )
}

/// A repository of everything that is in a directory.
pub fn commit(directory: &Path) {
    git(directory, &["init", "--quiet"]);
    git(directory, &["add", "--all", "--force"]);
    git(directory, &["commit", "--quiet", "--message", "all"]);
}

fn all_warnings(app: &Path) -> String {
    let source = Source::read(app, "source").unwrap();
    warnings(&source, false).join("\n\n")
}

/// A clone of the repository at `from`, without its submodules.
fn clone(from: &Path, to: &Path) {
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    let command = ["clone", "--quiet", "--no-local", from, to];
    git(Path::new("/"), &command);
}

/// Makes a repository of what is in `at`, with another one as its submodule `path`. Where that comes from is
/// written down so that it is the same on every machine.
pub fn commit_with_submodule(at: &Path, submodule: &str, path: &str) {
    git(at, &["init", "--quiet"]);
    let from = at.with_file_name(submodule);
    let from = from.to_str().unwrap();
    git(at, &["submodule", "--quiet", "add", from, path]);
    let modules = format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = ../{submodule}\n");
    fs::write(at.join(".gitmodules"), modules).unwrap();
    commit(at);
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
    let written = unpacked(&source, &store.path().join("source"));
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
    commit(&app);
    clone(&app, &checkout);
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

#[test]
fn what_a_platform_put_beside_the_checkout_is_left_out() {
    let directory = TempDir::new().unwrap();
    let app = directory.path();
    awkward_tree(app);
    let clean = Source::read(app, "source").unwrap();
    // A volume's own directory, which nobody but root may read.
    fs::create_dir(app.join("lost+found")).unwrap();
    fs::set_permissions(app.join("lost+found"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(
        app.join("pax_global_header"),
        "52 comment=3f96280da0ebc578599130c55c283036b51a9e91\n",
    )
    .unwrap();
    let with = Source::read(app, "source").unwrap();
    assert_eq!(with.path, clean.path);
    assert_eq!(with.left_out, ["lost+found", "pax_global_header"]);

    // The same names, but not what they are for.
    fs::write(app.join("pax_global_header"), "mine").unwrap();
    fs::create_dir(app.join("a/lost+found")).unwrap();
    fs::write(app.join("a/lost+found/mine"), "").unwrap();
    let mine = Source::read(app, "source").unwrap();
    assert_eq!(mine.files, clean.files + 2);
    fs::set_permissions(app.join("lost+found"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_submodule_s_files_are_part_of_the_source() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir_all(at("library")).unwrap();
    fs::write(at("library/file"), "x").unwrap();
    commit(&at("library"));
    fs::create_dir_all(at("app")).unwrap();
    fs::write(at("app/default.nix"), "1").unwrap();
    commit(&at("app"));
    let library = at("library");
    let library = library.to_str().unwrap();
    git(
        &at("app"),
        &["submodule", "--quiet", "add", library, "vendor/library"],
    );
    git(&at("app"), &["commit", "--quiet", "--message", "submodule"]);

    // As Hydra does it.
    clone(&at("app"), &at("source"));
    git(&at("source"), &["submodule", "--quiet", "init"]);
    git(&at("source"), &["submodule", "--quiet", "update"]);
    let ours = Source::read(&at("source"), "source").unwrap();
    assert_eq!(all_warnings(&at("source")), "");
    fs::remove_dir_all(at("source/.git")).unwrap();
    fs::remove_file(at("source/vendor/library/.git")).unwrap();
    if let Some(real) = real_path(&at("source")) {
        assert_eq!(ours.path.to_absolute_path(), real);
    }

    clone(&at("app"), &at("without"));
    insta::assert_snapshot!("missing_submodule", all_warnings(&at("without")));
}

#[test]
fn a_submodule_of_a_submodule_is_an_empty_directory_as_hydra_leaves_it() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["deep", "library", "app"] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("file"), name).unwrap();
    }
    commit(&at("deep"));
    commit_with_submodule(&at("library"), "deep", "a/deep");
    commit_with_submodule(&at("app"), "library", "vendor/library");
    clone(&at("app"), &at("source"));
    // As Hydra does it: not recursively.
    git(&at("source"), &["submodule", "--quiet", "update", "--init"]);
    let empty = at("source/vendor/library/a/deep");
    assert_eq!(fs::read_dir(empty).unwrap().count(), 0);
    // Neither what a platform makes, nor what only looks as if it were a submodule.
    fs::create_dir_all(at("source/a/deep")).unwrap();
    fs::create_dir_all(at("source/vendor/library/a/other")).unwrap();
    let with_git = Source::read(&at("source"), "source").unwrap();
    fs::remove_dir_all(at("source/.git")).unwrap();
    fs::remove_file(at("source/vendor/library/.git")).unwrap();
    let without_git = Source::read(&at("source"), "source").unwrap();
    assert_eq!(with_git.path, without_git.path);
    fs::remove_dir_all(at("source/a")).unwrap();
    fs::remove_dir_all(at("source/vendor/library/a/other")).unwrap();
    let Some(real) = real_path(&at("source")) else {
        return;
    };
    assert_eq!(with_git.path.to_absolute_path(), real);
    let written = unpacked(&with_git, &at("app/source"));
    assert!(written.join("vendor/library/a/deep").is_dir());
}

#[test]
fn of_a_flake_s_submodules_nobody_knows_here_what_hydra_has() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["library", "app"] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("flake.nix"), "{ outputs = _: { }; }").unwrap();
    }
    commit(&at("library"));
    commit_with_submodule(&at("app"), "library", "vendor");
    clone(&at("app"), &at("without"));
    let of = |name: &str| {
        let source = Source::read(&at(name), "source").unwrap();
        (source.path.clone(), warnings(&source, true))
    };
    let (path, told) = of("without");
    insta::assert_snapshot!("flake_submodule", told.join("\n\n"));
    assert_eq!(of("app").1, told);
    let Some(fixtures) = fixtures() else { return };
    let root = TempDir::new().unwrap();
    let revision = git(&at("app"), &["rev-parse", "HEAD"]);
    let from = at("app").display().to_string();
    let flake = format!("(builtins.getFlake \"git+file://{from}?rev={revision}\").outPath");
    let mut evaluate = nix(&fixtures, "nix-instantiate", root.path());
    evaluate.args(["--extra-experimental-features", "flakes"]);
    let real = output(evaluate.args(["--read-write-mode", "--eval", "--json", "--expr", &flake]));
    assert_eq!(path.to_absolute_path(), real.trim_matches('"'));
}

#[test]
fn a_clean_checkout_is_no_reason_to_warn() {
    for version in ["2", "4"] {
        let directory = TempDir::new().unwrap();
        let app = directory.path();
        awkward_tree(app);
        commit(app);
        git(app, &["update-index", "--index-version", version]);
        fs::create_dir(app.join("empty-directory")).unwrap();
        assert_eq!(all_warnings(app), "", "index version {version}");
    }
}

#[test]
fn a_tree_that_is_not_what_git_has_is_a_warning_that_names_the_files() {
    let directory = TempDir::new().unwrap();
    let app = directory.path();
    awkward_tree(app);
    fs::write(app.join(".gitignore"), "target\n").unwrap();
    commit(app);
    fs::create_dir_all(app.join("target/release")).unwrap();
    fs::write(app.join("target/release/app"), "").unwrap();
    fs::write(app.join("target/x"), "").unwrap();
    fs::write(app.join("a/stray"), "").unwrap();
    fs::write(app.join("crlf.txt"), "one\ntwo\n").unwrap();
    fs::set_permissions(app.join("bin/run"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(app.join("link")).unwrap();
    symlink("elsewhere", app.join("link")).unwrap();
    fs::remove_file(app.join("a-b")).unwrap();
    insta::assert_snapshot!("dirty_tree", all_warnings(app));

    // Many files are counted.
    for number in 0..30 {
        fs::write(app.join(format!("stray-{number:02}")), "").unwrap();
    }
    assert!(all_warnings(app).contains("stray-08 and 22 more"));
}

#[test]
fn what_git_converts_in_every_checkout_is_no_reason_to_warn() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let app = at("app");
    fs::create_dir_all(app.join("sub/deep")).unwrap();
    for name in ["x.bat", "sub/x.bat", "sub/deep/x.txt", "raw.bat", "lf.bat"] {
        fs::write(app.join(name), "one\ntwo\n").unwrap();
    }
    fs::write(app.join("id"), "$Id$\n").unwrap();
    fs::write(app.join("wide.txt"), b"\xff\xfea\0\n\0").unwrap();
    fs::write(
        app.join(".gitattributes"),
        "*.bat text eol=crlf\nraw.bat -text\nid ident\n/wide.txt working-tree-encoding=UTF-16LE-BOM\n",
    )
    .unwrap();
    let nested = "deep/*.txt text=auto eol=crlf\n";
    fs::write(app.join("sub/.gitattributes"), nested).unwrap();
    fs::write(app.join("lf.bat"), "one\r\ntwo\r\n").unwrap();
    commit(&app);
    clone(&app, &at("source"));
    let converted = fs::read_to_string(at("source/sub/deep/x.txt")).unwrap();
    assert_eq!(converted, "one\r\ntwo\r\n");
    assert_eq!(all_warnings(&at("source")), "");
    // Nix does not convert what is in a flake.
    let source = Source::read(&at("source"), "source").unwrap();
    let of_flake = warnings(&source, true).join("\n");
    assert!(of_flake.contains("changed: id, lf.bat"), "{of_flake}");
    // What nobody asked to be converted, and what differs in more than its line ends.
    fs::write(at("source/raw.bat"), "one\r\ntwo\r\n").unwrap();
    fs::write(at("source/x.bat"), "one\r\nthree\r\n").unwrap();
    let warned = all_warnings(&at("source"));
    assert!(warned.ends_with("changed: raw.bat and x.bat"), "{warned}");
}

#[test]
fn attributes_and_files_that_make_checkouts_differ_are_a_warning_each() {
    let directory = TempDir::new().unwrap();
    let app = directory.path();
    fs::create_dir(app.join("docs")).unwrap();
    fs::write(
        app.join(".gitattributes"),
        "# *.c export-subst\n*.png filter=lfs diff=lfs merge=lfs -text\nversion.txt export-subst\n",
    )
    .unwrap();
    fs::write(
        app.join("docs/.gitattributes"),
        "* export-ignore\n*.sh text\n",
    )
    .unwrap();
    fs::write(app.join(".slugignore"), "docs\n").unwrap();
    fs::write(
        app.join("project.toml"),
        "[_]\nschema-version = \"0.2\"\n[io.buildpacks]\nexclude = [\"docs\"]\n",
    )
    .unwrap();
    insta::assert_snapshot!("attributes", all_warnings(app));
}
