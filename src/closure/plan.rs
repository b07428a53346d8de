//! Finds every store path of a closure by asking binary caches for narinfos, many at once.

use super::{Closure, PlannedPath};
use crate::cache::{BinaryCache, CacheError, CacheUrl, Untrusted};
use crate::config::TrustSettings;
use crate::http::{Http, HttpError};
use nix_derivation::StorePath;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// Narinfo requests that run at once. Each is small, so with any latency more is faster; most
/// servers take at least this many connections from one client.
const REQUESTS: usize = 48;

/// The binary caches of a build, in the order in which they are asked.
#[derive(Debug)]
pub struct Caches {
    caches: Vec<Asked>,
    trust: TrustSettings,
}

#[derive(Debug)]
struct Asked {
    url: CacheUrl,
    /// The cache, or why it could not be used from the start.
    cache: Result<BinaryCache, CacheError>,
    /// Set once the cache stops answering, so that it is not waited for again and again.
    down: OnceLock<String>,
}

/// What one binary cache answered about a store path that none of them could give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It does not have the path.
    Absent,
    /// It has the path, but what it says of it is not trusted.
    Untrusted(Untrusted),
    /// It gave no answer that can be used; why.
    Failed(String),
}

/// A store path that no binary cache could give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    pub path: StorePath,
    /// From a root down to the path that refers to the missing one; empty for a root itself.
    pub wanted_by: Vec<StorePath>,
    /// Every cache that was asked, by its URL, and what it answered.
    pub answers: Vec<(String, Answer)>,
}

impl Miss {
    /// Whether a cache has the path, but nobody who is trusted vouches for it.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        self.answers
            .iter()
            .any(|(_, answer)| matches!(answer, Answer::Untrusted(_)))
    }
}

impl Caches {
    /// Asks every cache who it is, and puts them into the order of their priorities.
    ///
    /// One that cannot be used stays in the list, for the message should a path be missing.
    #[must_use]
    pub fn open(urls: &[CacheUrl], trust: TrustSettings, http: &Http) -> Self {
        let mut caches: Vec<Asked> = std::thread::scope(|scope| {
            let opening: Vec<_> = urls
                .iter()
                .map(|url| scope.spawn(|| BinaryCache::open(url.clone(), http.clone())))
                .collect();
            urls.iter()
                .zip(opening)
                .map(|(url, opening)| Asked {
                    url: url.clone(),
                    cache: opening.join().unwrap_or(Err(CacheError::NoCacheInfo)),
                    down: OnceLock::new(),
                })
                .collect()
        });
        // A stable sort: caches of the same priority keep the order in which the user named them.
        caches.sort_by_key(|asked| {
            asked
                .cache
                .as_ref()
                .map_or(u32::MAX, |cache| cache.priority)
        });
        Self { caches, trust }
    }

    /// The caches that cannot be used, with the reason.
    pub fn unusable(&self) -> impl Iterator<Item = (String, String)> {
        self.caches.iter().filter_map(|asked| {
            let reason = match &asked.cache {
                Err(error) => error.to_string(),
                Ok(_) => asked.down.get()?.clone(),
            };
            Some((asked.url.to_string(), reason))
        })
    }

    /// The cache that a [`PlannedPath`] names.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&BinaryCache> {
        self.caches.get(index)?.cache.as_ref().ok()
    }

    /// Asks the caches in their order for `path`, until one has it and is believed.
    fn look_up(&self, path: &StorePath) -> Result<PlannedPath, Vec<(String, Answer)>> {
        let mut answers = Vec::new();
        for (index, asked) in self.caches.iter().enumerate() {
            let answer = match (&asked.cache, asked.down.get()) {
                (Err(error), _) => Answer::Failed(error.to_string()),
                (Ok(_), Some(reason)) => Answer::Failed(reason.clone()),
                (Ok(cache), None) => match cache.narinfo(path) {
                    Ok(None) => Answer::Absent,
                    Ok(Some(narinfo)) => match self.trust.check(&narinfo, cache.url()) {
                        Ok(trust) => {
                            return Ok(PlannedPath {
                                narinfo,
                                cache: index,
                                trust,
                            });
                        }
                        Err(untrusted) => Answer::Untrusted(untrusted),
                    },
                    Err(error) => {
                        let reason = error.to_string();
                        if let CacheError::Http(HttpError::Transport(_)) = error {
                            let _ = asked.down.set(reason.clone());
                        }
                        Answer::Failed(reason)
                    }
                },
            };
            answers.push((asked.url.to_string(), answer));
        }
        Err(answers)
    }

    /// Finds the whole closure of `roots`, or every path of it that no cache can give.
    pub fn plan(&self, roots: &[StorePath]) -> Result<Closure, Vec<Miss>> {
        let walk = Walk::new(roots);
        std::thread::scope(|scope| {
            for _ in 0..REQUESTS {
                scope.spawn(|| {
                    while let Some(path) = walk.next() {
                        walk.answer(&path, self.look_up(&path));
                    }
                });
            }
        });
        walk.finish(roots)
    }
}

/// A walk over the graph of references, shared by the threads that ask.
struct Walk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<StorePath>,
    /// Paths that are being asked for now.
    asked: usize,
    /// Every path met so far, with the one that referred to it first; none for a root.
    met: HashMap<StorePath, Option<StorePath>>,
    found: BTreeMap<StorePath, PlannedPath>,
    missing: Vec<(StorePath, Vec<(String, Answer)>)>,
}

impl Walk {
    fn new(roots: &[StorePath]) -> Self {
        let mut state = State::default();
        for root in roots {
            state.meet(root, None);
        }
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next path to ask for, or nothing once all answers are in.
    fn next(&self) -> Option<StorePath> {
        let mut state = self.lock();
        loop {
            if let Some(path) = state.waiting.pop_front() {
                state.asked += 1;
                return Some(path);
            }
            if state.asked == 0 {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn answer(&self, path: &StorePath, answer: Result<PlannedPath, Vec<(String, Answer)>>) {
        let mut state = self.lock();
        match answer {
            Ok(planned) => {
                for reference in planned.narinfo.references() {
                    state.meet(reference, Some(path));
                }
                state.found.insert(path.clone(), planned);
            }
            Err(answers) => state.missing.push((path.clone(), answers)),
        }
        state.asked -= 1;
        drop(state);
        self.changed.notify_all();
    }

    fn finish(self, roots: &[StorePath]) -> Result<Closure, Vec<Miss>> {
        let mut state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if state.missing.is_empty() {
            return Ok(Closure {
                roots: roots.to_vec(),
                paths: state.found,
            });
        }
        state.missing.sort_by(|(one, _), (other, _)| one.cmp(other));
        Err(state
            .missing
            .iter()
            .map(|(path, answers)| Miss {
                path: path.clone(),
                wanted_by: state.wanted_by(path),
                answers: answers.clone(),
            })
            .collect())
    }
}

impl State {
    fn meet(&mut self, path: &StorePath, referrer: Option<&StorePath>) {
        if !self.met.contains_key(path) {
            self.met.insert(path.clone(), referrer.cloned());
            self.waiting.push_back(path.clone());
        }
    }

    fn wanted_by(&self, path: &StorePath) -> Vec<StorePath> {
        let mut chain = Vec::new();
        let mut path = path;
        while let Some(Some(referrer)) = self.met.get(path) {
            chain.push(referrer.clone());
            path = referrer;
        }
        chain.reverse();
        chain
    }
}
