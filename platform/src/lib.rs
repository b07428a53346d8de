//! The tests' stand-in for `pack` and the lifecycle: packages a buildpack, builds an app with it
//! as a Cloud Native Buildpacks platform does, keeps the image in a directory, and starts its
//! processes, all as an ordinary user in a sandbox that has no `/nix`.
//!
//! It needs no Docker and no registry. What it does is taken from the buildpack specification
//! (Buildpack API 0.10) and from the behaviour of lifecycle 0.21.17 on Platform API 0.14; each
//! module says what it leaves out. For development only: nothing here goes into the buildpack.
//!
//! ```no_run
//! use platform::{fixtures, lifecycle::Build, package, process::Launch, sandbox::Signal, server};
//! use std::{path::Path, time::Duration};
//!
//! # fn main() -> anyhow::Result<()> {
//! let fixtures = fixtures::read()?;
//! let buildpack = package::package(Path::new("."), None, &package::Options::default())?;
//! let cache = server::Server::start(&fixtures.cache)?;
//! let image = tempfile::tempdir()?;
//! let build = Build::new(&fixtures.rootfs, buildpack, &fixtures.apps["python"].dir, image.path())
//!     .env("NIX_EXTRA_BINARY_CACHE", cache.url())
//!     .env("NIX_TRUSTED_PUBLIC_KEYS", &fixtures.public_key);
//! let first = build.run()?;
//! assert!(first.success(), "{}{}", first.detect_log, first.log);
//! cache.take_requests();
//! let second = build.run()?.image.expect("an image");
//! assert!(cache.requests().is_empty() && second.changed_layers().is_empty());
//! let mut web = Launch::new(&second, &fixtures.rootfs).env("PORT", "8080").start()?;
//! web.wait_for("listening", Duration::from_secs(20))?;
//! web.signal(Signal::TERM)?;
//! assert_eq!(web.wait_timeout(Duration::from_secs(5))?, Some(0));
//! # Ok(())
//! # }
//! ```

pub mod bench;
pub mod dns;
pub mod docker;
pub mod docs;
mod env;
pub mod faults;
mod files;
pub mod fixtures;
pub mod greedy;
pub mod image;
pub mod lifecycle;
pub mod narrow;
pub mod nixpkgs;
pub mod pack;
pub mod package;
pub mod process;
pub mod registry;
mod restore;
pub mod sandbox;
pub mod server;

use std::io::Write;

/// Says in one line why the running test was left out: `left out: <test>: <reason>`, printed, and
/// appended to the file that `$NIX_HYDRA_LEFT_OUT` names, so that `script/test` can count.
pub fn left_out(reason: &str) {
    let thread = std::thread::current();
    let line = format!(
        "left out: {}: {reason}\n",
        thread.name().unwrap_or("unnamed test")
    );
    // Straight to the file descriptor: the test harness hides what `print!` writes.
    let _ = std::io::stdout().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("NIX_HYDRA_LEFT_OUT") {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        if let Ok(mut file) = file {
            let _ = file.write_all(line.as_bytes());
        }
    }
}
