//! What the image says of itself to the start program, and what the roots bring for processes.

use nix_hydra_start::image::{Image, STORE_DIR};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files that a closure may have anywhere, by what they are used for.
const CERTIFICATES: [&str; 1] = ["etc/ssl/certs/ca-bundle.crt"];
const LOCALE_ARCHIVES: [&str; 1] = ["lib/locale/locale-archive"];
const SHELLS: [&str; 2] = ["bin/bash", "bin/sh"];

/// Links that are followed one after the other, as many as Linux follows.
const MAX_LINKS: usize = 40;

/// A program that earlier buildpacks ran at the end of a build, in a root or its `bin`.
const COMPILE_HOOKS: [&str; 2] = ["bin/heroku-compile-hook", "heroku-compile-hook"];

/// What the roots have that a build needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The programs on `PATH`, in its order.
    pub programs: Vec<String>,
    /// Full store paths of programs to run at the end of the build.
    pub compile_hooks: Vec<String>,
}

/// Where a closure is now, and where the app sees it.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    seen_at: PathBuf,
}

impl Store {
    /// An engine will make it appear at `/nix/store`.
    #[must_use]
    pub fn in_place(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
            seen_at: STORE_DIR.into(),
        }
    }

    /// The app sees it where it is.
    #[must_use]
    pub fn relocated(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
            seen_at: directory.to_path_buf(),
        }
    }

    /// Where a path that the app sees is now.
    fn now(&self, seen: &Path) -> PathBuf {
        match seen.strip_prefix(&self.seen_at) {
            Ok(inside) => self.directory.join(inside),
            Err(_) => seen.to_path_buf(),
        }
    }

    /// The same, with all links followed that lead to where the app will see them: a root's `bin` is
    /// one where a single package is joined.
    fn followed(&self, seen: &Path) -> PathBuf {
        let mut path = self.now(seen);
        for _ in 0..MAX_LINKS {
            let mut prefixes: Vec<&Path> = path.ancestors().collect();
            prefixes.reverse();
            let link = prefixes
                .into_iter()
                .find_map(|prefix| Some((prefix, prefix.read_link().ok()?)));
            let Some((link, target)) = link else { break };
            let rest = path.strip_prefix(link).unwrap_or(Path::new(""));
            let parent = link.parent().unwrap_or(Path::new("/"));
            // An absolute target takes the parent's place.
            path = self.now(&parent.join(target)).join(rest);
        }
        path
    }
}

/// Describes an image whose closure is in `store` and has these roots, as the app sees them.
///
/// Links are not followed, since they lead to where the store will be.
pub fn describe(store: &Store, roots: &[String]) -> io::Result<Image> {
    let mut paths: Vec<PathBuf> = fs::read_dir(&store.directory)?
        .map(|entry| entry.map(|entry| entry.file_name().into()))
        .collect::<io::Result<_>>()?;
    paths.sort();
    let first = |files: &[&str]| {
        let mut candidates = files
            .iter()
            .flat_map(|file| paths.iter().map(move |path| path.join(file)));
        let found = candidates.find(|file| is_there(&store.directory.join(file)));
        found.map(|file| store.seen_at.join(file))
    };
    Ok(Image {
        roots: roots.iter().map(PathBuf::from).collect(),
        certificates: first(&CERTIFICATES),
        locale_archive: first(&LOCALE_ARCHIVES),
        shell: first(&SHELLS),
    })
}

/// Looks into the roots.
pub fn contents(store: &Store, roots: &[String]) -> io::Result<Contents> {
    let mut contents = Contents::default();
    for root in roots {
        let directory = store.followed(Path::new(root));
        let programs = store.followed(&Path::new(root).join("bin"));
        for hook in COMPILE_HOOKS {
            let place = match hook.strip_prefix("bin/") {
                Some(name) => programs.join(name),
                None => directory.join(hook),
            };
            if is_there(&place) {
                contents.compile_hooks.push(format!("{root}/{hook}"));
            }
        }
        let mut names = match fs::read_dir(programs) {
            Ok(entries) => entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()?,
            Err(_) => continue,
        };
        // Wrapped programs have their originals beside them, hidden.
        names.retain(|name| !name.starts_with('.') && !contents.programs.contains(name));
        names.sort();
        contents.programs.extend(names);
    }
    Ok(contents)
}

fn is_there(file: &Path) -> bool {
    file.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    fn store(files: &[&str]) -> tempfile::TempDir {
        let store = tempfile::tempdir().unwrap();
        for file in files {
            let file = store.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            // As in a store, it may lead to a path that is not here.
            symlink("/nix/store/x", file).unwrap();
        }
        store
    }

    #[test]
    fn an_image_knows_what_its_closure_has_for_want_of_the_run_image_s() {
        let store = store(&[
            "a-busybox/bin/sh",
            "c-bash/bin/bash",
            "b-cacert/etc/ssl/certs/ca-bundle.crt",
            "d-locales/lib/locale/locale-archive",
            "e-app/bin/app",
        ]);
        let image = describe(
            &Store::in_place(store.path()),
            &["/nix/store/e-app".to_string()],
        )
        .unwrap();
        assert_eq!(
            image.to_string(),
            "root /nix/store/e-app\n\
             certificates /nix/store/b-cacert/etc/ssl/certs/ca-bundle.crt\n\
             locale-archive /nix/store/d-locales/lib/locale/locale-archive\n\
             shell /nix/store/c-bash/bin/bash\n"
        );
    }

    #[test]
    fn programs_come_in_the_order_of_path_and_hooks_are_found() {
        let store = store(&[
            "b-app/bin/web",
            "b-app/bin/.web-wrapped",
            "b-app/bin/admin",
            "a-tool/bin/web",
            "a-tool/bin/heroku-compile-hook",
            "c-other/bin/other",
            "d-data/share/x",
        ]);
        let roots = ["b-app", "a-tool", "d-data"].map(|root| format!("/nix/store/{root}"));
        let expected = Contents {
            programs: ["admin", "web", "heroku-compile-hook"]
                .map(String::from)
                .into(),
            compile_hooks: vec!["/nix/store/a-tool/bin/heroku-compile-hook".into()],
        };
        assert_eq!(
            contents(&Store::in_place(store.path()), &roots).unwrap(),
            expected
        );
    }

    #[test]
    fn programs_are_found_behind_links_into_the_store() {
        let store = store(&["b-tool/bin/tool", "b-tool/bin/heroku-compile-hook"]);
        fs::create_dir(store.path().join("a-joined")).unwrap();
        symlink("/nix/store/b-tool/bin", store.path().join("a-joined/bin")).unwrap();
        symlink("a-joined", store.path().join("c-alias")).unwrap();
        symlink("d-loop", store.path().join("d-loop")).unwrap();
        let roots = ["c-alias", "d-loop"].map(|root| format!("/nix/store/{root}"));
        let contents = contents(&Store::in_place(store.path()), &roots).unwrap();
        assert_eq!(contents.programs, ["heroku-compile-hook", "tool"]);
        assert_eq!(
            contents.compile_hooks,
            ["/nix/store/c-alias/bin/heroku-compile-hook"]
        );
    }
}
