//! Checkouts of every kind are read as git reads them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use app_dir::AppDir;
use app_dir::git::{GitError, Repository, changes, submodules};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const TIME: i64 = 1_700_000_000;

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .env("GIT_COMMITTER_DATE", format!("@{TIME} +0200"))
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", "/nonexistent")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
        .args(["-c", "protocol.file.allow=always", "-C"])
        .arg(directory)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

/// A repository of some files, made with these arguments to `git init`.
fn repository(arguments: &[&str]) -> TempDir {
    let directory = TempDir::new().unwrap();
    let app = directory.path();
    git(
        app,
        &[&["init", "--quiet", "--initial-branch=main"], arguments].concat(),
    );
    for number in 0..40 {
        let file = app.join(format!("directory-{}/{number}.txt", number % 4));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, format!("{number}\n").repeat(100)).unwrap();
    }
    commit(app);
    directory
}

fn commit(app: &Path) {
    git(app, &["add", "--all"]);
    git(app, &["commit", "--quiet", "--message", "all"]);
}

/// The paths that differ from the commit, after a check that the commit itself is read as git reads it.
fn changed(app: &Path) -> Vec<String> {
    let opened = AppDir::at(app).unwrap();
    let repository = Repository::at(&opened, Path::new("")).unwrap().unwrap();
    let head = git(app, &["rev-parse", "HEAD"]);
    assert_eq!(repository.head().unwrap().to_string(), head);
    assert_eq!(repository.commit(&head).unwrap().time, TIME);
    changes(&repository).unwrap()
}

/// A change of each kind is noticed in the app, which had none.
fn check(app: &Path) {
    assert_eq!(changed(app), Vec::<String>::new());
    fs::write(app.join("directory-0/0.txt"), "changed\n").unwrap();
    fs::remove_file(app.join("directory-1/1.txt")).unwrap();
    fs::write(app.join("directory-2/added"), "").unwrap();
    fs::write(app.join("staged"), "").unwrap();
    git(app, &["add", "staged"]);
    assert_eq!(
        changed(app),
        [
            "directory-0/0.txt",
            "directory-1/1.txt",
            "staged",
            "directory-2/added"
        ]
    );
}

#[test]
fn loose_objects_and_references_are_read() {
    check(repository(&[]).path());
}

#[test]
fn packed_objects_and_references_are_read() {
    let app = repository(&[]);
    // So that the trees are changes of others.
    for number in 0..5 {
        fs::write(app.path().join("directory-3/more"), number.to_string()).unwrap();
        commit(app.path());
    }
    git(app.path(), &["gc", "--quiet", "--aggressive"]);
    git(app.path(), &["pack-refs", "--all"]);
    assert!(!app.path().join(".git/refs/heads/main").exists());
    check(app.path());
}

#[test]
fn a_repository_of_sha_256_hashes_is_read() {
    let app = repository(&["--object-format=sha256"]);
    git(app.path(), &["gc", "--quiet"]);
    check(app.path());
}

#[test]
fn an_index_of_each_version_is_read_also_a_split_one() {
    for version in ["2", "3", "4"] {
        let app = repository(&[]);
        git(app.path(), &["update-index", "--index-version", version]);
        check(app.path());
    }
    let app = repository(&[]);
    git(app.path(), &["update-index", "--split-index"]);
    fs::write(app.path().join("directory-3/3.txt"), "other\n").unwrap();
    fs::remove_file(app.path().join("directory-3/7.txt")).unwrap();
    fs::write(app.path().join("new"), "").unwrap();
    commit(app.path());
    let names: Vec<_> = fs::read_dir(app.path().join(".git")).unwrap().collect();
    let is_shared = |name: &str| name.starts_with("sharedindex.");
    let names = names.into_iter().map(|entry| entry.unwrap().file_name());
    assert!(
        names
            .into_iter()
            .any(|name| is_shared(name.to_str().unwrap()))
    );
    check(app.path());
}

#[test]
fn an_index_without_a_note_of_its_tree_is_compared_file_by_file() {
    let app = repository(&[]);
    git(
        app.path(),
        &["rm", "--quiet", "--cached", "directory-3/3.txt"],
    );
    git(app.path(), &["add", "directory-3/3.txt"]);
    check(app.path());
}

#[test]
fn a_symbolic_reference_a_detached_head_and_a_shallow_clone_are_read() {
    let origin = repository(&[]);
    git(
        origin.path(),
        &["symbolic-ref", "refs/heads/other", "refs/heads/main"],
    );
    git(origin.path(), &["symbolic-ref", "HEAD", "refs/heads/other"]);
    assert_eq!(changed(origin.path()), Vec::<String>::new());

    commit_file(origin.path(), "more");
    let url = format!("file://{}", origin.path().display());
    let clones = TempDir::new().unwrap();
    let clone = clones.path().join("clone");
    git(
        clones.path(),
        &["clone", "--quiet", "--depth=1", &url, "clone"],
    );
    git(&clone, &["checkout", "--quiet", "--detach"]);
    check(&clone);
}

fn commit_file(app: &Path, name: &str) {
    fs::write(app.join(name), "").unwrap();
    commit(app);
}

#[test]
fn a_worktree_is_read_where_its_repository_is_in_the_app() {
    let app = repository(&[]);
    let parent = app.path();
    git(parent, &["worktree", "add", "--quiet", "tree"]);
    let opened = AppDir::at(parent).unwrap();
    let tree = Repository::at(&opened, Path::new("tree")).unwrap().unwrap();
    let head = git(parent, &["rev-parse", "HEAD"]);
    assert_eq!(tree.head().unwrap().to_string(), head);
    assert_eq!(tree.index().unwrap().entries.len(), 40);

    // Elsewhere, nothing of it is opened.
    let outside = AppDir::at(&parent.join("tree")).unwrap();
    let error = Repository::at(&outside, Path::new("")).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("leads out of the app's directory"),
        "{error}"
    );
}

#[test]
fn a_submodule_counts_by_its_commit_and_its_changes() {
    let origin = repository(&[]);
    let app = repository(&[]);
    let url = origin.path().to_str().unwrap();
    git(app.path(), &["submodule", "--quiet", "add", url, "sub"]);
    commit(app.path());
    assert!(app.path().join("sub/.git").is_file());
    assert_eq!(changed(app.path()), Vec::<String>::new());
    let opened = AppDir::at(app.path()).unwrap();
    let expected = BTreeSet::from([PathBuf::from("sub")]);
    assert_eq!(submodules(&opened, Path::new("")), expected);

    fs::write(app.path().join("sub/new"), "").unwrap();
    assert_eq!(changed(app.path()), ["sub/new"]);
    commit(&app.path().join("sub"));
    assert_eq!(changed(app.path()), ["sub"]);
    // Without git's index, it is known by `.gitmodules`.
    fs::remove_dir_all(app.path().join(".git")).unwrap();
    assert_eq!(submodules(&opened, Path::new("")), expected);
}

#[test]
fn files_that_git_leaves_out_or_converts_are_no_changes() {
    // A sparse checkout.
    let app = repository(&[]);
    git(
        app.path(),
        &["sparse-checkout", "set", "--no-cone", "/directory-0/"],
    );
    assert!(!app.path().join("directory-1").exists());
    assert_eq!(changed(app.path()), Vec::<String>::new());

    // A file system without modes.
    let app = repository(&[]);
    let file = app.path().join("directory-0/0.txt");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(changed(app.path()), ["directory-0/0.txt"]);
    git(app.path(), &["config", "core.fileMode", "false"]);
    assert_eq!(changed(app.path()), Vec::<String>::new());

    // Line ends, by a macro.
    let app = repository(&[]);
    fs::write(
        app.path().join(".gitattributes"),
        "[attr]dos text eol=crlf\n*.bat dos\n",
    )
    .unwrap();
    fs::write(app.path().join("x.bat"), "one\ntwo\n").unwrap();
    commit(app.path());
    fs::write(app.path().join("x.bat"), "one\r\ntwo\r\n").unwrap();
    assert_eq!(changed(app.path()), Vec::<String>::new());
    fs::write(app.path().join("x.bat"), "one\r\nthree\r\n").unwrap();
    assert_eq!(changed(app.path()), ["x.bat"]);
}

#[test]
fn a_commit_or_object_that_is_not_there_is_named() {
    let directory = TempDir::new().unwrap();
    git(
        directory.path(),
        &["init", "--quiet", "--initial-branch=main"],
    );
    let app = AppDir::at(directory.path()).unwrap();
    let unborn = Repository::at(&app, Path::new("")).unwrap().unwrap();
    let error = unborn.head().unwrap_err();
    assert_eq!(
        error.to_string(),
        "`refs/heads/main` is no commit that is there"
    );

    let app = repository(&[]);
    let app = app.path();
    git(app, &["rm", "--quiet", "directory-3/3.txt"]);
    fs::rename(app.join(".git/objects"), app.join(".git/lost")).unwrap();
    fs::create_dir_all(app.join(".git/objects/info")).unwrap();
    let opened = AppDir::at(app).unwrap();
    let repository = Repository::at(&opened, Path::new("")).unwrap().unwrap();
    assert!(matches!(changes(&repository), Err(GitError::NoObject(_))));
    fs::write(app.join(".git/objects/info/alternates"), "../../lost\n").unwrap();
    assert!(matches!(changes(&repository), Err(GitError::Alternates(_))));
}

/// Puts an object of these bytes where a commit `HEAD` of this digit is looked for.
fn loose(app: &Path, digit: &str, bytes: &[u8]) {
    let directory = app.join(format!(".git/objects/{}", digit.repeat(2)));
    fs::create_dir_all(&directory).unwrap();
    let file = fs::File::create(directory.join(digit.repeat(38))).unwrap();
    let mut encoder = ZlibEncoder::new(file, Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap();
}

#[test]
fn an_object_that_unpacks_without_end_or_holds_itself_is_refused() {
    let app = repository(&[]);
    git(
        app.path(),
        &["rm", "--quiet", "--cached", "directory-3/3.txt"],
    );
    fs::write(app.path().join(".git/HEAD"), "1".repeat(40)).unwrap();
    let opened = AppDir::at(app.path()).unwrap();
    let repository = Repository::at(&opened, Path::new("")).unwrap().unwrap();

    loose(app.path(), "1", &vec![0; 40 << 20]);
    assert!(matches!(changes(&repository), Err(GitError::TooLarge(_))));

    let commit = format!(
        "tree {}\nauthor a <a> 1 +0000\ncommitter a <a> 1 +0000\n\nx",
        "2".repeat(40)
    );
    loose(
        app.path(),
        "1",
        format!("commit {}\0{commit}", commit.len()).as_bytes(),
    );
    let tree = [b"tree 29\x0040000 a\0".as_slice(), &[0x22; 20]].concat();
    loose(app.path(), "2", &tree);
    assert!(matches!(changes(&repository), Err(GitError::TooLarge(_))));
}
