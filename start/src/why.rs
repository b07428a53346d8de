//! A closure in words: how large it is, what is large in it, and why each path is there.

use crate::closure::{Closure, Index, bytes, name};
use crate::seen_store::SeenStore;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// How many store paths a report lists.
pub(crate) const LARGEST: usize = 20;

/// The whole report, with the `count` largest paths.
pub(crate) fn report(closure: &Closure, store: &SeenStore, count: usize) -> String {
    let chains = closure.chains();
    let paths = closure.paths();
    let mut text = format!(
        "{} store paths, {}. Deployed:\n\n",
        paths.len(),
        bytes(closure.size())
    );
    for root in closure.roots() {
        let _ = writeln!(text, "            {}", store.path(&paths[*root].path));
    }
    let title = if count < paths.len() {
        "The largest"
    } else {
        "All, the largest first"
    };
    let _ = writeln!(text, "\n{title}, each with what pulls it in:\n");
    for index in closure.by_size().into_iter().take(count) {
        lines(&mut text, closure, store, index, &chains[index]);
    }
    let build_only = closure.build_only();
    if !build_only.is_empty() {
        text.push_str("\nRarely needed by programs when they run:\n\n");
        for (index, kind) in build_only {
            lines(&mut text, closure, store, index, &chains[index]);
            let _ = writeln!(text, "            which is {kind}");
        }
    }
    text
}

/// A path with its size, and its chain where it has been pulled in by another.
fn lines(text: &mut String, closure: &Closure, store: &SeenStore, index: Index, chain: &[Index]) {
    let path = &closure.paths()[index];
    let place = store.path(&path.path);
    let _ = writeln!(text, "{:>10}  {place}", bytes(path.size));
    if chain.len() > 1 {
        let _ = writeln!(text, "            {}", closure.chain_words(chain));
    }
}

/// Says why the paths that the user means are in the closure. A name of no path is looked for among
/// files: `file_in` returns one called so in a store path. None if there is nothing of this name.
pub(crate) fn why(
    closure: &Closure,
    store: &SeenStore,
    wanted: &str,
    file_in: impl Fn(&str) -> Option<PathBuf>,
) -> Option<String> {
    let chains = closure.chains();
    let paths = closure.paths();
    let mut found: Vec<(Index, Option<PathBuf>)> = closure
        .find(store, wanted)
        .into_iter()
        .map(|index| (index, None))
        .collect();
    if found.is_empty() {
        let all = (0..paths.len()).map(|index| (index, file_in(&paths[index].path)));
        found = all.filter(|(_, file)| file.is_some()).collect();
    }
    let explained: Vec<String> = found
        .into_iter()
        .map(|(index, file)| {
            let place = store.path(&paths[index].path);
            let mut text = String::new();
            if let Some(file) = file {
                let _ = writeln!(text, "{place}/{} is in", file.display());
            }
            let _ = writeln!(
                text,
                "{place}\n  {}, {} with all that it needs",
                bytes(paths[index].size),
                bytes(closure.size_with_references(index))
            );
            way(&mut text, closure, store, &chains[index]);
            let referrers = closure.referrers(index);
            if !referrers.is_empty() {
                let names: Vec<&str> = referrers.iter().map(|at| name(&paths[*at].path)).collect();
                let _ = writeln!(text, "\n  Referred to by {}", names.join(", "));
            }
            text
        })
        .collect();
    (!explained.is_empty()).then(|| explained.join("\n"))
}

/// The chain of references to a path, a line each.
fn way(text: &mut String, closure: &Closure, store: &SeenStore, chain: &[Index]) {
    if chain.len() == 1 {
        text.push_str("  It is deployed by name.\n");
        return;
    }
    text.push_str("\n  The shortest way to it:\n");
    for (depth, step) in chain.iter().enumerate() {
        let indent = "  ".repeat(depth);
        let place = store.path(&closure.paths()[*step].path);
        let _ = writeln!(text, "    {indent}{place}");
    }
}

/// The first file called `name` below `directory`, as a path in it. Links are not followed.
pub(crate) fn file_named(directory: &Path, name: &OsStr) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory).ok()?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    entries.into_iter().find_map(|entry| {
        let own = PathBuf::from(entry.file_name());
        if own.as_os_str() == name {
            return Some(own);
        }
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let below = is_directory.then(|| file_named(&entry.path(), name))?;
        below.map(|below| own.join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::sample;

    fn store() -> SeenStore {
        SeenStore::new("/nix/store")
    }

    fn explained(wanted: &str) -> Option<String> {
        why(&sample(), &store(), wanted, |_| None)
    }

    #[test]
    fn a_report_says_what_is_large_and_why_it_is_there() {
        insta::assert_snapshot!(report(&sample(), &store(), 2));
    }

    #[test]
    fn a_path_is_explained_from_what_is_deployed_down_to_it() {
        insta::assert_snapshot!(explained("gcc").unwrap_or_default());
        insta::assert_snapshot!("why_a_root", explained("myapp").unwrap_or_default());
        assert_eq!(explained("perl"), None);
        assert_eq!(explained("ython3-3"), explained("python3-3.13.1"));
    }

    #[test]
    fn of_a_relocated_closure_the_places_are_told_where_it_is() {
        let relocated = SeenStore::new("/layers/nix_hydra/closure");
        let place = format!("/layers/nix_hydra/closure/{}-zlib-1.3", "a".repeat(17));
        let text = why(&sample(), &relocated, &place, |_| None).unwrap_or_default();
        assert!(text.starts_with(&format!("{place}\n")), "{text}");
        assert!(!text.contains("/nix/store"), "{text}");
        let original = format!("/nix/store/{}-zlib-1.3/lib", "a".repeat(32));
        assert_eq!(why(&sample(), &relocated, &original, |_| None), Some(text));
    }

    #[test]
    fn a_file_is_explained_by_the_path_that_it_is_in() {
        let directory = tempfile::tempdir().unwrap();
        let lib = directory.path().join("share/lib");
        fs::create_dir_all(&lib).unwrap();
        fs::write(lib.join("libz.so.1"), "").unwrap();
        let text = why(&sample(), &store(), "libz.so.1", |path| {
            let is_zlib = path.ends_with("-zlib-1.3");
            is_zlib.then(|| file_named(directory.path(), OsStr::new("libz.so.1")))?
        });
        let first = format!(
            "/nix/store/{}-zlib-1.3/share/lib/libz.so.1 is in\n",
            "a".repeat(32)
        );
        assert!(text.is_some_and(|text| text.starts_with(&first)));
    }
}
