//! The `nix-store` layer: the Nix that evaluates, kept for the next build and in no image.
//!
//! It holds the release archive as it was downloaded. One file is restored faster than the
//! thousands in it, and its hash is checked again before it is used.

use crate::http::Http;
use crate::output::tool_name;
use crate::tools::{ToolError, ToolSource};
use bullet_stream::global::print;
use libcnb::Buildpack;
use libcnb::build::BuildContext;
use libcnb::data::layer_name;
use libcnb::layer::{
    CachedLayerDefinition, InvalidMetadataAction, LayerState, RestoredLayerAction,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const ARCHIVE: &str = "nix.tar.xz";

#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    /// SHA-256 of the archive.
    sha256: String,
}

/// The file of the release archive that `source` names, downloaded unless the layer has it.
pub fn handle<B: Buildpack>(
    context: &BuildContext<B>,
    source: &ToolSource,
    http: &Http,
) -> libcnb::Result<PathBuf, B::Error>
where
    B::Error: From<ToolError>,
{
    let wanted = Metadata {
        sha256: hex::encode(source.download.sha256),
    };
    let layer = context.cached_layer(
        layer_name!("nix-store"),
        CachedLayerDefinition {
            build: false,
            launch: false,
            invalid_metadata_action: &|_| InvalidMetadataAction::DeleteLayer,
            restored_layer_action: &|previous: &Metadata, directory: &Path| {
                if previous.sha256 == wanted.sha256 && source.matches(&directory.join(ARCHIVE)) {
                    RestoredLayerAction::KeepLayer
                } else {
                    RestoredLayerAction::DeleteLayer
                }
            },
        },
    )?;
    let archive = layer.path().join(ARCHIVE);
    match layer.state {
        LayerState::Restored { .. } => {
            print::sub_bullet(format!("Using {} from the cache", tool_name(source)));
        }
        LayerState::Empty { .. } => {
            let timer = print::sub_start_timer(format!("Downloading {}", tool_name(source)));
            let downloaded = source.download(http, &archive);
            timer.done();
            downloaded.map_err(|error| libcnb::Error::BuildpackError(error.into()))?;
            layer.write_metadata(wanted)?;
        }
    }
    Ok(archive)
}
