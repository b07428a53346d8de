//! What a buildpack sees in a build, and what it gets back in the next.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that fails so says where, and nobody uses what is in it"
)]

mod common;

use common::{Case, read};
use platform::lifecycle::DETECT_FAIL;
use std::fs;

/// Lists what is in the layers directory before anything is built: files with contents, then
/// directories.
const LIST: &str = "for f in *; do [ -f $f ] && { echo \"== $f\"; cat $f; }; done; \
                    for d in */; do echo \"$d\"; done\n";

#[test]
fn a_build_sees_what_the_specification_says() {
    let Some(case) = Case::new() else { return };
    let build = case.build(
        "echo args: \"$@\"; env | sort; id -u; pwd; cat $CNB_PLATFORM_DIR/env/USER_VAR; echo
         cat $CNB_BP_PLAN_PATH; ls $CNB_BUILDPACK_DIR /workspace; test -e /nix || echo no /nix
         mkdir /nix 2>/dev/null || echo root not writable; echo x >/tmp/x; echo x >~/x
         echo x >/workspace/written",
    );
    let outcome = build
        .env("USER_VAR", "a value")
        .env("PATH", "/opt/bin")
        .run()
        .unwrap();
    let distro = read(case.rootfs.join("etc/os-release"));
    let version = distro
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_ID="))
        .unwrap();
    let log = outcome.log.replace(version.trim_matches('"'), "VERSION");
    let home = log.lines().find_map(|l| l.strip_prefix("HOME=")).unwrap();
    assert!(home.starts_with("/home/"));
    let lines: Vec<_> = log
        .lines()
        .filter(|line| {
            !["_=", "SHLVL=", "OLDPWD="]
                .iter()
                .any(|v| line.starts_with(v))
        })
        .collect();
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    assert_eq!(
        lines,
        [
            "args: /layers/test_shell /platform /tmp/plan/plan.toml",
            "CNB_BP_PLAN_PATH=/tmp/plan/plan.toml",
            "CNB_BUILDPACK_DIR=/cnb/buildpacks/test_shell/1.2.3",
            "CNB_LAYERS_DIR=/layers/test_shell",
            "CNB_PLATFORM_DIR=/platform",
            &format!("CNB_TARGET_ARCH={arch}"),
            "CNB_TARGET_DISTRO_NAME=debian",
            "CNB_TARGET_DISTRO_VERSION=VERSION",
            "CNB_TARGET_OS=linux",
            &format!("HOME={home}"),
            "PATH=/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PWD=/layers/test_shell",
            "USER_VAR=a value",
            "1000",
            "/layers/test_shell",
            "a value",
            "entries = []",
            "/cnb/buildpacks/test_shell/1.2.3:",
            "bin",
            "buildpack.toml",
            "",
            "/workspace:",
            "hello.txt",
            "no /nix",
            "root not writable",
        ]
    );
    assert!(!case.path("app/written").exists());
    assert_eq!(
        read(outcome.image.unwrap().app_dir().join("written")),
        "x\n"
    );
}

#[test]
fn with_clear_env_users_variables_are_only_files() {
    let Some(case) = Case::new() else { return };
    let toml = read(case.path("buildpack/buildpack.toml"));
    fs::write(
        case.path("buildpack/buildpack.toml"),
        toml + "clear-env = true\n",
    )
    .unwrap();
    let build = case.build("echo \"${USER_VAR-unset}\"; cat $CNB_PLATFORM_DIR/env/USER_VAR");
    let outcome = build.env("USER_VAR", "file").run().unwrap();
    assert_eq!(outcome.log, "unset\nfile");
}

#[test]
fn detect_decides_whether_and_with_what_plan_it_is_built() {
    let Some(case) = Case::new() else { return };
    case.script("detect", "#!/bin/sh\necho not mine\nexit 100\n");
    let outcome = case.build("").run().unwrap();
    assert_eq!(
        (outcome.detect, &*outcome.detect_log),
        (DETECT_FAIL, "not mine\n")
    );
    assert_eq!((outcome.build, outcome.success()), (None, false));

    case.script(
        "detect",
        "#!/bin/sh\n[ $CNB_BUILD_PLAN_PATH = $2 ] && [ $CNB_PLATFORM_DIR = $1 ] || exit 1\n\
         printf '[[provides]]\\nname = \"nix\"\\n[[requires]]\\nname = \"nix\"\\n' >$2\n",
    );
    assert_eq!(case.built("cat $3").log, "[[entries]]\nname = \"nix\"\n");

    case.script(
        "detect",
        "#!/bin/sh\nprintf '[[requires]]\\nname = \"nix\"\\n' >$2\n",
    );
    assert_eq!(case.build("").run().unwrap().detect, DETECT_FAIL);
}

#[test]
fn a_failed_build_leaves_the_image_of_before() {
    let Some(case) = Case::new() else { return };
    case.built("mkdir a; echo 1 >a/f; layer a launch");
    let outcome = case
        .build("mkdir a; echo 2 >a/f; layer a launch; exit 7")
        .run()
        .unwrap();
    assert_eq!((outcome.build, outcome.success()), (Some(7), false));
    assert_eq!(read(outcome.layers.join("a/f")), "2\n");
    let image = platform::image::Image::open(case.path("image")).unwrap();
    assert_eq!(read(image.layer_dir("a").unwrap().join("f")), "1\n");
}

/// A layer of each combination of types, and one of none.
const ALL: &str = "
    for types in launch build cache 'launch build' 'launch cache' 'build cache' \\
                 'launch build cache' ''; do
        name=l${types// /-}; mkdir $name; echo content >$name/file; layer $name $types
    done
    printf '[metadata]\\nkey = \"value\"\\n' >store.toml
    echo '{}' >llaunch.sbom.cdx.json; echo '{}' >lcache.sbom.cdx.json
    echo '{}' >launch.sbom.cdx.json; echo '{}' >lbuild.sbom.cdx.json\n";

const METADATA: &str = "[metadata]\nname = \"it\"\nversion = 3.0\n";

#[test]
fn the_next_build_gets_back_what_the_lifecycle_restores() {
    let Some(case) = Case::new() else { return };
    let first = case.built(ALL);
    assert!(first.layers.join("l.ignore").is_dir());
    assert_eq!(
        case.built(LIST).log,
        format!(
            "== lbuild-cache.toml\n{METADATA}== lcache.sbom.cdx.json\n{{}}\n\
             == lcache.toml\n{METADATA}\
             == llaunch-build-cache.toml\n{METADATA}== llaunch-cache.toml\n{METADATA}\
             == llaunch.sbom.cdx.json\n{{}}\n== llaunch.toml\n{METADATA}\
             == store.toml\n[metadata]\nkey = \"value\"\n\
             lbuild-cache/\nlcache/\nllaunch-build-cache/\nllaunch-cache/\n"
        )
    );
}

#[test]
fn a_layer_not_exported_again_is_gone() {
    let Some(case) = Case::new() else { return };
    case.built(ALL);
    // What came back has no types, so nothing is kept but the store.
    case.built("");
    assert_eq!(
        case.built(LIST).log,
        "== store.toml\n[metadata]\nkey = \"value\"\n*/\n"
    );
}

#[test]
fn a_cleared_cache_restores_the_store_only() {
    let Some(case) = Case::new() else { return };
    case.built(ALL);
    let outcome = case.build(LIST).clear_cache().run().unwrap();
    assert_eq!(
        outcome.log,
        "== store.toml\n[metadata]\nkey = \"value\"\n*/\n"
    );
}

#[test]
fn without_the_cache_only_launch_layers_come_back() {
    let Some(case) = Case::new() else { return };
    case.built(ALL);
    fs::remove_dir_all(case.path("image/cache")).unwrap();
    let log = case.built(LIST).log;
    assert!(!log.contains("cache"), "{log}");
    assert!(log.contains("== llaunch.toml"), "{log}");
}

#[test]
fn without_the_image_the_cache_comes_back() {
    let Some(case) = Case::new() else { return };
    case.built(ALL);
    fs::remove_file(case.path("image/image.json")).unwrap();
    let log = case.built(LIST).log;
    assert!(
        !log.contains("== llaunch.toml") && !log.contains("store"),
        "{log}"
    );
    assert!(
        log.ends_with("lbuild-cache/\nlcache/\nllaunch-build-cache/\nllaunch-cache/\n"),
        "{log}"
    );
}

#[test]
fn an_absent_launch_layer_is_the_one_of_the_previous_image() {
    let Some(case) = Case::new() else { return };
    let make =
        "mkdir a b; echo kept >a/f; echo 1 >b/f; chmod 555 a; layer a launch; layer b launch\n";
    let first = case.built(make).image.unwrap();
    assert_eq!(first.changed_layers(), ["a", "b"]);

    let second = case.built("layer a launch; mkdir b; echo 2 >b/f; layer b launch");
    assert_eq!(
        second.export_log,
        [
            "Reusing layer 'test/shell:a'",
            "Adding layer 'test/shell:b'"
        ]
    );
    let image = second.image.unwrap();
    assert_eq!(image.changed_layers(), ["b"]);
    assert!(image.record.layers["a"].absent && !image.record.layers["b"].absent);
    assert_eq!(image.record.layers["a"].blob, first.record.layers["a"].blob);
    assert_eq!(
        case.shell(&image, "cat /layers/test_shell/{a,b}/f"),
        "kept\n2\n"
    );
    assert_eq!(fs::read_dir(case.path("image/blobs")).unwrap().count(), 3);

    // Made again with the same contents, it is the same blob.
    let third = case.built(make).image.unwrap();
    assert_eq!(third.changed_layers(), ["b"]);
    assert!(!third.record.layers["a"].absent);
}

#[test]
fn an_absent_layer_that_no_image_has_is_an_error() {
    let Some(case) = Case::new() else { return };
    let error = case.build("layer a launch").run().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot reuse 'test/shell:a', previous image has no metadata for layer 'test/shell:a'"
    );
    let error = case.build("layer a launch cache").run().unwrap_err();
    assert_eq!(
        error.to_string(),
        "layer 'test/shell:a' is cache=true but has no contents"
    );
}

#[test]
fn a_blob_depends_on_nothing_but_contents_and_modes() {
    let Some(case) = Case::new() else { return };
    let one = case.built("mkdir a; echo x >a/f; ln a/f a/g; ln -s f a/l; layer a launch");
    let two = case.built("mkdir a; echo x >a/g; ln -s f a/l; sleep 1; cp a/g a/f; layer a launch");
    let three =
        case.built("mkdir a; echo x >a/g; ln -s f a/l; cp a/g a/f; chmod +x a/f; layer a launch");
    let blob = |outcome: &platform::lifecycle::Outcome| {
        outcome.image.as_ref().unwrap().record.layers["a"]
            .blob
            .clone()
    };
    assert_eq!(blob(&one), blob(&two));
    assert_ne!(blob(&two), blob(&three));
    let image = three.image.unwrap();
    let times = case.shell(&image, "cd /layers/test_shell/a; stat -c '%Y %u %n' . f l");
    assert_eq!(
        times,
        "315532801 1000 .\n315532801 1000 f\n315532801 1000 l\n"
    );
}

#[test]
fn an_sbom_of_an_undeclared_format_is_refused() {
    let Some(case) = Case::new() else { return };
    let error = case
        .build("mkdir a; layer a launch; echo '{}' >a.sbom.spdx.json")
        .run();
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("undeclared SBOM media type: 'application/spdx+json'"),
        "{error}"
    );
}
