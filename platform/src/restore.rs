//! What a build gets back from the previous image and the cache, by the lifecycle's rules
//! (`internal/layer/metadata_restorer.go`, `sbom_restorer.go` and `phase/restorer.go` of 0.21.17,
//! Platform API 0.14):
//!
//! | layer was | metadata | contents |
//! |---|---|---|
//! | launch | from the image | never: absent and `launch = true` again, the image's are reused |
//! | launch, cache | from the image, if the cache has it too | from the cache, if its digest is the image's |
//! | launch, cache, no image | from the cache | from the cache |
//! | cache, with or without build | from the cache | from the cache |
//! | build, launch without cache | no | no |
//!
//! Restored metadata never has `[types]`. Since the lifecycle keeps metadata as JSON, a restored
//! integer is a TOML float and a date a string.

use crate::env::entries;
use crate::files;
use crate::image::{CacheRecord, Image, Layer, Types, blob_dir};
use anyhow::Result;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Fills a buildpack's empty layers directory from the previous image and the cache at
/// `cache_dir`. With `only_store`, as after `pack build --clear-cache`, only `store.toml` comes.
pub(crate) fn restore(
    layers_dir: &Path,
    image: Option<&Image>,
    (cache_dir, cache): (&Path, &CacheRecord),
    only_store: bool,
) -> Result<()> {
    let record = image.map(|image| &image.record);
    if let Some(store) = record.and_then(|record| record.store.as_ref()) {
        fs::create_dir_all(layers_dir)?;
        fs::write(
            layers_dir.join("store.toml"),
            toml::to_string(&from_json(store))?,
        )?;
    }
    if only_store {
        return Ok(());
    }

    let none = BTreeMap::new();
    let in_image = record.map_or(&none, |record| &record.layers);
    let mut restored: BTreeMap<&str, &Layer> = BTreeMap::new();
    for (name, layer) in in_image {
        let cached = cache
            .layers
            .get(name)
            .is_some_and(|layer| layer.types.cache);
        let Types {
            build,
            launch,
            cache,
        } = layer.types;
        if launch && (if cache { cached } else { !build }) {
            restored.insert(name, layer);
        }
    }
    for (name, layer) in &cache.layers {
        if layer.types.cache && !(layer.types.launch && in_image.contains_key(name)) {
            restored.insert(name, layer);
        }
    }
    for (name, layer) in restored {
        if let Some(cached) = cache.layers.get(name).filter(|layer| layer.types.cache) {
            if cached.blob.digest != layer.blob.digest {
                continue;
            }
            fs::create_dir_all(layers_dir)?;
            files::copy(&blob_dir(cache_dir, &cached.blob), &layers_dir.join(name))?;
        }
        fs::create_dir_all(layers_dir)?;
        write_metadata(layers_dir, name, layer)?;
    }

    // The image's come last and win.
    let cached = cache.sbom.as_ref().map(|blob| blob_dir(cache_dir, blob));
    let launch = image.and_then(|image| {
        let blob = image.record.sbom.as_ref()?;
        Some(blob_dir(&image.dir, blob))
    });
    for sbom in [cached, launch].into_iter().flatten() {
        restore_sboms(layers_dir, &sbom)?;
    }
    Ok(())
}

fn write_metadata(layers_dir: &Path, name: &str, layer: &Layer) -> Result<()> {
    let mut file = toml::Table::new();
    if let Some(data) = &layer.data {
        file.insert("metadata".to_owned(), from_json(data));
    }
    let path = layers_dir.join(format!("{name}.toml"));
    Ok(fs::write(path, toml::to_string(&file)?)?)
}

/// Copies `<buildpack>/<layer>/sbom.<format>.json` back to `<layer>.sbom.<format>.json`, where
/// the layers directory is there at all.
fn restore_sboms(layers_dir: &Path, sbom: &Path) -> Result<()> {
    let Some(buildpack) = layers_dir.file_name().filter(|_| layers_dir.exists()) else {
        return Ok(());
    };
    for layer in entries(&sbom.join(buildpack), true)? {
        for file in entries(&layer, false)? {
            if let (Some(layer), Some(file)) = (layer.file_name(), file.file_name()) {
                let name = format!("{}.{}", layer.to_string_lossy(), file.to_string_lossy());
                fs::copy(
                    sbom.join(buildpack).join(layer).join(file),
                    layers_dir.join(name),
                )?;
            }
        }
    }
    Ok(())
}

/// TOML as the lifecycle puts it into a label.
pub(crate) fn to_json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.clone().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(values) => values.iter().map(to_json).collect(),
        toml::Value::Table(table) => Value::Object(
            table
                .iter()
                .map(|(name, value)| (name.clone(), to_json(value)))
                .collect::<Map<_, _>>(),
        ),
    }
}

/// A label's JSON as the lifecycle writes it back to TOML: every number is a float, and what is
/// null is not there.
fn from_json(value: &Value) -> toml::Value {
    match value {
        Value::Null => toml::Value::Table(toml::Table::new()),
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => number.as_f64().unwrap_or(f64::NAN).into(),
        Value::String(text) => text.as_str().into(),
        Value::Array(values) => toml::Value::Array(values.iter().map(from_json).collect()),
        Value::Object(table) => toml::Value::Table(
            table
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.clone(), from_json(value)))
                .collect(),
        ),
    }
}
