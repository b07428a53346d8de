//! The ways in which Nix comes to see its store, cheapest first.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an engine shows at other places than it is.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The directory at `/nix`.
    pub nix: &'a Path,
    /// Files and directories that appear empty: builders must not read credentials, nor write layers.
    pub hidden: &'a [PathBuf],
    /// A directory for files that the engine needs.
    pub scratch: &'a Path,
}

/// How a program of Nix is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// As it is: its programs were moved, or are where they were built. Its store is below a
    /// directory (`local?root=…`).
    Direct,
    /// In a user namespace of its own, where `/nix` is that directory's. Made with `unshare`, which
    /// every Debian and Ubuntu has.
    Namespace,
    /// Under this PRoot, where `/nix` is that directory's.
    PRoot { program: PathBuf, seccomp: bool },
}

/// Shows everything that is at `/`, and another directory at `/nix`; then runs a command there, as the
/// user who called.
///
/// Who makes the view is root in it, but builders are not to be: `tar`, for one, then gives files to
/// owners that do not exist. Another user namespace can only be made where the root was really
/// changed, so `chroot` would not do.
const NAMESPACE_SCRIPT: &str = r#"
set -e
nix=$1 view=$2 hidden=$3 user=$4 group=$5
shift 5
mount -t tmpfs -o mode=755 view "$view"
for entry in /*; do
  at=$view$entry
  if [ "$entry" = /nix ]; then
    continue
  elif [ -L "$entry" ]; then
    cp -P "$entry" "$at"
  elif [ -d "$entry" ]; then
    mkdir "$at"
    mount --rbind "$entry" "$at"
  elif [ -f "$entry" ]; then
    : >"$at"
    mount --bind "$entry" "$at"
  fi
done
printf '%s' "$hidden" | while IFS= read -r path; do
  if [ -d "$view$path" ]; then
    mount -t tmpfs -o mode=755,size=4k hidden "$view$path"
  elif [ -e "$view$path" ]; then
    mount --bind /dev/null "$view$path"
  fi
done
mkdir "$view/nix"
mount --rbind "$nix" "$view/nix"
mkdir "$view/.before"
cd "$view"
pivot_root . .before
umount -l /.before
exec unshare --user --map-user="$user" --map-group="$group" -- "$@"
"#;

impl Engine {
    /// What messages call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Direct => "directly",
            Self::Namespace => "in a user namespace",
            Self::PRoot { .. } => "under PRoot",
        }
    }

    /// A command that runs `program` with a view of the file system, but for [`Engine::Direct`], which
    /// changes nothing.
    pub fn command(&self, program: &OsStr, view: View) -> Command {
        let View {
            nix,
            hidden,
            scratch,
        } = view;
        match self {
            Self::Direct => Command::new(program),
            Self::Namespace => {
                let view = scratch.join("view");
                // Where it cannot be made, the script fails, and says so.
                let _ = std::fs::create_dir_all(&view);
                let mut command = Command::new("unshare");
                command
                    .args([
                        "--user",
                        "--map-root-user",
                        "--mount",
                        "--",
                        "/bin/sh",
                        "-c",
                    ])
                    .args([NAMESPACE_SCRIPT, "view"])
                    .args([nix, view.as_path()])
                    .arg(lines(hidden))
                    .arg(rustix::process::getuid().as_raw().to_string())
                    .arg(rustix::process::getgid().as_raw().to_string())
                    .arg(program);
                command
            }
            Self::PRoot {
                program: proot,
                seccomp,
            } => {
                let mut binding = nix.as_os_str().to_owned();
                binding.push(":/nix");
                let mut command = Command::new(proot);
                command.arg("-b").arg(binding);
                for (path, shown) in empty_bindings(hidden, scratch) {
                    let mut binding = shown.into_os_string();
                    binding.push(":");
                    binding.push(path);
                    command.arg("-b").arg(binding);
                }
                command.arg(program).env("PROOT_TMP_DIR", scratch);
                if *seccomp {
                    command.env_remove("PROOT_NO_SECCOMP");
                } else {
                    command.env("PROOT_NO_SECCOMP", "1");
                }
                command
            }
        }
    }

    /// Tries `proot` on something small. Some builds of PRoot translate nothing unless they are told
    /// to do without seccomp.
    pub fn tried_proot(proot: &Path, nix: &Path, scratch: &Path) -> Option<Self> {
        [true, false]
            .into_iter()
            .map(|seccomp| Self::PRoot {
                program: proot.to_path_buf(),
                seccomp,
            })
            .find(|engine| {
                let view = View {
                    nix,
                    hidden: &[],
                    scratch,
                };
                let mut command = engine.command(OsStr::new("/bin/sh"), view);
                let tried = command.args(["-c", "cd /nix/store"]).output();
                tried.is_ok_and(|output| output.status.success())
            })
    }
}

/// The paths, a line each.
fn lines(paths: &[PathBuf]) -> OsString {
    let mut lines = OsString::new();
    for path in paths {
        lines.push(path);
        lines.push("\n");
    }
    lines
}

/// Each of `hidden` that exists, with an empty directory or file to show in its place.
fn empty_bindings<'a>(
    hidden: &'a [PathBuf],
    scratch: &Path,
) -> impl Iterator<Item = (&'a PathBuf, PathBuf)> {
    let empty = scratch.join("empty");
    // Without it PRoot refuses the binding, and nothing is built.
    let _ = std::fs::create_dir_all(&empty);
    hidden.iter().filter(|path| path.exists()).map(move |path| {
        let shown = if path.is_dir() {
            empty.clone()
        } else {
            PathBuf::from("/dev/null")
        };
        (path, shown)
    })
}
