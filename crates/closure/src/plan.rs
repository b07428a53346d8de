//! Finds every store path of a closure by asking binary caches for narinfos, many at once.

use crate::closure::Closure;
use crate::parallel::lock;
use binary_cache::{Answer, CacheAnswer, Caches, PathInfo};
use nix_derivation::StorePath;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Narinfo requests that run at once. Each is small, so with any latency more is faster; most
/// servers take at least this many connections from one client.
const REQUESTS: usize = 48;

/// Store paths that are asked for at most: a whole NixOS system with a desktop has some 10,000. A
/// cache that makes up narinfos could go on for ever, and placing takes memory that grows with the
/// square of them: 110 MB for so many.
const MAX_PATHS: usize = 30_000;

/// References of all of them at most, some 100 bytes of memory each: such a system has 100,000.
const MAX_REFERENCES: usize = 500_000;

/// Bytes of all their URLs at most: a kilobyte for each path.
const MAX_URLS: usize = 32 * 1024 * 1024;

/// A store path that no binary cache could give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    pub path: StorePath,
    /// From a root down to the path that refers to the missing one; empty for a root itself.
    pub wanted_by: Vec<StorePath>,
    /// The answer of every cache that was asked.
    pub answers: Vec<CacheAnswer>,
}

/// What the previous image's metadata says of store paths.
#[derive(Debug, Default)]
pub struct Previous {
    /// Paths that were verified then, under the same trust: the facts of a narinfo never change.
    pub verified: BTreeMap<StorePath, PathInfo>,
    /// Paths that are probably needed again, and must be asked for again.
    pub likely: Vec<StorePath>,
}

impl Previous {
    /// Paths of which nothing is known but that they are probably needed again.
    pub fn likely(paths: Vec<StorePath>) -> Self {
        Self {
            likely: paths,
            ..Self::default()
        }
    }
}

impl Miss {
    /// Whether every cache says that it does not have the path.
    pub fn is_certain(&self) -> bool {
        let mut answers = self.answers.iter();
        answers.all(|asked| asked.answer == Answer::Absent)
    }

    /// Whether a cache has the path, but no trusted key or cache vouches for it.
    pub fn is_untrusted(&self) -> bool {
        self.answers
            .iter()
            .any(|asked| matches!(asked.answer, Answer::Untrusted(_)))
    }
}

/// Finds the whole closure of `roots`, or every path of it that no cache can give.
///
/// `previous.verified` is not asked for again; `previous.likely` is asked for at once, so that the depth of
/// the graph costs no time. Calls `found` with each path that was asked for, as soon as a cache has given it;
/// these are all of the closure's where nothing was only likely.
pub fn plan(
    caches: &Caches,
    roots: &[StorePath],
    previous: &Previous,
    found: impl Fn(&StorePath, &PathInfo) + Sync,
) -> Result<Closure, Vec<Miss>> {
    let walk = Walk::new(caches, &previous.verified);
    for path in roots.iter().chain(&previous.likely) {
        walk.lock().enqueue(path, &previous.verified);
    }
    std::thread::scope(|scope| {
        for _ in 0..REQUESTS {
            scope.spawn(|| {
                while let Some(path) = walk.next() {
                    let answer = caches.look_up(&path, |_| true);
                    if let Ok(info) = &answer {
                        found(&path, info);
                    }
                    walk.answer(path, answer);
                }
            });
        }
    });
    walk.finish(roots)?.into_closure(roots)
}

/// A walk over the graph of references, shared by the threads that ask.
struct Walk<'a> {
    caches: &'a Caches,
    verified: &'a BTreeMap<StorePath, PathInfo>,
    state: Mutex<State>,
    changed: Condvar,
}

type Found = Result<PathInfo, Vec<CacheAnswer>>;

#[derive(Default)]
struct State {
    waiting: VecDeque<StorePath>,
    /// Paths that are being asked for now.
    asked: usize,
    /// Every path met so far.
    met: HashSet<StorePath>,
    /// How many references they have.
    references: usize,
    /// Bytes of their URLs.
    urls: usize,
    answers: Answers,
    /// The cache that led to more than [`MAX_PATHS`], [`MAX_REFERENCES`] or [`MAX_URLS`].
    endless: Option<String>,
}

/// What is known of every path that was met.
#[derive(Default)]
struct Answers(HashMap<StorePath, Found>);

impl<'a> Walk<'a> {
    fn new(caches: &'a Caches, verified: &'a BTreeMap<StorePath, PathInfo>) -> Self {
        Self {
            caches,
            verified,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The next path to ask for; `None` once all answers are in.
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

    fn answer(&self, path: StorePath, answer: Found) {
        let mut state = self.lock();
        let waiting = state.waiting.len();
        if let Ok(info) = &answer {
            for reference in &info.references {
                state.enqueue(reference, self.verified);
            }
            state.references += info.references.len();
            state.urls += info.source.as_ref().map_or(0, |source| source.url.len());
            if state.met.len() > MAX_PATHS
                || state.references > MAX_REFERENCES
                || state.urls > MAX_URLS
            {
                state.waiting.clear();
                let cache = self.caches.name_of(info).unwrap_or_default();
                state.endless.get_or_insert(cache);
            }
        }
        state.answers.0.insert(path, answer);
        state.asked -= 1;
        let is_last = state.asked == 0 && state.waiting.is_empty();
        // This thread takes one of the new paths itself.
        let others = (waiting + 1)..state.waiting.len();
        drop(state);
        if is_last {
            self.changed.notify_all();
        }
        others.for_each(|_| self.changed.notify_one());
    }

    /// All answers, or a miss of each root where there is no end of them.
    fn finish(self, roots: &[StorePath]) -> Result<Answers, Vec<Miss>> {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(cache) = state.endless else {
            return Ok(state.answers);
        };
        let reason = format!(
            "its narinfos lead to more than {MAX_PATHS} store paths, {MAX_REFERENCES} references or \
             {MAX_URLS} bytes of URLs"
        );
        let miss = |path: &StorePath| Miss {
            path: path.clone(),
            wanted_by: Vec::new(),
            answers: vec![CacheAnswer {
                cache: cache.clone(),
                answer: Answer::Failed(reason.clone()),
            }],
        };
        Err(roots.iter().map(miss).collect())
    }
}

impl State {
    /// Adds a path that may be needed: it is asked for, unless it is verified.
    fn enqueue(&mut self, path: &StorePath, verified: &BTreeMap<StorePath, PathInfo>) {
        let mut paths = vec![path];
        while let Some(path) = paths.pop() {
            if !self.met.insert(path.clone()) {
                continue;
            }
            match verified.get(path) {
                Some(info) => {
                    paths.extend(&info.references);
                    self.answers.0.insert(path.clone(), Ok(info.clone()));
                }
                None => self.waiting.push_back(path.clone()),
            }
        }
    }
}

impl Answers {
    /// Picks the closure of `roots` from the answers.
    fn into_closure(mut self, roots: &[StorePath]) -> Result<Closure, Vec<Miss>> {
        let mut paths = BTreeMap::new();
        let mut misses = Vec::new();
        // Every path that is needed, with the one that refers to it; none for a root.
        let mut wanted: HashMap<StorePath, Option<StorePath>> = HashMap::new();
        let mut next: VecDeque<(StorePath, Option<StorePath>)> =
            roots.iter().map(|root| (root.clone(), None)).collect();
        while let Some((path, referrer)) = next.pop_front() {
            if wanted.contains_key(&path) {
                continue;
            }
            wanted.insert(path.clone(), referrer);
            match self.0.remove(&path) {
                Some(Ok(info)) => {
                    let references = info.references.iter();
                    next.extend(references.map(|other| (other.clone(), Some(path.clone()))));
                    paths.insert(path, info);
                }
                Some(Err(answers)) => misses.push((path, answers)),
                // Every reference of an answer was met, and everything met was answered.
                None => misses.push((path, Vec::new())),
            }
        }
        if misses.is_empty() {
            return Ok(Closure {
                roots: roots.to_vec(),
                paths,
            });
        }
        misses.sort_by(|(one, _), (other, _)| one.cmp(other));
        Err(misses
            .into_iter()
            .map(|(path, answers)| Miss {
                wanted_by: chain(&wanted, &path),
                path,
                answers,
            })
            .collect())
    }
}

/// From a root down to the path that refers to `path`.
fn chain(wanted: &HashMap<StorePath, Option<StorePath>>, path: &StorePath) -> Vec<StorePath> {
    let mut chain = Vec::new();
    let mut path = path;
    while let Some(Some(referrer)) = wanted.get(path) {
        chain.push(referrer.clone());
        path = referrer;
    }
    chain.reverse();
    chain
}
