//! The commands of Nix, with an environment and settings of their own.

use super::building::Building;
use super::{Nix, NixError};
use crate::engine::{Engine, View};
use crate::trace::trim_trace;
use nix_derivation::StorePath;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Settings for a build container: no daemon, no root, no user namespaces.
const SETTINGS: &str = "\
build-users-group =
filter-syscalls = false
fsync-metadata = false
builders =
experimental-features = nix-command flakes
flake-registry =
accept-flake-config = false
warn-dirty = false
use-sqlite-wal = false
connect-timeout = 10
download-attempts = 3
";

/// What Nix sees of the build's environment: where programs are, which certificates to trust, and how to
/// reach servers. Nothing else of it may change what is evaluated.
const KEPT_VARIABLES: [&str; 19] = [
    "PATH",
    "USER",
    "LANG",
    "LC_ALL",
    "NIX_SSL_CERT_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "SSH_AUTH_SOCK",
    "LD_LIBRARY_PATH",
];

impl Nix {
    pub(super) fn command(&self, program: &str, offline: bool) -> Command {
        let home = self.scratch.path().join("home");
        let cache = home.join(if offline { "no-cache" } else { "cache" });
        let program = self.bin.join(program);
        let view = View {
            nix: &self.shown_nix(),
            hidden: &self.hidden,
            scratch: self.scratch.path(),
        };
        let mut command = self.engine.command(program.as_os_str(), view);
        // Nothing of the user's own Nix may change what is evaluated.
        for (name, _) in std::env::vars_os() {
            let kept = name
                .to_str()
                .is_some_and(|name| KEPT_VARIABLES.contains(&name));
            if !kept && !name.as_encoded_bytes().starts_with(b"PROOT_") {
                command.env_remove(name);
            }
        }
        let mut settings = SETTINGS.to_string();
        settings.push_str(match &self.building {
            Building::No => "sandbox = false\nmax-jobs = 0\n",
            Building::Open => "sandbox = false\nmax-jobs = auto\ncores = 0\n",
            Building::Sandboxed(_) => "sandbox = true\nmax-jobs = auto\ncores = 0\n",
        });
        if let Building::Sandboxed(paths) = &self.building {
            settings.push_str("sandbox-paths = ");
            settings.push_str(paths);
            settings.push('\n');
        }
        if offline {
            settings.push_str("substituters =\ndownload-attempts = 1\n");
            // A port that nothing listens on, for every protocol that Nix and git speak.
            for name in [
                "http_proxy",
                "https_proxy",
                "all_proxy",
                "HTTPS_PROXY",
                "ALL_PROXY",
            ] {
                command.env(name, "http://127.0.0.1:9");
            }
            command.env("no_proxy", "").env("NO_PROXY", "");
            // Those without proxies, such as SSH.
            command.env("GIT_ALLOW_PROTOCOL", "file:http:https");
        } else {
            settings.push_str(&self.supply.substituters().settings());
        }
        let store = match self.engine {
            Engine::Direct => format!("local?root={}", self.scratch.path().join("root").display()),
            Engine::Namespace | Engine::PRoot { .. } => "local".to_string(),
        };
        command
            .env("HOME", &home)
            // It puts its own temporary files where this program could.
            .envs(
                self.scratch
                    .path()
                    .parent()
                    .map(|parent| ("TMPDIR", parent)),
            )
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_CONFIG_DIRS", home.join("config"))
            .env("XDG_CACHE_HOME", cache)
            .env("XDG_DATA_HOME", home.join("data"))
            .env("XDG_STATE_HOME", home.join("state"))
            .env("NIX_CONF_DIR", home.join("nix"))
            .env("NIX_CONFIG", settings)
            .env("NIX_PATH", "")
            .env("NO_COLOR", "1")
            .args(["--option", "netrc-file"])
            .arg(home.join("netrc"))
            .args(["--store", &store]);
        command
    }

    /// Runs a command to what it printed, or the last line of what it complained about.
    pub(super) fn succeeds(&self, command: Command) -> Result<String, String> {
        let output = run(command, &[]).map_err(|error| match error {
            NixError::Start(program, error) => format!("{}: {error}", program.display()),
            other => format!("{other:?}"),
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = self.trimmed_error(&output.stderr, None);
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        Err(last.unwrap_or("it ended without a word").trim().to_string())
    }

    /// What Nix wrote to standard error, without what is about this program's own function, and of a trace
    /// that leads through the source `own` little else.
    pub fn trimmed_error(&self, stderr: &[u8], own: Option<&StorePath>) -> String {
        let text = String::from_utf8_lossy(stderr);
        let own = own.map(StorePath::to_absolute_path);
        trim_trace(
            &text,
            &self.scratch.path().to_string_lossy(),
            own.as_deref(),
        )
    }
}

pub(super) fn run(mut command: Command, input: &[u8]) -> Result<Output, NixError> {
    let program = PathBuf::from(command.get_program());
    let start_error = |error| NixError::Start(program.clone(), error);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start_error)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read what it is given says why when it ends.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output().map_err(start_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supply::Supply;
    use crate::{AccessTokens, Substituters};
    use binary_cache::TrustSettings;
    use binary_cache::credentials::Netrc;
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::sync::Arc;

    #[test]
    fn nix_sees_nothing_of_the_environment_but_what_it_needs() {
        let trust = TrustSettings {
            keys: Vec::new(),
            required: true,
        };
        let substituters =
            Substituters::new(Vec::new(), trust, Netrc::default(), AccessTokens::default());
        let supply = Arc::new(Supply::new(substituters).unwrap());
        let nix = Nix::new(PathBuf::from("/nowhere"), supply).unwrap();
        let command = nix.command("nix", false);
        let set: BTreeMap<_, _> = command.get_envs().collect();
        let is_set = |name: &str| set.get(OsStr::new(name)).is_some_and(Option::is_some);
        // Cargo sets this one for each test.
        assert_eq!(set.get(OsStr::new("CARGO_MANIFEST_DIR")), Some(&None));
        assert!(!is_set("PATH"), "it is inherited");
        for name in ["HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "NIX_CONF_DIR"] {
            assert!(is_set(name), "{name}");
        }
    }
}
