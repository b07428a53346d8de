//! Placements: whatever a closure looks like, each path has one layer, and there are not too many.
//!
//! Four bytes are a path: the beginning of its hash, its size, its name, and what it refers to.

use binary_cache::PathInfo;
use binary_cache::Trust;
use closure::Closure;
use closure::place::{MAX_LAYERS, MAX_OWN, Placement, is_layer};
use nix_derivation::{NixHash, StorePath};
use std::collections::BTreeSet;

/// More than there are layers, and few enough to be quick.
const MAX_PATHS: usize = 80;

const NAMES: [&str; 6] = [
    "zlib-1.3",
    "python3.11-ssl-2",
    "1.0",
    "A_name+with.all?of=it",
    "-",
    "a-name-so-long-that-no-label-of-a-layer-would-hold-all-of-it-1.2.3",
];

pub fn run(data: &[u8]) {
    let closure = closure(data);
    let placement = Placement::of(&closure);
    assert!(placement.layers.len() <= MAX_LAYERS);
    assert!(placement.own.len() <= MAX_OWN);
    assert!(placement.places.keys().eq(closure.paths.keys()));
    let placed: usize = placement.layers.values().map(BTreeSet::len).sum();
    assert_eq!(placed, closure.paths.len());
    for (path, layer) in &placement.places {
        assert!(placement.layers[layer].contains(path), "{path}");
        assert!(is_layer(layer), "{layer}");
        assert!(!layer.contains(['.', '/']), "{layer}");
    }
    for path in &placement.own {
        assert_eq!(placement.layers[&placement.places[path]].len(), 1, "{path}");
    }
    assert!(closure.download_size() == closure.nar_size());
}

fn closure(data: &[u8]) -> Closure {
    let [roots, data @ ..] = data else {
        return Closure {
            roots: Vec::new(),
            paths: [].into(),
        };
    };
    let described: Vec<&[u8; 4]> = data.as_chunks().0.iter().take(MAX_PATHS).collect();
    let paths: Vec<StorePath> = described
        .iter()
        .enumerate()
        .map(|(index, [hash, _, name, _])| {
            // The last byte is the first in a path, so many have the same beginning.
            let mut digest = [*hash; 20];
            digest[0] = u8::try_from(index).expect("there are few");
            let name = NAMES[usize::from(*name) % NAMES.len()];
            StorePath::from_parts(digest, name).expect("it is a path")
        })
        .collect();
    let infos = described
        .iter()
        .enumerate()
        .map(|(index, [_, size, _, to])| {
            // A few before it; or any, so that there may be a cycle.
            let others = if to & 128 == 0 {
                [1_u8, 2, 4]
                    .into_iter()
                    .filter(|bit| to & bit != 0)
                    .filter_map(|bit| index.checked_sub(bit.into()))
                    .chain((to & 8 != 0).then_some(0))
                    .collect()
            } else {
                vec![usize::from(to & 127) % described.len()]
            };
            PathInfo {
                nar_hash: NixHash::Sha256([0; 32]),
                nar_size: u64::MAX >> (size % 64),
                references: others
                    .into_iter()
                    .map(|other| paths[other].clone())
                    .collect(),
                source: None,
                trust: Trust::Signed,
                content: None,
            }
        });
    Closure {
        roots: paths
            .iter()
            .rev()
            .take(usize::from(roots % 50))
            .cloned()
            .collect(),
        paths: paths.iter().cloned().zip(infos).collect(),
    }
}
