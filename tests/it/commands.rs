//! Deployed commands in containers, whatever starts them: on `PATH` of every process, by their names.

use crate::common::Deploy;
use crate::sandboxes::{Tag, text};
use std::process::Output;

/// An image of the static app as it is by default, and one that is relocated, each with its engine.
/// `name` is the test's own.
fn images(name: &str) -> Option<Vec<(&'static str, Tag)>> {
    let mut images = Vec::new();
    for engine in ["", "relocate"] {
        let mut deploy = Deploy::new("static")?;
        deploy.set_path("static");
        deploy.set("NIX_ENGINE", engine);
        let name = format!("{name}{engine}");
        let tag = Tag::new(&name, &deploy.built(), &deploy.fixtures.rootfs)?;
        images.push((engine, tag));
    }
    Some(images)
}

/// Runs a command in the app's environment, as a platform does that knows nothing of this buildpack.
fn launch(tag: &Tag, options: &[&str], command: &[&str]) -> Output {
    let words = [&["--"], command].concat();
    tag.run(options, "launcher", &words)
}

#[track_caller]
fn prints(output: &Output, expected: &str) {
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_deployed_command_is_on_path_of_every_process() {
    let Some(images) = images("path") else {
        return;
    };
    let unconfined = ["--security-opt", "seccomp=unconfined"];
    for (_, tag) in &images {
        for options in [&[] as &[&str], &unconfined, &["--user", "0"]] {
            prints(&launch(tag, options, &["myapp", "version"]), "myapp 1.0\n");
            for shell in ["sh", "bash"] {
                let piped = "myapp version | cat; exit ${PIPESTATUS:-0}";
                prints(&launch(tag, options, &[shell, "-c", piped]), "myapp 1.0\n");
            }
        }
        // Arguments, status and signals are those of the command.
        prints(&launch(tag, &[], &["myapp", "args", "a b", ""]), "a b\n\n");
        let ended = launch(tag, &[], &["myapp", "exit", "7"]);
        assert_eq!(ended.status.code(), Some(7));
        let script = "myapp wait & sleep 0.5; kill $!; wait $!";
        prints(
            &launch(tag, &[], &["bash", "-c", script]),
            "ready\nterminated\n",
        );
    }
}

#[test]
fn a_command_in_the_engine_is_the_program_itself() {
    let Some(images) = images("within") else {
        return;
    };
    for (engine, tag) in &images {
        let output = launch(
            tag,
            &[],
            &["run_proot.sh", "bash", "-c", "command -v myapp"],
        );
        let program = text(&output.stdout);
        assert!(program.ends_with("-myapp/bin/myapp\n"), "{program}");
        let is_relocated = !program.starts_with("/nix/store/");
        assert_eq!(is_relocated, *engine == "relocate", "{program}");
        // Even where a program has set `PATH` anew: the engine is not started a second time.
        let wrapped = "PATH=/layers/nix_hydra/proot/bin; myapp version";
        let logged = ["--env", "NIX_ENGINE_LOG=1"];
        let output = launch(tag, &logged, &["run_proot.sh", "bash", "-c", wrapped]);
        prints(&output, "myapp 1.0\n");
        let taken = text(&output.stderr).matches(": taken").count();
        assert_eq!(taken, usize::from(engine.is_empty()), "{output:?}");
    }
}

#[test]
fn the_image_s_own_utilities_stay_what_its_scripts_call() {
    let Some(deploy) = Deploy::of_programs() else {
        return;
    };
    let image = deploy.built();
    let Some(tag) = Tag::new("utilities", &image, &deploy.fixtures.rootfs) else {
        return;
    };
    // Both the closure and the image have a `dash` and a `sh`; the closure alone has `busybox`.
    let script = "for name in sh dash busybox; do command -v $name; done";
    prints(
        &launch(&tag, &[], &["sh", "-c", script]),
        "/usr/bin/sh\n/usr/bin/dash\n/layers/nix_hydra/proot/bin/busybox\n",
    );
}

#[test]
fn an_engine_that_the_image_cannot_have_stops_no_app() {
    let Some(images) = images("setting") else {
        return;
    };
    for (built, tag) in &images {
        for engine in ["namespace", "proot", "relocate", "docker"] {
            let setting = format!("NIX_ENGINE={engine}");
            let output = launch(tag, &["--env", &setting], &["myapp", "version"]);
            prints(&output, "myapp 1.0\n");
            let fits = match *built {
                "relocate" => engine == "relocate",
                _ => engine == "proot",
            };
            let said = text(&output.stderr);
            assert_eq!(said.lines().count(), usize::from(!fits), "{engine}: {said}");
            assert!(fits || said.contains(&format!("NIX_ENGINE is `{engine}`")));
            let strict = ["--env", &setting, "--env", "NIX_ENGINE_STRICT=true"];
            let output = launch(tag, &strict, &["myapp", "version"]);
            let status = if fits { 0 } else { 126 };
            assert_eq!(output.status.code(), Some(status), "{engine}: {output:?}");
        }
    }
}

#[test]
fn a_script_without_its_interpreter_says_so() {
    let Some(images) = images("script") else {
        return;
    };
    let script = "printf '#!/bin/sh\\r\\ntrue\\r\\n' >/tmp/x; chmod +x /tmp/x; run_proot.sh /tmp/x";
    for (_, tag) in &images {
        let output = launch(tag, &[], &["sh", "-c", script]);
        assert_eq!(output.status.code(), Some(127), "{output:?}");
        let said = text(&output.stderr);
        assert!(
            said.contains("its first line has a Windows line end"),
            "{said}"
        );
    }
}

#[test]
fn habits_of_users_and_of_supervisors_work() {
    let Some(images) = images("habits") else {
        return;
    };
    let bin = "/layers/nix_hydra/proot/bin";
    let habits = [
        // Without an environment, with an empty PATH, and without one.
        format!("env -i {bin}/run_proot.sh myapp version"),
        format!("env -i {bin}/myapp version"),
        format!("PATH= {bin}/myapp version"),
        format!("(unset PATH; {bin}/myapp version)"),
        // A login shell sets PATH anew, as cron and sudo do.
        format!("bash -lc '{bin}/myapp version'"),
        format!("bash -lc 'PATH={bin}:$PATH; myapp version'"),
        // By another first word, and by a link from elsewhere.
        "(exec -a other myapp version)".to_string(),
        format!("ln -s {bin}/myapp /tmp/myapp; /tmp/myapp version"),
    ];
    for (_, tag) in &images {
        let output = launch(tag, &[], &["bash", "-c", &habits.join("\n")]);
        let expected = "myapp 1.0\n".repeat(habits.len());
        assert_eq!(text(&output.stdout), expected, "{output:?}");
    }
    // A supervisor that is started by the start program, and starts two apps of the closure.
    let script = "trap 'kill $(jobs -p); wait; exit 5' TERM; myapp wait & myapp wait & \
                  sleep 0.5; kill $$; wait";
    for (_, tag) in &images {
        let output = launch(tag, &[], &["run_proot.sh", "bash", "-c", script]);
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        assert_eq!(text(&output.stdout).matches("terminated").count(), 2);
    }
}
