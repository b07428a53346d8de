//! The `namespace` engine: a new root, like the old one but for the closure at `/nix/store`.
//!
//! A child makes it and another child enters it by way of trial, so that a refusal changes nothing; then
//! the process that is to see it enters. An ordinary user needs a user namespace to mount in. Ids keep
//! their numbers in it, but those of other users are shown as `nobody`. Root with the right to mount
//! needs none.

use crate::image::STORE_DIR;
use crate::report::{Report, receive, send};
use crate::sys::{self, Fork};
use rustix::fs::Mode;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, getegid, geteuid, pivot_root, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::env;
use std::fs::{self, File, FileType};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where the old root is until the new one is whole.
const OLD_ROOT: &str = "/.old-root";

/// The flags of a file system that is complete.
const READ_ONLY: MountFlags = MountFlags::BIND
    .union(MountFlags::RDONLY)
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV);

/// The namespaces that an ordinary user unshares in order to mount.
const NEW_USER: UnshareFlags = UnshareFlags::NEWUSER.union(UnshareFlags::NEWNS);

/// The step at which the view was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Making the child that makes the view.
    Start,
    /// Root would lose its rights over other users' files and processes.
    Root,
    /// Leaving the namespaces that this process is in.
    Unshare,
    /// Giving the user its id in the new user namespace.
    Ids,
    /// Mounting.
    Mount,
    /// Entering the view that the child has made.
    Enter,
}

impl Step {
    const ALL: [Self; 6] = [
        Self::Start,
        Self::Root,
        Self::Unshare,
        Self::Ids,
        Self::Mount,
        Self::Enter,
    ];
}

/// Why there is no view.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) step: Step,
    pub(crate) error: io::Error,
}

fn at(step: Step) -> impl Fn(io::Error) -> Refusal {
    move |error| Refusal { step, error }
}

/// Namespaces in which the closure is at `/nix/store`.
#[derive(Debug)]
pub(crate) struct View {
    user: Option<OwnedFd>,
    mount: OwnedFd,
    directory: PathBuf,
}

impl View {
    /// Makes a view in which `store` is at `/nix/store`. `by_name` says that the user asked for this
    /// engine, and so takes what it costs root.
    pub(crate) fn make(store: &Path, by_name: bool) -> Result<Self, Refusal> {
        if !geteuid().is_root() {
            // Most containers refuse it so, which costs them no child.
            sys::try_unshare(NEW_USER).map_err(at(Step::Unshare))?;
        }
        let start = at(Step::Start);
        let directory = env::current_dir().map_err(&start)?;
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from);
        let (reports, report) = pipe().map_err(&start)?;
        let (until_entered, entered) = pipe().map_err(&start)?;
        match sys::fork().map_err(&start)? {
            Fork::Child => {
                drop((reports, entered));
                let built = match build(store, by_name) {
                    Ok(()) => Report::Works,
                    Err(Refusal { step, error }) => Report::Refused(
                        step as u16,
                        error
                            .raw_os_error()
                            .and_then(|error| u16::try_from(error).ok())
                            .unwrap_or_default(),
                    ),
                };
                send(built, &report);
                // The namespaces last until they are entered.
                let _ = File::from(until_entered).read(&mut [0]);
                sys::exit_child(0)
            }
            Fork::Parent(child) => {
                drop((report, until_entered));
                let view = match receive(&reports) {
                    Ok(Some(Report::Works)) => Self::of(child, directory)
                        .and_then(Self::tried)
                        .map_err(at(Step::Enter)),
                    Ok(Some(Report::Refused(step, error))) => Err(Refusal {
                        step: Step::ALL
                            .into_iter()
                            .find(|known| *known as u16 == step)
                            .unwrap_or(Step::Start),
                        error: io::Error::from_raw_os_error(error.into()),
                    }),
                    Ok(_) => Err(start(io::ErrorKind::BrokenPipe.into())),
                    Err(error) => Err(start(error)),
                };
                drop(entered);
                let _ = waitpid(Some(child), WaitOptions::empty());
                view
            }
        }
    }

    fn of(child: Pid, directory: PathBuf) -> io::Result<Self> {
        let name_space = |name: &str| format!("/proc/{}/ns/{name}", child.as_raw_nonzero());
        let user = name_space("user");
        let is_new = fs::read_link(&user)? != fs::read_link("/proc/self/ns/user")?;
        Ok(Self {
            user: if is_new {
                Some(File::open(user)?.into())
            } else {
                None
            },
            mount: File::open(name_space("mnt"))?.into(),
            directory,
        })
    }

    /// Itself, where a process may enter. Whoever has entered a part of it has no way back to try
    /// another engine.
    fn tried(self) -> io::Result<Self> {
        sys::in_child(|| self.enter().map_err(|refusal| refusal.error))?;
        Ok(self)
    }

    /// Puts this process into the view, in the directory where it was.
    pub(crate) fn enter(&self) -> Result<(), Refusal> {
        let enter = |fd: &OwnedFd, kind| move_into_link_name_space(fd.as_fd(), Some(kind));
        if let Some(user) = &self.user {
            enter(user, LinkNameSpaceType::User).map_err(|error| at(Step::Enter)(error.into()))?;
        }
        enter(&self.mount, LinkNameSpaceType::Mount)
            .map_err(|error| at(Step::Enter)(error.into()))?;
        env::set_current_dir(&self.directory).map_err(at(Step::Enter))
    }
}

/// Makes the view around this process.
fn build(store: &Path, by_name: bool) -> Result<(), Refusal> {
    let (user, group) = (geteuid(), getegid());
    let may_mount = user.is_root() && sys::unshare(UnshareFlags::NEWNS).is_ok();
    if !may_mount {
        if user.is_root() && !by_name {
            return Err(at(Step::Root)(io::ErrorKind::PermissionDenied.into()));
        }
        sys::unshare(NEW_USER).map_err(at(Step::Unshare))?;
        // A process that may not change its groups may map its own group.
        fs::write("/proc/self/setgroups", "deny")
            .and_then(|()| fs::write("/proc/self/uid_map", format!("{user} {user} 1")))
            .and_then(|()| fs::write("/proc/self/gid_map", format!("{group} {group} 1")))
            .map_err(at(Step::Ids))?;
    }
    show(store).map_err(at(Step::Mount))
}

/// Has `store` appear at `/nix/store`.
fn show(store: &Path) -> io::Result<()> {
    // The mounts must not propagate to other namespaces.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    if Path::new(STORE_DIR).is_dir() {
        mount(
            "nix-hydra",
            STORE_DIR,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(c"mode=0755,size=1m"),
        )?;
        bind_paths(store, Path::new("/"))?;
        return Ok(mount_remount(STORE_DIR, READ_ONLY, c"")?);
    }
    // It may cover any directory: once it is the root, it covers that one no more.
    mount(
        "nix-hydra",
        store,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=0755,size=1m"),
    )?;
    let old_root = store.join(&OLD_ROOT[1..]);
    fs::create_dir(&old_root)?;
    pivot_root(store, &old_root)?;
    env::set_current_dir("/")?;

    graft(Path::new(OLD_ROOT), Path::new("/"), "nix")?;
    make_directory(Path::new("/nix"))?;
    let old_nix = Path::new(OLD_ROOT).join("nix");
    if old_nix.is_dir() {
        graft(&old_nix, Path::new("/nix"), "store")?;
    }
    make_directory(Path::new(STORE_DIR))?;
    bind_paths(store, Path::new(OLD_ROOT))?;

    unmount(OLD_ROOT, UnmountFlags::DETACH)?;
    fs::remove_dir(OLD_ROOT)?;
    Ok(mount_remount("/", READ_ONLY, c"")?)
}

/// Has every store path to which there is a link in `links` appear in the empty `/nix/store`; all
/// names are those below `root`.
fn bind_paths(links: &Path, root: &Path) -> io::Result<()> {
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    for entry in fs::read_dir(below(links))? {
        let entry = entry?;
        if !entry.file_type()?.is_symlink() {
            continue;
        }
        let old = below(&fs::read_link(entry.path())?);
        let new = Path::new(STORE_DIR).join(entry.file_name());
        show_at(&old, &new, old.symlink_metadata()?.file_type())?;
    }
    Ok(())
}

/// Has everything in the directory `from`, but for the entry `without`, appear in `to`.
fn graft(from: &Path, to: &Path, without: &str) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if entry.file_name() == without {
            continue;
        }
        show_at(&old, &new, kind)?;
    }
    Ok(())
}

/// Has `old`, a file of this kind, appear as `new`, which is not there yet.
fn show_at(old: &Path, new: &Path, kind: FileType) -> io::Result<()> {
    if kind.is_symlink() {
        symlink(fs::read_link(old)?, new)?;
    } else if kind.is_dir() {
        make_directory(new)?;
        mount_bind_recursive(old, new)?;
    } else if kind.is_file() {
        File::create(new)?;
        mount_bind_recursive(old, new)?;
    }
    Ok(())
}

/// Makes a directory that all may enter, whatever the umask.
fn make_directory(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(0o755))?)
}
