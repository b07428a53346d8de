//! Whatever is in the place of a file of the app, reading it ends soon, with words for what it is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use app_dir::git::{Repository, changes, submodules};
use app_dir::{AppDir, FileError, Node};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const LIMIT: u64 = 1 << 20;
const SECRET: &str = "machine cache.example.org password hunter2";

/// Files that are read of an app, by the names that they have there.
const FILES: [&str; 14] = [
    "Procfile",
    "deploy.nix",
    "flake.lock",
    "project.toml",
    "pax_global_header",
    ".gitmodules",
    ".gitattributes",
    ".git/HEAD",
    ".git/index",
    ".git/config",
    ".git/packed-refs",
    ".git/commondir",
    ".git/refs/heads/main",
    ".git/objects/info/alternates",
];

/// What may be in the place of a file, and what is told of it.
const KINDS: [(&str, &str); 9] = [
    ("a named pipe", "it is a named pipe, not a file"),
    ("a socket", "it is a socket, not a file"),
    ("a directory", "it is a directory, not a file"),
    (
        "a link to /dev/zero",
        "it is a symbolic link that leads out of the app's directory",
    ),
    (
        "a link to a credential",
        "it is a symbolic link that leads out of the app's directory",
    ),
    (
        "a link upwards",
        "it is a symbolic link that leads out of the app's directory",
    ),
    (
        "a link to a pipe in the app",
        "it is a named pipe, not a file",
    ),
    (
        "a link to itself",
        "Too many levels of symbolic links (os error 40)",
    ),
    ("a sparse file of 1 TiB", "it is larger than 1 MiB"),
];

fn put(kind: &str, path: &Path, outside: &Path) {
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pipe = |path: &Path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    match kind {
        "a named pipe" => pipe(path),
        "a socket" => drop(UnixListener::bind(path).unwrap()),
        "a directory" => fs::create_dir(path).unwrap(),
        "a link to /dev/zero" => symlink("/dev/zero", path).unwrap(),
        "a link to a credential" => symlink(outside, path).unwrap(),
        "a link upwards" => symlink("../../../../../../etc/passwd", path).unwrap(),
        "a link to a pipe in the app" => {
            let target = path.with_file_name("pipe");
            pipe(&target);
            symlink("pipe", path).unwrap();
        }
        "a link to itself" => symlink(path.file_name().unwrap(), path).unwrap(),
        "a sparse file of 1 TiB" => File::create(path).unwrap().set_len(1 << 40).unwrap(),
        other => panic!("{other}"),
    }
}

/// A repository of one file, and a credential beside it.
fn app() -> TempDir {
    static TEMPLATE: LazyLock<TempDir> = LazyLock::new(|| {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("app")).unwrap();
        fs::write(directory.path().join("netrc"), SECRET).unwrap();
        fs::write(directory.path().join("app/main.py"), "print()\n").unwrap();
        for arguments in [
            &["init", "--quiet", "--template=", "--initial-branch=main"][..],
            &["add", "--all"],
            &["commit", "--quiet", "--message=all"],
        ] {
            let git = Command::new("git")
                .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-C"])
                .arg(directory.path().join("app"))
                .args(arguments)
                .output()
                .unwrap();
            assert!(git.status.success(), "{git:?}");
        }
        directory
    });
    let directory = TempDir::new().unwrap();
    copy(TEMPLATE.path(), directory.path());
    directory
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The result of `work`, which must come soon.
fn soon<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    let result = receiver.recv_timeout(Duration::from_secs(20));
    result.unwrap_or_else(|_| panic!("{name}: it does not end"))
}

#[test]
fn a_file_that_is_none_is_refused_in_words_that_say_what_it_is() {
    for (kind, words) in KINDS {
        let directory = app();
        let app = directory.path().join("app");
        put(kind, &app.join("Procfile"), &directory.path().join("netrc"));
        let error = soon(kind, move || {
            app_dir::read_to_string(&app, Path::new("Procfile"), LIMIT).unwrap_err()
        });
        assert_eq!(error.to_string(), words, "{kind}");
    }
}

#[test]
fn every_file_of_the_app_may_be_anything_and_reading_ends() {
    for file in FILES {
        for (kind, _) in KINDS {
            let directory = app();
            let app = directory.path().join("app");
            put(kind, &app.join(file), &directory.path().join("netrc"));
            soon(&format!("{file} as {kind}"), move || {
                let app = AppDir::at(&app).unwrap();
                let _ = submodules(&app, Path::new(""));
                let _ = app_dir::left_out(&app);
                let _ = Node::read(&app);
                if let Ok(Some(repository)) = Repository::at(&app, Path::new("")) {
                    let told = format!("{:?} {:?}", repository.head(), changes(&repository));
                    assert!(!told.contains("hunter2"), "{told}");
                }
            });
        }
    }
}

#[test]
fn a_directory_of_git_that_is_none_or_leads_out_is_told() {
    for (name, kind) in [
        (".git", "a named pipe"),
        (".git", "a link to /dev/zero"),
        (".git/objects", "a link to a credential"),
        (".git/objects/pack", "a named pipe"),
        (".git/objects/pack", "a link to /dev/zero"),
    ] {
        let directory = app();
        let app = directory.path().join("app");
        put(kind, &app.join(name), &directory.path().join("netrc"));
        let told = soon(&format!("{name} as {kind}"), move || {
            let app = AppDir::at(&app).unwrap();
            match Repository::at(&app, Path::new("")) {
                Ok(Some(repository)) => changes(&repository).map(|_| ()),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            }
        });
        let told = told.unwrap_err().to_string();
        assert!(told.contains(name), "{name} as {kind}: {told}");
    }
}

#[test]
fn a_link_within_the_app_is_followed() {
    let directory = TempDir::new().unwrap();
    let app = directory.path();
    fs::create_dir_all(app.join("deploy/sub")).unwrap();
    fs::write(app.join("deploy/Procfile"), "web: x\n").unwrap();
    symlink("deploy/sub/../Procfile", app.join("Procfile")).unwrap();
    let text = app_dir::read_to_string(app, Path::new("Procfile"), LIMIT).unwrap();
    assert_eq!(text, "web: x\n");
}

#[test]
fn text_that_is_not_utf_8_and_files_that_are_not_there_are_told() {
    let directory = TempDir::new().unwrap();
    let read = |name: &str| app_dir::read_to_string(directory.path(), Path::new(name), LIMIT);
    fs::write(directory.path().join("x"), b"\xff").unwrap();
    assert_eq!(read("x").unwrap_err().to_string(), "it is not UTF-8 text");
    let missing = read("missing").unwrap_err();
    assert!(
        matches!(missing, FileError::Io(error) if error.kind() == std::io::ErrorKind::NotFound)
    );
    assert!(matches!(read("../x").unwrap_err(), FileError::Outside));
    assert!(matches!(
        read("/etc/passwd").unwrap_err(),
        FileError::Outside
    ));
}

#[test]
fn an_app_of_more_than_can_be_hashed_in_time_is_refused() {
    let directory = TempDir::new().unwrap();
    for name in ["a", "b", "c"] {
        File::create(directory.path().join(name))
            .unwrap()
            .set_len(3 << 30)
            .unwrap();
    }
    let app = AppDir::at(directory.path()).unwrap();
    let error = Node::read(&app).unwrap_err();
    assert_eq!(error.to_string(), "with c it has more than 8 GiB");
}
