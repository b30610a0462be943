//! How often an unknown container is looked for. Pure.
//!
//! Each gets a few tries at growing distances and is then given up, so that one that nobody can name, such as a
//! sandbox without annotations, costs nothing for ever.

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
    seen: HashMap<Unknown, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    since: Instant,
    tried: usize,
}

impl Pacer {
    pub(super) fn new(tries: &'static [Duration]) -> Self {
        Self { tries, seen: HashMap::new() }
    }

    /// These are wanted.
    pub(super) fn want(&mut self, unknown: impl IntoIterator<Item = Unknown>, now: Instant) {
        for one in unknown {
            self.seen.entry(one).or_insert(Seen { since: now, tried: 0 });
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

    /// When the next try is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.seen.values().filter_map(|seen| Some(seen.since + *self.tries.get(seen.tried)?)).min()
    }

    /// What is due by now; each counts as tried.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Unknown> {
        let tries = self.tries;
        self.seen
            .iter_mut()
            .filter(|(_, seen)| tries.get(seen.tried).is_some_and(|after| seen.since + *after <= now))
            .map(|(one, seen)| {
                seen.tried += 1;
                one.clone()
            })
            .collect()
    }

    /// The try came to nothing for a reason of its own.
    pub(super) fn give_back(&mut self, unknown: &[Unknown]) {
        for one in unknown {
            if let Some(seen) = self.seen.get_mut(one) {
                seen.tried = seen.tried.saturating_sub(1);
            }
        }
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
            if !pacer.due(now).is_empty() {
                tries.push(second);
            }
        }
        assert_eq!(tries, [0, 1, 10]);
        assert_eq!(pacer.next(), None);
    }

    #[test]
    fn what_is_known_is_not_looked_for_again() {
        let (mut pacer, start) = (Pacer::new(TRIES), Instant::now());
        pacer.want([unknown(1), unknown(2)], start);
        assert_eq!(pacer.due(start).len(), 2);
        pacer.keep(|one| *one == unknown(2));
        assert_eq!(pacer.next(), Some(start + TRIES[1]));
        assert_eq!(pacer.due(start + TRIES[1]), [unknown(2)]);
    }

    #[test]
    fn a_try_that_could_not_be_made_does_not_count() {
        let (mut pacer, start) = (Pacer::new(TRIES), Instant::now());
        pacer.want([unknown(1)], start);
        for _ in 0..5 {
            let due = pacer.due(start);
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
