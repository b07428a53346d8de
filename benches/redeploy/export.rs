//! Seconds that the real lifecycle takes to export a redeploy, where `pack`, Docker and a builder are
//! there.
//!
//! They are from the line that begins the export to the last line. One layer for all is a buildpack of two
//! scripts, which copies the closure and changes one file.

use anyhow::{Context, Result, ensure};
use platform::image::Image;
use platform::pack::{PackImage, builder};
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
    /// The image that is built and changed.
    image: PackImage,
    app: &'a Path,
    buildpack: PathBuf,
}

impl<'a> Exports<'a> {
    /// Nothing where something is missing, which is said.
    pub(crate) fn find(app: &'a Path, buildpack: PathBuf) -> Option<Self> {
        let builder = builder().map_err(|missing| {
            platform::left_out(&format!("seconds of the export: {missing}"));
        });
        Some(Self {
            image: PackImage::new(&builder.ok()?, "nix-hydra-redeploy"),
            app,
            buildpack,
        })
    }

    /// Seconds that the export of a build with the settings `after` takes, after one with those of `before`.
    ///
    /// Both are of one image: a platform that exports to Docker has kept layers in that image's cache.
    pub(crate) fn redeploy(
        &self,
        before: &[(&str, String)],
        after: &[(&str, String)],
    ) -> Result<f64> {
        let build = |env| seconds(set(self.image.build(self.app, &[&self.buildpack]), env));
        build(before)?;
        build(after)
    }

    /// Seconds that the same store paths take where they are one layer, and something in it has changed.
    pub(crate) fn one_layer(&self, image: &Image, directory: &Path) -> Result<f64> {
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
        let image = PackImage::new(self.image.builder(), "nix-hydra-one-layer");
        let build = || {
            let mut command = image.build(self.app, &[&buildpack]);
            command
                .arg("--volume")
                .arg(format!("{}:/all:ro", all.display()));
            seconds(command)
        };
        build()?;
        build()
    }
}

fn set(mut command: Command, env: &[(&str, String)]) -> Command {
    for (name, value) in env {
        command.args(["--env", &format!("{name}={value}")]);
    }
    command
}

/// What was measured; a failure of `pack` or Docker is told, and does not end the bench.
pub(crate) fn told(seconds: Result<f64>) -> Option<f64> {
    seconds
        .inspect_err(|error| platform::left_out(&format!("seconds of the export: {error:#}")))
        .ok()
}

/// Runs `pack`, and answers how long the export took.
fn seconds(mut command: Command) -> Result<f64> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = child.stdout.take().context("no output")?;
    let (mut begun, mut last, mut log) = (None, Instant::now(), String::new());
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        last = Instant::now();
        if begun.is_none() && line.contains("===> EXPORTING") {
            begun = Some(last);
        }
        log.push_str(&line);
        log.push('\n');
    }
    ensure!(child.wait()?.success(), "pack failed: {log}");
    let begun = begun.with_context(|| format!("nothing was exported: {log}"))?;
    Ok(last.duration_since(begun).as_secs_f64())
}
