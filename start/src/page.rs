//! The closure as a page: a treemap and a table that answer to pointer, touch, keyboard and a search. It is
//! one file, and asks for nothing else.

use crate::changes::{Changes, only_in};
use crate::closure::{Closure, Index, Member, name};
use crate::package_name::PackageName;
use crate::seen_store::SeenStore;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The page of a closure. `layer` returns the layer of a store path by its base name, where it is known;
/// what changed since `before` is coloured.
pub(crate) fn html(
    closure: &Closure,
    store: &SeenStore,
    layer: impl Fn(&str) -> Option<String>,
    before: Option<&Closure>,
) -> String {
    let data = data(closure, store, layer, before);
    PAGE.replacen("/*CSS*/", STYLE, 1)
        .replacen("/*DATA*/", &data, 1)
        .replacen("/*JS*/", SCRIPT, 1)
}

/// The JSON that the script reads. No name of a store path, layer or package has a letter that JSON or
/// HTML would take for its own.
fn data(
    closure: &Closure,
    store: &SeenStore,
    layer: impl Fn(&str) -> Option<String>,
    before: Option<&Closure>,
) -> String {
    let chains = closure.chains();
    let build_only: BTreeMap<Index, &str> = closure.build_only().into_iter().collect();
    let gone = before.map(|before| only_in(before, closure));
    let list = |indices: &[Index]| {
        let texts: Vec<String> = indices.iter().map(ToString::to_string).collect();
        format!("[{}]", texts.join(","))
    };
    let mut data = format!(
        "{{\"store\":\"{}\",\"roots\":{}",
        store.directory(),
        list(closure.roots())
    );
    if let Some(before) = before {
        let lines = Changes::between(before, closure).lines();
        let _ = write!(data, ",\"since\":[\"{}\"]", lines.join("\",\""));
    }
    data.push_str(",\"paths\":[");
    for (index, path) in closure.paths().iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(
            data,
            "{comma}\n{{\"path\":\"{}\",\"size\":{},\"total\":{},\"refs\":{},\"chain\":{}",
            store.shown(&path.path),
            path.size,
            closure.size_with_references(index),
            list(&path.references),
            list(&chains[index])
        );
        let (state, was) = match (&gone, before) {
            (Some(gone), Some(before)) => state(path, gone, before),
            _ => ("same", None),
        };
        let texts = [
            ("state", Some(state.to_string())),
            ("was", was.map(str::to_string)),
            ("layer", layer(&path.path)),
            ("note", build_only.get(&index).map(ToString::to_string)),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                let _ = write!(data, ",\"{key}\":\"{text}\"");
            }
        }
        data.push('}');
    }
    data.push_str("\n]}");
    data
}

/// What became of a path since `before`, of whose paths `gone` are gone; and the version that it had.
fn state<'a>(
    path: &Member,
    gone: &BTreeMap<(&str, Option<&str>), Vec<&'a Member>>,
    before: &Closure,
) -> (&'static str, Option<&'a str>) {
    if before.paths().iter().any(|old| old.path == path.path) {
        return ("same", None);
    }
    let package = PackageName::parse(name(&path.path));
    let old = gone.get(&(package.name, package.output));
    match old.map(Vec::as_slice) {
        Some(old) if old.iter().any(|old| name(&old.path) == name(&path.path)) => ("rebuilt", None),
        Some([first, ..]) => ("updated", PackageName::parse(name(&first.path)).version),
        _ => ("new", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::sample;

    #[test]
    fn the_page_has_all_that_the_script_reads() {
        let store = SeenStore::new("/nix/store");
        let layer = |path: &str| path.contains("gcc").then(|| "cccccccc-gcc".to_string());
        let path = |letter: &str, name: &str| format!("{}-{name}", letter.repeat(32));
        let before = Closure::new(
            [path("d", "myapp-1.0").as_str()],
            [
                (path("d", "myapp-1.0"), 4_200, Vec::new()),
                (path("e", "python3-3.12.9"), 40_000_000, Vec::new()),
                (path("f", "zlib-1.3"), 130_000, Vec::new()),
            ],
        );
        insta::assert_snapshot!(data(&sample(), &store, layer, Some(&before)));
        let page = html(&sample(), &store, |_| None, None);
        for place in ["/*CSS*/", "/*JS*/", "/*DATA*/"] {
            assert!(!page.contains(place), "{place}");
        }
        assert!(
            !page.contains("http://") && !page.contains("https://"),
            "it asks for nothing"
        );
        assert!(!data(&sample(), &store, |_| None, None).contains("\"since\""));
    }
}
