//! Who holds which slot, and the way to give slots back: the maps that all programs share.

use aya::maps::{HashMap, MapData, MapError, Queue};
use podlens_common::cgroup::{CACHE_ENTRIES, CgroupKey, KEY_ENDED, Losses, SLOT_FIRST, Slot};

use super::{
    mapped::MappedArray,
    maps::Map,
    object::{Object, ObjectError},
};

/// The maps.
pub static MAPS: &[Map] = &[
    Map::per_slot("SLOTS", 1),
    Map::per_slot("FREE_SLOTS", 1),
    // Twice, since slots are freed a while after their cgroups are gone.
    Map::per_slot("SLOT_OF", 2),
    Map::per_cpu("SLOT_CACHE", CACHE_ENTRIES),
    // CPUs for which there is no more than this count here what they lose.
    Map::per_possible_cpu("LOSSES"),
    Map::fixed("ASCENT"),
    Map::fixed("SAID"),
    Map::fixed("CPU_PART"),
    Map::fixed("CPU_PART_AT"),
    Map::per_possible_cpu("CPU_DISTANCES"),
];

/// The maps at work.
pub struct SlotMaps {
    slots: MappedArray<Slot>,
    losses: MappedArray<Losses>,
    slot_of: HashMap<MapData, CgroupKey, u64>,
    free: Queue<MapData, u32>,
    count: u32,
}

impl SlotMaps {
    /// Takes the maps, and makes all slots free.
    ///
    /// # Errors
    /// A map cannot be used.
    pub fn new(object: &mut Object, count: u32) -> Result<Self, ObjectError> {
        let slots = object.array("SLOTS")?;
        let losses = object.array("LOSSES")?;
        let slot_of = object.take("SLOT_OF", HashMap::try_from)?;
        let mut free: Queue<MapData, u32> = object.take("FREE_SLOTS", Queue::try_from)?;
        for slot in SLOT_FIRST..count {
            free.push(slot, 0).map_err(|source| ObjectError::Map { name: "FREE_SLOTS", source: source.into() })?;
        }
        Ok(Self { slots, losses, slot_of, free, count })
    }

    /// How many slots there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Who holds the slot.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<Slot> {
        self.slots.get(usize::try_from(slot).ok()?)
    }

    /// Nothing more is counted in a slot whose cgroup is gone: programs that meet the cgroup from now on do not find it. One that
    /// has found it a moment ago may still.
    ///
    /// # Errors
    /// A map operation fails; the slot then stays as it is.
    pub fn end(&mut self, slot: u32, held: Slot) -> Result<(), MapError> {
        self.slot_of.remove(&held.key)?;
        self.set(slot, Slot { ending: 1, ..held });
        Ok(())
    }

    /// Nobody holds the slot any more, and nobody can get it yet.
    pub fn leave(&mut self, slot: u32, held: Slot) {
        let generation = held.generation.wrapping_add(1);
        self.set(slot, Slot { key: KEY_ENDED, generation, ending: 1, ..Slot::default() });
    }

    /// Lets somebody else have a slot that was left and whose accounts were cleared.
    ///
    /// # Errors
    /// A map operation fails; the slot then stays out of use.
    pub fn release(&mut self, slot: u32) -> Result<(), MapError> {
        let generation = self.get(slot).map_or(0, |left| left.generation);
        self.set(slot, Slot { generation, ..Slot::default() });
        self.free.push(slot, 0)
    }

    fn set(&self, slot: u32, record: Slot) {
        self.slots.set(usize::try_from(slot).unwrap_or(usize::MAX), record);
    }

    /// CPUs that came after the start and for which there is no room.
    #[must_use]
    pub fn late_cpus(&self) -> Vec<usize> {
        let is_late = |cpu: &usize| self.losses.get(*cpu).is_some_and(|losses| losses.late_cpu != 0);
        (0..self.losses.len()).filter(is_late).collect()
    }

    /// What went wrong in the kernel, over all CPUs.
    #[must_use]
    pub fn losses(&self) -> Losses {
        let mut sum = Losses::default();
        for one in (0..self.losses.len()).filter_map(|cpu| self.losses.get(cpu)) {
            sum.no_free_slot += one.no_free_slot;
            sum.table_full += one.table_full;
            sum.event_lost += one.event_lost;
            sum.path_unreadable += one.path_unreadable;
            sum.no_cgroup += one.no_cgroup;
            sum.late_cpu += one.late_cpu;
            sum.slot_busy += one.slot_busy;
            sum.slot_stuck += one.slot_stuck;
        }
        sum
    }
}
