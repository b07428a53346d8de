//! The first process in PRoot, the crate `nix-hydra-inside`, and the words that it is started with.

use crate::image::{Found, INSIDE};
use crate::place::Place;
use nix_hydra_inside::{FOREGROUND, OWN_GROUP};
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::PathBuf;

/// Where the program is.
pub(crate) fn program(found: &Found) -> PathBuf {
    found.layer.join(INSIDE)
}

/// Its words up to the app's command, in the order of [`nix_hydra_inside::Words`]: the pipe for its
/// report, the app's standard error, and the variables that the app must not get.
pub(crate) fn words<'a>(
    (pipe, errors): (RawFd, RawFd),
    place: Place,
    found: &Found,
    variables: impl Iterator<Item = &'a OsStr>,
) -> [OsString; 5] {
    let letters = [(place.own_group, OWN_GROUP), (place.foreground, FOREGROUND)];
    let letters = letters.into_iter().filter(|(is_so, _)| *is_so);
    let place: String = letters.map(|(_, letter)| char::from(letter)).collect();
    let root = found.image.roots.first().cloned().unwrap_or_default();
    let variables: Vec<_> = variables.collect();
    [
        pipe.to_string().into(),
        errors.to_string().into(),
        place.into(),
        root.into(),
        variables.join(OsStr::new(",")),
    ]
}
