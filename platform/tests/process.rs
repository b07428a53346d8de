//! How a process of an image starts, and what it sees.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that fails so says where, and nobody uses what is in it"
)]

mod common;

use common::Case;
use platform::process::Launch;
use platform::sandbox::{Forbidden, Sandbox, Signal, Streams};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

const PROCESSES: &str = r#"cat >launch.toml <<'END'
[[processes]]
type = "web"
command = ["bash", "-c"]
args = ["trap 'echo bye; exit 3' TERM; echo pid $$; while :; do sleep 0.05; done"]
default = true

[[processes]]
type = "show"
command = ["tool"]
args = ["one", "$HOME"]
working-dir = "/tmp"
END
mkdir -p a/bin
printf '#!/bin/sh\npwd; for a; do echo "<$a>"; done\n' >a/bin/tool; chmod +x a/bin/tool
layer a launch
"#;

#[test]
fn processes_start_directly_with_their_arguments() {
    let Some(case) = Case::new() else { return };
    let image = case.built(PROCESSES).image.unwrap();
    assert_eq!(image.default_process(), Some("web"));
    let show = Launch::new(&image, &case.rootfs).process("show");
    assert_eq!(show.run().unwrap().stdout, "/tmp\n<one>\n<$HOME>\n");
    let output = show.args(["other"]).run().unwrap();
    assert_eq!(output.stdout, "/tmp\n<other>\n");
    let missing = Launch::new(&image, &case.rootfs)
        .process("no")
        .run()
        .unwrap_err();
    assert_eq!(missing.to_string(), "process type no was not found");
    let output = Launch::new(&image, &case.rootfs)
        .command(["nonesuch"])
        .run()
        .unwrap();
    assert_eq!(output.code, 127);
}

#[test]
fn a_signal_reaches_the_process_itself() {
    let Some(case) = Case::new() else { return };
    let image = case.built(PROCESSES).image.unwrap();
    let mut process = Launch::new(&image, &case.rootfs).start().unwrap();
    process.wait_for("pid 1\n", LIMIT).unwrap();
    assert_eq!(process.poll().unwrap(), None);
    process.signal(Signal::TERM).unwrap();
    assert_eq!(process.wait_timeout(LIMIT).unwrap(), Some(3));
    assert_eq!(process.stdout(), "pid 1\nbye\n");

    let mut process = Launch::new(&image, &case.rootfs).start().unwrap();
    process.wait_for("pid 1\n", LIMIT).unwrap();
    let pid = process.pid().unwrap();
    drop(process);
    assert!(!std::path::Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists());
}

#[test]
fn a_process_takes_signals_that_its_parents_ignore() {
    let Some(case) = Case::new() else { return };
    let sandbox = Sandbox::new(&case.rootfs).started_by(["nohup"]);
    let output = sandbox.run(["sh", "-c", "trap 'echo taken' HUP; kill -HUP $$"]);
    assert_eq!(output.unwrap().stdout, "taken\n");
}

#[test]
fn a_process_dies_with_the_thread_that_started_it() {
    let Some(case) = Case::new() else { return };
    let image = case.built(PROCESSES).image.unwrap();
    let launch = Launch::new(&image, &case.rootfs);
    let started = std::thread::spawn(move || {
        let mut process = launch.start().unwrap();
        process.wait_for("pid 1\n", LIMIT).unwrap();
        process
    });
    let mut process = started.join().unwrap();
    assert_eq!(process.wait_timeout(LIMIT).unwrap(), Some(137));
}

#[test]
fn layers_change_the_environment_as_the_launcher_does() {
    let Some(case) = Case::new() else { return };
    let image = case
        .built(
            r#"
            put() { mkdir -p "$(dirname "$1")"; printf %s "$2" >"$1"; }
            mkdir -p a/bin a/lib b/bin
            put a/env/PLAIN from-a;          put b/env/PLAIN from-b
            put a/env/OVER.override a
            put a/env/DEF.default a;         put b/env/DEF.default b
            put a/env/SET.default ignored
            put a/env/PRE.prepend a;         put b/env/PRE.prepend b
            put b/env/PRE.delim :
            put a/env.launch/APP.append a;   put b/env.launch/APP.append b
            put b/env.launch/APP.delim ,
            put a/env.launch/web/ONLY web;   put a/env.launch/other/ONLY other
            put a/env.build/BUILD no
            mkdir -p a/exec.d/web
            printf '#!/bin/sh\necho "EXECD = \\"$PLAIN\\"" >&3\n' >a/exec.d/one
            printf '#!/bin/sh\necho "EXECD_WEB = \\"$EXECD\\"" >&3\n' >a/exec.d/web/one
            chmod +x a/exec.d/one a/exec.d/web/one
            layer a launch; layer b launch
            printf '[[processes]]\ntype = "web"\ncommand = ["env"]\n' >launch.toml"#,
        )
        .image
        .unwrap();
    let launch = Launch::new(&image, &case.rootfs)
        .env("SET", "user")
        .env("PRE", "user");
    let web = launch
        .clone()
        .process("web")
        .env("OVER", "user")
        .run()
        .unwrap();
    let mut lines: Vec<_> = web.stdout.lines().collect();
    lines.sort_unstable();
    let home = lines.iter().find(|l| l.starts_with("HOME=/home/")).unwrap();
    let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(
        lines,
        [
            "APP=a,b",
            "DEF=a",
            "EXECD=from-b",
            "EXECD_WEB=from-b",
            home,
            "LD_LIBRARY_PATH=/layers/test_shell/a/lib",
            "ONLY=web",
            "OVER=a",
            &format!("PATH=/layers/test_shell/b/bin:/layers/test_shell/a/bin:{system}"),
            "PLAIN=from-b",
            "PRE=b:auser",
            "SET=user",
        ]
    );
    let other = launch.command(["env"]).run().unwrap().stdout;
    assert!(
        !other.contains("ONLY") && !other.contains("EXECD_WEB"),
        "{other}"
    );
}

#[test]
fn a_process_writes_into_its_own_workspace_only() {
    let Some(case) = Case::new() else { return };
    let image = case.built("mkdir a; layer a launch").image.unwrap();
    let script =
        "echo new >hello.txt; cat hello.txt; touch /layers/test_shell/a/x 2>/dev/null || echo no";
    assert_eq!(case.shell(&image, script), "new\nno\n");
    assert_eq!(case.shell(&image, "cat hello.txt"), "hello");
}

#[test]
fn a_sandbox_can_be_as_strict_as_the_hosts_are() {
    let Some(case) = Case::new() else { return };
    let open = Sandbox::new(&case.rootfs).streams(Streams::Merged);
    let namespace = ["unshare", "--user", "echo", "namespace"];
    assert_eq!(open.run(namespace).unwrap().stdout, "namespace\n");
    let docker = open.clone().forbid(Forbidden::UserNamespaces);
    let output = docker.run(namespace).unwrap();
    assert!(
        output.stdout.contains("Operation not permitted"),
        "{output:?}"
    );
    // Other processes and threads still start.
    assert_eq!(
        docker
            .run(["sh", "-c", "echo $(echo child)"])
            .unwrap()
            .stdout,
        "child\n"
    );

    let number = if cfg!(target_arch = "aarch64") {
        117
    } else {
        101
    };
    let trace = format!("print syscall({number}, 0, 0, 0, 0) == 0 ? 'traced' : $!");
    let trace = ["perl", "-e", &trace];
    assert_eq!(docker.run(trace).unwrap().stdout, "traced");
    let cedar = docker.forbid(Forbidden::Ptrace);
    assert_eq!(cedar.run(trace).unwrap().stdout, "Operation not permitted");

    let writes = ["sh", "-c", "touch /tmp/x ~/x && echo written"];
    assert_eq!(open.run(writes).unwrap().stdout, "written\n");
    assert_ne!(open.read_only().run(writes).unwrap().code, 0);
}

#[test]
fn a_sandbox_shows_what_is_bound_and_no_more() {
    let Some(case) = Case::new() else { return };
    let sandbox = Sandbox::new(&case.rootfs).bind_ro(case.path("app"), "/nix/store");
    let output = sandbox.run([
        "sh",
        "-c",
        "ls -A / /nix/store; cat /nix/store/*; id -un; ls /proc | grep -c ^[0-9]",
    ]);
    let output = output.unwrap().stdout;
    assert!(
        output.contains("\nnix\n") && output.contains("/nix/store:\nhello.txt\nhello"),
        "{output}"
    );
    assert!(!output.contains("workspace"), "{output}");
    let gone = sandbox
        .env("HOME", "/tmp")
        .run(["sh", "-c", "kill -9 $$"])
        .unwrap();
    assert_eq!(gone.code, 137);
}
