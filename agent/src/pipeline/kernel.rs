//! What is attached to the kernel beside the collectors: the slots and the events.

use std::{
    collections::HashSet,
    error::Error,
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

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

/// A program that has found a slot a moment before its holder lost it is through by then: so long nobody else gets it. From 7.0 on
/// a task's turn may end in the middle of a program.
const SETTLE: Duration = Duration::from_millis(900);

/// The loaded programs' common part.
pub(super) struct Kernel {
    pub(super) slots: SlotMaps,
    pub(super) events: Option<Events>,
    /// Slots that could not be given back: they stay out of use.
    pub(super) stuck: HashSet<u32>,
    pub(super) left: Left,
    /// CPUs without room of which the log has told.
    pub(super) told_late: usize,
    // Detaches all programs when it goes.
    #[cfg_attr(not(feature = "kernel-log"), expect(dead_code, reason = "it is only kept"))]
    pub(super) object: Object,
}

/// Slots that nobody holds any more and nobody may have yet, and since when; the first one first.
#[derive(Debug, Default)]
pub(super) struct Left(Vec<(u32, Instant)>);

impl Left {
    fn add(&mut self, number: u32, now: Instant) {
        self.0.push((number, now));
    }

    /// Those that others may have now; they wait no longer.
    pub(super) fn take(&mut self, now: Instant) -> Vec<u32> {
        self.0.extract_if(.., |(_, since)| now.duration_since(*since) >= SETTLE).map(|(number, _)| number).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Kernel {
    /// The slots in use and their holders, the reserved ones among them.
    pub(super) fn in_use(&self) -> SlotsInUse {
        (0..self.slots.count())
            .filter_map(|number| Some((number, self.slots.get(number)?)))
            .filter(|(number, slot)| *number < SLOT_FIRST || slot.is_held())
            .collect()
    }

    /// How often the slot was given before its present holder.
    pub(super) fn generation(&self, number: u32) -> Option<u32> {
        self.slots.get(number).map(|slot| slot.generation)
    }

    /// Nothing more is to be counted in a slot whose last values are about to be read.
    pub(super) fn end(&mut self, number: u32, slot: Slot) {
        if let Err(cause) = self.slots.end(number, slot) {
            self.stick(number, &cause);
        }
    }

    /// A slot that has ended, and whose accounts were cleared, waits until it can be given to others.
    pub(super) fn leave(&mut self, number: u32, slot: Slot, now: Instant) {
        if !self.stuck.contains(&number) {
            self.slots.leave(number, slot);
            self.left.add(number, now);
        }
    }

    /// Gives a slot back that has waited, and whose accounts were cleared once more.
    pub(super) fn release(&mut self, number: u32) {
        if let Err(cause) = self.slots.release(number) {
            self.stick(number, &cause);
        }
    }

    fn stick(&mut self, number: u32, cause: &(dyn Error + 'static)) {
        self.stuck.insert(number);
        warn!(slot = number, cause, "a slot could not be given back");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_was_left_is_given_to_others_once_and_not_before_it_has_waited() {
        let (mut left, began) = (Left::default(), Instant::now());
        left.add(7, began);
        left.add(8, began + SETTLE / 2);
        assert_eq!((left.take(began), left.len()), (vec![], 2));
        assert_eq!((left.take(began + SETTLE), left.len()), (vec![7], 1));
        left.add(9, began + SETTLE);
        assert_eq!(left.take(began + SETTLE * 2), [8, 9]);
        assert_eq!((left.take(began + SETTLE * 3), left.len()), (vec![], 0));
    }
}
