//! What every step of a build works with.

use crate::config::Config;
use crate::config::DEFAULT_NETRC_FILE;
use crate::layers::nix_store::NixStoreLayer;
use http_client::Http;
use std::path::{Path, PathBuf};

/// One build: where things are, the settings, and the HTTP client. Made once, by [`crate::deploy`].
#[derive(Clone, Copy)]
pub struct Build<'a> {
    /// The app's source.
    pub app_dir: &'a Path,
    /// Where the buildpack is, with the PRoot that comes with it.
    pub buildpack_dir: &'a Path,
    /// Where the layers are, one directory each.
    pub layers_dir: &'a Path,
    /// The processor of the image as buildpacks call it: `amd64` or `arm64`.
    pub arch: &'a str,
    pub config: &'a Config,
    pub http: &'a Http,
    /// Opens the `nix-store` layer, which only an evaluation needs. Fails with the platform's reason.
    pub open_nix_store: &'a dyn Fn() -> Result<NixStoreLayer, String>,
}

impl Build<'_> {
    /// What no builder may see: the credentials that the platform and the user give the build, and the
    /// layers.
    pub fn hidden_from_builders(&self) -> Vec<PathBuf> {
        let given = ["CNB_PLATFORM_DIR", "SERVICE_BINDING_ROOT", "NIX_NETRC_FILE"];
        let given = given.into_iter().filter_map(std::env::var_os);
        given
            .map(PathBuf::from)
            .chain([PathBuf::from(DEFAULT_NETRC_FILE)])
            .chain([self.layers_dir.to_path_buf()])
            .filter(|path| path.is_absolute())
            .collect()
    }
}
