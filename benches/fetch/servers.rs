//! The servers that closures are downloaded from: nginx on loopback, and proxies that add latency.

use crate::cases::{Case, Link};
use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long nginx may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The certificates that clients read besides, since a real machine has them: on Debian.
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// All servers; dropping it ends them.
pub(crate) struct Servers {
    nginx: Child,
    configuration: PathBuf,
    /// Those of the system, and of the authority that is made for each run.
    pub(crate) certificates: PathBuf,
    /// The port of each link.
    ports: BTreeMap<Link, u16>,
    proxies: Vec<Child>,
}

impl Servers {
    /// Serves the cache of each case below the case's name.
    pub(crate) fn start(cases: &[Case], directory: &Path) -> Result<Self> {
        let certificates = make_certificates(directory)?;
        let mut ports = BTreeMap::new();
        for tls in [false, true] {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            ports.insert(Link { tls, latency: 0 }, port);
        }
        let configuration = directory.join("nginx.conf");
        fs::write(
            &configuration,
            nginx_configuration(cases, directory, &ports)?,
        )?;
        let nginx = Command::new("nginx")
            .arg("-c")
            .arg(&configuration)
            .spawn()
            .context("nginx cannot be started")?;
        let mut servers = Self {
            nginx,
            configuration,
            certificates,
            ports,
            proxies: Vec::new(),
        };
        let started = Instant::now();
        while servers
            .ports
            .values()
            .any(|port| TcpStream::connect(("127.0.0.1", *port)).is_err())
        {
            ensure!(started.elapsed() < PATIENCE, "nginx does not answer");
            sleep(Duration::from_millis(10));
        }
        for case in cases {
            servers.start_proxy(case.link)?;
        }
        Ok(servers)
    }

    /// Starts the proxy for a link with latency, unless it runs.
    fn start_proxy(&mut self, link: Link) -> Result<()> {
        if self.ports.contains_key(&link) {
            return Ok(());
        }
        let near = Link { latency: 0, ..link };
        let upstream = format!("127.0.0.1:{}", self.ports[&near]);
        let mut proxy = Command::new(std::env::current_exe()?)
            .args(["proxy", &upstream, &link.latency.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = proxy.stdout.take().context("the proxy has no output")?;
        self.proxies.push(proxy);
        let mut port = String::new();
        BufReader::new(output).read_line(&mut port)?;
        self.ports.insert(link, port.trim().parse()?);
        Ok(())
    }

    pub(crate) fn url(&self, case: &Case) -> String {
        let scheme = if case.link.tls { "https" } else { "http" };
        format!(
            "{scheme}://127.0.0.1:{}/{}",
            self.ports[&case.link], case.name
        )
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
        for proxy in &mut self.proxies {
            // Its input ends here, and then so does it.
            drop(proxy.stdin.take());
            let _ = proxy.wait();
        }
    }
}

/// Makes an authority, and with it the certificate `server.pem` with its key `server.key`. Returns the
/// file of the authorities to trust.
fn make_certificates(directory: &Path) -> Result<PathBuf> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(["127.0.0.1".to_string()])?.signed_by(&key, &authority)?;
    fs::write(directory.join("server.pem"), server.pem())?;
    fs::write(directory.join("server.key"), key.serialize_pem())?;
    let file = directory.join("authorities.pem");
    let system = fs::read_to_string(SYSTEM_CERTIFICATES).unwrap_or_default();
    fs::write(&file, system + &authority.pem())?;
    Ok(file)
}

fn nginx_configuration(
    cases: &[Case],
    directory: &Path,
    ports: &BTreeMap<Link, u16>,
) -> Result<String> {
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
  ssl_protocols TLSv1.3;
  ssl_certificate {directory}/server.pem;
  ssl_certificate_key {directory}/server.key;
"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "  {kind}_temp_path {directory}/nginx-{kind};")?;
    }
    text.push_str("  server {\n");
    for (link, port) in ports {
        let with = if link.tls { " ssl http2" } else { "" };
        writeln!(text, "    listen 127.0.0.1:{port}{with};")?;
    }
    for case in cases {
        let (name, cache) = (case.name, case.cache.display());
        writeln!(text, "    location /{name}/ {{ alias {cache}/; }}")?;
    }
    text.push_str("  }\n}\n");
    Ok(text)
}
