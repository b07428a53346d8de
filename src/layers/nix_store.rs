//! The `nix-store` layer: the Nix that evaluates and the sources that it took, kept for the next build and
//! in no image.
//!
//! A few files, which are restored faster than thousands, and nothing that is believed because it is here:
//! Nix as a closure whose signatures are checked again, or as the release archive, which must have the hash
//! that is pinned; and the NARs of pinned sources, each with the hash from which its store path is made.

use crate::layers::launch_layer::LayerError;
use crate::log;
use crate::tools::{NixSource, ToolError, ToolSource, tool_name};
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
use nix_runner::programs::{self, Programs};
use nix_runner::supply::Supply;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Raised whenever the layer's files change their form.
const FORMAT: &str = "3";

/// The binary cache of files that Nix is in.
const PROGRAMS: &str = "nix";

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

/// A Nix, ready to be unpacked any number of times.
#[derive(Debug)]
pub enum PackedNix {
    Closure(Programs),
    Release(PathBuf),
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
        kept.map_err(LayerError::at(path))
    }

    /// The Nix that `source` names: the layer's, from a binary cache of `supply`, or the release.
    pub fn nix(
        &self,
        source: &NixSource,
        supply: &Supply,
        http: &Http,
    ) -> Result<PackedNix, ToolError> {
        let directory = self.path.join(PROGRAMS);
        let trust = supply.substituters().trust();
        let kept = source.store_path.as_ref();
        if let Some(kept) = kept.and_then(|path| Programs::open(&directory, path, trust)) {
            log::sub_bullet(format!("Using {} from the cache", source.name()));
            return Ok(PackedNix::Closure(kept));
        }
        let file = source.release.as_ref().map(|release| {
            let sha256 = hex::encode(release.download.sha256);
            self.path.join(format!("nix-{sha256}.tar"))
        });
        if let (Some(release), Some(file)) = (&source.release, &file)
            && release.matches(file)
        {
            log::sub_bullet(format!("Using {} from the cache", source.name()));
            return Ok(PackedNix::Release(file.clone()));
        }
        self.forget_nix();
        if let Some(path) = &source.store_path {
            let timer =
                print::sub_start_timer(format!("Taking {} from the binary caches", source.name()));
            let fetched = programs::fetch(&directory, path, supply);
            timer.done();
            match fetched {
                Ok(programs) => return Ok(PackedNix::Closure(programs)),
                Err(error) if source.release.is_none() => {
                    return Err(ToolError::NotInCaches(path.clone(), error));
                }
                Err(error) => log::sub_bullet(format!("Taking the release instead: {error}")),
            }
            self.forget_nix();
        }
        match (&source.release, file) {
            (Some(release), Some(file)) => download(release, http, file),
            _ => Err(ToolError::Inventory("it names no Nix".to_string())),
        }
    }

    /// Removes every Nix, and what a build that was broken off left.
    pub fn forget_nix(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let path = entry.path();
            // What stays only takes space.
            let _ = match entry.file_name().as_encoded_bytes() {
                name if name == PROGRAMS.as_bytes() => fs::remove_dir_all(path),
                name if name.starts_with(b"nix-") => fs::remove_file(path),
                _ => Ok(()),
            };
        }
    }
}

/// Downloads a release to `file`, where its hash is right.
fn download(release: &ToolSource, http: &Http, file: PathBuf) -> Result<PackedNix, ToolError> {
    let timer = print::sub_start_timer(format!("Downloading {}", tool_name(release)));
    let partial = file.with_extension("partial");
    let downloaded = release.download(http, &partial).and_then(|()| {
        fs::rename(&partial, &file).map_err(|error| ToolError::Write(file.clone(), error))
    });
    timer.done();
    if downloaded.is_err() {
        // The error is what matters; it is forgotten with the next Nix.
        let _ = fs::remove_file(&partial);
    }
    downloaded.map(|()| PackedNix::Release(file))
}

impl PackedNix {
    /// Unpacks what Nix loads to `target`, and returns the directory of its programs.
    pub fn unpack(&self, target: &Target) -> Result<PathBuf, ArchiveError> {
        match self {
            Self::Closure(programs) => programs.unpack(target),
            Self::Release(file) => archive::unpack_release(file, target),
        }
    }
}
