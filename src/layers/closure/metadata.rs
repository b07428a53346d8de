//! What the image's layer says of itself to the next build.

use super::NAME;
use super::planned::known_closure;
use super::relocatability::Relocatability;
use crate::layers::describe::Contents;
use crate::layers::launch_layer::{LaunchLayer, as_json};
use crate::layers::memo::{Key, Memo};
use crate::layers::store_paths::StoreLayers;
use crate::root::Root;
use closure::Closure;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Raised whenever the metadata or content of this layer or those with the store paths changes its form.
pub(super) const FORMAT: &str = "11";

/// What the layer was made from, and what is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Metadata {
    pub format: String,
    /// The image's processor.
    pub machine: String,
    /// Full store paths, the one that leads `PATH` first.
    pub roots: Vec<String>,
    /// The trust settings; with others, all must be checked again.
    pub trust: Vec<String>,
    pub contents: Contents,
    #[serde(with = "as_json")]
    pub relocation: Relocatability,
    /// The patterns of files that the user vouches for.
    pub relocation_ignored: Vec<String>,
    /// The layers in which the store paths are.
    pub layers: Vec<String>,
    /// What was evaluated to the roots, where the next build may know it by that.
    pub memo: Option<Memo>,
}

/// The roots that the previous image's expression evaluated to, if that was by this key.
pub fn recall(layers_dir: &Path, key: &Key) -> Option<Vec<Root>> {
    let previous: Metadata = LaunchLayer::new(layers_dir, NAME).previous().ok()??;
    previous.memo?.recall(key)
}

/// The closure of the previous image. None where there is none, or its metadata lacks a part.
pub fn previous(layers_dir: &Path) -> Option<Closure> {
    let layer = LaunchLayer::new(layers_dir, NAME);
    let metadata: Metadata = layer.take().ok()??;
    let stores = StoreLayers::take(layers_dir, metadata.format == FORMAT).ok()?;
    // Another build may follow in the same directory.
    let _ = stores.put_back().and_then(|()| layer.write(&metadata));
    closure_of(&metadata, &stores)
}

/// The same of metadata that was read. None if the metadata of a store path is not there.
pub(super) fn closure_of(metadata: &Metadata, stores: &StoreLayers) -> Option<Closure> {
    let roots = metadata.roots.iter();
    let roots: Option<Vec<Root>> = roots
        .map(|root| Some(Root::from_path(root.parse().ok()?)))
        .collect();
    known_closure(&roots?, &stores.verified())
}
