//! Packages the buildpack as `cargo libcnb package` does, with libcnb's own library: static
//! binaries, `buildpack.toml`, and further programs under `.libcnb-cargo/additional-bin`. PRoot is
//! added, with its licence and where its source is.

use crate::fixtures;
use anyhow::{Context, Result, bail, ensure};
use libcnb_package::CargoProfile;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of PRoot in the package, in its directory `proot`.
const PROOT: [&str; 4] = ["proot", "version", "COPYING", "SOURCE"];

/// How to package; [`Options::default`] is a release build for this machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that `script/setup proot` made: the program, its version, licence and source.
    pub proot: PathBuf,
    /// `x86_64` or `aarch64`.
    pub arch: String,
    /// Whether with optimisation.
    pub release: bool,
}

impl Default for Options {
    fn default() -> Self {
        let fixtures = fixtures::path();
        Self {
            proot: fixtures.with_file_name("proot"),
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
    let (target, mut env) = target(&options.arch)?;
    let crate_dir = fs::canonicalize(crate_dir)
        .with_context(|| format!("no crate in {}", crate_dir.display()))?;
    let (profile, name) = if options.release {
        (CargoProfile::Release, "release")
    } else {
        // As in the other profile: a program without the C library's start code cannot unwind.
        env.push(("CARGO_PROFILE_DEV_PANIC".into(), "abort".into()));
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
    // By this name, people run it.
    std::os::unix::fs::symlink("build", assembled.join("bin/nix-hydra"))?;
    add_proot(&options.proot, &assembled)?;
    check_programs(&assembled, &options.arch)?;

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

fn add_proot(from: &Path, assembled: &Path) -> Result<()> {
    let to = assembled.join("proot");
    fs::create_dir(&to)?;
    for name in PROOT {
        let file = from.join(name);
        fs::copy(&file, to.join(name))
            .with_context(|| format!("{}: run `script/setup proot`", file.display()))?;
    }
    Ok(())
}

/// Checks that every program in the package is for `arch`.
///
/// # Errors
/// The first that is not, or that is not an ELF program.
pub fn check_programs(package: &Path, arch: &str) -> Result<()> {
    // `e_machine` of the ELF header, 18 bytes into the file: elf(5).
    let machine: u16 = if arch == "x86_64" { 62 } else { 183 };
    let additional = package.join(".libcnb-cargo/additional-bin");
    let programs = [package.join("bin"), additional].map(fs::read_dir);
    let mut programs = programs
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    programs.push(package.join("proot/proot"));
    for program in programs {
        let bytes = fs::read(&program).with_context(|| program.display().to_string())?;
        let is_elf = bytes.starts_with(b"\x7fELF");
        let is_for_arch = bytes.get(18..20) == Some(&machine.to_le_bytes()[..]);
        ensure!(
            is_elf && is_for_arch,
            "{} is not a program for {arch}",
            program.display()
        );
    }
    Ok(())
}

/// The target triple and Cargo's environment: glibc, linked statically, which is what every test
/// runs. musl's resolver fails where Kubernetes' DNS is as it is.
fn target(arch: &str) -> Result<(String, Vec<(OsString, OsString)>)> {
    if !["x86_64", "aarch64"].contains(&arch) {
        bail!("architecture {arch}: the buildpack is for x86_64 and aarch64");
    }
    let mut env = vec![("RUSTFLAGS".into(), "-C target-feature=+crt-static".into())];
    if arch != std::env::consts::ARCH {
        let linker = format!(
            "CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_LINKER",
            arch.to_uppercase()
        );
        env.push((linker.into(), format!("{arch}-linux-gnu-gcc").into()));
    }
    Ok((format!("{arch}-unknown-linux-gnu"), env))
}
