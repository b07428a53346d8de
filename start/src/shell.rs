//! The shell, for commands that are written for one and for the roots' `etc/profile.d`.

use crate::environment::DEFAULT_PATH;
use crate::image::Found;
use rustix::fs::{Access, access};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The shells that are looked for, the better one first.
const SHELLS: [&str; 2] = ["bash", "sh"];

/// A shell as the app sees it: the run image's, else one of the roots, else one of the closure. None if none
/// of these has one.
pub(crate) fn find(found: &Found) -> Option<PathBuf> {
    let path = env::var_os("PATH").filter(|path| !path.is_empty());
    let path = path.unwrap_or(DEFAULT_PATH.into());
    let images: Vec<PathBuf> = env::split_paths(&path)
        .chain(env::split_paths(DEFAULT_PATH))
        .filter(|directory| directory.is_absolute())
        .collect();
    let roots: Vec<PathBuf> = found
        .image
        .roots
        .iter()
        .map(|root| root.join("bin"))
        .collect();
    first(found, &images)
        .or_else(|| first(found, &roots))
        .or_else(|| found.image.shell.clone())
}

/// The best shell in these directories, any of which may lead to another store path.
fn first(found: &Found, directories: &[PathBuf]) -> Option<PathBuf> {
    let shells = SHELLS.iter().flat_map(|shell| {
        let candidates = directories.iter();
        candidates.map(move |directory| directory.join(shell))
    });
    shells.into_iter().find(|shell| {
        let place = found.followed(shell);
        place.is_some_and(|place| may_execute(&place))
    })
}

fn may_execute(file: &Path) -> bool {
    file.is_file() && access(file, Access::EXEC_OK).is_ok()
}

/// A shell script that reads the roots' `etc/profile.d/*.sh` and then executes its arguments. None if
/// no root has such a file.
///
/// Each is read within a function, which has arguments of its own: `set` and `shift` in it must not
/// change the command.
pub(crate) fn profile(found: &Found) -> Option<OsString> {
    let mut text = Vec::new();
    for root in &found.image.roots {
        let directory = root.join("etc/profile.d");
        // `etc` is often a link to another store path, which does not exist before an engine runs.
        let entries = found.followed(&directory).map(fs::read_dir);
        let mut names: Vec<OsString> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
            .filter(|name| name.as_bytes().ends_with(b".sh"))
            .collect();
        names.sort();
        for name in names {
            text.extend_from_slice(b"nix_hydra_profile ");
            text.extend(quoted(directory.join(name).as_os_str()));
            text.push(b'\n');
        }
    }
    if text.is_empty() {
        return None;
    }
    text.splice(0..0, *b"nix_hydra_profile() { . \"$1\"; }\n");
    text.extend_from_slice(b"exec \"$@\"");
    Some(OsString::from_vec(text))
}

fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn profiles_of_all_roots_are_read_in_their_order_by_name() {
        let layers = tempfile::tempdir().unwrap();
        let found = Found {
            image: Image::parse("root /nix/store/b\nroot /nix/store/a\nroot /nix/store/none\n"),
            store: layers.path().to_path_buf(),
            layer: PathBuf::new(),
        };
        assert_eq!(profile(&found), None);
        for (root, file) in [
            ("a", "1.sh"),
            ("b", "it's.sh"),
            ("b", "0.sh"),
            ("b", "README"),
        ] {
            let directory = layers.path().join(root).join("etc/profile.d");
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(file), "").unwrap();
        }
        let text = profile(&found).unwrap().into_string().unwrap();
        assert_eq!(
            text,
            "nix_hydra_profile() { . \"$1\"; }\n\
             nix_hydra_profile '/nix/store/b/etc/profile.d/0.sh'\n\
             nix_hydra_profile '/nix/store/b/etc/profile.d/it'\\''s.sh'\n\
             nix_hydra_profile '/nix/store/a/etc/profile.d/1.sh'\n\
             exec \"$@\""
        );
    }

    #[test]
    fn profiles_and_shells_are_found_where_links_lead_to_other_store_paths() {
        let layers = tempfile::tempdir().unwrap();
        let store = layers.path();
        for directory in ["env", "own/etc", "own/profile.d", "own/bin"] {
            fs::create_dir_all(store.join(directory)).unwrap();
        }
        fs::write(store.join("own/profile.d/1.sh"), "").unwrap();
        fs::write(store.join("own/bin/sh"), "").unwrap();
        fs::set_permissions(store.join("own/bin/sh"), PermissionsExt::from_mode(0o755)).unwrap();
        symlink("/nix/store/own/profile.d", store.join("own/etc/profile.d")).unwrap();
        for name in ["etc", "bin"] {
            symlink(
                Path::new("/nix/store/own").join(name),
                store.join("env").join(name),
            )
            .unwrap();
        }
        let found = Found {
            image: Image::parse("root /nix/store/env\n"),
            store: store.to_path_buf(),
            layer: PathBuf::new(),
        };
        assert_eq!(
            profile(&found).unwrap(),
            "nix_hydra_profile() { . \"$1\"; }\n\
             nix_hydra_profile '/nix/store/env/etc/profile.d/1.sh'\n\
             exec \"$@\""
        );
        let shell = first(&found, &["/nix/store/env/bin".into()]);
        assert_eq!(shell, Some("/nix/store/env/bin/sh".into()));
    }
}
