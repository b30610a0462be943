//! From what the collectors read to the ledger: whose each slot and each cgroup is.

use std::time::{Instant, SystemTime};

use podlens_common::cgroup::{CgroupKey, SLOT_FIRST, SLOT_KERNEL, SLOT_ROOT, SLOT_UNATTRIBUTED};

use super::{Attached, GRACE, Inner};
use crate::{
    attribution::cgroups::Cgroups,
    collectors::{Readings, SlotsInUse, Sweep},
    registry::{EntityId, Ledger},
    signal::{Entity, EntityKey, Metric, Row},
};

/// Entities that are there without a cgroup of theirs.
pub(super) struct FixedEntities {
    unattributed: EntityKey,
    /// Of a key that is in no slot and not known.
    stranger: EntityKey,
    kernel: EntityKey,
    root: EntityKey,
    since: SystemTime,
}

impl FixedEntities {
    /// `is_part`: the agent does not see the kernel's root, nor whatever else is outside of its node.
    pub(super) fn new(since: SystemTime, is_part: bool) -> Self {
        let unit = |name| EntityKey::from(Entity::unit(name));
        let [stranger, root] = if is_part { [Entity::OUTSIDE; 2] } else { [Entity::UNATTRIBUTED, "/"] };
        Self {
            unattributed: unit(Entity::UNATTRIBUTED),
            stranger: unit(stranger),
            kernel: unit(Entity::KERNEL),
            root: unit(root),
            since,
        }
    }
}

/// Who has what.
#[derive(Clone, Copy)]
struct Entities<'a> {
    cgroups: &'a Cgroups,
    fixed: &'a FixedEntities,
}

/// An entity, the same as a culprit, and since when it is there.
type Found<'a> = (&'a EntityKey, &'a EntityKey, SystemTime);

impl<'a> Entities<'a> {
    /// Whose slot it is; none while that is still being looked for.
    fn of_slot(self, number: u32, key: CgroupKey) -> Option<Found<'a>> {
        match number {
            SLOT_UNATTRIBUTED => Some(self.fixed(&self.fixed.unattributed)),
            SLOT_KERNEL => Some(self.fixed(&self.fixed.kernel)),
            SLOT_ROOT => Some(self.fixed(&self.fixed.root)),
            _ => self.of_cgroup(key),
        }
    }

    fn of_cgroup(self, key: CgroupKey) -> Option<Found<'a>> {
        let cgroup = self.cgroups.get(key)?;
        Some((&cgroup.entity, &cgroup.culprit, cgroup.since))
    }

    fn fixed(self, entity: &'a EntityKey) -> Found<'a> {
        (entity, entity, self.fixed.since)
    }
}

/// Whose a slot is, found once for all collectors.
struct SlotEntity<'a> {
    id: EntityId,
    culprit: &'a EntityKey,
    /// The slot is about to be given back: these are its last values.
    expired: bool,
}

/// Where one collector's readings go.
struct ToLedger<'a> {
    section: usize,
    ledger: &'a mut Ledger,
    entities: Entities<'a>,
    /// By the slot's number.
    slots: &'a [Option<SlotEntity<'a>>],
}

impl<'a> ToLedger<'a> {
    fn of_slot(&self, number: u32) -> Option<&'a SlotEntity<'a>> {
        self.slots.get(usize::try_from(number).ok()?)?.as_ref()
    }
}

impl Readings for ToLedger<'_> {
    fn slot(&mut self, slot: u32, row: &Row) {
        let Some(SlotEntity { id, expired, .. }) = self.of_slot(slot) else { return };
        if *expired {
            self.ledger.retire(self.section, *id, row);
        } else {
            self.ledger.observe(self.section, *id, row);
        }
    }

    /// A key whose cgroup is not known counts as unattributed, or as outside where not all cgroups can be seen.
    fn cgroup(&mut self, key: CgroupKey, row: &Row) {
        if row.is_empty() {
            return;
        }
        let stranger = || self.entities.fixed(&self.entities.fixed.stranger);
        let (entity, _, since) = self.entities.of_cgroup(key).unwrap_or_else(stranger);
        let id = self.ledger.entity(entity, since);
        self.ledger.observe(self.section, id, row);
    }

    fn caused(&mut self, metric: &'static Metric, slot: u32, culprit: u32, amount: u64) {
        if let (Some(victim), Some(culprit)) = (self.of_slot(slot), self.of_slot(culprit)) {
            self.ledger.caused(self.section, metric, victim.id, culprit.culprit, amount);
        }
    }
}

impl Inner {
    /// Enters what all collectors have of the slots `wanted` and, if those are all, of cgroups without a slot. Values of
    /// slots that are expired are final, and those slots become free.
    pub(super) fn read(&mut self, wanted: &SlotsInUse, in_use: &SlotsInUse, expired: &SlotsInUse) {
        let Self { kernel, collectors, ledger, cgroups, fixed, .. } = self;
        let entities = Entities { cgroups, fixed };
        let mut slots: Vec<Option<SlotEntity<'_>>> = Vec::new();
        for (number, slot) in in_use.iter() {
            let Ok(at) = usize::try_from(number) else { continue };
            if let Some((entity, culprit, since)) = entities.of_slot(number, slot.key) {
                slots.resize_with(slots.len().max(at), || None);
                let expired = expired.get(number).is_some();
                slots.push(Some(SlotEntity { id: ledger.entity(entity, since), culprit, expired }));
            }
        }
        let generation = |number| kernel.as_ref().and_then(|kernel| kernel.generation(number));
        let sweep = Sweep { wanted, in_use, generation: &generation, whole: std::ptr::eq(wanted, in_use) };
        for Attached { section, collector } in &mut *collectors {
            let mut readings = ToLedger { section: *section, ledger, entities, slots: &slots };
            collector.read(&sweep, &mut readings);
        }
        let Some(kernel) = kernel else { return };
        for (number, slot) in expired.iter() {
            for attached in &mut *collectors {
                attached.collector.clear(number);
            }
            kernel.release(number, *slot);
        }
    }

    /// The slots whose cgroup was removed long enough ago that none of its tasks can run, but for those that stay out of use.
    pub(super) fn expired(&self, in_use: &SlotsInUse, now: Instant) -> SlotsInUse {
        let is_expired = |key: CgroupKey| {
            let removed = self.cgroups.get(key).and_then(|cgroup| cgroup.removed);
            removed.is_some_and(|removed| now.duration_since(removed) >= GRACE)
        };
        let is_stuck = |number| self.kernel.as_ref().is_some_and(|kernel| kernel.stuck.contains(&number));
        let slots =
            in_use.iter().filter(|(number, slot)| *number >= SLOT_FIRST && is_expired(slot.key) && !is_stuck(*number));
        slots.map(|(number, slot)| (number, *slot)).collect()
    }
}
