//! Collector `tcp`: the thread that walks through all sockets when a sweep asks for it, and what a walk has found.
//!
//! A thread of its own, since a walk takes 0.6 us a socket and no sweep is to wait for a hundred thousand of them. A sweep waits a
//! moment, in which a usual node's walk is over, and otherwise goes on with what the last one has found.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use podlens_common::{
    cgroup::{CgroupKey, SLOT_FIRST, Slot},
    tcp::{Account, Alive, Counts, Cursor, SocketWalk},
};

use super::{
    counts::{less, plus},
    ticks::Ticks,
};
use crate::{
    kernel::{iterator::Iterator, mapped::MappedArray, process::thread_cpu_ns},
    signal::lock,
};

/// How long a sweep waits for a walk.
const PATIENCE: Duration = Duration::from_millis(20);
/// After a walk comes a rest that is so many times as long as it took of a CPU: walks cost 1 % of one at most.
const REST: u32 = 100;
/// How often round-trip times of living connections are entered.
const OBSERVES_EVERY: Duration = Duration::from_secs(10);
/// Runs of one walk: over a million sockets.
const RUNS: u64 = 4096;

/// The program that walks, and the maps.
pub(super) struct WalkMaps {
    /// Starts a run.
    pub(super) iterator: Iterator,
    /// Who holds which slot.
    pub(super) slots: Arc<MappedArray<Slot>>,
    /// What closed sockets had.
    pub(super) accounts: Arc<MappedArray<Account>>,
    /// What living sockets have.
    pub(super) alive: MappedArray<Alive>,
    /// How far the walk is.
    pub(super) walk: MappedArray<SocketWalk>,
    /// The same, for those who close sockets.
    pub(super) cursor: MappedArray<Cursor>,
}

/// What a walk has found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// By slot: who held it, and what its closed sockets had whose place was not passed by this walk.
    pub(super) closed: Vec<(CgroupKey, Counts)>,
    /// Living sockets and those that closed after they were passed, by cgroup.
    pub(super) alive: HashMap<CgroupKey, Alive, RandomState>,
    /// Sockets in `TIME_WAIT`, whosever they were.
    pub(super) time_wait: u64,
    /// Ticks of the kernel's in a second, once they are known.
    pub(super) ticks_per_second: Option<u64>,
}

/// What walks could not do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lost {
    /// Walks that did not come to their end.
    pub(super) unfinished: u64,
    /// Chains that were left.
    pub(super) left: u64,
    /// Sockets without a record.
    pub(super) unplaced: u64,
    /// Sockets that are not remembered.
    pub(super) unnoted: u64,
}

/// The thread.
pub(super) struct Walker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// A walk is wanted, or under way.
    asked: bool,
    /// The thread is to end.
    ends: bool,
    /// No walk begins before.
    rests_until: Option<Instant>,
    walked: Option<Arc<Walked>>,
    lost: Lost,
}

impl State {
    /// A walk is wanted; gives whether one is under way or may begin.
    fn ask(&mut self, now: Instant) -> bool {
        self.asked |= self.rests_until.is_none_or(|until| until <= now);
        self.asked
    }
}

impl Walker {
    /// Starts the thread, and a first walk.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(maps: WalkMaps) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        lock(&shared.state).asked = true;
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("tcp-walk".to_owned()).spawn(move || run(&of_thread, &maps))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has a walk begin, if it is time for one; gives whether it is.
    pub(super) fn start_walk(&self) -> bool {
        let is_begun = lock(&self.shared.state).ask(Instant::now());
        if is_begun {
            self.shared.changed.notify_all();
        }
        is_begun
    }

    /// What the last walk has found, the present one if it is soon over; none before the first.
    pub(super) fn latest(&self) -> Option<Arc<Walked>> {
        let Shared { state, changed } = &*self.shared;
        let state = lock(state);
        let waited = changed.wait_timeout_while(state, PATIENCE, |state| state.asked);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.walked.clone()
    }

    /// What was lost up to now.
    pub(super) fn lost(&self) -> Lost {
        lock(&self.shared.state).lost
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        lock(&self.shared.state).ends = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell, however it ended.
            let _ = thread.join();
        }
    }
}

/// The thread: one walk each time that one is asked for.
fn run(shared: &Shared, maps: &WalkMaps) {
    let mut number = 0;
    let mut last_observed = None;
    let mut ticks = Ticks::default();
    let mut state = lock(&shared.state);
    loop {
        let waited = shared.changed.wait_while(state, |state| !state.asked && !state.ends);
        state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.ends {
            return;
        }
        drop(state);
        let (began, began_ns) = (Instant::now(), thread_cpu_ns());
        let observes = last_observed.is_none_or(|at: Instant| began.duration_since(at) >= OBSERVES_EVERY);
        if observes {
            last_observed = Some(began);
        }
        number += 1;
        let (result, walked) = maps.walk(number, observes);
        state = lock(&shared.state);
        state.asked = false;
        let took = Duration::from_nanos(thread_cpu_ns().saturating_sub(began_ns));
        state.rests_until = Some(Instant::now() + took * REST);
        state.lost.left += result.left;
        state.lost.unplaced += result.unplaced;
        state.lost.unnoted += result.unnoted;
        match walked {
            Some(mut walked) => {
                walked.ticks_per_second = ticks.read(result.ticks, result.began_ns);
                state.walked = Some(Arc::new(walked));
            }
            None => state.lost.unfinished += 1,
        }
        shared.changed.notify_all();
    }
}

impl WalkMaps {
    /// Walks through all sockets; nothing is found if the walk does not come to its end.
    fn walk(&self, number: u32, observes: bool) -> (SocketWalk, Option<Walked>) {
        // What closed behind an earlier walk is no part of this one.
        let before: Vec<(Slot, Counts)> = self.each_slot(|account| account.passed).collect();
        self.walk.set(0, SocketWalk { number, observes: observes.into(), ..SocketWalk::default() });
        let result = self.run();
        let walked = (result.finished == 1).then(|| self.found(&before, &result));
        // Only when the accounts are read: until then what closes was passed.
        self.cursor.set(0, Cursor::NONE);
        (result, walked)
    }

    /// Runs the program until it has met all, or cannot go on.
    fn run(&self) -> SocketWalk {
        loop {
            let before = self.walk.get(0).unwrap_or_default();
            let is_run = self.iterator.run().is_ok();
            let after = self.walk.get(0).unwrap_or_default();
            let goes_on = is_run && after.runs > before.runs && after.runs < RUNS && after.lost == 0;
            if after.finished == 1 || !goes_on {
                return after;
            }
        }
    }

    fn found(&self, before: &[(Slot, Counts)], result: &SocketWalk) -> Walked {
        // In this order: a socket that closes meanwhile is first in the one, then in the other.
        let closed: Vec<(Slot, Counts)> = self.each_slot(|account| account.closed).collect();
        let passed = self.each_slot(|account| account.passed);
        let closed = closed.iter().zip(passed).zip(before).map(|(((slot, closed), (_, passed)), (earlier, noted))| {
            let is_same = (slot.key, slot.generation) == (earlier.key, earlier.generation);
            let noted = if is_same { *noted } else { Counts::NONE };
            (slot.key, less(*closed, less(passed, noted)))
        });
        let closed = closed.collect();
        let records = (0..usize::try_from(result.records).unwrap_or(0)).filter_map(|at| self.alive.get(at));
        let mut alive: HashMap<CgroupKey, Alive, RandomState> = HashMap::default();
        for record in records {
            alive.insert(record.key, record);
        }
        Walked { closed, alive, time_wait: result.time_wait, ticks_per_second: None }
    }

    /// Each slot's holder, and a part of its account.
    fn each_slot(&self, of: fn(&Account) -> Counts) -> impl std::iter::Iterator<Item = (Slot, Counts)> {
        (0..self.slots.len()).zip(0..).map(move |(at, number)| {
            let slot = self.slots.get(at).unwrap_or_default();
            let is_held = slot.key != 0 || number < SLOT_FIRST;
            let account = is_held.then(|| self.accounts.get(at)).flatten();
            (slot, account.map_or(Counts::NONE, |account| of(&account)))
        })
    }
}

impl Walked {
    /// The living sockets that were met under a key, of a slot's holder; none if the walk cannot tell, since the cgroup got its slot
    /// after it and none was met.
    pub(super) fn alive_of(&self, number: u32, holder: CgroupKey, key: CgroupKey) -> Option<Alive> {
        self.alive.get(&key).copied().or_else(|| self.closed_of(number, holder).map(|_| Alive::EMPTY))
    }

    /// What the sockets of a slot's holder had at the end of the walk, closed and alive.
    pub(super) fn of_slot(&self, number: u32, holder: CgroupKey, alive: Option<&Alive>) -> Counts {
        let closed = self.closed_of(number, holder).unwrap_or(Counts::NONE);
        plus(closed, alive.map_or(Counts::NONE, |alive| alive.counts))
    }

    /// What the closed sockets of a slot's holder had; none if the slot was not its own then.
    fn closed_of(&self, number: u32, holder: CgroupKey) -> Option<Counts> {
        let (then, closed) = self.closed.get(usize::try_from(number).ok()?)?;
        (*then == holder).then_some(*closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_after_the_walk_is_not_told_to_have_no_sockets() {
        let met = Alive { queue: 3, ..Alive::EMPTY };
        let walked = Walked {
            closed: vec![(77, Counts::NONE), (78, Counts::NONE)],
            alive: [(78, met), (80, met)].into_iter().collect(),
            ..Walked::default()
        };
        let queue = |number, key| walked.alive_of(number, key, key).map(|alive| alive.queue);
        assert_eq!((queue(0, 77), queue(1, 78)), (Some(0), Some(3)));
        assert_eq!((queue(1, 79), queue(2, 79)), (None, None), "the slot was another's, or is new");
        assert_eq!(queue(2, 80), Some(3), "it had sockets without a slot");
    }

    #[test]
    fn a_walk_that_is_asked_for_while_the_thread_rests_is_to_be_asked_for_again() {
        let now = Instant::now();
        let mut state = State { rests_until: Some(now + PATIENCE), ..State::default() };
        assert_eq!((state.ask(now), state.asked), (false, false));
        assert_eq!((state.ask(now + PATIENCE), state.asked), (true, true));
        assert!(state.ask(now), "one is under way");
    }
}
