//! What every step of a build works with.

use crate::config::Config;
use crate::layers::nix_store::NixStoreLayer;
use http_client::Http;
use std::path::Path;

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
