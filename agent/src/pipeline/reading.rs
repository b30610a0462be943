//! From what the collectors read to the ledger: whose each slot and each cgroup is.

use std::{
    collections::HashMap,
    time::{Instant, SystemTime},
};

use foldhash::fast::RandomState;
use podlens_common::cgroup::{CgroupKey, SLOT_FIRST, SLOT_KERNEL, SLOT_ROOT, SLOT_UNATTRIBUTED, Slot};

use super::{Attached, GRACE, Inner};
use crate::{
    attribution::cgroups::Cgroups,
    collectors::{Readings, SlotsInUse, Sweep},
    registry::{CulpritId, EntityId, Ledger},
    signal::{Entity, EntityKey, Metric, Row, Since},
};

/// Entities that are there without a cgroup of theirs.
pub(super) struct FixedEntities {
    unattributed: EntityKey,
    /// Of a key that is in no slot and not known.
    stranger: EntityKey,
    kernel: EntityKey,
    root: EntityKey,
    since: Since,
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
            since: Since::Found(since),
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
type Found<'a> = (&'a EntityKey, &'a EntityKey, Since);

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

/// Whose slots and cgroups are, by their places in the ledger: found once and then known for as long as they have them.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// The versions of the cgroups and of the ledger that it is of.
    as_of: (u64, u64),
    /// By the slot's number.
    slots: Vec<Option<SlotEntity>>,
    cgroups: HashMap<CgroupKey, EntityId, RandomState>,
}

/// Whose a slot is.
#[derive(Clone, Copy, Debug)]
struct SlotEntity {
    /// The slot's holder; none where it may yet become known who that is.
    holder: Option<Slot>,
    id: EntityId,
    culprit: CulpritId,
}

impl Resolved {
    /// It is known whose the slot is while this one holds it.
    pub(super) fn has(&self, number: u32, holder: &Slot) -> bool {
        self.slot(number).is_some_and(|slot| slot.holder == Some(*holder))
    }

    fn slot(&self, number: u32) -> Option<&SlotEntity> {
        self.slots.get(usize::try_from(number).ok()?)?.as_ref()
    }

    /// The slot has no holder any more.
    fn free(&mut self, number: u32) {
        if let Some(slot) = usize::try_from(number).ok().and_then(|at| self.slots.get_mut(at)) {
            *slot = None;
        }
    }

    /// Finds out whose the slots are.
    fn resolve(&mut self, in_use: &SlotsInUse, entities: Entities<'_>, ledger: &mut Ledger) {
        let as_of = (entities.cgroups.version(), ledger.epoch());
        if self.as_of != as_of {
            *self = Self { as_of, ..Self::default() };
        }
        for (number, slot) in in_use.iter().filter(|(number, slot)| !self.has(*number, slot)).collect::<Vec<_>>() {
            let Ok(at) = usize::try_from(number) else { continue };
            self.slots.resize(self.slots.len().max(at + 1), None);
            let found = entities.of_slot(number, slot.key).map(|(entity, culprit, since)| SlotEntity {
                holder: (number < SLOT_FIRST || entities.cgroups.get(slot.key).is_some()).then_some(*slot),
                id: ledger.entity(entity, since),
                culprit: ledger.culprit(culprit),
            });
            if let Some(place) = self.slots.get_mut(at) {
                *place = found;
            }
        }
    }
}

/// Where one collector's readings go.
struct ToLedger<'a> {
    section: usize,
    ledger: &'a mut Ledger,
    entities: Entities<'a>,
    resolved: &'a mut Resolved,
    /// Slots that are about to be given back: what comes of them are their last values.
    expired: &'a SlotsInUse,
}

impl Readings for ToLedger<'_> {
    fn slot(&mut self, slot: u32, row: &Row) {
        let Some(&SlotEntity { id, .. }) = self.resolved.slot(slot) else { return };
        if self.expired.get(slot).is_some() {
            self.ledger.retire(self.section, id, row);
        } else {
            self.ledger.observe(self.section, id, row);
        }
    }

    /// A key whose cgroup is not known counts as unattributed, or as outside where not all cgroups can be seen.
    fn cgroup(&mut self, key: CgroupKey, row: &Row) {
        if row.is_empty() {
            return;
        }
        let id = self.resolved.cgroups.get(&key).copied().unwrap_or_else(|| match self.entities.of_cgroup(key) {
            Some((entity, _, since)) => {
                let id = self.ledger.entity(entity, since);
                self.resolved.cgroups.insert(key, id);
                id
            }
            // It may become known.
            None => self.ledger.entity(&self.entities.fixed.stranger, self.entities.fixed.since),
        });
        self.ledger.observe(self.section, id, row);
    }

    fn caused(&mut self, metric: &'static Metric, slot: u32, culprit: u32, amount: u64) {
        if let (Some(victim), Some(culprit)) = (self.resolved.slot(slot), self.resolved.slot(culprit)) {
            self.ledger.caused(self.section, metric, victim.id, culprit.culprit, amount);
        }
    }
}

impl Inner {
    /// Enters what all collectors have of the slots `wanted` and, if those are all, of cgroups without a slot. Values of
    /// slots that are expired are final, and those slots become free a little later.
    pub(super) fn read(&mut self, wanted: &SlotsInUse, in_use: &SlotsInUse, expired: &SlotsInUse, now: Instant) {
        // First of all: what comes after the last values is another slot's.
        if let Some(kernel) = &mut self.kernel {
            for (number, slot) in expired.iter() {
                kernel.end(number, *slot);
            }
        }
        let Self { kernel, collectors, ledger, cgroups, fixed, resolved, .. } = self;
        let entities = Entities { cgroups, fixed };
        resolved.resolve(in_use, entities, ledger);
        let generation = |number| kernel.as_ref().and_then(|kernel| kernel.generation(number));
        let sweep = Sweep { wanted, in_use, generation: &generation, expired, whole: std::ptr::eq(wanted, in_use) };
        for Attached { section, collector } in &mut *collectors {
            let mut readings = ToLedger { section: *section, ledger, entities, resolved, expired };
            collector.read(&sweep, &mut readings);
        }
        let Some(kernel) = kernel else { return };
        clear(collectors, &expired.iter().map(|(number, _)| number).collect::<Vec<_>>());
        for (number, slot) in expired.iter() {
            kernel.leave(number, *slot, now);
            resolved.free(number);
        }
    }

    /// Lets others have the slots that were left a while ago. What was counted there since, by a program that had found the slot
    /// before, is nobody's.
    pub(super) fn give_back(&mut self, now: Instant) {
        let Some(kernel) = &mut self.kernel else { return };
        let slots = kernel.left.take(now);
        clear(&mut self.collectors, &slots);
        for slot in slots {
            kernel.release(slot);
        }
    }

    /// The slots whose cgroup was removed long enough ago that none of its tasks can run, but for those that stay out of use.
    pub(super) fn expired(&self, in_use: &SlotsInUse, now: Instant) -> SlotsInUse {
        if !self.cgroups.any_removed() {
            return SlotsInUse::default();
        }
        let is_expired = |key: CgroupKey| {
            let removed =
                self.cgroups.get(key).filter(|_| self.cgroups.is_removed(key)).and_then(|cgroup| cgroup.removed);
            removed.is_some_and(|removed| now.duration_since(removed) >= GRACE)
        };
        let is_stuck = |number| self.kernel.as_ref().is_some_and(|kernel| kernel.stuck.contains(&number));
        let slots =
            in_use.iter().filter(|(number, slot)| *number >= SLOT_FIRST && is_expired(slot.key) && !is_stuck(*number));
        slots.map(|(number, slot)| (number, *slot)).collect()
    }
}

fn clear(collectors: &mut [Attached], slots: &[u32]) {
    if slots.is_empty() {
        return;
    }
    for attached in collectors {
        attached.collector.clear_all(slots);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        config::Units,
        kernel::cgroupfs::hierarchies::Hierarchies,
        registry::ledger::Definition,
        signal::{Layout, PathNames},
    };

    /// A tree of two cgroups, `/a` and `/b`, and their keys.
    fn tree(root: &Path) -> (Cgroups, [CgroupKey; 2]) {
        fs::write(root.join("cgroup.controllers"), "cpu\n").unwrap();
        let keys = ["a", "b"].map(|name| {
            fs::create_dir(root.join(name)).unwrap();
            fs::metadata(root.join(name)).unwrap().ino()
        });
        (Cgroups::scan(Hierarchies::find(root).unwrap(), Units::Each), keys)
    }

    fn in_use(number: u32, key: CgroupKey, generation: u32) -> SlotsInUse {
        [(number, Slot { key, generation, ..Slot::default() })].into_iter().collect()
    }

    #[test]
    fn whose_a_slot_is_is_known_until_it_has_another_holder_and_no_longer_than_the_place_in_the_ledger() {
        let root = tempfile::tempdir().unwrap();
        let (mut cgroups, [a, b]) = tree(root.path());
        let definition = Definition { layout: Arc::new(Layout::default()), active: true };
        let mut ledger = Ledger::new(vec![definition], Duration::from_secs(1));
        let fixed = FixedEntities::new(SystemTime::UNIX_EPOCH, false);
        let mut resolved = Resolved::default();
        let mut look = |cgroups: &Cgroups, ledger: &mut Ledger, slots: &SlotsInUse| {
            let entities = Entities { cgroups, fixed: &fixed };
            resolved.resolve(slots, entities, ledger);
            let (number, holder) = slots.iter().next().unwrap();
            (resolved.has(number, holder), resolved.slot(number).map(|slot| slot.id))
        };
        let (of_a, of_b) = (in_use(9, a, 0), in_use(9, b, 1));
        let first = look(&cgroups, &mut ledger, &of_a);
        let place = |ledger: &mut Ledger, unit| ledger.entity(&Entity::unit(unit).into(), Since::NEVER);
        assert_eq!(first, (true, Some(place(&mut ledger, "/a"))));
        assert_eq!(look(&cgroups, &mut ledger, &of_b), (true, Some(place(&mut ledger, "/b"))));
        // Nobody has read anything of them, so both are gone and forgotten, and a stranger has their places.
        let now = Instant::now();
        ledger.begin(now, &PathNames);
        ledger.finish(now, &PathNames);
        ledger.begin(now + Duration::from_secs(2), &PathNames);
        let strangers = [place(&mut ledger, "x"), place(&mut ledger, "y")];
        let (_, again) = look(&cgroups, &mut ledger, &of_b);
        assert!(again.is_some_and(|again| !strangers.contains(&again)), "{again:?} is one of {strangers:?}");
        // One that is not known yet is asked for again, and found once it is born.
        fs::create_dir(root.path().join("c")).unwrap();
        let of_c = in_use(9, fs::metadata(root.path().join("c")).unwrap().ino(), 2);
        assert_eq!(look(&cgroups, &mut ledger, &of_c), (false, None));
        for change in cgroups.rescan() {
            cgroups.apply(change, Instant::now());
        }
        assert_eq!(look(&cgroups, &mut ledger, &of_c), (true, Some(place(&mut ledger, "/c"))));
    }

    #[test]
    fn who_was_there_before_podlens_is_found_and_all_others_are_born() {
        let root = tempfile::tempdir().unwrap();
        let (mut cgroups, [a, _]) = tree(root.path());
        fs::create_dir(root.path().join("c")).unwrap();
        let c = fs::metadata(root.path().join("c")).unwrap().ino();
        for change in cgroups.rescan() {
            cgroups.apply(change, Instant::now());
        }
        let is_found = |key| matches!(cgroups.get(key).unwrap().since, Since::Found(_));
        assert_eq!((is_found(a), is_found(c)), (true, false));
        // Nobody knows when a cgroup was made whose birth was lost.
        cgroups.assume_gone(c + 1000, Instant::now());
        assert!(matches!(cgroups.get(c + 1000).unwrap().since, Since::Found(_)));
    }
}
