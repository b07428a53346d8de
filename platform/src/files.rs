//! Trees of files: copied, linked, owned, digested and removed as a platform needs it.

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// The user and group of build and run image alike, as on Heroku's.
pub(crate) const CNB_USER: u32 = 1000;

/// Modification time of every file in an image: 1980-01-01T00:00:01Z, in seconds
/// (the lifecycle's `archive.NormalizedModTime`).
const IMAGE_MTIME: i64 = 315_532_801;

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory of its own under the system's temporary directory, removed with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Scratch(Arc<Removed>);

#[derive(Debug)]
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = remove(&self.0);
    }
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("platform-")
            .tempdir()
            .context("making a temporary directory")?;
        Ok(Self(Arc::new(Removed(directory.keep()))))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.0
    }

    /// A directory in it that the sandbox's user owns.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir_all(&path)?;
        give_to_user(&path)?;
        Ok(path)
    }
}

/// Removes a tree, also one with directories that may not be written (a Nix store has them);
/// nothing there is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("removing {}", path.display())),
        Ok(metadata) if !metadata.is_dir() => return Ok(fs::remove_file(path)?),
        Ok(_) => {}
    }
    if !is_root() {
        walk(path, &mut |entry, metadata| {
            if metadata.is_dir() && metadata.mode() & 0o700 != 0o700 {
                fs::set_permissions(entry, fs::Permissions::from_mode(0o700))?;
            }
            Ok(())
        })?;
    }
    fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))
}

/// Calls `visit` for `path` and everything below it, parents first, links not followed.
fn walk(
    path: &Path,
    visit: &mut dyn FnMut(&Path, &fs::Metadata) -> io::Result<()>,
) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    visit(path, &metadata)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), visit)?;
        }
    }
    Ok(())
}

/// Makes the sandbox's user the owner of a tree. Only root can and need do so: for anyone else
/// the sandbox shows the caller's own files as that user's.
pub(crate) fn give_to_user(path: &Path) -> Result<()> {
    if is_root() {
        walk(path, &mut |entry, metadata| {
            if (metadata.uid(), metadata.gid()) == (CNB_USER, CNB_USER) {
                return Ok(());
            }
            lchown(entry, Some(CNB_USER), Some(CNB_USER))
        })
        .with_context(|| format!("changing the owner of {}", path.display()))?;
    }
    Ok(())
}

/// Copies what is in the directory `from` into the directory `to`, made if it is not there;
/// modes, times and links stay as they are.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let status = Command::new("cp")
        .args(["-a", "--reflink=auto", "--"])
        .args([&from.join("."), to])
        .status()
        .context("starting cp")?;
    ensure!(
        status.success(),
        "cp of {} to {} failed",
        from.display(),
        to.display()
    );
    Ok(())
}

/// Makes `to` a second tree over the same files as `from` (hard links, new directories), with
/// the modification time that files in an image have.
///
/// Both trees see that time, since they share the files.
pub(crate) fn link(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    if metadata.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            link(&entry.path(), &to.join(entry.file_name()))?;
        }
        fs::set_permissions(to, metadata.permissions())?;
        if is_root() {
            lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
        }
    } else {
        fs::hard_link(from, to)?;
    }
    let time = Timespec {
        tv_sec: IMAGE_MTIME,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// What a layer's blob would be: digest (lower-case hex SHA-256) and size in bytes of its
/// uncompressed tar.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Blob {
    pub digest: String,
    pub bytes: u64,
}

/// The command that writes `name`, a path in `parent`, as a reproducible tar to its output:
/// sorted, one time and owner for everything, hard links as full copies, no extended attributes
/// (as the lifecycle's `layers` package does).
pub(crate) fn tar(parent: &Path, name: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.env("LC_ALL", "C")
        .args(["--create", "--sort=name", "--format=gnu"])
        .args(["--numeric-owner", "--hard-dereference"])
        .arg(format!("--mtime=@{IMAGE_MTIME}"))
        .arg(format!("--owner={CNB_USER}"))
        .arg(format!("--group={CNB_USER}"))
        .arg("--directory")
        .args([parent, name]);
    tar
}

/// Digest and size of the reproducible tar of `name` in `parent`. The digest is not the one that
/// the lifecycle gives the layer (names start without `/`), but changes exactly when that does.
pub(crate) fn blob(parent: &Path, name: &Path) -> Result<Blob> {
    let mut tar = tar(parent, name)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting tar")?;
    // A program, since an unoptimised build of a crate hashes twenty times slower.
    let mut sum = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting sha256sum")?;
    let (Some(mut from), Some(mut to)) = (tar.stdout.take(), sum.stdin.take()) else {
        bail!("tar and sha256sum were started without pipes");
    };
    let bytes = io::copy(&mut from, &mut to)?;
    to.flush()?;
    drop(to);
    let mut line = String::new();
    if let Some(mut output) = sum.stdout.take() {
        output.read_to_string(&mut line)?;
    }
    let (tarred, summed) = (tar.wait()?, sum.wait()?);
    let digest = line.split(' ').next().unwrap_or_default();
    ensure!(
        tarred.success() && summed.success() && digest.len() == 64,
        "tar of {} failed",
        parent.join(name).display()
    );
    Ok(Blob {
        digest: digest.to_owned(),
        bytes,
    })
}
