//! How signals and ends are passed on, in sandboxes that refuse what hosts refuse.

use crate::common::{Deploy, output, share_of_programs};
use crate::launch::{self, DOCKER, LIMIT, launch, run, static_image};
use platform::process::Launch;
use platform::sandbox::Signal;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Sends `TERM` once `ready` is written; the time until the end, the status, the output.
fn terminate(launch: &Launch, ready: &str) -> (Duration, i32, String) {
    let mut process = launch.start().unwrap();
    process.wait_for(ready, LIMIT).unwrap();
    let sent = Instant::now();
    process.signal(Signal::TERM).unwrap();
    let status = process.wait_timeout(LIMIT).unwrap().expect("it ends");
    (sent.elapsed(), status, process.stdout())
}

#[test]
fn process_1_passes_term_on_at_once_and_ends_as_the_app_does() {
    let Some(image) = static_image() else { return };
    let Some(python) = launch::image("python") else {
        return;
    };
    let shell = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    for forbidden in [&[] as &[_], DOCKER] {
        let python = Launch::new(&python.1, &python.0.fixtures.rootfs).env("PORT", "0");
        let python = forbidden.iter().fold(python, |launch, call| {
            launch.sandbox(|sandbox| sandbox.forbid(*call))
        });
        for (name, launch, ready, status) in [
            (
                "static",
                launch(&image, forbidden, ["run_proot.sh", "myapp", "wait"]),
                "ready",
                0,
            ),
            ("python", python, "listening", 143),
            (
                "shell",
                launch(&image, forbidden, ["run_proot.sh", "bash", "-c", shell]),
                "ready",
                3,
            ),
        ] {
            // The machine may be busy for a moment, but not each time.
            let tries: Vec<_> = (0..5).map(|_| terminate(&launch, ready)).collect();
            let shortest = tries.iter().map(|(time, ..)| *time).min().unwrap();
            assert!(
                tries.iter().all(|(_, ended, _)| *ended == status),
                "{name}: {tries:?}"
            );
            assert!(shortest < Duration::from_millis(50), "{name}: {shortest:?}");
        }
    }
}

#[test]
fn a_signal_is_passed_on_once_and_to_the_whole_group() {
    let Some(image) = static_image() else { return };
    let count = "n=0; trap 'n=$((n+1))' TERM; echo ready; while [ $n = 0 ]; do sleep 0.05; done; \
                 sleep 0.3; exit $n";
    // The shell dies of the signal; what it has started finishes its work.
    let finish = "bash -c 'trap \"sleep 0.3; echo finished; exit\" TERM; echo ready; while :; do \
                  sleep 0.01; done'; true";
    for forbidden in [&[] as &[_], DOCKER] {
        let launch = launch(&image, forbidden, ["run_proot.sh", "bash", "-c", count]);
        assert_eq!(terminate(&launch, "ready").1, 1);
        let launch = self::launch(&image, forbidden, ["nix-hydra", "run", "--shell", finish]);
        let (_, status, stdout) = terminate(&launch, "ready");
        assert_eq!((status, stdout.as_str()), (143, "ready\nfinished\n"));
    }
}

#[test]
fn nothing_is_left_when_it_ends_and_the_status_is_the_app_s() {
    let Some(image) = static_image() else { return };
    // The outer shell is process 1, so the start program is not.
    let script = "run_proot.sh bash -c 'sleep 50 & (setsid sleep 60 &); exit 7'; echo $?; \
                  run_proot.sh bash -c 'kill -TERM $$' 2>/dev/null; echo $?; \
                  run_proot.sh bash -c 'true & kill -KILL $$' 2>/dev/null; echo $?; \
                  run_proot.sh no-such-program 2>/dev/null; echo $?; \
                  run_proot.sh / 2>/dev/null; echo $?; \
                  for p in /proc/[0-9]*; do read -r name <$p/comm; echo $name; done; ls -A /tmp";
    let output = run(&image, DOCKER, ["bash", "-c", script]);
    assert_eq!(
        output.stdout, "7\n143\n137\n127\n126\nbash\n",
        "{}",
        output.stderr
    );
    for forbidden in [&[] as &[_], DOCKER] {
        let status = |script| run(&image, forbidden, ["run_proot.sh", "bash", "-c", script]).code;
        assert_eq!(status("(sleep 50 &); exit 7"), 7);
        assert_eq!(status("kill -SEGV $$"), 139);
        assert_eq!(
            run(&image, forbidden, ["run_proot.sh", "no-such"]).code,
            127
        );
    }
}

#[test]
fn signals_reach_the_app_whichever_attempt_runs_it() {
    let Some(image) = static_image() else { return };
    let file = image.1.layer_dir("proot").unwrap().join("libexec/proot");
    let directory = TempDir::new().unwrap();
    let real = directory.path().join("real-proot");
    fs::copy(&file, &real).unwrap();
    let hidden = "while [ \"${1#-}\" != \"$1\" ]; do shift 2; done; exec \"$@\"\n";
    let script = "grep SigBlk /proc/self/status; trap 'exit 3' TERM; echo ready; \
                  while :; do sleep 0.01; done";
    let launched = |first: &str, script: &str| {
        let proot = format!(
            "#!/bin/sh\n[ \"$PROOT_NO_SECCOMP\" ] && exec /real-proot \"$@\"; {first}{hidden}"
        );
        fs::write(&file, proot).unwrap();
        let launch = launch(&image, DOCKER, ["run_proot.sh", "bash", "-c", script]);
        launch.sandbox(|sandbox| sandbox.bind_ro(&real, "/real-proot"))
    };
    let (_, status, stdout) = terminate(&launched("", script), "ready");
    let expected = "SigBlk:\t0000000000000000\nready\n";
    assert_eq!((status, stdout.as_str()), (3, expected));
    // It comes while the first attempt is still on.
    let slow = launched("echo ready; sleep 1; ", "exec sleep 100");
    assert_eq!(terminate(&slow, "ready").1, 143);
}

#[test]
fn what_a_shell_does_to_its_jobs_is_done_to_the_app() {
    let Some(image) = static_image() else { return };
    // Control-Z, then `fg`, then control-C, each typed once the one before has had its effect.
    let typed = "type() { sleep 0.7; printf \"$1\"; }; \
                 { type 'run_proot.sh sleep 30\\n'; type '\\032'; type 'jobs\\n'; type 'fg\\n'; \
                 type '\\003'; type 'echo status $?\\n'; type 'exit\\n'; sleep 1; } | \
                 timeout 20 script -qec 'bash --norc --noprofile -i' /dev/null";
    for forbidden in [&[] as &[_], DOCKER] {
        let output = run(&image, forbidden, ["bash", "-c", typed]);
        let said = &output.stdout;
        assert!(said.contains("Stopped"), "{said}");
        assert!(said.contains("status 130"), "{said}");
    }
}

#[test]
fn what_nobody_waits_for_leaves_no_zombie() {
    let Some(image) = static_image() else { return };
    let script = "for i in 1 2 3 4 5; do (true & exec sleep 0.05 &); done; (setsid true &); sleep 0.5; \
                  for p in /proc/[0-9]*; do read -r line <$p/stat; line=${line##*) }; \
                  echo ${line%% *}; done 2>/dev/null | grep -c Z";
    for forbidden in [&[] as &[_], DOCKER] {
        let output = run(&image, forbidden, ["run_proot.sh", "bash", "-c", script]);
        assert_eq!(output.stdout, "0\n", "{}", output.stderr);
    }
}

#[test]
fn every_signal_reaches_the_app() {
    let Some(image) = static_image() else { return };
    // Bash itself loses an INT now and then while it waits for a child in the foreground.
    let script = "trap 'echo hup' HUP; trap 'echo int' INT; trap 'echo quit' QUIT; \
                  trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo cont' CONT; \
                  trap 'echo winch' WINCH; trap 'echo term; exit 4' TERM; \
                  echo ready; while :; do sleep 0.01 & wait $!; done";
    let signals = [
        (Signal::HUP, "hup"),
        (Signal::INT, "int"),
        (Signal::QUIT, "quit"),
        (Signal::USR1, "usr1"),
        (Signal::USR2, "usr2"),
        (Signal::CONT, "cont"),
        (Signal::WINCH, "winch"),
        (Signal::TERM, "term"),
    ];
    for forbidden in [&[] as &[_], DOCKER] {
        let launch = launch(&image, forbidden, ["run_proot.sh", "bash", "-c", script]);
        let mut process = launch.start().unwrap();
        process.wait_for("ready", LIMIT).unwrap();
        let mut expected = "ready\n".to_string();
        for (signal, said) in signals {
            process.signal(signal).unwrap();
            if let Err(error) = process.wait_for(said, LIMIT) {
                let processes =
                    output(Command::new("ps").args(["-eo", "pid,ppid,pgid,stat,wchan,comm"]));
                panic!("{said}, without {forbidden:?}: {error}\n{processes}");
            }
            expected = format!("{expected}{said}\n");
        }
        assert_eq!(process.wait_timeout(LIMIT).unwrap(), Some(4));
        assert_eq!(process.stdout(), expected);
    }
}

#[test]
fn term_reaches_a_node_app() {
    let Some(deploy) = Deploy::of_programs() else {
        return;
    };
    let image = deploy.built();
    let share = share_of_programs(&image);
    let image = (deploy, image);
    let script = "process.on('SIGTERM', () => process.exit(5)); setInterval(() => {}, 1000); \
                  console.log('ready')";
    for forbidden in [&[] as &[_], DOCKER] {
        let launch = launch(&image, forbidden, ["run_proot.sh", "node", "-e", script]);
        let launch = launch.sandbox(|sandbox| sandbox.bind_ro(&share, "/usr/share"));
        let tries: Vec<_> = (0..3).map(|_| terminate(&launch, "ready")).collect();
        assert!(tries.iter().all(|(_, status, _)| *status == 5), "{tries:?}");
        let shortest = tries.iter().map(|(time, ..)| *time).min().unwrap();
        assert!(shortest < Duration::from_millis(50), "{tries:?}");
    }
}
