//! The end of a build's log: what was deployed, and what it took.

use crate::layers::closure::ClosureLayer;
use crate::log::bytes;
use crate::root::Root;
use hydra::Revision;
use nix_hydra_start::engine::EngineSetting;
use words::{list, paths};

/// What a deploy has come to.
#[derive(Debug)]
pub struct Summary<'a> {
    pub roots: &'a [Root],
    pub revision: Option<&'a Revision>,
    pub closure: &'a ClosureLayer,
    pub engine: EngineSetting,
    /// Whether what no binary cache had was compiled.
    pub is_compiled: bool,
}

impl Summary<'_> {
    pub fn lines(&self) -> Vec<String> {
        let names: Vec<&str> = self.roots.iter().map(|root| root.path.name()).collect();
        let moved = &self.closure.moved;
        let mut lines = vec![
            match self.revision {
                Some(revision) => format!(
                    "Deployed {} of revision {} ({})",
                    list(&names),
                    hydra::short(&revision.name),
                    revision.from
                ),
                None => format!("Deployed {}", list(&names)),
            },
            format!(
                "{}, {}; {} downloaded",
                paths(moved.paths),
                bytes(moved.size),
                bytes(moved.downloaded)
            ),
            match moved.layers {
                0 => "No layer of store paths is new".to_string(),
                1 => format!(
                    "1 layer of store paths is new: {} to upload, before compression",
                    bytes(moved.new)
                ),
                count => format!(
                    "{count} layers of store paths are new: {} to upload, before compression",
                    bytes(moved.new)
                ),
            },
            match self.engine {
                _ if self.closure.is_relocated => {
                    "No engine is needed: it is relocated".to_string()
                }
                EngineSetting::Only(engine) => {
                    format!("Processes start with the engine {engine}, which NIX_ENGINE names")
                }
                _ => "Processes start with the first engine that works where they run".to_string(),
            },
        ];
        if self.is_compiled {
            lines.push(
                "It was compiled here, since no binary cache had it, and so will each change be"
                    .to_string(),
            );
        }
        lines
    }
}
