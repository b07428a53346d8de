//! Makes the image and the cache of what a build left, as the lifecycle's exporter does
//! (`phase/exporter.go`, `phase/cache.go` and `buildpack/build.go` of 0.21.17).

use super::{Running, read_toml};
use crate::env::entries;
use crate::files::Blob;
use crate::image::{self, CacheRecord, Image, Label, Layer, ProcessType, Record, Types, escape_id};
use crate::restore::to_json;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Default, Deserialize)]
struct LayerToml {
    #[serde(default)]
    types: Types,
    metadata: Option<toml::Value>,
    build: Option<bool>,
    launch: Option<bool>,
    cache: Option<bool>,
}

#[derive(Default, Deserialize)]
struct LaunchToml {
    #[serde(default)]
    processes: Vec<ProcessType>,
    #[serde(default)]
    labels: Vec<Label>,
}

impl Running<'_> {
    /// Makes image and cache of what the build left.
    pub(super) fn export(&self, cached: &CacheRecord, log: &mut Vec<String>) -> Result<Image> {
        let layers = self.read_layers()?;
        let launch: LaunchToml = read_toml(&self.layers().join("launch.toml"))?.unwrap_or_default();
        let defaults = launch.processes.iter().filter(|process| process.default);
        ensure!(
            defaults.count() <= 1,
            "multiple default process types aren't allowed"
        );
        let sbom = self.sort_sboms(&layers)?;

        let dir = &self.build.image;
        let before = self.previous.as_ref().map(|image| &image.record);
        let mut record = Record {
            buildpack_id: self.buildpack.id.clone(),
            buildpack_version: self.buildpack.version.clone(),
            layers: BTreeMap::new(),
            store: read_toml(&self.layers().join("store.toml"))?.map(|store| to_json(&store)),
            processes: launch.processes,
            labels: launch.labels,
            sbom: None,
            app: image::add(dir, &self.work, Path::new("workspace"))?,
            app_reused: false,
        };
        record.app_reused = before.is_some_and(|before| before.app == record.app);
        if sbom.launch {
            record.sbom = Some(image::add(
                dir,
                &self.work,
                Path::new("layers/sbom/launch"),
            )?);
        }
        for (name, file) in layers.iter().filter(|(_, file)| file.types.launch) {
            let identifier = format!("{}:{name}", self.buildpack.id);
            let layer = self.export_layer(&identifier, name, file, before)?;
            let verb = if layer.reused { "Reusing" } else { "Adding" };
            log.push(format!("{verb} layer '{identifier}'"));
            record.layers.insert(name.clone(), layer);
        }
        let blobs = record.layers.values().map(|layer| &layer.blob);
        let blobs = blobs.chain(&record.sbom).chain([&record.app]);
        image::write(dir, "image.json", &record, blobs)?;
        self.fill_cache(cached, &record.layers, &layers, sbom.cache, log)?;
        Image::open(dir)
    }

    fn export_layer(
        &self,
        identifier: &str,
        name: &str,
        file: &LayerToml,
        before: Option<&Record>,
    ) -> Result<Layer> {
        let before = before.and_then(|before| before.layers.get(name));
        let absent = !self.layers().join(name).exists();
        let blob = if absent {
            ensure!(
                !file.types.cache,
                "layer '{identifier}' is cache=true but has no contents"
            );
            let Some(before) = before else {
                bail!(
                    "cannot reuse '{identifier}', previous image has no metadata for layer \
                     '{identifier}'"
                );
            };
            before.blob.clone()
        } else {
            image::add(&self.build.image, &self.work, &self.in_work(name))?
        };
        Ok(Layer {
            reused: before.is_some_and(|before| before.blob == blob),
            absent,
            ..layer(file, blob)
        })
    }

    fn fill_cache(
        &self,
        before: &CacheRecord,
        exported: &BTreeMap<String, Layer>,
        layers: &BTreeMap<String, LayerToml>,
        sbom: bool,
        log: &mut Vec<String>,
    ) -> Result<()> {
        let dir = &self.build.cache;
        let mut record = CacheRecord::default();
        for (name, file) in layers.iter().filter(|(_, file)| file.types.cache) {
            let identifier = format!("{}:{name}", self.buildpack.id);
            if !self.layers().join(name).exists() {
                log.push(format!(
                    "Warning: Failed to cache layer '{identifier}' because it has no contents"
                ));
                continue;
            }
            let blob = match exported.get(name) {
                Some(layer) => {
                    let tree = self.layers().join(name);
                    image::link_blob(dir, &layer.blob, &tree)?;
                    layer.blob.clone()
                }
                None => image::add(dir, &self.work, &self.in_work(name))?,
            };
            let reused = before
                .layers
                .get(name)
                .is_some_and(|before| before.blob == blob);
            let verb = if reused { "Reusing" } else { "Adding" };
            log.push(format!("{verb} cache layer '{identifier}'"));
            record.layers.insert(
                name.clone(),
                Layer {
                    reused,
                    ..layer(file, blob)
                },
            );
        }
        if sbom {
            record.sbom = Some(image::add(dir, &self.work, Path::new("layers/sbom/cache"))?);
        }
        let blobs = record.layers.values().map(|layer| &layer.blob);
        image::write(dir, "cache.json", &record, blobs.chain(&record.sbom))
    }

    /// A layer's path below the work directory, which is also its path in the image.
    fn in_work(&self, name: &str) -> PathBuf {
        let id = escape_id(&self.buildpack.id);
        Path::new("layers").join(id).join(name)
    }

    /// Every layer that has a `.toml`. One of no type gets its directory moved out of the way.
    fn read_layers(&self) -> Result<BTreeMap<String, LayerToml>> {
        let mut layers = BTreeMap::new();
        for path in entries(&self.layers(), false)? {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
            let Some(name) = name.as_deref().and_then(|n| n.strip_suffix(".toml")) else {
                continue;
            };
            if ["launch", "build", "store"].contains(&name) {
                continue;
            }
            let file: LayerToml = read_toml(&path)?.unwrap_or_default();
            ensure!(
                file.build.or(file.launch).or(file.cache).is_none(),
                "the launch, cache and build flags should be in the types table of {}",
                path.display()
            );
            let directory = self.layers().join(name);
            if file.types == Types::default() && directory.exists() {
                fs::rename(
                    &directory,
                    directory.with_file_name(format!("{name}.ignore")),
                )?;
            }
            layers.insert(name.to_owned(), file);
        }
        Ok(layers)
    }

    /// Copies the SBOM files to where the lifecycle keeps them: `/layers/sbom/launch` for the
    /// image and `/layers/sbom/cache` for the cache. Those of builds only go nowhere here.
    fn sort_sboms(&self, layers: &BTreeMap<String, LayerToml>) -> Result<Sboms> {
        let mut found = Sboms::default();
        for path in entries(&self.layers(), false)? {
            let Some(file) = path.file_name().and_then(|n| n.to_str()) else {
                continue;
            };
            let (name, rest) = file.split_once('.').unwrap_or((file, ""));
            let types = layers.get(name).map(|layer| layer.types);
            let known = types.is_some() || ["launch", "build"].contains(&name);
            if !known || !is_sbom(rest) {
                continue;
            }
            let (format, media_type) = SBOM_FORMATS
                .into_iter()
                .find(|(format, _)| *format == rest)
                .with_context(|| format!("unsupported SBOM file format: '{}'", path.display()))?;
            let launch = name == "launch" || types.is_some_and(|types| types.launch);
            let cache = types.is_some_and(|types| types.cache);
            ensure!(
                self.buildpack.sbom_formats.contains(media_type),
                "validating SBOM file '{}': undeclared SBOM media type: '{media_type}'",
                path.display()
            );
            for (wanted, kind) in [(launch, "launch"), (cache, "cache")] {
                if wanted {
                    let mut to = self.work.join("layers/sbom").join(kind);
                    to.push(escape_id(&self.buildpack.id));
                    if name != "launch" {
                        to.push(name);
                    }
                    fs::create_dir_all(&to)?;
                    fs::copy(&path, to.join(format))?;
                }
            }
            found.launch |= launch;
            found.cache |= cache;
        }
        Ok(found)
    }
}

/// Which SBOM layers there are.
#[derive(Default)]
struct Sboms {
    launch: bool,
    cache: bool,
}

/// File name and media type of the formats that the specification knows.
const SBOM_FORMATS: [(&str, &str); 3] = [
    ("sbom.cdx.json", "application/vnd.cyclonedx+json"),
    ("sbom.spdx.json", "application/spdx+json"),
    ("sbom.syft.json", "application/vnd.syft+json"),
];

fn is_sbom(suffix: &str) -> bool {
    let suffix = suffix.strip_prefix("sbom.");
    suffix.is_some_and(|format| Path::new(format).extension().is_some_and(|e| e == "json"))
}

fn layer(file: &LayerToml, blob: Blob) -> Layer {
    Layer {
        blob,
        types: file.types,
        data: file.metadata.as_ref().map(to_json),
        reused: false,
        absent: false,
    }
}
