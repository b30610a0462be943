//! Collector `tcp`: what the TCP sockets of each cgroup have done, and their connections.
//!
//! Closed sockets are counted by slot, living ones by a walk (walk.rs), by the cgroup's key: a cgroup whose tasks only sleep holds
//! no slot, but has sockets. What is told is as of the last walk, but never less than what closed sockets had.
//!
//! A cgroup that is removed leaves what its sockets had at that moment, alive or not. What of them lives on is nobody's
//! after that, and what had been told of it is taken off there.

mod counts;
pub mod metrics;
mod start;
mod ticks;
mod walk;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::fast::RandomState;
use podlens_common::{
    cgroup::{CgroupKey, SLOT_KERNEL, SLOT_ROOT, SLOT_UNATTRIBUTED, Slot},
    histogram::BUCKETS,
    tcp::{Account, Alive, ConnectionEvent, Counts, KEY_NOBODY, KEY_ROOT, NO_SLOT, SocketState, notes::Shares},
};

pub use self::start::SPEC;
use self::{
    counts::{less, most, plus},
    ticks::ns,
    walk::{Walked, Walker},
};
use super::{Collector, Readings, Spec, Sweep, distribution, extend};
use crate::{
    kernel::{mapped::MappedArray, missed::MissedRuns},
    signal::{Layout, Loss, Row},
};

type Keys = HashSet<CgroupKey, RandomState>;

/// The collector at work.
pub struct Tcp {
    layout: Arc<Layout>,
    accounts: Arc<MappedArray<Account>>,
    slots: Arc<MappedArray<Slot>>,
    walker: Option<Walker>,
    /// Sockets in the root of the version 2 tree may be of any cgroup of version 1.
    has_v1: bool,
    missed_closings: MissedChanges,
    /// Of the programs that count resets; none where they do not run.
    missed_resets: Option<MissedRuns>,
    /// Connections of which nobody knows how long it took to make them.
    untimed: MappedArray<u64>,
    /// Of the kernel's clock, once it is known.
    ticks_per_second: Option<u64>,
    books: Books,
    /// The present cgroup's row.
    found: Row,
    /// That of a slot whose cgroup has had no sockets, as of this sweep.
    unused: Row,
}

/// Changes of sockets' states that no program was called for.
struct MissedChanges {
    /// Of the program, or of the first of two.
    missed: MissedRuns,
    /// What the first has left and what the second has taken, where there are two.
    shares: Option<MappedArray<Shares>>,
    /// What was told: what is being taken between two readings never makes it less.
    told: AtomicU64,
}

/// What was told, by cgroup, and what became of it.
#[derive(Debug, Default)]
struct Books {
    /// Each in memory of its own: half of a table is empty.
    reported: HashMap<CgroupKey, Box<Reported>, RandomState>,
    /// Cgroups whose final values were told, as long as the last walk still knows them.
    gone: Keys,
    /// What those had told of sockets that had not closed.
    given: Counts,
}

/// How a row is filled.
struct Form {
    layout: Arc<Layout>,
    /// Of the kernel's clock, once it is known.
    ticks_per_second: Option<u64>,
    /// A walk has met the sockets; without one there are no bytes, segments and retransmits.
    is_counted: bool,
    /// Programs count resets.
    has_resets: bool,
}

/// Who tells of living sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReportedBy {
    /// The slot that their cgroup holds.
    Slot,
    /// Their cgroup, which is there and holds none.
    Cgroup,
    /// Nobody: the cgroup says nothing, or is gone and was told for the last time.
    Nobody,
}

/// What was told of one cgroup.
#[derive(Clone, Copy, Debug, Default)]
struct Reported {
    counts: Counts,
    /// At each hashed bucket.
    connects: [u64; BUCKETS],
    /// The same.
    round_trips: [u64; BUCKETS],
}

impl Tcp {
    /// What the slot's programs have counted; none where that is nothing, as for most.
    fn account(&self, slot: u32) -> Option<Account> {
        self.accounts.get_used(usize::try_from(slot).ok()?)
    }

    /// A slot is held under this key.
    fn holds_slot(&self, key: CgroupKey) -> bool {
        (0..self.slots.len()).any(|at| self.slots.get(at).is_some_and(|slot| slot.key == key))
    }

    /// What of the node's sockets can be told, where a walk has met them or not.
    fn form(&self, is_counted: bool) -> Form {
        Form {
            layout: Arc::clone(&self.layout),
            ticks_per_second: self.ticks_per_second,
            is_counted,
            has_resets: self.missed_resets.is_some(),
        }
    }
}

/// Under which key a slot's sockets are met; none for a slot that has none.
fn key_of(number: u32, holder: CgroupKey, has_v1: bool) -> Option<CgroupKey> {
    match number {
        SLOT_UNATTRIBUTED => Some(KEY_NOBODY),
        SLOT_KERNEL => None,
        SLOT_ROOT => (!has_v1).then_some(KEY_ROOT),
        _ => Some(holder),
    }
}

impl MissedChanges {
    fn new(missed: MissedRuns, shares: Option<MappedArray<Shares>>) -> Self {
        Self { missed, shares, told: AtomicU64::new(0) }
    }

    fn count(&self) -> u64 {
        let shares = || self.shares.as_ref().and_then(|shares| shares.get(0)).unwrap_or_default();
        let wanted = self.missed.count() + shares().left;
        // After that, since it comes after that: what is just being taken is never told as lost.
        let lost = wanted.saturating_sub(shares().stood_in);
        self.told.fetch_max(lost, Ordering::Relaxed).max(lost)
    }
}

impl Collector for Tcp {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn start_walk(&mut self) -> bool {
        self.walker.as_ref().is_none_or(Walker::start_walk)
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        if !sweep.whole {
            self.start_walk();
        }
        let walked = self.walker.as_ref().and_then(Walker::latest);
        let walked = walked.as_deref();
        if let Some(walked) = walked {
            self.books.gone.retain(|key| walked.alive.contains_key(key));
            self.ticks_per_second = walked.ticks_per_second;
        }
        let held: Keys = sweep.in_use.iter().map(|(_, slot)| slot.key).collect();
        let form = self.form(walked.is_some());
        form.fill(&mut self.unused, &Reported::default(), walked.map(|_| &Alive::EMPTY), Some(&Account::EMPTY));
        for (number, slot) in sweep.wanted.iter() {
            let Some(key) = key_of(number, slot.key, self.has_v1) else { continue };
            let account = self.account(number);
            let alive = walked.and_then(|walked| walked.alive_of(number, slot.key, key));
            let is_unused = account.is_none() && alive == walked.map(|_| Alive::EMPTY);
            if is_unused && number != SLOT_UNATTRIBUTED && !self.books.reported.contains_key(&key) {
                readings.slot(number, &self.unused);
                continue;
            }
            let account = account.unwrap_or(Account::EMPTY);
            let counts = walked.map(|walked| {
                let counts = walked.of_slot(number, slot.key, alive.as_ref());
                if number == SLOT_UNATTRIBUTED {
                    let counts = plus(counts, self.books.of_nobody(walked, &held, self.has_v1));
                    less(most(counts, account.closed), self.books.given)
                } else {
                    most(counts, account.closed)
                }
            });
            let reported = self.books.tell(key, counts, Some(&account));
            form.fill(&mut self.found, reported, alive.as_ref(), Some(&account));
            if let Some(walked) = walked.filter(|_| number == SLOT_UNATTRIBUTED) {
                self.found.add(&self.layout, &metrics::TIME_WAIT, 0, walked.time_wait);
            }
            readings.slot(number, &self.found);
        }
        let Some(walked) = walked.filter(|_| sweep.whole) else { return };
        for (key, alive) in &walked.alive {
            if self.books.reported_by(*key, alive, &held, self.has_v1) != ReportedBy::Cgroup {
                continue;
            }
            let reported = self.books.tell(*key, Some(alive.counts), None);
            form.fill(&mut self.found, reported, Some(alive), None);
            readings.cgroup(*key, &self.found);
        }
    }

    fn clear(&mut self, slot: u32) {
        let Ok(at) = usize::try_from(slot) else { return };
        if let (Some(holder), Some(account)) = (self.slots.get(at), self.accounts.get(at)) {
            self.books.give_back(holder.key, account.closed);
        }
        self.accounts.set(at, Account::EMPTY);
    }

    fn removed(&mut self, key: CgroupKey) -> Option<Row> {
        if !self.books.reported.contains_key(&key) || self.holds_slot(key) {
            return None;
        }
        let reported = self.books.give_back(key, Counts::NONE)?;
        let form = self.form(true);
        form.fill(&mut self.found, &reported, None, None);
        Some(self.found.clone())
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        let lost = self.walker.as_ref().map(Walker::lost).unwrap_or_default();
        vec![
            (&start::MISSED_CLOSING, self.missed_closings.count()),
            (&start::MISSED_RESET, self.missed_resets.as_ref().map_or(0, MissedRuns::count)),
            (&start::UNTIMED, self.untimed.get(0).unwrap_or_default()),
            (&start::WALK_UNFINISHED, lost.unfinished),
            (&start::CHAIN_LEFT, lost.left),
            (&start::NO_ROOM, lost.unplaced),
            (&start::UNNOTED, lost.unnoted),
        ]
    }
}

impl Form {
    /// Fills the row: where no walk can have met the cgroup there is nothing of living sockets, and without an account nothing of
    /// what happened.
    fn fill(&self, row: &mut Row, reported: &Reported, alive: Option<&Alive>, account: Option<&Account>) {
        let layout = &self.layout;
        row.clear();
        if self.is_counted {
            let Counts { bytes, segments, retransmits, overflows, limited } = reported.counts;
            row.add_all(layout, &metrics::BYTES, &bytes);
            row.add_all(layout, &metrics::SEGMENTS, &segments);
            row.add(layout, &metrics::RETRANSMITS, 0, retransmits);
            row.add(layout, &metrics::LISTEN_OVERFLOWS, 0, overflows);
            if let Some(per_second) = self.ticks_per_second {
                row.add_all(layout, &metrics::LIMITED, &limited.map(|ticks| ns(ticks, per_second)));
            }
        }
        if let Some(alive) = alive {
            let connections = alive.connections.map(u64::from);
            row.add_all(layout, &metrics::SOCKETS, &connections);
            if connections.get(SocketState::Listening.index()).is_some_and(|listening| *listening > 0) {
                row.add(layout, &metrics::ACCEPT_QUEUE, 0, alive.queue.into());
                row.add(layout, &metrics::ACCEPT_QUEUE_LIMIT, 0, alive.queue_limit.into());
            }
        }
        if let Some(account) = account {
            let events = ConnectionEvent::ALL.map(|event| match event {
                ConnectionEvent::Opened => account.opened,
                ConnectionEvent::Accepted => account.accepted,
                ConnectionEvent::Failed => account.failures.iter().sum(),
                ConnectionEvent::Closed => account.ended,
            });
            row.add_all(layout, &metrics::CONNECTION_EVENTS, &events);
            row.add_all(layout, &metrics::CONNECT_FAILURES, &account.failures);
            row.add_all(layout, &metrics::CONNECTION_ERRORS, &account.errors);
            let connects = distribution(&reported.connects, account.connects_ns);
            row.add_histogram(layout, &metrics::CONNECT_LATENCY, 0, &connects);
            let round_trips = distribution(&reported.round_trips, account.round_trips_ns);
            row.add_histogram(layout, &metrics::ROUND_TRIP, 0, &round_trips);
            if self.has_resets {
                row.add_all(layout, &metrics::RESETS, &account.resets);
            }
        }
    }
}

impl Books {
    /// Whose the living sockets are that were met under a key.
    fn reported_by(&self, key: CgroupKey, alive: &Alive, held: &Keys, has_v1: bool) -> ReportedBy {
        match key {
            KEY_NOBODY => ReportedBy::Slot,
            KEY_ROOT => {
                if has_v1 {
                    ReportedBy::Nobody
                } else {
                    ReportedBy::Slot
                }
            }
            _ if held.contains(&key) => ReportedBy::Slot,
            _ if self.gone.contains(&key) => ReportedBy::Nobody,
            // It got its slot after the slots of this sweep were looked at.
            _ if alive.slot != NO_SLOT => ReportedBy::Slot,
            _ if alive.is_online == 1 => ReportedBy::Cgroup,
            _ => ReportedBy::Nobody,
        }
    }

    /// What living sockets have that are nobody's.
    fn of_nobody(&self, walked: &Walked, held: &Keys, has_v1: bool) -> Counts {
        let nobodys = walked
            .alive
            .iter()
            .filter(|(key, alive)| self.reported_by(**key, alive, held, has_v1) == ReportedBy::Nobody);
        nobodys.fold(Counts::NONE, |sum, (_, alive)| plus(sum, alive.counts))
    }

    /// Enters what a cgroup has now. What was told never becomes less: a socket that closes just as the walk comes by may be
    /// missing until the next one.
    fn tell(&mut self, key: CgroupKey, counts: Option<Counts>, account: Option<&Account>) -> &Reported {
        let reported = self.reported.entry(key).or_default();
        if let Some(counts) = counts {
            reported.counts = most(reported.counts, counts);
        }
        if let Some(account) = account {
            extend(&mut reported.connects, &account.connects);
            extend(&mut reported.round_trips, &account.round_trips);
        }
        reported
    }

    /// A cgroup's final values were told, of which so much is of closed sockets.
    fn give_back(&mut self, key: CgroupKey, closed: Counts) -> Option<Reported> {
        self.gone.insert(key);
        let reported = *self.reported.remove(&key)?;
        self.given = plus(self.given, less(reported.counts, closed));
        Some(reported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: CgroupKey = 77;

    fn counts(bytes: u64) -> Counts {
        Counts { bytes: [bytes, 0], ..Counts::NONE }
    }

    fn walked(closed: u64, alive: &[(CgroupKey, u64, u32)]) -> Walked {
        let alive = alive.iter().map(|(key, bytes, is_online)| {
            (*key, Alive { key: *key, counts: counts(*bytes), is_online: *is_online, ..Alive::EMPTY })
        });
        Walked { closed: vec![(KEY_NOBODY, counts(closed))], alive: alive.collect(), ..Walked::default() }
    }

    #[test]
    fn living_sockets_are_reported_by_one() {
        let held = Keys::from_iter([POD]);
        let mut books = Books::default();
        let alive = |is_online, slot| Alive { is_online, slot, ..Alive::EMPTY };
        for (key, met, has_v1, expected) in [
            (KEY_NOBODY, alive(0, NO_SLOT), true, ReportedBy::Slot),
            (KEY_ROOT, alive(1, NO_SLOT), true, ReportedBy::Nobody),
            (KEY_ROOT, alive(1, NO_SLOT), false, ReportedBy::Slot),
            (POD, alive(0, 9), true, ReportedBy::Slot),
            (78, alive(1, NO_SLOT), true, ReportedBy::Cgroup),
            (78, alive(0, NO_SLOT), true, ReportedBy::Nobody),
            (78, alive(1, 10), true, ReportedBy::Slot),
        ] {
            assert_eq!(books.reported_by(key, &met, &held, has_v1), expected, "{key} {met:?}");
        }
        books.gone.insert(78);
        assert_eq!(
            books.reported_by(78, &alive(1, 10), &held, true),
            ReportedBy::Nobody,
            "its slot was given back since"
        );
    }

    #[test]
    fn what_outlives_its_cgroup_is_told_once_in_all() {
        let mut books = Books::default();
        // 100 of closed sockets; 40 of two living ones.
        books.tell(POD, Some(counts(140)), None);
        let none = Keys::default();
        let nobodys = |books: &Books, walked: &Walked, closed: u64| {
            less(most(plus(counts(closed), books.of_nobody(walked, &none, true)), counts(0)), books.given)
        };
        books.give_back(POD, counts(100));
        for (alive, closed, expected, what) in [
            (walked(0, &[(POD, 40, 1)]), 0, 0, "a walk from before its removal"),
            (walked(0, &[(POD, 40, 0)]), 0, 0, "nothing new"),
            (walked(0, &[(POD, 55, 0)]), 0, 15, "they go on"),
            (walked(30, &[(POD, 25, 0)]), 30, 15, "one has closed"),
            (walked(60, &[]), 60, 20, "both have"),
        ] {
            assert_eq!(nobodys(&books, &alive, closed), counts(expected), "{what}");
        }
    }

    #[test]
    fn what_was_told_never_becomes_less() {
        let mut books = Books::default();
        for (now, reported) in [(Some(5), 5), (Some(3), 5), (None, 5), (Some(8), 8)] {
            assert_eq!(books.tell(POD, now.map(counts), None).counts, counts(reported));
        }
    }
}
