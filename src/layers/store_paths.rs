//! The layers with the store paths: each is kept as long as the previous image's has what is wanted.
//!
//! A layer's metadata says what its content is made from, what was verified of its paths, and what
//! was found in them, so that the next build need not have the content.

use super::launch_layer::{LaunchLayer, LayerError};
use crate::closure::Closure;
use crate::closure::fetch::{FetchError, Wanted, fetch_each};
use crate::closure::path_info::PathInfo;
use crate::closure::place::{Placement, is_layer};
use crate::closure::plan::Caches;
use crate::closure::references::References;
use crate::closure::relocate::Relocation;
use crate::closure::survey::{Obstacle, Reason, Survey};
use crate::launch::describe::{Seen, files};
use crate::output;
use nix_derivation::StorePath;
use nix_hydra_start::image::STORE_DIR;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Raised whenever what a layer holds for the same store paths changes its form.
const FORMAT: &str = "1";

/// What a layer was made from, and what is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Metadata {
    /// The hash of all that decides the content; see [`Plan::key`].
    key: String,
    /// What is known of every path, a [`PathInfo`] line each.
    paths: Vec<String>,
    /// The files that launching needs to know: a base name, a space, and the path in it.
    files: Vec<String>,
    /// What a relocation rewrites, or would: counts.
    rewritten_files: String,
    references: String,
    /// What stands against a relocation: a file, a tab, and the reason in words.
    obstacles: Vec<String>,
}

/// The layers with store paths, of the previous image and of the one being built.
#[derive(Debug)]
pub struct StoreLayers {
    layers_dir: PathBuf,
    previous: BTreeMap<String, Metadata>,
}

/// Where each path of a closure goes.
#[derive(Debug)]
pub struct Plan<'a> {
    pub closure: &'a Closure,
    pub placement: Placement,
    /// The directory of each layer as a relocation's, where the closure is relocated.
    relocations: Option<BTreeMap<String, Relocation>>,
    layers_dir: PathBuf,
}

/// A closure whose layers are all there, filled or kept.
#[derive(Debug)]
pub struct Filled {
    layers: BTreeMap<String, Metadata>,
    /// The layers that were filled.
    pub fresh: BTreeSet<String>,
    pub survey: Survey,
    /// The paths as the app sees them, in the order of their base names.
    pub seen: Vec<Seen>,
}

/// Why the layers are not filled.
#[derive(Debug)]
pub enum FillError {
    Fetch(Box<FetchError>),
    Layer(LayerError),
}

impl<'a> Plan<'a> {
    /// The closure as it is.
    #[must_use]
    pub fn in_place(closure: &'a Closure, layers_dir: &Path) -> Self {
        Self {
            closure,
            placement: Placement::of(closure),
            relocations: None,
            layers_dir: layers_dir.to_path_buf(),
        }
    }

    /// The closure relocated: `relocations` has one for each layer.
    #[must_use]
    pub fn relocated(self, relocations: BTreeMap<String, Relocation>) -> Self {
        Self {
            relocations: Some(relocations),
            ..self
        }
    }

    /// Where a path is in the image.
    #[must_use]
    pub fn place(&self, path: &StorePath) -> PathBuf {
        let layer = self.placement.places.get(path).map_or("", String::as_str);
        let relocations = self.relocations.as_ref();
        match relocations.and_then(|relocations| relocations.get(layer)) {
            Some(relocation) => relocation.place(&path.to_basename()),
            None => self.layers_dir.join(layer).join(path.to_basename()),
        }
    }

    /// Where the app sees a path.
    #[must_use]
    pub fn seen_at(&self, path: &StorePath) -> PathBuf {
        match self.relocations {
            Some(_) => self.place(path),
            None => Path::new(STORE_DIR).join(path.to_basename()),
        }
    }

    fn references(&self) -> References {
        let paths = self.closure.paths.keys();
        match &self.relocations {
            None => References::new(paths, None),
            Some(relocations) => References::moving(paths.filter_map(|path| {
                let layer = self.placement.places.get(path)?;
                Some((path, relocations.get(layer)?.clone()))
            })),
        }
    }

    /// The hash of all that decides what is in a layer: its paths, their content, whether they are
    /// roots (more is known of these), and in a relocated closure where their references are.
    fn key(&self, paths: &BTreeSet<StorePath>) -> String {
        let mut hash = Sha256::new();
        let mut add = |part: &str| {
            hash.update(part.as_bytes());
            hash.update(b"\n");
        };
        add(FORMAT);
        for path in paths {
            let Some(info) = self.closure.paths.get(path) else {
                continue;
            };
            add(&path.to_basename());
            add(&info.nar_hash.to_nix_nixbase32_string());
            add(if self.closure.roots.contains(path) {
                "root"
            } else {
                ""
            });
            if self.relocations.is_some() {
                for reference in info.references.iter().chain([path]) {
                    add(&self.place(reference).to_string_lossy());
                }
            }
        }
        hex::encode(hash.finalize())
    }
}

impl StoreLayers {
    /// Takes what there is of the previous image's layers.
    pub fn take(layers_dir: &Path) -> Result<Self, LayerError> {
        let error = |reason| LayerError {
            path: layers_dir.to_path_buf(),
            reason,
        };
        let mut previous = BTreeMap::new();
        for entry in fs::read_dir(layers_dir).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            let name = name.to_string_lossy();
            let Some(name) = name.strip_suffix(".toml").filter(|name| is_layer(name)) else {
                continue;
            };
            if let Some(metadata) = LaunchLayer::new(layers_dir, name).take()? {
                previous.insert(name.to_string(), metadata);
            }
        }
        Ok(Self {
            layers_dir: layers_dir.to_path_buf(),
            previous,
        })
    }

    /// Keeps the previous image's layers of these names; whether it has them all.
    pub fn keep(&self, names: &[String]) -> Result<bool, LayerError> {
        let kept: Option<Vec<_>> = names.iter().map(|name| self.previous.get(name)).collect();
        let Some(kept) = kept else {
            return Ok(false);
        };
        for (name, metadata) in names.iter().zip(kept) {
            self.layer(name).write(metadata)?;
        }
        Ok(true)
    }

    /// What an earlier build verified of store paths.
    pub fn facts(&self) -> impl Iterator<Item = (StorePath, PathInfo)> {
        let lines = self.previous.values().flat_map(|metadata| &metadata.paths);
        lines.filter_map(|line| PathInfo::from_line(line))
    }

    /// What an earlier build found in the files of `closure` that stands against a relocation.
    #[must_use]
    pub fn obstacles(&self, closure: &Closure) -> Vec<Obstacle> {
        let names: BTreeSet<String> = closure.paths.keys().map(StorePath::to_basename).collect();
        let all = self.previous.values().flat_map(Metadata::obstacles);
        all.filter(|obstacle| {
            let name = obstacle.file.split('/').next().unwrap_or_default();
            names.contains(name)
        })
        .collect()
    }

    /// The layers of `plan` that the previous image has as they are to be.
    #[must_use]
    pub fn reusable(&self, plan: &Plan) -> BTreeSet<String> {
        let layers = plan.placement.layers.iter();
        layers
            .filter(|(name, paths)| {
                let previous = self.previous.get(*name);
                previous.is_some_and(|previous| previous.key == plan.key(paths))
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Downloads what is in no layer of `kept`, and declares nothing yet.
    pub fn fill(
        &self,
        plan: &Plan,
        kept: &BTreeSet<String>,
        caches: &Caches,
    ) -> Result<Filled, FillError> {
        let mut wanted = Vec::new();
        let mut fresh = BTreeSet::new();
        for (name, paths) in &plan.placement.layers {
            if kept.contains(name) {
                // An earlier attempt in another form may have filled it.
                self.layer(name).remove().map_err(FillError::Layer)?;
                continue;
            }
            self.layer(name).create().map_err(FillError::Layer)?;
            fresh.insert(name.clone());
            for path in paths {
                if let Some((path, info)) = plan.closure.paths.get_key_value(path) {
                    let place = plan.place(path);
                    wanted.push(Wanted { path, info, place });
                }
            }
        }
        let mut surveys: BTreeMap<&StorePath, Survey> =
            fetch_each(wanted, caches, Some(&plan.references()))
                .map_err(|error| FillError::Fetch(Box::new(error)))?
                .into_iter()
                .collect();
        let mut layers = BTreeMap::new();
        for (name, paths) in &plan.placement.layers {
            let metadata = if fresh.contains(name) {
                let mut survey = Survey::default();
                for path in paths {
                    survey.add(surveys.remove(path).unwrap_or_default());
                }
                survey.obstacles.sort();
                Metadata::of(plan, paths, &survey).map_err(|reason| {
                    let path = self.layers_dir.join(name);
                    FillError::Layer(LayerError { path, reason })
                })?
            } else if let Some(previous) = self.previous.get(name) {
                previous.clone()
            } else {
                continue;
            };
            layers.insert(name.clone(), metadata);
        }
        Ok(Filled::new(plan, layers, fresh))
    }

    /// Declares the layers, so that they are in the image.
    pub fn write(&self, filled: &Filled) -> Result<(), LayerError> {
        for (name, metadata) in &filled.layers {
            self.layer(name).write(metadata)?;
        }
        Ok(())
    }

    /// Removes the layers of `plan`, so that nothing half-made is left.
    pub fn remove(&self, plan: &Plan) -> Result<(), LayerError> {
        let mut names = plan.placement.layers.keys();
        names.try_for_each(|name| self.layer(name).remove())
    }

    fn layer(&self, name: &str) -> LaunchLayer {
        LaunchLayer::new(&self.layers_dir, name)
    }
}

impl Filled {
    fn new(plan: &Plan, layers: BTreeMap<String, Metadata>, fresh: BTreeSet<String>) -> Self {
        let mut survey = Survey::default();
        let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for metadata in layers.values() {
            survey.add(metadata.survey());
            for line in &metadata.files {
                if let Some((base_name, file)) = line.split_once(' ') {
                    files.entry(base_name).or_default().push(file.to_string());
                }
            }
        }
        survey.obstacles.sort();
        let seen = plan.closure.paths.keys().map(|path| Seen {
            path: plan.seen_at(path),
            files: files
                .remove(path.to_basename().as_str())
                .unwrap_or_default(),
        });
        let seen = seen.collect();
        Self {
            layers,
            fresh,
            survey,
            seen,
        }
    }

    /// The names of all the layers.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.layers.keys().cloned().collect()
    }
}

impl Metadata {
    /// Looks into a layer that was just filled.
    fn of(plan: &Plan, paths: &BTreeSet<StorePath>, survey: &Survey) -> io::Result<Self> {
        let mut found = Vec::new();
        let mut lines = Vec::new();
        for path in paths {
            let Some(info) = plan.closure.paths.get(path) else {
                continue;
            };
            lines.extend(info.to_line(path));
            let is_root = plan.closure.roots.contains(path);
            for file in files(&plan.place(path), is_root)? {
                found.push(format!("{} {file}", path.to_basename()));
            }
        }
        Ok(Self {
            key: plan.key(paths),
            paths: lines,
            files: found,
            rewritten_files: survey.files.to_string(),
            references: survey.references.to_string(),
            obstacles: survey
                .obstacles
                .iter()
                .map(|obstacle| format!("{}\t{}", obstacle.file, output::against(&obstacle.reason)))
                .collect(),
        })
    }

    fn survey(&self) -> Survey {
        Survey {
            files: self.rewritten_files.parse().unwrap_or_default(),
            references: self.references.parse().unwrap_or_default(),
            obstacles: self.obstacles().collect(),
        }
    }

    fn obstacles(&self) -> impl Iterator<Item = Obstacle> {
        self.obstacles.iter().filter_map(|line| {
            let (file, words) = line.split_once('\t')?;
            Some(Obstacle {
                file: file.to_string(),
                reason: Reason::Told(words.to_string()),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cache::Trust;
    use crate::config::TrustSettings;
    use crate::http::Http;
    use nix_derivation::NixHash;

    fn closure() -> Closure {
        let path: StorePath = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp"
            .parse()
            .unwrap();
        let info = PathInfo {
            nar_hash: NixHash::Sha256([1; 32]),
            nar_size: 100,
            references: BTreeSet::new(),
            cache: "https://cache.example.org".into(),
            url: "nar/x.nar".into(),
            compression: "none".into(),
            file_size: None,
            trust: Trust::Signed,
        };
        Closure {
            roots: vec![path.clone()],
            paths: [(path, info)].into(),
        }
    }

    #[test]
    fn a_kept_layer_is_absent_whatever_an_earlier_attempt_has_put_there() {
        let layers = tempfile::tempdir().unwrap();
        let closure = closure();
        let plan = Plan::in_place(&closure, layers.path());
        let name = plan.placement.layers.keys().next().unwrap().clone();
        let metadata = Metadata {
            key: plan.key(&plan.placement.layers[&name]),
            paths: Vec::new(),
            files: vec!["xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp bin/myapp".into()],
            rewritten_files: "1".into(),
            references: "2".into(),
            obstacles: Vec::new(),
        };
        LaunchLayer::new(layers.path(), &name)
            .write(&metadata)
            .unwrap();
        let stores = StoreLayers::take(layers.path()).unwrap();
        let kept = stores.reusable(&plan);
        assert_eq!(kept, BTreeSet::from([name.clone()]));

        fs::create_dir(layers.path().join(&name)).unwrap();
        let trust = TrustSettings {
            keys: Vec::new(),
            required: false,
        };
        let caches = Caches::open(&[], trust, &Http::new());
        let filled = stores.fill(&plan, &kept, &caches).unwrap();
        assert_eq!((filled.survey.files, filled.survey.references), (1, 2));
        assert_eq!(filled.seen[0].files, ["bin/myapp"]);
        assert!(!layers.path().join(&name).exists());
        stores.write(&filled).unwrap();
        assert!(layers.path().join(format!("{name}.toml")).exists());

        let relocation = Relocation::new(Path::new("/layers/nix_hydra/xbgcfhaa")).unwrap();
        let moved = Plan::in_place(&closure, layers.path()).relocated([(name, relocation)].into());
        assert_eq!(stores.reusable(&moved), BTreeSet::new());
    }
}
