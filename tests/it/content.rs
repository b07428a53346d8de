//! Store paths that nobody has signed are taken where their names were made from their content, as real
//! Nix makes them, and from nothing else.

use crate::common::fetch;
use crate::common::{caches, fixtures, nix, output};
use binary_cache::{Answer, Caches};
use binary_cache::{Trust, Untrusted};
use closure::fetch::FetchFailure;
use closure::plan::Previous;
use closure::relocate::references::ScanFor;
use closure::unpack::UnpackError;
use nix_derivation::{HashAlgorithm, StorePath, hash_bytes};
use platform::fixtures::Fixtures;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What is in each of the paths, and is changed by whoever lies.
const TEXT: &str = "what the path is named after";

/// A store of real Nix, and the binary cache without any signature that its paths are copied to.
struct Unsigned {
    fixtures: Fixtures,
    directory: TempDir,
}

impl Unsigned {
    fn new(fixtures: Fixtures) -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir_all(directory.path().join("source/below")).unwrap();
        fs::write(directory.path().join("source/below/file"), TEXT).unwrap();
        fs::write(directory.path().join("file"), TEXT).unwrap();
        Self {
            fixtures,
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn nix(&self, program: &str, arguments: &[&str]) -> String {
        output(nix(&self.fixtures, program, &self.path("nix")).args(arguments))
    }

    /// Has Nix copy `path` and what it needs, uncompressed.
    fn copy(&self, path: &str) -> StorePath {
        let cache = format!("file://{}?compression=none", self.path("cache").display());
        self.nix("nix", &["copy", "--no-check-sigs", "--to", &cache, path]);
        path.parse().unwrap()
    }

    fn caches(&self) -> Caches {
        let url = format!("file://{}", self.path("cache").display());
        caches(&[url], &[&self.fixtures.public_key], true)
    }

    fn fetched(&self, path: &StorePath) -> Result<TempDir, FetchFailure> {
        let caches = self.caches();
        let closure =
            crate::common::plan(&caches, std::slice::from_ref(path), &Previous::default()).unwrap();
        let mut infos = closure.paths.values();
        assert!(infos.all(|info| info.trust == Trust::ContentAddressed));
        let store = TempDir::new().unwrap();
        fetch(&closure, &caches, store.path(), &ScanFor::Nothing).map_err(|error| error.reason)?;
        Ok(store)
    }

    /// Has the cache serve other content for `path`, of which all that it says is true.
    fn replace(&self, path: &StorePath, change: impl FnOnce(&[u8]) -> Vec<u8>) {
        let cache = self.path("cache");
        let narinfo = cache.join(format!("{}.narinfo", &path.to_basename()[..32]));
        let text = fs::read_to_string(&narinfo).unwrap();
        let fields: BTreeMap<&str, &str> = text
            .lines()
            .map(|line| line.split_once(": ").unwrap())
            .collect();
        let nar = change(&fs::read(cache.join(fields["URL"])).unwrap());
        fs::write(cache.join("nar/other.nar"), &nar).unwrap();
        let hash = hash_bytes(HashAlgorithm::Sha256, &nar).to_nix_nixbase32_string();
        let size = nar.len().to_string();
        let lines = fields.into_iter().map(|(name, value)| {
            let value = match name {
                "URL" => "nar/other.nar",
                "NarHash" | "FileHash" => &hash,
                "NarSize" | "FileSize" => &size,
                _ => value,
            };
            format!("{name}: {value}\n")
        });
        fs::write(narinfo, lines.collect::<String>()).unwrap();
    }
}

fn shouted(nar: &[u8]) -> Vec<u8> {
    replaced(nar, TEXT, &TEXT.to_uppercase())
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let mut count = 0;
    while let Some(at) = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes())
    {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        count += 1;
    }
    assert!(count > 0, "{from} is not in it");
    bytes
}

#[test]
fn what_nix_adds_to_a_store_needs_no_signature() {
    let Some(fixtures) = fixtures() else { return };
    let unsigned = Unsigned::new(fixtures);
    let (source, file) = (unsigned.path("source"), unsigned.path("file"));
    let (source, file) = (source.to_str().unwrap(), file.to_str().unwrap());
    let text = format!("builtins.toFile \"text\" \"{TEXT} ${{{source}}}\"");
    let fixed = "--add-fixed";
    let added = [
        unsigned.nix("nix-store", &["--add", source]),
        unsigned.nix("nix-store", &[fixed, "--recursive", "sha1", source]),
        unsigned.nix("nix-store", &[fixed, "--recursive", "sha512", source]),
        unsigned.nix("nix-store", &[fixed, "sha256", file]),
        unsigned.nix("nix-store", &[fixed, "sha512", file]),
        unsigned.nix("nix", &["eval", "--impure", "--raw", "--expr", &text]),
    ];
    for path in &added {
        let path = unsigned.copy(path);
        let store = unsigned.fetched(&path).unwrap();
        assert!(store.path().join(path.to_basename()).exists());
    }
    // The first was named after the hash of its NAR, so it does not even look like one in the end.
    let [of_nar, others @ ..] = added.map(|path| path.parse::<StorePath>().unwrap());
    for path in others {
        unsigned.replace(&path, shouted);
        let error = unsigned.fetched(&path).unwrap_err();
        assert!(
            matches!(error, FetchFailure::Unpack(UnpackError::WrongContent(_))),
            "{path}: {error:?}"
        );
    }
    unsigned.replace(&of_nar, shouted);
    let misses = crate::common::plan(&unsigned.caches(), &[of_nar], &Previous::default());
    let answer = &misses.unwrap_err()[0].answers[0].answer;
    assert_eq!(*answer, Answer::Untrusted(Untrusted::NotSigned));
}

#[test]
fn paths_that_refer_to_themselves_are_named_after_the_rest_of_them() {
    let Some(fixtures) = fixtures() else { return };
    let app = fixtures.apps["python"].store_path.clone();
    let from = format!("file://{}", fixtures.cache.display());
    let key = fixtures.public_key.clone();
    let unsigned = Unsigned::new(fixtures);
    let keys = ["--option", "trusted-public-keys", &key];
    unsigned.nix(
        "nix",
        &[&["copy", "--from", &from, &app][..], &keys].concat(),
    );
    let command = ["store", "make-content-addressed", "--json", &app];
    let made: serde_json::Value = serde_json::from_str(&unsigned.nix("nix", &command)).unwrap();
    let path = unsigned.copy(made["rewrites"][&app].as_str().unwrap());
    let narinfo = unsigned
        .path("cache")
        .join(format!("{}.narinfo", &path.to_basename()[..32]));
    let narinfo = fs::read_to_string(narinfo).unwrap();
    let own = |line: &str| line.starts_with("References: ") && line.contains(&path.to_basename());
    assert!(narinfo.lines().any(own), "it refers to itself: {narinfo}");
    let store = unsigned.fetched(&path).unwrap();
    assert!(fs::read_dir(store.path()).unwrap().count() > 20);

    unsigned.replace(&path, |nar| replaced(nar, "#!/", "#?/"));
    let error = unsigned.fetched(&path).unwrap_err();
    assert!(
        matches!(error, FetchFailure::Unpack(UnpackError::WrongContent(_))),
        "{error:?}"
    );
}

#[test]
fn a_program_or_a_directory_is_not_the_file_that_a_path_was_named_after() {
    let Some(fixtures) = fixtures() else { return };
    let unsigned = Unsigned::new(fixtures);
    let file = unsigned.path("file");
    let add = ["--add-fixed", "sha256", file.to_str().unwrap()];
    let path = unsigned.copy(&unsigned.nix("nix-store", &add));
    let other = unsigned.path("other");
    for (fill, name) in [
        (program as fn(&Path), "a program"),
        (directory, "a directory"),
    ] {
        fill(&other);
        unsigned.replace(&path, |_| {
            let mut nar = Vec::new();
            nix_archive::nar::encode_path(&mut nar, &other, nix_archive::nar::CaseHack::Disabled)
                .unwrap();
            nar
        });
        let error = unsigned.fetched(&path).unwrap_err();
        assert!(
            matches!(error, FetchFailure::Unpack(UnpackError::WrongContent(_))),
            "{name}: {error:?}"
        );
    }
}

fn program(place: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(place, TEXT).unwrap();
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
}

fn directory(place: &Path) {
    fs::remove_file(place).unwrap();
    fs::create_dir(place).unwrap();
    fs::write(place.join("file"), TEXT).unwrap();
}
