//! The image's processes: the Procfile's, each run where the closure is at `/nix/store`.

pub mod procfile;

use crate::errors::BuildpackError;
use crate::layers::proot::RUN_PROOT;
use crate::output;
use bullet_stream::global::print;
use libcnb::data::launch::{Launch, LaunchBuilder, ProcessBuilder, ProcessType};
use procfile::{Procfile, ProcfileWarning};
use std::fs;
use std::io;
use std::path::Path;

/// A file in the closure layer that lists the roots, one full store path a line, the one that
/// leads `PATH` first. The start program reads it. The name cannot be a store path's.
pub const ROOTS_FILE: &str = ".roots";

/// The name of the file that says which processes there are.
pub const PROCFILE: &str = "Procfile";

/// The process that runs when none is named, where the Procfile has it.
const DEFAULT_PROCESS: &str = "web";

/// Reads the app's Procfile, where it has one, and warns of what is odd about it.
pub fn read_procfile(app_dir: &Path) -> Result<Option<Procfile>, BuildpackError> {
    let path = app_dir.join(PROCFILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BuildpackError::ReadProcfile(path, error)),
    };
    let (procfile, warnings) = Procfile::parse(&text).map_err(BuildpackError::Procfile)?;
    for warning in warnings {
        output::warning(&match warning {
            ProcfileWarning::Renamed(written, used) => {
                format!("The process `{written}` of the Procfile is called `{used}` in the image.")
            }
            ProcfileWarning::Duplicate(name) => {
                format!("The Procfile has more than one `{name}`: the last one counts.")
            }
        });
    }
    Ok(Some(procfile))
}

/// Says which processes the image has, and answers them.
#[must_use]
pub fn launch(procfile: Option<&Procfile>, layers_dir: &Path) -> Launch {
    print::bullet("Processes");
    let Some(procfile) = procfile else {
        print::sub_bullet(
            "None, since the app has no `Procfile`. Commands run with `run_proot.sh`.",
        );
        return Launch::default();
    };
    for (name, value) in procfile.processes() {
        print::sub_bullet(format!("{name}: {}", unwrapped(value)));
    }
    processes(procfile, layers_dir)
}

/// The processes of `procfile`, started by the start program in the proot layer.
#[must_use]
pub fn processes(procfile: &Procfile, layers_dir: &Path) -> Launch {
    let start_program = layers_dir.join("proot/bin").join(RUN_PROOT);
    let default = procfile.default_process(DEFAULT_PROCESS);
    let mut launch = LaunchBuilder::new();
    for (name, value) in procfile.processes() {
        // Procfile names are a subset of the process types that the specification allows.
        let Ok(process_type) = name.parse::<ProcessType>() else {
            continue;
        };
        let command = [
            start_program.to_string_lossy().into_owned(),
            "bash".to_string(),
            "-c".to_string(),
            unwrapped(value).to_string(),
        ];
        launch.process(
            ProcessBuilder::new(process_type, command)
                .default(Some(name) == default)
                .build(),
        );
    }
    launch.build()
}

/// A Procfile's command without the `run_proot.sh` that it begins with, since it is run so anyway.
fn unwrapped(value: &str) -> &str {
    match value.strip_prefix(RUN_PROOT) {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn launch(text: &str) -> Vec<(String, Vec<String>, bool)> {
        let (procfile, _) = Procfile::parse(text).unwrap();
        processes(&procfile, Path::new("/layers/nix_hydra"))
            .processes
            .into_iter()
            .map(|process| (process.r#type.to_string(), process.command, process.default))
            .collect()
    }

    #[test]
    fn every_process_is_wrapped_once() {
        let start = "/layers/nix_hydra/proot/bin/run_proot.sh";
        let processes = launch(
            "web: run_proot.sh myapp --port $PORT\nworker: myapp\nother: sh -c 'cd x && run_proot.sh myapp'\n",
        );
        let expected = [
            ("web", "myapp --port $PORT", true),
            ("worker", "myapp", false),
            ("other", "sh -c 'cd x && run_proot.sh myapp'", false),
        ]
        .map(|(name, value, default)| {
            let command = [start, "bash", "-c", value].map(String::from).to_vec();
            (name.to_string(), command, default)
        });
        assert_eq!(processes, expected);
    }

    #[test]
    fn a_program_whose_name_only_begins_alike_is_left_as_it_is() {
        assert_eq!(unwrapped("run_proot.sh.old x"), "run_proot.sh.old x");
        assert_eq!(unwrapped("run_proot.sh"), "run_proot.sh");
    }
}
