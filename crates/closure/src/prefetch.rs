//! Downloads store paths while the rest of their closure is still being looked up.
//!
//! Which layer a path goes to depends on the whole closure, so these wait in a directory beside the
//! layers, and are moved once that is known.

use crate::fetch::{FetchError, fetch_each};
use crate::queue::{Queue, QueuedPath};
use crate::relocate::references::ScanFor;
use crate::relocate::report::RelocationReport;
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

/// How long `drop` waits for running downloads. One that hangs on a silent server ends with the build.
const LEAVE: Duration = Duration::from_secs(2);

/// Downloads that have begun. Dropping this stops them, and removes their files.
#[derive(Debug)]
pub struct Prefetch {
    queue: Arc<Queue>,
    directory: PathBuf,
    fetching: Option<JoinHandle<Fetched>>,
}

type Fetched = Result<Vec<(QueuedPath, RelocationReport)>, FetchError>;

impl Prefetch {
    /// Starts the downloads into `directory`, which is created, and must be on the layers' file system.
    pub fn begin(caches: Arc<Caches>, directory: &Path, scan_for: ScanFor) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let queue = Arc::new(Queue::default());
        let work = Arc::clone(&queue);
        Ok(Self {
            queue,
            directory: directory.to_path_buf(),
            fetching: Some(thread::spawn(move || fetch_each(&work, &caches, &scan_for))),
        })
    }

    /// Downloads `path`, which must be certain to be in the closure, and not added before.
    pub fn add(&self, path: &StorePath, info: &PathInfo) {
        self.queue.add(QueuedPath {
            path: path.clone(),
            info: info.clone(),
            place: self.directory.join(path.to_basename()),
        });
    }

    /// Waits for all downloads, and moves each path to its `place`. Returns what [`fetch_each`] does.
    pub fn finish(mut self, place: impl Fn(&StorePath) -> PathBuf) -> Fetched {
        self.queue.close();
        let mut fetched = self.joined()?;
        for (path, _) in &mut fetched {
            let waited = mem::replace(&mut path.place, place(&path.path));
            fs::rename(waited, &path.place).map_err(|error| FetchError::on_disk(path, error))?;
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

impl Drop for Prefetch {
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
