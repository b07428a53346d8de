//! The `nix-store` layer: the Nix that evaluates and what it found out, kept for the next build and
//! in no image.
//!
//! A few files, which are restored faster than thousands: the release archive packed again so that it
//! unpacks ten times faster, under a name with the release's own hash; the memo; and the NARs of pinned
//! sources. The archive's own hash is beside it, and checked before it is used.

use crate::layers::launch_layer::LayerError;
use crate::layers::memo::{Key, Memo};
use crate::log;
use crate::root::Root;
use crate::tools::{self, ToolError, ToolSource, tool_name};
use bullet_stream::global::print;
use http_client::Http;
use libcnb::Buildpack;
use libcnb::build::BuildContext;
use libcnb::data::layer_name;
use libcnb::layer::{CachedLayerDefinition, InvalidMetadataAction, RestoredLayerAction};
use nix_derivation::StorePath;
use nix_runner::Nix;
use nix_runner::archive::{self, ArchiveError, Target};
use nix_runner::kept::Kept;
use nix_runner::nar_store::NarStore;
use nix_runner::temporary;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Raised whenever the layer's files change their form.
const FORMAT: &str = "2";

const MEMO: &str = "memo.json";

/// The directory of what evaluations took from binary caches and URLs.
const SOURCES: &str = "sources";

#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    format: String,
}

/// The layer's directory.
#[derive(Debug)]
pub struct NixStoreLayer {
    path: PathBuf,
}

/// A release of Nix, ready to be unpacked any number of times.
#[derive(Debug)]
pub struct NixArchive {
    packed: PathBuf,
    /// The release as it was downloaded, where it was not packed before.
    release: Option<(TempDir, PathBuf)>,
}

/// Opens the layer, as the build before left it.
pub fn open<B: Buildpack>(context: &BuildContext<B>) -> libcnb::Result<NixStoreLayer, B::Error> {
    let layer = context.cached_layer(
        layer_name!("nix-store"),
        CachedLayerDefinition {
            build: false,
            launch: false,
            invalid_metadata_action: &|_| InvalidMetadataAction::DeleteLayer,
            restored_layer_action: &|previous: &Metadata, _: &Path| {
                if previous.format == FORMAT {
                    RestoredLayerAction::KeepLayer
                } else {
                    RestoredLayerAction::DeleteLayer
                }
            },
        },
    )?;
    layer.write_metadata(Metadata {
        format: FORMAT.to_string(),
    })?;
    Ok(NixStoreLayer { path: layer.path() })
}

impl NixStoreLayer {
    /// A directory below `directory` in the place of the layer, where there is no platform.
    pub fn at(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!("nix-store-{FORMAT}"));
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    /// What an evaluation gave in an earlier build.
    #[must_use]
    pub fn recall(&self, key: &Key) -> Option<Vec<Root>> {
        self.memo().recall(key)
    }

    /// Keeps what an evaluation gave.
    pub fn remember(&self, key: Key, roots: &[Root]) -> Result<(), LayerError> {
        let mut memo = self.memo();
        memo.remember(key, roots);
        let path = self.path.join(MEMO);
        serde_json::to_vec(&memo)
            .map_err(io::Error::other)
            .and_then(|bytes| fs::write(&path, bytes))
            .map_err(|reason| LayerError { path, reason })
    }

    /// Puts the sources that the last evaluation took into a store.
    pub fn restore_sources(&self, store: &NarStore) {
        Kept::new(self.path.join(SOURCES)).restore(store);
    }

    /// Keeps the sources that `nix` has taken, without the app's own.
    pub fn keep_sources(&self, nix: &Nix, app: &StorePath) -> Result<(), LayerError> {
        let mut taken = nix.taken();
        taken.retain(|(path, _)| path != app);
        let path = self.path.join(SOURCES);
        let kept = Kept::new(path.clone()).keep(nix.store(), &taken);
        kept.map_err(|reason| LayerError { path, reason })
    }

    /// The memo; an empty one where there is none, or one that cannot be read.
    fn memo(&self) -> Memo {
        fs::read(self.path.join(MEMO))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// The Nix that `source` names: the layer's, or downloaded.
    pub fn nix(&self, source: &ToolSource, http: &Http) -> Result<NixArchive, ToolError> {
        let name = format!("nix-{}.tar.zst", hex::encode(source.download.sha256));
        let packed = self.path.join(&name);
        let kept = fs::read_to_string(hash_file(&packed)).unwrap_or_default();
        if hash_of(&packed).is_ok_and(|hash| hash == kept) {
            log::sub_bullet(format!("Using {} from the cache", tool_name(source)));
            return Ok(NixArchive {
                packed,
                release: None,
            });
        }
        self.forget_archives();
        let directory = temporary::directory().map_err(ToolError::Temporary)?;
        let release = directory.path().join("nix.tar.xz");
        let timer = print::sub_start_timer(format!("Downloading {}", tool_name(source)));
        let downloaded = source.download(http, &release);
        timer.done();
        downloaded?;
        Ok(NixArchive {
            packed,
            release: Some((directory, release)),
        })
    }

    /// Removes archives of other releases, and what a build that was broken off left.
    fn forget_archives(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b"nix-") {
                // What stays only takes space.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl NixArchive {
    /// Unpacks it to `target`, and packs it for the next build where that was not done yet.
    pub fn unpack(&self, target: &Target) -> Result<PathBuf, ArchiveError> {
        let write_error = |error| ArchiveError::Write(self.packed.clone(), error);
        match &self.release {
            Some((_, release)) if !self.packed.exists() => {
                let partial = self.packed.with_extension("partial");
                let bin = archive::unpack_release(release, target, Some(&partial))?;
                let hash = hash_of(&partial).map_err(write_error)?;
                fs::write(hash_file(&self.packed), hash).map_err(write_error)?;
                fs::rename(&partial, &self.packed).map_err(write_error)?;
                Ok(bin)
            }
            _ => archive::unpack_packed(&self.packed, target),
        }
    }
}

fn hash_file(packed: &Path) -> PathBuf {
    packed.with_extension("zst.sha256")
}

fn hash_of(file: &Path) -> io::Result<String> {
    tools::hash_of(file).map(hex::encode)
}
