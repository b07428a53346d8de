//! A layer that is in the image alone, and costs nothing as long as it holds.
//!
//! The lifecycle gives such a layer's metadata back, but not its content. If the metadata still
//! says what is wanted, the directory is left absent and the layer declared again: the lifecycle
//! then takes the previous image's blob, with no download, unpacking, packing or upload. libcnb's
//! layer API leaves this case out, so the files are written here, with its data types.
//!
//! The lifecycle keeps metadata as JSON, which gives integers back as floats: metadata is made of
//! strings, lists and tables, and whatever has numbers is kept as text ([`as_json`]).

use libcnb_data::generic::GenericMetadata;
use libcnb_data::layer_content_metadata::{LayerContentMetadata, LayerTypes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A layer directory and its `.toml`.
#[derive(Debug)]
pub struct LaunchLayer {
    pub path: PathBuf,
    toml: PathBuf,
}

/// What there is of a layer when a build begins.
#[derive(Debug)]
pub enum LayerState<M> {
    /// The previous image's layer is what is wanted; its metadata.
    Kept(M),
    /// There is an empty directory to fill; the previous image's metadata, if it can be read.
    Empty { previous: Option<M> },
}

/// A layer's files could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct LayerError {
    pub path: PathBuf,
    #[source]
    pub reason: io::Error,
}

impl LayerError {
    /// Makes an error of a reason, for `map_err`.
    pub fn at(path: impl Into<PathBuf>) -> impl Fn(io::Error) -> Self {
        let path = path.into();
        move |reason| Self {
            path: path.clone(),
            reason,
        }
    }
}

impl LaunchLayer {
    pub fn new(layers_dir: &Path, name: &str) -> Self {
        Self {
            path: layers_dir.join(name),
            toml: layers_dir.join(format!("{name}.toml")),
        }
    }

    /// Keeps the previous image's layer if `holds` says so of its metadata, else empties it.
    pub fn keep_if<M: Serialize + DeserializeOwned>(
        &self,
        holds: impl FnOnce(&M) -> bool,
    ) -> Result<LayerState<M>, LayerError> {
        match self.take()? {
            Some(metadata) if holds(&metadata) => {
                self.write(&metadata)?;
                Ok(LayerState::Kept(metadata))
            }
            previous => {
                self.create()?;
                Ok(LayerState::Empty { previous })
            }
        }
    }

    /// Whether the previous image has the layer.
    pub fn is_declared(&self) -> bool {
        self.toml.exists() && !self.path.exists()
    }

    /// Removes what there is of the layer, and returns the previous image's metadata, if it can be
    /// read.
    ///
    /// The lifecycle never restores the content of a launch layer. Where there is some, a build left it
    /// that broke off later, and the previous image need not have the layer.
    pub fn take<M: DeserializeOwned>(&self) -> Result<Option<M>, LayerError> {
        let metadata = self.previous()?;
        self.remove()?;
        Ok(metadata)
    }

    /// The previous image's metadata, if it can be read.
    pub fn previous<M: DeserializeOwned>(&self) -> Result<Option<M>, LayerError> {
        let text = match fs::read_to_string(&self.toml) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(LayerError::at(&self.path)(error)),
        };
        let text = text.filter(|_| !self.path.exists());
        // Metadata of another version of this buildpack may have any shape: then it does not hold.
        let metadata = text
            .as_deref()
            .and_then(|text| toml::from_str::<LayerContentMetadata<GenericMetadata>>(text).ok())
            .and_then(|content| content.metadata)
            .and_then(|metadata| metadata.try_into::<M>().ok());
        Ok(metadata)
    }

    /// Makes an empty directory to fill.
    pub fn create(&self) -> Result<(), LayerError> {
        self.remove()?;
        fs::create_dir_all(&self.path).map_err(LayerError::at(&self.path))
    }

    /// Declares the layer, with its metadata. Call this once its content is whole.
    pub fn write<M: Serialize>(&self, metadata: &M) -> Result<(), LayerError> {
        let content = LayerContentMetadata {
            types: Some(LayerTypes {
                launch: true,
                build: false,
                cache: false,
            }),
            metadata,
        };
        toml::to_string(&content)
            .map_err(io::Error::other)
            .and_then(|text| fs::write(&self.toml, text))
            .map_err(LayerError::at(&self.path))
    }

    /// Removes the directory and its declaration, so that nothing half-made is left.
    pub fn remove(&self) -> Result<(), LayerError> {
        // A build that is killed in between must not leave what looks like a layer of the previous image.
        absent(fs::remove_file(&self.toml))
            .and_then(|()| absent(fs::remove_dir_all(&self.path)))
            .map_err(LayerError::at(&self.path))
    }
}

/// Keeps a part of a layer's metadata as a text of JSON.
pub mod as_json {
    use serde::Deserialize;
    use serde::de::{DeserializeOwned, Deserializer, Error as _};
    use serde::ser::{Error as _, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(value).map_err(S::Error::custom)?;
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map_err(D::Error::custom)
    }
}

/// Takes it for a success where there was nothing to remove.
fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    struct Metadata {
        roots: Vec<String>,
    }

    fn metadata() -> Metadata {
        Metadata {
            roots: vec!["a".into()],
        }
    }

    /// What the lifecycle leaves of a launch layer: metadata, no types, no directory.
    fn restored(layers_dir: &Path) -> LaunchLayer {
        fs::write(
            layers_dir.join("closure.toml"),
            "[metadata]\nroots = [\"a\"]\n",
        )
        .unwrap();
        LaunchLayer::new(layers_dir, "closure")
    }

    #[test]
    fn a_layer_that_holds_is_declared_again_and_stays_absent() {
        let layers = tempfile::tempdir().unwrap();
        let layer = restored(layers.path());
        match layer
            .keep_if::<Metadata>(|previous| *previous == metadata())
            .unwrap()
        {
            LayerState::Kept(kept) => assert_eq!(kept, metadata()),
            LayerState::Empty { .. } => panic!("it was thrown away"),
        }
        assert!(!layer.path.exists());
        let toml = fs::read_to_string(layers.path().join("closure.toml")).unwrap();
        assert!(toml.contains("launch = true"), "{toml}");
    }

    #[test]
    fn a_layer_that_does_not_hold_is_made_anew() {
        let layers = tempfile::tempdir().unwrap();
        let layer = restored(layers.path());
        let state = layer.keep_if::<Metadata>(|_| false).unwrap();
        assert!(matches!(state, LayerState::Empty { previous: Some(_) }));
        assert!(layer.path.is_dir());
        assert!(!layers.path().join("closure.toml").exists());
    }

    #[test]
    fn a_layer_that_has_content_is_not_of_the_previous_image() {
        let layers = tempfile::tempdir().unwrap();
        let layer = restored(layers.path());
        fs::create_dir(&layer.path).unwrap();
        let state = layer.keep_if::<Metadata>(|_| true).unwrap();
        assert!(matches!(state, LayerState::Empty { previous: None }));
        assert!(!layers.path().join("closure.toml").exists());
    }

    #[test]
    fn metadata_of_another_shape_does_not_hold() {
        let layers = tempfile::tempdir().unwrap();
        fs::write(
            layers.path().join("closure.toml"),
            "[metadata]\nother = 1\n",
        )
        .unwrap();
        let layer = LaunchLayer::new(layers.path(), "closure");
        let state = layer.keep_if::<Metadata>(|_| true).unwrap();
        assert!(matches!(state, LayerState::Empty { previous: None }));
    }
}
