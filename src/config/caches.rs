//! Settings of binary caches: which ones, their credentials, and which signatures are accepted.

use super::hydra;
use super::read::{Get, Invalid, Slip, Values, is_set};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use binary_cache::credentials::{Binding, Bindings, CredentialsError, Netrc, read_bindings};
use binary_cache::{CacheUrl, CacheUrlError, TrustSettings};
use http_client::{Endpoint, EndpointError, redact_url};
use nix_narinfo::TrustedPublicKey;
use nix_runner::AccessTokens;
use percent_encoding::percent_decode_str;
use std::path::{Path, PathBuf};
use url::Url;

/// The key of cache.nixos.org, which Nix itself trusts by default.
const DEFAULT_PUBLIC_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Nix's own `netrc-file`, which an operator's builder may have.
pub const DEFAULT_NETRC_FILE: &str = "/etc/nix/netrc";

/// Settings of `nix.conf` that users paste, and the settings that take their values.
const NIX_CONF: [(&str, &str); 7] = [
    ("extra-substituters", "NIX_EXTRA_BINARY_CACHE"),
    ("substituters", "NIX_EXTRA_BINARY_CACHE"),
    ("trusted-substituters", "NIX_EXTRA_BINARY_CACHE"),
    ("extra-trusted-substituters", "NIX_EXTRA_BINARY_CACHE"),
    ("binary-caches", "NIX_EXTRA_BINARY_CACHE"),
    ("extra-trusted-public-keys", "NIX_TRUSTED_PUBLIC_KEYS"),
    ("trusted-public-keys", "NIX_TRUSTED_PUBLIC_KEYS"),
];

/// Fails if `value` is a line of `nix.conf` or in quotation marks.
fn bare(value: &str) -> Result<(), Invalid> {
    if let Some((name, _)) = value.split_once('=')
        && let Some((name, setting)) = NIX_CONF.iter().find(|(known, _)| *known == name.trim())
    {
        return Err(Invalid::slip(format!("{name} = …"), Slip::NixConf(setting)));
    }
    if value.starts_with(['"', '\'']) {
        return Err(Invalid::slip("\"…\"", Slip::Quotes));
    }
    Ok(())
}

/// Takes URLs of binary caches, separated by spaces.
pub(super) fn urls(value: &str) -> Result<Vec<CacheUrl>, Invalid> {
    bare(value)?;
    value.split_whitespace().map(cache_url).collect()
}

pub(super) fn cache_url(word: &str) -> Result<CacheUrl, Invalid> {
    let starts = [",https:", ",http:", ",file:", ",s3:"];
    if word.ends_with(',') || starts.iter().any(|start| word.contains(start)) {
        // Where a password in such a text ends is unknown.
        let shown = if word.contains('@') { "…" } else { word };
        return Err(Invalid::slip(shown, Slip::Commas));
    }
    let invalid = |slip| Invalid {
        shown: redact_url(word),
        slip,
    };
    match word.parse::<CacheUrl>() {
        Ok(url) => match hydra::page(&url.endpoint.base) {
            None => Ok(url),
            slip => Err(invalid(slip)),
        },
        Err(CacheUrlError::Endpoint(EndpointError::NotAUrl | EndpointError::Scheme)) => {
            Err(invalid(None))
        }
        Err(error) => Err(invalid(Some(Slip::CacheUrl(error)))),
    }
}

/// Takes public keys, separated by spaces.
pub(super) fn keys(value: &str) -> Result<Vec<TrustedPublicKey>, Invalid> {
    bare(value)?;
    value.split_whitespace().map(key).collect()
}

fn key(word: &str) -> Result<TrustedPublicKey, Invalid> {
    word.parse().map_err(|_| {
        // It may be a secret key, put here by mistake.
        let (shown, bytes) = match word.split_once(':') {
            Some((name, bytes)) => (format!("{name}:…"), bytes),
            None => ("…".to_string(), word),
        };
        let is_secret = BASE64.decode(bytes).is_ok_and(|bytes| bytes.len() == 64);
        let slip = if is_secret {
            Some(Slip::SecretKey)
        } else {
            word.contains(',').then_some(Slip::Commas)
        };
        Invalid { shown, slip }
    })
}

pub(super) fn netrc_file(value: &str) -> Result<Option<PathBuf>, Invalid> {
    if Path::new(value).is_file() {
        return Ok(Some(PathBuf::from(value)));
    }
    // If it is set to the file's content, the log must not show a password.
    let shown = if value.starts_with('/') { value } else { "…" };
    Err(Invalid::new(shown))
}

/// The binary caches that the platform describes. Where: servicebinding.io, and the CNB
/// specification's bindings extension.
pub(super) fn bindings(get: &Get) -> Result<Bindings, CredentialsError> {
    let directory = |name| get(name).filter(|_| is_set(get, name)).map(PathBuf::from);
    let root = directory("SERVICE_BINDING_ROOT")
        .or_else(|| directory("CNB_PLATFORM_DIR").map(|platform| platform.join("bindings")));
    root.map_or(Ok(Bindings::default()), |root| read_bindings(&root))
}

/// Takes tokens as `access-tokens` of `nix.conf` has them, and shows none of them.
pub(super) fn access_tokens(value: &str) -> Result<AccessTokens, Invalid> {
    AccessTokens::parse(value).ok_or_else(|| Invalid::new("…"))
}

/// The tokens of the setting, then those of the bindings.
pub(super) fn all_access_tokens(own: AccessTokens, bindings: &[Binding]) -> AccessTokens {
    let bound = bindings
        .iter()
        .filter_map(|binding| AccessTokens::parse(&binding.access_tokens));
    bound.fold(own, AccessTokens::then)
}

/// The name and the URL of an input, as `name=URL`, if the URL has credentials. A user alone that SSH needs
/// is none.
pub(crate) fn with_credentials(lookup: &str) -> Option<(&str, Url)> {
    let (name, url) = lookup.split_once('=')?;
    let url = Url::parse(url).ok()?;
    let has_user = !url.username().is_empty() && !url.scheme().contains("ssh");
    (has_user || url.password().is_some()).then_some((name, url))
}

/// The credentials in the URL of an input, for its host.
pub(super) fn credentials_in(lookup: &str) -> Option<Netrc> {
    let (_, url) = with_credentials(lookup)?;
    let word = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let password = word(url.password().unwrap_or_default());
    Some(Netrc::of(url.host_str()?, &word(url.username()), &password))
}

/// The entries of the bindings' netrc files, then those of the user's.
pub(super) fn netrc(file: Option<&Path>, bindings: &[Binding]) -> Result<Netrc, CredentialsError> {
    let own = Netrc::read(file.unwrap_or(Path::new(DEFAULT_NETRC_FILE)))?;
    let bound = bindings.iter().map(|binding| &binding.netrc);
    Ok(bound.chain([&own]).fold(Netrc::default(), Netrc::then))
}

/// The caches that the user names, then those that the platform describes, then the default one,
/// each with its credentials; `hydra` gets its own in the same ways.
pub(super) fn caches(
    values: &mut Values,
    bindings: &[Binding],
    netrc: &Netrc,
    hydra: &mut Option<Endpoint>,
) -> Vec<CacheUrl> {
    let mut caches = std::mem::take(&mut values.extra_caches);
    let mut default = std::mem::take(&mut values.default_caches);
    let defaults: Vec<Url> = default
        .iter()
        .map(|cache| cache.endpoint.base.clone())
        .collect();
    for bound in bindings.iter().filter_map(|binding| binding.url.as_ref()) {
        // One that is named as well is the same one, and the binding has its credentials.
        let mut all = caches.iter_mut().chain(&mut default);
        match all.find(|cache| cache.endpoint.base == bound.endpoint.base) {
            Some(cache) if cache.s3.is_some() => cache.s3.clone_from(&bound.s3),
            Some(cache) => cache.endpoint.share(&bound.endpoint),
            None => caches.push(bound.clone()),
        }
    }
    // Where it is named twice, it keeps its first place.
    default.retain(|cache| {
        !caches
            .iter()
            .any(|other| other.endpoint.base == cache.endpoint.base)
    });
    for cache in &mut caches {
        cache.must_sign = defaults.contains(&cache.endpoint.base);
    }
    caches.extend(default.into_iter().map(|cache| CacheUrl {
        must_sign: true,
        ..cache
    }));
    give_credentials(&mut caches, netrc, hydra);
    caches
}

fn give_credentials(caches: &mut [CacheUrl], netrc: &Netrc, hydra: &mut Option<Endpoint>) {
    if let Some(hydra) = hydra.as_mut().filter(|hydra| hydra.credentials.is_none()) {
        let same = |cache: &&CacheUrl| cache.endpoint.base.origin() == hydra.base.origin();
        let known = caches
            .iter()
            .find(|cache| same(cache) && cache.endpoint.credentials.is_some());
        if let Some(cache) = known {
            hydra.share(&cache.endpoint);
        }
    }
    for endpoint in caches
        .iter_mut()
        .map(|cache| &mut cache.endpoint)
        .chain(hydra.as_mut())
    {
        netrc.give(endpoint);
    }
}

pub(super) fn trust(values: &mut Values, bindings: &[Binding]) -> TrustSettings {
    let mut keys = std::mem::take(&mut values.keys);
    let bound = bindings.iter().flat_map(|binding| &binding.public_keys);
    keys.extend(bound.cloned());
    let required = values.require_signatures || !keys.is_empty();
    keys.extend(DEFAULT_PUBLIC_KEY.parse::<TrustedPublicKey>());
    TrustSettings { keys, required }
}
