//! What tests share: the fixtures, the packaged buildpack, and builds as a user makes them.

use binary_cache::CacheUrl;
use binary_cache::Caches;
use binary_cache::TrustSettings;
use closure::Closure;
use closure::fetch::{FetchError, fetch_each};
use closure::place::is_layer;
use closure::plan::{Miss, Previous};
use closure::queue::{Queue, QueuedPath};
use closure::relocate::references::ScanFor;
use closure::relocate::report::RelocationReport;
use http_client::{ApiRequest, Http};
use nix_archive::nar::{CaseHack, restore};
use nix_derivation::StorePath;
use nix_hydra_buildpack::resolve::source::Source;
use platform::fixtures::{self, Fixtures};
use platform::image::Image;
use platform::lifecycle::{Build, Outcome};
use platform::package;
use platform::process::Launch;
use platform::sandbox::Forbidden;
use platform::sandbox::{Output, Sandbox};
use platform::server::{Request, Response, Server};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

/// The fixtures; where there are none, the test is left out, which is said and counted.
pub fn fixtures() -> Option<Fixtures> {
    match fixtures::read() {
        Ok(fixtures) => Some(fixtures),
        Err(error) => {
            platform::left_out(&error.to_string());
            None
        }
    }
}

/// The closure of `roots`, or what no cache has of it.
pub fn plan(
    caches: &Caches,
    roots: &[StorePath],
    previous: &Previous,
) -> Result<Closure, Vec<Miss>> {
    closure::plan::plan(caches, roots, previous, |_, _| {})
}

/// Downloads every path of `closure` to `store/<base name>`. Returns what was found in them.
pub fn fetch(
    closure: &Closure,
    caches: &Caches,
    store: &Path,
    scan_for: &ScanFor,
) -> Result<RelocationReport, FetchError> {
    let paths = closure.paths.iter().map(|(path, info)| QueuedPath {
        path: path.clone(),
        info: info.clone(),
        place: store.join(path.to_basename()),
    });
    let mut report = RelocationReport::default();
    for (_, found) in fetch_each(&Queue::of(paths), caches, scan_for)? {
        report.add(found);
    }
    report.blockers.sort();
    Ok(report)
}

/// The packaged buildpack: the one `script/test` has made, else one made now.
pub fn buildpack() -> &'static Path {
    static BUILDPACK: OnceLock<PathBuf> = OnceLock::new();
    BUILDPACK.get_or_init(|| {
        std::env::var_os("NIX_HYDRA_BUILDPACK").map_or_else(
            || {
                let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
                package::package(manifest, None, &package::Options::default()).unwrap()
            },
            PathBuf::from,
        )
    })
}

/// An app that is built and rebuilt against the fixtures' binary cache, served over HTTP.
pub struct Deploy {
    pub fixtures: Fixtures,
    pub cache: Server,
    tools: Server,
    app: TempDir,
    image: TempDir,
    env: BTreeMap<String, String>,
    forbidden: Vec<Forbidden>,
    change: Box<dyn Fn(Sandbox) -> Sandbox>,
}

impl Deploy {
    /// The sample app `name`, in a directory of its own, set up as its user would.
    pub fn new(name: &str) -> Option<Self> {
        Self::with_hook(name, |_| None)
    }

    /// The same, with answers of the binary cache that the test gives itself.
    pub fn with_hook(
        name: &str,
        hook: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static,
    ) -> Option<Self> {
        let fixtures = fixtures()?;
        let app = TempDir::new().unwrap();
        copy(&fixtures.apps[name].dir, app.path());
        let cache = Server::with_hook(&fixtures.cache, hook).unwrap();
        let tools = Server::start("/").unwrap();
        let url = |file: &Path| format!("{}{}", tools.url().trim_end_matches('/'), file.display());
        let env = [
            ("NIX_EXTRA_BINARY_CACHE", cache.url()),
            ("NIX_DEFAULT_BINARY_CACHE", String::new()),
            ("NIX_TRUSTED_PUBLIC_KEYS", fixtures.public_key.clone()),
            ("NIX_ARCHIVE_URL", url(&fixtures.nix_archive)),
            ("NIX_ARCHIVE_SHA256", fixtures.nix_archive_sha256.clone()),
        ]
        .map(|(name, value)| (name.to_string(), value));
        Some(Self {
            env: env.into(),
            fixtures,
            cache,
            tools,
            app,
            image: TempDir::new().unwrap(),
            forbidden: Vec::new(),
            change: Box::new(|sandbox| sandbox),
        })
    }

    /// The sample app `name`, deployed by its store path: nothing is evaluated.
    pub fn by_path(name: &str) -> Option<Self> {
        let mut deploy = Self::new(name)?;
        deploy.set_path(name);
        Some(deploy)
    }

    /// Deploys the sample app `name` by its store path from now on.
    pub fn set_path(&mut self, name: &str) -> &mut Self {
        let path = self.fixtures.apps[name].store_path.clone();
        self.set("NIX_STORE_PATH", &path)
    }

    /// The closure of programs of many kinds, deployed as a store path.
    pub fn of_programs() -> Option<Self> {
        let mut deploy = Self::new("static")?;
        let Some(programs) = deploy.fixtures.programs.clone() else {
            platform::left_out("the closure of programs is missing: run script/setup programs");
            return None;
        };
        deploy.cache = Server::start(&programs.cache).unwrap();
        let url = deploy.cache.url();
        deploy
            .set("NIX_EXTRA_BINARY_CACHE", &url)
            .set("NIX_STORE_PATH", &programs.store_path);
        Some(deploy)
    }

    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.env.insert(name.to_string(), value.to_string());
        self
    }

    pub fn setting(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }

    /// Builds as on a host that refuses this.
    pub fn forbid(&mut self, forbidden: Forbidden) -> &mut Self {
        self.forbidden.push(forbidden);
        self
    }

    /// Builds in a sandbox with this change, which takes the place of another one.
    pub fn in_sandbox(&mut self, change: impl Fn(Sandbox) -> Sandbox + 'static) -> &mut Self {
        self.change = Box::new(change);
        self
    }

    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.env.remove(name);
        self
    }

    /// The directory of the image, in which the build also works.
    pub fn image(&self) -> &Path {
        self.image.path()
    }

    pub fn app(&self) -> &Path {
        self.app.path()
    }

    /// The URL of a file of this machine, as its maker would serve it.
    pub fn tool(&self, file: &Path) -> String {
        format!(
            "{}{}",
            self.tools.url().trim_end_matches('/'),
            file.display()
        )
    }

    /// Runs the buildpack over what is there from the build before.
    pub fn build(&self) -> Outcome {
        self.to_build().run().unwrap()
    }

    /// The same, to be changed before it runs.
    pub fn to_build(&self) -> Build {
        let mut build = Build::new(
            &self.fixtures.rootfs,
            buildpack(),
            self.app.path(),
            self.image.path(),
        );
        for (name, value) in &self.env {
            build = build.env(name, value);
        }
        for forbidden in &self.forbidden {
            build = build.sandbox(|sandbox| sandbox.forbid(*forbidden));
        }
        build.sandbox(&self.change)
    }

    /// Runs `nix-hydra check` on the app with the same settings, where there is no platform. What it keeps
    /// is in the directory `kept`.
    pub fn check(&self, words: &[&str], kept: &Path) -> Output {
        for directory in [self.app.path(), kept] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let mut sandbox = Sandbox::new(&self.fixtures.rootfs)
            .bind_ro(buildpack(), "/buildpack")
            .bind_ro(self.app.path(), "/app")
            .bind_rw(kept, "/kept")
            .env("XDG_CACHE_HOME", "/kept");
        for (name, value) in &self.env {
            sandbox = sandbox.env(name, value);
        }
        let program = ["/buildpack/bin/nix-hydra", "check", "/app"];
        sandbox.run(program.iter().chain(words)).unwrap()
    }

    /// The image of a build that must succeed.
    pub fn built(&self) -> Image {
        let outcome = self.build();
        assert!(outcome.success(), "{}{}", outcome.detect_log, outcome.log);
        outcome.image.unwrap()
    }

    /// Runs a command in an image.
    pub fn run<const N: usize>(&self, image: &Image, command: [&str; N]) -> Output {
        Launch::new(image, &self.fixtures.rootfs)
            .command(command)
            .run()
            .unwrap()
    }

    /// Requests to the binary cache and for tools since the last call.
    pub fn requests(&self) -> Vec<String> {
        let requests = self.cache.take_requests().into_iter();
        requests
            .chain(self.tools.take_requests())
            .map(|request| request.path)
            .collect()
    }

    /// A build's log with what differs between machines and runs replaced.
    pub fn stable(&self, log: &str) -> String {
        let mut log = strip_ansi(log);
        let app = &self.fixtures.apps["python"];
        for (from, to) in [
            (self.cache.url().trim_end_matches('/'), "http://cache"),
            (self.tools.url().trim_end_matches('/'), "http://tools"),
            (self.fixtures.nix_archive.to_str().unwrap(), "/nix.tar.xz"),
            (self.fixtures.proot.to_str().unwrap(), "/proot"),
            (app.store_path.as_str(), "/nix/store/<app>-myapp"),
            (app.source.as_str(), "/nix/store/<source>-source"),
        ] {
            log = log.replace(from, to);
        }
        let log = regex("built by Hydra, version [0-9.]+").replace_all(&log, "built by Hydra");
        // What is quick is slow on a busy machine.
        let progress = r" \.+ \([^()]* (left|unpacked|seconds|minutes)\)\n(  - .* (left|unpacked|seconds|minutes)\n)*  - Done after [0-9]+ [a-z]+\n";
        let log = regex(progress).replace_all(&log, " ... (<time>)\n");
        let timer = regex(r"\.* ?\.+ \((< )?[0-9.]+s\)");
        let log = timer.replace_all(&log, " ... (<time>)");
        regex(r"finished in (< )?[0-9.]+s")
            .replace_all(&log, "finished in <time>")
            .into_owned()
    }
}

pub fn regex(pattern: &str) -> regex_lite::Regex {
    regex_lite::Regex::new(pattern).unwrap()
}

pub fn strip_ansi(text: &str) -> String {
    regex("\x1b\\[[0-9;]*m").replace_all(text, "").into_owned()
}

/// The library's own client of a binary cache.
pub fn caches(urls: &[String], keys: &[&str], required: bool) -> Caches {
    let urls: Vec<CacheUrl> = urls.iter().map(|url| url.parse().unwrap()).collect();
    let trust = TrustSettings {
        keys: keys.iter().map(|key| key.parse().unwrap()).collect(),
        required,
    };
    Caches::open(&urls, trust, &Http::new(), &hydra::sign_in)
}

/// A command of the fixtures' real Nix, on a store of its own below `root`.
pub fn nix(fixtures: &Fixtures, program: &str, root: &Path) -> Command {
    let mut command = Command::new(Path::new(&fixtures.nix).join("bin").join(program));
    command
        .env("HOME", root)
        .env("NIX_CONF_DIR", root)
        .env("NIX_USER_CONF_FILES", "")
        .env(
            "NIX_CONFIG",
            "experimental-features = nix-command\nsubstituters =",
        )
        .args(["--store", &format!("local?root={}", root.display())]);
    command
}

/// Runs a command that must succeed, and answers what it printed, without the last newline.
pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_string()
}

/// Copies the contents of a directory, writable whatever the original is.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
            let mode = fs::metadata(&target).unwrap().permissions().mode() | 0o600;
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

/// A store path that a test has made, in a binary cache of its own.
pub struct Made {
    pub store_path: String,
    pub base_name: String,
    pub cache: Server,
    /// The files of the cache are in `cache`.
    pub directory: TempDir,
}

/// Makes a store path of what `fill` puts into a directory, with these references, which must be
/// in the fixtures' cache; real Nix hashes and signs it.
pub fn made(
    fixtures: &Fixtures,
    name: &str,
    references: &[&str],
    fill: impl FnOnce(&Path),
) -> Made {
    let base_name = format!("{}-{name}", "0123456789abcdfghijklmnpqrsvwxyz");
    made_as(fixtures, &base_name, references, fill)
}

/// The same with this hash and name.
pub fn made_as(
    fixtures: &Fixtures,
    base_name: &str,
    references: &[&str],
    fill: impl FnOnce(&Path),
) -> Made {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("root");
    let cache = directory.path().join("cache");
    let store_path = format!("/nix/store/{base_name}");
    fs::create_dir_all(root.join("nix/store")).unwrap();
    let from = format!("file://{}", fixtures.cache.display());
    let to = format!("local?root={}", root.display());
    let copy = ["copy", "--no-check-sigs", "--from", &from, "--to", &to];
    if !references.is_empty() {
        output(nix(fixtures, "nix", &root).args(copy).args(references));
    }
    let out = root.join("nix/store").join(base_name);
    fs::create_dir(&out).unwrap();
    fill(&out);
    let mut registration = format!("{store_path}\n\n{}\n", references.len());
    for reference in references {
        registration.push_str(reference);
        registration.push('\n');
    }
    let valid_paths = directory.path().join("valid-paths");
    fs::write(&valid_paths, registration).unwrap();
    output(
        nix(fixtures, "nix-store", &root)
            .args(["--register-validity", "--reregister"])
            .stdin(fs::File::open(valid_paths).unwrap()),
    );
    let to = format!(
        "file://{}?secret-key={}",
        cache.display(),
        fixtures.secret_key_file.display()
    );
    output(nix(fixtures, "nix", &root).args(["copy", "--to", &to, &store_path]));
    Made {
        cache: Server::start(&cache).unwrap(),
        store_path,
        base_name: base_name.to_string(),
        directory,
    }
}

/// A port that nothing listens on at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Starts the sample Python app's default process, and answers what it says of itself over HTTP.
pub fn python_app_answers(launch: Launch) -> serde_json::Value {
    let port = free_port();
    let mut web = launch.env("PORT", &port.to_string()).start().unwrap();
    web.wait_for("listening", Duration::from_secs(20)).unwrap();
    let url = format!("http://127.0.0.1:{port}/").parse().unwrap();
    let reply = Http::new()
        .call_api(&url, None, ApiRequest::Get, 10_000)
        .unwrap();
    serde_json::from_slice(&reply.body).unwrap()
}

/// The `share` directory of the closure of programs, to be seen at `/usr/share`: Debian's Node has
/// `/usr/share/nodejs` compiled in.
pub fn share_of_programs(image: &Image) -> PathBuf {
    store_path(image, "-programs").join("share")
}

/// The name of the layer that the store path `root` has to itself.
pub fn own_layer(image: &Image, root: &str) -> String {
    let hash = &root["/nix/store/".len()..][..8];
    let mut names = image.record.layers.keys();
    names.find(|name| name.starts_with(hash)).unwrap().clone()
}

/// Where the content of the store path whose name ends so is on this machine.
pub fn store_path(image: &Image, end: &str) -> PathBuf {
    let layers = image.record.layers.keys();
    layers
        .filter(|name| is_layer(name))
        .filter_map(|name| fs::read_dir(image.layer_dir(name)?).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with(end))
        .unwrap()
}

/// A hash of everything in a directory: names, kinds, modes, contents, and where links lead.
pub fn digest(directory: &Path) -> String {
    fn add(hasher: &mut Sha256, path: &Path) {
        let metadata = path.symlink_metadata().unwrap();
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(path.file_name().unwrap_or_default().as_encoded_bytes());
        field(&metadata.permissions().mode().to_le_bytes());
        if metadata.is_symlink() {
            field(fs::read_link(path).unwrap().as_os_str().as_encoded_bytes());
        } else if metadata.is_file() {
            field(&fs::read(path).unwrap());
        } else {
            let entries = fs::read_dir(path).unwrap();
            let mut entries: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            entries.sort();
            for entry in entries {
                add(hasher, &entry);
            }
            hasher.update(b"end");
        }
    }
    let mut hasher = Sha256::new();
    let entries = fs::read_dir(directory).unwrap();
    let mut entries: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        add(&mut hasher, &entry);
    }
    hex::encode(hasher.finalize())
}

/// Unpacks the NAR of a source as `to`, and answers where that is.
pub fn unpacked(source: &Source, to: &Path) -> PathBuf {
    let nar = source.encode(Vec::new()).unwrap();
    restore(&nar, to, CaseHack::Disabled).unwrap();
    to.to_path_buf()
}
