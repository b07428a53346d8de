//! Where `script/setup` put what the tests run on: root file system, binary cache, Nix, `PRoot`, apps.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The contents of `fixtures.json`; all paths are of this machine, but store paths.
#[derive(Clone, Debug, Deserialize)]
pub struct Fixtures {
    /// Root file system of build and run image, a directory.
    pub rootfs: PathBuf,
    /// The same as one tar file.
    pub rootfs_tar: PathBuf,
    /// A signed binary cache, in Nix's `file://` layout.
    pub cache: PathBuf,
    /// Its key, `name:base64`.
    pub public_key: String,
    pub secret_key_file: PathBuf,
    /// A stand-in for Nix's release archive.
    pub nix_archive: PathBuf,
    /// Its SHA-256, in hex.
    pub nix_archive_sha256: String,
    /// Nix's store path in it.
    pub nix: String,
    pub nix_version: String,
    /// A static `PRoot` program.
    pub proot: PathBuf,
    /// Its SHA-256, in hex.
    pub proot_sha256: String,
    /// By name.
    pub apps: BTreeMap<String, App>,
    /// Made by `script/setup programs`.
    pub programs: Option<Programs>,
    /// Made by `script/setup arm64`.
    pub arm64: Option<Arm64>,
}

/// What is for arm64 on a machine of another architecture.
#[derive(Clone, Debug, Deserialize)]
pub struct Arm64 {
    /// Root file system of build and run image, a directory.
    pub rootfs: PathBuf,
    /// A directory with a static `PRoot`, its licence and where its source is.
    pub proot: PathBuf,
    /// A signed binary cache, in Nix's `file://` layout.
    pub cache: PathBuf,
    /// The directory of the sample Python app.
    pub app: PathBuf,
    /// Its output in the cache. Nix evaluated it on this machine, for `aarch64-linux`.
    pub store_path: String,
    /// A stand-in for Nix's release archive.
    pub nix_archive: PathBuf,
    /// Its SHA-256, in hex.
    pub nix_archive_sha256: String,
    /// A directory with a kernel, `vmlinuz`, and a static `busybox`.
    pub system: PathBuf,
}

impl Fixtures {
    /// Makes a binary cache of files in `directory` with the closure of Nix, signed by the fixtures' key.
    pub fn push_nix(&self, directory: &Path) -> Result<()> {
        let url = format!(
            "file://{}?compression=zstd&compression-level=1&secret-key={}",
            directory.display(),
            self.secret_key_file.display()
        );
        let output = Command::new(Path::new(&self.nix).join("bin/nix"))
            .args([
                "--extra-experimental-features",
                "nix-command",
                "copy",
                "--to",
            ])
            .args([&url, &self.nix])
            .env("HOME", directory)
            .env("NIX_CONF_DIR", directory)
            .env("NIX_CONFIG", "substituters =")
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "nix copy: {said}");
        Ok(())
    }
}

/// A closure of programs of many kinds.
#[derive(Clone, Debug, Deserialize)]
pub struct Programs {
    /// Its root, with all programs in `bin`.
    pub store_path: String,
    /// A signed binary cache of its own, in Nix's `file://` layout.
    pub cache: PathBuf,
}

/// A sample app.
#[derive(Clone, Debug, Deserialize)]
pub struct App {
    /// The app's directory.
    pub dir: PathBuf,
    /// The output path that the binary cache holds for it.
    pub store_path: String,
    /// The store path of its source.
    pub source: String,
}

/// Where `fixtures.json` is: `$NIX_HYDRA_FIXTURES`, else below the cache directory.
pub fn path() -> PathBuf {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    variable("NIX_HYDRA_FIXTURES").unwrap_or_else(|| {
        variable("NIX_HYDRA_CACHE")
            .unwrap_or_else(|| {
                variable("XDG_CACHE_HOME")
                    .unwrap_or_else(|| variable("HOME").unwrap_or_default().join(".cache"))
                    .join("nix-hydra-buildpack")
            })
            .join("fixtures.json")
    })
}

/// Reads [`path`].
///
/// # Errors
/// One line that says to run `script/setup`, where the file is not there or is not understood.
pub fn read() -> Result<Fixtures> {
    let path = path();
    let hint = || format!("no fixtures in {}: run script/setup", path.display());
    let text = std::fs::read_to_string(&path).with_context(hint)?;
    serde_json::from_str(&text).map_err(|error| anyhow::anyhow!("{} ({error})", hint()))
}
