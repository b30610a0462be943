//! Who delayed a slot on one CPU: a few tracked culprits, among whom the heavy ones stay. Pure: the kernel programs bring
//! the entry, and the daemon takes from two looks at it what each present culprit has got between them.
//!
//! What a culprit holds is in no total by cause until it loses its place: so a wait for a known culprit is one addition, and
//! its cause is found once, when the culprit takes the place. The daemon adds what is held to the totals ([`Culprits::waits`]).
//!
//! A culprit that takes another one's place starts from 0. So what an entry tells a culprit is its own; what was
//! tracked for a culprit that has lost its place between two looks is not told, and stays in the cause's total: nothing is
//! counted twice, and no time gets a wrong name.

use bytemuck::{Pod, Zeroable};

use super::Cause;
use crate::cgroup::Holder;

/// Culprits that a CPU tracks for one waiting slot: as many as fit a cache line.
pub const TRACKED: usize = 6;
/// Bits of a culprit's time: 78 hours of delay on one CPU. After that it starts from 0, as if it had lost its place and
/// won it again.
const HELD_BITS: u32 = u32::BITS + u16::BITS;
/// Bits of the slot in a culprit's word.
const SLOT_BITS: u32 = 16;

/// One CPU's split of one slot's wait by who ran meanwhile, for causes neighbor and system: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Culprits {
    /// Words made by [`culprit`]; 0 while the place is free.
    pub culprit: [u32; TRACKED],
    /// For how long each has held the CPU since it took the place, in nanoseconds: the low 32 bits.
    pub held_low: [u32; TRACKED],
    /// The high 16 bits.
    pub held_high: [u16; TRACKED],
    /// By the bit of its place whose culprit is of the node, cause system. The others are neighbors.
    pub of_node: u32,
}

impl Culprits {
    /// An entry without any.
    pub const EMPTY: Self = Self { culprit: [0; TRACKED], held_low: [0; TRACKED], held_high: [0; TRACKED], of_node: 0 };

    /// Each place: its culprit's word, and its nanoseconds.
    pub fn places(&self) -> impl Iterator<Item = (u32, u64)> {
        let held = self.held_low.iter().zip(&self.held_high).map(|(low, high)| held_ns(*low, *high));
        self.culprit.iter().copied().zip(held)
    }

    /// The waits for those that have a place: cause and nanoseconds.
    pub fn waits(&self) -> impl Iterator<Item = (Cause, u64)> {
        self.places().enumerate().map(|(place, (_, held_ns))| (cause(self.of_node, place), held_ns))
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

/// The cause that the culprit of a place is.
const fn cause(of_node: u32, place: usize) -> Cause {
    if of_node >> place & 1 != 0 { Cause::System } else { Cause::Neighbor }
}

/// The places of an entry, and the account that it belongs to.
pub trait Places {
    /// The word of the culprit that has the place.
    fn culprit(&self, place: usize) -> u32;
    /// Gives the place to a culprit.
    fn set_culprit(&self, place: usize, culprit: u32);
    /// How long the culprit has held the CPU: the low bits.
    fn held_low(&self, place: usize) -> u32;
    /// Sets these.
    fn set_held_low(&self, place: usize, low: u32);
    /// The high bits.
    fn held_high(&self, place: usize) -> u16;
    /// Sets these.
    fn set_held_high(&self, place: usize, high: u16);
    /// Whose culprits are of the node.
    fn of_node(&self) -> u32;
    /// Sets that.
    fn set_of_node(&self, of_node: u32);
    /// [`carry`], which is needed once in 4 s that a culprit has got.
    fn carry(&self, place: usize, more: u32);
    /// Adds to the account's total of that cause.
    fn book(&self, cause: Cause, ns: u64);
}

/// Adds to a culprit that has a place; gives whether it has one.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "what the low bits have no room for is carried")]
pub fn add(places: &impl Places, culprit: u32, part_ns: u64) -> bool {
    let mut place = 0;
    while place < TRACKED {
        if places.culprit(place) == culprit {
            let low = u64::from(places.held_low(place)).wrapping_add(part_ns);
            places.set_held_low(place, low as u32);
            let more = (low >> u32::BITS) as u32;
            if more != 0 {
                places.carry(place, more);
            }
            return true;
        }
        place += 1;
    }
    false
}

/// Adds to the high bits of what a culprit holds. What they have no room for is the account's.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "what the high bits have no room for is booked")]
pub fn carry(places: &impl Places, place: usize, more: u32) {
    let high = u64::from(places.held_high(place)) + u64::from(more);
    places.set_held_high(place, high as u16);
    let over_ns = high >> u16::BITS << HELD_BITS;
    if over_ns != 0 {
        places.book(cause(places.of_node(), place), over_ns);
    }
}

/// Lets a culprit without a place take a free one, or the lightest's, whose time becomes the account's; gives whether it has one.
/// Without one its time is the account's.
///
/// When all places are taken, a newcomer gets the lightest's with the probability of its share in what the two weigh
/// together: heavy culprits stay, and one that becomes heavy gets in.
#[inline(always)]
pub fn compete(places: &impl Places, culprit: u32, cause: Cause, part_ns: u64, random: impl FnOnce() -> u64) -> bool {
    let held_ns = |place| held_ns(places.held_low(place), places.held_high(place));
    let mut lightest = 0;
    let mut weight_ns = u64::MAX;
    let mut place = 0;
    while place < TRACKED {
        // A free one weighs nothing, and no other one does.
        let this_ns = if places.culprit(place) == 0 { 0 } else { held_ns(place) | 1 };
        if this_ns < weight_ns {
            weight_ns = this_ns;
            lightest = place;
        }
        place += 1;
    }
    if weight_ns != 0 {
        if random() % (weight_ns.wrapping_add(part_ns) | 1) >= part_ns {
            places.book(cause, part_ns);
            return false;
        }
        places.book(self::cause(places.of_node(), lightest), held_ns(lightest));
    }
    take(places, lightest, culprit, cause, part_ns);
    true
}

/// Gives a place to a culprit, which begins with what it has got now.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "what the low bits have no room for is carried")]
fn take(places: &impl Places, place: usize, culprit: u32, cause: Cause, part_ns: u64) {
    let bit = 1 << place;
    let others = places.of_node() & !bit;
    places.set_of_node(if matches!(cause, Cause::System) { others | bit } else { others });
    places.set_culprit(place, culprit);
    places.set_held_low(place, part_ns as u32);
    places.set_held_high(place, 0);
    let more = (part_ns >> u32::BITS) as u32;
    if more != 0 {
        carry(places, place, more);
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use std::{cell::Cell, collections::BTreeMap, vec::Vec};

    use proptest::prelude::*;

    use super::{Cause, Culprits, HELD_BITS, Places, TRACKED, add, carry, compete, culprit, culprit_slot, since};
    use crate::cgroup::Holder;

    /// An entry, and its account's totals of causes neighbor and system.
    #[derive(Default)]
    struct Replay {
        entry: Cell<Culprits>,
        booked: Cell<[u64; 2]>,
    }

    /// The place in `booked`.
    fn of(cause: Cause) -> usize {
        assert!(matches!(cause, Cause::Neighbor | Cause::System), "{cause:?} is no culprit's");
        usize::from(cause == Cause::System)
    }

    /// Every third word is the node's.
    fn cause_of(word: u32) -> Cause {
        if word.is_multiple_of(3) { Cause::System } else { Cause::Neighbor }
    }

    impl Replay {
        fn update(&self, change: impl FnOnce(&mut Culprits)) {
            let mut entry = self.entry.get();
            change(&mut entry);
            self.entry.set(entry);
        }

        fn charge(&self, word: u32, part_ns: u64, random: u64) {
            if !add(self, word, part_ns) {
                compete(self, word, cause_of(word), part_ns, || random);
            }
        }

        /// What the daemon tells of the two causes.
        fn waits(&self) -> [u64; 2] {
            let mut waits = self.booked.get();
            for (cause, ns) in self.entry.get().waits() {
                waits[of(cause)] += ns;
            }
            waits
        }
    }

    impl Places for Replay {
        fn culprit(&self, place: usize) -> u32 {
            self.entry.get().culprit[place]
        }
        fn set_culprit(&self, place: usize, culprit: u32) {
            self.update(|entry| entry.culprit[place] = culprit);
        }
        fn held_low(&self, place: usize) -> u32 {
            self.entry.get().held_low[place]
        }
        fn set_held_low(&self, place: usize, low: u32) {
            self.update(|entry| entry.held_low[place] = low);
        }
        fn held_high(&self, place: usize) -> u16 {
            self.entry.get().held_high[place]
        }
        fn set_held_high(&self, place: usize, high: u16) {
            self.update(|entry| entry.held_high[place] = high);
        }
        fn of_node(&self) -> u32 {
            self.entry.get().of_node
        }
        fn set_of_node(&self, of_node: u32) {
            self.update(|entry| entry.of_node = of_node);
        }
        fn carry(&self, place: usize, more: u32) {
            carry(self, place, more);
        }
        fn book(&self, cause: Cause, ns: u64) {
            self.booked.update(|mut booked| {
                booked[of(cause)] += ns;
                booked
            });
        }
    }

    /// Charges these, looking at the entry after each one that says so; gives what was told of each culprit.
    fn told(charges: &[(u32, u64, u64, bool)]) -> BTreeMap<u32, u64> {
        let replay = Replay::default();
        let (mut seen, mut told) = (Culprits::EMPTY, BTreeMap::new());
        let last = (0, 0, 0, true);
        for (word, part_ns, random, is_look) in charges.iter().chain([&last]) {
            if *word != 0 {
                replay.charge(*word, *part_ns, *random);
            }
            if *is_look {
                let found = replay.entry.get();
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
        fn waits_by_cause_are_whole_whoever_has_a_place(charges in charges(40)) {
            let (replay, mut waits) = (Replay::default(), [0; 2]);
            for (word, part_ns, random, _) in charges {
                replay.charge(word, part_ns, random);
                waits[of(cause_of(word))] += part_ns;
                prop_assert_eq!(replay.waits(), waits);
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
        let (mut told, replay, mut random) = (BTreeMap::new(), Replay::default(), 1_u64);
        let mut seen = Culprits::EMPTY;
        for round in 0..20_000 {
            let word = match round % 4 {
                0 => 1,
                1 => 2,
                _ => 3 + (round * 7) % 100,
            };
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            replay.charge(word, 100, random >> 16);
            if round % 1_000 == 999 {
                let found = replay.entry.get();
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
        let replay = Replay::default();
        replay.charge(7, (1 << HELD_BITS) - 5, 0);
        let earlier = replay.entry.get();
        replay.charge(7, 15, 0);
        assert_eq!(since(&earlier, &replay.entry.get()).collect::<Vec<_>>(), [(7, 10)]);
        assert_eq!(replay.waits(), [(1 << HELD_BITS) + 10, 0], "of its wait nothing is lost");
    }
}
