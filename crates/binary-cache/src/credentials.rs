//! Who may read a private binary cache: netrc files, and service bindings of the platform.
//!
//! Credentials are kept with the cache that they are for. They are sent to its host alone, and
//! nothing here prints them.

use crate::{CacheUrl, CacheUrlError, S3Credentials};
use http_client::{Credentials, Endpoint};
use nix_narinfo::TrustedPublicKey;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use url::Url;

/// The type of service binding that describes a binary cache.
pub const BINDING_TYPE: &str = "nix-binary-cache";

/// The hosts of netrc files with their credentials, in the files' order.
#[derive(Clone, Default)]
pub struct Netrc {
    entries: Vec<Entry>,
}

/// Never prints what it holds.
impl fmt::Debug for Netrc {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Netrc(…)")
    }
}

#[derive(Clone, Default)]
struct Entry {
    /// No machine: the `default` entry, which fits every host.
    machine: Option<String>,
    login: String,
    password: String,
    /// Where the entry is from, as messages name it.
    from: String,
}

/// A binary cache that the platform describes. Specification: servicebinding.io; the entries are
/// the names of files: `url`, `netrc`, `username` and `password`, `token`, `access-key-id`,
/// `secret-access-key` and `session-token`, `public-key`, `access-tokens`.
#[derive(Default)]
pub struct Binding {
    pub url: Option<CacheUrl>,
    pub netrc: Netrc,
    pub public_keys: Vec<TrustedPublicKey>,
    /// As `access-tokens` of `nix.conf` has them.
    pub access_tokens: String,
}

/// Why a binding or a netrc file cannot be used. The file's content is never shown.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("{path} cannot be read: {1}", path = .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// The `url` of a binding is none of a binary cache.
    #[error("the `url` in {path} is not that of a binary cache", path = .0.display())]
    Url(PathBuf, #[source] CacheUrlError),
    /// The `public-key` of a binding holds what is no public key.
    #[error("{path} holds no public key", path = .0.display())]
    PublicKey(PathBuf),
    /// A binding has a user or token, but no `url` that it is for.
    #[error("the binding {path} has no `url`", path = .0.display())]
    NoUrl(PathBuf),
}

impl Netrc {
    /// Reads the format of `ftp` and `curl`: words, of which `machine`, `default`, `login`,
    /// `password` and `account` take one more; `macdef` and its lines are passed over.
    pub fn parse(text: &str) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        // Editors of Windows begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut words = words(text).into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "machine" => entries.push(Entry {
                    machine: words.next(),
                    ..Entry::default()
                }),
                "default" => entries.push(Entry::default()),
                "login" | "password" | "account" => {
                    let value = words.next().unwrap_or_default();
                    match (word.as_str(), entries.last_mut()) {
                        ("login", Some(entry)) => entry.login = value,
                        ("password", Some(entry)) => entry.password = value,
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        Self { entries }
    }

    /// Gives `endpoint` the credentials of the first entry for it, unless it has some.
    pub fn give(&self, endpoint: &mut Endpoint) {
        if endpoint.base.scheme() != "file"
            && let Some(entry) = self.find(&endpoint.base)
        {
            endpoint.give(Some(entry.credentials()), &entry.from);
        }
    }

    /// The first entry for the host of `url`, or for its `host:port`.
    fn find(&self, url: &Url) -> Option<&Entry> {
        let host = url.host_str().unwrap_or_default();
        let with_port = url
            .port_or_known_default()
            .map(|port| format!("{host}:{port}"));
        let mut entries = self.entries.iter();
        entries.find(|entry| match &entry.machine {
            None => true,
            Some(machine) => machine == host || Some(machine) == with_port.as_ref(),
        })
    }

    /// The hosts that are named, with their credentials.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, Credentials)> {
        let entries = self.entries.iter();
        entries.filter_map(|entry| Some((entry.machine.as_deref()?, entry.credentials())))
    }

    /// The credentials for any host that is not named.
    pub fn default_entry(&self) -> Option<Credentials> {
        let mut entries = self.entries.iter();
        entries
            .find(|entry| entry.machine.is_none())
            .map(Entry::credentials)
    }

    /// One entry.
    pub fn of(host: &str, user: &str, password: &str) -> Self {
        Self {
            entries: vec![Entry {
                machine: Some(host.to_string()),
                login: user.to_string(),
                password: password.to_string(),
                from: "a URL".to_string(),
            }],
        }
    }

    /// The entries of one file after those of another.
    #[must_use]
    pub fn then(mut self, other: &Self) -> Self {
        self.entries.extend_from_slice(&other.entries);
        self
    }

    /// Reads a file that may not be there.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let mut netrc = Self::parse(&read_entry(path)?.unwrap_or_default());
        for entry in &mut netrc.entries {
            entry.from = format!("the netrc file {}", path.display());
        }
        Ok(netrc)
    }
}

impl Entry {
    fn credentials(&self) -> Credentials {
        Credentials::Basic {
            user: self.login.clone(),
            password: self.password.clone(),
        }
    }
}

/// The words of a netrc file, without comments and macros. Quotes hold words with spaces together.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        // A macro ends with the first empty line.
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        let mut rest = line.trim_start();
        while !rest.is_empty() && !rest.starts_with('#') {
            let (word, after) = if let Some(quoted) = rest.strip_prefix('"') {
                unquoted(quoted)
            } else {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest[..end].to_string(), &rest[end..])
            };
            if word == "macdef" {
                in_macro = true;
                break;
            }
            words.push(word);
            rest = after.trim_start();
        }
    }
    words
}

/// A quoted word behind its first quote, and what follows its last one. A backslash escapes.
fn unquoted(text: &str) -> (String, &str) {
    let mut word = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => break,
            '\\' => word.extend(letters.next().map(|escaped| match escaped {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            })),
            other => word.push(other),
        }
    }
    (word, letters.as_str())
}

/// The bindings of binary caches, and those that look like one and are not used.
#[derive(Default)]
pub struct Bindings {
    pub used: Vec<Binding>,
    pub unused: Vec<UnusedBinding>,
}

/// A binding that may be meant as a binary cache's, and is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusedBinding {
    pub directory: PathBuf,
    /// Its `type`; None if it has none.
    pub kind: Option<String>,
}

/// Reads the bindings below `root`; a directory that is not there holds none.
pub fn read_bindings(root: &Path) -> Result<Bindings, CredentialsError> {
    let read_error = |error| CredentialsError::Read(root.to_path_buf(), error);
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Bindings::default()),
        Err(error) => return Err(read_error(error)),
    };
    let mut directories = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(read_error)?;
    directories.sort();
    let mut bindings = Bindings::default();
    for directory in directories {
        let kind = read_entry(&directory.join("type"))?;
        let kind = kind.map(|kind| kind.trim().to_string());
        if kind
            .as_ref()
            .is_some_and(|kind| kind.eq_ignore_ascii_case(BINDING_TYPE))
        {
            bindings.used.push(Binding::read(&directory)?);
        } else if is_like_a_cache(&directory) {
            bindings.unused.push(UnusedBinding { directory, kind });
        }
    }
    Ok(bindings)
}

/// Whether a binding has what one of a binary cache has: a key, a netrc file, or the URL of a server.
/// Databases have a `uri` of a scheme of their own.
fn is_like_a_cache(directory: &Path) -> bool {
    let url = fs::read_to_string(directory.join("url")).unwrap_or_default();
    ["public-key", "netrc"]
        .iter()
        .any(|name| directory.join(name).is_file())
        || url.trim().parse::<CacheUrl>().is_ok()
}

impl Binding {
    fn read(directory: &Path) -> Result<Self, CredentialsError> {
        let entry = |name: &str| {
            let text = read_entry(&directory.join(name))?;
            Ok(text.map(|text| text.trim().to_string()))
        };
        let from = format!("the binding {}", directory.display());
        let credentials = match (entry("token")?, entry("username")?, entry("password")?) {
            (Some(token), _, _) => Some(Credentials::Bearer(token)),
            (None, None, None) => None,
            (None, user, password) => Some(Credentials::Basic {
                user: user.unwrap_or_default(),
                password: password.unwrap_or_default(),
            }),
        };
        let mut url = entry("url")?
            .map(|url| url.parse::<CacheUrl>())
            .transpose()
            .map_err(|error| CredentialsError::Url(directory.join("url"), error))?;
        if let (Some(id), Some(secret)) = (entry("access-key-id")?, entry("secret-access-key")?) {
            let bucket = url.as_mut().and_then(|url| url.s3.as_mut());
            let bucket = bucket.ok_or_else(|| CredentialsError::NoUrl(directory.to_path_buf()))?;
            bucket.credentials = Some(S3Credentials {
                access_key_id: id,
                secret_access_key: secret,
                session_token: entry("session-token")?,
                from: from.clone(),
            });
        }
        match (&mut url, credentials) {
            (_, None) => {}
            (Some(url), credentials) => {
                url.endpoint.credentials = None;
                url.endpoint.give(credentials, &from);
            }
            (None, Some(_)) => return Err(CredentialsError::NoUrl(directory.to_path_buf())),
        }
        let keys = entry("public-key")?.unwrap_or_default();
        Ok(Self {
            url,
            access_tokens: entry("access-tokens")?.unwrap_or_default(),
            netrc: Netrc::read(&directory.join("netrc"))?,
            public_keys: keys
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map_err(|_| CredentialsError::PublicKey(directory.join("public-key")))?,
        })
    }
}

/// The text of a file that may not be there. In a container's binding, files are links.
fn read_entry(path: &Path) -> Result<Option<String>, CredentialsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(CredentialsError::Read(path.to_path_buf(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_client::EndpointError;

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic {
            user: user.to_string(),
            password: password.to_string(),
        }
    }

    #[test]
    fn a_netrc_is_read_as_curl_reads_it() {
        let netrc = Netrc::parse(
            "\u{feff}# caches\nmachine cache.acme.net login deploy password \"two \\\"words\\\\\"\n\
             machine other.net\n  login o # the robot\n  account x\n  password p\n\
             macdef init\n  machine not.net login n\n\ndefault login anyone password secret\n",
        );
        let find = |host: &str| {
            let entry = netrc.find(&format!("https://{host}/").parse().unwrap());
            entry.map(Entry::credentials)
        };
        assert!(find("cache.acme.net") == Some(basic("deploy", "two \"words\\")));
        assert!(find("other.net") == Some(basic("o", "p")));
        assert!(find("not.net") == Some(basic("anyone", "secret")));
    }

    #[test]
    fn without_a_default_an_unknown_host_gets_nothing() {
        let (a, b): (Url, Url) = (
            "https://a.net".parse().unwrap(),
            "https://b.net".parse().unwrap(),
        );
        let netrc = Netrc::parse("machine a.net login a password b");
        assert!(netrc.find(&b).is_none());
        assert!(Netrc::parse("login a password b").find(&a).is_none());
    }

    #[test]
    fn an_entry_may_name_the_port() {
        let netrc = Netrc::parse("machine a.net:5000 login a password b machine a.net:443 login c");
        for (url, found) in [
            ("http://a.net:5000/x", Some(basic("a", "b"))),
            ("https://a.net/x", Some(basic("c", ""))),
            ("http://a.net/x", None),
        ] {
            let entry = netrc.find(&url.parse().unwrap());
            assert!(entry.map(Entry::credentials) == found, "{url}");
        }
    }

    const KEY: &str = "acme-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

    fn binding(files: &[(&str, &str)]) -> Result<Vec<Binding>, CredentialsError> {
        all_bindings(files).map(|bindings| bindings.used)
    }

    fn all_bindings(files: &[(&str, &str)]) -> Result<Bindings, CredentialsError> {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("cache");
        fs::create_dir(&directory).unwrap();
        for (name, content) in files {
            fs::write(directory.join(name), content).unwrap();
        }
        read_bindings(root.path())
    }

    #[test]
    fn a_binding_describes_a_cache_with_its_credentials_and_key() {
        let bindings = binding(&[
            ("type", "Nix-Binary-Cache\n"),
            ("url", "https://cache.acme.net/x\n"),
            ("token", "t0ken\n"),
            ("public-key", &format!("{KEY}\n")),
        ])
        .unwrap_or_default();
        let url = bindings[0].url.clone().unwrap();
        assert_eq!(url.to_string(), "https://cache.acme.net/x");
        assert!(url.endpoint.credentials == Some(Credentials::Bearer("t0ken".into())));
        assert_eq!(bindings[0].public_keys, [KEY.parse().unwrap()]);
    }

    #[test]
    fn a_binding_has_the_access_key_of_a_bucket() {
        let key = [("access-key-id", "AK\n"), ("secret-access-key", "s")];
        let own = [
            ("type", BINDING_TYPE),
            ("url", "s3://acme?region=eu-west-1"),
        ];
        let bindings = binding(&[own, key].concat()).unwrap_or_default();
        let bucket = bindings[0].url.clone().unwrap().s3.unwrap();
        assert_eq!(bucket.credentials.unwrap().access_key_id, "AK");
        let result = binding(&[[own[0], ("url", "https://x")], key].concat());
        assert!(matches!(result, Err(CredentialsError::NoUrl(_))));
    }

    #[test]
    fn bindings_of_other_types_are_left_alone() {
        for files in [
            [("type", "postgresql"), ("uri", "postgres://db/x")],
            [("type", "postgresql"), ("url", "postgres://db/x")],
            [("uri", "https://x"), ("token", "x")],
        ] {
            let all = all_bindings(&files).unwrap_or_default();
            assert!(all.used.is_empty() && all.unused.is_empty(), "{files:?}");
        }
        let none = read_bindings(Path::new("/nonexistent")).unwrap_or_default();
        assert!(none.used.is_empty());
    }

    #[test]
    fn a_binding_like_a_cache_s_without_its_type_is_told() {
        for (kind, file, content) in [
            (Some("nix-cache"), "url", "https://cache.acme.net\n"),
            (None, "url", "s3://acme"),
            (None, "netrc", "machine cache.acme.net password x"),
            (Some("nix"), "public-key", "x"),
        ] {
            let kind_file = kind.map(|kind| ("type", kind));
            let files: Vec<_> = kind_file.into_iter().chain([(file, content)]).collect();
            let all = all_bindings(&files).unwrap_or_default();
            assert!(all.used.is_empty());
            let kinds: Vec<_> = all
                .unused
                .iter()
                .map(|unused| unused.kind.as_deref())
                .collect();
            assert_eq!(kinds, [kind], "{file}");
        }
    }

    #[test]
    fn a_binding_that_cannot_be_used_is_an_error() {
        let result = binding(&[("type", BINDING_TYPE), ("username", "u"), ("password", "p")]);
        assert!(matches!(result, Err(CredentialsError::NoUrl(_))));
        let result = binding(&[("type", BINDING_TYPE), ("url", "ftp://bucket")]);
        assert!(matches!(
            result,
            Err(CredentialsError::Url(
                _,
                CacheUrlError::Endpoint(EndpointError::Scheme)
            ))
        ));
        let result = binding(&[("type", BINDING_TYPE), ("public-key", "acme-1:abc")]);
        let Err(CredentialsError::PublicKey(file)) = result else {
            panic!("a key that is too short")
        };
        assert!(file.ends_with("cache/public-key"));
    }
}
