//! What comes from elsewhere is pinned, and what no test can try is in one place.

use platform::package::check_programs;
use semver::{Version, VersionReq};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
fn a_package_holds_programs_of_one_architecture_alone() {
    let package = crate::common::buildpack();
    let (own, other) = match std::env::consts::ARCH {
        "aarch64" => ("aarch64", "x86_64"),
        own => (own, "aarch64"),
    };
    check_programs(package, own).unwrap();
    let error = check_programs(package, other).unwrap_err().to_string();
    assert!(
        error.ends_with(&format!("is not a program for {other}")),
        "{error}"
    );
    for name in ["COPYING", "SOURCE", "version"] {
        assert!(package.join("proot").join(name).is_file(), "{name}");
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
fn workflows_name_the_commit_of_each_action() {
    for file in files(".github") {
        for line in read(file.to_str().unwrap()).lines() {
            let Some((_, action)) = line.split_once("uses: ") else {
                continue;
            };
            let commit = action.split_once('@').map(|(_, commit)| &commit[..40]);
            let is_commit = commit.is_some_and(|it| it.chars().all(|c| c.is_ascii_hexdigit()));
            assert!(is_commit || action.starts_with("./"), "{action}");
        }
    }
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

/// Every package that is part of the program or of its tests, for each system that it is built for.
fn packages(deny: &toml::Table) -> Vec<Value> {
    let mut packages = BTreeMap::new();
    for target in deny["graph"]["targets"].as_array().unwrap() {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--locked", "--format-version", "1"])
            .args(["--filter-platform", target.as_str().unwrap()])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        for package in metadata["packages"].as_array().unwrap() {
            packages.insert(package["id"].to_string(), package.clone());
        }
    }
    packages.into_values().collect()
}

/// Whether licences that are `allowed` are enough for an SPDX expression, in the old form (`A/B`) too.
fn is_licensed(expression: &str, allowed: &[&str]) -> bool {
    let expression = expression.replace('/', " OR ");
    // The innermost parentheses first.
    if let Some(close) = expression.find(')') {
        let open = expression[..close].rfind('(').unwrap();
        let inner = is_licensed(&expression[open + 1..close], allowed);
        let inner = if inner { allowed[0] } else { "none" };
        let (before, after) = (&expression[..open], &expression[close + 1..]);
        return is_licensed(&format!("{before}{inner}{after}"), allowed);
    }
    let all = |part: &str| part.split(" AND ").all(|one| allowed.contains(&one.trim()));
    expression.split(" OR ").any(all)
}

#[test]
fn every_library_has_a_licence_that_is_accepted_and_one_version_or_a_reason_for_more() {
    let deny = table("deny.toml");
    let packages = packages(&deny);
    let licences = deny["licenses"]["allow"].as_array().unwrap();
    let licences: Vec<_> = licences.iter().map(|one| one.as_str().unwrap()).collect();
    assert!(!is_licensed("MIT AND (GPL-3.0 OR AGPL-3.0)", &licences));
    assert!(is_licensed("GPL-3.0 OR (MIT AND Zlib)", &licences));
    let mut versions: BTreeMap<&str, Vec<Version>> = BTreeMap::new();
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_licensed(licence, &licences), "{name} has `{licence}`");
        let version = package["version"].as_str().unwrap().parse().unwrap();
        versions.entry(name).or_default().push(version);
    }
    for skipped in deny["bans"]["skip"].as_array().unwrap() {
        assert!(!skipped["reason"].as_str().unwrap().is_empty());
        let (name, version) = skipped["crate"].as_str().unwrap().split_once('@').unwrap();
        let wanted: VersionReq = format!("={version}").parse().unwrap();
        let versions = versions.get_mut(name).unwrap();
        let all = versions.len();
        versions.retain(|version| !wanted.matches(version));
        assert!(!versions.is_empty(), "{name} is here once");
        assert_ne!(versions.len(), all, "{name} {version} is not here");
    }
    let twice: Vec<_> = versions.iter().filter(|(_, all)| all.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    for banned in deny["bans"]["deny"].as_array().unwrap() {
        assert!(!versions.contains_key(banned["crate"].as_str().unwrap()));
    }
}

/// So a clock that is off can change no layer and no bill of materials.
#[test]
fn the_time_of_day_is_read_only_to_tell_how_long_hydra_has_not_looked() {
    let sources = ["src", "crates", "start/src", "inside/src"]
        .map(files)
        .concat();
    let reading = naming(
        &sources,
        &["SystemTime::now", "OffsetDateTime", "clock_gettime"],
    );
    assert_eq!(
        reading,
        BTreeSet::from(["crates/hydra/src/wait.rs".to_string()])
    );
}

#[test]
fn unsafe_code_is_in_modules_of_system_calls_and_at_the_first_instruction_alone() {
    let lints = &table("Cargo.toml")["workspace"]["lints"];
    assert_eq!(lints["rust"]["unsafe_code"].as_str(), Some("deny"));
    let mut sources = files(".");
    sources.retain(|file| file.extension().is_some_and(|end| end == "rs"));
    // Split, so that this file does not hold it.
    let lint = ["(unsafe", "code,"].join("_");
    let allowing = naming(&sources, &[&lint]);
    let expected = [
        "inside/src/sys.rs",
        "src/bin/nix-hydra-inside.rs",
        "start/src/sys.rs",
    ];
    assert_eq!(allowing, expected.map(str::to_string).into());

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
