//! Who delayed a slot on one CPU: a few tracked culprits, among whom the heavy ones stay. Pure: the kernel programs bring
//! the entry, and the daemon takes from two looks at it what each present culprit has got between them.
//!
//! A culprit that takes another one's place starts from 0. So what an entry tells a culprit is its own; what was
//! tracked for a culprit that has lost its place between two looks is not told, and stays in the cause's total: nothing is
//! counted twice, and no time gets a wrong name.

use bytemuck::{Pod, Zeroable};

use crate::cgroup::Holder;

/// Culprits that a CPU tracks for one waiting slot: as many as fit a cache line.
pub const TRACKED: usize = 6;
/// Bits of a culprit's time: 78 hours of delay on one CPU. After that it starts from 0, as if it had lost its place and
/// won it again.
const HELD_BITS: u32 = 48;
/// Bits of the slot in a culprit's word.
const SLOT_BITS: u32 = 16;

/// One CPU's split of one slot's wait by who ran meanwhile, for causes neighbor and system: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Culprits {
    /// Words made by [`culprit`]; 0 while the place is free.
    pub culprit: [u32; TRACKED],
    /// For how long each has held the CPU since it took the place, in nanoseconds: the low 32 bits.
    pub held_low: [u32; TRACKED],
    /// The high 16 bits.
    pub held_high: [u16; TRACKED],
    /// Padding.
    pub reserved: [u16; 2],
}

impl Culprits {
    /// An entry without any.
    pub const EMPTY: Self =
        Self { culprit: [0; TRACKED], held_low: [0; TRACKED], held_high: [0; TRACKED], reserved: [0; 2] };

    /// Each place: its culprit's word, and its nanoseconds.
    pub fn places(&self) -> impl Iterator<Item = (u32, u64)> {
        let held = self.held_low.iter().zip(&self.held_high).map(|(low, high)| held_ns(*low, *high));
        self.culprit.iter().copied().zip(held)
    }
}

/// A time from its two parts.
#[inline(always)]
#[must_use]
pub const fn held_ns(low: u32, high: u16) -> u64 {
    (high as u64) << u32::BITS | low as u64
}

/// A holder of a real slot as a word that is never 0: the slot, and the low 16 bits of its generation. The word
/// would mean another holder after 65,536 of the slot's, of whom each has it for a second at least.
#[inline(always)]
#[must_use]
pub const fn culprit(holder: Holder) -> u32 {
    (holder.generation() << SLOT_BITS | holder.slot()).wrapping_add(1)
}

/// The slot of a word made by [`culprit`]; none for a free place.
#[must_use]
pub const fn culprit_slot(word: u32) -> Option<u32> {
    if word == 0 { None } else { Some((word - 1) & ((1 << SLOT_BITS) - 1)) }
}

/// The places of an entry.
pub trait Places {
    /// The word of the culprit that has the place.
    fn culprit(&self, place: usize) -> u32;
    /// Gives the place to a culprit.
    fn set_culprit(&self, place: usize, culprit: u32);
    /// How long the culprit has held the CPU.
    fn held_ns(&self, place: usize) -> u64;
    /// Sets that, without what is above its 48 bits.
    fn set_held_ns(&self, place: usize, held_ns: u64);
}

/// Adds to a culprit that has a place; gives whether it has one.
#[inline(always)]
pub fn add(places: &impl Places, culprit: u32, part_ns: u64) -> bool {
    let mut place = 0;
    while place < TRACKED {
        if places.culprit(place) == culprit {
            places.set_held_ns(place, places.held_ns(place).wrapping_add(part_ns));
            return true;
        }
        place += 1;
    }
    false
}

/// Lets a culprit without a place take a free one, or the lightest's; gives whether it has one.
///
/// When all places are taken, a newcomer gets the lightest's with the probability of its share in what the two weigh
/// together: heavy culprits stay, and one that becomes heavy gets in.
#[inline(always)]
pub fn compete(places: &impl Places, culprit: u32, part_ns: u64, random: impl FnOnce() -> u64) -> bool {
    let mut lightest = 0;
    let mut weight_ns = u64::MAX;
    let mut place = 0;
    while place < TRACKED {
        if places.culprit(place) == 0 {
            places.set_culprit(place, culprit);
            places.set_held_ns(place, part_ns);
            return true;
        }
        let held_ns = places.held_ns(place);
        if held_ns < weight_ns {
            weight_ns = held_ns;
            lightest = place;
        }
        place += 1;
    }
    if random() % (weight_ns.wrapping_add(part_ns) | 1) >= part_ns {
        return false;
    }
    places.set_culprit(lightest, culprit);
    places.set_held_ns(lightest, part_ns);
    true
}

/// Each present culprit's word and the nanoseconds that it has got since an earlier look at the entry.
pub fn since<'entry>(
    earlier: &'entry Culprits,
    present: &'entry Culprits,
) -> impl Iterator<Item = (u32, u64)> + use<'entry> {
    present.places().zip(earlier.places()).filter_map(|((culprit, held_ns), (seen, seen_ns))| {
        let has_started_anew = culprit != seen || held_ns < seen_ns;
        let got_ns = if has_started_anew { held_ns } else { held_ns - seen_ns };
        (culprit != 0 && got_ns != 0).then_some((culprit, got_ns))
    })
}

const _: () = assert!(size_of::<Culprits>() == 64);
const _: () = assert!(HELD_BITS == u32::BITS + u16::BITS);

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use std::{cell::Cell, collections::BTreeMap, vec::Vec};

    use proptest::prelude::*;

    use super::{Culprits, HELD_BITS, Places, TRACKED, add, compete, culprit, culprit_slot, held_ns, since};
    use crate::cgroup::Holder;

    impl Places for Cell<Culprits> {
        fn culprit(&self, place: usize) -> u32 {
            self.get().culprit[place]
        }
        fn set_culprit(&self, place: usize, culprit: u32) {
            self.update(|mut entry| {
                entry.culprit[place] = culprit;
                entry
            });
        }
        fn held_ns(&self, place: usize) -> u64 {
            let entry = self.get();
            held_ns(entry.held_low[place], entry.held_high[place])
        }
        fn set_held_ns(&self, place: usize, held_ns: u64) {
            self.update(|mut entry| {
                (entry.held_low[place], entry.held_high[place]) = (held_ns as u32, (held_ns >> 32) as u16);
                entry
            });
        }
    }

    fn charge(entry: &Cell<Culprits>, word: u32, part_ns: u64, random: u64) {
        if !add(entry, word, part_ns) {
            compete(entry, word, part_ns, || random);
        }
    }

    /// Charges these, looking at the entry after each one that says so; gives what was told of each culprit.
    fn told(charges: &[(u32, u64, u64, bool)]) -> BTreeMap<u32, u64> {
        let entry = Cell::new(Culprits::EMPTY);
        let (mut seen, mut told) = (Culprits::EMPTY, BTreeMap::new());
        let last = (0, 0, 0, true);
        for (word, part_ns, random, is_look) in charges.iter().chain([&last]) {
            if *word != 0 {
                charge(&entry, *word, *part_ns, *random);
            }
            if *is_look {
                let found = entry.get();
                for (culprit, ns) in since(&seen, &found) {
                    *told.entry(culprit).or_insert(0) += ns;
                }
                seen = found;
            }
        }
        told
    }

    fn sums(charges: &[(u32, u64, u64, bool)]) -> BTreeMap<u32, u64> {
        let mut sums = BTreeMap::new();
        for (word, part_ns, ..) in charges.iter().filter(|(_, part_ns, ..)| *part_ns != 0) {
            *sums.entry(*word).or_insert(0) += part_ns;
        }
        sums
    }

    fn charges(culprits: u32) -> impl Strategy<Value = Vec<(u32, u64, u64, bool)>> {
        prop::collection::vec((1..=culprits, 0_u64..10_000_000_000, any::<u64>(), any::<bool>()), 0..300)
    }

    proptest! {
        #[test]
        fn as_many_culprits_as_are_tracked_are_told_exactly(charges in charges(TRACKED as u32)) {
            prop_assert_eq!(told(&charges), sums(&charges));
        }

        #[test]
        fn nothing_is_told_twice_or_of_somebody_else(charges in charges(40)) {
            let sums = sums(&charges);
            for (word, ns) in told(&charges) {
                prop_assert!(ns <= sums.get(&word).copied().unwrap_or(0), "culprit {}: {} ns told", word, ns);
            }
        }

        #[test]
        fn slot_and_generation_tell_a_culprit(slot in 0_u32..16_384, generation in 0_u32..0x1_0000) {
            let word = culprit(Holder::new(slot, generation));
            prop_assert_eq!(culprit_slot(word), Some(slot));
            prop_assert_ne!(word, culprit(Holder::new(slot, generation ^ 1)));
        }
    }

    #[test]
    fn a_free_place_is_nobodys() {
        assert_eq!(culprit_slot(0), None);
    }

    #[test]
    fn heavy_culprits_keep_their_places_among_many_light_ones() {
        // One after the other: two that take half of the time together, and 100 that share the rest.
        let (mut told, entry, mut random) = (BTreeMap::new(), Cell::new(Culprits::EMPTY), 1_u64);
        let mut seen = Culprits::EMPTY;
        for round in 0..20_000 {
            let word = match round % 4 {
                0 => 1,
                1 => 2,
                _ => 3 + (round * 7) % 100,
            };
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            charge(&entry, word, 100, random >> 16);
            if round % 1_000 == 999 {
                let found = entry.get();
                for (culprit, ns) in since(&seen, &found) {
                    *told.entry(culprit).or_insert(0) += ns;
                }
                seen = found;
            }
        }
        for heavy in [1, 2] {
            assert!(told[&heavy] > 450_000, "culprit {heavy}: {} of 500,000 ns", told[&heavy]);
        }
    }

    #[test]
    fn a_time_that_has_run_over_starts_from_0() {
        let entry = Cell::new(Culprits::EMPTY);
        charge(&entry, 7, (1 << HELD_BITS) - 5, 0);
        let earlier = entry.get();
        charge(&entry, 7, 15, 0);
        assert_eq!(since(&earlier, &entry.get()).collect::<Vec<_>>(), [(7, 10)]);
    }
}
