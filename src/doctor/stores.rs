//! Where derivations and sources are read from: the store that was evaluated in, or binary caches.

use super::tree::Tree;
use binary_cache::Caches;
use binary_cache::nar_decoder;
use nix_derivation::{Derivation, StorePath};
use nix_runner::nar_store::{NarStore, file_in};
use std::collections::{BTreeSet, HashMap};
use std::io::{self, BufReader, Read};

/// A derivation is a few kilobytes; what is larger than this is not read.
const MAX_DERIVATION_SIZE: u64 = 32 * 1024 * 1024;

/// A source is compared file by file only below this size of its NAR.
const MAX_SOURCE_SIZE: u64 = 512 * 1024 * 1024;

/// A store to read from. What cannot be read is not there.
pub trait Store {
    fn derivation(&mut self, path: &StorePath) -> Option<Derivation>;
    fn tree(&mut self, path: &StorePath) -> Option<Tree>;
}

/// The store that was evaluated in.
#[derive(Debug)]
pub struct EvaluatedStore<'a>(pub &'a NarStore);

impl EvaluatedStore<'_> {
    /// The derivation in this store that makes `output`.
    pub fn deriver(&mut self, output: &StorePath) -> Option<StorePath> {
        let mut paths: Vec<StorePath> = self.0.paths().filter(StorePath::is_derivation).collect();
        // An output's name begins with its derivation's, so the right one is among the first.
        let name = output.name();
        paths.sort_by_key(|path| !name.starts_with(path.name().trim_end_matches(".drv")));
        paths.into_iter().find(|path| {
            let outputs = self
                .derivation(path)
                .and_then(|derivation| derivation.resolved_outputs().ok());
            outputs.is_some_and(|outputs| {
                outputs
                    .values()
                    .any(|made| made.path.as_ref() == Some(output))
            })
        })
    }

    /// What all derivations in this store make.
    pub fn outputs(&mut self) -> BTreeSet<StorePath> {
        let derivations: Vec<StorePath> = self.0.paths().filter(StorePath::is_derivation).collect();
        let outputs = derivations.iter().filter_map(|path| {
            let outputs = self.derivation(path)?.resolved_outputs().ok()?;
            Some(outputs.into_values().filter_map(|output| output.path))
        });
        outputs.flatten().collect()
    }
}

impl Store for EvaluatedStore<'_> {
    fn derivation(&mut self, path: &StorePath) -> Option<Derivation> {
        parse(&file_in(&mut self.0.nar(path)?)?, path)
    }

    fn tree(&mut self, path: &StorePath) -> Option<Tree> {
        Tree::of_nar(&mut BufReader::new(self.0.nar(path)?)).ok()
    }
}

/// Binary caches that may serve derivations, as Hydra's own does.
pub struct CacheStore<'a> {
    caches: &'a Caches,
    /// What was asked for already: the same derivations are met again and again.
    derivations: HashMap<StorePath, Option<Derivation>>,
}

impl<'a> CacheStore<'a> {
    pub fn new(caches: &'a Caches) -> Self {
        Self {
            caches,
            derivations: HashMap::new(),
        }
    }

    fn nar(&self, path: &StorePath, limit: u64) -> Option<Box<dyn Read>> {
        let info = self.caches.look_up(path, |_| true).ok()?;
        if info.nar_size > limit {
            return None;
        }
        let source = info.source?;
        let cache = self.caches.get(source.cache)?;
        let nar = BufReader::new(cache.nar(&source.url).ok()?);
        let nar = nar_decoder(nar, &source.compression, info.nar_size).ok()?;
        Some(Box::new(nar.take(info.nar_size)))
    }
}

impl Store for CacheStore<'_> {
    fn derivation(&mut self, path: &StorePath) -> Option<Derivation> {
        if let Some(known) = self.derivations.get(path) {
            return known.clone();
        }
        let read = || {
            let mut nar = self.nar(path, MAX_DERIVATION_SIZE)?;
            parse(&file_in(&mut *nar)?, path)
        };
        let derivation = read();
        self.derivations.insert(path.clone(), derivation.clone());
        derivation
    }

    fn tree(&mut self, path: &StorePath) -> Option<Tree> {
        let mut nar = self.nar(path, MAX_SOURCE_SIZE)?;
        let tree = Tree::of_nar(&mut *nar).ok()?;
        // Whatever follows is no part of it, but the connection is kept if it is read.
        let _ = io::copy(&mut nar, &mut io::sink());
        Some(tree)
    }
}

fn parse(text: &[u8], path: &StorePath) -> Option<Derivation> {
    Derivation::from_aterm_bytes(text, path.name().strip_suffix(".drv")?).ok()
}
