//! Which revision of the app is being deployed.

use crate::Revision;
use app_dir::AppDir;
use app_dir::git::{self, GitError, Repository};
use serde::Serialize;
use std::path::Path;

/// Why nobody knows which revision is being deployed.
#[derive(Debug, thiserror::Error)]
pub enum RevisionError {
    /// Neither the settings nor the platform name it, and the app has no `.git`.
    #[error("nothing names the revision")]
    Unknown,
    /// `.git` is there, but cannot be read.
    #[error("`.git` cannot be read: {0}")]
    Git(#[from] GitError),
    /// The checkout differs from its revision in these files.
    #[error("the checkout differs from its revision in {} files", .0.len())]
    Changed(Vec<String>),
}

/// The revision that is named, else that of a clean `.git` in the app.
pub fn find(named: Option<&Revision>, app_dir: &Path) -> Result<Revision, RevisionError> {
    if let Some(named) = named {
        return Ok(named.clone());
    }
    let app = AppDir::at(app_dir).map_err(|_| RevisionError::Unknown)?;
    let repository = Repository::at(&app, Path::new(""))?.ok_or(RevisionError::Unknown)?;
    let head = repository.head()?;
    let changes = git::changes(&repository)?;
    if !changes.is_empty() {
        return Err(RevisionError::Changed(changes));
    }
    Ok(Revision {
        name: head.to_string(),
        from: ".git".to_string(),
    })
}

/// The revision that is deployed, where it is known which one that is.
pub fn known(named: Option<&Revision>, app_dir: &Path) -> Option<Revision> {
    find(named, app_dir)
        .ok()
        .filter(|revision| revision.name != "latest")
}

/// The commit whose tree is deployed, as flakes see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// All 40 digits.
    revision: String,
    /// When it was committed, in seconds since 1970; nothing where only the platform knows the commit.
    time: Option<u64>,
}

impl Commit {
    /// The commit that is named in full, else that of a clean `.git` in the app.
    pub fn find(named: Option<&Revision>, app_dir: &Path) -> Option<Self> {
        let is_whole = |revision: &Revision| {
            revision.name.len() == 40 && revision.name.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let found = match named.filter(|named| is_whole(named)) {
            Some(named) => named.clone(),
            None => find(None, app_dir).ok().filter(is_whole)?,
        };
        Some(Self {
            time: time(&found.name, app_dir),
            revision: found.name,
        })
    }

    /// What the URL of a flake has of it.
    pub fn in_url(&self) -> String {
        let time = self.time.map(|time| format!("&lastModified={time}"));
        format!("&rev={}{}", self.revision, time.unwrap_or_default())
    }
}

/// When a revision was committed, in seconds since 1970, if the app's `.git` has it.
fn time(revision: &str, app_dir: &Path) -> Option<u64> {
    let app = AppDir::at(app_dir).ok()?;
    let repository = Repository::at(&app, Path::new("")).ok()??;
    repository.commit(revision).ok()?.time.try_into().ok()
}

/// The files in which a checkout differs from its revision, with those that are in none, also those that
/// git ignores: they are deployed all the same, and Hydra never sees them. None without a `.git`.
pub fn changes(app_dir: &Path) -> Result<Vec<String>, RevisionError> {
    let app = AppDir::at(app_dir).map_err(|_| RevisionError::Unknown)?;
    let Some(repository) = Repository::at(&app, Path::new(""))? else {
        return Ok(Vec::new());
    };
    Ok(git::changes(&repository)?)
}
