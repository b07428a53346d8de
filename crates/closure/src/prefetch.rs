//! Fetches store paths while it is still being found out what else their closure has.
//!
//! Which layer a path goes to depends on the whole closure, so what comes early waits in a directory
//! beside the layers, and is moved once that is known.

use crate::fetch::{FetchError, fetch_each};
use crate::queue::{Queue, Wanted};
use crate::relocate::references::Sought;
use crate::relocate::relocatability::Survey;
use binary_cache::Caches;
use binary_cache::PathInfo;
use nix_derivation::StorePath;
use std::fs;
use std::io;
use std::mem;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long those that are at work are waited for when nobody needs it any more. Whoever waits for a
/// server that does not answer ends with the build.
const LEAVE: Duration = Duration::from_secs(2);

/// Downloads that have begun. Whoever drops this ends them, and nothing of them is left.
#[derive(Debug)]
pub struct Early {
    queue: Arc<Queue>,
    directory: PathBuf,
    fetching: Option<JoinHandle<Fetched>>,
}

type Fetched = Result<Vec<(Wanted, Survey)>, FetchError>;

impl Early {
    /// Has paths wait in `directory`, which is made, and must be on the file system of the layers.
    pub fn begin(caches: Arc<Caches>, directory: &Path, sought: Sought) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let queue = Arc::new(Queue::default());
        let work = Arc::clone(&queue);
        Ok(Self {
            queue,
            directory: directory.to_path_buf(),
            fetching: Some(thread::spawn(move || fetch_each(&work, &caches, &sought))),
        })
    }

    /// Fetches `path`, which the closure has for certain, and which was not asked for before.
    pub fn want(&self, path: &StorePath, info: &PathInfo) {
        self.queue.add(Wanted {
            path: path.clone(),
            info: info.clone(),
            place: self.directory.join(path.to_basename()),
        });
    }

    /// Waits for all that was asked for, has each path moved to its `place`, and answers what was found
    /// in it.
    pub fn finish(mut self, place: impl Fn(&StorePath) -> PathBuf) -> Fetched {
        self.queue.close();
        let mut fetched = self.joined()?;
        for (wanted, _) in &mut fetched {
            let waited = mem::replace(&mut wanted.place, place(&wanted.path));
            fs::rename(waited, &wanted.place)
                .map_err(|error| FetchError::on_disk(wanted, error))?;
        }
        Ok(fetched)
    }

    fn joined(&mut self) -> Fetched {
        let ended = self.fetching.take().map(JoinHandle::join);
        ended.map_or(Ok(Vec::new()), |ended| {
            ended.unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        self.queue.stop();
        if let Some(fetching) = self.fetching.take() {
            let until = Instant::now() + LEAVE;
            while !fetching.is_finished() && Instant::now() < until {
                thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
