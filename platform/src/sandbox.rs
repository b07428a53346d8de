//! Runs a command as an ordinary user inside a root file system directory, as in a container:
//! nothing of this machine is in view but what is bound in, `/nix` least of all.
//!
//! Made with bubblewrap. Started by root, the command runs as the real user 1000, with no user
//! namespace, as Docker does it; started by anyone else, as user 1000 of a user namespace.
//!
//! In view are the directories of the root file system (read-only), a `/tmp`, a home and a
//! `/dev/shm` of its own, `/proc` of its own processes, a small `/dev`, this machine's network and
//! name resolution, and the binds. Left out against a container: the rest of Docker's seccomp
//! filter ([`Sandbox::forbid`] brings the two calls that matter here), resource limits, and
//! a root file system that root could write.

mod process;
mod seccomp;

pub use process::{Output, Process, Signal, Streams};
pub use seccomp::Forbidden;

use crate::files::{CNB_USER, Scratch, is_root};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `PATH` of build and run image.
pub(crate) const IMAGE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Entries of the root file system's top that are never bound from it.
const NOT_BOUND: [&str; 13] = [
    "proc",
    "dev",
    "sys",
    "tmp",
    "run",
    "nix",
    "home",
    "root",
    "layers",
    "workspace",
    "cnb",
    "platform",
    "lost+found",
];

#[derive(Clone, Debug)]
struct Bind {
    from: PathBuf,
    to: PathBuf,
    writable: bool,
}

/// What a sandbox usually has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Missing {
    Network,
    Tmp,
}

/// What a command sees; made once, used for any number of commands.
#[derive(Clone, Debug)]
pub struct Sandbox {
    rootfs: PathBuf,
    binds: Vec<Bind>,
    env: BTreeMap<OsString, OsString>,
    directory: PathBuf,
    user: u32,
    read_only: bool,
    as_pid_1: bool,
    forbidden: Vec<Forbidden>,
    missing: Vec<Missing>,
    started_by: Vec<OsString>,
    streams: Streams,
    kept: Vec<Scratch>,
}

impl Sandbox {
    /// A sandbox over the root file system in the directory `rootfs` (one that `debootstrap` made,
    /// say; it must have the `env` of coreutils 8.31 and, for root, `setpriv`), with an environment
    /// of `PATH` and `HOME`.
    pub fn new(rootfs: impl Into<PathBuf>) -> Self {
        let rootfs = rootfs.into();
        let env = BTreeMap::from([
            ("PATH".into(), IMAGE_PATH.into()),
            ("HOME".into(), home(&rootfs).into()),
        ]);
        Self {
            rootfs,
            binds: Vec::new(),
            env,
            directory: "/".into(),
            user: CNB_USER,
            read_only: false,
            as_pid_1: false,
            forbidden: Vec::new(),
            missing: Vec::new(),
            started_by: Vec::new(),
            streams: Streams::default(),
            kept: Vec::new(),
        }
    }

    /// The root file system's directory on this machine.
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    /// Shows `from`, a file or directory of this machine, at `to`, not to be written.
    #[must_use]
    pub fn bind_ro(self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        self.bind(from.into(), to.into(), false)
    }

    /// Shows `from` at `to`, to be written. The files must belong to user 1000, or, where this
    /// program is not root's, to its own user.
    #[must_use]
    pub fn bind_rw(self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        self.bind(from.into(), to.into(), true)
    }

    fn bind(mut self, from: PathBuf, to: PathBuf, writable: bool) -> Self {
        self.binds.push(Bind { from, to, writable });
        self
    }

    /// Sets an environment variable. Nothing of this program's own environment is passed on.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets the whole environment.
    #[must_use]
    pub fn only_env(mut self, env: &BTreeMap<String, String>) -> Self {
        self.env = env.iter().map(|(n, v)| (n.into(), v.into())).collect();
        self
    }

    /// Sets the working directory; without it, `/`.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// Sets the user and group id; without it, 1000.
    #[must_use]
    pub fn user(mut self, id: u32) -> Self {
        self.user = id;
        self
    }

    /// Lets nothing be written, `/tmp`, home and binds included, as under Kubernetes'
    /// `readOnlyRootFilesystem`.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Makes the command process 1 of the sandbox, as an app is in its container: no signal whose
    /// handler it has not set ends it, but `KILL`.
    #[must_use]
    pub fn as_pid_1(mut self) -> Self {
        self.as_pid_1 = true;
        self
    }

    /// Refuses a system call.
    #[must_use]
    pub fn forbid(mut self, call: Forbidden) -> Self {
        self.forbidden.push(call);
        self
    }

    /// Takes a variable out of the environment.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Self {
        self.env.remove(OsStr::new(name));
        self
    }

    /// Leaves it no network but a loopback of its own.
    #[must_use]
    pub fn without_network(mut self) -> Self {
        self.missing.push(Missing::Network);
        self
    }

    /// Leaves it no directory for temporary files: what else is bound below `/tmp` is there.
    #[must_use]
    pub fn without_tmp(mut self) -> Self {
        self.missing.push(Missing::Tmp);
        self
    }

    /// Has the whole sandbox started by a command that executes the one after its own words, such
    /// as `prlimit --nofile=64 --`.
    #[must_use]
    pub fn started_by<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.started_by.extend(words.into_iter().map(Into::into));
        self
    }

    /// Says what to do with the output; without it, [`Streams::Separate`].
    #[must_use]
    pub fn streams(mut self, streams: Streams) -> Self {
        self.streams = streams;
        self
    }

    pub(crate) fn keep(mut self, scratch: Scratch) -> Self {
        self.kept.push(scratch);
        self
    }

    pub(crate) fn env_map(&self) -> BTreeMap<String, String> {
        let text = |s: &OsString| s.to_string_lossy().into_owned();
        self.env.iter().map(|(n, v)| (text(n), text(v))).collect()
    }

    /// Runs a command to its end. It is looked for on the sandbox's `PATH`.
    ///
    /// # Errors
    /// When the sandbox cannot be made; a command that fails is an [`Output`] with its status.
    pub fn run<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut process = self.spawn(command)?;
        let code = process.wait()?;
        Ok(Output {
            code,
            stdout: process.stdout(),
            stderr: process.stderr(),
        })
    }

    /// Starts a command. It is killed when the [`Process`] is dropped, when this program ends, and
    /// when the **thread** that called this ends: a process that several tests share must be
    /// started from a thread that outlives them.
    ///
    /// # Errors
    /// When bubblewrap is not there or the sandbox's directories cannot be made.
    pub fn spawn<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Result<Process> {
        let scratch = Scratch::new()?;
        let arguments = self.arguments(&scratch)?;
        let mut words: Vec<&OsStr> = self.started_by.iter().map(OsString::as_os_str).collect();
        if self.as_pid_1 && is_root() {
            // bwrap, which gives up root's rights, may not kill its child, which is another user,
            // when it dies itself. A process namespace around both does.
            words.extend(["setpriv", "--pdeathsig=KILL"].map(OsStr::new));
            words.extend(["unshare", "--pid", "--fork", "--kill-child", "--"].map(OsStr::new));
        }
        let filter = scratch.path().join("seccomp");
        if self.forbidden.is_empty() {
            words.push("bwrap".as_ref());
        } else {
            fs::write(&filter, seccomp::filter(&self.forbidden))?;
            // The shell opens the filter, so that no other child of this program inherits it.
            let open = "exec 9<\"$0\"; exec bwrap --seccomp 9 \"$@\"";
            words.extend(["sh", "-c", open].map(OsStr::new));
            words.push(filter.as_os_str());
        }
        let mut bwrap = Command::new(words[0]);
        bwrap.args(&words[1..]);
        bwrap.args(arguments).arg("--");
        if is_root() {
            bwrap
                .arg("/usr/bin/setpriv")
                .arg(format!("--reuid={}", self.user))
                .arg(format!("--regid={}", self.user))
                .args(["--clear-groups", "--inh-caps=-all", "--pdeathsig=keep"]);
        }
        // A signal that whoever started this program ignores (nohup: HUP) would stay ignored, and no
        // shell inside could trap it. A container engine starts with nothing ignored.
        bwrap.args(["/usr/bin/env", "--default-signal", "-i"]);
        for (name, value) in &self.env {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            bwrap.arg(pair);
        }
        bwrap.args(command);
        Process::start(bwrap, self, scratch).context("starting bwrap (apt: bubblewrap)")
    }

    /// bubblewrap's arguments, up to the command.
    fn arguments(&self, scratch: &Scratch) -> Result<Vec<OsString>> {
        let mut to = Arguments::default();
        to.words(["--unshare-pid", "--unshare-ipc", "--unshare-uts"]);
        to.words(["--hostname", "sandbox", "--die-with-parent", "--clearenv"]);
        if self.as_pid_1 {
            to.words(["--as-pid-1"]);
        }
        if self.missing.contains(&Missing::Network) {
            to.words(["--unshare-net"]);
        }
        if is_root() {
            to.words(["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]);
        } else {
            let id = self.user.to_string();
            to.words(["--unshare-user", "--uid", &id, "--gid", &id]);
        }

        to.words(["--perms", "0755", "--tmpfs", "/"]);
        for entry in fs::read_dir(&self.rootfs)
            .with_context(|| format!("reading the root file system {}", self.rootfs.display()))?
        {
            let entry = entry?;
            let name = entry.file_name();
            if NOT_BOUND.iter().any(|other| *other == name) {
                continue;
            }
            let inside = Path::new("/").join(&name);
            if entry.file_type()?.is_symlink() {
                let target = fs::read_link(entry.path())?;
                to.words(["--symlink".as_ref(), target.as_os_str(), inside.as_os_str()]);
            } else {
                to.bind("--ro-bind", &entry.path(), &inside);
            }
        }
        to.words(["--proc", "/proc", "--dev", "/dev", "--perms", "0755"]);
        to.words(["--tmpfs", "/run", "--perms", "1777", "--tmpfs", "/dev/shm"]);
        to.words(["--ro-bind-try", "/sys", "/sys"]);
        self.bind_etc(scratch, &mut to)?;

        let open = fs::Permissions::from_mode(0o1777);
        let writable = if self.read_only {
            "--ro-bind"
        } else {
            "--bind"
        };
        to.bind(
            writable,
            &scratch.directory("home")?,
            Path::new(&home(&self.rootfs)),
        );
        for inside in ["/tmp", "/var/tmp"] {
            if self.missing.contains(&Missing::Tmp) {
                continue;
            }
            if inside == "/tmp" || self.rootfs.join(&inside[1..]).is_dir() {
                let directory = scratch.directory(&inside.replace('/', "_"))?;
                fs::set_permissions(&directory, open.clone())?;
                to.bind(writable, &directory, Path::new(inside));
            }
        }
        for bind in &self.binds {
            let option = if bind.writable { writable } else { "--ro-bind" };
            let from = fs::canonicalize(&bind.from)
                .with_context(|| format!("binding {}", bind.from.display()))?;
            to.bind(option, &from, &bind.to);
        }
        to.words(["--remount-ro", "/", "--chdir"]);
        to.words([&self.directory]);
        Ok(to.0)
    }

    /// This machine's name resolution, and a user database that knows the user.
    fn bind_etc(&self, scratch: &Scratch, to: &mut Arguments) -> Result<()> {
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            let inside = self.rootfs.join(&file[1..]);
            if let (Ok(from), true) = (fs::canonicalize(file), inside.is_file()) {
                // A link there leads into this machine: bound over what it leads to is no help.
                if !inside.is_symlink() {
                    to.bind("--ro-bind", &from, Path::new(file));
                }
            }
        }
        for (name, line) in [
            (
                "passwd",
                format!(
                    "{0}:x:{1}:{1}::{2}:/bin/bash\n",
                    USER_NAME,
                    self.user,
                    home(&self.rootfs)
                ),
            ),
            ("group", format!("{USER_NAME}:x:{}:\n", self.user)),
        ] {
            let Ok(mut text) = fs::read_to_string(self.rootfs.join("etc").join(name)) else {
                continue;
            };
            if entry_of(&text, self.user).is_none() {
                text.push_str(&line);
                let file = scratch.path().join(name);
                fs::write(&file, text)?;
                to.bind("--ro-bind", &file, &Path::new("/etc").join(name));
            }
        }
        Ok(())
    }
}

/// Name of the sandbox's user where the root file system gives it none; Heroku's images use it.
const USER_NAME: &str = "heroku";

/// The line of `/etc/passwd` or `/etc/group` with this numeric id in its third field.
fn entry_of(database: &str, id: u32) -> Option<&str> {
    let id = id.to_string();
    database
        .lines()
        .find(|line| line.split(':').nth(2) == Some(id.as_str()))
}

/// Home of user 1000: as the root file system's user database says, else `/home/heroku`.
fn home(rootfs: &Path) -> String {
    let database = fs::read_to_string(rootfs.join("etc/passwd")).unwrap_or_default();
    entry_of(&database, CNB_USER)
        .and_then(|line| line.split(':').nth(5))
        .filter(|home| home.starts_with("/home/"))
        .map_or_else(|| format!("/home/{USER_NAME}"), str::to_owned)
}

/// bubblewrap's arguments as they are put together.
#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn words<S: AsRef<OsStr>>(&mut self, words: impl IntoIterator<Item = S>) {
        self.0
            .extend(words.into_iter().map(|word| word.as_ref().to_owned()));
    }

    /// Binds `from` at `to`, with parents that all may enter (bubblewrap's own are its user's).
    fn bind(&mut self, option: &str, from: &Path, to: &Path) {
        let mut parents: Vec<_> = to.ancestors().skip(1).collect();
        parents.reverse();
        for parent in parents.into_iter().skip(1) {
            self.words(["--perms", "0755", "--dir"]);
            self.words([parent]);
        }
        self.words([option.as_ref(), from.as_os_str(), to.as_os_str()]);
    }
}
