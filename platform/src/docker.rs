//! Puts an image into a Docker engine, over a root file system as its run image.
//!
//! Its entrypoint is a shell script that does what the lifecycle's launcher does, but for
//! `exec.d`. Left out: the lifecycle's labels, other architectures than this machine's, and
//! registries. Layers are made by Docker's classic builder, which keeps those it has.

use crate::image::{Image, blob_dir, escape_id};
use crate::sandbox::IMAGE_PATH;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

/// Whether a Docker engine answers.
pub fn available() -> bool {
    let mut docker = Command::new("docker");
    let output = docker
        .args(["version", "--format", "{{.Server.Version}}"])
        .output();
    output.is_ok_and(|output| output.status.success())
}

/// Held while an image is made or removed: whoever removes one removes its parents too, which
/// another may be in the making on.
static IMAGES: Mutex<()> = Mutex::new(());

/// Removes the image `tag` with what only it was made of, as far as that can be done.
pub fn remove(tag: &str) {
    let _held = IMAGES.lock();
    let _ = Command::new("docker")
        .args(["rmi", "--force", tag])
        .output();
}

/// Makes the Docker image `tag` of an image and the root file system in the directory `rootfs`, and
/// answers the tag of the latter, which is kept for the next image.
///
/// # Errors
/// When Docker refuses, with what it said.
pub fn export(image: &Image, rootfs: &Path, tag: &str) -> Result<String> {
    let _held = IMAGES.lock();
    let base = base(rootfs)?;
    let record = &image.record;
    let cnb = image.dir.join("docker");
    crate::files::remove(&cnb)?;
    for directory in ["lifecycle", "process"] {
        fs::create_dir_all(cnb.join(directory))?;
    }
    let launcher = cnb.join("lifecycle/launcher");
    fs::write(&launcher, self::launcher(image))?;
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755))?;
    for process in &record.processes {
        symlink(
            "../lifecycle/launcher",
            cnb.join("process").join(&process.r#type),
        )?;
    }

    let mut dockerfile = format!(
        "FROM {base}\nENV CNB_LAYERS_DIR=/layers CNB_APP_DIR=/workspace CNB_PLATFORM_API=0.14 \
         PATH=/cnb/process:/cnb/lifecycle:{IMAGE_PATH}\n"
    );
    let id = escape_id(&record.buildpack_id);
    let layers = record.layers.iter();
    let mut copies: Vec<_> = layers
        .map(|(name, layer)| (&layer.blob, format!("/layers/{id}/{name}")))
        .collect();
    copies.extend(
        record
            .sbom
            .iter()
            .map(|b| (b, "/layers/sbom/launch".into())),
    );
    copies.push((&record.app, "/workspace".to_owned()));
    for (blob, to) in copies {
        let from = blob_dir(Path::new(""), blob);
        writeln!(dockerfile, "COPY --chown=1000:1000 {} {to}", from.display())?;
    }
    let entrypoint = match image.default_process() {
        Some(process) => format!("/cnb/process/{process}"),
        None => "/cnb/lifecycle/launcher".to_owned(),
    };
    write!(
        dockerfile,
        "COPY docker /cnb\nUSER 1000:1000\nWORKDIR /workspace\nENTRYPOINT [\"{entrypoint}\"]\n"
    )?;
    fs::write(image.dir.join(".dockerignore"), "*\n!blobs\n!docker\n")?;
    let mut build = Command::new("docker");
    build
        .env("DOCKER_BUILDKIT", "0")
        .args(["build", "--quiet", "--tag", tag, "--file", "-"])
        .arg(&image.dir);
    run(build, dockerfile.as_bytes())?;
    Ok(base)
}

/// The launcher's script, with this image's processes.
fn launcher(image: &Image) -> String {
    let mut processes = String::new();
    for process in &image.record.processes {
        let quoted = |words: &[String]| {
            let quoted = words
                .iter()
                .map(|w| format!("'{}'", w.replace('\'', r"'\''")));
            quoted.collect::<Vec<_>>().join(" ")
        };
        let _ = writeln!(
            processes,
            "{})\n    if [ $# = 0 ]; then set -- {}; fi\n    set -- {} \"$@\"",
            process.r#type,
            quoted(&process.args),
            quoted(&process.command)
        );
        if let Some(directory) = &process.working_dir {
            let directory = quoted(&[directory.to_string_lossy().into_owned()]);
            let _ = writeln!(processes, "    directory={directory}");
        }
        processes.push_str("    ;;\n");
    }
    include_str!("launcher.sh").replace("@processes@\n", &processes)
}

/// Imports a root file system, unless the engine has it as it is now, and returns its tag.
fn base(rootfs: &Path) -> Result<String> {
    let state =
        "cd \"$0\" && find . -xdev -printf '%P %m %s %T@ %l\\n' | LC_ALL=C sort | sha256sum";
    let mut find = Command::new("sh");
    find.args(["-c", state]).arg(rootfs);
    let state = run(find, b"")?;
    let state = String::from_utf8_lossy(&state.stdout[..12.min(state.stdout.len())]).into_owned();
    let tag = format!("nix-hydra-platform-base:{state}");
    let mut inspect = Command::new("docker");
    inspect.args(["image", "inspect", &tag]);
    if !inspect.output().is_ok_and(|output| output.status.success()) {
        let mut import = Command::new("sh");
        import
            .args([
                "-c",
                "tar -C \"$0\" --numeric-owner -c . | docker import - \"$1\"",
            ])
            .arg(rootfs)
            .arg(&tag);
        run(import, b"").context("importing the root file system")?;
    }
    Ok(tag)
}

fn run(mut command: Command, input: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input)?;
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{} failed: {}",
        command.get_program().display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output)
}
