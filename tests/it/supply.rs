//! What comes from elsewhere is pinned, and what the compiler cannot check is in one place.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn table(name: &str) -> toml::Table {
    toml::from_str(&read(name)).unwrap()
}

fn is_sha256(digest: &str) -> bool {
    digest.len() == 64 && digest.chars().all(|c| c.is_ascii_hexdigit())
}

/// The files of the project below `directory`, relative to the repository.
fn files(directory: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut rest = vec![root.join(directory)];
    while let Some(directory) = rest.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_path_buf();
            if name == Path::new("target") || name == Path::new(".git") {
                continue;
            }
            if path.is_dir() {
                rest.push(path);
            } else {
                found.push(name);
            }
        }
    }
    found
}

/// Those of `files` in which a line holds one of `words`.
fn naming(files: &[PathBuf], words: &[&str]) -> BTreeSet<String> {
    files
        .iter()
        .map(|file| file.to_str().unwrap().to_string())
        .filter(|file| {
            let text = read(file);
            words.iter().any(|word| text.contains(word))
        })
        .collect()
}

#[test]
fn every_tool_that_a_build_downloads_is_pinned_by_its_sha256() {
    let inventory = table("inventory.toml");
    let artifacts = inventory["artifacts"].as_array().unwrap();
    assert!(!artifacts.is_empty());
    for artifact in artifacts {
        let url = artifact["url"].as_str().unwrap();
        assert!(url.starts_with("https://"), "{url}");
        let digest = artifact["checksum"].as_str().unwrap();
        let digest = digest.strip_prefix("sha256:").unwrap_or_default();
        assert!(is_sha256(digest), "{url}");
    }
}

#[test]
fn scripts_download_through_package_managers_alone() {
    let scripts = [files("script"), files(".ci"), files(".github")].concat();
    let found = naming(&scripts, &["curl ", "wget "]);
    // It writes down the hash of what it downloads.
    assert_eq!(
        found,
        BTreeSet::from(["script/update-inventory".to_string()])
    );
}

#[test]
fn every_library_is_pinned_by_its_checksum() {
    let lock = table("Cargo.lock");
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        // The project's own have no source.
        let Some(source) = package.get("source") else {
            continue;
        };
        let registry = "registry+https://github.com/rust-lang/crates.io-index";
        assert_eq!(source.as_str(), Some(registry), "{name}");
        assert!(is_sha256(package["checksum"].as_str().unwrap()), "{name}");
    }
}

#[test]
fn unsafe_code_is_in_the_module_of_system_calls_alone() {
    let lints = &table("Cargo.toml")["workspace"]["lints"];
    assert_eq!(lints["rust"]["unsafe_code"].as_str(), Some("deny"));
    let mut sources = files(".");
    sources.retain(|file| file.extension().is_some_and(|end| end == "rs"));
    // Split, so that this file does not hold it.
    let lint = ["unsafe", "code)"].join("_");
    let allowing = naming(&sources, &[&lint]);
    assert_eq!(allowing, BTreeSet::from(["start/src/sys.rs".to_string()]));

    for manifest in files(".") {
        if manifest
            .file_name()
            .is_some_and(|name| name == "Cargo.toml")
        {
            let name = manifest.to_str().unwrap();
            let inherits = &table(name)["lints"]["workspace"];
            assert_eq!(inherits.as_bool(), Some(true), "{name}");
        }
    }
}
