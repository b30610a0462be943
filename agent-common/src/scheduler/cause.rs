//! What a part of a wait is caused by, according to who waited and who held the CPU. Pure: the kernel programs bring the
//! records of the slots.

use super::Cause;
use crate::cgroup::{Holder, SLOT_UNATTRIBUTED, Slot};

/// What a wait of the slot `waiting` is caused by while `holder` runs.
///
/// Of who has no slot, be it that it waits or that it runs, nobody knows the pod: that is neither a neighbor nor the node.
#[inline(always)]
pub fn cause<'slot>(waiting: u32, holder: Holder, record: impl Fn(u32) -> Option<&'slot Slot>) -> Cause {
    if holder == Holder::IDLE {
        return Cause::Idle;
    }
    if waiting == SLOT_UNATTRIBUTED || holder.slot() == SLOT_UNATTRIBUTED {
        return Cause::Unknown;
    }
    let (Some(victim), Some(other)) = (record(waiting), record(holder.slot())) else {
        return Cause::Unknown;
    };
    if other.generation != holder.generation() {
        // The slot has changed hands since.
        Cause::Unknown
    } else if holder.slot() == waiting || other.container != 0 && other.container == victim.container {
        Cause::Own
    } else if other.group != 0 && other.group == victim.group {
        Cause::Pod
    } else if other.group == 0 {
        Cause::System
    } else {
        Cause::Neighbor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{SLOT_KERNEL, SLOT_ROOT, SLOT_UNSEEN};

    /// Slots by number: of these pods (0 for none) and containers, each in its third generation but the fixed ones.
    const SLOTS: [(u64, u64); 8] = [(0, 0), (0, 0), (0, 0), (10, 100), (10, 100), (10, 101), (20, 200), (0, 300)];

    #[track_caller]
    fn check(waiting: u32, holder: Holder, expected: Cause) {
        let slots: Vec<Slot> = (0_u32..)
            .zip(SLOTS)
            .map(|(number, (group, container))| Slot {
                group,
                container,
                generation: if number > SLOT_ROOT { 2 } else { 0 },
                ..Slot::default()
            })
            .collect();
        let record = |number: u32| slots.get(number as usize);
        assert_eq!(cause(waiting, holder, record), expected, "slot {waiting} behind {holder:?}");
    }

    #[test]
    fn a_cause_follows_from_pod_and_container() {
        check(3, Holder::new(3, 2), Cause::Own);
        check(3, Holder::new(4, 2), Cause::Own);
        check(3, Holder::new(5, 2), Cause::Pod);
        check(3, Holder::new(6, 2), Cause::Neighbor);
        check(7, Holder::new(6, 2), Cause::Neighbor);
        check(3, Holder::new(7, 2), Cause::System);
        check(3, Holder::new(SLOT_KERNEL, 0), Cause::System);
        check(SLOT_ROOT, Holder::new(SLOT_ROOT, 0), Cause::Own);
        check(3, Holder::IDLE, Cause::Idle);
        check(3, Holder::UNSEEN, Cause::Unknown);
        check(3, Holder::new(SLOT_UNSEEN - 1, 0), Cause::Unknown);
    }

    #[test]
    fn who_has_left_its_slot_is_unknown_even_to_the_slots_next_holder() {
        check(3, Holder::new(6, 1), Cause::Unknown);
        check(3, Holder::new(3, 1), Cause::Unknown);
    }

    #[test]
    fn who_has_no_slot_is_nobodys_pod_and_no_part_of_the_node() {
        check(3, Holder::UNATTRIBUTED, Cause::Unknown);
        check(7, Holder::UNATTRIBUTED, Cause::Unknown);
        check(SLOT_UNATTRIBUTED, Holder::UNATTRIBUTED, Cause::Unknown);
        check(SLOT_UNATTRIBUTED, Holder::new(3, 2), Cause::Unknown);
        check(SLOT_UNATTRIBUTED, Holder::new(7, 2), Cause::Unknown);
        check(SLOT_UNATTRIBUTED, Holder::IDLE, Cause::Idle);
    }
}
