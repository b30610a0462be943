//! The cgroups of this node by key: their paths, their entities, and when they were made and removed.
//!
//! Follows the events of the collector `lifecycle` and a scan of the trees at start. The pipeline asks it for
//! the entity of a slot's holder.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use foldhash::fast::RandomState;
use podlens_common::cgroup::CgroupKey;

use super::entity::{folded, subtree};
use crate::{
    config::Units,
    kernel::cgroupfs::hierarchies::Hierarchies,
    signal::{Entity, EntityKey, Subtree},
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
    /// When it was made, or when podlens started if that is later.
    pub since: SystemTime,
    /// When it was removed.
    pub removed: Option<Instant>,
}

/// All cgroups that podlens has met.
#[derive(Debug)]
pub struct Cgroups {
    hierarchies: Hierarchies,
    units: Units,
    known: HashMap<CgroupKey, Cgroup, RandomState>,
}

impl Cgroups {
    /// The cgroups that exist now. The events that follow must already be recorded.
    #[must_use]
    pub fn scan(hierarchies: Hierarchies, units: Units) -> Self {
        let mut cgroups = Self { hierarchies, units, known: HashMap::default() };
        for directory in cgroups.hierarchies.scan() {
            cgroups.insert(directory.key, directory.path);
        }
        cgroups
    }

    /// Follows one birth or removal.
    pub fn apply(&mut self, change: Change, now: Instant) {
        match change {
            Change::Born { key, path } => match self.hierarchies.localize(key, &path) {
                Some(local) => self.insert(key, local),
                None => self.insert_outside(key, path),
            },
            Change::Removed { key } => {
                self.assume_outside(key);
                self.assume_gone(key, now);
                if let Some(cgroup) = self.known.get_mut(&key) {
                    cgroup.removed.get_or_insert(now);
                }
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
        self.insert_as(key, String::new(), false, EntityKey::from(Entity::unit(Entity::UNATTRIBUTED)), None);
        if let Some(cgroup) = self.known.get_mut(&key) {
            cgroup.removed = Some(now);
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

    /// All entities, once a cgroup, and whether that cgroup exists.
    pub fn entities(&self) -> impl Iterator<Item = (&Entity, bool)> {
        self.known.values().map(|cgroup| (&*cgroup.entity, cgroup.removed.is_none()))
    }

    /// One was removed and is still known.
    #[must_use]
    pub fn any_removed(&self) -> bool {
        self.known.values().any(|cgroup| cgroup.removed.is_some())
    }

    /// Drops cgroups that were removed long ago, but not those that still hold a slot.
    pub fn forget(&mut self, now: Instant, holds_slot: impl Fn(CgroupKey) -> bool) {
        self.known.retain(|key, cgroup| {
            cgroup.removed.is_none_or(|removed| now.duration_since(removed) < KEEP_REMOVED) || holds_slot(*key)
        });
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

    fn insert(&mut self, key: CgroupKey, path: String) {
        let (entity, top) = (EntityKey::from(folded(&path, self.units)), subtree(&path));
        self.insert_as(key, path, true, entity, top);
    }

    /// Whatever it is, it is not of this node: it has neither a name nor files here.
    fn insert_outside(&mut self, key: CgroupKey, path: String) {
        self.insert_as(key, path, false, EntityKey::from(Entity::unit(Entity::OUTSIDE)), None);
    }

    fn insert_as(&mut self, key: CgroupKey, path: String, is_visible: bool, entity: EntityKey, top: Option<Subtree>) {
        let (culprit, since) = (entity.as_culprit(), SystemTime::now());
        self.known.insert(key, Cgroup { path, is_visible, entity, culprit, top, since, removed: None });
    }
}
