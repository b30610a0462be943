//! When the next sweep is to be expected, so that walks are made just before it. Pure, with the caller's clock.
//!
//! Exporters ask at intervals of their own, so that the gaps between sweeps come back in turn: one gap for a single exporter, two
//! in turn for a scrape and a push. Where they do not, no sweep is expected, and each one walks by itself.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Walks begin so long before the sweep.
pub(super) const AHEAD: Duration = Duration::from_millis(100);
/// By so much two gaps may differ and be the same one: less than that, or walks would come after their sweep.
const JITTER: Duration = Duration::from_millis(50);
/// Gaps that come in turn, at most.
const IN_TURN: usize = 4;
/// Whoever asks more often has most sweeps without a walk.
const SHORTEST: Duration = Duration::from_secs(1);

/// The latest sweeps, and for which one walks were made.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The last one at the end.
    sweeps: VecDeque<Instant>,
    /// When the last walks ahead of a sweep began.
    walked: Option<Instant>,
}

impl Ahead {
    /// A sweep begins. Whether walks were made for it.
    pub(super) fn sweep(&mut self, now: Instant) -> bool {
        if self.sweeps.len() > 2 * IN_TURN {
            self.sweeps.pop_front();
        }
        self.sweeps.push_back(now);
        self.walked.take().is_some_and(|at| now.saturating_duration_since(at) <= AHEAD + JITTER)
    }

    /// All walks that take place are made now for the sweep that is expected.
    pub(super) fn walk(&mut self, now: Instant) {
        self.walked = Some(now);
    }

    /// When walks are to be made for the next sweep, if it can be told when that comes.
    pub(super) fn next(&self) -> Option<Instant> {
        // The last one first.
        let sweeps: Vec<Instant> = self.sweeps.iter().rev().copied().collect();
        let gap = |at: usize| Some(sweeps.get(at)?.saturating_duration_since(*sweeps.get(at + 1)?));
        let comes_back = |turn: usize| {
            (0..turn).all(|at| gap(at).zip(gap(at + turn)).is_some_and(|(one, other)| one.abs_diff(other) <= JITTER))
        };
        let turn = (1..=IN_TURN).find(|turn| comes_back(*turn))?;
        // Over two turns, which a late sweep bends less than one.
        let (last, as_next, first) = (sweeps.first()?, sweeps.get(turn - 1)?, sweeps.get(2 * turn)?);
        let next = *as_next + last.saturating_duration_since(*first) / 2;
        if next.saturating_duration_since(*last) >= SHORTEST { next.checked_sub(AHEAD) } else { None }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How many milliseconds before each sweep walks are made; none where it was not expected.
    fn follow(sweeps: &[u32]) -> Vec<Option<u32>> {
        let began = Instant::now();
        let mut ahead = Ahead::default();
        let mut walk = None;
        let mut told = Vec::new();
        for ms in sweeps {
            let now = began + MS * *ms;
            let made = walk.filter(|at| *at <= now);
            if let Some(at) = made {
                ahead.walk(at);
            }
            let before = made.map(|at| u32::try_from(now.duration_since(at).as_millis()).unwrap());
            assert_eq!(ahead.sweep(now), before.is_some_and(|ms| ms <= 150), "at {ms}");
            told.push(before);
            walk = ahead.next();
        }
        told
    }

    #[test]
    fn walks_come_before_sweeps_that_come_regularly() {
        let expected = [None, None, None, Some(100), Some(100)];
        assert_eq!(follow(&[0, 15_000, 30_000, 45_000, 60_000]), expected, "one exporter");
        let two: Vec<u32> = (0..5).flat_map(|turn| [turn * 15_000, turn * 15_000 + 4_000]).collect();
        assert_eq!(follow(&two).into_iter().skip(5).collect::<Vec<_>>(), [Some(100); 5], "two that take turns");
        let three: Vec<u32> = (0..4).flat_map(|turn| [0, 2_000, 9_000].map(|at| turn * 30_000 + at)).collect();
        assert_eq!(follow(&three).into_iter().skip(7).collect::<Vec<_>>(), [Some(100); 5], "three");
    }

    #[test]
    fn a_sweep_may_come_a_little_early_or_late() {
        assert_eq!(follow(&[0, 15_000, 30_020, 45_010, 60_040]).split_off(3), [Some(80), Some(125)]);
        // Walks of too long ago are none for this sweep.
        assert_eq!(follow(&[0, 15_000, 30_000, 45_200]).split_off(3), [Some(300)]);
        // It came before its walks.
        assert_eq!(follow(&[0, 15_000, 30_000, 44_000]).split_off(3), [None]);
    }

    #[test]
    fn nothing_is_expected_of_those_who_ask_at_any_time_or_all_the_time() {
        for sweeps in
            [&[0, 1_000, 5_000, 7_500, 20_000, 26_000, 40_000][..], &[0, 500, 1_000, 1_500], &[0, 15_000], &[]]
        {
            assert!(follow(sweeps).iter().all(Option::is_none), "{sweeps:?}");
        }
    }

    #[test]
    fn walks_are_for_one_sweep() {
        let began = Instant::now();
        let mut ahead = Ahead::default();
        ahead.walk(began);
        assert!(ahead.sweep(began + AHEAD));
        assert!(!ahead.sweep(began + AHEAD + MS));
    }
}
