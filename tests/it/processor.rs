//! What is for another processor is refused where an image is built, and named where it runs.

use crate::common::{
    Deploy, Made, buildpack, copy, fixtures, made, made_as, nix, output, strip_ansi,
};
use crate::hydra_server::{HydraServer, build, eval, git, revision};
use crate::launch::DOCKER;
use nix_hydra_start::executable::Machine;
use platform::fixtures::Fixtures;
use platform::image::Image;
use platform::process::Launch;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// `e_machine` of arm64, or of x86-64 where this is arm64.
const OTHER: u16 = if cfg!(target_arch = "aarch64") {
    62
} else {
    183
};

/// One that no emulator is for.
const UNKNOWN: u16 = 9999;

/// The header of an ELF program of 64 bits.
fn program(machine: u16) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(64, 0);
    bytes[16] = 2;
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes
}

/// Writes programs into a store path.
fn write(out: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let file = out.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o555)).unwrap();
    }
}

fn other(fixtures: &Fixtures) -> Made {
    made(fixtures, "other", &[], |out| {
        write(out, &[("bin/other", &program(OTHER))]);
    })
}

fn names() -> (String, String) {
    let own = Machine::own();
    let other = match own {
        Machine::X86_64 => Machine::AARCH64,
        _ => Machine::X86_64,
    };
    (own.to_string(), other.to_string())
}

/// A build that must be refused; its log.
fn refused(deploy: &Deploy) -> String {
    let outcome = deploy.build();
    assert!(!outcome.success(), "{}", outcome.log);
    let log = strip_ansi(&outcome.log);
    let (own, other) = names();
    let header = format!("What is deployed is for {other}, not {own}");
    assert!(log.contains(&header), "{log}");
    let left = fs::read_dir(&outcome.layers).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // What an evaluation leaves is kept.
    let left: Vec<_> = left.filter(|name| !name.starts_with("nix-store")).collect();
    assert!(left.is_empty(), "{left:?}");
    log
}

/// The static app with a binary cache of its own before that of the fixtures.
fn deploy_of(made: &Made) -> Deploy {
    let mut deploy = Deploy::new("static").unwrap();
    let caches = format!("{} {}", made.cache.url(), deploy.cache.url());
    deploy
        .set("NIX_EXTRA_BINARY_CACHE", &caches)
        .set("NIX_STORE_PATH", &made.store_path);
    deploy
}

#[test]
fn a_store_path_for_another_processor_is_refused() {
    let Some(fixtures) = fixtures() else { return };
    let other = other(&fixtures);
    let log = refused(&deploy_of(&other));
    assert!(log.contains(&other.store_path), "{log}");
    let mut relocated = deploy_of(&other);
    relocated.set("NIX_ENGINE", "relocate");
    refused(&relocated);
}

#[test]
fn a_script_is_for_the_processor_of_its_interpreter() {
    let Some(fixtures) = fixtures() else { return };
    let wrapped = made(&fixtures, "wrapped", &[], |out| {
        let store_path = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-wrapped";
        let script = format!("#!{store_path}/libexec/sh\nexec something\n");
        let files: [(&str, &[u8]); 2] = [
            ("bin/wrapped", script.as_bytes()),
            ("libexec/sh", &program(OTHER)),
        ];
        write(out, &files);
    });
    refused(&deploy_of(&wrapped));
}

#[test]
fn programs_for_other_processors_are_deployed_beside_those_for_the_image_s() {
    let Some(fixtures) = fixtures() else { return };
    let mixed = made(&fixtures, "mixed", &[], |out| {
        let own = if OTHER == 62 { 183 } else { 62 };
        let files: [(&str, &[u8]); 2] = [
            ("bin/a-loader-for-others", &program(OTHER)),
            ("bin/own", &program(own)),
        ];
        write(out, &files);
    });
    deploy_of(&mixed).built();
}

#[test]
fn what_an_expression_gives_for_another_processor_is_refused() {
    let Some(fixtures) = fixtures() else { return };
    let directory = TempDir::new().unwrap();
    let expression =
        r#"derivation { name = "other"; system = "x86_64-linux"; builder = "/bin/sh"; }"#;
    let mut evaluated = nix(&fixtures, "nix", directory.path());
    let path = output(evaluated.args([
        "eval",
        "--raw",
        "--expr",
        &format!("({expression}).outPath"),
    ]));
    let base_name = path.strip_prefix("/nix/store/").unwrap();
    let other = made_as(&fixtures, base_name, &[], |out| {
        write(out, &[("bin/other", &program(OTHER))]);
    });
    let mut deploy = deploy_of(&other);
    deploy.unset("NIX_STORE_PATH");
    fs::write(deploy.app().join("default.nix"), expression).unwrap();
    let log = refused(&deploy);
    assert!(log.contains(&path), "{log}");
}

#[test]
fn what_hydra_built_for_another_processor_is_refused() {
    let Some(fixtures) = fixtures() else { return };
    let other = other(&fixtures);
    // Built on this processor for the other one.
    let hydra = HydraServer::new(|state| {
        let inputs = json!({ "app": git("https://git.acme.net/app", &revision('a')) });
        state.add(eval(1, &inputs), build(10, &[1], &other.store_path));
    });
    let mut deploy = Deploy::with_hook("static", hydra.hook()).unwrap();
    let caches = format!("{} {}", deploy.cache.url(), other.cache.url());
    deploy
        .set("NIX_EXTRA_BINARY_CACHE", &caches)
        .set("NIX_HYDRA_JOB", "acme/main/myapp")
        .set("NIX_REVISION", &revision('a'));
    refused(&deploy);
}

#[test]
fn a_system_that_the_cache_names_is_a_warning_where_no_program_tells() {
    let Some(fixtures) = fixtures() else { return };
    let data = made(&fixtures, "data", &[], |out| {
        write(out, &[("share/data", b"data")]);
    });
    let (own, other) = names();
    let narinfo = data.directory.path().join("cache");
    let narinfo = narinfo.join(format!("{}.narinfo", &data.base_name[..32]));
    let text = fs::read_to_string(&narinfo).unwrap();
    let warns = |system: &str| {
        fs::write(&narinfo, format!("{text}System: {system}\n")).unwrap();
        let outcome = deploy_of(&data).build();
        // Nothing in it can be run.
        let warning = format!("was built for {other}-linux, and the image is for {own}-linux");
        strip_ansi(&outcome.log)
            .replace("\n! ", " ")
            .contains(&warning)
    };
    assert!(warns(&format!("{other}-linux")));
    assert!(!warns(&format!("{own}-linux")));
    assert!(!warns("builtin"));
}

#[test]
fn a_package_of_the_buildpack_for_another_processor_is_refused() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let path = deploy.fixtures.apps["static"].store_path.clone();
    deploy.set("NIX_STORE_PATH", &path);
    let directory = TempDir::new().unwrap();
    let package = directory.path().join("buildpack");
    copy(buildpack(), &package);
    let start = package.join(".libcnb-cargo/additional-bin/nix-hydra");
    fs::write(&start, program(OTHER)).unwrap();
    let outcome = deploy.to_build().buildpack(&package).run().unwrap();
    assert!(!outcome.success());
    let header = "This package of the buildpack is for another processor";
    assert!(outcome.log.contains(header), "{}", outcome.log);
}

/// An image with programs of many kinds, and PRoot as the one that works.
fn odd_image() -> Option<(Made, Deploy, Image)> {
    let fixtures = fixtures()?;
    let own = fs::read(&fixtures.proot).unwrap();
    let odd = made(&fixtures, "odd", &[], |out| {
        let store_path = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-odd";
        let script = format!("#!{store_path}/bin/other\n");
        let files: [(&str, &[u8]); 8] = [
            ("bin/own", &own),
            ("bin/other", &program(UNKNOWN)),
            ("bin/script", script.as_bytes()),
            ("bin/cut", b"\x7fELF\x02\x01"),
            ("bin/damaged", &own[..64]),
            ("bin/windows", b"MZ\x90\0\x03\0"),
            ("bin/packed", b"\x1f\x8b\x08\0\0\0\0\0"),
            ("bin/text", b"exit $1\n"),
        ];
        write(out, &files);
    });
    let deploy = deploy_of(&odd);
    let image = deploy.built();
    Some((odd, deploy, image))
}

#[test]
fn a_file_that_is_no_program_is_named_and_never_given_to_a_shell() {
    let Some((_odd, mut deploy, image)) = odd_image() else {
        return;
    };
    let own = Machine::own();
    let other =
        format!("bin/other is a program for processor {UNKNOWN} of elf(5), and this is {own}.");
    let cases = [
        ("other", other.as_str()),
        ("script", &other),
        ("cut", "bin/cut is a program that is cut short or damaged."),
        (
            "damaged",
            "bin/damaged is a program that is cut short or damaged.",
        ),
        (
            "windows",
            "bin/windows is a program for Windows, which Linux does not run.",
        ),
        (
            "packed",
            "bin/packed is an archive, which Linux does not run.",
        ),
    ];
    let check = |image: &Image, forbidden: &[_]| {
        let run = |command: &[&str]| {
            let launch = Launch::new(image, &deploy.fixtures.rootfs).command(command.to_vec());
            let launch = forbidden.iter().fold(launch, |launch, call| {
                launch.sandbox(|sandbox| sandbox.forbid(*call))
            });
            launch.run().unwrap()
        };
        for (name, said) in cases {
            // As process 1, and as another.
            let script = format!("run_proot.sh {name}; exit $?");
            for command in [["run_proot.sh", name].as_slice(), &["bash", "-c", &script]] {
                let output = run(command);
                assert_eq!(output.code, 126, "{command:?}: {output:?}");
                assert!(output.stderr.contains(said), "{command:?}: {output:?}");
            }
        }
        assert_eq!(run(&["run_proot.sh", "text", "7"]).code, 7);
    };
    check(&image, &[]);
    check(&image, DOCKER);
    drop(image);
    deploy.set("NIX_ENGINE", "relocate");
    let image = deploy.built();
    let run = |name: &str| deploy.run(&image, ["run_proot.sh", name]);
    assert_eq!(run("other").code, 126);
    assert!(run("other").stderr.contains(&other));
}

#[test]
fn the_doctor_in_the_image_names_the_processor() {
    let Some((_odd, deploy, image)) = odd_image() else {
        return;
    };
    let bin = crate::common::store_path(&image, "-odd").join("bin");
    for entry in fs::read_dir(bin).unwrap() {
        let file = entry.unwrap().path();
        if file.ends_with("own") || file.ends_with("damaged") {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            fs::write(file, program(UNKNOWN)).unwrap();
        }
    }
    let output = deploy.run(&image, ["nix-hydra", "doctor"]);
    let said = format!(
        "they are for processor {UNKNOWN} of elf(5), and this is {}",
        Machine::own()
    );
    assert!(output.stdout.contains(&said), "{output:?}");
    assert_eq!(output.code, 1);
}
