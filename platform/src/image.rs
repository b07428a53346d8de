//! What a build leaves behind, as a registry and a cache volume would hold it, in a directory:
//!
//! ```text
//! image.json           the image: layers with digests, the app, processes, labels
//! blobs/<digest>/      contents of a layer, of the app or of the SBOM, unpacked
//! cache/cache.json     the build cache, likewise
//! cache/blobs/<digest>/
//! work/                what the last build worked on: layers/ and workspace/
//! ```
//!
//! Files in blobs have the modification time that the lifecycle gives them, and are hard links to
//! those in `work/layers`, for speed: whoever writes into one writes into the other.
//! Left out: the run image's own layers, the launcher and its configuration, app slices, and
//! compression.

use crate::files::{self, Blob};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A layer of an image or of a cache.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Layer {
    #[serde(flatten)]
    pub blob: Blob,
    pub types: Types,
    /// The layer's `[metadata]`, as JSON, which is how the lifecycle keeps it in a label.
    pub data: Option<serde_json::Value>,
    /// Whether the previous image (or cache) has the same blob: nothing was to be uploaded.
    pub reused: bool,
    /// Whether the buildpack left the layer's directory absent: nothing was even read.
    pub absent: bool,
}

/// `[types]` of a layer's metadata.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Types {
    pub build: bool,
    pub launch: bool,
    pub cache: bool,
}

/// A process type of `launch.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProcessType {
    pub r#type: String,
    pub command: Vec<String>,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub default: bool,
    /// Without it, `/workspace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<PathBuf>,
}

/// A label of `launch.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Label {
    pub key: String,
    pub value: String,
}

/// The image, but for the contents of its blobs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Record {
    pub buildpack_id: String,
    pub buildpack_version: String,
    /// By name.
    pub layers: BTreeMap<String, Layer>,
    /// `store.toml`.
    pub store: Option<serde_json::Value>,
    pub processes: Vec<ProcessType>,
    pub labels: Vec<Label>,
    pub sbom: Option<Blob>,
    pub app: Blob,
    pub app_reused: bool,
}

/// The build cache, but for the contents of its blobs.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct CacheRecord {
    pub layers: BTreeMap<String, Layer>,
    pub sbom: Option<Blob>,
}

/// An image in its directory.
#[derive(Clone, Debug)]
pub struct Image {
    pub dir: PathBuf,
    pub record: Record,
}

impl Image {
    /// Reads the image in a directory.
    ///
    /// # Errors
    /// When there is none, or its `image.json` is not one.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let record = read(&dir.join("image.json"))?
            .with_context(|| format!("no image in {}", dir.display()))?;
        Ok(Self { dir, record })
    }

    /// Where the contents of a layer are on this machine.
    pub fn layer_dir(&self, name: &str) -> Option<PathBuf> {
        let layer = self.record.layers.get(name)?;
        Some(blob_dir(&self.dir, &layer.blob))
    }

    /// Where the contents of `/workspace` are on this machine.
    pub fn app_dir(&self) -> PathBuf {
        blob_dir(&self.dir, &self.record.app)
    }

    /// Names of the layers whose blobs the previous image does not have.
    pub fn changed_layers(&self) -> Vec<&str> {
        let layers = self.record.layers.iter();
        layers
            .filter(|(_, layer)| !layer.reused)
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// The process type that starts where none is named.
    pub fn default_process(&self) -> Option<&str> {
        let default = self.record.processes.iter().find(|p| p.default)?;
        Some(&default.r#type)
    }

    /// `/layers/<buildpack id, escaped>`, as the image has it.
    pub fn layers_dir(&self) -> PathBuf {
        Path::new("/layers").join(escape_id(&self.record.buildpack_id))
    }
}

/// A buildpack's id as a file name: `/` becomes `_`.
pub fn escape_id(id: &str) -> String {
    id.replace('/', "_")
}

pub(crate) fn blob_dir(dir: &Path, blob: &Blob) -> PathBuf {
    dir.join("blobs").join(&blob.digest)
}

/// Reads a JSON file; `None` where there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("reading {}", path.display()))?,
    };
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

/// Writes a record into `dir`, and removes the blobs that are none of `blobs`.
pub(crate) fn write<'a>(
    dir: &Path,
    name: &str,
    record: &impl Serialize,
    blobs: impl IntoIterator<Item = &'a Blob>,
) -> Result<()> {
    fs::create_dir_all(dir)?;
    let temporary = dir.join(format!("{name}.new"));
    fs::write(&temporary, serde_json::to_string_pretty(record)?)?;
    fs::rename(temporary, dir.join(name))?;
    let kept: BTreeSet<_> = blobs.into_iter().map(|b| b.digest.as_str()).collect();
    for blob in crate::env::entries(&dir.join("blobs"), true)? {
        if !blob
            .file_name()
            .is_some_and(|n| kept.contains(&*n.to_string_lossy()))
        {
            files::remove(&blob)?;
        }
    }
    Ok(())
}

/// Puts the tree `parent/name` into `dir` as a blob, unless it is there already.
pub(crate) fn add(dir: &Path, parent: &Path, name: &Path) -> Result<Blob> {
    let blob = files::blob(parent, name)?;
    link_blob(dir, &blob, &parent.join(name))?;
    Ok(blob)
}

/// Puts a tree whose blob is known into `dir`, unless it is there already.
pub(crate) fn link_blob(dir: &Path, blob: &Blob, tree: &Path) -> Result<()> {
    let to = blob_dir(dir, blob);
    if !to.exists() {
        let blobs = dir.join("blobs");
        fs::create_dir_all(&blobs)?;
        let temporary = blobs.join("new");
        files::remove(&temporary)?;
        files::link(tree, &temporary)
            .with_context(|| format!("linking {} into {}", tree.display(), blobs.display()))?;
        fs::rename(temporary, to)?;
    }
    Ok(())
}
