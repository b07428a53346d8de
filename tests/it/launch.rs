//! How processes start: by which engine and with which environment, in sandboxes that refuse what
//! hosts refuse.

use crate::common::{Deploy, nix, output};
use platform::image::Image;
use platform::process::Launch;
use platform::sandbox::{Forbidden, Output};
use platform::server::Server;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// Longer than anything takes here, on a machine that has much else to do as well.
pub const LIMIT: Duration = Duration::from_mins(2);

/// What hosts with Docker's default seccomp profile refuse, and what Heroku's Cedar refuses.
pub const DOCKER: &[Forbidden] = &[Forbidden::UserNamespaces];
pub const CEDAR: &[Forbidden] = &[Forbidden::UserNamespaces, Forbidden::Ptrace];

/// The static app in an image, deployed as a store path.
pub fn static_image() -> Option<(Deploy, Image)> {
    image("static")
}

pub fn image(app: &str) -> Option<(Deploy, Image)> {
    let mut deploy = Deploy::new(app)?;
    let path = deploy.fixtures.apps[app].store_path.clone();
    deploy.set("NIX_STORE_PATH", &path);
    let outcome = deploy.build();
    assert!(outcome.success(), "{}", outcome.log);
    Some((deploy, outcome.image.unwrap()))
}

pub fn launch<const N: usize>(
    (deploy, image): &(Deploy, Image),
    forbidden: &[Forbidden],
    command: [&str; N],
) -> Launch {
    let launch = Launch::new(image, &deploy.fixtures.rootfs).command(command);
    forbidden.iter().fold(launch, |launch, call| {
        launch.sandbox(|sandbox| sandbox.forbid(*call))
    })
}

pub fn run<const N: usize>(
    image: &(Deploy, Image),
    forbidden: &[Forbidden],
    command: [&str; N],
) -> Output {
    launch(image, forbidden, command).run().unwrap()
}

fn stable(image: &(Deploy, Image), text: &str) -> String {
    let path = &image.0.fixtures.apps["static"].store_path;
    text.replace(path, "/nix/store/<app>-myapp")
}

#[test]
fn the_cheapest_engine_that_works_is_taken_where_the_process_starts() {
    let Some(image) = static_image() else { return };
    let said = |forbidden: &[Forbidden]| {
        let launch = launch(&image, forbidden, ["run_proot.sh", "myapp", "version"]);
        let output = launch.env("NIX_ENGINE_LOG", "1").run().unwrap();
        let said = stable(&image, &output.stderr);
        format!("{}{}status {}\n", said, output.stdout, output.code)
    };
    insta::assert_snapshot!(format!(
        "all allowed:\n{}\nno user namespaces:\n{}\nno ptrace either:\n{}",
        said(&[]),
        said(DOCKER),
        said(CEDAR)
    ));
}

#[test]
fn an_engine_that_is_named_is_taken_or_another_or_with_strict_is_an_error() {
    let Some(image) = static_image() else { return };
    let named = |engine: &str, strict: &str, forbidden: &[Forbidden]| {
        let launch = launch(&image, forbidden, ["run_proot.sh", "myapp", "version"]);
        let launch = launch.env("NIX_ENGINE_STRICT", strict);
        launch.env("NIX_ENGINE", engine).run().unwrap()
    };
    for engine in ["namespace", "proot", "auto"] {
        let output = named(engine, "true", &[]);
        assert_eq!(output.stdout, "myapp 1.0\n", "{engine}");
        assert_eq!(output.stderr, "", "{engine}");
    }
    for (engine, forbidden, reason) in [
        ("direct", &[] as &[_], "-myapp is not there"),
        ("namespace", DOCKER, "a user namespace is refused"),
        ("proot", CEDAR, "ptrace is refused"),
        ("relocate", &[], "built for /nix/store"),
        ("docker", &[], "NIX_ENGINE is `docker`, and takes"),
    ] {
        let output = named(engine, "", forbidden);
        let runs = engine != "proot";
        assert_eq!(output.stdout == "myapp 1.0\n", runs, "{output:?}");
        assert!(output.stderr.contains(reason), "{}", output.stderr);
        let output = named(engine, "true", forbidden);
        assert_eq!((output.code, output.stdout.as_str()), (126, ""), "{engine}");
        assert!(
            output.stderr.contains(reason),
            "{engine}: {}",
            output.stderr
        );
    }
}

#[test]
fn a_namespace_that_may_not_be_entered_is_none_that_works() {
    let Some(image) = static_image() else { return };
    let forbidden = &[Forbidden::EnterNamespaces];
    // Once as process 1, and once as another.
    for command in [
        "run_proot.sh myapp version",
        "bash -c 'run_proot.sh myapp version; :'",
    ] {
        let output = run(
            &image,
            forbidden,
            ["bash", "-c", &format!("exec {command}")],
        );
        assert_eq!(output.stdout, "myapp 1.0\n", "{}", output.stderr);
    }
    let said = run(&image, forbidden, ["nix-hydra", "engines"]).stdout;
    let refused = "namespace  does not work: entering the namespace is refused";
    assert!(said.contains(refused), "{said}");
    assert!(said.contains("commands are run by proot"), "{said}");
}

#[test]
fn a_closure_that_is_really_in_the_store_needs_no_engine() {
    let Some(image) = static_image() else { return };
    let path = &image.0.fixtures.apps["static"].store_path;
    let launch = launch(&image, CEDAR, ["run_proot.sh", "myapp", "version"]);
    let launch = launch.sandbox(|sandbox| sandbox.bind_ro(path, path));
    assert_eq!(launch.run().unwrap().stdout, "myapp 1.0\n");
    // Which it also is within a view that an engine has made, whatever is asked for.
    let nested = "run_proot.sh run_proot.sh myapp version";
    for forbidden in [&[] as &[_], DOCKER] {
        for engine in ["", "proot"] {
            let launch = self::launch(&image, forbidden, ["bash", "-c", nested]);
            let output = launch.env("NIX_ENGINE", engine).run().unwrap();
            assert_eq!(output.stdout, "myapp 1.0\n", "{}", output.stderr);
        }
    }
}

#[test]
fn engines_says_what_works_and_what_is_taken() {
    let Some(image) = static_image() else { return };
    let said = |forbidden| {
        let output = run(&image, forbidden, ["nix-hydra", "engines"]);
        format!("{}status {}\n", stable(&image, &output.stdout), output.code)
    };
    insta::assert_snapshot!(format!("{}\n{}\n{}", said(&[]), said(DOCKER), said(CEDAR)));
}

#[test]
fn streams_and_file_descriptors_and_the_terminal_are_the_app_s() {
    let Some(image) = static_image() else { return };
    let descriptors = "echo in | run_proot.sh cat; \
                       run_proot.sh bash -c 'cat <&7' 7<<<seven; \
                       bash -c 'ls /proc/$$/fd' >/tmp/before; \
                       run_proot.sh bash -c 'ls /proc/$$/fd' | cmp - /tmp/before";
    let interrupted = "(sleep 0.7; printf '\\003'; sleep 5) | timeout 10 script -qec \
                       'exec run_proot.sh sleep 20' /dev/null; echo $?";
    let in_terminal = "timeout 10 script -qec 'exec run_proot.sh bash $OPTION \"$SCRIPT\"' /dev/null \
                       </dev/null";
    let sized = "trap 'echo winch' WINCH; stty cols 99; sleep 0.2; test -t 0 && echo terminal";
    for forbidden in [&[] as &[_], DOCKER] {
        let out = |script| run(&image, forbidden, ["bash", "-c", script]).stdout;
        assert_eq!(out(descriptors), "in\nseven\n");
        let interrupted = out(interrupted);
        assert!(interrupted.ends_with("130\n"), "{interrupted}");
        let in_terminal = |option, script| {
            let launch = launch(&image, forbidden, ["bash", "-c", in_terminal]);
            let launch = launch.env("OPTION", option).env("SCRIPT", script);
            launch.run().unwrap().stdout
        };
        assert_eq!(in_terminal("-c", sized), "winch\r\nterminal\r\n");
        // A shell that is not in the foreground would complain, and have no job control.
        let monitor = "[[ $- = *m* ]] && echo monitor";
        assert_eq!(in_terminal("-ic", monitor), "monitor\r\n");
    }
}

#[test]
fn only_what_is_promised_of_the_environment_is_changed() {
    let Some(image) = static_image() else { return };
    let variables = |command: &[&str], forbidden: &[Forbidden]| {
        let (deploy, image) = &image;
        let launch = Launch::new(image, &deploy.fixtures.rootfs).command(command.iter().copied());
        let launch = [
            ("LD_LIBRARY_PATH", "/usr/lib"),
            ("TMPDIR", "/tmp"),
            ("PORT", "80"),
        ]
        .iter()
        .fold(launch, |launch, (name, value)| launch.env(name, value));
        let launch = forbidden.iter().fold(launch, |launch, call| {
            launch.sandbox(|sandbox| sandbox.forbid(*call))
        });
        let mut lines: Vec<_> = launch
            .run()
            .unwrap()
            .stdout
            .lines()
            .map(String::from)
            .collect();
        lines.sort();
        lines
    };
    let before = variables(&["env"], &[]);
    let store_path = &image.0.fixtures.apps["static"].store_path;
    for forbidden in [&[] as &[_], DOCKER] {
        let after = variables(&["run_proot.sh", "myapp", "env"], forbidden);
        let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
        let came: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        let path = before
            .iter()
            .find(|line| line.starts_with("PATH="))
            .unwrap();
        assert_eq!(gone, ["LD_LIBRARY_PATH=/usr/lib", path]);
        let bundle = "/etc/ssl/certs/ca-certificates.crt";
        let path = path.replace("PATH=", &format!("PATH={store_path}/bin:"));
        let expected = [
            format!("NIX_SSL_CERT_FILE={bundle}"),
            path,
            format!("SSL_CERT_FILE={bundle}"),
        ];
        assert_eq!(came, expected.iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_root_that_cannot_be_written_and_a_user_without_a_name_are_no_hindrance() {
    let Some(image) = static_image() else { return };
    for forbidden in [&[] as &[_], DOCKER] {
        let launch = launch(
            &image,
            forbidden,
            ["run_proot.sh", "bash", "-c", "myapp version; id -u"],
        );
        let launch = launch.sandbox(|sandbox| sandbox.read_only().user(123_456));
        let output = launch.run().unwrap();
        assert_eq!(output.stdout, "myapp 1.0\n123456\n", "{}", output.stderr);
    }
}

#[test]
fn a_proot_that_translates_nothing_is_noticed() {
    let Some(image) = static_image() else { return };
    let file = image.1.layer_dir("proot").unwrap().join("libexec/proot");
    let directory = TempDir::new().unwrap();
    let real = directory.path().join("real-proot");
    fs::copy(&file, &real).unwrap();
    let run = |script: &str| {
        fs::write(&file, script).unwrap();
        ["run_proot.sh bash -c 'myapp version'", "nix-hydra engines"].map(|command| {
            let launch = launch(&image, DOCKER, ["sh", "-c", command]);
            let launch = launch.sandbox(|sandbox| sandbox.bind_ro(&real, "/real-proot"));
            launch.run().unwrap()
        })
    };
    let [never, engines] =
        run("#!/bin/sh\nwhile [ \"${1#-}\" != \"$1\" ]; do shift 2; done; exec \"$@\"\n");
    assert_eq!(never.code, 126);
    assert!(
        never.stderr.contains("this PRoot translates nothing"),
        "{}",
        never.stderr
    );
    assert_ne!(engines.code, 0, "{}", engines.stdout);
    // As Debian's PRoot 5.4.0-3 behaves.
    let [without_filter, engines] = run(
        "#!/bin/sh\n[ \"$PROOT_NO_SECCOMP\" ] && exec /real-proot \"$@\"; while [ \"${1#-}\" != \"$1\" ]; do shift 2; done; exec \"$@\"\n",
    );
    assert_eq!(without_filter.stdout, "myapp 1.0\n");
    let said = "translates nothing with its seccomp filter, so it ran without";
    assert!(
        without_filter.stderr.contains(said),
        "{}",
        without_filter.stderr
    );
    assert_eq!(engines.code, 0, "{}", engines.stdout);
    assert!(engines.stderr.contains(said), "{}", engines.stderr);
}

#[test]
fn without_a_procfile_the_main_program_is_the_web_process() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    fs::write(deploy.app().join("Other"), "job: myapp version\n").unwrap();
    fs::remove_file(deploy.app().join("Procfile")).unwrap();
    deploy.set_path("static");
    // The second build has the programs from what is known of the layer that is kept.
    for _ in 0..2 {
        let outcome = deploy.build();
        assert!(outcome.success(), "{}", outcome.log);
        let image = outcome.image.unwrap();
        assert_eq!(image.default_process(), Some("web"));
        let launch = Launch::new(&image, &deploy.fixtures.rootfs).args(["version"]);
        let command = &image.record.processes[0].command;
        assert_eq!(command[1..], ["myapp"]);
        drop(launch);
    }
    deploy.set("NIX_PROCFILE", "Other");
    let image = deploy.build().image.unwrap();
    let output = Launch::new(&image, &deploy.fixtures.rootfs).run().unwrap();
    assert_eq!(output.stdout, "myapp 1.0\n");
    deploy.set("NIX_PROCFILE", "Missing");
    assert!(
        deploy
            .build()
            .log
            .contains("The setting NIX_PROCFILE cannot be used")
    );
}

/// A binary cache with one store path, made of these files, and that path.
fn cache_of(deploy: &Deploy, files: &[(&str, &str)]) -> (Server, TempDir, String) {
    let directory = TempDir::new().unwrap();
    let tree = directory.path().join("tree");
    for (name, text) in files {
        let file = tree.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut add = nix(&deploy.fixtures, "nix", directory.path());
    let path = output(add.args(["store", "add", "--name", "tools"]).arg(&tree));
    let cache = directory.path().join("cache");
    let mut copy = nix(&deploy.fixtures, "nix", directory.path());
    output(copy.args([
        "copy",
        "--to",
        &format!("file://{}", cache.display()),
        &path,
    ]));
    (Server::start(&cache).unwrap(), directory, path)
}

#[test]
fn profiles_and_a_compile_hook_of_a_root_are_run() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let hook =
        "#!/bin/sh\necho \"the hook runs in $PWD\"; echo made >\"$1/made\"; command -v show\n";
    let (cache, _directory, path) = cache_of(
        &deploy,
        &[
            ("bin/heroku-compile-hook", hook),
            ("bin/show", "#!/bin/sh\necho \"$GREETING $1\"; cat made\n"),
            (
                "etc/profile.d/greeting.sh",
                "set -- 'hello, world' more; GREETING=$1; shift; export GREETING\n",
            ),
        ],
    );
    deploy.set("NIX_EXTRA_BINARY_CACHE", &cache.url());
    deploy.set("NIX_STORE_PATH", &path);
    fs::write(deploy.app().join("Procfile"), "web: show 'a b'\n").unwrap();
    // What the hook makes is in no layer, so it runs in each build.
    for _ in 0..2 {
        let outcome = deploy.build();
        assert!(outcome.success(), "{}", outcome.log);
        let expected = format!("the hook runs in /workspace\n{path}/bin/show\n");
        assert!(outcome.log.contains(&expected), "{}", outcome.log);
        let image = outcome.image.unwrap();
        let output = Launch::new(&image, &deploy.fixtures.rootfs).run().unwrap();
        assert_eq!(
            output.stdout, "hello, world a b\nmade\n",
            "{}",
            output.stderr
        );
    }
    let (cache, _directory, path) = cache_of(
        &deploy,
        &[("bin/heroku-compile-hook", "#!/bin/sh\necho no; exit 3\n")],
    );
    deploy.set("NIX_EXTRA_BINARY_CACHE", &cache.url());
    deploy.set("NIX_STORE_PATH", &path);
    let log = deploy.build().log;
    assert!(log.contains("failed: exit status: 3"), "{log}");
}

#[test]
fn proot_s_loaders_are_files_of_the_layer() {
    let Some((_deploy, image)) = static_image() else {
        return;
    };
    let libexec = image.layer_dir("proot").unwrap().join("libexec");
    let class = |file: &str| {
        fs::read(Path::new(&libexec).join(file))
            .ok()
            .map(|bytes| bytes[4])
    };
    assert_eq!(class("proot-loader"), Some(2), "64 bits");
    if cfg!(target_arch = "x86_64") {
        assert_eq!(class("proot-loader-32"), Some(1), "32 bits");
    }
}

#[test]
fn the_programs_of_the_layer_are_small() {
    let Some((_deploy, image)) = static_image() else {
        return;
    };
    let layer = image.layer_dir("proot").unwrap();
    let size = |file: &str| fs::metadata(layer.join(file)).unwrap().len();
    assert!(size("bin/nix-hydra") < 2 * 1024 * 1024);
    // With a function of the C library in it, it would be larger, and would fail where that is called.
    assert!(size("libexec/nix-hydra-inside") < 16 * 1024);
}

#[test]
fn a_program_is_found_and_run_alike_by_every_engine() {
    let Some(image) = static_image() else { return };
    let script = "mkdir /tmp/a /tmp/b; \
                  printf 'echo $0 $1' >/tmp/b/plain; printf '#!/no/such' >/tmp/b/broken; \
                  printf 'echo of a' >/tmp/a/tool; cp /tmp/a/tool /tmp/b/tool; \
                  chmod +x /tmp/b/plain /tmp/b/broken /tmp/b/tool; export PATH=$PATH:/none:/tmp/a:/tmp/b; \
                  cd /tmp/b; \
                  for command in 'plain x' '/tmp/b/plain y' './plain z' tool broken no-such /tmp a; do \
                  run_proot.sh $command 2>/dev/null; echo $?; done; \
                  chmod -x tool; run_proot.sh tool 2>/dev/null; echo $?; \
                  PATH= /layers/nix_hydra/proot/bin/run_proot.sh sh -c 'echo default'; echo $?";
    let path = &image.0.fixtures.apps["static"].store_path;
    let [namespace, proot, direct] = [(&[] as &[_], ""), (DOCKER, ""), (DOCKER, "direct")];
    let [namespace, proot, direct] = [namespace, proot, direct].map(|(forbidden, engine)| {
        let launch = launch(&image, forbidden, ["bash", "-c", script]);
        let launch = launch.env("NIX_ENGINE", engine);
        let launch = match engine {
            "" => launch,
            _ => launch.sandbox(|sandbox| sandbox.bind_ro(path, path)),
        };
        launch.run().unwrap().stdout
    });
    assert_eq!(
        namespace,
        "/tmp/b/plain x\n0\n/tmp/b/plain y\n0\n./plain z\n0\nof a\n0\n127\n127\n126\n127\n126\n\
         default\n0\n"
    );
    assert_eq!((&proot, &direct), (&namespace, &namespace));
}
