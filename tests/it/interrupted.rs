//! Builds that are told to end: they say so, end with the signal's status, and leave nothing running.

use crate::common::{Deploy, buildpack, copy, strip_ansi};
use platform::sandbox::Signal;
use platform::server::{Request, Response};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// Longer than any of these builds is let run.
const SILENT: Duration = Duration::from_secs(50);

/// Knows nothing, but takes its time to say so.
fn silent(request: &Request) -> Option<Response> {
    let asks = request.path.ends_with(".narinfo") || request.path == "/pinned";
    asks.then(|| Response::new(404).delay(SILENT))
}

/// The last words of a build.
fn message(log: &str) -> String {
    let log = strip_ansi(log);
    log[log.find("\n! ").unwrap_or(0)..].trim().to_string()
}

#[test]
fn a_build_that_waits_for_a_cache_ends_with_a_word_when_it_is_interrupted() {
    let Some(mut deploy) = Deploy::with_hook("static", silent) else {
        return;
    };
    deploy.set_path("static");
    for (signal, status) in [(Signal::HUP, 129), (Signal::INT, 130), (Signal::TERM, 143)] {
        let build = deploy.to_build();
        // It has asked by then.
        let build = build.signal_after(signal, Duration::from_secs(5));
        let outcome = build.run().unwrap();
        assert_eq!(outcome.build, Some(status), "{}", outcome.log);
        assert!(!outcome.layers.join("closure.toml").exists());
        if signal == Signal::INT {
            insta::assert_snapshot!(message(&outcome.log));
        }
    }
}

/// A buildpack whose build is interrupted as soon as Nix evaluates, and then says what still runs. It
/// is told to ignore `HUP`, as by `nohup`.
const INTERRUPTED: &str = r#"#!/bin/sh
trap '' HUP
"$CNB_BUILDPACK_DIR/real/build" "$@" &
running() { cat /proc/[0-9]*/comm 2>/dev/null | sort -u | tr '\n' ' '; }
until running | grep -q nix-instantiate || ! kill -0 $!; do sleep 0.1; done
sleep 0.5
kill -HUP $!
sleep 0.5
kill -TERM $!
wait $!
echo "ended with $?, and these run: $(running)"
exit 1
"#;

#[test]
fn an_interrupted_build_leaves_no_nix_running_and_minds_no_signal_that_it_is_to_ignore() {
    let Some(mut deploy) = Deploy::with_hook("static", silent) else {
        return;
    };
    let wrapper = TempDir::new().unwrap();
    copy(buildpack(), wrapper.path());
    let build = wrapper.path().join("bin/build");
    let executable = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    executable(wrapper.path());
    fs::create_dir(wrapper.path().join("real")).unwrap();
    executable(&wrapper.path().join("real"));
    fs::rename(&build, wrapper.path().join("real/build")).unwrap();
    fs::write(&build, INTERRUPTED).unwrap();
    executable(&build);
    fs::write(
        deploy.app().join("default.nix"),
        format!(
            "import (builtins.fetchurl \"{}/pinned\")",
            deploy.cache.url()
        ),
    )
    .unwrap();
    deploy.set("NIX_FILE", "default.nix");
    let outcome = deploy.to_build().buildpack(wrapper.path()).run().unwrap();
    let log = strip_ansi(&outcome.log);
    assert!(log.contains("! The build was interrupted"), "{log}");
    let (_, end) = log
        .split_once("ended with ")
        .unwrap_or_else(|| panic!("{log}"));
    assert!(end.starts_with("143, and these run: "), "{log}");
    assert!(!end.contains("nix"), "{log}");
}
