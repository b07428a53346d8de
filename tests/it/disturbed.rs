//! Builds over a network that breaks by a seeded plan, and builds that are killed at any moment: each
//! ends in the closure that was asked for or in a clear error, and the image of before stays.
//!
//! `NIX_HYDRA_TEST_RUNS` says how many; `NIX_HYDRA_TEST_SEED` which seed is the first.

use crate::common::{buildpack, digest, fixtures, output, strip_ansi};
use platform::faults::{Faults, Random};
use platform::fixtures::Fixtures;
use platform::image::Image;
use platform::lifecycle::{Build, Outcome};
use platform::server::Server;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// Builds with faults, and builds that are killed, unless the environment says otherwise.
const DISTURBED: u64 = 30;
const KILLED: u64 = 12;

/// The password of the binary cache, and the same as it is sent: both belong nowhere else.
const CANARY: &str = "canary-in-the-url";
const SENT: &str = "ZGVwbG95OmNhbmFyeS1pbi10aGUtdXJs";

/// Builds at once: most of them wait for another try.
const AT_ONCE: usize = 8;

/// What is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A handful of store paths.
    Few,
    /// An interpreter with all that it needs.
    Python,
    /// An expression, for which Nix is downloaded first.
    Expression,
}

impl What {
    /// Mostly the one that takes no time.
    fn of(seed: u64) -> Self {
        match seed % 10 {
            3 => Self::Python,
            7 => Self::Expression,
            _ => Self::Few,
        }
    }
}

/// An app, and what an undisturbed build makes of it.
struct Expected {
    app: PathBuf,
    store_path: Option<String>,
    /// Digests of the image's layers, by name.
    image: BTreeMap<String, String>,
    /// The same of the directories that the build leaves.
    layers: BTreeMap<String, String>,
    time: Duration,
}

/// All that the runs share.
struct Scene {
    fixtures: Fixtures,
    /// The image of another app, and the apps.
    directory: TempDir,
    expected: BTreeMap<What, Expected>,
}

/// The digests of an image's layers but of those that say where each path came from.
fn layers_of(image: &Image) -> BTreeMap<String, String> {
    let layers = image.record.layers.iter();
    let launch = layers.filter(|(_, layer)| layer.types.launch);
    launch
        .map(|(name, layer)| (name.clone(), layer.blob.digest.clone()))
        .collect()
}

/// The launch layers that a build has left, declared and there, by name.
fn left(layers: &Path) -> BTreeMap<String, String> {
    let mut left = BTreeMap::new();
    for entry in fs::read_dir(layers).into_iter().flatten() {
        let toml = entry.unwrap().path();
        let directory = toml.with_extension("");
        if toml
            .extension()
            .is_some_and(|extension| extension == "toml")
            && directory.is_dir()
            && fs::read_to_string(&toml).unwrap().contains("launch = true")
        {
            let name = directory.file_name().unwrap().to_str().unwrap().to_string();
            left.insert(name, digest(&directory));
        }
    }
    left
}

impl Scene {
    fn new() -> Option<Self> {
        let fixtures = fixtures()?;
        let mut scene = Self {
            directory: TempDir::new().unwrap(),
            expected: BTreeMap::new(),
            fixtures,
        };
        let python = &scene.fixtures.apps["python"];
        let app = &scene.fixtures.apps["static"];
        let plain = scene.directory.path().join("app");
        fs::create_dir(&plain).unwrap();
        fs::write(plain.join("Procfile"), "web: run_proot.sh sh\n").unwrap();
        let few = narinfo_of(&scene.fixtures.cache, "-dash-");
        let sources = [
            (What::Few, plain.clone(), Some(few)),
            (What::Python, plain, Some(python.store_path.clone())),
            (What::Expression, app.dir.clone(), None),
        ];
        // Relocated, so that the next image needs another PRoot layer too.
        let image = scene.directory.path().join("image");
        let servers = Servers::start(&scene.fixtures, None);
        let build = scene.build(&image, &app.dir, Some(&app.store_path), &servers);
        let outcome = build.env("NIX_ENGINE", "relocate").run().unwrap();
        assert!(outcome.success(), "{}", outcome.log);
        fs::remove_dir_all(image.join("work")).unwrap();
        for (what, app, store_path) in sources {
            let image = scene.image();
            let build = scene.build(image.path(), &app, store_path.as_deref(), &servers);
            let outcome = build.run().unwrap();
            assert!(outcome.success(), "{}", outcome.log);
            let expected = Expected {
                app,
                store_path,
                image: layers_of(outcome.image.as_ref().unwrap()),
                layers: left(&outcome.layers),
                time: outcome.build_time,
            };
            scene.expected.insert(what, expected);
        }
        Some(scene)
    }

    /// A copy of the image of before.
    fn image(&self) -> TempDir {
        let image = TempDir::new().unwrap();
        let before = self.directory.path().join("image/.");
        output(Command::new("cp").arg("-a").arg(before).arg(image.path()));
        image
    }

    fn build(
        &self,
        image: &Path,
        app: &Path,
        store_path: Option<&str>,
        servers: &Servers,
    ) -> Build {
        let fixtures = &self.fixtures;
        let tool = |file: &Path| format!("{}{}", servers.tools.url(), file.display());
        let user = format!("http://deploy:{CANARY}@");
        let cache = servers.cache.url().replace("http://", &user);
        let build = Build::new(&fixtures.rootfs, buildpack(), app, image)
            .env("NIX_EXTRA_BINARY_CACHE", cache)
            .env("NIX_DEFAULT_BINARY_CACHE", "")
            .env("NIX_TRUSTED_PUBLIC_KEYS", &fixtures.public_key)
            .env("NIX_ARCHIVE_URL", tool(&fixtures.nix_archive))
            .env("NIX_ARCHIVE_SHA256", &fixtures.nix_archive_sha256)
            .env("NIX_PROOT_URL", tool(&fixtures.proot))
            .env("NIX_PROOT_SHA256", &fixtures.proot_sha256);
        match store_path {
            Some(path) => build.env("NIX_STORE_PATH", path),
            None => build,
        }
    }

    fn build_of(&self, what: What, image: &Path, servers: &Servers) -> Build {
        let expected = &self.expected[&what];
        self.build(
            image,
            &expected.app,
            expected.store_path.as_deref(),
            servers,
        )
    }

    /// Checks an image that was built, and one that was not: that it is still the one of before.
    fn check(&self, what: What, image: &Path, outcome: &Outcome) -> Result<(), String> {
        if let Some(place) = canary(image, outcome) {
            return Err(format!("the password is in {place}"));
        }
        let expected = &self.expected[&what];
        if let Some(built) = &outcome.image {
            let layers = layers_of(built);
            if layers != expected.image {
                return Err(format!("a wrong image: {layers:?}"));
            }
            return Ok(());
        }
        for (name, digest) in left(&outcome.layers) {
            if expected.layers.get(&name) != Some(&digest) {
                return Err(format!("the layer {name} is declared, and is not whole"));
            }
        }
        let before = self.directory.path().join("image");
        for part in ["image.json", "blobs"] {
            let digests = [before.join(part), image.join(part)].map(|path| {
                let content = fs::read(&path).unwrap_or_default();
                (content, path.is_dir().then(|| digest(&path)))
            });
            if digests[0] != digests[1] {
                return Err(format!("the image of before has changed: {part}"));
            }
        }
        Ok(())
    }
}

/// Where the password is found, that must be nowhere.
fn canary(image: &Path, outcome: &Outcome) -> Option<String> {
    let holds = |bytes: &[u8]| {
        [CANARY, SENT]
            .iter()
            .any(|secret| memchr::memmem::find(bytes, secret.as_bytes()).is_some())
    };
    if holds(outcome.log.as_bytes()) || holds(outcome.detect_log.as_bytes()) {
        return Some("the log".into());
    }
    let mut directories = vec![image.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() && holds(&fs::read(entry.path()).unwrap()) {
                return Some(entry.path().display().to_string());
            }
        }
    }
    None
}

/// The store path in a cache whose name has this in it.
fn narinfo_of(cache: &Path, name: &str) -> String {
    let entries = fs::read_dir(cache)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let narinfos = entries.filter(|path| path.extension().is_some_and(|end| end == "narinfo"));
    let first_lines = narinfos.map(|path| {
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().next().unwrap_or_default();
        line.trim_start_matches("StorePath: ").to_string()
    });
    let mut found: Vec<_> = first_lines.filter(|path| path.contains(name)).collect();
    found.sort();
    found.remove(0)
}

/// The binary cache and the tools.
struct Servers {
    cache: Server,
    tools: Server,
}

impl Servers {
    /// With the faults of this seed, if any.
    fn start(fixtures: &Fixtures, seed: Option<u64>) -> Self {
        let serve = |directory: &Path| {
            let faults = seed.map(|seed| Faults::new(seed, directory));
            let hook = move |request: &_| faults.as_ref()?.answer(request);
            Server::with_hook(directory, hook).unwrap()
        };
        Self {
            cache: serve(&fixtures.cache),
            tools: serve(Path::new("/")),
        }
    }
}

/// A failed build says why, as its last words, and not in the words of a program that broke.
fn message(outcome: &Outcome) -> Result<String, String> {
    let log = strip_ansi(&outcome.log);
    // The last block of such lines; those before are warnings.
    let lines: Vec<_> = log.trim_end().lines().collect();
    let mut blocks = lines.split(|line| !line.starts_with('!')).rev();
    let block = blocks.find(|block| !block.is_empty()).unwrap_or_default();
    let header = block.first().and_then(|line| line.strip_prefix("! "));
    match (outcome.build, header) {
        (Some(1), Some(header)) if !log.contains("panicked") => Ok(header.to_string()),
        (status, _) => Err(format!("it ended with {status:?}:\n{log}")),
    }
}

/// Runs `run` for as many seeds, and answers how often each thing happened.
fn for_seeds(
    default: u64,
    run: impl Fn(u64) -> Result<String, String> + Sync,
) -> BTreeMap<String, usize> {
    let number = |name, default| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse().unwrap())
    };
    let first: u64 = number("NIX_HYDRA_TEST_SEED", 0);
    let end = first + number("NIX_HYDRA_TEST_RUNS", default);
    let next = AtomicU64::new(first);
    let happened = Mutex::new(BTreeMap::new());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    match run(seed) {
                        Ok(what) => *happened.lock().unwrap().entry(what).or_default() += 1,
                        Err(error) => wrong.lock().unwrap().push(format!("seed {seed}: {error}")),
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    happened.into_inner().unwrap()
}

/// Runs a build, which fails if the platform finds fault with what it left.
fn ran(build: &Build) -> Result<Outcome, String> {
    build.run().map_err(|error| format!("{error:#}"))
}

#[test]
fn whatever_the_network_does_the_closure_is_right_or_the_error_is_clear() {
    let Some(scene) = Scene::new() else { return };
    let happened = for_seeds(DISTURBED, |seed| {
        let what = What::of(seed);
        let image = scene.image();
        let servers = Servers::start(&scene.fixtures, Some(seed));
        let outcome = ran(&scene.build_of(what, image.path(), &servers))?;
        scene.check(what, image.path(), &outcome)?;
        if outcome.success() {
            return Ok(format!("{what:?}: built"));
        }
        let said = message(&outcome)?;
        // Once the network is well again, the same build works on whatever is left.
        let sound = Servers::start(&scene.fixtures, None);
        let again = scene.build_of(what, image.path(), &sound);
        let again = if seed % 2 == 0 {
            again
        } else {
            again.on_leftovers()
        };
        let outcome = ran(&again)?;
        scene.check(what, image.path(), &outcome)?;
        if !outcome.success() {
            return Err(format!("not even afterwards:\n{}", outcome.log));
        }
        let name = scene
            .expected
            .values()
            .filter_map(|one| one.store_path.as_deref());
        let said = name
            .filter_map(|path| path.split_once('-'))
            .fold(said, |said, (_, name)| said.replace(name, "…"));
        Ok(format!("{what:?}: {said}"))
    });
    println!("{happened:#?}");
    assert!(happened.keys().any(|what| what.ends_with("built")));
    assert!(happened.len() > 2, "nothing failed");
}

#[test]
fn a_build_that_is_killed_leaves_nothing_that_the_next_one_takes_for_whole() {
    let Some(scene) = Scene::new() else { return };
    let servers = Servers::start(&scene.fixtures, None);
    let happened = for_seeds(KILLED, |seed| {
        let what = What::of(seed);
        let image = scene.image();
        let whole = scene.expected[&what].time.as_micros();
        let time = Random::new(seed).below(u64::try_from(whole).unwrap());
        let build = scene.build_of(what, image.path(), &servers);
        let killed = build.clone().kill_after(Duration::from_micros(time));
        let outcome = ran(&killed)?;
        scene.check(what, image.path(), &outcome)?;
        if outcome.success() {
            return Ok(format!("{what:?}: built before the kill"));
        }
        if outcome.build != Some(137) {
            return Err(format!("{:?}: {}", outcome.build, outcome.log));
        }
        let again = if seed % 2 == 0 {
            build
        } else {
            build.on_leftovers()
        };
        let outcome = ran(&again)?;
        scene.check(what, image.path(), &outcome)?;
        if !outcome.success() {
            return Err(format!("not even afterwards:\n{}", outcome.log));
        }
        Ok(format!("{what:?}: killed, then built"))
    });
    println!("{happened:#?}");
    assert!(happened.keys().any(|what| what.ends_with("then built")));
}
