//! Builds on hosts that lack something: space, memory, files, a network, a clock that is right, a
//! place for temporary files. They work, or say what is missing.

use crate::common::{Deploy, free_port, output, strip_ansi};
use platform::lifecycle::Outcome;
use platform::sandbox::Sandbox;
use platform::server::{Response, Server};
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// What a build from binary caches may take at most; `docs/reliability.md` promises it.
pub const MEMORY: u64 = 256 * 1024 * 1024;

/// A small file system in memory over a directory, gone when dropped.
pub struct Small(PathBuf);

impl Small {
    /// Only root can make one.
    pub fn new(directory: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size},mode=1777,uid=1000,gid=1000");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(directory)
            .output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self(directory.to_path_buf()));
        }
        platform::left_out("a small file system cannot be mounted: run as root");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The message of a build that failed, after its steps; nothing of the closure is left.
fn failed(outcome: &Outcome) -> String {
    failed_after(None, outcome)
}

/// The same where the previous image declares this: it still does, and has no content here.
fn failed_after(previous: Option<&toml::Table>, outcome: &Outcome) -> String {
    assert_eq!(outcome.build, Some(1), "{}", outcome.log);
    assert!(!outcome.layers.join("closure").exists());
    assert_eq!(declared(outcome).as_ref(), previous);
    let log = strip_ansi(&outcome.log);
    assert!(!log.contains("panicked"), "{log}");
    log[log.find("\n! ").unwrap_or(0)..].to_string()
}

/// What a build has declared of the closure.
fn declared(outcome: &Outcome) -> Option<toml::Table> {
    let text = fs::read_to_string(outcome.layers.join("closure.toml")).ok()?;
    Some(text.parse().unwrap())
}

#[test]
fn a_full_disk_is_said_and_nothing_of_the_closure_stays() {
    let Some(deploy) = Deploy::by_path("python") else {
        return;
    };
    let Some(small) = Small::new(deploy.image(), "12m") else {
        return;
    };
    let message = failed(&deploy.build());
    assert!(
        message.contains("! Failed to unpack a store path"),
        "{message}"
    );
    assert!(
        message.contains("could not be written: No space left on device"),
        "{message}"
    );
    assert!(
        message.contains("! The disk is full: give the build more space"),
        "{message}"
    );
    drop(small);
    deploy.built();
}

#[test]
fn a_full_directory_for_temporary_files_is_said() {
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let tmp = TempDir::new().unwrap();
    let Some(_small) = Small::new(tmp.path(), "4m") else {
        return;
    };
    let path = tmp.path().to_path_buf();
    deploy.in_sandbox(move |sandbox| sandbox.bind_rw(&path, "/tmp"));
    let message = failed(&deploy.build());
    assert!(message.contains("No space left on device"), "{message}");
    assert!(
        message.contains("The disk is full: give the build more space"),
        "{message}"
    );
}

#[test]
fn layers_that_cannot_be_written_are_said() {
    let Some(deploy) = Deploy::by_path("python") else {
        return;
    };
    let outcome = deploy.to_build().read_only_layers().run().unwrap();
    let message = failed(&outcome);
    assert!(message.contains("Read-only file system"), "{message}");
    assert!(
        deploy.requests().is_empty(),
        "before anything is downloaded"
    );
}

#[test]
fn few_open_files_are_enough_and_too_few_are_said() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    deploy.in_sandbox(|sandbox| sandbox.started_by(["prlimit", "--nofile=24:24", "--"]));
    let message = failed(&deploy.build());
    assert!(message.contains("Too many open files"), "{message}");
    // Where the host lets a process have more than it begins with, that is taken.
    for limit in ["--nofile=64:1024", "--nofile=256:256"] {
        deploy.in_sandbox(move |sandbox| sandbox.started_by(["prlimit", limit, "--"]));
        deploy.built();
    }
}

/// A control group that has little memory, gone when dropped.
pub struct Group(PathBuf);

impl Group {
    pub fn new(limit: u64) -> Option<Self> {
        // Tests run side by side.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nix-hydra-test-{}-{number}", std::process::id());
        for (hierarchy, file) in [("memory", "memory.limit_in_bytes"), ("", "memory.max")] {
            let group = Path::new("/sys/fs/cgroup").join(hierarchy).join(&name);
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let group = Self(group);
            // What is no control group is a plain directory, and has no such file.
            if group.0.join(file).exists()
                && fs::write(group.0.join(file), limit.to_string()).is_ok()
            {
                let _ = fs::write(group.0.join("memory.swap.max"), "0");
                return Some(group);
            }
        }
        platform::left_out("no control group can be made that limits memory: run as root");
        None
    }

    pub fn words(&self) -> Vec<String> {
        let join = "echo $$ > \"$0\" && exec \"$@\"".to_string();
        let procs = self.0.join("cgroup.procs").display().to_string();
        vec!["sh".into(), "-c".into(), join, procs]
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What was killed in it takes a moment to go.
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn the_memory_that_is_promised_is_enough_and_with_too_little_nothing_is_left() {
    let (Some(mut deploy), Some(enough), Some(little)) = (
        Deploy::by_path("python"),
        Group::new(MEMORY),
        Group::new(8 << 20),
    ) else {
        return;
    };
    let words = little.words();
    deploy.in_sandbox(move |sandbox| sandbox.started_by(words.clone()));
    let outcome = deploy.build();
    assert!(outcome.image.is_none());
    let words = enough.words();
    deploy.in_sandbox(move |sandbox| sandbox.started_by(words.clone()));
    deploy.built();
}

#[test]
fn narinfos_of_a_megabyte_that_nobody_signed_take_no_more_memory_than_is_promised() {
    const SIZE: usize = 1 << 20;
    let (Some(mut deploy), Some(group)) = (Deploy::by_path("python"), Group::new(MEMORY)) else {
        return;
    };
    // It comes first, so that each path is asked of it.
    let hostile = Server::with_hook("/", |request| {
        let hash = request.path.strip_prefix('/')?.strip_suffix(".narinfo");
        let Some(hash) = hash else {
            let info = "StoreDir: /nix/store\nPriority: 1\n";
            return Some(Response::new(200).body(info));
        };
        let narinfo = format!(
            "StorePath: /nix/store/{hash}-x\nURL: nar/x\nNarHash: sha256:{}\nNarSize: 1\n",
            "0".repeat(52)
        );
        let more = match hash.as_bytes()[0] % 3 {
            0 => "a:b\n".repeat(SIZE / 4),
            1 => format!("References:{}", format!(" {hash}-x").repeat(SIZE / 35)),
            _ => format!("References:{}", names().take(SIZE / 35).collect::<String>()),
        };
        let narinfo = narinfo + &more;
        Some(Response::new(200).body(&narinfo[..narinfo.len().min(SIZE)]))
    })
    .unwrap();
    let urls = format!("{} {}", hostile.url(), deploy.cache.url());
    deploy.set("NIX_EXTRA_BINARY_CACHE", &urls);
    let words = group.words();
    deploy.in_sandbox(move |sandbox| sandbox.started_by(words.clone()));
    deploy.built();
    assert!(hostile.requests().len() > 20);
}

/// Names of store paths, each another one.
fn names() -> impl Iterator<Item = String> {
    (0..).map(|number| format!(" {number:0>32}-x"))
}

#[test]
fn neither_home_nor_temporary_files_are_needed_where_nothing_is_evaluated() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    deploy.in_sandbox(|sandbox| sandbox.without_env("HOME").without_tmp());
    deploy.built();
}

#[test]
fn an_evaluation_needs_no_home_and_takes_any_place_for_temporary_files_or_says_that_there_is_none()
{
    /// Too long for Nix to be moved there.
    const LONG: &str = "/a-directory-for-temporary-files-with-a-long-name";
    fn bare(sandbox: Sandbox) -> Sandbox {
        sandbox.without_env("HOME").without_tmp()
    }
    let Some(mut deploy) = Deploy::new("static") else {
        return;
    };
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().to_path_buf();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let shut = path.clone();
    deploy.in_sandbox(move |sandbox| bare(sandbox).bind_ro(&shut, "/dev/shm"));
    insta::assert_snapshot!(failed(&deploy.build()));

    deploy.in_sandbox(bare);
    deploy.built();

    deploy.set("TMPDIR", LONG);
    deploy.in_sandbox(move |sandbox| {
        let shut = bare(sandbox).bind_ro(&path, "/dev/shm");
        shut.bind_rw(&path, LONG)
    });
    let outcome = deploy.to_build().clear_cache().run().unwrap();
    assert!(outcome.success(), "{}", outcome.log);
    let why = format!("{LONG} has too long a name");
    assert!(outcome.log.contains(&why), "{}", outcome.log);
}

#[test]
fn without_a_network_what_is_there_is_enough_and_what_is_missing_is_said() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    deploy.built();
    deploy.in_sandbox(Sandbox::without_network);
    let previous = declared(&deploy.build());
    assert!(previous.is_some());
    deploy.set_path("static");
    let cache = deploy.cache.url();
    for (url, said) in [
        (cache.as_str(), "Connection refused"),
        ("http://192.0.2.1", "Network is unreachable"),
        (
            "https://cache.invalid",
            "the host name cannot be resolved at the moment",
        ),
    ] {
        deploy.set("NIX_EXTRA_BINARY_CACHE", url);
        let message = failed_after(previous.as_ref(), &deploy.build());
        assert!(message.contains(said) && message.contains(url), "{message}");
        assert!(message.contains("can be reached from where"), "{message}");
    }
}

/// A binary cache over TLS, by `openssl s_server`; it ends when dropped.
struct Secure {
    server: Child,
    url: String,
}

impl Secure {
    /// One whose certificate is for this address, and holds between these years.
    fn start(cache: &Path, certificates: &Path, address: &str, years: [u32; 2]) -> Option<Self> {
        let file = |name: &str| certificates.join(name).display().to_string();
        let config = format!(
            "[ca]\ndefault_ca=own\n[own]\ndatabase={}\nnew_certs_dir={}\nserial={}\n\
             default_md=sha256\npolicy=any\nx509_extensions=extensions\n[any]\ncommonName=supplied\n\
             [extensions]\nbasicConstraints=CA:FALSE\nsubjectAltName=IP:{address}\n",
            file("index"),
            certificates.display(),
            file("serial")
        );
        fs::write(file("config"), config).unwrap();
        fs::write(file("index"), "").unwrap();
        fs::write(file("serial"), "01").unwrap();
        let openssl = |arguments: &str| {
            let mut command = Command::new("openssl");
            command.args(arguments.split(' ')).current_dir(certificates);
            command
        };
        if openssl("version").output().is_err() {
            platform::left_out("openssl is missing: apt-get install openssl");
            return None;
        }
        output(&mut openssl(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=cache -keyout key \
             -out request",
        ));
        let [from, to] = years;
        output(&mut openssl(&format!(
            "ca -batch -notext -selfsign -config config -in request -keyfile key -out certificate \
             -startdate {from}0101000000Z -enddate {to}0101000000Z"
        )));
        let port = free_port();
        let server = openssl(&format!(
            "s_server -quiet -WWW -accept 127.0.0.1:{port} -cert {} -key {}",
            file("certificate"),
            file("key")
        ))
        .current_dir(cache)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self {
            server,
            url: format!("https://127.0.0.1:{port}"),
        })
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn a_certificate_that_does_not_hold_or_a_clock_that_is_off_is_said() {
    let Some(mut deploy) = Deploy::by_path("python") else {
        return;
    };
    let path = deploy.fixtures.apps["static"].store_path.clone();
    deploy.set("NIX_STORE_PATH", &path);
    let certificates = TempDir::new().unwrap();
    let directory = certificates.path().to_path_buf();
    deploy.in_sandbox(move |sandbox| sandbox.bind_ro(&directory, "/certificates"));
    deploy.set("NIX_SSL_CERT_FILE", "/certificates/certificate");
    let (mut told, mut previous) = (String::new(), None);
    for (address, years, trusted, holds) in [
        ("127.0.0.1", [2020, 2049], true, true),
        ("127.0.0.1", [2010, 2011], true, false),
        ("127.0.0.1", [2048, 2049], true, false),
        ("10.0.0.1", [2020, 2049], true, false),
        ("127.0.0.1", [2020, 2049], false, false),
    ] {
        let cache = deploy.fixtures.cache.clone();
        let Some(server) = Secure::start(&cache, certificates.path(), address, years) else {
            return;
        };
        deploy.set("NIX_EXTRA_BINARY_CACHE", &server.url);
        if !trusted {
            deploy.unset("NIX_SSL_CERT_FILE");
        }
        if holds {
            previous = declared(&deploy.build());
            assert!(previous.is_some());
            // The next ones ask again.
            deploy.set_path("python");
            continue;
        }
        let message = failed_after(previous.as_ref(), &deploy.build());
        let answer = message
            .lines()
            .find_map(|line| line.split_once(&server.url));
        told += answer.unwrap_or_default().1;
        told += "\n";
    }
    let number = crate::common::regex("[0-9]{9,}");
    insta::assert_snapshot!(number.replace_all(&told, "<time>"));
}
