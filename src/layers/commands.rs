//! The deployed commands on `PATH` of every process of the image, whatever starts it.
//!
//! Each is a link to the start program, which looks at the name that it is started by. So it is in a
//! relocated image, too: the start program keeps the run image's libraries out of `LD_LIBRARY_PATH`, and
//! sets certificates and locales.
//!
//! The lifecycle puts a layer's `bin` first on `PATH`, before the directories of the run image. Scripts of
//! the run image, of the launcher and of other buildpacks call the standard utilities by their names and
//! must go on to find those that they were made for, so links with such names are in a directory at the
//! end of `PATH`.

use super::launch_layer::LayerError;
use super::proot::START_PROGRAM;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The directory at the end of `PATH`.
const LAST: &str = "last";

/// Shells and utilities that the run image needs: those of POSIX and of GNU coreutils, and what
/// Debian's essential packages have beside them.
const UTILITIES: &str = "[ arch awk b2sum base32 base64 basename basenc bash bc cat chcon chgrp chmod chown chroot cksum \
    cmp comm cp cpio csplit cut dash date dd df diff dir dircolors dirname du echo egrep env expand \
    expr factor false fgrep find flock fmt fold fuser gawk getconf grep groups gunzip gzip head \
    hostid hostname iconv id install ipcrm ipcs join kill ldconfig ldd link ln locale localedef \
    logger login logname ls mawk md5sum mkdir mkfifo mknod mktemp more mount mv newgrp nice nl nohup \
    nproc numfmt od paste pathchk pinky pr printenv printf ps ptx pwd readlink realpath renice rm \
    rmdir runcon sed seq setsid sh sha1sum sha224sum sha256sum sha384sum sha512sum shred shuf sleep \
    sort split stat stdbuf stty su sudo sum sync tabs tac tail tar tee test time timeout touch tput \
    tr true truncate tsort tty umount uname uncompress unexpand uniq unlink users vdir wc which who \
    whoami xargs yes zcat zgrep";

/// Makes the links of `programs` in the layer at `directory`, whose `bin` has the start program.
pub(super) fn link(directory: &Path, programs: &[String]) -> Result<(), LayerError> {
    let is_utility = |program: &&String| UTILITIES.split_whitespace().any(|name| name == *program);
    let (utilities, others): (Vec<_>, Vec<_>) = programs.iter().partition(is_utility);
    for program in others {
        link_to(START_PROGRAM, directory.join("bin").join(program))?;
    }
    if utilities.is_empty() {
        return Ok(());
    }
    let last = directory.join(LAST);
    let environment = directory.join("env.launch");
    for made in [&last, &environment] {
        fs::create_dir_all(made).map_err(LayerError::at(made))?;
    }
    for program in utilities {
        link_to(&format!("../bin/{START_PROGRAM}"), last.join(program))?;
    }
    let last = last.to_string_lossy().into_owned();
    for (name, value) in [("PATH.append", last.as_str()), ("PATH.delim", ":")] {
        let file = environment.join(name);
        fs::write(&file, value).map_err(LayerError::at(file))?;
    }
    Ok(())
}

fn link_to(target: &str, link: PathBuf) -> Result<(), LayerError> {
    match symlink(target, &link) {
        // A deployed program may have one of the start program's own names, which it does not get.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(LayerError::at(link)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilities_are_last_on_path_and_own_names_are_kept() {
        let layer = tempfile::tempdir().unwrap();
        let bin = layer.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("nix-hydra"), "").unwrap();
        let programs = ["app", "env", "nix-hydra", "sh"].map(String::from);
        link(layer.path(), &programs).unwrap();
        let leads_to = |link: &str| layer.path().join(link).canonicalize().ok();
        let start = bin.join("nix-hydra").canonicalize().ok();
        for link in ["bin/app", "last/env", "last/sh"] {
            assert_eq!(leads_to(link), start, "{link}");
        }
        assert_eq!(leads_to("bin/sh"), None);
        let appended = fs::read_to_string(layer.path().join("env.launch/PATH.append")).unwrap();
        assert_eq!(Path::new(&appended), layer.path().join("last"));
    }
}
