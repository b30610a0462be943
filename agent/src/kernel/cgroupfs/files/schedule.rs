//! When the reader reads which source; pure, with the caller's clock.
//!
//! A source that is new is read soon and often: at 0.25, 0.5, 1, 2 and 4 s of its age. Later its turn comes every [`TURN`],
//! at a moment of its own, so that the sources' turns are spread over it and the age that a value has in a regular sweep
//! stays the same: a rate over two sweeps is not bent. A turn is left out where no sweep is expected before the next
//! one, but not so long that a value becomes older than [`OLDEST`].

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

/// Between two turns of a source.
pub const TURN: Duration = Duration::from_secs(5);
/// As old as a value may be for who asks out of turn.
const OLDEST: Duration = Duration::from_secs(15);
/// A value that is older was not read in its turn: some file hangs.
pub const STALE_AFTER: Duration = Duration::from_secs(20);
/// What is due within the same quarter of a second is read together, so that the thread wakes less often.
const PORTION: Duration = Duration::from_millis(250);
const PORTIONS: u32 = 20;

const _: () = assert!(PORTION.as_millis() * PORTIONS as u128 == TURN.as_millis());

/// When each source is due.
#[derive(Debug)]
pub(super) struct Schedule {
    began: Instant,
    entries: HashMap<u64, Entry>,
    queue: BTreeSet<(Instant, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    since: Instant,
    read: Option<Instant>,
    due: Instant,
}

impl Schedule {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, entries: HashMap::new(), queue: BTreeSet::new() }
    }

    /// A new source.
    pub(super) fn add(&mut self, id: u64, now: Instant) {
        let due = self.at_portion(now);
        self.entries.insert(id, Entry { since: now, read: None, due });
        self.queue.insert((due, id));
    }

    /// A source is gone.
    pub(super) fn remove(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            self.queue.remove(&(entry.due, id));
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Takes those that are to be read now.
    pub(super) fn due(&mut self, now: Instant, demand: &Demand) -> Vec<u64> {
        let mut due = Vec::new();
        while let Some((_, id)) = self.queue.first().copied().filter(|(due, _)| *due <= now) {
            self.queue.pop_first();
            let Some(mut entry) = self.entries.get(&id).copied() else { continue };
            // Beyond half a turn more it would be too old before the next one.
            let keeps = |read: Instant| now.duration_since(read) + TURN <= OLDEST + TURN / 2;
            let is_new = now.duration_since(entry.since) < TURN;
            if is_new || !entry.read.is_some_and(keeps) || demand.is_expected_by(now, now + TURN) {
                entry.read = Some(now);
                due.push(id);
            }
            entry.due = self.next_turn(id, entry.since, now);
            self.entries.insert(id, entry);
            self.queue.insert((entry.due, id));
        }
        due
    }

    /// So many of its next turns are left out.
    pub(super) fn rest(&mut self, id: u64, turns: u32) {
        let Some(entry) = self.entries.get_mut(&id).filter(|_| turns > 0) else { return };
        self.queue.remove(&(entry.due, id));
        entry.due += TURN * turns;
        self.queue.insert((entry.due, id));
    }

    fn next_turn(&self, id: u64, since: Instant, now: Instant) -> Instant {
        let age = now.duration_since(since);
        if age < TURN {
            return self.at_portion(now + age.max(PORTION));
        }
        let own = PORTION * u32::try_from(id % u64::from(PORTIONS)).unwrap_or(0);
        let since_own = now.duration_since(self.began + own);
        let turns = since_own.as_nanos() / TURN.as_nanos() + 1;
        self.began + own + TURN * u32::try_from(turns).unwrap_or(u32::MAX)
    }

    /// The first beginning of a portion from `at` on.
    fn at_portion(&self, at: Instant) -> Instant {
        let portions = at.duration_since(self.began).as_nanos().div_ceil(PORTION.as_nanos());
        self.began + PORTION * u32::try_from(portions).unwrap_or(u32::MAX)
    }
}

/// When sweeps come, as far as it can be told from those that came.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// The latest sweeps, the last one at the end.
    taken: VecDeque<Instant>,
}

/// So many gaps between sweeps are looked at. Several exporters take turns, each at its own interval.
const GAPS: usize = 8;
/// A sweep may come so much earlier than any before.
const SLACK: Duration = Duration::from_secs(1);
/// Two collectors that take in one sweep.
const SAME_SWEEP: Duration = Duration::from_millis(100);

impl Demand {
    /// A sweep takes what there is.
    pub(super) fn taken(&mut self, now: Instant) {
        if self.taken.back().is_some_and(|last| now.duration_since(*last) < SAME_SWEEP) {
            return;
        }
        if self.taken.len() > GAPS {
            self.taken.pop_front();
        }
        self.taken.push_back(now);
    }

    /// Whether a sweep may come up to `until`. Not known before there were enough of them: then it may.
    fn is_expected_by(&self, now: Instant, until: Instant) -> bool {
        let gaps = || self.taken.iter().zip(self.taken.iter().skip(1)).map(|(one, next)| next.duration_since(*one));
        let (Some(last), Some(shortest), Some(longest)) = (self.taken.back(), gaps().min(), gaps().max()) else {
            return true;
        };
        if self.taken.len() <= GAPS {
            return true;
        }
        // Whoever asked has gone away; the next one is out of turn.
        let is_over = now > *last + longest * 2 + SLACK;
        !is_over && until + SLACK >= *last + shortest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Moments, in milliseconds of its age, at which a source with this id is read until `until_s`, where sweeps come
    /// every `sweep_ms`, and the greatest age of its value at a sweep after 30 s and at any time.
    fn follow(id: u64, sweep_ms: &[u64], until_s: u64) -> (Vec<u128>, Duration, Duration) {
        let began = Instant::now();
        let mut schedule = Schedule::new(began);
        let mut demand = Demand::default();
        schedule.add(id, began);
        let (mut read, mut at_sweep, mut at_all) = (Vec::new(), Duration::ZERO, Duration::ZERO);
        let mut last = began;
        for ms in (0..until_s * 1000).step_by(50) {
            let now = began + MS * u32::try_from(ms).unwrap_or(0);
            if !schedule.due(now, &demand).is_empty() {
                read.push(now.duration_since(began).as_millis());
                last = now;
            }
            at_all = at_all.max(now.duration_since(last));
            let phase = |(index, every): (usize, &u64)| (ms + index as u64 * 4_000).is_multiple_of(*every);
            if sweep_ms.iter().enumerate().any(phase) {
                demand.taken(now);
                if ms > 30_000 {
                    at_sweep = at_sweep.max(now.duration_since(last));
                }
            }
        }
        (read, at_sweep, at_all)
    }

    #[test]
    fn a_new_source_is_read_soon_and_often_and_then_once_a_turn_at_its_own_moment() {
        assert_eq!(follow(0, &[100], 26).0, [0, 250, 500, 1000, 2000, 4000, 8000, 10_000, 15_000, 20_000, 25_000]);
        assert_eq!(follow(7, &[100], 26).0, [0, 250, 500, 1000, 2000, 4000, 8000, 11_750, 16_750, 21_750]);
    }

    #[test]
    fn turns_of_many_sources_are_spread_evenly() {
        let began = Instant::now();
        let mut schedule = Schedule::new(began);
        (0..500).for_each(|id| schedule.add(id, began));
        let demand = Demand::default();
        for portion in 0..120_u32 {
            let read = schedule.due(began + PORTION * portion, &demand).len();
            assert!(portion < 40 || read == 25, "{read} in portion {portion}");
        }
    }

    #[test]
    fn whoever_asks_regularly_gets_values_that_are_at_most_a_turn_old() {
        for sweeps in
            [&[1000_u64][..], &[5000], &[15_000], &[60_000], &[15_000, 15_000], &[15_000, 60_000], &[10_000, 30_000]]
        {
            for id in 0..20 {
                let (_, at_sweep, at_all) = follow(id, sweeps, 900);
                // One that comes in the very moment of a turn may see the value of the turn before.
                assert!(at_sweep <= TURN, "{sweeps:?}: {at_sweep:?}");
                assert!(at_all <= OLDEST + PORTION, "{sweeps:?}: {at_all:?}");
            }
        }
    }

    #[test]
    fn turns_that_no_sweep_would_see_are_left_out() {
        let turns = 540;
        for (sweeps, expected) in
            [(&[5000_u64][..], turns), (&[15_000], turns / 3), (&[60_000], turns / 3), (&[15_000, 15_000], turns)]
        {
            let (read, ..) = follow(3, sweeps, 3600);
            let settled = read.iter().filter(|ms| **ms > 900_000).count();
            assert!(settled.abs_diff(expected) <= 1, "{sweeps:?}: {settled} readings in 2700 s");
        }
    }

    #[test]
    fn when_nobody_asks_any_more_only_the_oldest_age_is_kept() {
        let began = Instant::now();
        let at = |s: u32| began + Duration::from_secs(1) * s;
        let mut demand = Demand::default();
        (0..=8).for_each(|number| demand.taken(at(15 * number)));
        let expected = |now: u32, until: u32| demand.is_expected_by(at(now), at(until));
        assert!(!expected(121, 126), "just taken");
        assert!(expected(129, 134), "the next one comes at 135");
        assert!(expected(140, 145), "it is late");
        assert!(!expected(152, 157), "it does not come");
    }

    #[test]
    fn two_collectors_that_take_in_one_sweep_are_one() {
        let began = Instant::now();
        let mut demand = Demand::default();
        (0..30).for_each(|ms| demand.taken(began + MS * ms));
        assert_eq!(demand.taken.len(), 1);
    }

    #[test]
    fn a_source_that_rests_is_due_when_it_has_rested_and_not_before() {
        let began = Instant::now();
        let mut schedule = Schedule::new(began);
        schedule.add(0, began);
        schedule.due(began + TURN * 2, &Demand::default());
        schedule.rest(0, 1);
        schedule.rest(9, 1);
        assert_eq!(schedule.next(), Some(began + TURN * 4));
        assert_eq!(schedule.due(began + TURN * 3, &Demand::default()), [0_u64; 0]);
        assert_eq!(schedule.due(began + TURN * 4, &Demand::default()), [0]);
        assert_eq!(schedule.next(), Some(began + TURN * 5), "once");
    }

    #[test]
    fn a_source_that_is_gone_is_never_due() {
        let began = Instant::now();
        let mut schedule = Schedule::new(began);
        schedule.add(1, began);
        schedule.remove(1);
        assert_eq!(schedule.next(), None);
        assert!(schedule.due(began + TURN * 9, &Demand::default()).is_empty());
    }

    #[test]
    fn after_a_long_halt_each_source_is_read_once() {
        let began = Instant::now();
        let mut schedule = Schedule::new(began);
        (0..40).for_each(|id| schedule.add(id, began));
        assert_eq!(schedule.due(began, &Demand::default()).len(), 40);
        let later = began + Duration::from_secs(1000);
        assert_eq!(schedule.due(later, &Demand::default()).len(), 40);
        assert!(schedule.next().is_some_and(|next| next > later), "no turn is made up for");
    }
}
