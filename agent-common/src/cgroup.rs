//! Cgroups as the kernel programs see them: keys and slots.

use bytemuck::{Pod, Zeroable};

/// The identity of a cgroup on this node for as long as the node runs: the kernel's `kernfs_node.id`, which
/// is also the inode number of the cgroup's directory, with [`KEY_V1`] or [`KEY_BLKIO`] added for a cgroup of a version 1
/// hierarchy, since each hierarchy counts its ids apart.
pub type CgroupKey = u64;

/// Marks a key of the version 1 CPU hierarchy. Kernel ids are an inode number below a generation of 32 bits
/// that starts at 1 and grows with each reuse, so the topmost bits stay free.
pub const KEY_V1: CgroupKey = 1 << 63;
/// Marks a key of the version 1 blkio hierarchy, where that is not the CPU controller's as well.
pub const KEY_BLKIO: CgroupKey = 1 << 62;
/// What of a key tells its hierarchy; the rest is the kernel's id.
pub const KEY_MARKS: CgroupKey = KEY_V1 | KEY_BLKIO;

/// No cgroup's: under it stands a slot that nobody holds any more and nobody may have yet.
pub const KEY_ENDED: CgroupKey = u64::MAX;

/// Everything whose cgroup has no slot.
pub const SLOT_UNATTRIBUTED: u32 = 0;
/// Kernel threads in the root cgroup.
pub const SLOT_KERNEL: u32 = 1;
/// Other tasks in the root cgroup.
pub const SLOT_ROOT: u32 = 2;
/// The first slot that a cgroup below the root can get.
pub const SLOT_FIRST: u32 = 3;
/// Nobody: the idle task. Not an index.
pub const SLOT_IDLE: u32 = u32::MAX;
/// Whoever held a CPU before the programs were attached. Not an index.
pub const SLOT_UNSEEN: u32 = u32::MAX - 1;

/// One holder of a slot, in one word: the slot in the low, its generation in the high 32 bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Holder(pub u64);

impl Holder {
    /// Nobody's.
    pub const IDLE: Self = Self::new(SLOT_IDLE, 0);
    /// Not known whose.
    pub const UNSEEN: Self = Self::new(SLOT_UNSEEN, 0);
    /// Everybody's whose cgroup has no slot.
    pub const UNATTRIBUTED: Self = Self::new(SLOT_UNATTRIBUTED, 0);

    /// The holder of this slot that came after so many others.
    #[inline(always)]
    #[must_use]
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | slot as u64)
    }

    /// The slot.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }

    /// How often the slot was given before.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Which slot a task below a root has, by its cgroups. It never becomes wrong: the kernel gives a serial number to one cgroup
/// only, of whichever hierarchy, and the slot is given on only when no task of that cgroup can exist.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Assigned {
    /// The cgroup's serial number, or of two the number that [`serial_of_both`] makes; 0 for none.
    pub serial: u64,
    /// Who holds its slot.
    pub holder: Holder,
}

impl Assigned {
    /// No cgroup.
    pub const NONE: Self = Self { serial: 0, holder: Holder::UNATTRIBUTED };
}

/// One number for the cgroups of a task in the version 2 tree and in the version 1 CPU hierarchy, made of their serial
/// numbers, which are 0 for a root. As good as both while the kernel has given fewer than 2^32 of them, one for each
/// directory and each controller in it: a thousand containers an hour, of some twenty each, take 24 years to use so many.
#[inline(always)]
#[must_use]
pub const fn serial_of_both(v2: u64, v1: u64) -> u64 {
    v2.wrapping_add(v1 << 32)
}

/// One slot: the cgroup that holds it, written by the kernel when the cgroup's first task is dispatched and
/// cleared by the daemon when the slot is released.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Slot {
    /// The holder; 0 while the slot is free, [`KEY_ENDED`] before that.
    pub key: CgroupKey,
    /// The pod's own cgroup, or the container's where it is in no pod; 0 for anything else. Two slots of one
    /// group are of one pod.
    pub group: CgroupKey,
    /// The container's cgroup, or else the systemd unit's: the holder or one above it; 0 for anything else.
    pub container: CgroupKey,
    /// How often the slot was given before: tells two holders of one slot apart.
    pub generation: u32,
    /// 1 while the slot is being given back: nothing more is to be counted in it.
    pub ending: u32,
}

impl Slot {
    /// Tasks are counted by it. Those of a cgroup of the blkio hierarchy are counted by another cgroup of theirs.
    #[must_use]
    pub const fn is_of_tasks(&self) -> bool {
        self.key & KEY_BLKIO == 0
    }

    /// A cgroup holds it.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.key != 0 && self.key != KEY_ENDED
    }
}

/// Entries of each CPU's cache of slots; a power of two.
pub const CACHE_ENTRIES: u32 = 1024;

/// The entry for a serial number. Fibonacci hashing: they come at near-constant distances, which low bits alone would fold.
#[inline(always)]
#[must_use]
pub const fn cache_index(serial: u64) -> u32 {
    let folded = (serial.wrapping_add(serial >> 32) & 0xffff_ffff) as u32;
    folded.wrapping_mul(0x9e37_79b9) >> (u32::BITS - CACHE_ENTRIES.ilog2())
}

/// What went wrong in the kernel while slots and events were handed out; each is a count.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Losses {
    /// A task was dispatched whose cgroup got no slot since none was free.
    pub no_free_slot: u64,
    /// A cgroup could not be entered in the table of slots.
    pub table_full: u64,
    /// An event did not fit the ring buffer.
    pub event_lost: u64,
    /// A path was longer than [`crate::event::PATH_BYTES`] or could not be read.
    pub path_unreadable: u64,
    /// A task without a cgroup or a run queue: seen only while the kernel sets one up.
    pub no_cgroup: u64,
    /// A switch on a CPU that came after the start and for which there is no room.
    pub late_cpu: u64,
    /// A cgroup got no slot at that moment, since what it takes was in use by what this program had interrupted.
    pub slot_busy: u64,
    /// A slot that was taken for a cgroup and not needed could not be put back.
    pub slot_stuck: u64,
}

const _: () = assert!(size_of::<Assigned>() == 16);
const _: () = assert!(size_of::<Slot>() == 32);
const _: () = assert!(size_of::<Losses>() == 64);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{CACHE_ENTRIES, cache_index, serial_of_both};

    #[test]
    fn two_cgroups_have_a_number_of_their_own_and_one_beside_a_root_as_well() {
        let serials = [0, 1, 2, 3, 500, 501, 1 << 31, (1 << 32) - 1];
        let pairs = serials.iter().flat_map(|v2| serials.map(|v1| serial_of_both(*v2, v1)));
        assert_eq!(pairs.collect::<HashSet<_>>().len(), serials.len() * serials.len());
        assert_eq!(serial_of_both(7, 0), 7, "the same as in a node without version 1");
    }

    #[test]
    fn cgroups_that_are_made_one_after_another_get_entries_of_their_own() {
        // A runtime that makes a directory in each of two hierarchies, with so many controllers.
        for (apart, distance) in [(0, 3), (1, 2), (1, 16), (5, 7)] {
            let numbers = (1..=200_u64).map(|number| number * distance);
            let entries: HashSet<u32> =
                numbers.map(|serial| cache_index(serial_of_both(serial, serial + apart))).collect();
            assert!(entries.len() > 150, "{} entries for 200 cgroups, {apart} {distance}", entries.len());
            assert!(entries.iter().all(|entry| *entry < CACHE_ENTRIES));
        }
    }
}
