//! The ledger: what each entity has used, over all its cgroups, living and gone.
//!
//! Pure bookkeeping. The pipeline enters rows at each sweep and takes a snapshot (view.rs); exporters acknowledge
//! snapshots; an entity whose last cgroup is gone stays until every exporter that is at work has had its final
//! values, or until the linger time is over, which is counted. An instance of a container that is forgotten while
//! another with the same names lives, or comes soon, is carried on (carried.rs), so that a series over both never
//! decreases.

mod carried;
mod totals;
mod view;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant, SystemTime},
};

use foldhash::fast::RandomState;

use self::{carried::Carried, totals::Totals};
use crate::signal::{Entity, EntityKey, Layout, Metric, Naming, Row};

/// So long the final values of an entity whose names are about to come are kept, though they were delivered
/// without: a container that lived for a moment is gone before the API server has heard of it.
const NAMES_AWAITED: Duration = Duration::from_secs(30);

/// Exporters whose acknowledgement is waited for. Each address that scrapes is one.
const EXPORTERS: usize = 64;

/// One collector's part of the ledger.
#[derive(Clone, Debug)]
pub struct Section {
    /// How its rows are laid out.
    pub layout: Layout,
    /// The collector is at work: only then does the node have its metrics.
    pub active: bool,
    /// The metric split by culprit: itself, the metric that it splits, and the label values of that.
    pub split: Option<(&'static Metric, &'static Metric, &'static [usize])>,
}

/// All entities' values.
#[derive(Debug)]
pub struct Ledger {
    sections: Vec<Section>,
    /// In the order of their names once a sweep has ended; those that came since are behind.
    entries: Vec<Entry>,
    /// Where in `entries` an entity is.
    positions: HashMap<EntityKey, usize, RandomState>,
    /// What forgotten instances have used, by their series, while a later one lives or may come.
    carried: HashMap<Entity, Carried>,
    exporters: HashMap<String, Exporter>,
    linger: Duration,
    sequence: u64,
    expired: u64,
}

#[derive(Debug)]
struct Entry {
    entity: EntityKey,
    /// What it is called in the present sweep; none until one has met it.
    named: Option<Entity>,
    since: SystemTime,
    /// One a section.
    totals: Vec<Totals>,
    /// A cgroup of this entity was read in the present sweep.
    present: bool,
    gone: Option<Gone>,
}

/// When the final values were first in a snapshot under their last names.
#[derive(Clone, Debug)]
struct Gone {
    sequence: u64,
    at: Instant,
    named: Entity,
}

#[derive(Debug)]
struct Exporter {
    acknowledged: u64,
    at: Instant,
}

impl Entry {
    fn named(&self) -> &Entity {
        self.named.as_ref().unwrap_or(&self.entity)
    }

    /// A cgroup of it is gone.
    fn has_ended(&self) -> bool {
        self.gone.is_some() || self.totals.iter().any(|totals| !totals.retired.is_empty())
    }
}

impl Ledger {
    /// An empty ledger with one section a collector.
    #[must_use]
    pub fn new(sections: Vec<Section>, linger: Duration) -> Self {
        Self {
            sections,
            entries: Vec::new(),
            positions: HashMap::default(),
            carried: HashMap::new(),
            exporters: HashMap::new(),
            linger,
            sequence: 0,
            expired: 0,
        }
    }

    /// Starts a sweep, under the names that are known now: forgets who may be forgotten, and expects all others to be
    /// entered anew.
    pub fn begin(&mut self, now: Instant, naming: &impl Naming) {
        self.sequence += 1;
        for entry in &mut self.entries {
            entry.named = Some(naming.name(&entry.entity));
        }
        self.forget(now, naming);
        for entry in &mut self.entries {
            entry.present = false;
            for totals in &mut entry.totals {
                totals.living.clear();
            }
        }
    }

    /// Enters what a living cgroup of the entity has used so far.
    pub fn observe(&mut self, section: usize, entity: &EntityKey, since: SystemTime, row: &Row) {
        let Some(entry) = self.entry(entity, since) else { return };
        entry.present = true;
        entry.gone = None;
        if let Some(totals) = entry.totals.get_mut(section) {
            totals.living.add_row(row);
        }
    }

    /// Enters what a cgroup of the entity had used when it went. An entity that is gone already has to be delivered
    /// once more.
    pub fn retire(&mut self, section: usize, entity: &EntityKey, since: SystemTime, row: &Row) {
        let mut row = row.clone();
        if let Some(section) = self.sections.get(section) {
            row.remove_gauges(&section.layout);
        }
        let Some(entry) = self.entry(entity, since) else { return };
        entry.gone = None;
        if let Some(totals) = entry.totals.get_mut(section) {
            totals.retired.add_row(&row);
        }
    }

    /// Enters time that one entity lost to another. An entity is no culprit of itself.
    pub fn caused(&mut self, section: usize, entity: &EntityKey, culprit: &EntityKey, ns: u64) {
        let entry = self.positions.get(entity).and_then(|position| self.entries.get_mut(*position));
        if let Some(totals) = entry.and_then(|entry| entry.totals.get_mut(section)) {
            totals.cause(culprit, ns);
        }
    }

    /// Ends a sweep: an entity of whom nothing living was read is gone. One that is called differently since then
    /// has to be delivered once more.
    pub fn finish(&mut self, now: Instant, naming: &impl Naming) {
        let sequence = self.sequence;
        for entry in &mut self.entries {
            let named = entry.named.get_or_insert_with(|| naming.name(&entry.entity));
            match &mut entry.gone {
                None if entry.present => {}
                None => entry.gone = Some(Gone { sequence, at: now, named: named.clone() }),
                Some(gone) if gone.named != *named => {
                    gone.named = named.clone();
                    gone.sequence = sequence;
                }
                Some(_) => {}
            }
        }
        if !self.entries.is_sorted_by(|one, other| one.named() <= other.named()) {
            self.entries.sort_by(|one, other| one.named().cmp(other.named()));
            self.find_positions();
        }
    }

    /// Everyone whose names may still be asked for though no cgroup may be left: entities of whom something is gone, and
    /// those who made others wait.
    #[must_use]
    pub fn entities(&self) -> HashSet<&EntityKey, RandomState> {
        let entries = self.entries.iter().chain(self.carried.values().map(|carried| &carried.entry));
        let culprits = entries.flat_map(|entry| &entry.totals).flat_map(Totals::culprits);
        let ended = self.entries.iter().filter(|entry| entry.has_ended()).map(|entry| &entry.entity);
        ended.chain(culprits).collect()
    }

    /// The exporter has delivered the snapshot of that number. Beyond [`EXPORTERS`] nobody is waited for.
    pub fn exported(&mut self, exporter: &str, sequence: u64, now: Instant) {
        if self.exporters.len() >= EXPORTERS && !self.exporters.contains_key(exporter) {
            return;
        }
        let known = self.exporters.entry(exporter.to_owned()).or_insert(Exporter { acknowledged: 0, at: now });
        known.acknowledged = known.acknowledged.max(sequence);
        known.at = now;
    }

    /// Entities whose final values were dropped before an exporter had them.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Entities that are gone and not yet forgotten.
    #[must_use]
    pub fn gone(&self) -> usize {
        self.entries.iter().filter(|entry| entry.gone.is_some()).count()
    }

    /// The entity's entry, made if need be.
    fn entry(&mut self, entity: &EntityKey, since: SystemTime) -> Option<&mut Entry> {
        let position = if let Some(position) = self.positions.get(entity) {
            *position
        } else {
            let position = self.entries.len();
            self.positions.insert(entity.clone(), position);
            self.entries.push(Entry {
                entity: entity.clone(),
                named: None,
                since,
                totals: vec![Totals::default(); self.sections.len()],
                present: false,
                gone: None,
            });
            position
        };
        let entry = self.entries.get_mut(position)?;
        entry.since = entry.since.min(since);
        Some(entry)
    }

    fn find_positions(&mut self) {
        self.positions.clear();
        let entities = self.entries.iter().map(|entry| entry.entity.clone());
        self.positions.extend(entities.zip(0..));
    }

    fn forget(&mut self, now: Instant, naming: &impl Naming) {
        let linger = self.linger;
        self.exporters.retain(|_, exporter| now.duration_since(exporter.at) < linger);
        let slowest = self.exporters.values().map(|exporter| exporter.acknowledged).min();
        let mut expired = 0;
        let forgotten = self.entries.extract_if(.., |entry| {
            let Some(gone) = &entry.gone else { return false };
            let delivered = slowest.is_some_and(|acknowledged| acknowledged >= gone.sequence);
            let age = now.duration_since(gone.at);
            let over = age >= linger;
            let awaited = age < NAMES_AWAITED && naming.is_pending(&entry.entity) || *entry.named() != gone.named;
            expired += u64::from(over && !delivered);
            over || delivered && !awaited
        });
        let forgotten: Vec<Entry> = forgotten.collect();
        self.expired += expired;
        if !forgotten.is_empty() {
            self.find_positions();
        }
        carried::carry_on(&mut self.carried, forgotten, &self.entries, now);
    }
}

#[cfg(test)]
mod tests;
