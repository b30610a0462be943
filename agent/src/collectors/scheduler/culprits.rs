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

/// Each entry as it was at the last sweep, by its position.
#[derive(Default)]
pub(super) struct Seen {
    entries: HashMap<usize, Culprits, RandomState>,
}

impl Seen {
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
        let earlier = self.entries.entry(position).or_insert(Culprits::EMPTY);
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
        self.entries.remove(&position);
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
    fn who_has_left_the_slot_has_no_name() {
        check(&[(&[(7, 1, 100), (9, 2, 50), (8, 2, 1)], &[(8, 1)])]);
    }
}
