//! From the kernel's ways to time lost by pair of slots.
//!
//! A way's total goes on growing when it changes hands. What was added since the last look and after the
//! present culprit took it is the present culprit's; what was added before belonged to culprits that lost the
//! way meanwhile, and is named by nobody: the ledger finds it as the rest of the cause.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use podlens_common::scheduler::{Culprits, WAYS, culprit_holder};

/// Time that one slot's tasks lost to another's since the last sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caused {
    /// Who waited.
    pub(super) slot: u32,
    /// Slot of who held the CPU meanwhile.
    pub(super) culprit: u32,
    pub(super) ns: u64,
}

/// The totals seen last, by the entry's position.
#[derive(Default)]
pub(super) struct Ways {
    seen_ns: HashMap<usize, [u64; WAYS], RandomState>,
}

impl Ways {
    /// Adds to `caused` what the entry's ways have got since the last call.
    pub(super) fn collect(
        &mut self,
        position: usize,
        waiting: u32,
        ways: &Culprits,
        generation: impl Fn(u32) -> Option<u32>,
        caused: &mut Vec<Caused>,
    ) {
        if ways.total_ns == [0; WAYS] {
            return;
        }
        let seen_ns = self.seen_ns.entry(position).or_insert([0; WAYS]);
        for (culprit, ns) in added(ways, seen_ns) {
            // A culprit that has left its slot meanwhile keeps no name.
            if let Some(culprit) = culprit_holder(culprit)
                && generation(culprit.slot()) == Some(culprit.generation())
            {
                caused.push(Caused { slot: waiting, culprit: culprit.slot(), ns });
            }
        }
    }

    /// The entry was emptied.
    pub(super) fn forget(&mut self, position: usize) {
        self.seen_ns.remove(&position);
    }
}

/// Each present culprit's share since the totals were seen last, which they are now.
fn added(ways: &Culprits, seen_ns: &mut [u64; WAYS]) -> Vec<(u64, u64)> {
    let mut shares = Vec::new();
    let each = ways.culprit.iter().zip(&ways.total_ns).zip(&ways.from_ns).zip(seen_ns);
    for (((culprit, total_ns), from_ns), seen_ns) in each {
        let ns = total_ns.saturating_sub((*from_ns).max(*seen_ns));
        *seen_ns = *total_ns;
        if ns > 0 {
            shares.push((*culprit, ns));
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    fn check(ways: &[(u64, u64, u64)], seen_ns: &[u64], expected: &[(u64, u64)]) {
        let mut entry = Culprits::EMPTY;
        let mut seen = [0; WAYS];
        for (way, (culprit, total_ns, from_ns)) in ways.iter().enumerate() {
            (entry.culprit[way], entry.total_ns[way], entry.from_ns[way]) = (*culprit, *total_ns, *from_ns);
        }
        seen[..seen_ns.len()].copy_from_slice(seen_ns);
        assert_eq!(added(&entry, &mut seen), expected);
        assert_eq!(seen, entry.total_ns, "the next look starts from here");
    }

    #[test]
    fn a_culprit_that_keeps_its_way_gets_what_was_added() {
        check(&[(7, 100, 0)], &[], &[(7, 100)]);
        check(&[(7, 100, 0)], &[60], &[(7, 40)]);
        check(&[(7, 100, 0)], &[100], &[]);
    }

    #[test]
    fn a_new_culprit_gets_only_what_was_added_since_it_took_the_way() {
        check(&[(8, 100, 70)], &[60], &[(8, 30)]);
        check(&[(8, 100, 70)], &[80], &[(8, 20)]);
    }

    #[test]
    fn ways_are_independent() {
        check(&[(7, 10, 0), (8, 5, 5), (9, 20, 15)], &[4, 5, 0], &[(7, 6), (9, 5)]);
    }
}
