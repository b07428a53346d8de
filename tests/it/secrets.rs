//! What lets one into a private binary cache reaches that cache, and nothing and nobody else.

use crate::common::{Deploy, buildpack, copy, fixtures, strip_ansi};
use crate::evaluate::{config, evaluate, nix_in_place};
use crate::hydra::full_hydra;
use crate::hydra_server::{COOKIE, PASSWORD, USER as HYDRA_USER, revision};
use crate::servers::other_host;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix_hydra_buildpack::config::Config;
use nix_hydra_buildpack::error::BuildpackError;
use platform::fixtures::Fixtures;
use platform::lifecycle::{Build, Outcome};
use platform::server::{Request, Response, Server};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// The places that a credential can be in, each with a cache of its own: how it is sent there.
const URL: usize = 0;
const NETRC: usize = 1;
const USER: usize = 2;
const TOKEN: usize = 3;

/// What must not be found anywhere, `/` and `%2F` included.
const CANARIES: [&str; 4] = [
    "canary/in+url",
    "canary-in-netrc",
    "canary-of-user",
    "canary-token",
];

/// A password in the URLs of tools, and what lets one have a NAR by its URL alone.
const OF_TOOLS: &str = "canary-of-tools";
const PRE_SIGNED: &str = "canary-of-one-nar";

/// What tells the builds of these tests from others: see [`Private::most_of_core`].
static MOST_OF_CORE: AtomicU64 = AtomicU64::new(1_000_000_000);

fn authorization(place: usize) -> String {
    match place {
        TOKEN => format!("Bearer {}", CANARIES[TOKEN]),
        place => format!("Basic {}", encoded(CANARIES[place])),
    }
}

fn encoded(password: &str) -> String {
    BASE64.encode(format!("deploy:{password}"))
}

/// Every form in which a credential is written or sent.
fn secrets() -> Vec<String> {
    let plain = [&CANARIES[..], &[OF_TOOLS, PRE_SIGNED]].concat();
    let sent = plain.iter().map(|password| encoded(password));
    let in_url = CANARIES[URL].replace('/', "%2F");
    let plain = plain.iter().map(|secret| (*secret).to_string());
    plain.chain(sent).chain([in_url]).collect()
}

/// The first of `secrets` that is in `text`.
fn found<'a>(text: &[u8], secrets: &'a [String]) -> Option<&'a String> {
    let held = |secret: &&String| memchr::memmem::find(text, secret.as_bytes()).is_some();
    secrets.iter().find(held)
}

/// What the private caches do to a build.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Case {
    /// The last one has the app, and redirects to its NAR.
    Redirects,
    /// The last one has the app, and names another server in the narinfo.
    PointsElsewhere,
    /// None has it.
    Absent,
    /// None lets anyone in.
    Refused,
    /// The last one has lost the NAR.
    Lost,
    /// None can be found.
    Unresolvable,
}

impl Case {
    /// What the cache for `place` answers to a request that came with the right credential.
    fn answer(
        self,
        place: usize,
        request: &Request,
        cache: &Path,
        other: &str,
    ) -> Option<Response> {
        let file = request.path.trim_start_matches('/');
        let narinfo = file.ends_with(".narinfo");
        match self {
            Self::Refused => Some(Response::new(401)),
            _ if narinfo && (place != TOKEN || self == Self::Absent) => Some(Response::new(404)),
            Self::PointsElsewhere | Self::Lost if narinfo => {
                let text = fs::read_to_string(cache.join(file)).unwrap();
                let nar = text.lines().find_map(|line| line.strip_prefix("URL: "));
                let nar = nar.unwrap();
                let server = match self {
                    Self::Lost => String::new(),
                    _ => format!("{other}/"),
                };
                let url = format!("{server}{nar}?signature={PRE_SIGNED}");
                Some(Response::new(200).body(text.replace(nar, &url)))
            }
            Self::Redirects if file.starts_with("nar/") => {
                let location = format!("{other}/{file}?signature={PRE_SIGNED}");
                Some(Response::new(307).header("Location", &location))
            }
            Self::Lost if file.starts_with("nar/") => Some(Response::new(410)),
            _ => None,
        }
    }
}

/// An app that is built from private caches, and all servers that its build can reach.
struct Private {
    fixtures: Fixtures,
    /// One for each place of a credential.
    caches: Vec<Server>,
    /// A cache without credentials, the storage of NARs, and the tools.
    others: Vec<Server>,
    app: TempDir,
    /// The platform's files: service bindings, and the netrc file.
    platform: TempDir,
    image: TempDir,
    env: Vec<(&'static str, String)>,
    /// The most bytes that a core of its build may ever have, by which that is known among others.
    most_of_core: u64,
    /// How many it might have had at each of the build's requests.
    cores: Arc<Mutex<Vec<String>>>,
}

impl Private {
    fn new(case: Case) -> Option<Self> {
        let fixtures = fixtures()?;
        let app = TempDir::new().unwrap();
        copy(&fixtures.apps["static"].dir, app.path());
        let public = Server::with_hook(&fixtures.cache, |request| {
            request
                .path
                .ends_with(".narinfo")
                .then(|| Response::new(404))
        })
        .unwrap();
        let storage = Server::start(&fixtures.cache).unwrap();
        let tools = Server::start("/").unwrap();
        let other = match case {
            Case::Redirects => storage.url(),
            _ => other_host(&storage),
        };
        let most_of_core = MOST_OF_CORE.fetch_add(1, Ordering::Relaxed);
        let cores = Arc::new(Mutex::new(Vec::new()));
        let caches = [URL, NETRC, USER, TOKEN].map(|place| {
            let (cache, other) = (fixtures.cache.clone(), other.clone());
            let cores = Arc::clone(&cores);
            let hook = move |request: &Request| {
                // Meanwhile the build waits for the answer.
                cores.lock().unwrap().extend(core_limits(most_of_core));
                if request.header("authorization") != Some(&authorization(place)) {
                    return Some(Response::new(407));
                }
                case.answer(place, request, &cache, &other)
            };
            Server::with_hook(&fixtures.cache, hook).unwrap()
        });
        let host = match case {
            Case::Unresolvable => "caches.invalid",
            _ => "127.0.0.1",
        };
        let urls = caches
            .each_ref()
            .map(|cache| cache.url().replace("127.0.0.1", host));

        let platform = TempDir::new().unwrap();
        let netrc = format!("machine {host} login deploy password {}\n", CANARIES[NETRC]);
        // In a file that the user names, or in a binding.
        let (named, bound) = match case {
            Case::Redirects | Case::Absent | Case::Unresolvable => (&*netrc, ""),
            Case::PointsElsewhere | Case::Refused | Case::Lost => ("", &*netrc),
        };
        fs::write(platform.path().join("netrc"), named).unwrap();
        for (name, files) in [
            (
                "1-user",
                &[
                    ("url", &*urls[USER]),
                    ("username", "deploy"),
                    ("password", CANARIES[USER]),
                ][..],
            ),
            (
                "2-token",
                &[("url", &*urls[TOKEN]), ("token", CANARIES[TOKEN])][..],
            ),
            ("3-netrc", &[("netrc", bound)][..]),
        ] {
            let binding = platform.path().join("bindings").join(name);
            fs::create_dir_all(&binding).unwrap();
            for (file, text) in files.iter().chain(&[("type", "nix-binary-cache")]) {
                fs::write(binding.join(file), text).unwrap();
            }
        }

        let in_url = format!("http://deploy:{}@", CANARIES[URL].replace('/', "%2F"));
        let extra = [
            urls[URL].replace("http://", &in_url),
            urls[NETRC].clone(),
            format!("{}?priority=1", other_host(&public)),
        ];
        let in_url = format!("http://deploy:{OF_TOOLS}@");
        let tools_url = tools.url().replace("http://", &in_url);
        let tool = |file: &Path| format!("{tools_url}{}", file.display());
        let env = vec![
            ("NIX_EXTRA_BINARY_CACHE", extra.join(" ")),
            ("NIX_DEFAULT_BINARY_CACHE", String::new()),
            ("NIX_TRUSTED_PUBLIC_KEYS", fixtures.public_key.clone()),
            ("NIX_NETRC_FILE", "/secrets/netrc".to_string()),
            ("SERVICE_BINDING_ROOT", "/secrets/bindings".to_string()),
            ("NIX_ARCHIVE_URL", tool(&fixtures.nix_archive)),
            ("NIX_ARCHIVE_SHA256", fixtures.nix_archive_sha256.clone()),
            ("NIX_PROOT_URL", tool(&fixtures.proot)),
            ("NIX_PROOT_SHA256", fixtures.proot_sha256.clone()),
        ];
        Some(Self {
            fixtures,
            caches: caches.into(),
            others: vec![public, storage, tools],
            app,
            platform,
            image: TempDir::new().unwrap(),
            env,
            most_of_core,
            cores,
        })
    }

    fn build(&self) -> Outcome {
        let build = Build::new(
            &self.fixtures.rootfs,
            buildpack(),
            self.app.path(),
            self.image.path(),
        );
        let build = self
            .env
            .iter()
            .fold(build, |build, (name, value)| build.env(*name, value));
        let build = build.sandbox(|sandbox| {
            let sandbox = sandbox.bind_ro(self.platform.path(), "/secrets");
            let cores = format!("--core={0}:{0}", self.most_of_core);
            sandbox.started_by(["prlimit", &cores, "--"])
        });
        watched(&build, &secrets())
    }

    /// Checks that nothing that is left of the build, said by it or asked for holds a secret, and
    /// that no core of it, which would hold all of them, can be dumped.
    fn check(&self, outcome: &Outcome) {
        let secrets = secrets();
        check_left(self.image.path(), outcome, &secrets);
        let mut asked = false;
        for (place, cache) in self.caches.iter().enumerate() {
            let own = authorization(place);
            for request in cache.requests() {
                asked = true;
                assert_eq!(request.header("authorization"), Some(&*own), "{request:?}");
            }
        }
        let cores = std::mem::take(&mut *self.cores.lock().unwrap());
        assert_eq!(asked, !cores.is_empty(), "the build was not found");
        assert!(cores.iter().all(|limit| limit == "1"), "{cores:?}");
        let [others @ .., tools] = &*self.others else {
            panic!("no servers");
        };
        for request in others.iter().flat_map(Server::requests) {
            assert_eq!(request.header("authorization"), None, "{request:?}");
            let own = format!("signature={PRE_SIGNED}");
            let text = format!("{request:?}").replace(&own, "");
            assert_eq!(found(text.as_bytes(), &secrets), None, "{text}");
        }
        let own = format!("Basic {}", encoded(OF_TOOLS));
        for request in tools.requests() {
            assert_eq!(request.header("authorization"), Some(&*own), "{request:?}");
        }
    }
}

/// Checks that nothing that is left of a build or said by it holds a secret.
fn check_left(image: &Path, outcome: &Outcome, secrets: &[String]) {
    let files = files(image);
    assert!(!files.is_empty());
    for file in files {
        let metadata = file.symlink_metadata().unwrap();
        let content = if metadata.is_symlink() {
            fs::read_link(&file)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else {
            fs::read(&file).unwrap()
        };
        assert_eq!(found(&content, secrets), None, "{}", file.display());
        let name = file.as_os_str().as_encoded_bytes();
        assert_eq!(found(name, secrets), None, "{}", file.display());
    }
    for log in [
        &outcome.detect_log,
        &outcome.log,
        &outcome.export_log.join("\n"),
    ] {
        assert_eq!(found(log.as_bytes(), secrets), None, "{log}");
        assert_eq!(found(strip_ansi(log).as_bytes(), secrets), None, "{log}");
    }
}

/// Runs a build, and looks at the command lines of all processes meanwhile.
fn watched(build: &Build, secrets: &[String]) -> Outcome {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_processes(&ended, secrets));
        let outcome = build.run();
        ended.store(true, Ordering::Relaxed);
        watch.join().unwrap();
        outcome.unwrap()
    })
}

/// Looks at every command line on this machine until the build has ended: anyone may read those.
fn watch_processes(ended: &AtomicBool, secrets: &[String]) {
    while !ended.load(Ordering::Relaxed) {
        for (_, line) in processes() {
            // These are the test's, which give the build its environment.
            let own = ["prlimit", "bwrap", "setpriv", "env"].map(OsStr::new);
            if own
                .iter()
                .any(|own| program(&line).file_name() == Some(own))
            {
                continue;
            }
            let text = String::from_utf8_lossy(&line);
            assert_eq!(found(&line, secrets), None, "{text}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How many bytes the cores of those builds may have now that might have so many at most.
fn core_limits(most: u64) -> Vec<String> {
    let builds = processes().filter(|(_, line)| program(line).ends_with("bin/build"));
    let limits = builds.filter_map(|(process, _)| {
        let limits = fs::read_to_string(process.join("limits")).ok()?;
        let mut core = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max core file size"))?
            .split_whitespace();
        let now = core.next()?;
        (core.next()?.parse() == Ok(most)).then(|| now.to_string())
    });
    limits.collect()
}

/// The directories of all processes in `/proc`, and their command lines; of one that ends, nothing.
fn processes() -> impl Iterator<Item = (PathBuf, Vec<u8>)> {
    fs::read_dir("/proc").unwrap().flatten().map(|entry| {
        let line = fs::read(entry.path().join("cmdline"));
        (entry.path(), line.unwrap_or_default())
    })
}

/// What a process was started as. Its command line is read but once: it becomes another by `exec`.
fn program(line: &[u8]) -> &Path {
    let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
    Path::new(OsStr::from_bytes(program))
}

/// Everything below `directory` but directories.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(self::files(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

#[test]
fn a_build_from_private_caches_keeps_their_credentials_nowhere() {
    for case in [Case::Redirects, Case::PointsElsewhere] {
        let Some(private) = Private::new(case) else {
            return;
        };
        // The second build has the first one's metadata, and asks for nothing.
        for asked in [true, false] {
            let outcome = private.build();
            let log = [outcome.detect_log.as_str(), &outcome.log].concat();
            assert!(outcome.success(), "{case:?}: {log}");
            private.check(&outcome);
            let mut expected = [2, 2, 2, 2, 2, 1];
            if case == Case::Redirects {
                expected[TOKEN] += 1;
            }
            let servers = private.caches.iter().chain(&private.others[..2]);
            let requests: Vec<_> = servers.map(|server| server.take_requests().len()).collect();
            assert!(!private.others[2].requests().is_empty(), "no tools");
            assert_eq!(requests, if asked { expected } else { [0; 6] }, "{case:?}");
        }
    }
}

#[test]
fn a_build_that_fails_says_nothing_of_credentials() {
    for (case, said) in [
        (Case::Absent, "it does not have the path"),
        (Case::Refused, "HTTP status 401 Unauthorized"),
        (Case::Lost, "HTTP status 410 Gone"),
        // As the machine's name server is.
        (
            Case::Unresolvable,
            "there is no host of this name|the host name cannot be resolved at the moment",
        ),
    ] {
        let Some(mut private) = Private::new(case) else {
            return;
        };
        let path = private.fixtures.apps["static"].store_path.clone();
        private.env.push(("NIX_STORE_PATH", path));
        let outcome = private.build();
        assert_eq!(outcome.build, Some(1), "{case:?}: {}", outcome.log);
        let is_said = said.split('|').any(|said| outcome.log.contains(said));
        assert!(is_said, "{case:?}: {}", outcome.log);
        private.check(&outcome);
    }
}

#[test]
fn the_password_and_the_cookie_of_a_hydra_are_kept_nowhere() {
    let (_, session) = COOKIE.split_once('=').unwrap();
    let secrets = [PASSWORD, &encoded(PASSWORD), session].map(str::to_string);
    let absent = "/nix/store/y26qxcq1gg2hrqpxdc58b2fghv2bhxjg-myapp";
    for built in [true, false] {
        let Some(fixtures) = fixtures() else { return };
        let path = &fixtures.apps["static"].store_path;
        let hydra = full_hydra(if built { path } else { absent });
        hydra.state().private = true;
        let Some(mut deploy) = Deploy::with_hook("static", hydra.hook()) else {
            return;
        };
        let in_url = format!("http://{HYDRA_USER}:{PASSWORD}@");
        let url = deploy.cache.url();
        deploy
            .set("NIX_EXTRA_BINARY_CACHE", &url)
            .set("NIX_HYDRA_URL", &url.replace("http://", &in_url))
            .set("NIX_HYDRA_JOB", "acme/main/myapp")
            .set("NIX_REVISION", &revision('a'));
        let outcome = watched(&deploy.to_build(), &secrets);
        assert_eq!(outcome.success(), built, "{}", outcome.log);
        check_left(deploy.image(), &outcome, &secrets);
        let requests = deploy.cache.requests();
        assert!(
            requests
                .iter()
                .any(|one| one.header("cookie") == Some(COOKIE))
        );
    }
}

#[test]
fn a_token_in_a_url_of_nix_path_is_shown_nowhere() {
    let token = "canary-in-nix-path";
    for expression in [None, Some("import <pins> { }")] {
        let Some(mut deploy) = Deploy::new("static") else {
            return;
        };
        if let Some(text) = expression {
            fs::write(deploy.app().join("deploy.nix"), text).unwrap();
        }
        deploy
            .set(
                "NIX_PATH",
                &format!("pins=http://{token}@127.0.0.1/pins.tar.gz"),
            )
            .set("NIX_DEBUG", "true");
        let secrets = [token.to_string()];
        let outcome = watched(&deploy.to_build(), &secrets);
        assert_eq!(outcome.success(), expression.is_none(), "{}", outcome.log);
        check_left(deploy.image(), &outcome, &secrets);
    }
}

#[test]
fn a_setting_that_makes_no_sense_is_shown_without_its_secret() {
    let canary = CANARIES[TOKEN];
    for (name, value) in [
        (
            "NIX_EXTRA_BINARY_CACHE",
            "ftp://deploy:CANARY@cache.acme.net",
        ),
        (
            "NIX_EXTRA_BINARY_CACHE",
            "http://deploy:x/CANARY@cache.acme.net",
        ),
        (
            "NIX_EXTRA_BINARY_CACHE",
            "http://deploy:x#CANARY@cache.acme.net",
        ),
        (
            "NIX_EXTRA_BINARY_CACHE",
            "https://CANARY@cache.acme.net?priority=high",
        ),
        ("NIX_EXTRA_BINARY_CACHE", "deploy:CANARY@cache.acme.net"),
        (
            "NIX_DEFAULT_BINARY_CACHE",
            "http://deploy:CANARY@cache.acme.net:port",
        ),
        ("NIX_PROOT_URL", "ftp://deploy:CANARY@acme.net/proot"),
        ("NIX_NETRC_FILE", "machine acme.net login x password CANARY"),
        ("NIX_TRUSTED_PUBLIC_KEYS", "acme.net-1:CANARY"),
    ] {
        let get = |setting: &str| match setting {
            "NIX_STORE_PATH" => Some(format!("/nix/store/{}-app", "0".repeat(32))),
            "NIX_PROOT_SHA256" if name == "NIX_PROOT_URL" => Some("0".repeat(64)),
            _ => (setting == name).then(|| value.replace("CANARY", canary)),
        };
        let error = Config::read(get, Path::new("/")).unwrap_err();
        let message = BuildpackError::Config(error).message().to_string();
        assert!(
            message.contains(name) && (message.contains("acme.net") || message.contains('…')),
            "{message}"
        );
        assert!(!message.contains(canary), "{message}");
    }
}

#[test]
fn nix_sends_what_the_build_knows_of_caches_and_of_other_servers_whatever_is_in_a_password() {
    let Some(fixtures) = fixtures() else { return };
    let asked = Server::with_hook("/nonexistent", |request| {
        (request.path == "/pinned").then(|| Response::new(404))
    })
    .unwrap();
    let port = asked.address().port();
    let directory = TempDir::new().unwrap();
    let netrc = directory.path().join("netrc");
    let file = "machine localhost login git password \"se \\\"cr\\\\et\"\ndefault password any";
    fs::write(&netrc, file).unwrap();
    for (cache, host, sent) in [
        (
            "http://deploy:two%20words@127.0.0.1",
            "127.0.0.1",
            "deploy:two words",
        ),
        (
            "http://deploy:%23a%22b%5Cc@127.0.0.1",
            "127.0.0.1",
            "deploy:#a\"b\\c",
        ),
        ("http://:t0ken@127.0.0.1", "127.0.0.1", ":t0ken"),
        (
            "http://deploy:cache@127.0.0.1",
            "localhost",
            "git:se \"cr\\et",
        ),
        ("http://deploy:cache@192.0.2.1", "127.0.0.1", ":any"),
    ] {
        let app = TempDir::new().unwrap();
        let expression = format!("import (builtins.fetchurl \"http://{host}:{port}/pinned\")");
        fs::write(app.path().join("default.nix"), expression).unwrap();
        let settings = [
            ("NIX_EXTRA_BINARY_CACHE", cache),
            ("NIX_NETRC_FILE", netrc.to_str().unwrap()),
        ];
        let config = config(app.path(), &settings);
        let nix = nix_in_place(&fixtures, &config);
        assert!(evaluate(&nix, app.path(), &config).is_err());
        let requests = asked.take_requests();
        let authorization = requests[0].header("authorization").unwrap_or("none");
        let expected = format!("Basic {}", BASE64.encode(sent));
        assert_eq!(authorization, expected, "{cache} {host}");
    }
}
