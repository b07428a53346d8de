//! The tools that a build runs: Nix, pinned in `inventory.toml`, and PRoot, which comes with the buildpack.

use http_client::{Http, HttpError, Size};
use libherokubuildpack::inventory::Inventory;
use libherokubuildpack::inventory::artifact::{Arch, Os};
use libherokubuildpack::inventory::version::ArtifactRequirement;
use nix_derivation::StorePath;
use nix_runner::programs::ProgramsError;
use nix_runner::temporary::NoTemporary;
use semver::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use url::Url;

/// Where PRoot is in the buildpack's directory, with its version and its licence.
const PACKAGED_PROOT: &str = "proot";

const INVENTORY: &str = include_str!("../../inventory.toml");

/// A file to download and the SHA-256 it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// An `https`, `http` or `file` URL.
    pub url: Url,
    pub sha256: [u8; 32],
}

/// Bytes that are read, hashed and written at once.
const BUFFER_SIZE: usize = 64 * 1024;

/// The largest tool taken; Nix's archive has 25 MB.
const MAX_DOWNLOAD_SIZE: u64 = 1024 * 1024 * 1024;

/// A tool of the inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    Nix,
    #[serde(rename = "proot")]
    PRoot,
}

/// Where a tool comes from: the pinned release, or what the user names instead.
#[derive(Debug, Clone)]
pub struct ToolSource {
    pub tool: Tool,
    pub download: Download,
    /// The version of the pinned release.
    pub version: Option<Version>,
}

/// Where the Nix that evaluates comes from: from binary caches where they have it, else as a release.
/// One of both is there.
#[derive(Debug, Clone)]
pub struct NixSource {
    pub store_path: Option<StorePath>,
    pub release: Option<ToolSource>,
}

/// Why a tool could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The inventory that is built into this program cannot be read, or lacks the tool.
    #[error("the list of tools: {0}")]
    Inventory(String),
    #[error("{0}: {1}")]
    Http(Url, #[source] HttpError),
    #[error("{0}: {1}")]
    Read(Url, #[source] io::Error),
    #[error("{0} is too large")]
    TooLarge(Url),
    #[error("{path} cannot be written: {1}", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Temporary(#[from] NoTemporary),
    /// The PRoot that comes with the buildpack cannot be read.
    #[error("{path} cannot be read: {1}", path = .0.display())]
    NotPackaged(PathBuf, #[source] io::Error),
    /// Binary caches do not give the Nix that `NIX_EVALUATOR` names.
    #[error("{0}: {1}")]
    NotInCaches(StorePath, #[source] ProgramsError),
    /// The file has another hash than it should: the URL, the expected and the real SHA-256.
    #[error("{url} has the SHA-256 {actual}, not {expected}")]
    WrongHash {
        url: Url,
        expected: String,
        actual: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    tool: Tool,
    store_path: Option<String>,
}

impl ArtifactRequirement<Version, Metadata> for Tool {
    fn satisfies_metadata(&self, metadata: &Metadata) -> bool {
        metadata.tool == *self
    }

    fn satisfies_version(&self, _: &Version) -> bool {
        true
    }
}

impl NixSource {
    /// The Nix that the settings name, as a release or by its store path, else the pinned one for an
    /// architecture as buildpacks call it (`amd64`, `arm64`).
    pub fn new(
        release: Option<&Download>,
        store_path: Option<&StorePath>,
        arch: &str,
    ) -> Result<Self, ToolError> {
        if release.is_some() || store_path.is_some() {
            return Ok(Self {
                store_path: store_path.cloned(),
                release: release.map(|download| ToolSource::named(Tool::Nix, download)),
            });
        }
        let inventory: Inventory<Version, Sha256, Metadata> = INVENTORY.parse().map_err(
            |error: libherokubuildpack::inventory::ParseInventoryError| {
                ToolError::Inventory(error.to_string())
            },
        )?;
        let missing = || ToolError::Inventory(format!("no Nix for {arch}"));
        let arch: Arch = arch.parse().map_err(|_| missing())?;
        let artifact = inventory
            .resolve(Os::Linux, arch, &Tool::Nix)
            .ok_or_else(missing)?;
        let sha256 = <[u8; 32]>::try_from(artifact.checksum.value.as_slice())
            .map_err(|_| ToolError::Inventory("a checksum is no SHA-256".to_string()))?;
        let url = Url::parse(&artifact.url)
            .map_err(|error| ToolError::Inventory(format!("{}: {error}", artifact.url)))?;
        let store_path = artifact.metadata.store_path.as_deref().map(str::parse);
        let store_path: Option<StorePath> = store_path
            .transpose()
            .map_err(|error| ToolError::Inventory(format!("a store path: {error}")))?;
        let release = ToolSource {
            tool: Tool::Nix,
            download: Download { url, sha256 },
            version: Some(artifact.version.clone()),
        };
        Ok(Self {
            store_path,
            release: Some(release),
        })
    }

    /// Tells it from any other.
    pub fn key(&self) -> String {
        let release = self.release.as_ref();
        let sha256 = release.map(|release| hex::encode(release.download.sha256));
        let store_path = self.store_path.as_ref().map(StorePath::to_absolute_path);
        [sha256, store_path]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// What the log calls it.
    pub fn name(&self) -> String {
        match (&self.release, &self.store_path) {
            (Some(release), _) => tool_name(release),
            (None, Some(path)) => path.name().to_string(),
            (None, None) => "Nix".to_string(),
        }
    }
}

impl ToolSource {
    /// The PRoot that the settings name, else the one in the buildpack's directory, so that a build
    /// needs no other host for it.
    pub fn proot(named: Option<&Download>, buildpack_dir: &Path) -> Result<Self, ToolError> {
        if let Some(download) = named {
            return Ok(Self::named(Tool::PRoot, download));
        }
        let directory = buildpack_dir.join(PACKAGED_PROOT);
        let program = directory.join("proot");
        let unreadable = |error| ToolError::NotPackaged(program.clone(), error);
        let version = fs::read_to_string(directory.join("version")).map_err(unreadable)?;
        let url = Url::from_file_path(&program)
            .map_err(|()| unreadable(io::ErrorKind::InvalidFilename.into()))?;
        let sha256 = hash_of(&program).map_err(unreadable)?;
        Ok(Self {
            tool: Tool::PRoot,
            download: Download { url, sha256 },
            version: version.trim().parse().ok(),
        })
    }

    fn named(tool: Tool, download: &Download) -> Self {
        Self {
            tool,
            download: download.clone(),
            version: None,
        }
    }

    /// Downloads the tool's file to `file` and checks its hash.
    pub fn download(&self, http: &Http, file: &Path) -> Result<(), ToolError> {
        let url = &self.download.url;
        let mut source: Box<dyn Read> = if url.scheme() == "file" {
            let opened = url
                .to_file_path()
                .map_err(|()| io::Error::from(io::ErrorKind::InvalidInput))
                .and_then(File::open);
            Box::new(opened.map_err(|error| ToolError::Read(url.clone(), error))?)
        } else {
            let body = http.get(url, None, Size::Large);
            Box::new(body.map_err(|error| ToolError::Http(url.clone(), error))?)
        };
        let write_error = |error| ToolError::Write(file.to_path_buf(), error);
        let mut target = File::create(file).map_err(write_error)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BUFFER_SIZE];
        let mut size = 0;
        loop {
            let count = source
                .read(&mut buffer)
                .map_err(|error| ToolError::Read(url.clone(), error))?;
            if count == 0 {
                break;
            }
            size += count as u64;
            if size > MAX_DOWNLOAD_SIZE {
                return Err(ToolError::TooLarge(url.clone()));
            }
            hasher.update(&buffer[..count]);
            target.write_all(&buffer[..count]).map_err(write_error)?;
        }
        let actual: [u8; 32] = hasher.finalize().into();
        if actual == self.download.sha256 {
            Ok(())
        } else {
            Err(ToolError::WrongHash {
                url: url.clone(),
                expected: hex::encode(self.download.sha256),
                actual: hex::encode(actual),
            })
        }
    }

    /// Whether `file` is this tool's file, whole.
    pub fn matches(&self, file: &Path) -> bool {
        hash_of(file).is_ok_and(|hash| hash == self.download.sha256)
    }
}

/// The SHA-256 of a file.
pub(crate) fn hash_of(file: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(file)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finalize().into());
        }
        hasher.update(&buffer[..count]);
    }
}

/// `Nix 2.35.2` for a pinned tool, else the setting that names it.
pub(crate) fn tool_name(source: &ToolSource) -> String {
    let (name, setting) = match source.tool {
        Tool::Nix => ("Nix", "NIX_ARCHIVE_URL"),
        Tool::PRoot => ("PRoot", "NIX_PROOT_URL"),
    };
    match &source.version {
        Some(version) => format!("{name} {version}"),
        None => format!("the {name} of {setting}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nix_is_pinned_for_both_architectures_and_new_enough() {
        for arch in ["amd64", "arm64"] {
            let nix = NixSource::new(None, None, arch).unwrap();
            let release = nix.release.unwrap();
            assert_eq!(release.download.url.scheme(), "https");
            let version = release.version.unwrap();
            assert!(version >= nix_runner::MIN_VERSION);
            assert_eq!(nix.store_path.unwrap().name(), format!("nix-{version}"));
        }
        assert!(NixSource::new(None, None, "riscv64").is_err());
        let path: StorePath = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-nix-2.36.0"
            .parse()
            .unwrap();
        let named = NixSource::new(None, Some(&path), "riscv64").unwrap();
        assert_eq!(named.name(), "nix-2.36.0");
        assert_eq!(named.key(), path.to_absolute_path());
    }

    #[test]
    fn proot_is_the_buildpack_s_own_unless_the_settings_name_another() {
        let buildpack = tempfile::tempdir().unwrap();
        let missing = ToolSource::proot(None, buildpack.path());
        assert!(matches!(missing, Err(ToolError::NotPackaged(..))));
        let directory = buildpack.path().join(PACKAGED_PROOT);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("proot"), "program").unwrap();
        fs::write(directory.join("version"), "5.4.0\n").unwrap();
        let own = ToolSource::proot(None, buildpack.path()).unwrap();
        assert_eq!(tool_name(&own), "PRoot 5.4.0");
        own.download(&Http::new(), &directory.join("copy")).unwrap();
        assert_eq!(fs::read(directory.join("copy")).unwrap(), b"program");
        let named = Download {
            url: "https://example.org/proot".parse().unwrap(),
            sha256: [7; 32],
        };
        let named = ToolSource::proot(Some(&named), buildpack.path()).unwrap();
        assert_eq!(tool_name(&named), "the PRoot of NIX_PROOT_URL");
    }
}
