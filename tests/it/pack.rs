//! The same deploys through the real `pack` and lifecycle, where they, Docker and a builder are there.
//!
//! `libcnb-test` cannot put a build on this machine's network, so what is downloaded elsewhere is
//! carried into the container by a buildpack of two scripts that stands before ours, as files.

use crate::common::{buildpack, copy, fixtures, output, strip_ansi};
use http_client::{ApiRequest, Http};
use libcnb_data::buildpack_id;
use libcnb_data::layer_name;
use libcnb_data::sbom::SbomFormat;
use libcnb_test::{
    BuildConfig, BuildpackReference, ContainerConfig, ContainerContext, PackResult, SbomType,
    TestContext, TestRunner, assert_contains,
};
use platform::fixtures::Fixtures;
use platform::pack::{PackImage, builder};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The files of the carrying buildpack, as a build sees them.
const CARRIED: &str = "file:///cnb/buildpacks/test_carrier/0.0.1";

/// The buildpack that carries the binary cache, Nix and `PRoot`, and a builder to run it on.
struct Pack {
    fixtures: Fixtures,
    carrier: TempDir,
    builder: String,
}

impl Pack {
    /// Where something is missing, the test is left out, which is said and counted.
    fn find() -> Option<Self> {
        let builder = match builder() {
            Ok(builder) => builder,
            Err(missing) => {
                platform::left_out(missing);
                return None;
            }
        };
        let fixtures = fixtures()?;
        let carrier = buildpack_of_scripts("carrier", "");
        let file = |name: &str| carrier.path().join(name);
        copy(&fixtures.cache, &file("cache"));
        fs::copy(&fixtures.nix_archive, file("nix.tar.xz")).unwrap();
        fs::copy(&fixtures.proot, file("proot")).unwrap();
        Some(Self {
            fixtures,
            carrier,
            builder,
        })
    }

    fn config(&self, app: &str) -> BuildConfig {
        let mut config = BuildConfig::new(&self.builder, &self.fixtures.apps[app].dir);
        let path = |path: &Path| BuildpackReference::Other(path.display().to_string());
        config
            // Nothing is compiled for it: libcnb-test takes the image's architecture from it.
            .target_triple(format!("{}-unknown-linux-musl", std::env::consts::ARCH))
            .buildpacks([path(self.carrier.path()), path(buildpack())])
            .envs(self.env());
        config
    }

    /// What a user sets.
    fn env(&self) -> [(&'static str, String); 5] {
        let fixtures = &self.fixtures;
        [
            ("NIX_EXTRA_BINARY_CACHE", format!("{CARRIED}/cache")),
            ("NIX_DEFAULT_BINARY_CACHE", String::new()),
            ("NIX_TRUSTED_PUBLIC_KEYS", fixtures.public_key.clone()),
            ("NIX_ARCHIVE_URL", format!("{CARRIED}/nix.tar.xz")),
            ("NIX_ARCHIVE_SHA256", fixtures.nix_archive_sha256.clone()),
        ]
    }

    /// Deploys `store_path` from `caches`, which must fail, and answers all that was said.
    fn failed(&self, store_path: &str, caches: &str) -> String {
        let mut config = self.config("static");
        config
            .env("NIX_STORE_PATH", store_path)
            .env("NIX_EXTRA_BINARY_CACHE", caches)
            .expected_pack_result(PackResult::Failure);
        let mut said = String::new();
        TestRunner::default().build(config, |context| {
            said = log(&context);
        });
        said
    }
}

/// A buildpack that always passes, and whose `bin/build` is this shell script.
fn buildpack_of_scripts(name: &str, build: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    let file = |name: &str| directory.path().join(name);
    fs::create_dir(file("bin")).unwrap();
    for (script, text) in [("bin/detect", ""), ("bin/build", build)] {
        fs::write(file(script), format!("#!/bin/sh\n{text}")).unwrap();
        fs::set_permissions(file(script), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let toml = format!("api = '0.10'\n[buildpack]\nid = 'test/{name}'\nversion = '0.0.1'\n");
    fs::write(file("buildpack.toml"), toml).unwrap();
    directory
}

/// What pack says, and then what the buildpacks do: pack writes that to where they did.
fn log(context: &TestContext) -> String {
    strip_ansi(&format!("{}{}", context.pack_stdout, context.pack_stderr))
}

/// The body that the app in `container` answers with, once it listens.
fn answer(container: &ContainerContext, port: u16) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !container.logs_now().stdout.contains("listening") {
        assert!(Instant::now() < deadline, "{}", container.logs_now());
        sleep(Duration::from_millis(50));
    }
    let url = format!("http://{}/", container.address_for_port(port));
    let reply = Http::new().call_api(&url.parse().unwrap(), None, ApiRequest::Get, 10_000);
    String::from_utf8(reply.unwrap().body).unwrap()
}

/// The image's CycloneDX document, as `pack sbom download` brings it.
fn bill_of_materials(context: &TestContext) -> serde_json::Value {
    context.download_sbom_files(|files| {
        let file = files.path_for(
            buildpack_id!("nix/hydra"),
            SbomType::Layer(layer_name!("closure")),
            SbomFormat::CycloneDxJson,
        );
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    })
}

/// The status that the command of `container` ends with.
fn status(container: &ContainerContext) -> String {
    output(Command::new("docker").args(["wait", &container.container_name]))
}

#[test]
fn pack_builds_the_python_app_and_builds_it_again_from_what_is_there() {
    let Some(pack) = Pack::find() else { return };
    let config = pack.config("python");
    TestRunner::default().build(&config, |context| {
        assert_contains!(log(&context), &pack.fixtures.apps["python"].store_path);
        context.start_container(
            ContainerConfig::new().env("PORT", "8080").expose_port(8080),
            |container| {
                let answer: serde_json::Value =
                    serde_json::from_str(&answer(&container, 8080)).unwrap();
                assert_eq!(answer["app"], "myapp");
                assert_eq!(answer["uid"], 1000);
                let seen = container.shell_exec("ls /nix 2>&1 || id -u").stdout;
                assert!(seen.contains("No such file"), "{seen}");
                assert!(seen.ends_with("\n1000\n"), "{seen}");
            },
        );
        let materials = bill_of_materials(&context);
        // The root itself is what the document is about.
        assert_eq!(materials["components"].as_array().unwrap().len(), 29);
        context.rebuild(&config, |context| {
            assert_eq!(bill_of_materials(&context), materials);
            let log = log(&context);
            for part in [
                "`shell.nix` was evaluated before",
                "Using the previous image's: 30 store paths",
                "Reusing layer 'nix/hydra:closure'",
                "Reusing layer 'nix/hydra:proot'",
            ] {
                assert_contains!(log, part);
            }
            let root = &pack.fixtures.apps["python"].store_path["/nix/store/".len()..][..8];
            assert_contains!(log, &format!("Reusing layer 'nix/hydra:{root}-myapp'"));
            assert!(!log.contains("Adding layer 'nix/hydra:"), "{log}");
        });
    });
}

#[test]
fn pack_builds_a_relocated_app_that_needs_no_engine() {
    let Some(pack) = Pack::find() else { return };
    let mut config = pack.config("python");
    config.env("NIX_ENGINE", "relocate");
    TestRunner::default().build(&config, |context| {
        assert_contains!(log(&context), "Relocated: ");
        context.start_container(
            ContainerConfig::new().env("PORT", "8080").expose_port(8080),
            |container| {
                let answer: serde_json::Value =
                    serde_json::from_str(&answer(&container, 8080)).unwrap();
                let executable = answer["executable"].as_str().unwrap();
                // Where the link in the closure layer leads: the layer that Python has to itself.
                let place = executable.strip_prefix("/layers/nix_hydra/");
                let (layer, path) = place.and_then(|place| place.split_once('/')).unwrap();
                assert_eq!(layer, format!("{}-python3", &path[..8]), "{executable}");
                assert!(path[32..].starts_with("-python3-"), "{executable}");
            },
        );
        context.rebuild(&config, |context| {
            assert_contains!(log(&context), "Reusing layer 'nix/hydra:closure'");
        });
    });
}

#[test]
fn pack_builds_a_store_path_and_a_command_s_status_comes_out() {
    let Some(pack) = Pack::find() else { return };
    let mut config = pack.config("static");
    config.env("NIX_STORE_PATH", &pack.fixtures.apps["static"].store_path);
    TestRunner::default().build(config, |context| {
        context.start_container(
            ContainerConfig::new().env("PORT", "8080").expose_port(8080),
            |container| assert_eq!(answer(&container, 8080), "myapp is running\n"),
        );
        context.start_container(ContainerConfig::new().entrypoint("version"), |container| {
            assert_eq!(status(&container), "0");
            assert_eq!(container.logs_now().stdout, "myapp 1.0\n");
        });
        context.start_container(
            ContainerConfig::new()
                .entrypoint("launcher")
                .command(["run_proot.sh myapp exit 42"]),
            |container| assert_eq!(status(&container), "42"),
        );
        context.start_container(
            ContainerConfig::new().entrypoint("launcher").command([
                "--",
                "nix-hydra",
                "why",
                "myapp",
            ]),
            |container| {
                assert_eq!(status(&container), "0");
                assert_contains!(container.logs_now().stdout, "It is deployed by name.");
            },
        );
    });
}

/// Makes a process of each line of the Procfile, as Heroku's Procfile buildpack does.
const PROCFILE: &str = r#"
sed -n 's/^\([^:]*\): *\(.*\)/[[processes]]\ntype = "\1"\ncommand = ["bash", "-c", "\2"]/p' \
    Procfile >"$CNB_LAYERS_DIR/launch.toml"
"#;

#[test]
fn a_process_of_a_procfile_buildpack_after_ours_finds_the_deployed_command() {
    let Some(pack) = Pack::find() else { return };
    let procfile = buildpack_of_scripts("procfile", PROCFILE);
    let path = |path: &Path| BuildpackReference::Other(path.display().to_string());
    for engine in ["", "relocate"] {
        let mut config = pack.config("static");
        config
            .buildpacks([pack.carrier.path(), buildpack(), procfile.path()].map(path))
            .env("NIX_ENGINE", engine)
            .env("NIX_STORE_PATH", &pack.fixtures.apps["static"].store_path);
        TestRunner::default().build(config, |context| {
            for (entrypoint, command) in [
                ("version", &[] as &[&str]),
                ("launcher", &["--", "myapp", "version"]),
                ("launcher", &["--", "bash", "-c", "myapp version"]),
                ("launcher", &["myapp version"]),
            ] {
                let mut container = ContainerConfig::new();
                container
                    .entrypoint(entrypoint)
                    .command(command.iter().copied());
                context.start_container(container, |container| {
                    assert_eq!(status(&container), "0");
                    assert_eq!(container.logs_now().stdout, "myapp 1.0\n");
                });
            }
        });
    }
}

#[test]
fn pack_fails_with_our_message_for_a_path_that_no_cache_has() {
    let Some(pack) = Pack::find() else { return };
    let path = "/nix/store/00000000000000000000000000000000-absent";
    let said = pack.failed(path, &format!("{CARRIED}/cache"));
    assert_contains!(said, "No binary cache has absent");
    assert_contains!(said, &format!("{CARRIED}/cache: it does not have the path"));
}

#[test]
fn the_buildpack_resolves_host_names_inside_a_container() {
    let Some(pack) = Pack::find() else { return };
    let said = pack.failed(
        &pack.fixtures.apps["static"].store_path,
        "http://does-not-exist.invalid http://localhost:1",
    );
    let answer = |url: &str| {
        let answer = said
            .lines()
            .find_map(|line| line.trim_start_matches(['!', ' ']).strip_prefix(url));
        answer.unwrap_or_else(|| panic!("no answer of {url} in {said}"))
    };
    // The one has no address; the other has, from the container's own table, and refuses there.
    assert!(!answer("http://does-not-exist.invalid: ").contains("os error"));
    assert!(answer("http://localhost:1: ").contains("os error"));
}

#[test]
fn pack_makes_the_same_layers_where_its_cache_is_cleared_or_the_image_is_gone() {
    let Some(pack) = Pack::find() else { return };
    let image = PackImage::new(&pack.builder, "nix-hydra-afresh");
    let app = &pack.fixtures.apps["python"];
    let build = |more: &[&str]| {
        let mut command = image.build(&app.dir, &[pack.carrier.path(), buildpack()]);
        for (name, value) in pack.env() {
            command.args(["--env", &format!("{name}={value}")]);
        }
        let path = format!("NIX_STORE_PATH={}", app.store_path);
        let outcome = command.args(["--env", &path]).args(more).output().unwrap();
        let log = [outcome.stdout, outcome.stderr].map(|said| String::from_utf8(said).unwrap());
        let log = strip_ansi(&log.concat());
        assert!(outcome.status.success(), "{log}");
        (log, image.layers().unwrap())
    };
    let afresh = "Starting afresh: there is no previous image, or the platform was told to clear";
    let (log, first) = build(&[]);
    assert_contains!(log, afresh);
    let (log, layers) = build(&["--clear-cache"]);
    assert_contains!(log, afresh);
    assert_contains!(log, "Reusing layer 'nix/hydra:closure'");
    assert_eq!(layers, first);
    image.remove();
    let (log, layers) = build(&[]);
    assert_contains!(log, afresh);
    assert_contains!(log, "Adding layer 'nix/hydra:closure'");
    assert_eq!(layers, first);
}
