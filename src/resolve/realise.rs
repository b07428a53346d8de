//! Builds what no binary cache has, where the settings ask for that.

use super::ResolveError;
use super::by_evaluation::proot;
use super::resolved::{Evaluated, Resolved};
use crate::build::Build;
use crate::config::{Config, OnMiss, Wanted};
use crate::log;
use binary_cache::CacheUrl;
use bullet_stream::global::print;
use closure::plan::Miss;
use nix_derivation::StorePath;
use nix_runner::NixError;
use std::io::Write;

/// Whether what is missing is built: where that is asked for, and no cache may have any of it. An outage
/// is no reason to compile for hours, nor is a password or a key that the settings lack.
pub(super) fn is_built(config: &Config, misses: &[Miss]) -> bool {
    config.on_miss == OnMiss::Build && misses.iter().all(Miss::is_certain)
}

/// Builds the roots, or what of them no binary cache has, from their derivations, if the settings ask
/// for that.
///
/// Returns a binary cache that has them, which exists as long as `resolved` does; None where there is no
/// derivation to build, or a cache may have what is missing.
pub fn realise(
    build: &Build,
    resolved: &mut Resolved,
    misses: &[Miss],
) -> Result<Option<CacheUrl>, ResolveError> {
    if !is_built(build.config, misses) {
        if build.config.on_miss == OnMiss::Build {
            print::bullet("Miss");
            log::sub_bullet(
                "Nothing is built: not every binary cache says that it does not have what is missing",
            );
        }
        return Ok(None);
    }
    let nothing_to_build = |why: &str| {
        print::bullet("Miss");
        log::sub_bullet(format!(
            "Nothing is built: there is no derivation, since {why}"
        ));
        Ok(None)
    };
    let Some(Evaluated {
        nix, derivations, ..
    }) = resolved
        .evaluated
        .as_mut()
        .filter(|evaluated| evaluated.thorough)
    else {
        return nothing_to_build(match &build.config.wanted {
            Wanted::StorePath(_) => "NIX_STORE_PATH names what was built already",
            Wanted::HydraJob(..) => "NIX_HYDRA_JOB names what Hydra has built",
            Wanted::Expression(_) => "nothing was evaluated",
        });
    };
    let Some(derivations) = derivations.iter().cloned().collect::<Option<Vec<_>>>() else {
        return nothing_to_build("the expression names a store path, and not how it is built");
    };
    print::bullet("Build");
    let engine = nix.enable_building(build.hidden_from_builders(), &|directory| {
        proot(build, directory)
    })?;
    let result = print::sub_stream_with(
        format!(
            "Building {engine} what no binary cache has of {}",
            words::paths(derivations.len())
        ),
        |log, _| {
            let mut log = Folded::new(log, build.config.debug);
            let result = nix.realise(&derivations, !build.config.debug, &mut |line| {
                log.line(line);
            });
            log.finish();
            result
        },
    );
    result?;
    let roots = resolved.roots.iter();
    let paths: Vec<StorePath> = roots.map(|root| root.path.clone()).collect();
    let directory = nix.copy_to_files(&paths)?;
    let cache = format!("file://{}?trusted=true", directory.display());
    let cache = cache.parse().map_err(|_| {
        ResolveError::Nix(NixError::Write(
            directory,
            std::io::ErrorKind::InvalidFilename.into(),
        ))
    })?;
    Ok(Some(cache))
}

/// Passes on what matters of Nix's log: what is built, warnings, and errors to their end. What is copied is
/// counted.
struct Folded<W> {
    log: W,
    /// Whether everything is passed on.
    is_whole: bool,
    is_error: bool,
    copied: usize,
}

impl<W: Write> Folded<W> {
    fn new(log: W, is_whole: bool) -> Self {
        Self {
            log,
            is_whole,
            is_error: false,
            copied: 0,
        }
    }

    fn line(&mut self, line: &[u8]) {
        self.is_error |= line.starts_with(b"error:");
        self.copied += usize::from(line.starts_with(b"copying path"));
        let matters = line.starts_with(b"building '") || line.starts_with(b"warning:");
        if self.is_whole || self.is_error || matters {
            // A log whose reader is gone is no reason to stop.
            let _ = self.log.write_all(&[line, b"\n"].concat());
        }
    }

    fn finish(mut self) {
        if self.copied > 0 && !self.is_whole {
            let copied = words::paths(self.copied);
            let _ = writeln!(self.log, "{copied} came from the binary caches");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "these 2 derivations will be built:\n  /nix/store/a.drv\n\
        copying path '/nix/store/x' from 'https://cache.nixos.org'...\nbuilding '/nix/store/a.drv'...\n\
        a> compiling\nerror: builder for '/nix/store/a.drv' failed\n       last 2 log lines:\n       > oh\n";

    fn folded(is_whole: bool) -> String {
        let mut shown = Vec::new();
        let mut log = Folded::new(&mut shown, is_whole);
        LOG.lines().for_each(|line| log.line(line.as_bytes()));
        log.finish();
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn what_is_built_and_the_error_are_shown_and_what_is_copied_is_counted() {
        insta::assert_snapshot!(folded(false), @r"
        building '/nix/store/a.drv'...
        error: builder for '/nix/store/a.drv' failed
               last 2 log lines:
               > oh
        1 store path came from the binary caches
        ");
        assert_eq!(folded(true), LOG);
    }
}
