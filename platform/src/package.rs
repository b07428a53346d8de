//! Packages the buildpack as `cargo libcnb package` does, with libcnb's own library: static
//! binaries, `buildpack.toml`, and further programs under `.libcnb-cargo/additional-bin`.

use anyhow::{Context, Result, bail, ensure};
use libcnb_package::CargoProfile;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How to package; [`Options::default`] is a release build for this machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// `x86_64` or `aarch64`.
    pub arch: String,
    /// Whether with optimisation.
    pub release: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            arch: std::env::consts::ARCH.to_owned(),
            release: true,
        }
    }
}

/// Packages the buildpack whose crate is in the directory `crate_dir` into `out`, by default
/// `buildpack/<target>` in Cargo's target directory, and returns that. Where what is there is
/// the same already, it is left alone, so that a build that uses it is not disturbed.
///
/// Cargo is run each time, in the crate's usual target directory, and compiles what has changed.
///
/// # Errors
/// When Cargo fails (it says why on standard error), or files cannot be written.
pub fn package(crate_dir: &Path, out: Option<&Path>, options: &Options) -> Result<PathBuf> {
    let (target, env) = target(&options.arch)?;
    let crate_dir = fs::canonicalize(crate_dir)
        .with_context(|| format!("no crate in {}", crate_dir.display()))?;
    let (profile, name) = if options.release {
        (CargoProfile::Release, "release")
    } else {
        (CargoProfile::Dev, "debug")
    };
    let target_dir = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| crate_dir.join("target"), PathBuf::from);
    let out = out.map_or_else(
        || target_dir.join("buildpack").join(&target).join(name),
        Path::to_path_buf,
    );
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;

    let new = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(parent)?;
    let assembled = new.path().join("buildpack");
    libcnb_package::package::package_buildpack(
        &crate_dir,
        profile,
        &target,
        &env,
        &assembled,
        &BTreeMap::new(),
    )
    .with_context(|| format!("packaging the buildpack in {}", crate_dir.display()))?;

    let same = Command::new("diff")
        .args(["--recursive", "--brief", "--no-dereference", "--"])
        .args([&assembled, &out])
        .output()
        .is_ok_and(|output| output.status.success());
    if !same {
        if out.exists() {
            fs::rename(&out, new.path().join("old"))?;
        }
        fs::rename(&assembled, &out)?;
    }
    Ok(out)
}

/// The target triple and Cargo's environment: musl where its standard library is installed, else
/// glibc, linked statically all the same.
fn target(arch: &str) -> Result<(String, Vec<(OsString, OsString)>)> {
    if !["x86_64", "aarch64"].contains(&arch) {
        bail!("architecture {arch}: the buildpack is for x86_64 and aarch64");
    }
    let musl = format!("{arch}-unknown-linux-musl");
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", &musl])
        .output()
        .context("starting rustc")?;
    ensure!(output.status.success(), "rustc does not know {musl}");
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if directory.is_dir() {
        return Ok((musl, Vec::new()));
    }
    let flags = ("RUSTFLAGS".into(), "-C target-feature=+crt-static".into());
    Ok((format!("{arch}-unknown-linux-gnu"), vec![flags]))
}
