//! The same image in real containers, with what Docker can refuse, and with run images that have
//! little.

use crate::launch::{image, static_image};
use platform::docker;
use platform::image::Image;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The start program, for run images without a shell, which the entrypoint needs.
const START: &str = "/layers/nix_hydra/proot/bin/nix-hydra";

/// Answers `EPERM` to what every engine needs, as Heroku's Cedar does.
const CEDAR: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["ptrace", "unshare", "setns", "mount"], "action": "SCMP_ACT_ERRNO"}]}"#;

/// A Docker image, removed when dropped.
pub struct Tag(String);

impl Tag {
    /// Where there is no Docker, the test is left out, which is said and counted.
    pub fn new(name: &str, image: &Image, rootfs: &Path) -> Option<Self> {
        if !docker::available() {
            platform::left_out("no Docker engine answers: install docker.io, and start dockerd");
            return None;
        }
        let tag = format!("nix-hydra-{name}:{}", std::process::id());
        docker::export(image, rootfs, &tag).unwrap();
        Some(Self(tag))
    }

    /// Runs `program` with options of `docker run`.
    pub fn run(&self, options: &[&str], program: &str, arguments: &[&str]) -> Output {
        let mut docker = Command::new("docker");
        docker.args(["run", "--rm", "--network", "none", "--entrypoint", program]);
        docker.args(options).arg(&self.0).args(arguments);
        docker.output().unwrap()
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        docker::remove(&self.0);
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_engine_is_found_whatever_a_container_refuses() {
    let Some((deploy, image)) = static_image() else {
        return;
    };
    let Some(tag) = Tag::new("engines", &image, &deploy.fixtures.rootfs) else {
        return;
    };
    let unconfined = ["--security-opt", "seccomp=unconfined"];
    let strict = [
        "--read-only",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        "--user",
        "123456:0",
    ];
    let no_exec = ["--tmpfs", "/tmp:noexec"];
    for (options, engine) in [
        (vec![], "proot"),
        (unconfined.to_vec(), "namespace"),
        (vec!["--read-only"], "proot"),
        (vec!["--cap-drop", "ALL"], "proot"),
        (vec!["--security-opt", "no-new-privileges"], "proot"),
        (no_exec.to_vec(), "proot"),
        (vec!["--user", "123456:0"], "proot"),
        (strict.to_vec(), "proot"),
        ([&strict[..], &no_exec[..]].concat(), "proot"),
        ([&strict[..], &unconfined[..]].concat(), "namespace"),
        (vec!["--user", "0"], "proot"),
        (
            vec![
                "--user",
                "0",
                "--cap-add",
                "SYS_ADMIN",
                "--security-opt",
                "seccomp=unconfined",
            ],
            "namespace",
        ),
    ] {
        let with_log = [&options[..], &["--env", "NIX_ENGINE_LOG=1"]].concat();
        let output = tag.run(&with_log, "/cnb/process/version", &[]);
        let said = text(&output.stderr);
        assert_eq!(text(&output.stdout), "myapp 1.0\n", "{options:?}: {said}");
        assert!(
            said.contains(&format!("{engine}: taken")),
            "{options:?}: {said}"
        );
    }
}

#[test]
fn where_no_engine_works_the_message_says_what_to_do() {
    let Some((deploy, image)) = static_image() else {
        return;
    };
    let Some(tag) = Tag::new("cedar", &image, &deploy.fixtures.rootfs) else {
        return;
    };
    let directory = TempDir::new().unwrap();
    let profile = directory.path().join("cedar.json");
    fs::write(&profile, CEDAR).unwrap();
    let option = format!("seccomp={}", profile.display());
    let output = tag.run(&["--security-opt", &option], "/cnb/process/version", &[]);
    assert_eq!(output.status.code(), Some(126));
    let said = text(&output.stderr);
    for part in [
        "a user namespace is refused",
        "ptrace is refused",
        "NIX_ENGINE=relocate",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn docker_stop_needs_no_grace_period() {
    let Some((deploy, image)) = image("python") else {
        return;
    };
    let Some(tag) = Tag::new("stop", &image, &deploy.fixtures.rootfs) else {
        return;
    };
    for option in ["seccomp=unconfined", "no-new-privileges"] {
        let docker = |arguments: &[&str]| {
            let output = Command::new("docker").args(arguments).output().unwrap();
            text(&output.stdout).trim().to_string()
        };
        let container = docker(&["run", "--detach", "--security-opt", option, &tag.0]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !docker(&["logs", &container]).contains("listening") {
            assert!(Instant::now() < deadline, "it does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        let begun = Instant::now();
        docker(&["stop", "--time", "10", &container]);
        let took = begun.elapsed();
        let status = docker(&["wait", &container]);
        docker(&["rm", "--force", &container]);
        // Python has no handler: the signal itself ends it, though its parent is process 1.
        assert_eq!(status, "143", "{option}");
        assert!(took < Duration::from_secs(5), "{option}: {took:?}");
    }
}

#[test]
fn a_run_image_without_a_shell_will_do() {
    let Some((_deploy, image)) = static_image() else {
        return;
    };
    let empty = TempDir::new().unwrap();
    fs::create_dir(empty.path().join("tmp")).unwrap();
    fs::set_permissions(
        empty.path().join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    let Some(tag) = Tag::new("empty", &image, empty.path()) else {
        return;
    };
    for option in ["seccomp=unconfined", "no-new-privileges"] {
        let option = ["--security-opt", option];
        let output = tag.run(&option, START, &["run", "myapp", "version"]);
        assert_eq!(
            text(&output.stdout),
            "myapp 1.0\n",
            "{}",
            text(&output.stderr)
        );
        let output = tag.run(&option, START, &["run", "--shell", "myapp version"]);
        assert_eq!(output.status.code(), Some(126));
        assert!(text(&output.stderr).contains("there is no shell for `myapp version`"));
    }
    // This closure has a shell of its own.
    let Some((_deploy, image)) = self::image("python") else {
        return;
    };
    let Some(tag) = Tag::new("empty-python", &image, empty.path()) else {
        return;
    };
    let output = tag.run(&[], START, &["run", "--shell", "echo $((6 * 7))"]);
    assert_eq!(text(&output.stdout), "42\n", "{}", text(&output.stderr));
}
