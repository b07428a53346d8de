//! What the image says of itself to the start program, and what the roots bring for processes.

use nix_hydra_start::image::Image;
use nix_hydra_start::links::followed;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files that a closure may have anywhere, by what they are used for.
const CERTIFICATES: [&str; 1] = ["etc/ssl/certs/ca-bundle.crt"];
const LOCALE_ARCHIVES: [&str; 1] = ["lib/locale/locale-archive"];
const SHELLS: [&str; 2] = ["bin/bash", "bin/sh"];

/// A program that earlier buildpacks ran at the end of a build, in a root or its `bin`.
const COMPILE_HOOKS: [&str; 2] = ["bin/heroku-compile-hook", "heroku-compile-hook"];

/// What the roots have that a build needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The programs on `PATH`, in its order.
    pub programs: Vec<String>,
    /// Full store paths of programs to run at the end of the build.
    pub compile_hooks: Vec<String>,
}

/// A store path of the image, and what launching needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where the app sees it.
    pub path: PathBuf,
    /// As [`files`] has them, and for a root also [`programs`].
    pub files: Vec<String>,
}

/// The files of the store path at `place` that any path is asked for, by their paths in it.
///
/// Links are not followed, since they lead to where the store will be.
pub fn files(place: &Path) -> Vec<String> {
    [&CERTIFICATES[..], &LOCALE_ARCHIVES, &SHELLS]
        .concat()
        .into_iter()
        .filter(|file| is_there(&place.join(file)))
        .map(str::to_string)
        .collect()
}

/// The programs and compile hooks of a root, by their paths in it. `now` says where a path that the
/// app sees is now: nowhere, if it is not in the closure.
///
/// Links are followed that lead to where the app will see them: a root's `bin` is one where a single
/// package is joined.
pub fn programs<E: From<io::Error>>(
    root: &Path,
    now: impl Fn(&Path) -> Result<Option<PathBuf>, E>,
) -> Result<Vec<String>, E> {
    let mut files = Vec::new();
    if let Some(directory) = followed(root, &now)? {
        for hook in COMPILE_HOOKS {
            if !hook.starts_with("bin/") && is_there(&directory.join(hook)) {
                files.push(hook.to_string());
            }
        }
    }
    if let Some(directory) = followed(&root.join("bin"), &now)?
        && let Ok(entries) = fs::read_dir(directory)
    {
        for entry in entries {
            files.push(format!("bin/{}", entry?.file_name().to_string_lossy()));
        }
    }
    files.sort();
    Ok(files)
}

/// Describes an image that has these store paths, and these roots, as the app sees them. `bound` are
/// those that an engine had better not reach by a link.
pub fn describe(paths: &[Seen], roots: &[String], bound: Vec<PathBuf>) -> Image {
    let first = |files: &[&str]| {
        let mut candidates = files
            .iter()
            .flat_map(|file| paths.iter().map(move |seen| (seen, *file)));
        let found = candidates.find(|(seen, file)| seen.has(file));
        found.map(|(seen, file)| seen.path.join(file))
    };
    Image {
        roots: roots.iter().map(PathBuf::from).collect(),
        certificates: first(&CERTIFICATES),
        locale_archive: first(&LOCALE_ARCHIVES),
        shell: first(&SHELLS),
        bound,
    }
}

/// Looks into the roots.
pub fn contents(paths: &[Seen], roots: &[String]) -> Contents {
    let mut contents = Contents::default();
    for root in roots {
        let Some(seen) = paths.iter().find(|seen| seen.path == Path::new(root)) else {
            continue;
        };
        for hook in COMPILE_HOOKS.iter().filter(|hook| seen.has(hook)) {
            contents.compile_hooks.push(format!("{root}/{hook}"));
        }
        let names = seen
            .files
            .iter()
            .filter_map(|file| file.strip_prefix("bin/"));
        // Wrapped programs have their originals beside them, hidden.
        let mut names: Vec<String> = names
            .filter(|name| !name.starts_with('.'))
            .map(str::to_string)
            .collect();
        names.retain(|name| !contents.programs.contains(name));
        names.sort();
        names.dedup();
        contents.programs.extend(names);
    }
    contents
}

impl Seen {
    fn has(&self, file: &str) -> bool {
        self.files.iter().any(|own| own == file)
    }
}

fn is_there(file: &Path) -> bool {
    file.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
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

    /// Every store path below `store`, each taken for a root.
    fn seen(store: &tempfile::TempDir) -> Vec<Seen> {
        let now = |path: &Path| {
            let inside = path.strip_prefix("/nix/store").ok();
            Ok::<_, io::Error>(inside.map(|inside| store.path().join(inside)))
        };
        let mut paths: Vec<Seen> = fs::read_dir(store.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let path = Path::new("/nix/store").join(entry.file_name());
                let mut files = files(&entry.path());
                files.extend(programs(&path, now).unwrap());
                Seen { path, files }
            })
            .collect();
        paths.sort_by(|one, other| one.path.cmp(&other.path));
        paths
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
            &seen(&store),
            &["/nix/store/e-app".to_string()],
            vec!["/layers/nix_hydra/eeeeeeee-app/e-app".into()],
        );
        assert_eq!(
            image.to_string(),
            "root /nix/store/e-app\n\
             certificates /nix/store/b-cacert/etc/ssl/certs/ca-bundle.crt\n\
             locale-archive /nix/store/d-locales/lib/locale/locale-archive\n\
             shell /nix/store/c-bash/bin/bash\n\
             bind /layers/nix_hydra/eeeeeeee-app/e-app\n"
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
        assert_eq!(contents(&seen(&store), &roots), expected);
    }

    #[test]
    fn programs_are_found_behind_links_into_the_store() {
        let store = store(&["b-tool/bin/tool", "b-tool/bin/heroku-compile-hook"]);
        fs::create_dir(store.path().join("a-joined")).unwrap();
        symlink("/nix/store/b-tool/bin", store.path().join("a-joined/bin")).unwrap();
        symlink("./d-up/../a-joined", store.path().join("c-alias")).unwrap();
        symlink("d-loop", store.path().join("d-loop")).unwrap();
        let roots = ["c-alias", "d-loop"].map(|root| format!("/nix/store/{root}"));
        let contents = contents(&seen(&store), &roots);
        assert_eq!(contents.programs, ["heroku-compile-hook", "tool"]);
        assert_eq!(
            contents.compile_hooks,
            ["/nix/store/c-alias/bin/heroku-compile-hook"]
        );
    }
}
