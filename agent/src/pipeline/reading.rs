//! From what the collectors read to the ledger: whose each slot and each cgroup is.

use std::{
    collections::HashMap,
    time::{Instant, SystemTime},
};

use podlens_common::cgroup::{CgroupKey, SLOT_FIRST, SLOT_KERNEL, SLOT_ROOT, SLOT_UNATTRIBUTED};

use super::{Attached, GRACE, Inner, SEARCH};
use crate::{
    attribution::cgroups::Cgroups,
    collectors::SlotsInUse,
    signal::{Entity, EntityKey},
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
    unknown: &'a HashMap<CgroupKey, Instant>,
    fixed: &'a FixedEntities,
    now: Instant,
}

/// An entity, the same as a culprit, and since when it is there.
type Owned<'a> = (&'a EntityKey, &'a EntityKey, SystemTime);

impl<'a> Entities<'a> {
    /// Whose slot it is; none while that is still being looked for.
    fn of_slot(self, number: u32, key: CgroupKey) -> Option<Owned<'a>> {
        let fixed = |entity: &'a EntityKey| Some((entity, entity, self.fixed.since));
        match number {
            SLOT_UNATTRIBUTED => fixed(&self.fixed.unattributed),
            SLOT_KERNEL => fixed(&self.fixed.kernel),
            SLOT_ROOT => fixed(&self.fixed.root),
            _ => self.of_cgroup(key).or_else(|| {
                let searched = self.now.duration_since(*self.unknown.get(&key)?);
                (searched >= SEARCH).then(|| fixed(&self.fixed.unattributed))?
            }),
        }
    }

    fn of_cgroup(self, key: CgroupKey) -> Option<Owned<'a>> {
        let cgroup = self.cgroups.get(key)?;
        Some((&cgroup.entity, &cgroup.culprit, cgroup.since))
    }
}

impl Inner {
    /// Enters what all collectors have of the slots `wanted`. Values of slots that are over are final, and those
    /// slots become free.
    pub(super) fn read_slots(&mut self, wanted: &SlotsInUse, held: &SlotsInUse, expired: &SlotsInUse, now: Instant) {
        let Self { kernel: Some(kernel), collectors, ledger, cgroups, unknown, fixed, .. } = self else { return };
        let entities = Entities { cgroups, unknown, fixed, now };
        let of_slot = |number: u32| entities.of_slot(number, held.get(&number)?.key);
        for Attached { section, collector } in &mut *collectors {
            let caused = collector.read_slots(wanted, &|number| kernel.generation(number), &mut |number, row| {
                let Some((entity, _, since)) = of_slot(number) else { return };
                if expired.contains_key(&number) {
                    ledger.retire(*section, entity, since, row);
                } else {
                    ledger.observe(*section, entity, since, row);
                }
            });
            for one in caused {
                if let (Some((entity, ..)), Some((_, culprit, _))) = (of_slot(one.slot), of_slot(one.culprit)) {
                    ledger.caused(*section, entity, culprit, one.ns);
                }
            }
        }
        for (number, slot) in expired {
            for attached in &mut *collectors {
                attached.collector.clear(*number);
            }
            kernel.release(*number, *slot);
        }
    }

    /// Enters what collectors have by key. A key whose cgroup is not known counts as unattributed, or as outside
    /// where not all cgroups can be seen.
    pub(super) fn read_cgroups(&mut self, held: &SlotsInUse, now: Instant) {
        let Self { collectors, ledger, cgroups, unknown, fixed, .. } = self;
        let entities = Entities { cgroups, unknown, fixed, now };
        for Attached { section, collector } in collectors {
            collector.read_cgroups(held, &mut |key, row| {
                if row.is_empty() {
                    return;
                }
                let stranger = (&fixed.stranger, &fixed.stranger, fixed.since);
                let (entity, _, since) = entities.of_cgroup(key).unwrap_or(stranger);
                ledger.observe(*section, entity, since, row);
            });
        }
    }

    /// The slots whose cgroup was removed long enough ago that none of its tasks can run.
    pub(super) fn expired(&self, held: &SlotsInUse, now: Instant) -> SlotsInUse {
        let is_over = |key: CgroupKey| {
            let removed = self.cgroups.get(key).and_then(|cgroup| cgroup.removed);
            removed.is_some_and(|removed| now.duration_since(removed) >= GRACE)
        };
        held.iter()
            .filter(|(number, slot)| **number >= SLOT_FIRST && is_over(slot.key))
            .map(|(number, slot)| (*number, *slot))
            .collect()
    }
}
