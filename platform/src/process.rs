//! Starts a process of an image as its launcher does: the layers' launch environment applied, in
//! `/workspace`, executed directly with no shell, as process 1.
//!
//! Layers are read-only here, where a container would let the app write into its copy of them;
//! `/workspace` is a writable copy that goes when the process does. `exec.d` programs are run.
//! Left out: processes that are not direct, `.profile`, and `/cnb/lifecycle/launcher` itself.

use crate::env::{Env, add_env_dir, add_layer_root, entries};
use crate::files::{self, Scratch};
use crate::image::Image;
use crate::sandbox::{Output, Process, Sandbox, Streams};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// A process of an image, before it starts.
#[derive(Clone, Debug)]
pub struct Launch {
    image: Image,
    process: Option<String>,
    command: Vec<String>,
    sandbox: Sandbox,
}

impl Launch {
    /// The default process of an image, over the root file system `rootfs` as its run image.
    pub fn new(image: &Image, rootfs: impl Into<PathBuf>) -> Self {
        Self {
            image: image.clone(),
            process: image.default_process().map(str::to_owned),
            command: Vec::new(),
            sandbox: Sandbox::new(rootfs).as_pid_1(),
        }
    }

    /// The process of this type, as the entrypoint `/cnb/process/<type>` starts it.
    #[must_use]
    pub fn process(mut self, process: impl Into<String>) -> Self {
        self.process = Some(process.into());
        self
    }

    /// Another command in the app's environment, as `launcher <command>` starts it.
    #[must_use]
    pub fn command<S: Into<String>>(mut self, command: impl IntoIterator<Item = S>) -> Self {
        self.process = None;
        self.command = command.into_iter().map(Into::into).collect();
        self
    }

    /// Arguments instead of the process type's own, as `docker run <image> <arguments>` gives.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a user's variable, like `docker run --env NAME=VALUE`; the layers may change it.
    #[must_use]
    pub fn env(self, name: &str, value: &str) -> Self {
        self.sandbox(|sandbox| sandbox.env(name, value))
    }

    /// Changes the sandbox: more binds, forbidden calls, streams, another user.
    #[must_use]
    pub fn sandbox(mut self, change: impl FnOnce(Sandbox) -> Sandbox) -> Self {
        self.sandbox = change(self.sandbox);
        self
    }

    /// Starts it. See [`Sandbox::spawn`] for how long it lives.
    ///
    /// # Errors
    /// When there is no such process type, an `exec.d` program fails, or the sandbox cannot be
    /// made. A command that is not there is status 127 of the process.
    pub fn start(&self) -> Result<Process> {
        let scratch = Scratch::new()?;
        let workspace = scratch.directory("workspace")?;
        files::copy(&self.image.app_dir(), &workspace)?;
        let config = scratch.directory("config")?;
        fs::write(config.join("metadata.toml"), self.metadata())?;
        let mut sandbox = self.sandbox.clone().keep(scratch);
        sandbox = sandbox.bind_rw(workspace, "/workspace");
        sandbox = sandbox.bind_ro(config, "/layers/config");
        for (inside, layer) in self.layers() {
            sandbox = sandbox.bind_ro(layer, inside);
        }

        let (command, directory) = self.resolve()?;
        let env = self.environment(&sandbox)?;
        let sandbox = sandbox.only_env(&env).directory(directory);
        sandbox.spawn(command)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub fn run(&self) -> Result<Output> {
        let mut process = self.start()?;
        let code = process.wait()?;
        Ok(Output {
            code,
            stdout: process.stdout(),
            stderr: process.stderr(),
        })
    }

    /// The labels in the file that the lifecycle's builder leaves in images (`files.BuildMetadata`).
    fn metadata(&self) -> String {
        let labels = self.image.record.labels.iter();
        let labels = labels.map(|label| {
            format!(
                "[[labels]]\n  key = {:?}\n  value = {:?}\n",
                label.key, label.value
            )
        });
        labels.collect()
    }

    /// Path in the image and on this machine of each layer, by name.
    fn layers(&self) -> Vec<(PathBuf, PathBuf)> {
        let inside = self.image.layers_dir();
        self.image
            .record
            .layers
            .keys()
            .filter_map(|name| Some((inside.join(name), self.image.layer_dir(name)?)))
            .collect()
    }

    /// Command with arguments, and working directory.
    fn resolve(&self) -> Result<(Vec<String>, PathBuf)> {
        let workspace = PathBuf::from("/workspace");
        let Some(name) = &self.process else {
            ensure!(
                !self.command.is_empty(),
                "when there is no default process a command is required"
            );
            return Ok((self.command.clone(), workspace));
        };
        let process = self
            .image
            .record
            .processes
            .iter()
            .find(|process| process.r#type == *name)
            .with_context(|| format!("process type {name} was not found"))?;
        let args = if self.command.is_empty() {
            &process.args
        } else {
            &self.command
        };
        let command = [process.command.as_slice(), args].concat();
        Ok((command, process.working_dir.clone().unwrap_or(workspace)))
    }

    /// The environment of the process: the sandbox's, changed by the layers in the order of
    /// their names, then by their `exec.d` programs.
    fn environment(&self, sandbox: &Sandbox) -> Result<Env> {
        let mut env = sandbox.env_map();
        let layers = self.layers();
        for (inside, layer) in &layers {
            add_layer_root(&mut env, layer, inside);
        }
        let process = self.process.as_deref();
        for (_, layer) in &layers {
            add_env_dir(&mut env, &layer.join("env"))?;
            add_env_dir(&mut env, &layer.join("env.launch"))?;
            if let Some(process) = process {
                add_env_dir(&mut env, &layer.join("env.launch").join(process))?;
            }
        }
        for (inside, layer) in &layers {
            let common = Path::new("exec.d").to_path_buf();
            for directory in [Some(common.clone()), process.map(|p| common.join(p))] {
                let Some(directory) = directory else { continue };
                for program in entries(&layer.join(&directory), false)? {
                    let name = program.file_name().unwrap_or_default();
                    exec_d(sandbox, &mut env, &inside.join(&directory).join(name))?;
                }
            }
        }
        Ok(env)
    }
}

/// Runs an `exec.d` program: what it writes to file descriptor 3 is TOML of variables to set.
fn exec_d(sandbox: &Sandbox, env: &mut Env, program: &Path) -> Result<()> {
    let output = sandbox
        .clone()
        .only_env(env)
        .directory("/workspace")
        .streams(Streams::Separate)
        .run([
            "sh".as_ref(),
            "-c".as_ref(),
            "exec \"$0\" 3>&1 >&2".as_ref(),
            program.as_os_str(),
        ])?;
    ensure!(
        output.code == 0,
        "exec.d program {} failed with status {}:\n{}",
        program.display(),
        output.code,
        output.stderr
    );
    let set: Env = toml::from_str(&output.stdout)
        .with_context(|| format!("output of exec.d program {}", program.display()))?;
    env.extend(set);
    Ok(())
}
