//! How an image describes itself to the start program: one small file in the closure layer.
//!
//! A line is a key, a space and a value to the end of the line:
//!
//! ```text
//! root /nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp-1.0
//! shell /nix/store/…-bash-5.3/bin/bash
//! bind /layers/nix_hydra/xbgcfhaa/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp-1.0
//! ```
//!
//! The closure is in many layers. Links beside the file lead to all its paths.
//!
//! All values are paths as the app sees them. Keys that are not known are passed over, since the
//! layers of an image may come from different versions of the buildpack.

use crate::closure::{self, Closure};
use crate::links::followed;
use crate::seen_store::SeenStore;
use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file's name in the closure layer; no store path is called so.
pub const FILE: &str = ".image";

/// The file beside it with the files that may still name store paths in a relocated closure, since the
/// user vouches for them: on each line the base name of a store path and the path in it. It is left out
/// where there are none.
pub const VOUCHED: &str = ".vouched";

/// The directory of the store that every closure is made for.
pub const STORE_DIR: &str = "/nix/store";

/// The name of the layer with the closure, and of the one with the start program.
const CLOSURE_LAYER: &str = "closure";

/// PRoot in the layer of the start program: not in `bin`, which is on the app's PATH.
pub const PROOT: &str = "libexec/proot";

/// PRoot's loaders beside it, for programs of 64 and of 32 bits; a layer may lack either.
pub const LOADER: &str = "libexec/proot-loader";
pub const LOADER_32: &str = "libexec/proot-loader-32";

/// The first process in PRoot: the crate `nix-hydra-inside`.
pub const INSIDE: &str = "libexec/nix-hydra-inside";

/// An image's description of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Full paths of the roots, the one that leads `PATH` first. Below [`STORE_DIR`], except in an
    /// image whose closure is relocated.
    pub roots: Vec<PathBuf>,
    /// A bundle of certificates in the closure, for a run image that has none.
    pub certificates: Option<PathBuf>,
    /// glibc's locales in the closure.
    pub locale_archive: Option<PathBuf>,
    /// A shell in the closure, for a run image that has none.
    pub shell: Option<PathBuf>,
    /// The places of store paths that an engine should show without a link: large ones, since links cost
    /// time in some engines, and those with relative links to other store paths.
    pub bound: Vec<PathBuf>,
}

impl Image {
    /// Reads a description.
    pub fn parse(text: &str) -> Self {
        let mut image = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            let value = PathBuf::from(value);
            match key {
                "root" => image.roots.push(value),
                "certificates" => image.certificates = Some(value),
                "locale-archive" => image.locale_archive = Some(value),
                "shell" => image.shell = Some(value),
                "bind" => image.bound.push(value),
                _ => {}
            }
        }
        image
    }

    /// The directory in which the app sees the closure's paths.
    pub(crate) fn store(&self) -> &Path {
        let store = self.roots.first().and_then(|root| root.parent());
        store.unwrap_or(Path::new(STORE_DIR))
    }

    /// Whether the closure was rewritten to where it is, so that it needs no engine.
    pub fn is_relocated(&self) -> bool {
        !self.roots.iter().any(|root| root.starts_with(STORE_DIR))
    }
}

impl fmt::Display for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for root in &self.roots {
            writeln!(formatter, "root {}", root.display())?;
        }
        for (key, value) in [
            ("certificates", &self.certificates),
            ("locale-archive", &self.locale_archive),
            ("shell", &self.shell),
        ] {
            if let Some(value) = value {
                writeln!(formatter, "{key} {}", value.display())?;
            }
        }
        for path in &self.bound {
            writeln!(formatter, "bind {}", path.display())?;
        }
        Ok(())
    }
}

/// An image as the start program finds it: the description, and where its layers are.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) image: Image,
    /// The directory with a link to each path that is to appear at [`STORE_DIR`].
    pub(crate) store: PathBuf,
    /// The layer that this program is in.
    pub(crate) layer: PathBuf,
}

/// The tables `[[labels]]` of a TOML file, whose strings are in one line each.
fn labels(toml: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    let mut is_label = false;
    let mut key = None;
    for line in toml.lines().map(str::trim) {
        if line.starts_with('[') {
            is_label = line == "[[labels]]";
        }
        let pair = line.split_once('=').filter(|_| is_label);
        let pair = pair.map(|(name, value)| (name.trim(), value.trim().trim_matches('"')));
        match pair {
            Some(("key", value)) => key = Some(value.to_string()),
            Some(("value", value)) => labels.extend(key.take().map(|key| (key, value.to_string()))),
            _ => {}
        }
    }
    labels
}

impl Found {
    /// Looks at the layers that this program is in: `…/proot/bin/nix-hydra`.
    pub(crate) fn find() -> Result<Self, (PathBuf, io::Error)> {
        let itself = Path::new("/proc/self/exe");
        let program = itself
            .read_link()
            .map_err(|error| (itself.to_path_buf(), error))?;
        Self::beside(&program)
    }

    fn beside(program: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let layer = program.ancestors().nth(2).unwrap_or(Path::new("/"));
        let layer = layer.to_path_buf();
        let store = layer.parent().unwrap_or(Path::new("/")).join(CLOSURE_LAYER);
        let file = store.join(FILE);
        let text = fs::read_to_string(&file).map_err(|error| (file, error))?;
        Ok(Self {
            image: Image::parse(&text),
            store,
            layer,
        })
    }

    /// A path of the closure as it is found without an engine.
    pub(crate) fn outside(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(STORE_DIR) {
            Ok(inside) => self.store.join(inside),
            Err(_) => path.to_path_buf(),
        }
    }

    /// The same for a path in a store path, which may be in another layer: the closure layer then has a
    /// link to it, which the app does not see.
    pub(crate) fn place(&self, path: &Path) -> PathBuf {
        let outside = self.outside(path);
        let in_layer = || {
            let mut below = outside.strip_prefix(&self.store).ok()?.components();
            let target = self.store.join(below.next()?).read_link().ok()?;
            let is_in_layer = target.starts_with(self.store.parent()?);
            is_in_layer.then(|| target.components().chain(below).collect())
        };
        in_layer().unwrap_or(outside)
    }

    /// How the app sees the closure's store paths.
    pub(crate) fn seen_store(&self) -> SeenStore {
        if self.image.is_relocated() {
            SeenStore::new(&self.store.to_string_lossy())
        } else {
            SeenStore::new(STORE_DIR)
        }
    }

    /// The members of the closure.
    pub(crate) fn closure(&self) -> Result<Closure, (PathBuf, io::Error)> {
        let file = self.store.join(closure::FILE);
        let closure = fs::read_to_string(&file).and_then(|text| {
            Closure::parse(&text).ok_or_else(|| io::Error::other("it is of another version"))
        });
        closure.map_err(|error| (file, error))
    }

    /// The layer of the store path with this name in the closure layer, which has a link to each.
    pub(crate) fn layer_of(&self, shown: &str) -> Option<String> {
        let place = self.store.join(shown).read_link().ok()?;
        let layer = place.parent()?.file_name()?;
        Some(layer.to_string_lossy().into_owned())
    }

    /// The labels of the image that the buildpacks gave it, names and values, as the lifecycle has left
    /// them beside the layers.
    pub(crate) fn labels(&self) -> Vec<(String, String)> {
        let layers = self.store.parent().and_then(Path::parent);
        let file = layers.map(|layers| layers.join("config/metadata.toml"));
        let text = file.and_then(|file| fs::read_to_string(file).ok());
        labels(&text.unwrap_or_default())
    }

    /// The place without an engine of a path as the app sees it, with all links followed. None if it does
    /// not exist.
    pub(crate) fn followed(&self, path: &Path) -> Option<PathBuf> {
        // Within an engine, each of the many calls below would stop for it.
        if path.exists() {
            return Some(path.to_path_buf());
        }
        if !self.image.roots.is_empty() && self.absent_root().is_none() {
            return None;
        }
        let now = |path: &Path| Ok::<_, Infallible>(Some(self.place(path)));
        let Ok(place) = followed(path, now);
        place.filter(|place| place.exists())
    }

    /// The first root that does not exist where the app looks for it. None if the closure is in place.
    pub(crate) fn absent_root(&self) -> Option<&Path> {
        let mut roots = self.image.roots.iter();
        roots
            .find(|root| root.symlink_metadata().is_err())
            .map(PathBuf::as_path)
    }

    /// Whether an engine has made the closure appear already, so that this runs within itself.
    pub(crate) fn is_within(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let same = |root: &PathBuf| {
            let (Ok(seen), Ok(own)) = (root.metadata(), self.outside(root).metadata()) else {
                return false;
            };
            (seen.dev(), seen.ino()) == (own.dev(), own.ino())
        };
        self.image.roots.iter().all(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            roots: vec!["/nix/store/a-myapp".into(), "/nix/store/b my tool".into()],
            certificates: Some("/nix/store/c-cacert/etc/ssl/certs/ca-bundle.crt".into()),
            locale_archive: None,
            shell: Some("/nix/store/d-bash/bin/bash".into()),
            bound: vec!["/layers/nix_hydra/aaaaaaaa/a-myapp".into()],
        }
    }

    #[test]
    fn a_description_reads_as_it_was_written() {
        let text = image().to_string();
        assert_eq!(
            text,
            "root /nix/store/a-myapp\nroot /nix/store/b my tool\n\
             certificates /nix/store/c-cacert/etc/ssl/certs/ca-bundle.crt\n\
             shell /nix/store/d-bash/bin/bash\n\
             bind /layers/nix_hydra/aaaaaaaa/a-myapp\n"
        );
        assert_eq!(Image::parse(&format!("{text}later key\n")), image());
    }

    #[test]
    fn a_closure_whose_roots_are_elsewhere_is_relocated() {
        assert!(!image().is_relocated());
        let moved = Image::parse("root /layers/nix_hydra/closure/a-myapp\n");
        assert!(moved.is_relocated());
    }

    #[test]
    fn the_closure_is_in_the_layer_beside_that_of_the_program() {
        let layers = tempfile::tempdir().unwrap();
        let program = layers.path().join("proot/bin/nix-hydra");
        let (missing, error) = Found::beside(&program).unwrap_err();
        assert_eq!(missing, layers.path().join("closure/.image"));
        assert_eq!(error.kind(), io::ErrorKind::NotFound);

        fs::create_dir(layers.path().join("closure")).unwrap();
        fs::write(&missing, image().to_string()).unwrap();
        let found = Found::beside(&program).unwrap();
        assert_eq!(found.image, image());
        assert_eq!(found.absent_root(), Some(Path::new("/nix/store/a-myapp")));
        assert_eq!(
            found.outside(Path::new("/nix/store/a-myapp/bin/myapp")),
            layers.path().join("closure/a-myapp/bin/myapp")
        );
        assert!(!found.is_within());
    }

    #[test]
    fn links_of_the_closure_are_followed_where_it_is() {
        use std::os::unix::fs::symlink;
        let layers = tempfile::tempdir().unwrap();
        let store = layers.path().join("closure");
        fs::create_dir_all(&store).unwrap();
        // Each store path is in a layer of its own.
        let in_layer = |layer: &str, name: &str| {
            let place = layers.path().join(layer).join(name);
            fs::create_dir_all(&place).unwrap();
            symlink(&place, store.join(name)).unwrap();
            place
        };
        let (app, tool) = (in_layer("a", "a-app"), in_layer("b", "b-tool"));
        fs::create_dir(tool.join("bin")).unwrap();
        fs::write(tool.join("bin/tool"), "").unwrap();
        symlink("/nix/store/b-tool/bin", app.join("bin")).unwrap();
        symlink("../b-tool/bin/tool", app.join("tool")).unwrap();
        symlink("loop", app.join("loop")).unwrap();
        let found = Found {
            image: Image::default(),
            layer: layers.path().join("proot"),
            store: store.clone(),
        };
        let followed = |path: &str| found.followed(Path::new(path));
        let tool = Some(tool.join("bin/tool"));
        assert_eq!(followed("/nix/store/a-app/bin/tool"), tool);
        assert_eq!(followed("/nix/store/a-app/tool"), tool);
        assert_eq!(followed("/nix/store/a-app/bin/other"), None);
        assert_eq!(followed("/nix/store/a-app/loop"), None);
        assert_eq!(followed("/"), Some("/".into()));
    }

    #[test]
    fn labels_are_read_of_the_lifecycle_s_file() {
        let file = "[[buildpacks]]\n  id = \"nix/hydra\"\n\n[[labels]]\n  key = \"a.version\"\n  value = \"1.0\"\n\n\
                    [[labels]]\n  key = \"a.url\"\n  value = \"https://x/?a=b\"\n\n[[processes]]\n  key = \"b\"\n  value = \"c\"\n";
        let expected = [("a.version", "1.0"), ("a.url", "https://x/?a=b")];
        assert_eq!(
            labels(file),
            expected.map(|(a, b)| (a.to_string(), b.to_string()))
        );
        assert_eq!(labels(""), []);
    }
}
