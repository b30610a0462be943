//! The cgroups of this node by key: their paths, their entities, and when they were made and removed.
//!
//! Follows the events of the collector `lifecycle` and a scan of the trees at start. The pipeline asks it for
//! the entity of a slot's holder.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant, SystemTime},
};

use foldhash::fast::RandomState;
use podlens_common::cgroup::CgroupKey;

use super::entity::{folded, subtree};
use crate::{
    config::Units,
    kernel::cgroupfs::hierarchies::Hierarchies,
    signal::{Entity, EntityKey, Since, Subtree},
};

/// How long a removed cgroup's path is kept for slices that ended after the removal.
const KEEP_REMOVED: Duration = Duration::from_mins(1);

/// What happened to a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Born {
        /// Its identity.
        key: CgroupKey,
        /// Path from the root of its hierarchy.
        path: String,
    },
    /// Its directory was removed.
    Removed {
        /// Its identity.
        key: CgroupKey,
    },
}

/// One cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup {
    /// Path from the root of its mounted tree; where `is_visible` is not set, the kernel's, or nothing if it is not known.
    pub path: String,
    /// It is in the mounted tree, so that a walk finds it for as long as it exists.
    pub is_visible: bool,
    /// Its entity by that path.
    pub entity: EntityKey,
    /// The same as a culprit.
    pub culprit: EntityKey,
    /// What lies below it, if it is the topmost cgroup of its entity.
    pub top: Option<Subtree>,
    /// When it was made, as far as podlens knows.
    pub since: Since,
    /// When it was removed.
    pub removed: Option<Instant>,
}

/// All cgroups that podlens has met.
#[derive(Debug)]
pub struct Cgroups {
    hierarchies: Hierarchies,
    units: Units,
    /// When the scan began.
    began: SystemTime,
    known: HashMap<CgroupKey, Cgroup, RandomState>,
    /// All entities, so that cgroups of one entity share its names, and how many cgroups of each exist.
    entities: HashMap<EntityKey, usize, RandomState>,
    /// Those that were removed and are still known.
    removed: HashSet<CgroupKey, RandomState>,
    /// Grows when somebody who was known becomes another one.
    version: u64,
}

impl Cgroups {
    /// The cgroups that exist now. The events that follow must already be recorded.
    #[must_use]
    pub fn scan(hierarchies: Hierarchies, units: Units) -> Self {
        let mut cgroups = Self {
            hierarchies,
            units,
            began: SystemTime::now(),
            known: HashMap::default(),
            entities: HashMap::default(),
            removed: HashSet::default(),
            version: 0,
        };
        for directory in cgroups.hierarchies.scan() {
            cgroups.insert(directory.key, directory.path, Since::Found(cgroups.began));
        }
        cgroups
    }

    /// Follows one birth or removal.
    pub fn apply(&mut self, change: Change, now: Instant) {
        match change {
            Change::Born { key, path } => match self.hierarchies.localize(key, &path) {
                Some(local) => self.insert(key, local, Since::Born(SystemTime::now())),
                None => self.insert_outside(key, path),
            },
            Change::Removed { key } => {
                self.assume_outside(key);
                self.assume_gone(key, now);
                self.remove(key, now);
            }
        }
    }

    /// Compares with the trees as they are: for events that were lost. Gives those that make them good, which
    /// are still to be applied.
    #[must_use]
    pub fn rescan(&self) -> Vec<Change> {
        let found: HashMap<CgroupKey, String> =
            self.hierarchies.scan().into_iter().map(|directory| (directory.key, directory.path)).collect();
        let gone = |(key, cgroup): (&CgroupKey, &Cgroup)| {
            (cgroup.is_visible && cgroup.removed.is_none() && !found.contains_key(key))
                .then_some(Change::Removed { key: *key })
        };
        let mut changes: Vec<Change> = self.known.iter().filter_map(gone).collect();
        let new = found.into_iter().filter(|(key, _)| self.known.get(key).is_none_or(|cgroup| !cgroup.is_visible));
        changes.extend(new.map(|(key, path)| Change::Born { key, path: self.hierarchies.globalize(key, path) }));
        changes
    }

    /// A cgroup that no walk has found is outside of the mounted tree, if that is not all of the kernel's.
    pub fn assume_outside(&mut self, key: CgroupKey) {
        if !self.known.contains_key(&key) && !self.hierarchies.is_whole(key) {
            self.insert_outside(key, String::new());
        }
    }

    /// A cgroup of which nothing is known is gone, so that its slot becomes free as any other's: its birth was lost, and no walk
    /// since has found it, or its removal was told.
    pub fn assume_gone(&mut self, key: CgroupKey, now: Instant) {
        if self.known.contains_key(&key) {
            return;
        }
        self.insert_as(key, String::new(), false, self.always(Entity::UNATTRIBUTED), None);
        self.remove(key, now);
    }

    fn remove(&mut self, key: CgroupKey, now: Instant) {
        if let Some(cgroup) = self.known.get_mut(&key) {
            cgroup.removed.get_or_insert(now);
            if self.removed.insert(key) {
                count(&mut self.entities, &cgroup.entity, |cgroups| cgroups.saturating_sub(1));
            }
        }
    }

    /// The mounted trees are not all of the kernel's.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.hierarchies.part().is_some()
    }

    /// What is known of a cgroup.
    #[must_use]
    pub fn get(&self, key: CgroupKey) -> Option<&Cgroup> {
        self.known.get(&key)
    }

    /// Everything that is known.
    pub fn iter(&self) -> impl Iterator<Item = (CgroupKey, &Cgroup)> {
        self.known.iter().map(|(key, cgroup)| (*key, cgroup))
    }

    /// All entities, and whether a cgroup of each exists. Those that name a pod as a culprit are among them.
    pub fn entities(&self) -> impl Iterator<Item = (&Entity, bool)> {
        self.entities.iter().map(|(entity, cgroups)| (&**entity, *cgroups > 0))
    }

    /// One was removed and is still known.
    #[must_use]
    pub fn any_removed(&self) -> bool {
        !self.removed.is_empty()
    }

    /// It was removed and is still known.
    #[must_use]
    pub fn is_removed(&self, key: CgroupKey) -> bool {
        self.removed.contains(&key)
    }

    /// Grows when a key stands for another entity than before. What was found out of all other keys still holds.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Drops cgroups that were removed long ago, but not those that still hold a slot.
    pub fn forget(&mut self, now: Instant, holds_slot: impl Fn(CgroupKey) -> bool) {
        let Self { known, entities, removed, .. } = self;
        let before = removed.len();
        removed.retain(|key| {
            let at = known.get(key).and_then(|cgroup| cgroup.removed);
            let is_kept = at.is_some_and(|at| now.duration_since(at) < KEEP_REMOVED) || holds_slot(*key);
            if !is_kept {
                known.remove(key);
            }
            is_kept
        });
        if removed.len() != before {
            // The last who has it.
            entities.retain(|entity, _| !entity.is_unshared());
        }
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// None is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn insert(&mut self, key: CgroupKey, path: String, since: Since) {
        let (entity, top) = (EntityKey::from(folded(&path, self.units)), subtree(&path));
        self.insert_as(key, path, true, (entity, since), top);
    }

    /// Whatever it is, it is not of this node: it has neither a name nor files here.
    fn insert_outside(&mut self, key: CgroupKey, path: String) {
        self.insert_as(key, path, false, self.always(Entity::OUTSIDE), None);
    }

    /// A unit that was there before podlens, whichever of its cgroups were.
    fn always(&self, unit: &str) -> (EntityKey, Since) {
        (EntityKey::from(Entity::unit(unit)), Since::Found(self.began))
    }

    fn insert_as(
        &mut self,
        key: CgroupKey,
        path: String,
        is_visible: bool,
        (entity, since): (EntityKey, Since),
        top: Option<Subtree>,
    ) {
        let culprit = self.shared(entity.as_culprit());
        let entity = self.shared(entity);
        count(&mut self.entities, &entity, |cgroups| cgroups + 1);
        let cgroup = Cgroup { path, is_visible, entity, culprit, top, since, removed: None };
        if let Some(before) = self.known.insert(key, cgroup) {
            if !self.removed.remove(&key) {
                count(&mut self.entities, &before.entity, |cgroups| cgroups.saturating_sub(1));
            }
            self.version += 1;
        }
    }

    /// The same entity, in the one memory that all of its cgroups share.
    fn shared(&mut self, entity: EntityKey) -> EntityKey {
        if let Some((known, _)) = self.entities.get_key_value(&entity) {
            return known.clone();
        }
        self.entities.insert(entity.clone(), 0);
        entity
    }
}

/// Counts an entity's cgroups anew.
fn count(
    entities: &mut HashMap<EntityKey, usize, RandomState>,
    entity: &EntityKey,
    change: impl FnOnce(usize) -> usize,
) {
    if let Some(cgroups) = entities.get_mut(entity) {
        *cgroups = change(*cgroups);
    }
}
