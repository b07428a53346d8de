//! The buildpack's package for arm64, run by qemu on a machine of another architecture: builds, starts, and
//! a whole system that boots. `script/test-arm64` makes what these tests need.
//!
//! Programs that qemu runs one by one can neither be traced nor have namespaces, so engines are tested on the
//! system that boots.

use crate::common::{
    buildpack, copy, fixtures, nix, output, python_app_answers, store_path, strip_ansi,
};
use crate::launch::LIMIT;
use closure::place::is_layer;
use platform::fixtures::{Arm64, Fixtures};
use platform::image::Image;
use platform::lifecycle::{Build, Outcome};
use platform::process::Launch;
use platform::sandbox::Signal;
use platform::server::Server;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The variable with the directory of the buildpack's package for arm64.
const PACKAGE: &str = "NIX_HYDRA_BUILDPACK_ARM64";

/// What the tests run on.
struct Arm {
    fixtures: Fixtures,
    arm64: Arm64,
    buildpack: PathBuf,
    cache: Server,
}

impl Arm {
    fn find() -> Option<Self> {
        let fixtures = fixtures()?;
        let runs = Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists();
        let package = std::env::var_os(PACKAGE).map(PathBuf::from);
        let (Some(arm64), Some(buildpack), true) = (fixtures.arm64.clone(), package, runs) else {
            platform::left_out(
                "a package and programs for arm64 are missing: run script/test-arm64",
            );
            return None;
        };
        let cache = Server::start(&arm64.cache).unwrap();
        Some(Self {
            fixtures,
            arm64,
            buildpack,
            cache,
        })
    }

    /// Builds the app by its store path with a package, for an engine.
    fn build(&self, package: &Path, engine: &str, image: &Path) -> Outcome {
        let app = TempDir::new().unwrap();
        fs::write(app.path().join("Procfile"), "web: run_proot.sh myapp\n").unwrap();
        self.to_build(package, app.path(), image)
            .env("NIX_STORE_PATH", &self.arm64.store_path)
            .env("NIX_ENGINE", engine)
            .run()
            .unwrap()
    }

    fn to_build(&self, package: &Path, app: &Path, image: &Path) -> Build {
        Build::new(&self.arm64.rootfs, package, app, image)
            .env("NIX_EXTRA_BINARY_CACHE", self.cache.url())
            .env("NIX_DEFAULT_BINARY_CACHE", "")
            .env("NIX_TRUSTED_PUBLIC_KEYS", &self.fixtures.public_key)
    }

    fn image(&self, engine: &str) -> (TempDir, Image) {
        let directory = TempDir::new().unwrap();
        let outcome = self.build(&self.buildpack, engine, directory.path());
        assert!(outcome.success(), "{}{}", outcome.detect_log, outcome.log);
        (directory, outcome.image.unwrap())
    }
}

/// The two ways that need no engine: the store paths at `/nix/store`, and relocated.
fn ways(arm: &Arm) -> [(&'static str, TempDir, Launch); 2] {
    let (directory, image) = arm.image("");
    let store = directory.path().join("store");
    fs::create_dir(&store).unwrap();
    for name in image.record.layers.keys().filter(|name| is_layer(name)) {
        for entry in fs::read_dir(image.layer_dir(name).unwrap()).unwrap() {
            output(
                Command::new("cp")
                    .arg("-a")
                    .arg(entry.unwrap().path())
                    .arg(&store),
            );
        }
    }
    let direct = Launch::new(&image, &arm.arm64.rootfs)
        .sandbox(|sandbox| sandbox.bind_ro(&store, "/nix/store"));
    let (other, image) = arm.image("relocate");
    let relocated = Launch::new(&image, &arm.arm64.rootfs);
    [
        ("direct", directory, direct),
        ("relocated", other, relocated),
    ]
}

/// The digests of an image's layers.
fn digests(image: &Image) -> BTreeMap<String, String> {
    let layers = image.record.layers.iter();
    layers
        .map(|(name, layer)| (name.clone(), layer.blob.digest.clone()))
        .collect()
}

#[test]
fn the_files_of_a_closure_are_those_that_its_cache_describes() {
    let Some(arm) = Arm::find() else { return };
    let (_directory, image) = arm.image("");
    let mut checked = 0;
    for entry in fs::read_dir(&arm.arm64.cache).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|ending| ending != "narinfo") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let field = |name: &str| {
            let mut lines = text.lines();
            lines
                .find_map(|line| line.strip_prefix(name))
                .unwrap()
                .to_string()
        };
        let base_name = field("StorePath: ").replace("/nix/store/", "");
        let place = store_path(&image, &base_name);
        let root = TempDir::new().unwrap();
        let mut hash = nix(&arm.fixtures, "nix", root.path());
        hash.args(["hash", "path", "--type", "sha256", "--base32"])
            .arg(place);
        assert_eq!(
            format!("sha256:{}", output(&mut hash)),
            field("NarHash: "),
            "{base_name}"
        );
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn the_layers_are_those_that_another_architecture_makes() {
    let Some(arm) = Arm::find() else { return };
    // The build program of this machine, with what goes into the image from the package for arm64.
    let mixed = TempDir::new().unwrap();
    copy(&arm.buildpack, mixed.path());
    for program in ["build", "detect"] {
        let file = mixed.path().join("bin").join(program);
        fs::remove_file(&file).unwrap();
        fs::copy(buildpack().join("bin").join(program), file).unwrap();
    }
    for engine in ["", "relocate"] {
        let (_directory, image) = arm.image(engine);
        let other = TempDir::new().unwrap();
        let outcome = arm.build(mixed.path(), engine, other.path());
        assert!(outcome.success(), "{}", outcome.log);
        assert_eq!(
            digests(&image),
            digests(&outcome.image.unwrap()),
            "{engine}"
        );
    }
}

#[test]
fn an_expression_evaluates_to_the_store_path_that_another_architecture_evaluates() {
    let Some(arm) = Arm::find() else { return };
    let tools = Server::start(arm.arm64.nix_archive.parent().unwrap()).unwrap();
    let archive = arm.arm64.nix_archive.file_name().unwrap();
    let archive = format!("{}/{}", tools.url(), archive.display());
    let app = TempDir::new().unwrap();
    copy(&arm.arm64.app, app.path());
    let image = TempDir::new().unwrap();
    let outcome = arm
        .to_build(&arm.buildpack, app.path(), image.path())
        .env("NIX_ARCHIVE_URL", archive)
        .env("NIX_ARCHIVE_SHA256", &arm.arm64.nix_archive_sha256)
        .run()
        .unwrap();
    assert!(outcome.success(), "{}{}", outcome.detect_log, outcome.log);
    assert!(
        outcome.log.contains(&arm.arm64.store_path),
        "{}",
        outcome.log
    );
}

#[test]
fn an_app_answers_at_its_store_path_and_relocated() {
    let Some(arm) = Arm::find() else { return };
    for (way, _directory, launch) in ways(&arm) {
        let answer = python_app_answers(launch);
        assert_eq!(answer["app"], "myapp", "{way}");
        assert_eq!(answer["uid"], 1000, "{way}");
        let openssl = answer["openssl"].as_str().unwrap();
        assert!(openssl.starts_with("OpenSSL"), "{way}");
    }
}

#[test]
fn signals_and_the_status_are_those_of_the_app() {
    let Some(arm) = Arm::find() else { return };
    let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    for (way, _directory, launch) in ways(&arm) {
        // It is process 1.
        let first = launch.clone().command(["run_proot.sh", "sh", "-c", script]);
        let mut process = first.start().unwrap();
        process.wait_for("ready", LIMIT).unwrap();
        process.signal(Signal::TERM).unwrap();
        assert_eq!(process.wait_timeout(LIMIT).unwrap(), Some(3), "{way}");
        let run = |words: &str| {
            let script = format!("run_proot.sh {words}; echo $?");
            let launch = launch.clone().command(["sh", "-c", &script]);
            launch.run().unwrap().stdout
        };
        assert_eq!(run("sh -c 'exit 7'"), "7\n", "{way}");
        assert_eq!(run("no-such-program 2>/dev/null"), "127\n", "{way}");
        assert_eq!(run("sh -c 'kill -TERM $$' 2>/dev/null"), "143\n", "{way}");
    }
}

/// What a system that boots does: each step prints one line.
const INIT: &str = r#"#!/bin/sh
if [ ! -e /moved ]; then
  # The first root file system cannot be pivoted away from, as a namespace does.
  mount -t tmpfs -o size=1500M root /new
  cp -a /bin /etc /images /init /layers /proc /sys /dev /tmp /new
  : >/new/moved
  exec switch_root /new /init
fi
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=1777 tmp /tmp
ip link set lo up
say() { echo "arm64: $*"; }
run=/layers/nix_hydra/proot/bin/run_proot.sh
say "Linux $(uname -r) $(uname -m)"
for engine in namespace proot relocate; do
  image=as-it-is
  [ $engine = relocate ] && image=relocated
  mount --bind /images/$image /layers
  # Becomes the command after it, as user 1000.
  user="start-stop-daemon -S -p /none -c 1000:1000 -a /bin/env -- -i PATH=/bin HOME=/tmp NIX_ENGINE=$engine NIX_ENGINE_STRICT=true"
  say "$engine words $($user $run sh -c 'echo "$1-$2"' sh 'a b' c)"
  $user $run sh -c 'exit 7'; say "$engine status $?"
  $user $run no-such-program 2>/dev/null; say "$engine missing $?"
  $user $run sh -c 'kill -TERM $$'; say "$engine killed $?"
  $user $run sh -c 'trap "exit 3" TERM; echo >/tmp/ready; i=0; while [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done' &
  pid=$!
  for i in $(seq 300); do [ -e /tmp/ready ] && break; sleep 0.1; done
  rm -f /tmp/ready; kill -TERM $pid; wait $pid; say "$engine term $?"
  $user unshare -r -p -f --mount-proc $run sh -c 'exit 5'; say "$engine first $?"
  $user $run /images/other 2>/dev/null; say "$engine other $?"
  $user PORT=8080 $run myapp >/dev/null &
  pid=$!
  for i in $(seq 120); do wget -q -O /tmp/answer http://127.0.0.1:8080/ 2>/dev/null && break; sleep 0.5; done
  say "$engine answer $(grep -c '"openssl": "OpenSSL' /tmp/answer)"
  [ $engine = relocate ] && say "relocate outside $(grep ' /' /proc/$pid/maps | grep -vc ' /layers/')"
  kill -TERM $pid; wait $pid; rm -f /tmp/answer
  $user /layers/nix_hydra/proot/bin/nix-hydra doctor >/tmp/doctor; say "$engine doctor $?"
  grep -E '^problem' /tmp/doctor
  umount /layers
done
say end
poweroff -f
"#;

/// Copies the layers of an image to where they are in a system.
fn lay(image: &Image, to: &Path) {
    let layers = to.join("nix_hydra");
    for name in image.record.layers.keys() {
        let from = image.layer_dir(name).unwrap();
        fs::create_dir_all(&layers).unwrap();
        output(
            Command::new("cp")
                .arg("-a")
                .arg(from)
                .arg(layers.join(name)),
        );
    }
}

#[test]
fn every_engine_works_on_a_system_that_boots() {
    let Some(arm) = Arm::find() else { return };
    let system = TempDir::new().unwrap();
    let root = system.path().join("root");
    for directory in [
        "bin", "proc", "sys", "dev", "tmp", "etc", "layers", "images", "new",
    ] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let busybox = root.join("bin/busybox");
    fs::copy(arm.arm64.system.join("busybox"), &busybox).unwrap();
    for name in output(Command::new(&busybox).arg("--list")).lines() {
        if name != "busybox" {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
    }
    fs::write(root.join("etc/passwd"), "app:x:1000:1000::/tmp:/bin/sh\n").unwrap();
    fs::copy(buildpack().join("bin/build"), root.join("images/other")).unwrap();
    let (_directory, image) = arm.image("");
    lay(&image, &root.join("images/as-it-is"));
    let (_other, image) = arm.image("relocate");
    lay(&image, &root.join("images/relocated"));
    let init = root.join("init");
    fs::write(&init, INIT).unwrap();
    fs::set_permissions(init, fs::Permissions::from_mode(0o755)).unwrap();
    let archive = system.path().join("initrd");
    let pack = "cd \"$0\" && find . -print0 | cpio --null --create --format=newc --quiet | gzip -1 >\"$1\"";
    output(
        Command::new("sh")
            .args(["-c", pack])
            .arg(&root)
            .arg(&archive),
    );

    let mut qemu = Command::new("timeout");
    qemu.args([
        "900",
        "qemu-system-aarch64",
        "-M",
        "virt",
        "-cpu",
        "cortex-a72",
        "-m",
        "2G",
    ]);
    qemu.args([
        "-nographic",
        "-no-reboot",
        "-append",
        "console=ttyAMA0 quiet panic=-1",
    ]);
    qemu.arg("-kernel").arg(arm.arm64.system.join("vmlinuz"));
    qemu.arg("-initrd").arg(&archive);
    let said = output(qemu.stdin(std::process::Stdio::null()));
    let said = strip_ansi(&said).replace('\r', "");
    let said: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("arm64: "))
        .collect();
    let mut expected = Vec::new();
    for engine in ["namespace", "proot", "relocate"] {
        let lines = [
            "words a b-c",
            "status 7",
            "missing 127",
            "killed 143",
            "term 3",
            "first 5",
            "other 126",
            "answer 1",
            "outside 0",
            "doctor 0",
        ];
        let lines = lines
            .iter()
            .filter(|line| engine == "relocate" || **line != "outside 0");
        expected.extend(lines.map(|line| format!("{engine} {line}")));
    }
    expected.push("end".to_string());
    assert_eq!(said[1..], expected, "{said:?}");
}
