//! The image's processes: the Procfile's, or the app's main program, each run by the start program.

pub mod command;
pub mod hook;
pub mod procfile;

use crate::layers::proot::{RUN_PROOT, START_PROGRAM};
use crate::log;
use crate::root::Root;
use app_dir::FileError;
use bullet_stream::global::print;
use command::ProcessCommand;
use libcnb::data::launch::{Launch, LaunchBuilder, Process, ProcessBuilder};
use nix_hydra_start::package_name::PackageName;
use procfile::{Procfile, ProcfileError, ProcfileWarning};
use std::io;
use std::path::Path;

/// The name of the file that says which processes there are.
pub const PROCFILE: &str = "Procfile";

/// Bytes of a Procfile.
const MAX_PROCFILE: u64 = 1 << 20;

/// The process that runs when none is named, where the Procfile has it.
const DEFAULT_PROCESS: &str = "web";

/// There is no Procfile, and the program to run cannot be told from the roots.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing says which program to run")]
pub struct NoProcess {
    /// `meta.mainProgram`, where the package has it; then there is no such program.
    pub main_program: Option<String>,
    /// The programs that there are.
    pub programs: Vec<String>,
}

/// Reads the app's Procfile, where it has one, and warns of what is odd about it. `named` is the
/// file to read instead.
pub fn read_procfile(
    app_dir: &Path,
    named: Option<&Path>,
) -> Result<Option<Procfile>, ProcfileError> {
    let file = named.unwrap_or(Path::new(PROCFILE));
    let text = match app_dir::read_to_string(app_dir, file, MAX_PROCFILE) {
        Ok(text) => text,
        Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {
            return Ok(None);
        }
        Err(error) => return Err(ProcfileError::Read(app_dir.join(file), error.into())),
    };
    let (procfile, warnings) = Procfile::parse(&text)?;
    for warning in warnings {
        log::warning(&match warning {
            ProcfileWarning::Renamed(written, used) => {
                format!("The process `{written}` of the Procfile is called `{used}` in the image.")
            }
            ProcfileWarning::Duplicate(name) => {
                format!("The Procfile has more than one `{name}`: the last one counts.")
            }
            ProcfileWarning::Empty => "The Procfile has no processes.".to_string(),
        });
    }
    Ok(Some(procfile))
}

/// Logs and returns the image's processes.
pub fn launch(
    procfile: Option<&Procfile>,
    roots: &[Root],
    programs: &[String],
    layers_dir: &Path,
) -> Result<Launch, NoProcess> {
    print::bullet("Processes");
    let Some(procfile) = procfile else {
        let (program, why) = main_process(roots.first(), programs)?;
        log::sub_bullet(format!(
            "{DEFAULT_PROCESS}: {program}, {why}, since there is no `Procfile`"
        ));
        let command = ProcessCommand::Words(vec![program.to_string()]);
        let process = process(DEFAULT_PROCESS, command, layers_dir, true);
        return Ok(LaunchBuilder::new().processes(process).build());
    };
    for (name, value) in procfile.processes() {
        match ProcessCommand::parse(value) {
            ProcessCommand::Words(_) => log::sub_bullet(format!("{name}: {value}")),
            ProcessCommand::Shell(_) => log::sub_bullet(format!("{name}: {value}, by a shell")),
        }
    }
    Ok(processes(procfile, layers_dir))
}

/// What runs where no Procfile says it, and why that, by the rule of `nix run`: the package's main
/// program, else the one that has its name, else the only one.
fn main_process<'a>(
    root: Option<&'a Root>,
    programs: &'a [String],
) -> Result<(&'a str, &'static str), NoProcess> {
    let main_program = root.and_then(|root| root.main_program.as_deref());
    let name = root.map_or("", |root| PackageName::parse(root.path.name()).name);
    let has = |name: &str| programs.iter().any(|program| program == name);
    match (main_program, programs) {
        (Some(main), _) if has(main) => Ok((main, "the main program")),
        (None, _) if has(name) => Ok((name, "the program with the package's name")),
        (None, [only]) => Ok((only, "the only program")),
        _ => Err(NoProcess {
            main_program: main_program.map(str::to_string),
            programs: programs.to_vec(),
        }),
    }
}

/// The processes of `procfile`, started by the start program in the proot layer.
pub fn processes(procfile: &Procfile, layers_dir: &Path) -> Launch {
    let default = procfile.default_process(DEFAULT_PROCESS);
    let processes = procfile.processes().filter_map(|(name, value)| {
        let command = ProcessCommand::parse(value);
        process(name, command, layers_dir, Some(name) == default)
    });
    LaunchBuilder::new().processes(processes).build()
}

fn process(
    name: &str,
    command: ProcessCommand,
    layers_dir: &Path,
    is_default: bool,
) -> Option<Process> {
    // Procfile names are a subset of the process types that the specification allows.
    let process_type = name.parse().ok()?;
    let mut process = ProcessBuilder::new(process_type, wrapped(command, layers_dir));
    Some(process.default(is_default).build())
}

/// The whole command of a process. Arguments that the image is run with are added to it.
fn wrapped(command: ProcessCommand, layers_dir: &Path) -> Vec<String> {
    let programs = layers_dir.join("proot/bin");
    let program = |name: &str| programs.join(name).to_string_lossy().into_owned();
    match command {
        ProcessCommand::Words(words) => [vec![program(RUN_PROOT)], words].concat(),
        ProcessCommand::Shell(text) => {
            vec![
                program(START_PROGRAM),
                "run".to_string(),
                "--shell".to_string(),
                text,
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_is_wrapped_once_and_gets_a_shell_if_it_needs_one() {
        let (procfile, _) = Procfile::parse(
            "web: run_proot.sh myapp --port $PORT\nworker: myapp\nother: run_proot.sh sh -c 'x y'\n",
        )
        .unwrap();
        let processes: Vec<_> = processes(&procfile, Path::new("/layers/nix_hydra"))
            .processes
            .into_iter()
            .map(|process| (process.r#type.to_string(), process.command, process.default))
            .collect();
        let bin = "/layers/nix_hydra/proot/bin";
        let run_proot = format!("{bin}/run_proot.sh");
        let start = format!("{bin}/nix-hydra");
        let process = |name: &str, command: &[&str], default| {
            let command: Vec<String> = command.iter().map(ToString::to_string).collect();
            (name.to_string(), command, default)
        };
        assert_eq!(
            processes,
            [
                process(
                    "web",
                    &[&start, "run", "--shell", "myapp --port $PORT"],
                    true
                ),
                process("worker", &[&run_proot, "myapp"], false),
                process("other", &[&run_proot, "sh", "-c", "x y"], false),
            ]
        );
    }

    #[test]
    fn without_a_procfile_the_main_program_or_the_only_one_runs() {
        let programs =
            |names: &[&str]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
        let root = |main: Option<&str>| {
            let path = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-tool-1.0";
            Root {
                main_program: main.map(str::to_string),
                ..Root::from_path(path.parse().unwrap())
            }
        };
        let (two, one) = (programs(&["admin", "web"]), programs(&["web"]));
        let named = programs(&["admin", "tool"]);
        for (main, programs, process) in [
            (Some("web"), &two, Some("web")),
            (Some("admin"), &named, Some("admin")),
            (None, &named, Some("tool")),
            (None, &one, Some("web")),
            (None, &two, None),
            (None, &Vec::new(), None),
            (Some("missing"), &one, None),
        ] {
            let root = root(main);
            let found = main_process(Some(&root), programs);
            assert_eq!(
                found.ok().map(|(program, _)| program),
                process,
                "{main:?} {programs:?}"
            );
        }
    }
}
