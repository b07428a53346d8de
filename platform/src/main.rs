//! The platform by hand: packages, builds, runs and serves, for `script/demo` and for people.

use anyhow::{Context, Result, bail};
use lexopt::prelude::{Long, Short, Value};
use platform::image::Image;
use platform::lifecycle::{Build, DETECT_FAIL};
use platform::process::Launch;
use platform::sandbox::{Process, Signal, Streams};
use platform::{docker, fixtures, package, server};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const HELP: &str = "\
Stands in for pack and the lifecycle, with no Docker.

platform package [--out DIR] [--debug] [--arch x86_64|aarch64] [--proot DIR] [CRATE]
    Packages the buildpack of the crate (here: the current directory) and prints where. For another
    architecture than this machine's, it needs a compiler and a PRoot for that one.
platform build --app DIR --buildpack DIR --image DIR [--rootfs DIR]
               [--env NAME=VALUE]... [--clear-cache] [--docker TAG]
    Builds an app into the image directory, over the image and cache that are there.
platform run --image DIR [--rootfs DIR] [--env NAME=VALUE]... [PROCESS | -- COMMAND...]
    Starts the default process, a process type, or a command in the app's environment.
platform serve DIR [--port N]
    Serves the files of a directory on 127.0.0.1.

Without --rootfs, the root file system is the one of script/setup.
";

/// The options of all commands.
#[derive(Default)]
struct Options {
    app: Option<PathBuf>,
    buildpack: Option<PathBuf>,
    image: Option<PathBuf>,
    rootfs: Option<PathBuf>,
    out: Option<PathBuf>,
    env: Vec<(String, String)>,
    clear_cache: bool,
    debug: bool,
    arch: Option<String>,
    proot: Option<PathBuf>,
    docker: Option<String>,
    port: u16,
    values: Vec<OsString>,
    /// What follows `--`.
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("platform: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut parser = lexopt::Parser::from_env();
    let Some(Value(command)) = parser.next()? else {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    let Some(options) = Options::parse(&mut parser)? else {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    match command.to_str() {
        Some("package") => options.package(),
        Some("build") => options.build(),
        Some("run") => options.run(),
        Some("serve") => options.serve(),
        _ => bail!("no command {}; see --help", command.display()),
    }
}

impl Options {
    /// Reads the arguments after the command; `None` where help is asked for.
    fn parse(parser: &mut lexopt::Parser) -> Result<Option<Self>> {
        let mut options = Self::default();
        loop {
            if let Some(mut rest) = parser.try_raw_args()
                && rest.peek().is_some_and(|argument| argument == "--")
            {
                rest.next();
                let command: Result<_, OsString> = rest.map(OsString::into_string).collect();
                options.command = command.ok().context("a command must be UTF-8")?;
                return Ok(Some(options));
            }
            match parser.next()? {
                None => return Ok(Some(options)),
                Some(Short('h') | Long("help")) => return Ok(None),
                Some(Long("app")) => options.app = Some(parser.value()?.into()),
                Some(Long("buildpack")) => options.buildpack = Some(parser.value()?.into()),
                Some(Long("image")) => options.image = Some(parser.value()?.into()),
                Some(Long("rootfs")) => options.rootfs = Some(parser.value()?.into()),
                Some(Long("out")) => options.out = Some(parser.value()?.into()),
                Some(Long("clear-cache")) => options.clear_cache = true,
                Some(Long("debug")) => options.debug = true,
                Some(Long("arch")) => options.arch = Some(text(parser.value()?)?),
                Some(Long("proot")) => options.proot = Some(parser.value()?.into()),
                Some(Long("docker")) => options.docker = Some(text(parser.value()?)?),
                Some(Long("port")) => {
                    options.port = text(parser.value()?)?.parse().context("--port")?;
                }
                Some(Short('e') | Long("env")) => {
                    let pair = text(parser.value()?)?;
                    let (name, value) = pair.split_once('=').context("--env NAME=VALUE")?;
                    options.env.push((name.to_owned(), value.to_owned()));
                }
                Some(Value(value)) => options.values.push(value),
                Some(other) => return Err(other.unexpected().into()),
            }
        }
    }

    fn rootfs(&self) -> Result<PathBuf> {
        match &self.rootfs {
            Some(rootfs) => Ok(rootfs.clone()),
            None => Ok(fixtures::read()?.rootfs),
        }
    }

    fn package(self) -> Result<ExitCode> {
        let crate_dir = self
            .values
            .first()
            .map_or_else(|| ".".into(), PathBuf::from);
        let own = package::Options::default();
        let options = package::Options {
            release: !self.debug,
            arch: self.arch.unwrap_or(own.arch),
            proot: self.proot.unwrap_or(own.proot),
        };
        let out = package::package(&crate_dir, self.out.as_deref(), &options)?;
        println!("{}", out.display());
        Ok(ExitCode::SUCCESS)
    }

    fn build(self) -> Result<ExitCode> {
        let rootfs = self.rootfs()?;
        let mut build = Build::new(
            &rootfs,
            self.buildpack.context("--buildpack DIR is missing")?,
            self.app.context("--app DIR is missing")?,
            self.image.context("--image DIR is missing")?,
        )
        .echo();
        for (name, value) in self.env {
            build = build.env(name, value);
        }
        if self.clear_cache {
            build = build.clear_cache();
        }
        let outcome = build.run()?;
        if outcome.detect == DETECT_FAIL {
            println!("The buildpack has nothing to do with this app.");
        }
        for line in &outcome.export_log {
            println!("{line}");
        }
        let times = [
            ("detect", outcome.detect_time),
            ("restore", outcome.restore_time),
            ("build", outcome.build_time),
            ("export", outcome.export_time),
        ];
        let times = times.map(|(name, time)| format!("{name} {:.2} s", time.as_secs_f64()));
        println!("Took: {}", times.join(", "));
        let Some(image) = outcome.image else {
            return Ok(ExitCode::FAILURE);
        };
        if let Some(tag) = self.docker {
            docker::export(&image, &rootfs, &tag)?;
            println!("Docker image {tag}");
        }
        Ok(ExitCode::SUCCESS)
    }

    fn run(self) -> Result<ExitCode> {
        let rootfs = self.rootfs()?;
        let image = Image::open(self.image.context("--image DIR is missing")?)?;
        let mut launch = Launch::new(&image, rootfs);
        if let Some(process) = self.values.first() {
            launch = launch.process(process.to_string_lossy());
        } else if !self.command.is_empty() {
            launch = launch.command(self.command);
        }
        for (name, value) in &self.env {
            launch = launch.env(name, value);
        }
        let launch = launch.sandbox(|sandbox| sandbox.streams(Streams::Inherited));
        let code = wait(&mut launch.start()?)?;
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }

    fn serve(self) -> Result<ExitCode> {
        let directory = self
            .values
            .first()
            .context("serve DIR: the directory is missing")?;
        let server = server::Server::on_port(directory, self.port, |_| None)?;
        println!("{}", server.url());
        server.wait();
        Ok(ExitCode::SUCCESS)
    }
}

/// Waits for the end of a process. `INT` and `TERM` are passed on to it, and it is killed where it
/// has not ended ten seconds after the first, as `docker stop` does.
fn wait(process: &mut Process) -> Result<i32> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let mut end: Option<Instant> = None;
    loop {
        if let Some(code) = process.wait_timeout(Duration::from_millis(50))? {
            return Ok(code);
        }
        for signal in signals.pending() {
            end.get_or_insert(Instant::now() + Duration::from_secs(10));
            let signal = if signal == SIGINT {
                Signal::INT
            } else {
                Signal::TERM
            };
            // One that has just ended needs none.
            let _ = process.signal(signal);
        }
        if end.is_some_and(|end| Instant::now() > end) {
            process.kill();
        }
    }
}

fn text(value: OsString) -> Result<String> {
    let text = value.into_string();
    text.map_err(|value| anyhow::anyhow!("{} is not UTF-8", value.display()))
}
