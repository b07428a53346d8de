//! A registry of images on loopback: Debian's `docker-registry`, where it is installed.
//!
//! `pack build --publish` exports to it as to any other, with no Docker engine between.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running registry, gone with all its images when dropped.
#[derive(Debug)]
pub struct Registry {
    server: Child,
    directory: TempDir,
    port: u16,
}

impl Registry {
    /// Starts an empty one, which keeps its images in a new directory below `parent`.
    ///
    /// # Errors
    /// When `docker-registry` is not installed, or does not listen.
    pub fn start(parent: &Path) -> Result<Self> {
        let directory = TempDir::new_in(parent)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let configuration = serde_json::json!({
            "version": 0.1,
            "log": { "level": "error", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": directory.path().join("images") } },
            "http": { "addr": format!("127.0.0.1:{port}") },
        });
        // All JSON is YAML.
        let file = directory.path().join("config.yml");
        fs::write(&file, configuration.to_string())?;
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("docker-registry cannot be started: apt-get install docker-registry")?;
        let registry = Self {
            server,
            directory,
            port,
        };
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            ensure!(
                started.elapsed() < PATIENCE,
                "docker-registry does not listen"
            );
            sleep(Duration::from_millis(10));
        }
        Ok(registry)
    }

    /// What the image `name` is called in it.
    pub fn reference(&self, name: &str) -> String {
        format!("localhost:{}/{name}", self.port)
    }

    /// Pushes the image `tag` of the Docker engine, and answers what it is called here.
    ///
    /// # Errors
    /// When Docker refuses, with what it said.
    pub fn push(&self, tag: &str) -> Result<String> {
        let name = self.reference("pushed");
        let docker = |arguments: &[&str]| -> Result<()> {
            let output = Command::new("docker").args(arguments).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "docker {arguments:?}: {said}");
            Ok(())
        };
        docker(&["tag", tag, &name])?;
        let pushed = docker(&["push", "--quiet", &name]);
        docker(&["rmi", "--no-prune", &name])?;
        pushed.map(|()| name)
    }

    /// Bytes of all its blobs, as they were pushed: layers are compressed.
    ///
    /// # Errors
    /// When its directory cannot be read.
    pub fn bytes(&self) -> Result<u64> {
        bytes(self.directory.path())
    }
}

/// Bytes of the files below `directory`.
fn bytes(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() {
            bytes(&entry.path())?
        } else {
            entry.metadata()?.len()
        };
    }
    Ok(sum)
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
