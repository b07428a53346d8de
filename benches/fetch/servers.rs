//! What the closures are downloaded from: nginx on loopback, and a proxy that adds latency.

use crate::cases::Case;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long nginx may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Both servers; dropping it ends them.
pub(crate) struct Servers {
    nginx: Child,
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
        let nginx = Command::new("nginx")
            .arg("-c")
            .arg(&configuration)
            .spawn()
            .context("nginx cannot be started")?;
        let mut proxy = Command::new(std::env::current_exe()?)
            .args(["proxy", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = proxy.stdout.take();
        let mut servers = Self {
            nginx,
            configuration,
            port,
            proxy,
            proxy_port: String::new(),
        };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(started.elapsed() < PATIENCE, "nginx does not answer");
            sleep(Duration::from_millis(10));
        }
        BufReader::new(output.context("the proxy has no output")?)
            .read_line(&mut servers.proxy_port)?;
        Ok(servers)
    }

    pub(crate) fn url(&self, case: &Case) -> String {
        if case.distant {
            format!("http://127.0.0.1:{}/{}", self.proxy_port.trim(), case.name)
        } else {
            format!("http://127.0.0.1:{}/{}", self.port, case.name)
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let stop = Command::new("nginx")
            .arg("-c")
            .arg(&self.configuration)
            .args(["-s", "stop"])
            .output();
        if stop.is_ok_and(|stop| stop.status.success()) {
            let _ = self.nginx.wait();
        }
        // Its input ends here, and then so does it.
        drop(self.proxy.stdin.take());
        let _ = self.proxy.wait();
    }
}

fn nginx_configuration(cases: &[Case], directory: &Path, port: u16) -> Result<String> {
    let directory = directory.display();
    let mut text = format!(
        "daemon off;
user root;
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
