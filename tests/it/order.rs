//! The modules of `src/` and of `start/src/` use each other in one direction only.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The directories of the libraries whose modules have an order.
fn sources() -> [PathBuf; 2] {
    ["src", "start/src"].map(|source| Path::new(env!("CARGO_MANIFEST_DIR")).join(source))
}

/// The modules of a library, lowest first, as its `lib.rs` lists them.
fn order(source: &Path) -> Vec<String> {
    let library = fs::read_to_string(source.join("lib.rs")).unwrap();
    let modules = library.lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let name = line.strip_prefix("mod ")?;
        Some(name.trim_end_matches(';').to_string())
    });
    modules.collect()
}

/// Each `.rs` file of a module, with the modules of this crate that it names outside its tests.
fn uses(source: &Path, module: &str) -> BTreeMap<PathBuf, Vec<String>> {
    let mut files = vec![source.join(format!("{module}.rs"))];
    let mut directories = vec![source.join(module)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.retain(|file| file.is_file() && file.extension().is_some_and(|ending| ending == "rs"));
    assert!(!files.is_empty(), "{module} has no files");
    let used = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        (file, named_modules(&text))
    };
    files.into_iter().map(used).collect()
}

/// The names behind `crate::` in a text, those of a list in braces one by one.
fn named_modules(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let first_name = |text: &str| {
        let name = text.trim_start();
        let end = name.find(|c: char| c != '_' && !c.is_alphanumeric());
        name[..end.unwrap_or(name.len())].to_string()
    };
    let mut names = Vec::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            Some(list) => {
                let list = list.split("};").next().unwrap_or_default();
                names.extend(list.split(',').map(first_name));
            }
            None => names.push(first_name(after)),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn no_module_uses_one_that_stands_after_it_in_the_library() {
    let mut wrong = Vec::new();
    for source in sources() {
        let order = order(&source);
        assert!(order.len() > 10, "{order:?}");
        let place = |name: &str| order.iter().position(|module| module == name);
        for (own, module) in order.iter().enumerate() {
            for (file, names) in uses(&source, module) {
                let higher = names
                    .iter()
                    .filter(|name| place(name).is_some_and(|place| place > own));
                wrong.extend(higher.map(|name| format!("{} uses {name}", file.display())));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_use_of_a_higher_module_is_seen_in_every_form() {
    let text = "use crate::{log, messages::Message};\nfn f() { crate::deploy::deploy() }\n\
        // crate::resolve is only mentioned\n#[cfg(test)]\nuse crate::launch;\n";
    assert_eq!(named_modules(text), ["log", "messages", "deploy"]);
}
