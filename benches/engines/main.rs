//! Bench of the engines: what a process costs to start, what its system calls cost, and how many
//! requests a server answers, by each engine, by bare `PRoot` in two ways, and with no engine.
//!
//! All contenders run in the same sandbox, as an ordinary user, and take turns, so that whatever else
//! the machine does falls on all of them alike.

mod report;

use anyhow::{Context, Result, bail, ensure};
use platform::bench::{Options, Takes};
use platform::fixtures::{self, Fixtures};
use platform::image::Image;
use platform::lifecycle::Build;
use platform::process::Launch;
use platform::sandbox::Sandbox;
use platform::server::Server;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often each contender is measured, unless `--runs` says otherwise.
const TAKES: Takes = Takes {
    runs: Some(3),
    write: true,
    cases: &[],
};

/// How many processes are started one after the other in a turn.
const STARTS: usize = 30;

/// How long a server is asked in a turn, and by how many connections.
const LOAD: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 4;

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

const LAYERS: &str = "/layers/nix_hydra";
const RELOCATED_STORE: &str = "/layers/nix_hydra/closure";

/// A way to run a command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Contender {
    /// The closure is at `/nix/store`, and nothing stands before the command.
    Native,
    Direct,
    /// Rewritten to where it is in the image, which has no `/nix`.
    Relocated,
    Namespace,
    PRoot,
    /// PRoot with its defaults, as it comes.
    BarePRoot,
    /// PRoot as peers start it.
    NoSeccomp,
}

impl Contender {
    pub(crate) const ALL: [Self; 7] = [
        Self::Native,
        Self::Direct,
        Self::Relocated,
        Self::Namespace,
        Self::PRoot,
        Self::BarePRoot,
        Self::NoSeccomp,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Direct => "direct",
            Self::Relocated => "relocated",
            Self::Namespace => "namespace",
            Self::PRoot => "proot",
            Self::BarePRoot => "bare PRoot",
            Self::NoSeccomp => "PRoot without seccomp",
        }
    }

    /// What stands before the command.
    fn prefix(self) -> Vec<String> {
        match self {
            Self::Native => Vec::new(),
            Self::Direct | Self::Relocated | Self::Namespace | Self::PRoot => {
                vec![format!("{LAYERS}/proot/bin/run_proot.sh")]
            }
            Self::BarePRoot | Self::NoSeccomp => vec![
                format!("{LAYERS}/proot/libexec/proot"),
                "-b".into(),
                format!("{LAYERS}/closure:/nix/store"),
            ],
        }
    }
}

/// Figures by their names; the unit is in the name.
pub(crate) type Figures = BTreeMap<(&'static str, Contender), Vec<f64>>;

/// How many files the page that is put together has.
const PARTS: usize = 20;

struct Bench {
    rootfs: PathBuf,
    /// The sample Python app.
    python: Samples,
    /// The closure of programs of many kinds.
    programs: Samples,
}

/// A closure as it was built for some of the contenders, and for the others.
struct Samples {
    in_place: Sample,
    relocated: Sample,
}

struct Sample {
    image: Image,
    /// Where each store path is on this machine, and where its users expect it.
    closure: Vec<(PathBuf, String)>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(Options { runs, write, .. }) = Options::read(&arguments, TAKES)? else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let bench = Bench::new(directory.path())?;
    let mut figures = Figures::new();
    for turn in 0..runs {
        for place in 0..Contender::ALL.len() {
            // Each comes after each other one in turn.
            let contender = Contender::ALL[(place + turn) % Contender::ALL.len()];
            bench
                .measure(contender, &mut figures)
                .with_context(|| contender.name())?;
        }
    }
    report::print(&figures);
    let table = report::table(&figures, runs);
    println!("\n{table}");
    if write {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/engines.md");
        platform::docs::put(&page, "engines", &table)?;
    }
    Ok(())
}

impl Samples {
    /// Builds `store_path`, which the binary cache in `cache` has.
    fn build(
        fixtures: &Fixtures,
        store_path: &str,
        cache: &Path,
        directory: &Path,
    ) -> Result<Self> {
        let sample = |engine: &str, store| {
            let directory = directory.join(engine);
            std::fs::create_dir_all(&directory)?;
            Sample::build(fixtures, store_path, cache, engine, &directory, store)
        };
        Ok(Self {
            in_place: sample("proot", "/nix/store")?,
            relocated: sample("relocate", RELOCATED_STORE)?,
        })
    }

    fn of(&self, contender: Contender) -> &Sample {
        match contender {
            Contender::Relocated => &self.relocated,
            _ => &self.in_place,
        }
    }
}

impl Sample {
    /// Builds it with `engine` as `NIX_ENGINE`.
    fn build(
        fixtures: &Fixtures,
        store_path: &str,
        cache: &Path,
        engine: &str,
        directory: &Path,
        store: &'static str,
    ) -> Result<Self> {
        let buildpack = std::env::var_os("NIX_HYDRA_BUILDPACK")
            .context("NIX_HYDRA_BUILDPACK is not set: run this by script/bench engines")?;
        let (cache, tools) = (Server::start(cache)?, Server::start("/")?);
        let proot =
            tools.url().trim_end_matches('/').to_string() + &fixtures.proot.to_string_lossy();
        let app = &fixtures.apps["python"].dir;
        let outcome = Build::new(&fixtures.rootfs, buildpack, app, directory)
            .env("NIX_EXTRA_BINARY_CACHE", cache.url())
            .env("NIX_DEFAULT_BINARY_CACHE", "")
            .env("NIX_TRUSTED_PUBLIC_KEYS", &fixtures.public_key)
            .env("NIX_STORE_PATH", store_path)
            .env("NIX_ENGINE", engine)
            .env("NIX_PROOT_URL", proot)
            .env("NIX_PROOT_SHA256", &fixtures.proot_sha256)
            .run()?;
        let image = outcome.image.with_context(|| outcome.log.clone())?;
        let closure = image.layer_dir("closure").context("no closure layer")?;
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&closure)? {
            let entry = entry?;
            if let Ok(place) = entry.path().read_link() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let place = place.strip_prefix(LAYERS)?.to_string_lossy();
                let (layer, base_name) = place.split_once('/').context("no layer")?;
                let layer = image.layer_dir(layer).context("a layer is missing")?;
                paths.push((layer.join(base_name), format!("{store}/{name}")));
            }
        }
        paths.sort();
        Ok(Self {
            image,
            closure: paths,
        })
    }

    /// The first store path with `what` in it: where it is on this machine, and as its users see it.
    fn find(&self, what: &str) -> Result<&(PathBuf, String)> {
        let mut paths = self.closure.iter();
        let found = paths.find(|(_, path)| path.contains(what));
        found.with_context(|| format!("no {what} in the closure"))
    }
}

impl Bench {
    fn new(directory: &Path) -> Result<Self> {
        let fixtures = fixtures::read()?;
        let app = &fixtures.apps["python"].store_path;
        let programs = fixtures.programs.as_ref();
        let programs = programs.context("no programs: run this by script/bench engines")?;
        let samples = |store_path: &str, cache: &Path, name: &str| {
            Samples::build(&fixtures, store_path, cache, &directory.join(name))
        };
        Ok(Self {
            python: samples(app, &fixtures.cache, "python")?,
            programs: samples(&programs.store_path, &programs.cache, "programs")?,
            rootfs: fixtures.rootfs.clone(),
        })
    }

    fn measure(&self, contender: Contender, figures: &mut Figures) -> Result<()> {
        self.measure_python(contender, figures)?;
        let mut add = |name, value| {
            figures.entry((name, contender)).or_default().push(value);
        };
        let sample = self.programs.of(contender);
        let (_, programs) = sample.find("-programs")?;
        let (nginx, parts) = (include_str!("nginx.sh"), PARTS.to_string());
        let program = format!("{programs}/bin/nginx");
        let command = ["sh", "-ec", nginx, &program, &parts];
        let rates = self.requests(sample, contender, &command, &["/part1", "/page"])?;
        for (name, rate) in [
            "nginx file, requests/s",
            "nginx page of 20 files, requests/s",
        ]
        .into_iter()
        .zip(rates)
        {
            add(name, rate);
        }
        let node = "require('http').createServer((_, answer) => answer.end('hello\\n'))\
                    .listen(process.env.PORT, '127.0.0.1', () => console.log('listening'))";
        let program = format!("{programs}/bin/node");
        let rates = self.requests(sample, contender, &[&program, "-e", node], &["/"])?;
        for rate in rates {
            add("node, requests/s", rate);
        }
        // The start program has its name, too.
        let by_name = match contender.prefix().as_slice() {
            [own] if own.ends_with("run_proot.sh") => format!("{LAYERS}/proot/bin/busybox true"),
            prefix => format!("{} {programs}/bin/busybox true", prefix.join(" ")),
        };
        add(
            "a command by its name, ms",
            self.start(sample, contender, &by_name)?,
        );
        Ok(())
    }

    fn measure_python(&self, contender: Contender, figures: &mut Figures) -> Result<()> {
        let mut add = |name, value| {
            figures.entry((name, contender)).or_default().push(value);
        };
        let sample = self.python.of(contender);
        let (_, home) = sample.find("-python3-")?;
        let python = format!("{home}/bin/python3");
        add(
            "start, ms",
            self.start(
                sample,
                contender,
                &format!("{} {home}/bin/sh -c :", contender.prefix().join(" ")),
            )?,
        );
        let probe = include_str!("probe.py");
        let file = format!("{home}/lib/python3.11/os.py");
        let output = self
            .launch(sample, contender, &[&python, "-I", "-c", probe, &file])
            .run()?;
        ensure!(output.code == 0, "the probe failed: {}", output.stderr);
        for (name, title) in [
            ("getppid", "getppid, µs"),
            ("stat", "stat, µs"),
            ("open_read_close", "open + read + close, µs"),
            ("send_receive", "send + receive, µs"),
        ] {
            let mut lines = output.stdout.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            add(
                title,
                value.with_context(|| format!("no {name} in {}", output.stdout))?,
            );
        }
        let imports = "import json, ssl, http.server";
        let begun = Instant::now();
        let output = self
            .launch(sample, contender, &[&python, "-I", "-c", imports])
            .run()?;
        ensure!(output.code == 0, "python failed: {}", output.stderr);
        add(
            "python with its imports, ms",
            begun.elapsed().as_secs_f64() * 1e3,
        );
        let (_, app) = sample.find("-myapp")?;
        let app = format!("{app}/bin/myapp");
        for rate in self.requests(sample, contender, &[&app], &["/"])? {
            add("python app, requests/s", rate);
        }
        let files = include_str!("files.py");
        let directory = format!("{home}/lib/python3.11");
        let command = [python.as_str(), "-I", "-c", files, &directory];
        for rate in self.requests(sample, contender, &command, &["/this.py"])? {
            add("python files, requests/s", rate);
        }
        Ok(())
    }

    fn launch(&self, sample: &Sample, contender: Contender, command: &[&str]) -> Launch {
        let command = contender
            .prefix()
            .into_iter()
            .chain(command.iter().map(ToString::to_string));
        let launch = Launch::new(&sample.image, &self.rootfs).command(command);
        match contender {
            Contender::Native | Contender::Direct => {
                let bind =
                    |sandbox: Sandbox, (from, to): &(PathBuf, String)| sandbox.bind_ro(from, to);
                launch.sandbox(|sandbox| sample.closure.iter().fold(sandbox, bind))
            }
            Contender::Namespace | Contender::PRoot => launch.env("NIX_ENGINE", contender.name()),
            Contender::BarePRoot | Contender::Relocated => launch,
            Contender::NoSeccomp => launch.env("PROOT_NO_SECCOMP", "1"),
        }
    }

    /// Milliseconds that `command` takes from its start to its end: the median of many.
    fn start(&self, sample: &Sample, contender: Contender, command: &str) -> Result<f64> {
        let loops = format!(
            "for i in {{1..{STARTS}}}; do s=$EPOCHREALTIME; {command}; e=$EPOCHREALTIME; \
             echo $((${{e/./}} - ${{s/./}})); done",
        );
        let mut outer = self.launch(sample, contender, &[]);
        outer = outer.command(["bash", "-c", &loops]);
        let output = outer.run()?;
        let mut times: Vec<f64> = output
            .stdout
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        ensure!(times.len() == STARTS, "{}{}", output.stdout, output.stderr);
        Ok(report::median(&mut times) / 1e3)
    }

    /// Requests a second that a server answers, for each of these paths.
    fn requests(
        &self,
        sample: &Sample,
        contender: Contender,
        command: &[&str],
        paths: &[&str],
    ) -> Result<Vec<f64>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut launch = self
            .launch(sample, contender, command)
            .env("PORT", &port.to_string());
        if let Ok((programs, _)) = sample.find("-programs") {
            // Debian's Node has this directory compiled in.
            let share = programs.join("share");
            launch = launch.sandbox(|sandbox| sandbox.bind_ro(share, "/usr/share"));
        }
        let mut server = launch.start()?;
        server.wait_for("listening", PATIENCE)?;
        let begun = Instant::now();
        while let Err(error) = TcpStream::connect(("127.0.0.1", port)) {
            ensure!(begun.elapsed() < PATIENCE, "{error}: {}", server.stderr());
        }
        let rates = paths.iter().map(|path| rate(port, path)).collect();
        server.kill();
        rates
    }
}

/// Requests a second that are answered.
fn rate(port: u16, path: &str) -> Result<f64> {
    let begun = Instant::now();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let path = path.to_string();
            std::thread::spawn(move || ask(port, &path, begun + LOAD))
        })
        .collect();
    let mut count = 0;
    for client in clients {
        match client.join() {
            Ok(answered) => count += answered?,
            Err(_) => bail!("a client failed"),
        }
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

/// Asks until `end`, each time on a new connection, and counts the answers.
///
/// On one that is kept, a server that writes head and body apart would wait for acknowledgements.
fn ask(port: u16, path: &str, end: Instant) -> Result<u32> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let mut count = 0;
    while Instant::now() < end {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(request.as_bytes())?;
        answer.clear();
        stream.read_to_end(&mut answer)?;
        let status = answer
            .split(|byte| *byte == b'\r')
            .next()
            .unwrap_or_default();
        ensure!(
            status == b"HTTP/1.1 200 OK",
            "{}",
            String::from_utf8_lossy(status)
        );
        count += 1;
    }
    Ok(count)
}
