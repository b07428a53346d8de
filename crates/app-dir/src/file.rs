//! Opens files of the app. Only regular files within the app's directory are opened, without blocking,
//! and only as much is read as the caller has a use for.

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat,
    statat,
};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Symbolic links that a path may go through, as for Linux.
const MAX_LINKS: usize = 40;

/// The directory of the app, open.
#[derive(Debug)]
pub struct AppDir {
    path: PathBuf,
    directory: OwnedFd,
}

/// The reason why a file of the app is not read. It completes "`Procfile` could not be read: …".
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is a directory, not a file")]
    Directory,
    #[error("it is a {0}, not a file")]
    Special(&'static str),
    #[error("it is a symbolic link that leads out of the app's directory")]
    Outside,
    #[error("it is larger than {}", size(*.0))]
    TooLarge(u64),
    #[error("it is not UTF-8 text")]
    NotText,
}

/// Reads a file of the app that may have up to `limit` bytes.
pub fn read(app_dir: &Path, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    AppDir::at(app_dir)?.read(path, limit)
}

/// Reads a text file of the app that may have up to `limit` bytes.
pub fn read_to_string(app_dir: &Path, path: &Path, limit: u64) -> Result<String, FileError> {
    String::from_utf8(read(app_dir, path, limit)?).map_err(|_| FileError::NotText)
}

impl AppDir {
    pub fn at(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            path: path.to_path_buf(),
            directory: openat(CWD, path, flags, Mode::empty())?,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the regular file at `path`, which is relative to the app.
    pub fn open(&self, path: &Path) -> Result<File, FileError> {
        // To open a device is enough to make some of them act, and to open a socket fails.
        check_kind(self.beneath(path, OFlags::PATH)?.as_fd())?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.beneath(path, flags)?;
        check_kind(file.as_fd())?;
        Ok(file.into())
    }

    /// Reads the regular file at `path`, which is relative to the app and may have up to `limit` bytes.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
        let file = self.open(path)?;
        let size = file.metadata()?.len();
        if size > limit {
            return Err(FileError::TooLarge(limit));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(FileError::TooLarge(limit));
        }
        Ok(bytes)
    }

    /// The names in the directory at `path`, which is relative to the app.
    pub fn names(&self, path: &Path) -> Result<Vec<OsString>, FileError> {
        let directory = self.beneath(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).map_err(io::Error::from)? {
            let entry = entry.map_err(io::Error::from)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_os_string());
            }
        }
        Ok(names)
    }

    /// Opens `path`, unless it leads out of the app.
    fn beneath(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, FileError> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        match openat2(&self.directory, path, flags, Mode::empty(), resolve) {
            Ok(file) => Ok(file),
            Err(Errno::XDEV) => Err(FileError::Outside),
            // The kernel is older than Linux 5.6, or a profile that does not know the call refuses it.
            Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => self.step_by_step(path, flags),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// As [`Self::beneath`], without `openat2`: opens each directory of the path.
    fn step_by_step(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, FileError> {
        let mut rest: VecDeque<OsString> = parts(path)?;
        let mut directories: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                directories.pop().ok_or(FileError::Outside)?;
                continue;
            }
            let directory = directories.last().unwrap_or(&self.directory);
            let stat = statat(directory, &part, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::from(Errno::LOOP).into());
                }
                let target = readlinkat(directory, &part, Vec::new())?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                for part in parts(&target)?.into_iter().rev() {
                    rest.push_front(part);
                }
                continue;
            }
            let is_last = rest.is_empty();
            let this = if is_last { flags } else { OFlags::PATH };
            let next = openat(
                directory,
                &part,
                this | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            if is_last {
                return Ok(next);
            }
            directories.push(next);
        }
        let directory = directories.last().unwrap_or(&self.directory);
        Ok(openat(directory, ".", flags, Mode::empty())?)
    }
}

impl From<Errno> for FileError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

/// The components of a relative path.
fn parts(path: &Path) -> Result<VecDeque<OsString>, FileError> {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| match part {
            Component::Normal(_) | Component::ParentDir => Ok(part.as_os_str().to_os_string()),
            _ => Err(FileError::Outside),
        })
        .collect()
}

/// Fails for what is not a regular file.
fn check_kind(file: BorrowedFd) -> Result<(), FileError> {
    match FileType::from_raw_mode(fstat(file)?.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(FileError::Directory),
        FileType::Fifo => Err(FileError::Special("named pipe")),
        FileType::Socket => Err(FileError::Special("socket")),
        _ => Err(FileError::Special("device")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn without_openat2_a_path_leads_to_the_same_file_or_error() {
        let directory = tempfile::tempdir().unwrap();
        let app = directory.path().join("app");
        fs::create_dir_all(app.join("a/b")).unwrap();
        for file in ["secret", "app/file", "app/a/b/file"] {
            fs::write(directory.path().join(file), file).unwrap();
        }
        for (link, target) in [
            ("app/out", "../secret"),
            ("app/a/up", "../file"),
            ("app/a/over", "../../app/file"),
            ("app/absolute", "/etc/passwd"),
            ("app/directory", "a/b"),
            ("app/loop", "loop"),
            ("app/nowhere", "missing"),
        ] {
            symlink(target, directory.path().join(link)).unwrap();
        }
        let app = AppDir::at(&app).unwrap();
        let told = |file: Result<OwnedFd, FileError>| match file {
            Ok(file) => fstat(file).unwrap().st_ino.to_string(),
            Err(error) => error.to_string(),
        };
        for path in [
            "file",
            "a/b/file",
            "./a/../file",
            "a",
            "",
            "..",
            "../app/file",
            "/etc/passwd",
            "out",
            "a/up",
            "a/over",
            "absolute",
            "directory/file",
            "directory/../b/file",
            "loop",
            "nowhere",
            "missing/file",
            "file/below",
            "a/../../secret",
        ] {
            let path = Path::new(path);
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let expected = if path.as_os_str().is_empty() {
                told(app.beneath(Path::new("."), flags))
            } else {
                told(app.beneath(path, flags))
            };
            assert_eq!(told(app.step_by_step(path, flags)), expected, "{path:?}");
        }
    }
}
