//! From the culprits that the kernel tracks to time lost by pair of slots, between two sweeps.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use podlens_common::{
    cgroup::Holder,
    scheduler::culprits::{Culprits, culprit, culprit_slot, since},
};

/// Time that one slot's tasks lost to another's since the last sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caused {
    /// Who waited.
    pub(super) slot: u32,
    /// Slot of who held the CPU meanwhile.
    pub(super) culprit: u32,
    pub(super) ns: u64,
}

/// Entries that stand together. A sweep looks at them one behind the other, and so in memory that it has just touched.
const TOGETHER: usize = 8;

/// Each entry as it was at the last sweep, by its position. Most CPUs of a large node never run most slots' tasks, so those have
/// none.
#[derive(Default)]
pub(super) struct Seen {
    entries: HashMap<usize, Box<[Culprits; TOGETHER]>, RandomState>,
}

impl Seen {
    /// The entry at that position, among those that stand together.
    fn entry(together: &mut [Culprits; TOGETHER], position: usize) -> Option<&mut Culprits> {
        together.get_mut(position % TOGETHER)
    }

    /// Adds to `caused` what the entry's culprits have got since the last call. `generation` tells who has a slot at present:
    /// a culprit that has left its slot meanwhile keeps no name.
    pub(super) fn collect(
        &mut self,
        position: usize,
        waiting: u32,
        present: &Culprits,
        generation: impl Fn(u32) -> Option<u32>,
        caused: &mut Vec<Caused>,
    ) {
        if *present == Culprits::EMPTY {
            return;
        }
        let together = self.entries.entry(position / TOGETHER);
        let together = together.or_insert_with(|| Box::new([Culprits::EMPTY; TOGETHER]));
        let Some(earlier) = Self::entry(together, position) else { return };
        for (word, ns) in since(earlier, present) {
            let Some(slot) = culprit_slot(word) else { continue };
            let is_present = generation(slot).is_some_and(|generation| culprit(Holder::new(slot, generation)) == word);
            if is_present {
                caused.push(Caused { slot: waiting, culprit: slot, ns });
            }
        }
        *earlier = *present;
    }

    /// The entry was emptied.
    pub(super) fn forget(&mut self, position: usize) {
        let together = self.entries.get_mut(&(position / TOGETHER));
        if let Some(entry) = together.and_then(|together| Self::entry(together, position)) {
            *entry = Culprits::EMPTY;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    /// An entry as (slot, generation, nanoseconds) by place, and what a look at it tells.
    type Look<'look> = (&'look [(u32, u32, u32)], &'look [(u32, u64)]);

    /// Looks at the entries of one position, one after the other.
    #[track_caller]
    fn check(looks: &[Look<'_>]) {
        let mut seen = Seen::default();
        for (places, expected) in looks {
            let mut entry = Culprits::EMPTY;
            for (place, (slot, generation, ns)) in places.iter().enumerate() {
                entry.culprit[place] = culprit(Holder::new(*slot, *generation));
                entry.held_low[place] = *ns;
            }
            let mut caused = Vec::new();
            // Slot 9 has no holder at present, the others have their third.
            seen.collect(4, 7, &entry, |slot| (slot != 9).then_some(2), &mut caused);
            let told: Vec<(u32, u64)> = caused.iter().map(|caused| (caused.culprit, caused.ns)).collect();
            assert_eq!(told, *expected);
            assert!(caused.iter().all(|caused| caused.slot == 7));
        }
    }

    #[test]
    fn each_sweep_tells_what_has_come_since_the_last() {
        check(&[(&[(7, 2, 100)], &[(7, 100)]), (&[(7, 2, 140)], &[(7, 40)]), (&[(7, 2, 140)], &[])]);
    }

    #[test]
    fn a_new_culprit_has_all_that_its_place_holds() {
        check(&[(&[(7, 2, 100), (8, 2, 5)], &[(7, 100), (8, 5)]), (&[(5, 2, 120), (8, 2, 7)], &[(5, 120), (8, 2)])]);
    }

    #[test]
    fn an_entry_that_was_emptied_begins_anew_and_its_neighbours_go_on() {
        let mut seen = Seen::default();
        let mut tell = |position, ns, forgets: Option<usize>| {
            if let Some(position) = forgets {
                seen.forget(position);
            }
            let mut entry = Culprits::EMPTY;
            (entry.culprit[0], entry.held_low[0]) = (culprit(Holder::new(7, 2)), ns);
            let mut caused = Vec::new();
            seen.collect(position, 9, &entry, |_| Some(2), &mut caused);
            caused.first().map_or(0, |caused| caused.ns)
        };
        for position in 0..2 * TOGETHER {
            assert_eq!(tell(position, 100, None), 100);
        }
        assert_eq!(tell(3, 30, Some(3)), 30, "all that it has");
        for position in (0..2 * TOGETHER).filter(|position| *position != 3) {
            assert_eq!(tell(position, 110, None), 10, "{position}");
        }
    }

    #[test]
    fn who_has_left_the_slot_has_no_name() {
        check(&[(&[(7, 1, 100), (9, 2, 50), (8, 2, 1)], &[(8, 1)])]);
    }
}
