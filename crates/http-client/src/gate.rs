//! How many requests one server gets at once: as many as it serves.
//!
//! Some servers serve few connections, and let the others wait unanswered until one of the first has
//! been idle for long enough: nix-serve serves five, and waits a second. Others refuse what is too
//! much. So the number at once starts small and grows with each answer, unless answers come at once: then
//! more connections save no time, and each costs a handshake. A refusal, or a request that
//! waits while others are answered, shows the limit. While requests wait, a connection is closed once
//! its answer is read, so that the server turns to the next. A waiting request is never sent again
//! for this: the server may be at work on it.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZero;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// Requests at once to a server of which nothing is known.
const FIRST: usize = 4;

/// Requests at once, and more for each core, to a server that answers at once.
const NEAR: usize = 2;
const NEAR_FOR_EACH_CORE: usize = 2;

/// A small answer that takes less comes at once: it is from a server close by that has it at hand.
const AT_ONCE: Duration = Duration::from_millis(4);

/// A large answer that takes longer to begin is being worked on, however close the server is.
const WORKED_ON: Duration = Duration::from_millis(50);

/// More than there are threads that send requests.
const MOST: usize = 128;

/// A request is overdue after this many times the quickest answer so far. The slowest answer says
/// nothing: it may have waited for its turn.
const TIMES_QUICKEST: u32 = 20;

/// The least of that for a small file: longer than a caching proxy takes to ask its upstream.
const SMALL: Duration = Duration::from_secs(2);

/// The same before the first small answer.
const FIRST_SMALL: Duration = Duration::from_secs(5);

/// The same for a large file: the server may have to fetch or compress it first.
const LARGE: Duration = Duration::from_secs(30);

/// A request probably waits for another's connection after this time, and after this many times the
/// quickest answer.
const WAITS: Duration = Duration::from_millis(400);
const WAITS_TIMES_QUICKEST: u32 = 4;

/// The same where no request here would use the connection at once: kept for later, it would hold off the
/// one that waits until the server closes it.
const WAITS_FOR_UNUSED: Duration = Duration::from_millis(25);

/// Rounds of answers for which a limit holds before one more request is tried, since it may have been
/// chance. Each time that was one too many, the limit holds twice as long.
const FOUND_FOR: usize = 8;

/// The kind of file that is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A file that is sent at once and read quickly, such as a narinfo. It goes first.
    Small,
    /// A file that may take long.
    Large,
}

/// The gates of all servers, by the part of their URLs before the path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gates(Arc<Mutex<HashMap<String, Arc<Gate>>>>);

impl Gates {
    pub(crate) fn of(&self, server: String) -> Arc<Gate> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gates.entry(server).or_default())
    }
}

/// Every request to one server passes here.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    /// Where small and large requests wait. Each is woken for a place of its own: waking all of 80
    /// threads for each answer took 5 % of the processor time of a download.
    small: Condvar,
    large: Condvar,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// Requests that have passed and are not done, by number.
    running: BTreeMap<u64, Running>,
    next: u64,
    /// The most that ran at once under this limit: so many connections are open.
    peak: usize,
    /// How many small and large requests wait to pass.
    waiting_small: usize,
    waiting_large: usize,
    /// How long the quickest small answer took to begin.
    quickest: Option<Duration>,
    /// As many at once are enough while answers come at once.
    near: usize,
    answered: Option<Instant>,
    /// When a limit was last found, the answers since it was tried or found, and for how many rounds
    /// of them it holds.
    found: Option<Instant>,
    answers: usize,
    holds: usize,
    /// One more than the limit is being tried.
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
            waiting_small: 0,
            waiting_large: 0,
            quickest: None,
            near: NEAR + NEAR_FOR_EACH_CORE * available_parallelism().map_or(1, NonZero::get),
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
    size: Size,
    begun: Instant,
    is_answered: bool,
    /// The server lets it wait, so it takes no place.
    is_left_over: bool,
}

impl State {
    /// How many requests take a place.
    fn count(&self) -> usize {
        let running = self.running.values();
        running.filter(|other| !other.is_left_over).count()
    }

    fn waiting(&mut self, size: Size) -> &mut usize {
        match size {
            Size::Small => &mut self.waiting_small,
            Size::Large => &mut self.waiting_large,
        }
    }

    /// Whether a request may pass: small ones go first.
    fn has_place(&self, size: Size) -> bool {
        self.count() < self.limit && (size == Size::Small || self.waiting_small == 0)
    }

    /// Records that the server serves no more than `limit`.
    fn found(&mut self, limit: usize) {
        self.limit = limit.max(1);
        if std::mem::take(&mut self.is_trying) {
            self.holds *= 2;
        }
        self.found = Some(Instant::now());
        self.answers = 0;
    }

    /// Whether one more request at once would save time, after an answer that took `took` to begin.
    fn would_help(&self, size: Size, took: Duration) -> bool {
        let is_far = self.quickest.is_none_or(|quickest| quickest >= AT_ONCE);
        let is_worked_on = size == Size::Large && took >= WORKED_ON;
        is_far || is_worked_on || self.limit < self.near
    }

    /// How long a request may wait before the server seems to serve others first.
    fn overdue_after(&self, size: Size) -> Duration {
        let many = self.quickest.map(|quickest| quickest * TIMES_QUICKEST);
        match size {
            Size::Small => many.map_or(FIRST_SMALL, |many| many.max(SMALL)),
            Size::Large => many.map_or(LARGE, |many| many.max(LARGE)),
        }
    }

    /// When a request that began at `begun` is answered: lowers the limit to what is served, if one is
    /// overdue that began earlier, but after the limit was last found.
    fn check_overdue(&mut self, now: Instant, begun: Instant) {
        let overdue = self.running.values().filter(|other| {
            !other.is_answered
                && self.found.is_none_or(|found| found <= other.begun)
                && begun.saturating_duration_since(other.begun) > WAITS
                && now - other.begun > self.overdue_after(other.size)
        });
        if let Some(waited) = overdue.map(|other| now - other.begun).max() {
            self.leave_over(now, waited);
        }
    }

    /// Records that the server serves others while some wait: those that waited at least half of
    /// `waited`.
    fn leave_over(&mut self, now: Instant, waited: Duration) {
        let mut left_over = 0;
        for other in self.running.values_mut() {
            if !other.is_answered && now - other.begun > waited / 2 {
                other.is_left_over = true;
                left_over += 1;
            }
        }
        let limit = self.peak.saturating_sub(left_over);
        self.found(limit);
        self.is_refusal = false;
        self.peak = 0;
    }
}

impl Gate {
    /// Waits until the server can be expected to serve one more request.
    pub(crate) fn pass(self: &Arc<Self>, size: Size) -> Pass {
        let mut state = self.lock();
        *state.waiting(size) += 1;
        while !state.has_place(size) {
            let changed = match size {
                Size::Small => &self.small,
                Size::Large => &self.large,
            };
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *state.waiting(size) -= 1;
        let begun = Instant::now();
        let number = state.next;
        state.next += 1;
        let running = Running {
            size,
            begun,
            is_answered: false,
            is_left_over: false,
        };
        state.running.insert(number, running);
        state.peak = state.peak.max(state.count());
        // The last small one leaves the other places to large ones.
        self.wake(state);
        Pass {
            gate: Arc::clone(self),
            size,
            number,
            begun,
        }
    }

    /// Unlocks the gate, and wakes as many waiting requests as there are places.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let (waiting, changed) = match state.waiting_small {
            0 => (state.waiting_large, &self.large),
            small => (small, &self.small),
        };
        let places = state.limit.saturating_sub(state.count());
        drop(state);
        (0..places.min(waiting)).for_each(|_| changed.notify_one());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held from before a request until its answer is read.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    size: Size,
    number: u64,
    begun: Instant,
}

impl Pass {
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// Records that the answer has begun.
    pub(crate) fn answered(&self) {
        let now = Instant::now();
        let mut state = self.gate.lock();
        state.answered = Some(now);
        let took = now - self.begun;
        if self.size == Size::Small {
            state.quickest = Some(state.quickest.map_or(took, |quickest| quickest.min(took)));
        }
        if let Some(own) = state.running.get_mut(&self.number) {
            own.is_answered = true;
            own.is_left_over = false;
        }
        state.answers += 1;
        if state.is_trying && state.is_refusal && state.answers >= state.limit {
            // More is served than was, so there is no limit now; where one is found again, it holds
            // for longer.
            state.found = None;
        }
        let is_tried = state.found.is_none() || state.answers >= state.holds * state.limit;
        if is_tried && state.would_help(self.size, took) {
            state.limit = (state.limit + 1).min(MOST);
            state.answers = 0;
            state.is_trying |= state.found.is_some();
        }
        state.check_overdue(now, self.begun);
        self.gate.wake(state);
    }

    /// Records that the server refused the request as one too many.
    pub(crate) fn refused(&self) {
        let mut state = self.gate.lock();
        let limit = state.limit - 1;
        state.found(limit);
        state.is_refusal = true;
    }

    /// Whether others seem to wait for the place that this one has at the server.
    pub(crate) fn is_waited_for(&self) -> bool {
        let state = self.gate.lock();
        let quickest = state.quickest.unwrap_or_default();
        let is_unused = state.waiting_small == 0 && state.waiting_large == 0;
        let long = if is_unused { WAITS_FOR_UNUSED } else { WAITS };
        let long = long.max(quickest * WAITS_TIMES_QUICKEST);
        let mut others = state.running.values();
        others.any(|other| !other.is_answered && other.begun.elapsed() > long)
    }

    /// Records that there was no answer in time.
    pub(crate) fn timed_out(&self) {
        let now = Instant::now();
        let mut state = self.gate.lock();
        let others = state.running.values().any(|other| other.is_answered)
            || state.answered.is_some_and(|answered| answered > self.begun);
        let is_counted = state.found.is_some_and(|found| found > self.begun);
        if !others {
            // It is silent altogether: how many ask makes no difference, and those that wait to pass
            // had better learn it soon.
            state.limit = MOST;
        } else if !is_counted {
            state.leave_over(now, now - self.begun);
        }
        self.gate.wake(state);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.running.remove(&self.number);
        self.gate.wake(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    const SOON: Duration = Duration::from_millis(30);

    /// The gate of a server for which more requests at once always help.
    fn far() -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        gate.lock().near = MOST;
        gate
    }

    fn answered(gate: &Arc<Gate>, size: Size) -> Pass {
        let pass = gate.pass(size);
        pass.answered();
        pass
    }

    #[test]
    fn with_each_answer_one_more_may_be_asked_for() {
        let gate = far();
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
    fn a_server_that_answers_at_once_gets_a_few_requests_at_once() {
        let gate = Arc::new(Gate::default());
        let near = gate.lock().near;
        for _ in 0..3 * near {
            drop(answered(&gate, Size::Small));
        }
        assert_eq!(gate.lock().limit, near.max(FIRST));
        // One that makes a NAR first gets more of these.
        let pass = gate.pass(Size::Large);
        thread::sleep(WORKED_ON);
        pass.answered();
        assert_eq!(gate.lock().limit, near.max(FIRST) + 1);
    }

    #[test]
    fn requests_that_wait_while_others_are_answered_show_how_many_are_served() {
        let gate = far();
        let served: Vec<Pass> = (0..2).map(|_| answered(&gate, Size::Small)).collect();
        let left_over: Vec<Pass> = (0..3).map(|_| gate.pass(Size::Small)).collect();
        // One that would use the connection of the next that is done.
        gate.lock().waiting_large = 1;
        thread::sleep(SOON);
        assert!(!served[0].is_waited_for());
        thread::sleep(SMALL);
        assert!(served[0].is_waited_for());
        // Those that began with them may just be quicker.
        served[0].answered();
        assert_eq!(gate.lock().limit, FIRST + 3);
        let later = answered(&gate, Size::Small);
        assert_eq!(gate.lock().limit, 3);
        // They take no place until they are answered.
        assert_eq!(gate.lock().count(), 3);
        left_over[0].answered();
        assert_eq!(gate.lock().count(), 4);
        drop((left_over, served));
        // An answer of one that is served proves nothing more.
        later.answered();
        assert_eq!(gate.lock().limit, 3);
        drop(later);
        // One that is alone shows that the server is slow.
        let alone = gate.pass(Size::Small);
        thread::sleep(SOON);
        alone.timed_out();
        assert_eq!(gate.lock().limit, MOST);
    }

    #[test]
    fn a_connection_is_soon_left_to_one_that_waits_where_no_request_here_would_use_it() {
        let gate = far();
        let served = answered(&gate, Size::Small);
        let waiting = gate.pass(Size::Small);
        thread::sleep(WAITS_FOR_UNUSED);
        assert!(served.is_waited_for());
        // It is kept for one that can be sent now.
        gate.lock().waiting_small = 1;
        assert!(!served.is_waited_for());
        thread::sleep(WAITS);
        assert!(served.is_waited_for());
        drop(waiting);
        assert!(!served.is_waited_for());
    }

    #[test]
    fn each_that_is_refused_was_one_too_many_until_many_are_answered() {
        let gate = far();
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
        let gate = far();
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
        let gate = far();
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

    #[test]
    fn every_request_that_waits_is_woken_for_a_place() {
        let gate = Arc::new(Gate::default());
        let (through, came) = channel();
        for thread in 0..40 {
            let (gate, through) = (Arc::clone(&gate), through.clone());
            thread::spawn(move || {
                for turn in 0..50 {
                    let is_small = (thread + turn) % 3 == 0;
                    let pass = gate.pass(if is_small { Size::Small } else { Size::Large });
                    match turn % 10 {
                        0 => pass.timed_out(),
                        1 => pass.refused(),
                        _ => pass.answered(),
                    }
                }
                through.send(()).unwrap();
            });
        }
        // A thread that sleeps for ever would keep its own from coming.
        for _ in 0..40 {
            came.recv_timeout(Duration::from_secs(20)).unwrap();
        }
    }
}
