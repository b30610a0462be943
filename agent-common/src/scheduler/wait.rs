//! Who held the CPU during a wait. Pure: the kernel programs bring the CPU's history, the tests one of their own.

use super::{HISTORY, Slice};
use crate::cgroup::Holder;

/// Finished slices walked back before random moments stand for the rest of a wait.
pub const WALKED: u32 = 8;
/// Equal parts of that rest, each of which is charged to whoever ran at one random moment of it; a power of two.
pub const STRATA: u64 = 4;

/// Slices of a history, as a distance.
#[allow(clippy::cast_possible_truncation, reason = "it is a small power of two")]
const SLICES: u32 = HISTORY as u32;

/// What a CPU does and did, and where a wait's parts are charged.
pub trait Timeline {
    /// Who holds the CPU at present.
    fn holder(&self) -> Holder;
    /// The finished slice that is so many before the newest.
    fn finished(&self, distance: u32) -> Slice;
    /// [`slice_at`] of this history.
    fn slice_at(&self, distance: u32, moment_ns: u64) -> u32;
    /// A random number.
    fn random(&self, stir: u64) -> u64;
    /// Charges a part of the wait to that holder. The parts follow each other, the last one first.
    fn charge(&self, holder: Holder, part_ns: u64);
}

/// Splits a wait from `from_ns` to `clock_ns` according to who held the CPU meanwhile, and gives how many finished slices
/// that took.
///
/// Who holds the CPU now and the last few before are charged exactly. An older rest is cut into equal parts, and one
/// random moment decides for each: sums stay exact, shares are right on average, and the cost is bounded.
#[inline(always)]
pub fn split(timeline: &impl Timeline, from_ns: u64, clock_ns: u64) -> u32 {
    let mut end_ns = clock_ns;
    let held_since_ns = timeline.finished(0).end_ns;
    if held_since_ns < end_ns {
        let start_ns = later(held_since_ns, from_ns);
        timeline.charge(timeline.holder(), end_ns.wrapping_sub(start_ns));
        end_ns = start_ns;
    }
    let mut distance = 0;
    while distance < WALKED {
        let slice = timeline.finished(distance);
        let start_ns = later(timeline.finished(distance + 1).end_ns, from_ns);
        if start_ns < end_ns {
            timeline.charge(slice.holder, end_ns.wrapping_sub(start_ns));
            end_ns = start_ns;
        }
        distance += 1;
        if end_ns <= from_ns {
            return distance;
        }
    }
    let equal_ns = end_ns.wrapping_sub(from_ns) / STRATA;
    let mut stratum = 0;
    while stratum < STRATA {
        // The last one takes what the division has left.
        let part_ns = if stratum + 1 == STRATA { end_ns.wrapping_sub(from_ns) } else { equal_ns };
        let start_ns = end_ns.wrapping_sub(part_ns);
        let moment_ns = start_ns + timeline.random(clock_ns) % (part_ns | 1);
        distance = timeline.slice_at(distance, moment_ns);
        // What is older than the history was nobody's that is known.
        let is_older = distance + 1 >= SLICES;
        let holder = if is_older { Holder::UNSEEN } else { timeline.finished(distance).holder };
        timeline.charge(holder, part_ns);
        end_ns = start_ns;
        stratum += 1;
    }
    distance
}

/// The finished slice of that moment, as its distance from the newest; the oldest one's if the moment is older.
/// `distance` is that of a slice which ended after the moment, `end_ns` tells when the slice of a distance ended.
#[inline(always)]
pub fn slice_at(distance: u32, moment_ns: u64, end_ns: impl Fn(u32) -> u64) -> u32 {
    let mut distance = distance;
    let mut step = SLICES / 2;
    while step > 0 {
        let further = distance.wrapping_add(step);
        if further < SLICES && end_ns(further) > moment_ns {
            distance = further;
        }
        step >>= 1;
    }
    distance
}

const fn later(one_ns: u64, other_ns: u64) -> u64 {
    if one_ns > other_ns { one_ns } else { other_ns }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use std::{cell::RefCell, collections::BTreeMap, vec::Vec};

    use proptest::prelude::*;

    use super::{HISTORY, SLICES, STRATA, Slice, Timeline, WALKED, slice_at, split};
    use crate::cgroup::Holder;

    /// Slices of these lengths, the newest first, up to a clock that is far from 0.
    struct Replay {
        holder: Holder,
        finished: Vec<Slice>,
        /// When the oldest known slice began.
        begins_ns: u64,
        seed: RefCell<u64>,
        charges: RefCell<Vec<(Holder, u64)>>,
    }

    const CLOCK_NS: u64 = 1 << 40;

    impl Replay {
        fn new(present_ns: u64, lengths: &[(u32, u64)], seed: u64) -> Self {
            let mut end_ns = CLOCK_NS - present_ns;
            let mut finished = Vec::new();
            for (slot, length_ns) in lengths {
                finished.push(Slice { end_ns, holder: Holder::new(*slot, 1) });
                end_ns -= length_ns;
            }
            // The slice before the first that is known.
            finished.push(Slice { end_ns, holder: Holder::UNSEEN });
            Self {
                holder: Holder::new(99, 1),
                finished,
                begins_ns: end_ns,
                seed: RefCell::new(seed | 1),
                charges: RefCell::default(),
            }
        }

        /// Who held the CPU, by the naive look through all slices.
        fn holder_at(&self, moment_ns: u64) -> Holder {
            let after = self.finished.iter().take_while(|slice| slice.end_ns > moment_ns).last();
            after.map_or(self.holder, |slice| slice.holder)
        }

        /// What each holder had of a stretch, nanosecond by nanosecond of slices' bounds.
        fn shares(&self, from_ns: u64, until_ns: u64) -> BTreeMap<u64, u64> {
            let mut bounds: Vec<u64> = self.finished.iter().map(|slice| slice.end_ns).collect();
            bounds.extend([from_ns, until_ns]);
            bounds.retain(|bound| (from_ns..=until_ns).contains(bound));
            bounds.sort_unstable();
            let mut shares = BTreeMap::new();
            for pair in bounds.windows(2) {
                if pair[0] < pair[1] {
                    *shares.entry(self.holder_at(pair[0]).0).or_insert(0) += pair[1] - pair[0];
                }
            }
            shares
        }

        fn charged(&self) -> BTreeMap<u64, u64> {
            let mut sums = BTreeMap::new();
            for (holder, part_ns) in self.charges.borrow().iter().filter(|(_, part_ns)| *part_ns != 0) {
                *sums.entry(holder.0).or_insert(0) += part_ns;
            }
            sums
        }
    }

    impl Timeline for Replay {
        fn holder(&self) -> Holder {
            self.holder
        }
        fn finished(&self, distance: u32) -> Slice {
            let none = Slice { end_ns: 0, holder: Holder::UNSEEN };
            self.finished.get(distance as usize).copied().unwrap_or(none)
        }
        fn slice_at(&self, distance: u32, moment_ns: u64) -> u32 {
            slice_at(distance, moment_ns, |distance| self.finished(distance).end_ns)
        }
        fn random(&self, stir: u64) -> u64 {
            let mut seed = self.seed.borrow_mut();
            *seed = seed.wrapping_add(stir).wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *seed >> 16
        }
        fn charge(&self, holder: Holder, part_ns: u64) {
            self.charges.borrow_mut().push((holder, part_ns));
        }
    }

    fn lengths(most: usize) -> impl Strategy<Value = Vec<(u32, u64)>> {
        prop::collection::vec((3_u32..9, 1_u64..10_000), 0..most)
    }

    proptest! {
        #[test]
        fn a_wait_over_few_slices_is_split_exactly(
            present_ns in 0_u64..5_000, lengths in lengths(WALKED as usize), waited_ns in 1_u64..80_000,
        ) {
            let replay = Replay::new(present_ns, &lengths, 1);
            split(&replay, CLOCK_NS - waited_ns, CLOCK_NS);
            prop_assert_eq!(replay.charged(), replay.shares(CLOCK_NS - waited_ns, CLOCK_NS));
        }

        #[test]
        fn the_parts_of_a_wait_add_up_to_it_and_are_few(
            present_ns in 0_u64..5_000, lengths in lengths(60), waited_ns in 1_u64..400_000, seed: u64,
        ) {
            let replay = Replay::new(present_ns, &lengths, seed);
            let distance = split(&replay, CLOCK_NS - waited_ns, CLOCK_NS);
            prop_assert!(distance < SLICES);
            prop_assert_eq!(replay.charged().values().sum::<u64>(), waited_ns);
            prop_assert!(replay.charges.borrow().len() <= 1 + WALKED as usize + STRATA as usize);
        }

        #[test]
        fn a_moment_is_found_as_by_looking_through_all_slices(lengths in lengths(HISTORY - 1), back_ns in 0_u64..6_000_000) {
            let replay = Replay::new(0, &lengths, 1);
            let moment_ns = CLOCK_NS - 1 - back_ns;
            let found = replay.finished(replay.slice_at(0, moment_ns)).holder;
            let expected = if moment_ns < replay.begins_ns { Holder::UNSEEN } else { replay.holder_at(moment_ns) };
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn shares_of_a_long_wait_are_right_on_average() {
        // Two holders take turns, one for three times as long.
        let lengths: Vec<(u32, u64)> =
            (0..200).map(|turn| if turn % 2 == 0 { (3, 3_000) } else { (4, 1_000) }).collect();
        let waited_ns = 300_000;
        let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
        let rounds = 4_000;
        let mut expected = BTreeMap::new();
        for round in 0..rounds {
            let replay = Replay::new(500, &lengths, round * 7_919);
            split(&replay, CLOCK_NS - waited_ns, CLOCK_NS);
            for (holder, ns) in replay.charged() {
                *sums.entry(holder).or_insert(0) += ns;
            }
            expected = replay.shares(CLOCK_NS - waited_ns, CLOCK_NS);
        }
        assert_eq!(sums.values().sum::<u64>(), rounds * waited_ns);
        for (holder, share_ns) in expected {
            let mean_ns = sums[&holder] / rounds;
            assert!(
                mean_ns.abs_diff(share_ns) < waited_ns / 100,
                "holder {holder:#x}: {mean_ns} ns, expected {share_ns}"
            );
        }
    }

    #[test]
    fn what_reaches_back_beyond_the_history_is_nobodys() {
        let lengths: Vec<(u32, u64)> = (0..HISTORY + 50).map(|turn| (3 + turn as u32 % 2, 10)).collect();
        let replay = Replay::new(0, &lengths, 3);
        let waited_ns = 100 * HISTORY as u64;
        split(&replay, CLOCK_NS - waited_ns, CLOCK_NS);
        let unseen_ns = replay.charged().get(&Holder::UNSEEN.0).copied().unwrap_or(0);
        assert!(unseen_ns >= waited_ns / 2, "{unseen_ns} of {waited_ns} ns");
    }
}
