//! The `proot` engine: PRoot, started so that it costs little and needs little.

use crate::image::{Found, LOADER, LOADER_32, PROOT, STORE_DIR};
use rustix::fs::{Access, access};
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A variable that PRoot sets.
const WORKING_DIRECTORY: &str = "PWD";

/// PRoot's own variables. The app does not get those that are set here.
const TMP_DIR: &str = "PROOT_TMP_DIR";
const NO_SECCOMP: &str = "PROOT_NO_SECCOMP";
const LOADERS: [(&str, &str); 2] = [("PROOT_LOADER", LOADER), ("PROOT_LOADER_32", LOADER_32)];

/// Where PRoot may keep the empty directory that stands for `/nix`: the user's wish, then the usual
/// ones, then what every container can write to, be its root read-only.
const TMP_DIRS: [&str; 4] = ["/tmp", "/dev/shm", "/var/tmp", "/run"];

/// The least verbosity at which PRoot logs how processes end.
const LOG_ENDS: &str = "1";

/// Why PRoot is not even tried.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The image has no PRoot.
    Program(PathBuf),
    /// No directory can be written to.
    TmpDir,
}

/// How to start PRoot here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PRoot {
    program: PathBuf,
    bindings: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
    /// Whether the app is to have no `PWD`.
    without_pwd: bool,
}

impl PRoot {
    /// Looks for all that it needs.
    pub(crate) fn find(found: &Found) -> Result<Self, Lack> {
        Self::with(found, |name| env::var_os(name), may_write)
    }

    fn with(
        found: &Found,
        variable: impl Fn(&str) -> Option<OsString>,
        may_write: impl Fn(&Path) -> bool,
    ) -> Result<Self, Lack> {
        let program = found.layer.join(PROOT);
        if !program.exists() {
            return Err(Lack::Program(program));
        }
        let mut variables = Vec::new();
        if variable(TMP_DIR).is_none() {
            let directory = ["TMPDIR", "HOME"].map(|name| variable(name).map(PathBuf::from));
            let [own, home] = directory;
            let directory = own
                .into_iter()
                .chain(TMP_DIRS.map(PathBuf::from))
                .chain(home)
                .find(|directory| may_write(directory))
                .ok_or(Lack::TmpDir)?;
            variables.push((TMP_DIR, directory.into_os_string()));
        }
        for (name, file) in LOADERS {
            let loader = found.layer.join(file);
            // Without, PRoot writes one to its temporary directory, from which it must be executable.
            if variable(name).is_none() && loader.exists() {
                variables.push((name, loader.into_os_string()));
            }
        }
        let mut binding = found.store.clone().into_os_string();
        binding.push(":");
        binding.push(STORE_DIR);
        let mut bindings = vec![binding];
        // PRoot resolves links itself, at four calls each. A binding is cheaper as long as there are
        // few. The mark at its end keeps PRoot from following the link that it covers.
        for path in &found.image.bound {
            let Some(name) = path.file_name() else {
                continue;
            };
            let mut binding = path.clone().into_os_string();
            binding.push(":");
            binding.push(Path::new(STORE_DIR).join(name));
            binding.push("!");
            bindings.push(binding);
        }
        Ok(Self {
            program,
            bindings,
            variables,
            without_pwd: variable(WORKING_DIRECTORY).is_none(),
        })
    }

    /// The same PRoot without its seccomp filter, which makes every system call slower: for a PRoot that
    /// translates nothing with it.
    pub(crate) fn without_filter(mut self) -> Self {
        self.variables.push((NO_SECCOMP, "1".into()));
        self
    }

    /// Whether the filter is on, and so can be left out.
    pub(crate) fn has_filter(&self) -> bool {
        env::var_os(NO_SECCOMP).is_none()
            && self.variables.iter().all(|(name, _)| *name != NO_SECCOMP)
    }

    /// The variables that the app must not get.
    pub(crate) fn own_variables(&self) -> impl Iterator<Item = &OsStr> {
        let own = self.variables.iter().map(|(name, _)| *name);
        let added = self.without_pwd.then_some(WORKING_DIRECTORY);
        own.chain(added).map(OsStr::new)
    }

    /// Runs `program` where the closure is at `/nix/store`; its arguments are to be added.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.program);
        for binding in &self.bindings {
            command.arg("-b").arg(binding);
        }
        command.args(["-v", LOG_ENDS]);
        command.arg(program);
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command
    }
}

fn may_write(directory: &Path) -> bool {
    access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;
    use std::fs;

    fn found(layers: &Path, files: &[&str]) -> Found {
        let layer = layers.join("proot");
        fs::create_dir_all(layer.join("libexec")).unwrap();
        for file in files {
            fs::write(layer.join(file), "").unwrap();
        }
        Found {
            image: Image {
                bound: vec!["/layers/a/x-app".into()],
                ..Image::default()
            },
            store: layers.join("closure"),
            layer,
        }
    }

    #[test]
    fn it_needs_bindings_a_directory_to_write_to_and_its_loader() {
        let layers = tempfile::tempdir().unwrap();
        let found = found(layers.path(), &[PROOT, LOADER]);
        let proot = PRoot::with(&found, |_| None, |path| path == Path::new("/dev/shm")).unwrap();
        let command = proot.command(Path::new("/start"));
        let binding = format!("{}:/nix/store", found.store.display());
        let arguments: Vec<_> = command.get_args().collect();
        let bound = "/layers/a/x-app:/nix/store/x-app!";
        assert_eq!(
            arguments,
            ["-b", binding.as_str(), "-b", bound, "-v", "1", "/start"]
        );
        let loader = found.layer.join(LOADER);
        let variables: Vec<_> = command.get_envs().collect();
        assert_eq!(
            variables,
            [
                (OsStr::new("PROOT_LOADER"), Some(loader.as_os_str())),
                (OsStr::new(TMP_DIR), Some(OsStr::new("/dev/shm"))),
            ]
        );
        let own: Vec<_> = proot.own_variables().collect();
        assert_eq!(own, [TMP_DIR, "PROOT_LOADER", "PWD"]);
    }

    #[test]
    fn what_the_user_has_set_stays() {
        let layers = tempfile::tempdir().unwrap();
        let found = found(layers.path(), &[PROOT, LOADER]);
        let proot = PRoot::with(&found, |_| Some("/mine".into()), |_| false).unwrap();
        assert_eq!(proot.own_variables().count(), 0);
    }

    #[test]
    fn what_is_missing_is_told() {
        let layers = tempfile::tempdir().unwrap();
        let without = found(layers.path(), &[]);
        let program = without.layer.join(PROOT);
        let tried = PRoot::with(&without, |_| None, |_| true);
        assert_eq!(tried, Err(Lack::Program(program)));
        let with = found(layers.path(), &[PROOT]);
        let tried = PRoot::with(&with, |_| None, |_| false);
        assert_eq!(tried, Err(Lack::TmpDir));
    }
}
