//! The layers with the store paths: each is kept as long as the previous image's is up to date.
//!
//! A layer's metadata says what its content is made from, what was verified of its paths, and what
//! was found in them, so that the next build need not have the content.

mod plan;

pub use self::plan::{Plan, References};

use self::plan::Unseen;
use super::launch_layer::{LaunchLayer, LayerError, as_json};
use crate::layers::describe::{Seen, files};
use binary_cache::Caches;
use binary_cache::{PathInfo, kept};
use closure::Closure;
use closure::fetch::{FetchError, fetch_each};
use closure::place::is_layer;
use closure::prefetch::Prefetch;
use closure::queue::{Queue, QueuedPath};
use closure::relocate::blocker::Blocker;
use closure::relocate::references::{HashPart, hash_part};
use closure::relocate::report::RelocationReport;
use nix_derivation::StorePath;
use nix_hydra_start::executable::{Kind, Machine, behind};
use nix_hydra_start::links::followed;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What a layer was made from, and what is in it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Metadata {
    /// The hash of all that decides the content; see [`Plan::key`].
    key: String,
    /// What is known of every path, a [`PathInfo`] line each.
    paths: Vec<String>,
    /// The files that launching needs to know: a base name, a space, and the path in it.
    files: Vec<String>,
    /// Base names of the paths from which a relative link leads out.
    with_escaping_links: Vec<String>,
    /// The hash parts of references to paths outside the closure that it was relocated with.
    foreign: Vec<String>,
    /// What a relocation rewrites, or would; `None` where references were ignored.
    #[serde(with = "as_json")]
    report: Option<RelocationReport>,
}

/// The layers with store paths, of the previous image and of the one being built.
#[derive(Debug)]
pub struct StoreLayers {
    layers_dir: PathBuf,
    previous: BTreeMap<String, Metadata>,
}

/// A closure whose layers are all there, filled or kept.
#[derive(Debug)]
pub struct FilledStores {
    layers: BTreeMap<String, Metadata>,
    /// The layers that were filled.
    pub fresh: BTreeSet<String>,
    /// What was found in all of them, where all were looked through.
    pub report: Option<RelocationReport>,
    /// The paths as the app sees them, in the order of their base names.
    pub seen: Vec<Seen>,
    /// The paths from which a relative link leads out.
    pub with_escaping_links: BTreeSet<String>,
}

/// Where the closure comes from.
#[derive(Debug)]
pub struct Source<'a> {
    pub caches: &'a Caches,
    /// The download of the whole closure, where that has begun.
    pub prefetch: Option<Prefetch>,
}

/// Why layers were not filled.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    #[error(transparent)]
    Fetch(#[from] Box<FetchError>),
    #[error(transparent)]
    Layer(#[from] LayerError),
}

impl StoreLayers {
    /// Takes what there is of the previous image's layers; where `known` does not hold, it is as if
    /// there were none.
    pub fn take(layers_dir: &Path, known: bool) -> Result<Self, LayerError> {
        let mut previous = BTreeMap::new();
        for name in names(layers_dir)? {
            let metadata = LaunchLayer::new(layers_dir, &name).take()?;
            if let Some(metadata) = metadata.filter(|_| known) {
                previous.insert(name, metadata);
            }
        }
        Ok(Self {
            layers_dir: layers_dir.to_path_buf(),
            previous,
        })
    }

    /// Whether the previous image has none of them.
    pub fn are_new(&self) -> bool {
        self.previous.is_empty()
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

    /// Has the layers be as [`StoreLayers::take`] found them.
    pub fn put_back(&self) -> Result<(), LayerError> {
        let mut all = self.previous.iter();
        all.try_for_each(|(name, metadata)| self.layer(name).write(metadata))
    }

    /// What an earlier build verified of store paths.
    pub fn verified(&self) -> BTreeMap<StorePath, PathInfo> {
        let lines = self.previous.values().flat_map(|metadata| &metadata.paths);
        kept::read_lines(lines.map(String::as_str))
    }

    /// How many files with references are of which format in the layers called `names`.
    pub fn formats(&self, names: &[String]) -> BTreeMap<String, usize> {
        let mut all = RelocationReport::default();
        let layers = names.iter().filter_map(|name| self.previous.get(name));
        for report in layers.filter_map(|metadata| metadata.report.clone()) {
            all.add(report);
        }
        all.formats
    }

    /// What an earlier build found in the files of `closure` that prevents a relocation.
    pub fn blockers(&self, closure: &Closure) -> Vec<Blocker> {
        let names: BTreeSet<String> = closure.paths.keys().map(StorePath::to_basename).collect();
        let layers = self.previous.values();
        let found = layers.filter_map(|metadata| metadata.report.as_ref());
        let blockers = found.flat_map(|report| &report.blockers);
        let is_of_closure = |blocker: &&Blocker| {
            let name = blocker.file.split('/').next().unwrap_or_default();
            names.contains(name)
        };
        blockers.filter(is_of_closure).cloned().collect()
    }

    /// The layers of `plan` that the previous image has as they are to be.
    ///
    /// A layer whose references are rewritten is not, if it refers to a path that came into the closure
    /// later, and that no narinfo declares: its key does not tell.
    pub fn reusable(&self, plan: &Plan) -> BTreeSet<String> {
        let all = plan.closure.paths.keys().filter_map(hash_part);
        let all: BTreeSet<HashPart> = all.collect();
        let is_in_closure = |hash: &String| {
            let hash = hash.as_bytes().first_chunk();
            hash.is_none_or(|hash| all.contains(hash))
        };
        let is_rewritten = matches!(plan.references, References::Rewrite(_));
        let layers = plan.placement.layers.iter();
        layers
            .filter(|(name, paths)| {
                let previous = self.previous.get(*name);
                previous.is_some_and(|previous| {
                    previous.key == plan.key(paths)
                        && !(is_rewritten && previous.foreign.iter().any(is_in_closure))
                })
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Downloads what is in no layer of `kept`, and declares nothing yet. Where the download has begun
    /// already, `kept` must be empty.
    pub fn fill(
        &self,
        plan: &Plan,
        kept: &BTreeSet<String>,
        source: Source,
    ) -> Result<FilledStores, FillError> {
        let names = || plan.placement.layers.keys();
        for name in names().filter(|name| kept.contains(*name)) {
            // An earlier attempt in another form may have filled it.
            self.layer(name).remove()?;
        }
        let mut fresh: BTreeSet<String> = names()
            .filter(|name| !kept.contains(*name))
            .cloned()
            .collect();
        let mut found = match source.prefetch {
            Some(prefetch) => self.finish(plan, prefetch)?,
            None => self.fetch(plan, &fresh, source.caches)?,
        };
        let mut files: BTreeMap<&StorePath, Vec<String>> = BTreeMap::new();
        for root in &plan.closure.roots {
            let layer = plan.placement.places.get(root);
            if !layer.is_some_and(|layer| fresh.contains(layer)) {
                continue;
            }
            let programs = loop {
                match plan.programs(root, &fresh) {
                    Ok(programs) => break programs,
                    Err(Unseen::Kept(layer)) => {
                        let one = BTreeSet::from([layer.clone()]);
                        found.extend(self.fetch(plan, &one, source.caches)?);
                        fresh.insert(layer);
                    }
                    Err(Unseen::Unreadable(reason)) => {
                        return Err(LayerError::at(plan.place(root))(reason).into());
                    }
                }
            };
            files.insert(root, programs);
        }
        let mut layers = BTreeMap::new();
        for (name, paths) in &plan.placement.layers {
            let metadata = if fresh.contains(name) {
                Metadata::of(plan, paths, &mut found, &mut files)
            } else {
                self.previous.get(name).cloned().unwrap_or_default()
            };
            layers.insert(name.clone(), metadata);
        }
        Ok(FilledStores::new(plan, layers, fresh))
    }

    /// Downloads what is in the layers called `names`. Returns what was found in each path.
    fn fetch(
        &self,
        plan: &Plan,
        names: &BTreeSet<String>,
        caches: &Caches,
    ) -> Result<Found, FillError> {
        for name in names {
            self.layer(name).create()?;
        }
        let is_wanted = |path: &StorePath| {
            let layer = plan.placement.places.get(path);
            layer.is_some_and(|layer| names.contains(layer))
        };
        let all = plan.closure.paths.iter();
        let wanted = all
            .filter(|(path, _)| is_wanted(path))
            .map(|(path, info)| QueuedPath {
                path: path.clone(),
                info: info.clone(),
                place: plan.place(path),
            });
        found(fetch_each(&Queue::of(wanted), caches, &plan.scan_for()))
    }

    /// Waits for a download that has begun, of all that the layers are to hold.
    fn finish(&self, plan: &Plan, prefetch: Prefetch) -> Result<Found, FillError> {
        for name in plan.placement.layers.keys() {
            self.layer(name).create()?;
        }
        found(prefetch.finish(|path| plan.place(path)))
    }

    /// Declares the layers, so that they are in the image.
    pub fn write(&self, filled: &FilledStores) -> Result<(), LayerError> {
        for (name, metadata) in &filled.layers {
            self.layer(name).write(metadata)?;
        }
        Ok(())
    }

    /// Removes every layer with store paths, so that nothing half-made is left.
    pub fn remove(&self) -> Result<(), LayerError> {
        for name in names(&self.layers_dir)? {
            self.layer(&name).remove()?;
        }
        Ok(())
    }

    fn layer(&self, name: &str) -> LaunchLayer {
        LaunchLayer::new(&self.layers_dir, name)
    }
}

/// The names of the layers with store paths in `layers_dir`, declared or not.
fn names(layers_dir: &Path) -> Result<BTreeSet<String>, LayerError> {
    let error = LayerError::at(layers_dir);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(layers_dir).map_err(&error)? {
        let name = entry.map_err(&error)?.file_name();
        let name = name.to_string_lossy();
        let name = name.strip_suffix(".toml").unwrap_or(&name);
        if is_layer(name) {
            names.insert(name.to_string());
        }
    }
    Ok(names)
}

/// Where each path came from in the end, and what was found in it.
type Found = BTreeMap<StorePath, (PathInfo, RelocationReport)>;

fn found(
    fetched: Result<Vec<(QueuedPath, RelocationReport)>, FetchError>,
) -> Result<Found, FillError> {
    let fetched = fetched.map_err(|error| FillError::Fetch(Box::new(error)))?;
    let found = fetched.into_iter();
    Ok(found
        .map(|(queued, report)| (queued.path, (queued.info, report)))
        .collect())
}

impl FilledStores {
    fn new(plan: &Plan, layers: BTreeMap<String, Metadata>, fresh: BTreeSet<String>) -> Self {
        let mut report = Some(RelocationReport::default());
        let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for metadata in layers.values() {
            report = report.zip(metadata.report.clone()).map(|(mut all, found)| {
                all.add(found);
                all
            });
            for line in &metadata.files {
                if let Some((base_name, file)) = line.split_once(' ') {
                    files.entry(base_name).or_default().push(file.to_string());
                }
            }
        }
        if let Some(report) = &mut report {
            report.blockers.sort();
        }
        let seen = plan.closure.paths.keys().map(|path| Seen {
            path: plan.seen_at(path),
            files: files
                .remove(path.to_basename().as_str())
                .unwrap_or_default(),
        });
        let seen = seen.collect();
        let escaping = layers
            .values()
            .flat_map(|metadata| &metadata.with_escaping_links);
        let with_escaping_links = escaping.cloned().collect();
        Self {
            layers,
            fresh,
            report,
            seen,
            with_escaping_links,
        }
    }

    /// The processors of a root's programs, as far as files that are here tell.
    pub fn machines(&self, plan: &Plan, root: &StorePath) -> Vec<Machine> {
        let root = plan.seen_at(root);
        let now = plan.now(&self.fresh);
        let seen = self.seen.iter().find(|seen| seen.path == root);
        let files = seen.into_iter().flat_map(|seen| &seen.files);
        files
            .filter(|file| file.starts_with("bin/"))
            .filter_map(|file| {
                let found = behind(&root.join(file), |path| followed(path, &now));
                match found.ok()?? {
                    (_, Kind::Elf(machine)) => Some(machine),
                    _ => None,
                }
            })
            .collect()
    }

    /// The names of all the layers.
    pub fn names(&self) -> Vec<String> {
        self.layers.keys().cloned().collect()
    }
}

impl Metadata {
    /// What is to be known of a layer that was just filled. `programs` has those of its roots.
    fn of(
        plan: &Plan,
        paths: &BTreeSet<StorePath>,
        found: &mut Found,
        programs: &mut BTreeMap<&StorePath, Vec<String>>,
    ) -> Self {
        let mut metadata = Self {
            key: plan.key(paths),
            ..Self::default()
        };
        let mut report = RelocationReport::default();
        for path in paths {
            let base_name = path.to_basename();
            let Some((info, one)) = found.remove(path) else {
                continue;
            };
            metadata.paths.push(kept::to_line(path, &info));
            let mut names = files(&plan.place(path));
            names.extend(programs.remove(path).unwrap_or_default());
            let lines = names.into_iter().map(|file| format!("{base_name} {file}"));
            metadata.files.extend(lines);
            if one.has_escaping_links {
                metadata.with_escaping_links.push(base_name);
            }
            report.add(one);
        }
        report.blockers.sort();
        let foreign = report.foreign.iter();
        metadata.foreign = foreign
            .map(|hash| String::from_utf8_lossy(hash).into_owned())
            .collect();
        metadata.report = (plan.references != References::Ignore).then_some(report);
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use binary_cache::Trust;
    use binary_cache::TrustSettings;
    use closure::relocate::relocation::Relocation;
    use http_client::Http;
    use nix_derivation::NixHash;

    fn closure() -> Closure {
        let path: StorePath = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp"
            .parse()
            .unwrap();
        let info = PathInfo {
            nar_hash: NixHash::Sha256([1; 32]),
            nar_size: 100,
            references: BTreeSet::new(),
            source: None,
            trust: Trust::Signed,
            content: None,
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
        let plan = Plan::new(&closure, layers.path(), References::Count);
        let name = plan.placement.layers.keys().next().unwrap().clone();
        let metadata = Metadata {
            key: plan.key(&plan.placement.layers[&name]),
            files: vec!["xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp bin/myapp".into()],
            report: Some(RelocationReport {
                files: 1,
                references: 2,
                formats: BTreeMap::from([("ELF".to_string(), 1)]),
                ..RelocationReport::default()
            }),
            ..Metadata::default()
        };
        let write = || {
            LaunchLayer::new(layers.path(), &name)
                .write(&metadata)
                .unwrap();
        };
        write();
        let other_version = StoreLayers::take(layers.path(), false).unwrap();
        assert_eq!(other_version.reusable(&plan), BTreeSet::new());
        write();
        let stores = StoreLayers::take(layers.path(), true).unwrap();
        let kept = stores.reusable(&plan);
        assert_eq!(kept, BTreeSet::from([name.clone()]));

        fs::create_dir(layers.path().join(&name)).unwrap();
        let trust = TrustSettings {
            keys: Vec::new(),
            required: false,
        };
        let caches = Caches::open(&[], trust, &Http::new(), &hydra::sign_in);
        let source = Source {
            caches: &caches,
            prefetch: None,
        };
        let filled = stores.fill(&plan, &kept, source).unwrap();
        let report = filled.report.clone().unwrap();
        assert_eq!((report.files, report.references), (1, 2));
        assert_eq!(report.formats, BTreeMap::from([("ELF".to_string(), 1)]));
        assert_eq!(filled.seen[0].files, ["bin/myapp"]);
        assert!(!layers.path().join(&name).exists());
        stores.write(&filled).unwrap();
        assert!(layers.path().join(format!("{name}.toml")).exists());

        let relocation = Relocation::new(Path::new("/layers/nix_hydra/closure")).unwrap();
        let moved = Plan::new(&closure, layers.path(), References::Rewrite(relocation));
        assert_eq!(stores.reusable(&moved), BTreeSet::new());
    }

    #[test]
    fn a_relocated_layer_is_not_kept_once_an_undeclared_reference_leads_into_the_closure() {
        let layers = tempfile::tempdir().unwrap();
        let closure = closure();
        let relocation = Relocation::new(Path::new("/layers/nix_hydra/closure")).unwrap();
        let plan = Plan::new(&closure, layers.path(), References::Rewrite(relocation));
        let name = plan.placement.layers.keys().next().unwrap().clone();
        for (foreign, is_kept) in [
            ("0jn93wz4pk00k76grv8ing8js0yz8cpd", true),
            ("xbgcfhaawi9iz9s99k58sqy8azc2a1w3", false),
            ("", false),
        ] {
            let metadata = Metadata {
                key: plan.key(&plan.placement.layers[&name]),
                foreign: vec![foreign.into()],
                ..Metadata::default()
            };
            LaunchLayer::new(layers.path(), &name)
                .write(&metadata)
                .unwrap();
            let stores = StoreLayers::take(layers.path(), true).unwrap();
            assert_eq!(stores.reusable(&plan).contains(&name), is_kept, "{foreign}");
        }
    }
}
