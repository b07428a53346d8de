//! Sources that an app names by their hashes, to be fetched before Nix asks for them. This reads text and
//! guesses: what is not a source, no binary cache has.

use super::source::Source;
use app_dir::Leaf;
use nix_derivation::{CAHash, NixHash, StoreDir, StorePath};
use serde_json::Value;

/// Sources that are fetched at most without having been asked for. An app that names more hashes has them
/// for something else, such as the files of a lock.
const MAX_SOURCES: usize = 8;

/// Larger files are generated, and name more than is evaluated.
const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// The name of what is fetched where nothing else is said.
const NAME: &str = "source";

/// The store paths of sources whose hashes are in the app: of the inputs that a `flake.lock` gives its
/// root, else of all hashes in expressions and in the files of npins and niv.
pub(super) fn named_sources(source: &Source) -> Vec<StorePath> {
    let (mut locks, mut hashes) = (Vec::new(), Vec::new());
    source.tree.visit(&mut |path, leaf| {
        let Leaf::File { from, .. } = leaf else {
            return;
        };
        let is_lock = path == "flake.lock";
        let is_text = path
            .extension()
            .is_some_and(|it| it == "nix" || it == "json");
        if !is_lock && (!is_text || hashes.len() > MAX_SOURCES) {
            return;
        }
        let text = source.app.read(from, MAX_FILE_SIZE).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if is_lock {
            locks = serde_json::from_str(&text).map_or_else(|_| Vec::new(), |lock| locked(&lock));
        } else {
            hashes.extend(in_text(&text));
        }
    });
    let hashes = if locks.is_empty() { hashes } else { locks };
    let mut paths: Vec<StorePath> = hashes.into_iter().filter_map(path_of).collect();
    paths.sort();
    paths.dedup();
    if paths.len() > MAX_SOURCES {
        paths.clear();
    }
    paths
}

/// The hashes of the root's inputs.
fn locked(lock: &Value) -> Vec<NixHash> {
    let root = lock["root"].as_str().unwrap_or_default();
    let inputs = lock["nodes"][root]["inputs"].as_object();
    inputs
        .into_iter()
        .flatten()
        // One that follows another is a list of names.
        .filter_map(|(_, node)| lock["nodes"][node.as_str()?]["locked"]["narHash"].as_str())
        .filter_map(|hash| hash.parse().ok())
        .collect()
}

fn in_text(text: &str) -> impl Iterator<Item = NixHash> {
    let is_hash =
        |character: char| character.is_ascii_alphanumeric() || "+/=:-".contains(character);
    text.split(move |character| !is_hash(character))
        .filter_map(|word| {
            let digits = word.trim_start_matches("sha256:");
            match digits.len() {
                51 => digits.starts_with("sha256-").then(|| digits.parse().ok())?,
                52 | 64 => format!("sha256:{digits}").parse().ok(),
                _ => None,
            }
        })
}

fn path_of(hash: NixHash) -> Option<StorePath> {
    StoreDir::default()
        .build_ca_path(NAME, &CAHash::Nar(hash), [], false)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_found_in_each_form_that_fetchers_take() {
        let sri = "sha256-e+jGuwozN6sBcMhD/xUljlGYoXQx49CGCcDkb7YRqKo=";
        let base32 = "1am826v6zr60163d1qrifjhrhlcf4lazyhy8f00sndrk1axwds3v";
        let base16 = "7be8c6bb0a3337ab0170c843ff15258e5198a17431e3d08609c0e46fb611a8aa";
        let text = format!(
            "{{ sha256 = \"{base32}\"; hash = \"{sri}\"; old = \"sha256:{base16}\"; rev = \"{}\"; }}",
            "3f96280da0ebc578599130c55c283036b51a9e91"
        );
        let found: Vec<_> = in_text(&text).collect();
        assert_eq!(found, vec![sri.parse().unwrap(); 3]);
    }

    #[test]
    fn of_a_lock_file_the_root_s_own_inputs_are_taken() {
        let hash = "sha256-e+jGuwozN6sBcMhD/xUljlGYoXQx49CGCcDkb7YRqKo=";
        let lock = serde_json::json!({
            "nodes": {
                "root": { "inputs": { "nixpkgs": "nixpkgs_2", "utils": ["nixpkgs"] } },
                "nixpkgs_2": { "locked": { "narHash": hash } },
                "other": { "locked": { "narHash": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" } },
            },
            "root": "root",
        });
        assert_eq!(locked(&lock), [hash.parse().unwrap()]);
        assert_eq!(locked(&serde_json::json!([])), []);
    }
}
