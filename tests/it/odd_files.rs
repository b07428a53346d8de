//! An app with a pipe, a link or a bomb in the place of a file: what reads it ends soon, and says what it
//! found. `crates/app-dir/tests` has each kind in the place of each file.

use crate::source::commit;
use hydra::DeployError;
use hydra::revision::find;
use nix_hydra_buildpack::config::Config;
use nix_hydra_buildpack::error::BuildpackError;
use nix_hydra_buildpack::launch::read_procfile;
use nix_hydra_buildpack::resolve::ResolveError;
use nix_hydra_buildpack::resolve::checkout::warnings;
use nix_hydra_buildpack::resolve::source::Source;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
}

/// A committed app with one file changed, and a credential beside it.
fn app(change: fn(&Path)) -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("netrc"), "password hunter2").unwrap();
    let app = directory.path().join("workspace");
    fs::create_dir(&app).unwrap();
    fs::write(app.join("deploy.nix"), "{ }").unwrap();
    commit(&app);
    change(&app);
    directory
}

/// What a build says of an app before it evaluates, and what of each step went wrong.
fn told(app: &Path) -> String {
    let mut told = String::new();
    let setting = |name: &str| (name == "NIX_STORE_PATH").then(|| "/nix/store/x".to_string());
    assert!(Config::detects(setting, app));
    let source = Source::read(app, "source").map_err(ResolveError::from);
    if let Ok(source) = &source {
        writeln!(told, "{}", warnings(source, false).join("\n")).unwrap();
    }
    let revision =
        find(None, app).map_err(|error| ResolveError::Hydra(DeployError::Revision(error)));
    let errors = [
        read_procfile(app, None).err().map(BuildpackError::from),
        revision.err().map(BuildpackError::from),
        source.err().map(BuildpackError::from),
    ];
    for error in errors.into_iter().flatten() {
        writeln!(told, "{}\n", error.message()).unwrap();
    }
    told.replace(app.to_str().unwrap(), "/workspace")
}

#[test]
fn an_odd_file_in_the_app_is_told_and_neither_waited_for_nor_shown() {
    type Make = fn(&Path);
    let apps: [(&str, Make); 8] = [
        ("a pipe as Procfile", |app| pipe(&app.join("Procfile"))),
        ("a Procfile that links to a credential", |app| {
            symlink("../netrc", app.join("Procfile")).unwrap();
        }),
        ("a Procfile that links to /dev/zero", |app| {
            symlink("/dev/zero", app.join("Procfile")).unwrap();
        }),
        ("a pipe as index", |app| pipe(&app.join(".git/index"))),
        ("a pipe as HEAD", |app| pipe(&app.join(".git/HEAD"))),
        ("pipes that are read for warnings", |app| {
            for file in [
                "deploy.nix",
                "project.toml",
                ".gitmodules",
                ".gitattributes",
            ] {
                pipe(&app.join(file));
            }
        }),
        ("an index of 1 TiB", |app| {
            File::create(app.join(".git/index"))
                .unwrap()
                .set_len(1 << 40)
                .unwrap();
        }),
        ("a file of 1 TiB", |app| {
            File::create(app.join("data"))
                .unwrap()
                .set_len(1 << 40)
                .unwrap();
        }),
    ];
    let mut all = String::new();
    for (name, change) in apps {
        let directory = app(change);
        let path = directory.path().join("workspace");
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(told(&path)));
        let told = receiver.recv_timeout(Duration::from_secs(30));
        let told = told.unwrap_or_else(|_| panic!("{name}: it does not end"));
        assert!(!told.contains("hunter2"), "{name}: {told}");
        write!(all, "== {name}\n\n{told}\n").unwrap();
    }
    insta::assert_snapshot!(all);
}
