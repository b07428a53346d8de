//! How many requests one server is sent at once: as many as it serves.
//!
//! Some servers serve few connections, and let the others wait unanswered until one of the first is
//! idle for long enough: nix-serve's serves five, and waits a second. Others refuse what is too much. So
//! the number at once grows from a few with each answer, and a request that is refused, or waits while
//! others are answered, tells where to stop. Until then a connection is closed once its answer is
//! read, so that one that waits gets its place.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Requests at once to a server of which nothing is known.
const FIRST: usize = 4;

/// More than there are threads that ask.
const MOST: usize = 128;

/// How many times as long as the quickest so far an answer is waited for, before it is asked whether
/// others are served first. The slowest tells nothing: it may have waited for its turn.
const TIMES_QUICKEST: u32 = 20;

/// The least of that for what is small: longer than a network's cache takes to ask the one behind it.
const SMALL: Duration = Duration::from_secs(2);

/// How long a small answer is waited for where there was none yet.
const FIRST_SMALL: Duration = Duration::from_secs(5);

/// How long a large one is waited for at least: the server may have to fetch or compress it first, and
/// those that are served meanwhile lose nothing.
const LARGE: Duration = Duration::from_secs(30);

/// How long an answer takes at least that seems to wait for another's connection, and how many times as
/// long as the quickest.
const WAITS: Duration = Duration::from_millis(400);
const WAITS_TIMES_QUICKEST: u32 = 4;

/// How many rounds of answers a limit that was found holds. Then one more is tried: it may have been
/// chance. Each time that was one too many, the limit holds twice as long.
const FOUND_FOR: usize = 8;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Something that is answered at once, and soon read: it goes first.
    Small,
    /// A file that may take long.
    Large,
}

/// The gates of all servers that were asked, by what comes before the path in their URLs.
#[derive(Debug, Clone, Default)]
pub(super) struct Gates(Arc<Mutex<HashMap<String, Arc<Gate>>>>);

impl Gates {
    pub(super) fn of(&self, server: String) -> Arc<Gate> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gates.entry(server).or_default())
    }
}

/// Whoever asks one server passes here.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// Those that have passed and are not done, by number.
    running: BTreeMap<u64, Running>,
    next: u64,
    /// The most that were running at once under this limit: so many connections are open.
    peak: usize,
    /// How many small requests wait to pass.
    waiting: usize,
    /// How long the quickest small answer took to begin.
    quickest: Option<Duration>,
    answered: Option<Instant>,
    /// When a limit was found the last time, the answers since it was tried or found, and for how many
    /// rounds of them it holds.
    found: Option<Instant>,
    answers: usize,
    holds: usize,
    /// One more than was found is being tried.
    is_trying: bool,
    /// The limit is from a refusal, which comes at once: a round of answers shows that it was chance.
    is_refusal: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            limit: FIRST,
            running: BTreeMap::new(),
            next: 0,
            peak: 0,
            waiting: 0,
            quickest: None,
            answered: None,
            found: None,
            answers: 0,
            holds: FOUND_FOR,
            is_trying: false,
            is_refusal: false,
        }
    }
}

#[derive(Debug)]
struct Running {
    begun: Instant,
    is_answered: bool,
    /// The server does not serve it now, so it takes nobody's place.
    is_left_over: bool,
}

impl State {
    /// How many take a place.
    fn count(&self) -> usize {
        let running = self.running.values();
        running.filter(|other| !other.is_left_over).count()
    }

    /// More was asked than is served: `limit` is what may be.
    fn found(&mut self, limit: usize) {
        self.limit = limit.max(1);
        if std::mem::take(&mut self.is_trying) {
            self.holds *= 2;
        }
        self.found = Some(Instant::now());
        self.answers = 0;
    }
}

impl Gate {
    /// Waits until the server can be expected to serve one more.
    pub(super) fn pass(self: &Arc<Self>, size: Size) -> Pass {
        let mut state = self.lock();
        let is_small = size == Size::Small;
        state.waiting += usize::from(is_small);
        while state.count() >= state.limit || (!is_small && state.waiting > 0) {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= usize::from(is_small);
        let begun = Instant::now();
        let number = state.next;
        state.next += 1;
        let running = Running {
            begun,
            is_answered: false,
            is_left_over: false,
        };
        state.running.insert(number, running);
        state.peak = state.peak.max(state.count());
        if is_small && state.waiting == 0 {
            self.changed.notify_all();
        }
        Pass {
            gate: Arc::clone(self),
            size,
            number,
            begun,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held from before a request until its answer is read.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    size: Size,
    number: u64,
    begun: Instant,
}

impl Pass {
    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// How long the beginning of the answer is waited for at first.
    pub(super) fn patience(&self) -> Duration {
        let quickest = self.gate.lock().quickest;
        let many = quickest.map(|quickest| quickest * TIMES_QUICKEST);
        match self.size {
            Size::Small => many.map_or(FIRST_SMALL, |many| many.max(SMALL)),
            Size::Large => many.map_or(LARGE, |many| many.max(LARGE)),
        }
    }

    /// The answer has begun.
    pub(super) fn answered(&self) {
        let now = Instant::now();
        let mut state = self.gate.lock();
        state.answered = Some(now);
        if self.size == Size::Small {
            let took = now - self.begun;
            state.quickest = Some(state.quickest.map_or(took, |quickest| quickest.min(took)));
        }
        if let Some(own) = state.running.get_mut(&self.number) {
            own.is_answered = true;
        }
        state.answers += 1;
        if state.is_trying && state.is_refusal && state.answers >= state.limit {
            // More is served than was, so there is no limit now; where one is found again, it holds
            // for longer.
            state.found = None;
        }
        if state.found.is_none() || state.answers >= state.holds * state.limit {
            state.limit = (state.limit + 1).min(MOST);
            state.answers = 0;
            state.is_trying |= state.found.is_some();
            drop(state);
            self.gate.changed.notify_all();
        }
    }

    /// The server says that it was asked too much.
    pub(super) fn refused(&self) {
        let mut state = self.gate.lock();
        let limit = state.limit - 1;
        state.found(limit);
        state.is_refusal = true;
    }

    /// Whether others seem to wait for the place that this one has at the server.
    pub(super) fn is_waited_for(&self) -> bool {
        let state = self.gate.lock();
        let quickest = state.quickest.unwrap_or_default();
        let long = WAITS.max(quickest * WAITS_TIMES_QUICKEST);
        let mut others = state.running.values();
        others.any(|other| !other.is_answered && other.begun.elapsed() > long)
    }

    /// It was waited for long enough. Whether that is because the server serves others first, and so
    /// had better not be asked so much at once; else it is slow.
    pub(super) fn is_left_over(&self) -> bool {
        let now = Instant::now();
        let mut state = self.gate.lock();
        if state.found.is_some_and(|found| found > self.begun) {
            // Whoever saw it first has counted this one.
            return true;
        }
        let others = state.running.values().any(|other| other.is_answered)
            || state.answered.is_some_and(|answered| answered > self.begun);
        if !others {
            // It is silent altogether: how many ask makes no difference, and whoever waits to pass had
            // better learn it soon.
            state.limit = MOST;
            drop(state);
            self.gate.changed.notify_all();
            return false;
        }
        let waited = now - self.begun;
        let mut left_over = 0;
        for other in state.running.values_mut() {
            if !other.is_answered && now - other.begun > waited / 2 {
                other.is_left_over = true;
                left_over += 1;
            }
        }
        let limit = state.peak.saturating_sub(left_over);
        state.found(limit);
        state.is_refusal = false;
        state.peak = 0;
        drop(state);
        self.gate.changed.notify_all();
        true
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.lock().running.remove(&self.number);
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    const SOON: Duration = Duration::from_millis(30);

    fn answered(gate: &Arc<Gate>, size: Size) -> Pass {
        let pass = gate.pass(size);
        pass.answered();
        pass
    }

    #[test]
    fn with_each_answer_one_more_may_be_asked_for() {
        let gate = Arc::new(Gate::default());
        let passes: Vec<Pass> = (0..FIRST).map(|_| gate.pass(Size::Small)).collect();
        let (through, came) = channel();
        thread::scope(|scope| {
            scope.spawn(|| through.send(gate.pass(Size::Small)).unwrap());
            assert!(came.recv_timeout(SOON).is_err());
            passes[0].answered();
            came.recv().unwrap();
        });
    }

    #[test]
    fn whoever_waits_while_others_are_answered_shows_how_many_are_served() {
        let gate = Arc::new(Gate::default());
        let served: Vec<Pass> = (0..2).map(|_| answered(&gate, Size::Small)).collect();
        let left_over: Vec<Pass> = (0..3).map(|_| gate.pass(Size::Small)).collect();
        thread::sleep(SOON);
        assert!(!served[0].is_waited_for());
        thread::sleep(WAITS);
        assert!(served[0].is_waited_for());
        assert!(left_over.iter().all(Pass::is_left_over));
        assert_eq!(gate.lock().limit, 2);
        drop(left_over);
        // The answers of those who are served prove nothing more.
        served[0].answered();
        assert_eq!(gate.lock().limit, 2);
        drop(served);
        // Nobody else is there: then it is the server that is slow.
        let alone = gate.pass(Size::Small);
        thread::sleep(SOON);
        assert!(!alone.is_left_over());
        assert_eq!(gate.lock().limit, MOST);
    }

    #[test]
    fn each_that_is_refused_was_one_too_many_until_many_are_answered() {
        let gate = Arc::new(Gate::default());
        let passes: Vec<Pass> = (0..FIRST).map(|_| gate.pass(Size::Small)).collect();
        passes[0].answered();
        passes[1..].iter().for_each(Pass::refused);
        drop(passes);
        assert_eq!(gate.lock().limit, 2);
        for _ in 1..2 * FOUND_FOR {
            drop(answered(&gate, Size::Small));
        }
        assert_eq!(gate.lock().limit, 2);
        drop(answered(&gate, Size::Small));
        assert_eq!(gate.lock().limit, 3);
        // It was one too many: so soon it is not tried again.
        gate.pass(Size::Small).refused();
        for _ in 1..4 * FOUND_FOR {
            drop(answered(&gate, Size::Small));
        }
        assert_eq!(gate.lock().limit, 2);
        drop(answered(&gate, Size::Small));
        assert_eq!(gate.lock().limit, 3);
    }

    #[test]
    fn what_was_refused_by_chance_is_forgotten_once_more_is_served() {
        let gate = Arc::new(Gate::default());
        gate.pass(Size::Small).refused();
        assert_eq!(gate.lock().limit, FIRST - 1);
        for _ in 0..(FIRST - 1) * FOUND_FOR + FIRST {
            drop(answered(&gate, Size::Small));
        }
        // From here on there is one more with each answer.
        let limit = gate.lock().limit;
        for _ in 0..40 {
            drop(answered(&gate, Size::Small));
        }
        assert_eq!(gate.lock().limit, limit + 40);
        // A server that refuses after all is tried again more rarely.
        gate.pass(Size::Small).refused();
        assert_eq!(gate.lock().holds, 2 * FOUND_FOR);
    }

    #[test]
    fn what_is_small_goes_first() {
        let gate = Arc::new(Gate::default());
        gate.lock().limit = 1;
        let first = gate.pass(Size::Large);
        let (through, came) = channel();
        thread::scope(|scope| {
            let large = through.clone();
            let gate = &gate;
            scope.spawn(move || large.send((Size::Large, gate.pass(Size::Large))).unwrap());
            thread::sleep(SOON);
            scope.spawn(move || through.send((Size::Small, gate.pass(Size::Small))).unwrap());
            thread::sleep(SOON);
            drop(first);
            let (size, pass) = came.recv().unwrap();
            assert_eq!(size, Size::Small);
            drop(pass);
            assert_eq!(came.recv().unwrap().0, Size::Large);
        });
    }
}
