//! Runs the programs that a root has for the end of a build, as the earlier buildpacks did.

use crate::layers::proot::RUN_PROOT;
use crate::log;
use bullet_stream::global::print;
use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus};

/// Why a hook did not do its work; the hook is a full store path.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("{0} cannot be started: {1}")]
    Start(String, #[source] io::Error),
    #[error("{0} ended with {1}")]
    Failed(String, ExitStatus),
}

/// Runs each of `hooks` in the app's directory, which is also its argument.
pub fn run(hooks: &[String], layers_dir: &Path, app_dir: &Path) -> Result<(), HookError> {
    let start_program = layers_dir.join("proot/bin").join(RUN_PROOT);
    for hook in hooks {
        print::bullet("Compile hook");
        log::sub_bullet(format!("Running {hook}"));
        let status = Command::new(&start_program)
            .arg(hook)
            .arg(app_dir)
            .current_dir(app_dir)
            .status()
            .map_err(|error| HookError::Start(hook.clone(), error))?;
        if !status.success() {
            return Err(HookError::Failed(hook.clone(), status));
        }
    }
    Ok(())
}
