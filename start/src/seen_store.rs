//! The places of store paths as the app sees them.

/// Letters of a store path's hash.
const HASH: usize = 32;

/// A directory of store paths: `/nix/store`, or that of a relocated closure, where names have the
/// beginnings of their hashes.
#[derive(Debug, Clone)]
pub(crate) struct SeenStore {
    directory: String,
    /// Letters that are kept of each hash.
    kept: usize,
}

impl SeenStore {
    /// Letters of a store path before its name, but the dash: `/nix/store/` and the hash. A relocated
    /// path has as many.
    const LENGTH: usize = "/nix/store/".len() + HASH;

    pub(crate) fn new(directory: &str) -> Self {
        Self {
            directory: directory.to_string(),
            kept: Self::LENGTH.saturating_sub(directory.len() + 1).min(HASH),
        }
    }

    pub(crate) fn directory(&self) -> &str {
        &self.directory
    }

    /// The full path of the store path with this base name.
    pub(crate) fn path(&self, base: &str) -> String {
        format!("{}/{}", self.directory, self.shown(base))
    }

    pub(crate) fn shown(&self, base: &str) -> String {
        let (hash, name) = base.split_at(base.len().min(HASH));
        format!("{}{name}", hash.get(..self.kept).unwrap_or(hash))
    }

    /// The base name in a full path, in a path below one, or by itself.
    pub(crate) fn base_name<'a>(&self, wanted: &'a str) -> &'a str {
        let below = [self.directory.as_str(), "/nix/store"]
            .into_iter()
            .find_map(|directory| wanted.strip_prefix(directory)?.strip_prefix('/'));
        below
            .unwrap_or(wanted)
            .split('/')
            .next()
            .unwrap_or_default()
    }
}
