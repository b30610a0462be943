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
    collectors::lifecycle::Event,
    config::Units,
    kernel::hierarchy::Hierarchies,
    signal::{Entity, EntityKey, Subtree},
};

/// How long a removed cgroup's path is kept for slices that ended after the removal.
const KEEP_REMOVED: Duration = Duration::from_mins(1);

/// One cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup {
    /// Path from the root of its hierarchy.
    pub path: String,
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
        for event in cgroups.rescan() {
            cgroups.apply(event, Instant::now());
        }
        cgroups
    }

    /// Follows one event.
    pub fn apply(&mut self, event: Event, now: Instant) {
        match event {
            Event::Born { key, path } => self.insert(key, path),
            Event::Removed { key, .. } => {
                if let Some(cgroup) = self.known.get_mut(&key) {
                    cgroup.removed.get_or_insert(now);
                }
            }
        }
    }

    /// Compares with the trees as they are: for events that were lost. Gives those that make them good, which
    /// are still to be applied.
    #[must_use]
    pub fn rescan(&self) -> Vec<Event> {
        let found: HashMap<CgroupKey, String> =
            self.hierarchies.scan().into_iter().map(|directory| (directory.key, directory.path)).collect();
        let gone = |(key, cgroup): (&CgroupKey, &Cgroup)| {
            (cgroup.removed.is_none() && !found.contains_key(key)).then_some(Event::Removed { key: *key, last: None })
        };
        let mut events: Vec<Event> = self.known.iter().filter_map(gone).collect();
        let new = found.into_iter().filter(|(key, _)| !self.known.contains_key(key));
        events.extend(new.map(|(key, path)| Event::Born { key, path }));
        events
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
        let culprit = entity.as_culprit();
        self.known.insert(key, Cgroup { path, entity, culprit, top, since: SystemTime::now(), removed: None });
    }
}
