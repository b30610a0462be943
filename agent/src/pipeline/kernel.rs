//! What is attached to the kernel beside the collectors: the slots and the events of births and removals.

use std::{io, os::fd::OwnedFd};

use podlens_common::cgroup::{SLOT_FIRST, Slot};
use tracing::warn;

use crate::{
    collectors::{
        SlotsInUse,
        lifecycle::{Event, Lifecycle},
    },
    kernel::object::{Object, SlotMaps},
};

/// The loaded programs' common part.
pub(super) struct Kernel {
    pub(super) slots: SlotMaps,
    pub(super) lifecycle: Option<Lifecycle>,
    /// Slots that could not be given back: they stay out of use.
    pub(super) stuck: u64,
    // Detaches all programs when it goes.
    pub(super) _object: Object,
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
            self.stuck += 1;
            warn!(slot = number, %cause, "a slot could not be given back");
        }
    }

    /// A descriptor that becomes readable when something is born or removed.
    pub(super) fn events(&self) -> Option<io::Result<OwnedFd>> {
        self.lifecycle.as_ref().map(Lifecycle::events)
    }

    /// Births and removals since the last call.
    pub(super) fn drain(&mut self) -> Vec<Event> {
        self.lifecycle.as_mut().map(Lifecycle::drain).unwrap_or_default()
    }

    /// Births and removals that did not come through.
    pub(super) fn lost_events(&self) -> u64 {
        let losses = self.slots.losses();
        losses.event_lost + losses.path_unreadable
    }

    /// Nothing tells of births and removals.
    pub(super) fn is_blind(&self) -> bool {
        self.lifecycle.is_none()
    }
}
