//! The start program: runs a command of the image where the closure is at `/nix/store`.
//!
//! It is `run_proot.sh` in a Procfile, and the first word of every process that the buildpack makes.
//! Where it is itself run inside PRoot, or where the closure really is at `/nix/store`, it runs the
//! command at once; else it runs it in PRoot. It needs nothing but files beside it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What a shell answers for a command that cannot be run, and for one that is not there.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

const HELP: &str = "\
Runs a command where the image's Nix closure is at /nix/store, with the bin directories of the
deployed store paths first on PATH.

Usage: run_proot.sh COMMAND [ARGUMENT]...
       nix-hydra run COMMAND [ARGUMENT]...
";

fn main() -> ExitCode {
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_default();
    let mut command: Vec<OsString> = arguments.collect();
    let is_run_proot = Path::new(&name)
        .file_name()
        .is_some_and(|name| name == "run_proot.sh");
    if !is_run_proot && command.first().is_some_and(|word| word == "run") {
        command.remove(0);
    } else if !is_run_proot {
        return help(&command);
    }
    match command.split_first() {
        Some((program, arguments)) => run(program, arguments),
        None => help(&[]),
    }
}

fn help(words: &[OsString]) -> ExitCode {
    if words
        .first()
        .is_some_and(|word| word == "--help" || word == "-h")
    {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    eprint!("{HELP}");
    ExitCode::from(2)
}

fn run(program: &OsString, arguments: &[OsString]) -> ExitCode {
    let image = match Image::find() {
        Ok(image) => image,
        Err((path, error)) => {
            eprintln!("run_proot.sh: cannot read {}: {error}", path.display());
            return ExitCode::from(CANNOT_RUN);
        }
    };
    let mut command = if image.is_in_place() {
        Command::new(program)
    } else {
        let mut command = Command::new(&image.proot);
        command.arg("-b").arg(image.binding()).arg(program);
        command
    };
    let error = command.args(arguments).env("PATH", image.path()).exec();
    let what = command.get_program();
    eprintln!(
        "run_proot.sh: cannot run {}: {error}",
        Path::new(what).display()
    );
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        CANNOT_RUN
    })
}

/// What the start program finds beside itself.
struct Image {
    proot: PathBuf,
    /// The directory of the closure's store paths.
    store: PathBuf,
    /// Full store paths, the one that leads `PATH` first.
    roots: Vec<PathBuf>,
}

impl Image {
    /// Looks at the layers that this program is in: `…/proot/bin/nix-hydra`.
    fn find() -> Result<Self, (PathBuf, io::Error)> {
        let itself = Path::new("/proc/self/exe");
        let program = itself
            .read_link()
            .map_err(|error| (itself.to_path_buf(), error))?;
        let layer = program.ancestors().nth(2).unwrap_or(Path::new("/"));
        let layers = layer.parent().unwrap_or(Path::new("/"));
        let store = layers.join("closure");
        let roots_file = store.join(".roots");
        let roots = fs::read_to_string(&roots_file).map_err(|error| (roots_file, error))?;
        Ok(Self {
            proot: layer.join("libexec/proot"),
            store,
            roots: roots.lines().map(PathBuf::from).collect(),
        })
    }

    /// Whether the closure is at `/nix/store` as it is.
    fn is_in_place(&self) -> bool {
        self.roots
            .iter()
            .all(|root| root.symlink_metadata().is_ok())
    }

    fn binding(&self) -> OsString {
        let mut binding = self.store.clone().into_os_string();
        binding.push(":/nix/store");
        binding
    }

    /// `PATH` with the roots' programs first.
    fn path(&self) -> OsString {
        let mut path = OsString::new();
        for root in &self.roots {
            path.push(root.join("bin"));
            path.push(":");
        }
        match env::var_os("PATH") {
            Some(rest) if !rest.is_empty() => path.push(rest),
            _ => path.push("/usr/local/bin:/usr/bin:/bin"),
        }
        path
    }
}
