//! Images that the real `pack` and lifecycle make, where they, Docker and a builder are there.

use crate::registry::Registry;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// The builder to use: the one that `NIX_HYDRA_TEST_BUILDER` names, else Heroku's.
///
/// # Errors
/// What is missing, and how to get it.
pub fn builder() -> std::result::Result<String, &'static str> {
    if !succeeds("pack", &["version"]) {
        return Err("`pack` is not on PATH: install it as buildpacks.io/docs says");
    }
    if !crate::docker::available() {
        return Err("Docker does not answer: install docker.io, and start dockerd as root");
    }
    let named = std::env::var("NIX_HYDRA_TEST_BUILDER").ok();
    let builder = named.unwrap_or_else(|| "heroku/builder:24".to_string());
    if !succeeds("docker", &["image", "inspect", &builder]) {
        return Err("there is no builder: docker pull heroku/builder:24, \
             or name one that Docker has in NIX_HYDRA_TEST_BUILDER");
    }
    Ok(builder)
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

/// The run image of a builder that Docker has.
///
/// # Errors
/// When Docker has no such builder.
pub fn run_image(builder: &str) -> Result<String> {
    let label = r#"{{index .Config.Labels "io.buildpacks.builder.metadata"}}"#;
    let output = Command::new("docker")
        .args(["image", "inspect", "--format", label, builder])
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let image = metadata["images"][0]["image"].as_str();
    Ok(image.context("the builder names no run image")?.to_string())
}

/// An image and the volumes of its caches, gone when dropped.
#[derive(Debug)]
pub struct PackImage {
    builder: String,
    /// What it and the volumes of its caches are called.
    id: String,
    /// Where it is published instead of in Docker: its name there, and that of its run image.
    published: Option<[String; 2]>,
}

impl PackImage {
    /// An image called `name`, which nothing has made yet.
    pub fn new(builder: &str, name: &str) -> Self {
        Self {
            builder: builder.to_string(),
            id: format!("{name}-{}", std::process::id()),
            published: None,
        }
    }

    /// The same, which is published to `registry` over the run image that is called `run_image` there.
    pub fn published(builder: &str, name: &str, registry: &Registry, run_image: &str) -> Self {
        let mut image = Self::new(builder, name);
        image.published = Some([registry.reference(&image.id), run_image.to_string()]);
        image
    }

    /// The volumes of the build's and the image's cache.
    fn volumes(&self) -> [String; 2] {
        ["build", "launch"].map(|kind| format!("{}.{kind}-cache", self.id))
    }

    /// `pack build` of `app`, in this machine's network; more arguments may follow.
    pub fn build(&self, app: &Path, buildpacks: &[&Path]) -> Command {
        let mut command = Command::new("pack");
        match &self.published {
            Some([name, run_image]) => {
                command.args(["build", name, "--publish", "--run-image", run_image]);
            }
            None => {
                command.args(["build", &self.id]);
            }
        }
        command.args(["--builder", &self.builder]);
        command.args(["--pull-policy", "if-not-present", "--network", "host"]);
        command.args(["--trust-builder", "--trust-extra-buildpacks"]);
        for (kind, volume) in ["build", "launch"].iter().zip(self.volumes()) {
            let cache = format!("type={kind};format=volume;name={volume}");
            command.args(["--cache", &cache]);
        }
        command.arg("--path").arg(app);
        for buildpack in buildpacks {
            command.arg("--buildpack").arg(buildpack);
        }
        command
    }

    /// The digests of the layers, those of the run image first.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn layers(&self) -> Result<Vec<String>> {
        let output = Command::new("docker")
            .args(["image", "inspect", "--format", "{{json .RootFS.Layers}}"])
            .arg(&self.id)
            .output()?;
        ensure!(output.status.success(), "there is no image {}", self.id);
        serde_json::from_slice(&output.stdout).context("Docker's answer")
    }

    /// Removes the image, but not its caches.
    pub fn remove(&self) {
        crate::docker::remove(&self.id);
    }
}

impl Drop for PackImage {
    fn drop(&mut self) {
        self.remove();
        let mut docker = Command::new("docker");
        let _ = docker
            .args(["volume", "rm", "--force"])
            .args(self.volumes())
            .output();
    }
}
