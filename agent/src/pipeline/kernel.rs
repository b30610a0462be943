//! What is attached to the kernel beside the collectors: the slots and the events.

use std::{collections::HashSet, io, os::fd::OwnedFd};

use podlens_common::cgroup::{SLOT_FIRST, Slot};
use tracing::warn;

use crate::{
    collectors::SlotsInUse,
    kernel::{
        events::{Events, Malformed, Record},
        object::Object,
        slots::SlotMaps,
    },
};

/// The loaded programs' common part.
pub(super) struct Kernel {
    pub(super) slots: SlotMaps,
    pub(super) events: Option<Events>,
    /// Slots that could not be given back: they stay out of use.
    pub(super) stuck: HashSet<u32>,
    /// CPUs without room of which the log has told.
    pub(super) told_late: usize,
    // Detaches all programs when it goes.
    #[cfg_attr(not(feature = "kernel-log"), expect(dead_code, reason = "it is only kept"))]
    pub(super) object: Object,
}

impl Kernel {
    /// The slots in use and their holders, the reserved ones among them.
    pub(super) fn in_use(&self) -> SlotsInUse {
        (0..self.slots.count())
            .filter_map(|number| Some((number, self.slots.get(number)?)))
            .filter(|(number, slot)| *number < SLOT_FIRST || slot.key != 0)
            .collect()
    }

    /// How often the slot was given before its present holder.
    pub(super) fn generation(&self, number: u32) -> Option<u32> {
        self.slots.get(number).map(|slot| slot.generation)
    }

    /// Gives a slot back whose accounts were cleared.
    pub(super) fn release(&mut self, number: u32, slot: Slot) {
        if let Err(cause) = self.slots.release(number, slot) {
            self.stuck.insert(number);
            warn!(slot = number, %cause, "a slot could not be given back");
        }
    }

    /// A descriptor that becomes readable when something has happened.
    pub(super) fn descriptor(&self) -> Option<io::Result<OwnedFd>> {
        self.events.as_ref().map(Events::descriptor)
    }

    /// Events since the last call.
    pub(super) fn drain(&mut self) -> Vec<Record> {
        self.events.as_mut().map(Events::drain).unwrap_or_default()
    }

    /// An event could not be understood.
    pub(super) fn refuse(&mut self, cause: Malformed) {
        if let Some(events) = &mut self.events {
            events.refuse(cause);
        }
    }

    /// Events that did not come through.
    pub(super) fn lost_events(&self) -> u64 {
        let losses = self.slots.losses();
        losses.event_lost + losses.path_unreadable
    }

    /// Tells once of each CPU for which there is no room.
    pub(super) fn tell_late_cpus(&mut self) {
        let cpus = self.slots.late_cpus();
        if cpus.len() > self.told_late {
            warn!(
                ?cpus,
                "these CPUs came online after the start and what runs there is not measured: start the agent anew"
            );
            self.told_late = cpus.len();
        }
    }

    /// Nothing tells of births and removals.
    pub(super) fn is_blind(&self) -> bool {
        self.events.is_none()
    }
}
