//! How often an unknown container is looked for. Pure.
//!
//! Each gets a few tries at growing distances. After them it is looked for at equal ones as long as somebody asks for it and
//! there is hope, so that neither one that nobody can name, such as a sandbox without annotations, nor one that is long gone
//! costs anything for ever: for one that nobody asks for any more, nobody wakes either.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::table::Unknown;

/// Most containers that are remembered.
const REMEMBERED: usize = 16_384;

/// Unknown containers and the tries that each has had.
#[derive(Debug)]
pub(super) struct Pacer {
    /// When each try is due, counted from the first mention.
    tries: &'static [Duration],
    /// The distance of all tries after those; none if there are no more.
    again: Option<Duration>,
    seen: HashMap<Unknown, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    since: Instant,
    tried: usize,
    /// How many tries have come due since somebody asked for it.
    unasked: u32,
}

impl Pacer {
    pub(super) fn new(tries: &'static [Duration]) -> Self {
        Self { tries, again: None, seen: HashMap::new() }
    }

    /// Tries go on at this distance while there is hope.
    pub(super) fn again_every(self, again: Duration) -> Self {
        Self { again: Some(again), ..self }
    }

    /// When the next try is due after so many, counted from the first mention.
    fn after(&self, tried: usize) -> Option<Duration> {
        if let Some(after) = self.tries.get(tried) {
            return Some(*after);
        }
        let more = u32::try_from(tried - self.tries.len()).unwrap_or(u32::MAX).saturating_add(1);
        Some(*self.tries.last()? + self.again?.saturating_mul(more))
    }

    /// These are wanted.
    pub(super) fn want(&mut self, unknown: impl IntoIterator<Item = Unknown>, now: Instant) {
        for one in unknown {
            self.seen.entry(one).or_insert(Seen { since: now, tried: 0, unasked: 0 }).unasked = 0;
        }
        if self.seen.len() > REMEMBERED {
            let mut oldest: Vec<(Instant, Unknown)> =
                self.seen.iter().map(|(one, seen)| (seen.since, one.clone())).collect();
            oldest.sort_unstable_by_key(|(since, _)| *since);
            for (_, one) in oldest.into_iter().take(REMEMBERED / 4) {
                self.seen.remove(&one);
            }
        }
    }

    /// When the next try is due, of those that somebody may still ask for.
    pub(super) fn next(&self) -> Option<Instant> {
        let is_asked_for = |seen: &&Seen| seen.tried < self.tries.len() || seen.unasked < 2;
        self.seen.values().filter(is_asked_for).filter_map(|seen| Some(seen.since + self.after(seen.tried)?)).min()
    }

    /// What is due by now; each counts as tried. After its first tries that is only who is still wanted and `may_come`.
    pub(super) fn due(&mut self, now: Instant, may_come: impl Fn(&Unknown) -> bool) -> Vec<Unknown> {
        let mut seen = std::mem::take(&mut self.seen);
        let mut due = Vec::new();
        for (one, seen) in &mut seen {
            let is_due = |tried| self.after(tried).is_some_and(|after| seen.since + after <= now);
            if !is_due(seen.tried) {
                continue;
            }
            let is_early = seen.tried < self.tries.len();
            // One that was late, or had no hope for a while, makes up for no try.
            while !is_early && is_due(seen.tried + 1) {
                seen.tried += 1;
            }
            seen.tried += 1;
            let is_wanted = seen.unasked == 0;
            seen.unasked = seen.unasked.saturating_add(1);
            if is_early || (is_wanted && may_come(one)) {
                due.push(one.clone());
            }
        }
        self.seen = seen;
        due
    }

    /// The try came to nothing for a reason of its own.
    pub(super) fn give_back(&mut self, unknown: &[Unknown]) {
        for one in unknown {
            if let Some(seen) = self.seen.get_mut(one) {
                seen.tried = seen.tried.saturating_sub(1);
                seen.unasked = 0;
            }
        }
    }

    /// Drops what has had all its tries, so that the next mention of it is the first.
    pub(super) fn forget_tried(&mut self) {
        let mut seen = std::mem::take(&mut self.seen);
        seen.retain(|_, seen| self.after(seen.tried).is_some());
        self.seen = seen;
    }

    /// Drops what is known by now.
    pub(super) fn keep(&mut self, lacks: impl Fn(&Unknown) -> bool) {
        self.seen.retain(|one, _| lacks(one));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::time::{Duration, Instant};

    use super::{Pacer, REMEMBERED, Unknown};

    const TRIES: &[Duration] = &[Duration::ZERO, Duration::from_secs(1), Duration::from_secs(10)];

    fn unknown(id: usize) -> Unknown {
        Unknown { pod_uid: "u".into(), container_id: id.to_string().into() }
    }

    #[test]
    fn what_nobody_can_name_is_tried_a_few_times_only() {
        let (mut pacer, start) = (Pacer::new(TRIES), Instant::now());
        let mut tries = Vec::new();
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            pacer.want([unknown(1)], now);
            if !pacer.due(now, |_| true).is_empty() {
                tries.push(second);
            }
        }
        assert_eq!(tries, [0, 1, 10]);
        assert_eq!(pacer.next(), None);
    }

    #[test]
    fn a_name_that_comes_late_is_looked_for_while_there_is_hope() {
        let again = Duration::from_secs(30);
        let (mut pacer, start) = (Pacer::new(TRIES).again_every(again), Instant::now());
        pacer.want([unknown(1), unknown(2)], start);
        let mut tries = Vec::new();
        for second in 0..200 {
            let now = start + Duration::from_secs(second);
            pacer.want([unknown(1), unknown(2)], now);
            // The second one is in a pod whose ids are all listed.
            let due = pacer.due(now, |one| *one == unknown(1));
            tries.extend(due.into_iter().filter(|one| second > 10 || *one == unknown(1)).map(|one| (second, one)));
            assert!(pacer.next().is_some_and(|next| next > now), "it sleeps until then");
        }
        let expected = [0, 1, 10, 40, 70, 100, 130, 160, 190];
        assert_eq!(tries, expected.map(|second| (second, unknown(1))));
    }

    #[test]
    fn a_name_that_nobody_asks_for_any_more_is_not_looked_for_whatever_hope_there_is() {
        let (mut pacer, start) = (Pacer::new(TRIES).again_every(Duration::from_secs(30)), Instant::now());
        let mut tries = Vec::new();
        for second in 0..300 {
            let now = start + Duration::from_secs(second);
            if second < 60 || second == 200 {
                pacer.want([unknown(1)], now);
            }
            if !pacer.due(now, |_| true).is_empty() {
                tries.push(second);
            }
        }
        assert_eq!(tries, [0, 1, 10, 40, 70, 220]);
    }

    #[test]
    fn nobody_wakes_for_what_nobody_asks_for_any_more() {
        let (mut pacer, start) = (Pacer::new(TRIES).again_every(Duration::from_secs(30)), Instant::now());
        let mut wakes = 0;
        for number in 0..100 {
            // Each lives for a moment, and nobody ever names it.
            let mut now = start + Duration::from_mins(1) * number;
            pacer.want([unknown(number as usize)], now);
            while let Some(next) = pacer.next().filter(|next| *next < start + Duration::from_mins(1) * (number + 1)) {
                now = next.max(now);
                pacer.due(now, |_| true);
                wakes += 1;
            }
        }
        assert_eq!(wakes, 3 * 100, "the tries of each and nothing else");
        assert_eq!(pacer.next(), None);
    }

    #[test]
    fn what_had_all_its_tries_can_be_forgotten() {
        let (mut pacer, start) = (Pacer::new(TRIES), Instant::now());
        pacer.want([unknown(1)], start);
        for second in [0, 1, 10] {
            pacer.forget_tried();
            assert_eq!(pacer.due(start + Duration::from_secs(second), |_| true), [unknown(1)]);
        }
        pacer.forget_tried();
        assert!(pacer.seen.is_empty());
    }

    #[test]
    fn what_is_known_is_not_looked_for_again() {
        let (mut pacer, start) = (Pacer::new(TRIES), Instant::now());
        pacer.want([unknown(1), unknown(2)], start);
        assert_eq!(pacer.due(start, |_| true).len(), 2);
        pacer.keep(|one| *one == unknown(2));
        assert_eq!(pacer.next(), Some(start + TRIES[1]));
        assert_eq!(pacer.due(start + TRIES[1], |_| true), [unknown(2)]);
    }

    #[test]
    fn a_try_that_could_not_be_made_does_not_count() {
        let (mut pacer, start) = (Pacer::new(TRIES), Instant::now());
        pacer.want([unknown(1)], start);
        for _ in 0..5 {
            let due = pacer.due(start, |_| true);
            assert_eq!(due.len(), 1);
            pacer.give_back(&due);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (mut pacer, start) = (Pacer::new(TRIES), Instant::now());
        pacer.want((0..3 * REMEMBERED).map(unknown), start);
        for more in 0..10 {
            pacer.want([unknown(10 * REMEMBERED + more)], start);
        }
        assert!(pacer.seen.len() <= 3 * REMEMBERED);
    }
}
