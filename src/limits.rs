//! What the build asks of the kernel for its own process and those that it starts.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// Files that may be open at once, where the host allows: each NAR that is unpacked holds one a
/// directory that it is in, and there are up to 32 NARs and some 100 connections.
const OPEN_FILES: u64 = 8192;

/// Sets them; where the kernel refuses, things stay as they are.
///
/// No core is dumped: it would hold the credentials of private caches, and lie in the app's
/// directory, which becomes part of the image. One byte is too little for a file, and the one limit
/// that also keeps the kernel from piping a core to a program (core(5)).
///
/// Freed windows of decoders are given back at once: the memory that a build may take is promised.
///
/// Modes are the same on every platform: they are a part of a layer's digest, and an app may run as
/// another user than the one that builds.
pub fn set() {
    nix_hydra_start::return_large_allocations();
    umask(Mode::WGRP | Mode::WOTH);
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(1),
            maximum: getrlimit(Resource::Core).maximum,
        },
    );
    let files = getrlimit(Resource::Nofile);
    let wanted = files
        .maximum
        .map_or(OPEN_FILES, |most| most.min(OPEN_FILES));
    if files.current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(wanted),
                maximum: files.maximum,
            },
        );
    }
}
