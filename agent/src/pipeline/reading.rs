//! From what the collectors read to the ledger: whose each slot and each cgroup is.

use std::{
    collections::HashMap,
    time::{Instant, SystemTime},
};

use podlens_common::cgroup::{CgroupKey, SLOT_FIRST, SLOT_KERNEL, SLOT_ROOT, SLOT_UNATTRIBUTED};

use super::{Attached, GRACE, Inner, SEARCH};
use crate::{
    attribution::cgroups::Cgroups,
    collectors::Held,
    registry::{Owner, OwnerKey},
};

/// Owners that are there without a cgroup of theirs.
pub(super) struct Standing {
    unattributed: OwnerKey,
    kernel: OwnerKey,
    root: OwnerKey,
    since: SystemTime,
}

impl Standing {
    pub(super) fn new(since: SystemTime) -> Self {
        let unit = |name| OwnerKey::from(Owner::unit(name));
        Self { unattributed: unit(Owner::UNATTRIBUTED), kernel: unit(Owner::KERNEL), root: unit("/"), since }
    }
}

/// Who has what.
#[derive(Clone, Copy)]
struct Owners<'a> {
    cgroups: &'a Cgroups,
    unknown: &'a HashMap<CgroupKey, Instant>,
    standing: &'a Standing,
    now: Instant,
}

/// An owner, the same as a culprit, and since when it is there.
type Owned<'a> = (&'a OwnerKey, &'a OwnerKey, SystemTime);

impl<'a> Owners<'a> {
    /// Whose slot it is; none while that is still being looked for.
    fn of_slot(self, number: u32, key: CgroupKey) -> Option<Owned<'a>> {
        let standing = |owner: &'a OwnerKey| Some((owner, owner, self.standing.since));
        match number {
            SLOT_UNATTRIBUTED => standing(&self.standing.unattributed),
            SLOT_KERNEL => standing(&self.standing.kernel),
            SLOT_ROOT => standing(&self.standing.root),
            _ => self.of_cgroup(key).or_else(|| {
                let searched = self.now.duration_since(*self.unknown.get(&key)?);
                (searched >= SEARCH).then(|| standing(&self.standing.unattributed))?
            }),
        }
    }

    fn of_cgroup(self, key: CgroupKey) -> Option<Owned<'a>> {
        let cgroup = self.cgroups.get(key)?;
        Some((&cgroup.owner, &cgroup.culprit, cgroup.since))
    }
}

impl Inner {
    /// Enters what all collectors have of the slots `wanted`. Values of slots that are over are final, and those
    /// slots become free.
    pub(super) fn read_slots(&mut self, wanted: &Held, held: &Held, over: &Held, now: Instant) {
        let Self { kernel: Some(kernel), collectors, ledger, cgroups, unknown, standing, .. } = self else { return };
        let owners = Owners { cgroups, unknown, standing, now };
        let of_slot = |number: u32| owners.of_slot(number, held.get(&number)?.key);
        for Attached { section, collector } in &mut *collectors {
            let caused = collector.read_slots(wanted, &|number| kernel.generation(number), &mut |number, row| {
                let Some((owner, _, since)) = of_slot(number) else { return };
                if over.contains_key(&number) {
                    ledger.retire(*section, owner, since, row);
                } else {
                    ledger.observe(*section, owner, since, row);
                }
            });
            for one in caused {
                if let (Some((owner, ..)), Some((_, culprit, _))) = (of_slot(one.slot), of_slot(one.culprit)) {
                    ledger.caused(*section, owner, culprit, one.ns);
                }
            }
        }
        for (number, slot) in over {
            for attached in &mut *collectors {
                attached.collector.clear(*number);
            }
            kernel.release(*number, *slot);
        }
    }

    /// Enters what collectors have by key. A key whose cgroup is not known counts as unattributed.
    pub(super) fn read_cgroups(&mut self, held: &Held, now: Instant) {
        let Self { collectors, ledger, cgroups, unknown, standing, .. } = self;
        let owners = Owners { cgroups, unknown, standing, now };
        for Attached { section, collector } in collectors {
            collector.read_cgroups(held, &mut |key, row| {
                if row.is_empty() {
                    return;
                }
                let unattributed = (&standing.unattributed, &standing.unattributed, standing.since);
                let (owner, _, since) = owners.of_cgroup(key).unwrap_or(unattributed);
                ledger.observe(*section, owner, since, row);
            });
        }
    }

    /// The slots whose cgroup was removed long enough ago that none of its tasks can run.
    pub(super) fn over(&self, held: &Held, now: Instant) -> Held {
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
