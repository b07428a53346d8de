//! What the real lifecycle takes to export a redeploy to a registry, where `pack`, Docker, a builder and
//! `docker-registry` are there.
//!
//! The seconds are from the line that begins the export to the one that names the image: behind it
//! Docker takes up to ten more to remove what was exported. One layer for all is a buildpack of two
//! scripts, which copies the closure and changes one file.

use anyhow::{Context, Result, bail, ensure};
use platform::image::Image;
use platform::pack::{PackImage, builder, run_image};
use platform::registry::Registry;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The build script of the buildpack with one layer. `all` is a volume.
const ONE_LAYER: &str = "#!/bin/sh
set -e
cp -a /all \"$CNB_LAYERS_DIR/all\"
cat /proc/sys/kernel/random/uuid >\"$CNB_LAYERS_DIR/all/changed\"
printf '[types]\\nlaunch = true\\n' >\"$CNB_LAYERS_DIR/all.toml\"
";

/// Exports by the real lifecycle.
pub(crate) struct Exports<'a> {
    builder: String,
    registry: Registry,
    run_image: String,
    app: &'a Path,
    buildpack: PathBuf,
}

/// What one export took.
#[derive(Clone, Copy)]
pub(crate) struct Export {
    pub(crate) seconds: f64,
    /// What the registry did not have: layers compressed, and what describes the image.
    pub(crate) pushed: u64,
}

impl<'a> Exports<'a> {
    /// Nothing where something is missing, which is said.
    ///
    /// The registry keeps its images below `parent`.
    pub(crate) fn find(app: &'a Path, buildpack: PathBuf, parent: &Path) -> Option<Self> {
        let builder = builder().map_err(anyhow::Error::msg);
        let found = builder.and_then(|builder| {
            let registry = Registry::start(parent)?;
            let run_image = registry.push(&run_image(&builder)?)?;
            Ok(Self {
                builder,
                registry,
                run_image,
                app,
                buildpack,
            })
        });
        told(found)
    }

    fn image(&self, name: &str) -> PackImage {
        PackImage::published(&self.builder, name, &self.registry, &self.run_image)
    }

    /// What the export of a build with the settings `after` takes, after one with those of `before`.
    pub(crate) fn redeploy(
        &self,
        before: &[(&str, String)],
        after: &[(&str, String)],
    ) -> Result<Export> {
        let image = self.image("nix-hydra-redeploy");
        let build = |env| self.export(set(image.build(self.app, &[&self.buildpack]), env));
        build(before)?;
        build(after)
    }

    /// What the same store paths take where they are one layer, and something in it has changed.
    pub(crate) fn one_layer(&self, image: &Image, directory: &Path) -> Result<Export> {
        let all = directory.join("all");
        fs::create_dir(&all)?;
        fs::set_permissions(&all, fs::Permissions::from_mode(0o755))?;
        for name in image.record.layers.keys() {
            if name == "closure" || name == "proot" {
                continue;
            }
            let layer = image.layer_dir(name).context("a layer is missing")?;
            let copied = Command::new("cp")
                .arg("-al")
                .arg(layer.join("."))
                .arg(&all)
                .status()?;
            ensure!(copied.success(), "cp failed");
        }
        let buildpack = directory.join("buildpack");
        fs::create_dir_all(buildpack.join("bin"))?;
        for (name, text) in [("detect", "#!/bin/sh\n"), ("build", ONE_LAYER)] {
            let file = buildpack.join("bin").join(name);
            fs::write(&file, text)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        }
        let descriptor = "api = '0.10'\n[buildpack]\nid = 'test/one'\nversion = '0.0.1'\n";
        fs::write(buildpack.join("buildpack.toml"), descriptor)?;
        let image = self.image("nix-hydra-one-layer");
        let build = || {
            let mut command = image.build(self.app, &[&buildpack]);
            command
                .arg("--volume")
                .arg(format!("{}:/all:ro", all.display()));
            self.export(command)
        };
        build()?;
        build()
    }

    fn export(&self, command: Command) -> Result<Export> {
        let before = self.registry.bytes()?;
        Ok(Export {
            seconds: seconds(command)?,
            pushed: self.registry.bytes()? - before,
        })
    }
}

fn set(mut command: Command, env: &[(&str, String)]) -> Command {
    for (name, value) in env {
        command.args(["--env", &format!("{name}={value}")]);
    }
    command
}

/// What was measured; what is missing, or a failure of `pack` or Docker, is told, and does not end the
/// bench.
pub(crate) fn told<T>(measured: Result<T>) -> Option<T> {
    measured
        .inspect_err(|error| platform::left_out(&format!("the export: {error:#}")))
        .ok()
}

/// Runs `pack`, and answers how long the export took.
fn seconds(mut command: Command) -> Result<f64> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = child.stdout.take().context("no output")?;
    let (mut begun, mut ended, mut log) = (None, None, String::new());
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if line.contains("===> EXPORTING") {
            begun = Some(Instant::now());
        } else if line.contains("*** Images (") {
            ended = Some(Instant::now());
        }
        log.push_str(&line);
        log.push('\n');
    }
    ensure!(child.wait()?.success(), "pack failed: {log}");
    let (Some(begun), Some(ended)) = (begun, ended) else {
        bail!("nothing was exported: {log}");
    };
    Ok(ended.duration_since(begun).as_secs_f64())
}
