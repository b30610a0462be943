//! Everything that follows what happens: births and removals go to attribution first, then to the collectors; any other
//! record of the kernel programs to the collector that owns its kind. What users are to know of is noted in the journal.
//!
//! Called by the sweep and once a second.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use podlens_common::{
    cgroup::{CgroupKey, KEY_BLKIO, SLOT_FIRST},
    event::{CGROUP_BORN, CGROUP_REMOVED},
    lifecycle::INIT_ENDED,
};
use tracing::warn;

use super::{Attached, Inner, RESCAN, SEARCH, ends::Ends, event_log::EventLog};
use crate::{
    attribution::{
        cgroups::{Cgroup, Cgroups, Change},
        entity::{entity, is_container},
    },
    collectors::{ALL, EntityCgroup, HeldBack, Noticed, SlotsInUse, State},
    kernel::{
        events::{Malformed, Record},
        process,
    },
    signal::{AttributeValue, Entity, EntityKey, Event, Loss, Naming as _},
    telemetry::events::{self, NamesWatch},
};

/// An event was of nobody known.
pub(super) static ENTITY_UNKNOWN: Loss = Loss {
    reason: "entity_unknown",
    means: "a collector noticed an event of a cgroup whose birth was lost, so podlens does not know which container or unit it was",
};

/// What is noted in the journal, and what waits to be.
pub(super) struct EventReporting {
    pub(super) log: Arc<EventLog>,
    pub(super) ends: Ends,
    names: NamesWatch,
    /// Events of cgroups that are not known.
    pub(super) without_entity: u64,
}

impl EventReporting {
    /// Tells the states in which collectors begin.
    pub(super) fn new(log: Arc<EventLog>, states: &[(&'static str, State)], now: Instant) -> Self {
        for (name, state) in states {
            if let Some(event) = events::collector(name, state, SystemTime::now()) {
                log.note(event);
            }
        }
        Self { log, ends: Ends::default(), names: NamesWatch::new(now), without_entity: 0 }
    }

    /// Notes what a collector has noticed of a cgroup. Of nobody known it is told to nobody.
    fn notice(&mut self, noticed: Noticed, key: CgroupKey, at: SystemTime, cgroups: &Cgroups) {
        let Noticed { kind, mut attributes, others } = noticed;
        let entity_of = |key| cgroups.get(key).map(|cgroup| cgroup.entity.clone());
        let named = |(attribute, key)| Some((attribute, AttributeValue::Entity(entity_of(key)?)));
        attributes.extend(others.into_iter().filter_map(named));
        match entity_of(key) {
            entity @ Some(_) => self.log.note(Event { kind, at, entity, attributes }),
            None => self.without_entity += 1,
        }
    }
}

impl Inner {
    pub(super) fn follow_events(&mut self, now: Instant) {
        let Some(kernel) = &mut self.kernel else { return };
        let records = kernel.drain();
        let lost = kernel.lost_events();
        let blind = kernel.is_blind();
        let some_lost = lost != self.lost_events;
        if some_lost {
            self.names.births_lost();
        }
        for record in records {
            if let Err(cause) = self.dispatch(&record, now, !some_lost)
                && let Some(kernel) = &mut self.kernel
            {
                kernel.refuse(cause);
            }
        }
        self.retire_removed_later();
        if (some_lost || blind) && now.duration_since(self.scanned) >= RESCAN {
            if some_lost {
                warn!(
                    lost = lost - self.lost_events,
                    "events of the kernel programs were lost; walking the trees instead"
                );
            }
            self.lost_events = lost;
            self.rescan(now);
        }
    }

    /// `in_order`: it is known to come after those before it.
    fn dispatch(&mut self, record: &Record, now: Instant, in_order: bool) -> Result<(), Malformed> {
        match record.kind {
            CGROUP_BORN => self.follow(Change::Born { key: record.key, path: record.path()? }, now, in_order),
            CGROUP_REMOVED => self.follow(Change::Removed { key: record.key }, now, in_order),
            INIT_ENDED => {
                let end = record.body()?;
                let Some(reporting) = &mut self.reporting else { return Ok(()) };
                match self.cgroups.get(record.key) {
                    Some(cgroup) if is_container(&cgroup.path) => {
                        reporting.ends.seen(&container(cgroup), end, wall_clock(record.at_ns), now);
                    }
                    Some(_) => {}
                    None => reporting.ends.seen_somewhere(),
                }
            }
            kind => {
                let owner = ALL.iter().find(|spec| spec.records.contains(&kind)).ok_or(Malformed::Kind { kind })?;
                // None where it is switched off or does not work here.
                let at_work = self.collectors.iter_mut().find(|attached| attached.collector.spec().name == owner.name);
                let Some(attached) = at_work else { return Ok(()) };
                let noticed = attached.collector.event(record)?;
                if let (Some(noticed), Some(reporting)) = (noticed, &mut self.reporting) {
                    reporting.notice(noticed, record.key, wall_clock(record.at_ns), &self.cgroups);
                }
            }
        }
        Ok(())
    }

    /// Notes in the journal what there is to tell. `is_over`: nothing more will come, so nothing waits.
    pub(super) fn tell(&mut self, now: Instant, is_over: bool) {
        let now_ns = if is_over { u64::MAX } else { process::boot_ns() };
        for HeldBack { key, at_ns, noticed } in
            self.collectors.iter_mut().flat_map(|attached| attached.collector.held_back(now_ns))
        {
            if let Some(reporting) = &mut self.reporting {
                reporting.notice(noticed, key, wall_clock(at_ns), &self.cgroups);
            }
        }
        let Some(EventReporting { log, ends, names, .. }) = &mut self.reporting else { return };
        let synced = self.names.synced();
        let of_names = names.look(synced, SystemTime::now(), now);
        let of_statuses: Vec<_> = self.names.take_ends().into_iter().filter_map(|end| ends.status(end)).collect();
        let statuses = !is_over && self.names.tells_statuses();
        let due = ends.due(statuses, |entity| is_sandbox(&self.names.name(entity)), now);
        for event in of_names.into_iter().chain(of_statuses).chain(due) {
            log.note(event);
        }
    }

    pub(super) fn rescan(&mut self, now: Instant) {
        self.scanned = now;
        for change in self.cgroups.rescan() {
            self.follow(change, now, false);
        }
    }

    /// Tells all who have to know of a birth or a removal. `in_order`: it is known to come after those before it.
    fn follow(&mut self, change: Change, now: Instant, in_order: bool) {
        match change {
            Change::Born { key, .. } => {
                self.cgroups.apply(change, now);
                if let Some(cgroup) = self.cgroups.get(key) {
                    if let Entity::Container(container) = &*cgroup.entity {
                        self.unnamed.born(&container.pod_uid, now);
                    }
                    self.names.born(&cgroup.entity, in_order);
                    announce(&mut self.collectors, key, cgroup);
                }
            }
            Change::Removed { key } => {
                self.cgroups.apply(change, now);
                let Some(cgroup) = self.cgroups.get(key) else { return };
                if let Some(reporting) = &mut self.reporting
                    && cgroup.top.is_some()
                    && is_container(&cgroup.path)
                {
                    let entity = container(cgroup);
                    if reporting.ends.removed(&entity, now) {
                        self.names.want_end(&entity);
                    }
                }
                for Attached { section, collector } in &mut self.collectors {
                    if let Some(row) = collector.removed(key).filter(|row| !row.is_empty()) {
                        let entity = self.ledger.entity(&cgroup.entity, cgroup.since);
                        self.ledger.retire(*section, entity, &row);
                    }
                }
            }
        }
    }

    /// Enters the final values that collectors had to wait for.
    fn retire_removed_later(&mut self) {
        for Attached { section, collector } in &mut self.collectors {
            for (key, row) in collector.removed_later() {
                if let Some(cgroup) = self.cgroups.get(key).filter(|_| !row.is_empty()) {
                    let entity = self.ledger.entity(&cgroup.entity, cgroup.since);
                    self.ledger.retire(*section, entity, &row);
                }
            }
        }
    }

    /// Looks for cgroups that hold a slot and were never announced.
    pub(super) fn search_unknown(&mut self, in_use: &SlotsInUse, now: Instant) {
        let mut unknown = in_use
            .iter()
            .filter(|(number, slot)| *number >= SLOT_FIRST && !self.resolved.has(*number, slot))
            .filter(|(_, slot)| self.cgroups.get(slot.key).is_none())
            .peekable();
        if unknown.peek().is_none() {
            return;
        }
        for (_, slot) in unknown {
            self.unknown.entry(slot.key).or_insert(now);
        }
        if now.duration_since(self.scanned) >= RESCAN {
            self.rescan(now);
        }
        // Those that a walk has looked for, whoever made it.
        for (key, since) in self.unknown.iter().filter(|(_, since)| self.scanned >= **since) {
            self.cgroups.assume_outside(*key);
            if now.duration_since(*since) >= SEARCH {
                self.cgroups.assume_gone(*key, now);
            }
        }
    }
}

/// The container itself, though its series may be folded with those of other units.
fn container(cgroup: &Cgroup) -> EntityKey {
    EntityKey::from(entity(&cgroup.path))
}

/// Names tell a sandbox as a container without a name.
fn is_sandbox(named: &Entity) -> bool {
    matches!(named, Entity::Container(container) if container.container.is_empty() && !container.container_id.is_empty())
}

/// The moment of an event by the clock on the wall.
fn wall_clock(at_ns: u64) -> SystemTime {
    SystemTime::now() - Duration::from_nanos(process::boot_ns().saturating_sub(at_ns))
}

/// Tells the collectors of a cgroup that exists.
pub(super) fn announce(collectors: &mut [Attached], key: CgroupKey, cgroup: &Cgroup) {
    let Some(subtree) = cgroup.top else { return };
    // A directory of the blkio hierarchy only tells whose requests to disks are: the entity has its cgroup beside it.
    if key & KEY_BLKIO != 0 {
        return;
    }
    for attached in collectors {
        attached.collector.born(EntityCgroup { key, path: &cgroup.path, subtree });
    }
}
