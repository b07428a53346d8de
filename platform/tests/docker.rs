//! An image in a Docker engine.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that fails so says where, and nobody uses what is in it"
)]

mod common;

use common::Case;
use platform::docker;
use platform::process::Launch;
use std::process::Command;

fn docker_run(arguments: &[&str]) -> String {
    let output = Command::new("docker")
        .args(["run", "--rm", "--network", "none"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_docker_image_starts_its_processes_like_the_sandbox() {
    let Some(case) = Case::new() else { return };
    if !docker::available() {
        platform::left_out("no Docker engine answers");
        return;
    }
    let image = case
        .built(
            r#"
            put() { mkdir -p "$(dirname "$1")"; printf "$2" >"$1"; }
            mkdir -p a/bin b/lib
            put a/env/PRE.prepend a; put b/env/PRE.prepend b; put b/env/PRE.delim :
            put a/env/LINES "one\ntwo\n"
            put a/env.launch/APP.append a; put b/env.launch/APP.append b; put b/env.launch/APP.delim ,
            put a/env.launch/web/ONLY web
            put a/env/SET.default ignored
            layer a launch; layer b launch
            cat >launch.toml <<'END'
[[processes]]
type = "web"
command = ["sh", "-c"]
args = ["pwd; id -u; cat /workspace/hello.txt; echo; env | LC_ALL=C sort | grep -v HOSTNAME; ls -ld /layers/test_shell/a", "it's"]
working-dir = "/tmp"
default = true
END
"#,
        )
        .image
        .unwrap();
    let tag = format!("platform-test:{}", std::process::id());
    let base = docker::export(&image, &case.rootfs, &tag).unwrap();
    let here = Launch::new(&image, &case.rootfs)
        .env("SET", "user")
        .run()
        .unwrap()
        .stdout;
    let there = docker_run(&["--env", "SET=user", &tag]);
    let other = docker_run(&[
        "--entrypoint",
        "launcher",
        &tag,
        "sh",
        "-c",
        "echo $PRE$ONLY",
    ]);
    docker::remove(&tag);
    docker::remove(&base);
    let kept = |text: &str| {
        let lines = text
            .lines()
            .filter(|l| !l.starts_with("HOME=") && !l.starts_with('d'));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(kept(&there), kept(&here));
    assert!(
        there.contains("hello\n") && there.contains("ONLY=web"),
        "{there}"
    );
    assert_eq!(other, "b:a\n");
}
