//! The app's git checkout. The files of `.git` are read here, and git is never run: its configuration,
//! attributes, hooks and index can each name programs that it runs. Of the configuration only
//! `core.fileMode` is looked at. Formats: git's `gitrepository-layout(5)` and `gitformat-index(5)`.

pub mod index;

mod attributes;
mod objects;
mod status;

pub use attributes::{Attributes, Conversion};
pub use objects::Commit;
use objects::Objects;
pub use status::{Comparison, Status, status};

use crate::file::{AppDir, FileError};
use crate::tree::{Node, TreeError};
use gix_hash::ObjectId;
use index::Index;
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The size of files of one line: `HEAD`, a reference, `.git` as a file, `commondir`.
const MAX_LINE: u64 = 4 << 10;

/// The size of configuration, `.gitmodules` and `.gitattributes`.
pub const MAX_TEXT: u64 = 1 << 20;

/// The size of an index, which is that of some 400,000 files, and of `packed-refs`.
const MAX_TABLE: u64 = 32 << 20;

/// Symbolic references that lead to a branch, as for git.
const MAX_REFERENCES: usize = 5;

/// The reason why a checkout cannot be read. It completes "its revision cannot be found out: …".
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("`{}` cannot be read: {source}", path.display())]
    File { path: PathBuf, source: FileError },
    #[error("`{}` is not in a format that is read here", .0.display())]
    Format(PathBuf),
    #[error("`{0}` is no commit that is there")]
    NoCommit(String),
    #[error("it lacks the object {0}")]
    NoObject(ObjectId),
    #[error("its objects are in another repository, which `{}` names", .0.display())]
    Alternates(PathBuf),
    #[error("the object {0} cannot be read: {1}")]
    Object(ObjectId, String),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("it has more in the object {0} than is read here")]
    TooLarge(ObjectId),
}

/// The repository of a checkout in the app.
#[derive(Debug)]
pub struct Repository<'a> {
    app: &'a AppDir,
    /// Where the checkout is, relative to the app.
    root: PathBuf,
    /// With the index and `HEAD` of this checkout, relative to the app.
    git_dir: PathBuf,
    /// With the objects and references of all checkouts of the repository.
    common_dir: PathBuf,
}

impl<'a> Repository<'a> {
    /// The repository of the checkout at `root`, relative to the app. None if there is no `.git`.
    pub fn at(app: &'a AppDir, root: &Path) -> Result<Option<Self>, GitError> {
        let dot_git = root.join(".git");
        let git_dir = match line(app, &dot_git) {
            Ok(None) => return Ok(None),
            // A worktree, or a submodule.
            Ok(Some(text)) => match text.strip_prefix("gitdir:") {
                Some(path) => in_app(app, root, path),
                None => return Err(GitError::Format(dot_git)),
            },
            Err(GitError::File {
                source: FileError::Directory,
                ..
            }) => dot_git,
            Err(error) => return Err(error),
        };
        let common_dir = match line(app, &git_dir.join("commondir"))? {
            Some(path) => in_app(app, &git_dir, &path),
            None => git_dir.clone(),
        };
        Ok(Some(Self {
            app,
            root: root.to_path_buf(),
            git_dir,
            common_dir,
        }))
    }

    /// The commit that is checked out.
    pub fn head(&self) -> Result<ObjectId, GitError> {
        let mut name = "HEAD".to_string();
        for _ in 0..MAX_REFERENCES {
            // Some are of one worktree, and some of all.
            let places = [&self.git_dir, &self.common_dir].map(|place| place.join(&name));
            let mut value = None;
            for place in &places {
                value = value.or(line(self.app, place)?);
            }
            let Some(value) = value else { break };
            match value.strip_prefix("ref:").map(str::trim) {
                None => return id(&value).ok_or(GitError::Format(places[0].clone())),
                Some(next) if is_reference(next) => name = next.to_string(),
                Some(_) => return Err(GitError::Format(places[0].clone())),
            }
        }
        self.packed_reference(&name)?
            .ok_or(GitError::NoCommit(name))
    }

    /// A commit, by all digits of its hash.
    pub fn commit(&self, digits: &str) -> Result<Commit, GitError> {
        let id = id(digits).ok_or_else(|| GitError::NoCommit(digits.to_string()))?;
        Objects::of(self, id.kind())?.commit(id)
    }

    fn packed_reference(&self, name: &str) -> Result<Option<ObjectId>, GitError> {
        let path = self.common_dir.join("packed-refs");
        let packed = bytes(self.app, &path, MAX_TABLE)?.unwrap_or_default();
        let packed = String::from_utf8_lossy(&packed);
        Ok(packed
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(_, named)| *named == name)
            .and_then(|(digits, _)| id(digits)))
    }

    /// The files that git has in its index.
    pub fn index(&self) -> Result<Index, GitError> {
        let file = |name: &str| {
            let path = self.git_dir.join(name);
            let bytes = bytes(self.app, &path, MAX_TABLE)?;
            Ok::<_, GitError>((bytes.unwrap_or_default(), path))
        };
        let (bytes, path) = file("index")?;
        let (mut index, base) =
            index::parse(&bytes, self.hash()).ok_or_else(|| GitError::Format(path.clone()))?;
        if let Some(changes) = base {
            let (bytes, base) = file(&format!("sharedindex.{}", changes.base))?;
            let (shared, _) = index::parse(&bytes, self.hash()).ok_or(GitError::Format(base))?;
            index = changes.apply(index, shared).ok_or(GitError::Format(path))?;
        }
        Ok(index.by_path())
    }

    /// The kind of hash, by the length of the commit's: no configuration has to be believed.
    fn hash(&self) -> gix_hash::Kind {
        self.head().map_or(gix_hash::Kind::Sha1, |id| id.kind())
    }

    /// Whether the file system of the checkout has executable files, which that of Windows does not.
    fn has_modes(&self) -> bool {
        let config = bytes(self.app, &self.common_dir.join("config"), MAX_TEXT);
        let config = config.ok().flatten().unwrap_or_default();
        !values(&String::from_utf8_lossy(&config), "core", "filemode")
            .any(|value| value.eq_ignore_ascii_case("false"))
    }
}

/// The paths in which a checkout differs from its commit, as `git status --ignored` lists them.
pub fn changes(repository: &Repository) -> Result<Vec<String>, GitError> {
    status::changes(repository, &Node::read(repository.app)?)
}

/// The directories, below the checkout at `root` in the app, that are submodules: by git's index, else
/// by `.gitmodules`.
pub fn submodules(app: &AppDir, root: &Path) -> BTreeSet<PathBuf> {
    if let Ok(Some(repository)) = Repository::at(app, root)
        && let Ok(index) = repository.index()
    {
        return index
            .submodules()
            .map(|(path, _)| path.to_path_buf())
            .collect();
    }
    let text = app.read(&root.join(".gitmodules"), MAX_TEXT);
    let text = text.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    paths_of_submodules(&text).map(PathBuf::from).collect()
}

/// The directories that a `.gitmodules` names.
pub fn paths_of_submodules(gitmodules: &str) -> impl Iterator<Item = &str> {
    values(gitmodules, "submodule", "path")
}

/// The values of a key in sections of one name, by `git-config(5)`: each is on a line of its own in all
/// that git writes.
fn values<'a>(config: &'a str, section: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let mut is_in = false;
    config.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let name = header.split([']', ' ', '\t', '"', '.']).next();
            is_in = name.is_some_and(|name| name.eq_ignore_ascii_case(section));
            return None;
        }
        let (name, value) = line.split_once('=')?;
        let is_key = is_in && name.trim().eq_ignore_ascii_case(key);
        is_key.then(|| value.trim().trim_matches('"'))
    })
}

/// Where in the app a path of one of git's files leads, seen from `directory`.
fn in_app(app: &AppDir, directory: &Path, path: &str) -> PathBuf {
    let path = Path::new(path.trim());
    // What is elsewhere stays absolute, and is not opened.
    path.strip_prefix(app.path())
        .map_or_else(|_| directory.join(path), Path::to_path_buf)
}

fn is_reference(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    name.starts_with("refs/") && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn id(digits: &str) -> Option<ObjectId> {
    ObjectId::from_hex(digits.trim().as_bytes()).ok()
}

/// A file of one line. None if there is no such file.
fn line(app: &AppDir, path: &Path) -> Result<Option<String>, GitError> {
    let bytes = bytes(app, path, MAX_LINE)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_string()))
}

/// A file of up to `limit` bytes. None if there is no such file.
fn bytes(app: &AppDir, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, GitError> {
    if_there(app.read(path, limit), path)
}

/// What was read at `path`. None if there is nothing.
fn if_there<T>(read: Result<T, FileError>, path: &Path) -> Result<Option<T>, GitError> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(FileError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(GitError::File {
            path: path.to_path_buf(),
            source,
        }),
    }
}
