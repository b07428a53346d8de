//! What the closures are downloaded from: nginx on loopback, and a proxy that adds latency.

use crate::cases::Case;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Both servers; dropping it ends them.
pub(crate) struct Servers {
    configuration: PathBuf,
    port: u16,
    proxy: Child,
    proxy_port: String,
}

impl Servers {
    /// Serves the cache of each case below the case's name.
    pub(crate) fn start(cases: &[Case], directory: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let configuration = directory.join("nginx.conf");
        std::fs::write(&configuration, nginx_configuration(cases, directory, port)?)?;
        nginx(&configuration, &[])?;

        let mut proxy = Command::new(std::env::current_exe()?)
            .args(["proxy", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut proxy_port = String::new();
        let output = proxy.stdout.take().context("the proxy has no output")?;
        BufReader::new(output).read_line(&mut proxy_port)?;
        Ok(Self {
            configuration,
            port,
            proxy,
            proxy_port: proxy_port.trim().to_string(),
        })
    }

    pub(crate) fn url(&self, case: &Case) -> String {
        if case.distant {
            format!("http://127.0.0.1:{}/{}", self.proxy_port, case.name)
        } else {
            format!("http://127.0.0.1:{}/{}", self.port, case.name)
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = nginx(&self.configuration, &["-s", "stop"]);
        // Its input ends here, and then so does it.
        drop(self.proxy.stdin.take());
        let _ = self.proxy.wait();
    }
}

fn nginx(configuration: &Path, arguments: &[&str]) -> Result<()> {
    let run = Command::new("nginx")
        .arg("-c")
        .arg(configuration)
        .args(arguments)
        .stderr(Stdio::piped())
        .output()
        .context("nginx cannot be started")?;
    if !run.status.success() {
        bail!("nginx: {}", String::from_utf8_lossy(&run.stderr));
    }
    Ok(())
}

fn nginx_configuration(cases: &[Case], directory: &Path, port: u16) -> Result<String> {
    let directory = directory.display();
    let mut text = format!(
        "user root;
worker_processes auto;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "  {kind}_temp_path {directory}/nginx-{kind};")?;
    }
    writeln!(text, "  server {{\n    listen 127.0.0.1:{port};")?;
    for case in cases {
        let (name, cache) = (case.name, case.cache.display());
        writeln!(text, "    location /{name}/ {{ alias {cache}/; }}")?;
    }
    text.push_str("  }\n}\n");
    Ok(text)
}
