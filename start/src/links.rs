//! Links, followed as the app will see them, wherever the files are now.

use std::path::{Component, Path, PathBuf};

/// Links that are followed before a path counts as going in a circle, as Linux has it.
const MAX_LINKS: usize = 40;

/// The present place of a path as the app sees it, with all links in it followed. `now` returns where such
/// a path is, or None if it is nowhere. None also for a path that goes in a circle.
pub fn followed<E>(
    seen: &Path,
    now: impl Fn(&Path) -> Result<Option<PathBuf>, E>,
) -> Result<Option<PathBuf>, E> {
    let mut seen = seen.to_path_buf();
    for _ in 0..MAX_LINKS {
        let mut prefixes: Vec<&Path> = seen.ancestors().collect();
        prefixes.reverse();
        let mut link = None;
        for prefix in prefixes {
            let place = now(prefix)?;
            if let Some(target) = place.and_then(|place| place.read_link().ok()) {
                link = Some((prefix, target));
                break;
            }
        }
        let Some((link, target)) = link else {
            return now(&seen);
        };
        let rest = seen.strip_prefix(link).unwrap_or(Path::new(""));
        let parent = link.parent().unwrap_or(Path::new("/"));
        // An absolute target takes the parent's place.
        seen = without_dots(&parent.join(target).join(rest));
    }
    Ok(None)
}

fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}
