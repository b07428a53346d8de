//! Runs the contenders of a case by turns, and takes the medians.

use crate::cases::{Case, Fixtures, narinfos};
use crate::servers::Servers;
use anyhow::{Context, Result, bail, ensure};
use nix_narinfo::NarInfo;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use wait4::Wait4 as _;

/// What one run took; seconds and bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) wall: f64,
    pub(crate) user: f64,
    pub(crate) sys: f64,
    pub(crate) peak: f64,
}

/// The medians of one case.
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Bytes of NARs, as they are downloaded.
    pub(crate) bytes: u64,
    pub(crate) paths: usize,
    pub(crate) contenders: Vec<(Contender, Figures)>,
}

/// A way to bring a closure from a binary cache to the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// As a build does it by default.
    Ours,
    /// As with an engine named, where nobody looks for references.
    Plain,
    /// As with `NIX_ENGINE=relocate`.
    Moved,
    NixCopy,
    Realise,
    /// All that has to be done once the bytes are here, by all cores in one program.
    Floor,
}

impl Contender {
    pub(crate) const ALL: [Self; 6] = [
        Self::Ours,
        Self::Plain,
        Self::Moved,
        Self::NixCopy,
        Self::Realise,
        Self::Floor,
    ];

    /// Its name in figures.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Plain => "plain",
            Self::Moved => "moved",
            Self::NixCopy => "nix_copy",
            Self::Realise => "realise",
            Self::Floor => "floor",
        }
    }

    /// The store directory, where `directory` is the run's own.
    fn store(self, directory: &Path) -> std::path::PathBuf {
        match self {
            Self::Ours | Self::Plain | Self::Moved | Self::Floor => directory.join("store"),
            Self::NixCopy | Self::Realise => directory.join("nix/store"),
        }
    }

    fn command(
        self,
        case: &Case,
        servers: &Servers,
        fixtures: &Fixtures,
        directory: &Path,
    ) -> Result<Command> {
        let url = &servers.url(case);
        let certificates = servers.certificates.display();
        let key = &fixtures.big.public_key;
        let chroot_store = format!("local?root={}", directory.display());
        let mut command = match self {
            Self::Ours | Self::Plain | Self::Moved => {
                let how = match self {
                    Self::Plain => "plain",
                    Self::Moved => "moved",
                    _ => "looked",
                };
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["ours", how, url, key, &case.root]);
                command.arg(self.store(directory));
                command
            }
            Self::Floor => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("floor").arg(&case.cache);
                command.arg(&case.root).arg(self.store(directory));
                command
            }
            Self::NixCopy => {
                let mut command = Command::new(fixtures.nix.join("bin/nix"));
                command.args(["copy", "--from", url, "--to", &chroot_store, &case.root]);
                command
            }
            Self::Realise => {
                let mut command = Command::new(fixtures.nix.join("bin/nix-store"));
                command.args(["--realise", &case.root, "--store", &chroot_store]);
                command
            }
        };
        // Nix as nobody has configured it, and with nothing known from an earlier run.
        command
            .env("HOME", directory)
            .env("NIX_CONF_DIR", directory)
            .env("NIX_USER_CONF_FILES", "/dev/null")
            .env(
                "NIX_CONFIG",
                format!(
                    "experimental-features = nix-command\nbuild-users-group =\n\
                     substituters = {url}\ntrusted-public-keys = {key}\n\
                     ssl-cert-file = {certificates}\n"
                ),
            )
            .env("SSL_CERT_FILE", &servers.certificates)
            .env_remove("NIX_SSL_CERT_FILE")
            .env_remove("XDG_CACHE_HOME")
            .env_remove("NIX_REMOTE");
        Ok(command)
    }
}

/// Measures every contender `runs` times.
pub(crate) fn case(
    case: &Case,
    fixtures: &Fixtures,
    servers: &Servers,
    directory: &Path,
    runs: usize,
) -> Result<Measured> {
    let narinfos = narinfos(&case.cache, &case.root)?;
    for narinfo in &narinfos {
        // The first run must not be the one that waits for the disk.
        // Nor may it grow this program: a child's peak memory begins with its parent's.
        let mut file = File::open(case.cache.join(narinfo.url()))?;
        io::copy(&mut file, &mut io::sink())?;
    }
    let written: u64 = narinfos.iter().map(NarInfo::nar_size).sum();
    let mut figures: [Vec<Figures>; Contender::ALL.len()] = Default::default();
    for turn in 0..runs {
        for place in order(turn) {
            let contender = Contender::ALL[place];
            warm(directory, written)?;
            let fresh = directory.join(format!("{}-{}-{turn}", case.name, contender.name()));
            fs::create_dir(&fresh)?;
            let command = contender.command(case, servers, fixtures, &fresh)?;
            let measured = run(command, &fresh, contender == Contender::Floor)
                .with_context(|| contender.name())?;
            let store = fs::read_dir(contender.store(&fresh))?
                .filter(|entry| {
                    // Nix keeps its lock files and links beside the store paths.
                    entry.as_ref().is_ok_and(|entry| {
                        let name = entry.file_name();
                        !name.as_encoded_bytes().starts_with(b".")
                            && !name.as_encoded_bytes().ends_with(b".lock")
                    })
                })
                .count();
            ensure!(
                store == narinfos.len(),
                "{} wrote {store} of {} store paths",
                contender.name(),
                narinfos.len()
            );
            figures[place].push(measured);
            empty(&fresh)?;
        }
    }
    Ok(Measured {
        name: case.name,
        title: case.title,
        bytes: narinfos.iter().filter_map(NarInfo::file_size).sum(),
        paths: narinfos.len(),
        contenders: Contender::ALL
            .into_iter()
            .zip(figures.iter().map(|figures| medians(figures)))
            .collect(),
    })
}

/// The places of the contenders in a turn: in as many turns as there are contenders, each one comes
/// once after each other one, since what one leaves behind (memory, a busy disk) falls on the next.
/// This is a Williams design, which there is of this form for even counts.
fn order(turn: usize) -> impl Iterator<Item = usize> {
    const COUNT: usize = Contender::ALL.len();
    const { assert!(COUNT.is_multiple_of(2)) };
    (0..COUNT).map(move |step| {
        let zigzag = if step % 2 == 0 {
            COUNT - step / 2
        } else {
            step.div_ceil(2)
        };
        (zigzag + turn) % COUNT
    })
}

/// Writes a file as large as what a run writes, and gives it back. A host takes back the memory that
/// its guest does not use, and the first to fill the page cache again would pay for finding it: up
/// to two seconds for the file of 2 GiB.
fn warm(directory: &Path, written: u64) -> Result<()> {
    const WRITTEN_AT_ONCE: usize = 256 * 1024;
    /// For what a run has of its own: Nix's up to 60 MiB, nginx's, and what is read.
    const OTHERWISE: u64 = 256 * 1024 * 1024;
    let mut file = File::create(directory.join("warm"))?;
    let bytes = vec![1; WRITTEN_AT_ONCE];
    let mut left = written + OTHERWISE;
    while left > 0 {
        file.write_all(&bytes)?;
        left = left.saturating_sub(WRITTEN_AT_ONCE as u64);
    }
    file.set_len(0)?;
    // Nor is anyone to be measured while the system writes out what another one left.
    rustix::fs::sync();
    Ok(())
}

/// Gives the space of a run back, but not its inodes: see [`crate::keep_apart`].
fn empty(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            empty(&entry.path())?;
        } else if kind.is_file() {
            File::create(entry.path())?;
        }
    }
    Ok(())
}

/// One child process from its start to its end; the floor says itself what of it counts.
fn run(mut command: Command, directory: &Path, tells: bool) -> Result<Figures> {
    let output = directory.join("output");
    let messages = directory.join("messages");
    command
        .stdin(Stdio::null())
        .stdout(File::create(&output)?)
        .stderr(File::create(&messages)?);
    let started = Instant::now();
    let ended = command.spawn()?.wait4()?;
    let wall = started.elapsed().as_secs_f64();
    if !ended.status.success() {
        bail!("{}: {}", ended.status, fs::read_to_string(messages)?);
    }
    if tells {
        let output = fs::read_to_string(output)?;
        let told: Vec<f64> = output.split_whitespace().flat_map(str::parse).collect();
        let [wall, user, sys] = told[..] else {
            bail!("it says: {output}");
        };
        return Ok(Figures {
            wall,
            user,
            sys,
            peak: 0.0,
        });
    }
    Ok(Figures {
        wall,
        user: ended.rusage.utime.as_secs_f64(),
        sys: ended.rusage.stime.as_secs_f64(),
        peak: ended.rusage.maxrss as f64,
    })
}

fn medians(runs: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        }
    };
    Figures {
        wall: of(|figures| figures.wall),
        user: of(|figures| figures.user),
        sys: of(|figures| figures.sys),
        peak: of(|figures| figures.peak),
    }
}
