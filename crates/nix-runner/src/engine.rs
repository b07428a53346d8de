//! The ways in which Nix comes to see its store, cheapest first.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

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
nix=$1 view=$2 user=$3 group=$4
shift 4
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
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Direct => "directly",
            Self::Namespace => "in a user namespace",
            Self::PRoot { .. } => "under PRoot",
        }
    }

    /// A command that runs `program` with `nix` at `/nix`. `scratch` is a directory for what the
    /// engine needs.
    #[must_use]
    pub fn command(&self, program: &OsStr, nix: &Path, scratch: &Path) -> Command {
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
                command
                    .arg("-b")
                    .arg(binding)
                    .arg(program)
                    .env("PROOT_TMP_DIR", scratch);
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
    #[must_use]
    pub fn tried_proot(proot: &Path, nix: &Path, scratch: &Path) -> Option<Self> {
        [true, false]
            .into_iter()
            .map(|seccomp| Self::PRoot {
                program: proot.to_path_buf(),
                seccomp,
            })
            .find(|engine| {
                let mut command = engine.command(OsStr::new("/bin/sh"), nix, scratch);
                let tried = command.args(["-c", "cd /nix/store"]).output();
                tried.is_ok_and(|output| output.status.success())
            })
    }
}
