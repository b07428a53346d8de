//! Builds an app with one buildpack as `pack build` does: detect, restore, build, export.
//!
//! The build's view is that of the buildpack specification (Buildpack API 0.10) under lifecycle
//! 0.21.17. Left out: groups of several buildpacks, extensions, builder configuration
//! (`/cnb/build-config`), slices, the legacy bill of materials, proxy variables, and `HOSTNAME`.

mod export;

use crate::env::Env;
use crate::files::{self, Scratch};
use crate::image::{self, Image, escape_id};
use crate::restore::restore;
use crate::sandbox::{Sandbox, Signal, Streams};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// `bin/detect`'s exit status for "this app is not mine".
pub const DETECT_FAIL: i32 = 100;

/// Where the plan file is, for detect and for build.
const PLAN: &str = "/tmp/plan/plan.toml";

/// Variables to which the platform's values are prepended, not set (`env.POSIXBuildEnv`).
const PATHS: [&str; 5] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "CPATH",
    "PKG_CONFIG_PATH",
];

/// A build of an app with a buildpack; made once, run any number of times.
#[derive(Clone, Debug)]
pub struct Build {
    buildpack: PathBuf,
    app: PathBuf,
    image: PathBuf,
    cache: PathBuf,
    env: BTreeMap<String, String>,
    clear_cache: bool,
    signal_after: Option<(Signal, Duration)>,
    on_leftovers: bool,
    read_only_layers: bool,
    sandbox: Sandbox,
}

/// How a build went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `bin/detect`'s status: 0, [`DETECT_FAIL`], or an error's.
    pub detect: i32,
    /// What `bin/detect` wrote; a user sees it only where it ended with an error.
    pub detect_log: String,
    /// `bin/build`'s status; `None` where it was not run.
    pub build: Option<i32>,
    /// What `bin/build` wrote to both streams, as a user sees it.
    pub log: String,
    /// What the export said, a line a layer.
    pub export_log: Vec<String>,
    /// The buildpack's layers directory as `bin/build` left it, on this machine, until the next
    /// build into the same image directory.
    pub layers: PathBuf,
    /// The image; `None` where detect or build failed, and the image of before stays.
    pub image: Option<Image>,
    pub detect_time: Duration,
    pub restore_time: Duration,
    pub build_time: Duration,
    pub export_time: Duration,
}

impl Outcome {
    /// Whether an image came of it.
    pub fn success(&self) -> bool {
        self.image.is_some()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct BuildpackToml {
    api: String,
    buildpack: Buildpack,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Buildpack {
    id: String,
    version: String,
    #[serde(default)]
    clear_env: bool,
    #[serde(default)]
    sbom_formats: BTreeSet<String>,
}

#[derive(Default, Deserialize)]
struct Plan {
    #[serde(default)]
    provides: Vec<Named>,
    #[serde(default)]
    requires: Vec<toml::Table>,
    #[serde(default)]
    or: Vec<Plan>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Build {
    /// A build of the app in the directory `app` with the packaged buildpack in `buildpack`, in
    /// the root file system `rootfs`, into the image directory `image` (see [`crate::image`]).
    /// What `image` holds from a build before is the previous image; its `cache` is the cache.
    pub fn new(
        rootfs: impl Into<PathBuf>,
        buildpack: impl Into<PathBuf>,
        app: impl Into<PathBuf>,
        image: impl Into<PathBuf>,
    ) -> Self {
        let image = image.into();
        Self {
            buildpack: buildpack.into(),
            app: app.into(),
            cache: image.join("cache"),
            image,
            env: BTreeMap::new(),
            clear_cache: false,
            signal_after: None,
            on_leftovers: false,
            read_only_layers: false,
            sandbox: Sandbox::new(rootfs).streams(Streams::Merged),
        }
    }

    /// Sets a user's variable, like `pack build --env NAME=VALUE`.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Builds without the cache, like `pack build --clear-cache`: nothing is restored but
    /// `store.toml`.
    #[must_use]
    pub fn clear_cache(mut self) -> Self {
        self.clear_cache = true;
        self
    }

    /// Kills `bin/build` after this time, with no warning; its status is then 137.
    #[must_use]
    pub fn kill_after(self, time: Duration) -> Self {
        self.signal_after(Signal::KILL, time)
    }

    /// Sends `bin/build` a signal after this time.
    #[must_use]
    pub fn signal_after(mut self, signal: Signal, time: Duration) -> Self {
        self.signal_after = Some((signal, time));
        self
    }

    /// Takes another buildpack.
    #[must_use]
    pub fn buildpack(mut self, buildpack: impl Into<PathBuf>) -> Self {
        self.buildpack = buildpack.into();
        self
    }

    /// Leaves the layers as the build before left them, where it was broken off. No platform does
    /// so: a buildpack that copes with it copes with any.
    #[must_use]
    pub fn on_leftovers(mut self) -> Self {
        self.on_leftovers = true;
        self
    }

    /// Gives the buildpack layers that it cannot write.
    #[must_use]
    pub fn read_only_layers(mut self) -> Self {
        self.read_only_layers = true;
        self
    }

    /// Keeps the cache in another directory than `cache` in the image's, on the same file system.
    #[must_use]
    pub fn cache(mut self, cache: impl Into<PathBuf>) -> Self {
        self.cache = cache.into();
        self
    }

    /// Copies the buildpack's output to this program's standard output as it comes.
    #[must_use]
    pub fn echo(mut self) -> Self {
        self.sandbox = self.sandbox.streams(Streams::Echoed);
        self
    }

    /// Changes the sandbox of `bin/detect` and `bin/build`: more binds, forbidden calls.
    #[must_use]
    pub fn sandbox(mut self, change: impl FnOnce(Sandbox) -> Sandbox) -> Self {
        self.sandbox = change(self.sandbox);
        self
    }

    /// Detects, and if that passes restores, builds and exports.
    ///
    /// # Errors
    /// Where the lifecycle itself would fail: a buildpack without the files it needs, metadata
    /// that cannot be read, an absent launch layer that the previous image does not have.
    /// A buildpack that fails is an [`Outcome`] with its status.
    pub fn run(&self) -> Result<Outcome> {
        let descriptor: BuildpackToml = read_toml(&self.buildpack.join("buildpack.toml"))?
            .with_context(|| format!("no buildpack.toml in {}", self.buildpack.display()))?;
        ensure!(
            descriptor.api == "0.10",
            "this platform knows Buildpack API 0.10, not {}",
            descriptor.api
        );
        fs::create_dir_all(&self.image)?;
        let image = self.image.join("image.json").exists();
        let build = Running {
            build: self,
            work: absolute(&self.image)?.join("work"),
            scratch: Scratch::new()?,
            previous: if image {
                Some(Image::open(&self.image)?)
            } else {
                None
            },
            buildpack: descriptor.buildpack,
        };
        build.run()
    }
}

/// A build while it runs.
struct Running<'a> {
    build: &'a Build,
    /// What the export is made of: `layers` and `workspace`.
    work: PathBuf,
    /// The platform directory, with the user's variables, and the plan: gone with the build.
    scratch: Scratch,
    previous: Option<Image>,
    buildpack: Buildpack,
}

impl Running<'_> {
    fn run(&self) -> Result<Outcome> {
        self.prepare()?;
        let start = Instant::now();
        let detected = self.detect()?;
        let mut outcome = Outcome {
            detect: detected.0,
            detect_log: detected.1,
            build: None,
            log: String::new(),
            export_log: Vec::new(),
            layers: self.layers(),
            image: None,
            detect_time: start.elapsed(),
            restore_time: Duration::ZERO,
            build_time: Duration::ZERO,
            export_time: Duration::ZERO,
        };
        if outcome.detect != 0 {
            return Ok(outcome);
        }

        let start = Instant::now();
        if self.build.clear_cache {
            files::remove(&self.build.cache)?;
        }
        let cache = image::read(&self.build.cache.join("cache.json"))?.unwrap_or_default();
        restore(
            &self.layers(),
            self.previous.as_ref(),
            (&self.build.cache, &cache),
            self.build.clear_cache,
        )?;
        fs::create_dir_all(self.layers())?;
        files::give_to_user(&self.work.join("layers"))?;
        outcome.restore_time = start.elapsed();

        let start = Instant::now();
        let layers = format!("/layers/{}", escape_id(&self.buildpack.id));
        let (code, log) = self.phase(
            "build",
            &[&layers, "/platform", PLAN],
            &[("CNB_LAYERS_DIR", &layers), ("CNB_BP_PLAN_PATH", PLAN)],
        )?;
        outcome.build = Some(code);
        outcome.log = log;
        outcome.build_time = start.elapsed();
        if code == 0 {
            let start = Instant::now();
            outcome.image = Some(self.export(&cache, &mut outcome.export_log)?);
            outcome.export_time = start.elapsed();
        }
        Ok(outcome)
    }

    /// The buildpack's layers directory on this machine.
    fn layers(&self) -> PathBuf {
        let id = escape_id(&self.buildpack.id);
        self.work.join("layers").join(id)
    }

    fn prepare(&self) -> Result<()> {
        if self.build.on_leftovers {
            files::remove(&self.work.join("workspace"))?;
        } else {
            files::remove(&self.work)?;
        }
        fs::create_dir_all(self.work.join("layers"))?;
        files::copy(&absolute(&self.build.app)?, &self.work.join("workspace"))?;
        files::give_to_user(&self.work)?;
        let env = self.scratch.directory("platform")?.join("env");
        fs::create_dir(&env)?;
        for (name, value) in &self.build.env {
            fs::write(env.join(name), value)?;
        }
        fs::write(self.scratch.directory("plan")?.join("plan.toml"), "")?;
        files::give_to_user(self.scratch.path())
    }

    /// Runs `bin/detect`, and makes the plan for the build of what it asked for.
    fn detect(&self) -> Result<(i32, String)> {
        let own = [("CNB_BUILD_PLAN_PATH", PLAN)];
        let (code, mut log) = self.phase("detect", &["/platform", PLAN], &own)?;
        if code != 0 {
            return Ok((code, log));
        }
        let path = self.scratch.path().join("plan/plan.toml");
        let mut plan: Plan = read_toml(&path)?.unwrap_or_default();
        let mut options = std::mem::take(&mut plan.or);
        options.insert(0, plan);
        let Some(plan) = options.into_iter().find(Plan::holds_alone) else {
            log.push_str("the build plan is not met by this buildpack alone\n");
            return Ok((DETECT_FAIL, log));
        };
        let entries = toml::Table::from_iter([(
            "entries".to_owned(),
            plan.requires
                .into_iter()
                .map(toml::Value::Table)
                .collect::<Vec<_>>()
                .into(),
        )]);
        fs::write(path, toml::to_string(&entries)?)?;
        Ok((code, log))
    }

    /// Runs `bin/detect` or `bin/build`, with the positional arguments and the variables that
    /// only it gets.
    fn phase(
        &self,
        program: &str,
        arguments: &[&str],
        own: &[(&str, &str)],
    ) -> Result<(i32, String)> {
        let id = escape_id(&self.buildpack.id);
        let inside = format!("/cnb/buildpacks/{id}/{}", self.buildpack.version);
        let base = &self.build.sandbox;
        let mut env: Env = base.env_map();
        if !self.buildpack.clear_env {
            for (name, value) in &self.build.env {
                let value = match env.get(name).filter(|_| PATHS.contains(&name.as_str())) {
                    Some(before) if !before.is_empty() => format!("{value}:{before}"),
                    _ => value.clone(),
                };
                env.insert(name.clone(), value);
            }
        }
        env.insert("CNB_BUILDPACK_DIR".to_owned(), inside.clone());
        env.insert("CNB_PLATFORM_DIR".to_owned(), "/platform".to_owned());
        env.extend(target(base.rootfs()));
        let own = own.iter().copied();
        env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));

        let sandbox = base
            .clone()
            .only_env(&env)
            .bind_ro(absolute(&self.build.buildpack)?, &inside)
            .bind_ro(self.scratch.path().join("platform"), "/platform")
            .bind_rw(self.scratch.path().join("plan"), "/tmp/plan")
            .bind_rw(self.work.join("workspace"), "/workspace")
            .directory("/workspace");
        let sandbox = if self.build.read_only_layers {
            sandbox.bind_ro(self.work.join("layers"), "/layers")
        } else {
            sandbox.bind_rw(self.work.join("layers"), "/layers")
        };
        let mut process =
            sandbox.spawn([&[&*format!("{inside}/bin/{program}")], arguments].concat())?;
        if let Some((signal, time)) = self.build.signal_after.filter(|_| program == "build")
            && process.wait_timeout(time)?.is_none()
        {
            // An error here means that it has just ended by itself.
            let _ = process.signal(signal);
        }
        let code = process.wait()?;
        Ok((code, process.stdout()))
    }
}

impl Plan {
    /// Whether a group of this buildpack alone meets it: all that is required is provided, and
    /// all that is provided is required.
    fn holds_alone(&self) -> bool {
        let provided: BTreeSet<_> = self.provides.iter().map(|n| n.name.as_str()).collect();
        let required: BTreeSet<_> = self
            .requires
            .iter()
            .filter_map(|require| require.get("name")?.as_str())
            .collect();
        provided == required
    }
}

/// The `CNB_TARGET_*` variables: the architecture of the root file system, in Go's words, and what its
/// `/etc/os-release` says.
fn target(rootfs: &Path) -> Env {
    let arch = arch(rootfs);
    let mut env = Env::from([
        ("CNB_TARGET_OS".to_owned(), "linux".to_owned()),
        ("CNB_TARGET_ARCH".to_owned(), arch.to_owned()),
    ]);
    let release = ["etc/os-release", "usr/lib/os-release"]
        .iter()
        .find_map(|path| fs::read_to_string(rootfs.join(path)).ok())
        .unwrap_or_default();
    for line in release.lines() {
        let variable = match line.split_once('=') {
            Some(("ID", value)) => ("CNB_TARGET_DISTRO_NAME", value),
            Some(("VERSION_ID", value)) => ("CNB_TARGET_DISTRO_VERSION", value),
            _ => continue,
        };
        env.insert(
            variable.0.to_owned(),
            variable.1.trim_matches('"').to_owned(),
        );
    }
    env
}

/// The architecture of the programs in a root file system, by the ELF header of one; this machine's where
/// there is none.
fn arch(rootfs: &Path) -> &'static str {
    let header = fs::read(rootfs.join("usr/bin/env")).unwrap_or_default();
    let machine = header.get(18..20).map(|bytes| [bytes[0], bytes[1]]);
    match machine.map(u16::from_le_bytes) {
        Some(62) => "amd64",
        Some(183) => "arm64",
        _ if cfg!(target_arch = "aarch64") => "arm64",
        _ => "amd64",
    }
}

/// Reads a TOML file; `None` where there is none.
fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("reading {}", path.display()))?,
    };
    toml::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("no directory {}", path.display()))
}
