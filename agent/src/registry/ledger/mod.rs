//! The ledger: what each entity has used, over all its cgroups, living and gone.
//!
//! Pure bookkeeping. The pipeline enters rows at each sweep and takes a snapshot (view.rs); exporters acknowledge
//! snapshots; an entity whose last cgroup is gone stays until every exporter that is at work has had its final
//! values, or until the linger time is over, which is counted. An instance of a container that is forgotten while
//! another with the same names lives, or comes soon, is carried on (carried.rs), so that a series over both never
//! decreases.
//!
//! What living cgroups have used is not kept from sweep to sweep: rows are added up in the very memory that becomes the
//! snapshot.

mod carried;
mod totals;
mod view;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use foldhash::fast::RandomState;

use self::{carried::Carried, totals::Totals};
use super::{Section, Snapshot};
use crate::signal::{Entity, EntityKey, Layout, Loss, Metric, Naming, Row};

/// So long the final values of an entity whose names are about to come are kept, though they were delivered
/// without: a container that lived for a moment is gone before the API server has heard of it.
const NAMES_AWAITED: Duration = Duration::from_secs(30);

/// Exporters whose acknowledgement is waited for. Each address that scrapes is one.
const EXPORTERS: usize = 64;

/// Final values went undelivered.
pub static EXPIRED_UNEXPORTED: Loss = Loss {
    reason: "expired_unexported",
    means: "an entity that was gone was dropped after `linger` before each exporter had taken its final values: scrape more often, see to the OTLP receiver, or raise `linger`",
};

/// One collector's part of the ledger.
#[derive(Clone, Debug)]
pub struct Definition {
    /// How its rows are laid out.
    pub layout: Arc<Layout>,
    /// The collector is at work: only then does the node have its metrics.
    pub active: bool,
}

/// An entity's place in the ledger, until the next sweep begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityId(u32);

/// All entities' values.
#[derive(Debug)]
pub struct Ledger {
    definitions: Vec<Definition>,
    /// An entity keeps its place; places of forgotten ones are given again.
    entries: Vec<Option<Entry>>,
    free: Vec<EntityId>,
    ids: HashMap<EntityKey, EntityId, RandomState>,
    /// All entities in the order of their names, as of the last sweep.
    order: Vec<EntityId>,
    /// Entities came or went or are called differently since the order was found.
    unordered: bool,
    /// Entities that have no name yet since they came in the present sweep.
    unnamed: Vec<EntityId>,
    /// The version of the names under which the entities are called.
    version: Option<u64>,
    /// What culprits are called.
    culprits: HashMap<EntityKey, EntityKey, RandomState>,
    /// The present sweep's rows, one part per section.
    sections: Vec<Section>,
    /// What forgotten instances have used, by their series, while a later one lives or may come.
    carried: HashMap<Entity, Carried>,
    exporters: HashMap<String, Exporter>,
    linger: Duration,
    sequence: u64,
    changes: u64,
    expired: u64,
}

#[derive(Debug)]
struct Entry {
    entity: EntityKey,
    /// What it is called.
    named: EntityKey,
    since: SystemTime,
    /// One per section.
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
    named: EntityKey,
}

#[derive(Debug)]
struct Exporter {
    acknowledged: u64,
    at: Instant,
}

impl Entry {
    /// A cgroup of it is gone.
    fn has_ended(&self) -> bool {
        self.gone.is_some() || self.totals.iter().any(|totals| totals.retired.is_some())
    }
}

impl Ledger {
    /// An empty ledger with one section per collector.
    #[must_use]
    pub fn new(definitions: Vec<Definition>, linger: Duration) -> Self {
        let sections = definitions.iter().map(|definition| Section::new(Arc::clone(&definition.layout))).collect();
        Self {
            definitions,
            entries: Vec::new(),
            free: Vec::new(),
            ids: HashMap::default(),
            order: Vec::new(),
            unordered: false,
            unnamed: Vec::new(),
            version: None,
            culprits: HashMap::default(),
            sections,
            carried: HashMap::new(),
            exporters: HashMap::new(),
            linger,
            sequence: 0,
            changes: 0,
            expired: 0,
        }
    }

    /// Starts a sweep, under the names that are known now: forgets who may be forgotten, and expects all others to be
    /// entered anew.
    pub fn begin(&mut self, now: Instant, naming: &impl Naming) {
        self.sequence += 1;
        let version = naming.version();
        if self.version != Some(version) {
            self.version = Some(version);
            self.culprits.clear();
            for entry in self.entries.iter_mut().flatten() {
                let named = naming.name(&entry.entity);
                if *entry.named != named {
                    entry.named = named.into();
                    self.unordered = true;
                }
            }
        }
        self.forget(now, naming);
        for entry in self.entries.iter_mut().flatten() {
            entry.present = false;
            for totals in &mut entry.totals {
                totals.row = None;
            }
        }
        for section in &mut self.sections {
            section.clear();
        }
    }

    /// The entity's place, made if need be.
    pub fn entity(&mut self, entity: &EntityKey, since: SystemTime) -> EntityId {
        if let Some(id) = self.ids.get(entity) {
            let id = *id;
            if let Some(entry) = self.entry(id) {
                entry.since = entry.since.min(since);
            }
            return id;
        }
        let entry = Entry {
            entity: entity.clone(),
            named: entity.clone(),
            since,
            totals: vec![Totals::default(); self.definitions.len()],
            present: false,
            gone: None,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            EntityId(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
        });
        if let Some(place) = place_of(&mut self.entries, id) {
            *place = Some(entry);
        }
        self.ids.insert(entity.clone(), id);
        self.unnamed.push(id);
        self.unordered = true;
        id
    }

    /// Enters what a living cgroup of the entity has used so far.
    pub fn observe(&mut self, section: usize, id: EntityId, row: &Row) {
        let Self { entries, sections, .. } = self;
        let Some(entry) = place_of(entries, id).and_then(Option::as_mut) else { return };
        entry.present = true;
        self.changes += u64::from(entry.gone.take().is_some());
        if let (Some(totals), Some(section)) = (entry.totals.get_mut(section), sections.get_mut(section))
            && !row.is_empty()
        {
            let number = *totals.row.get_or_insert_with(|| section.push_row());
            section.add(number, row);
        }
    }

    /// Enters what a cgroup of the entity had used when it went. An entity that is gone already has to be delivered
    /// once more.
    pub fn retire(&mut self, section: usize, id: EntityId, row: &Row) {
        let Self { entries, definitions, .. } = self;
        let Some(entry) = place_of(entries, id).and_then(Option::as_mut) else { return };
        self.changes += u64::from(entry.gone.take().is_some());
        if let (Some(totals), Some(definition)) = (entry.totals.get_mut(section), definitions.get(section)) {
            totals.retire(&definition.layout, row);
        }
    }

    /// Enters what one entity lost to another, by the metric that tells it. An entity is no culprit of itself.
    pub fn caused(&mut self, section: usize, metric: &Metric, id: EntityId, culprit: &EntityKey, amount: u64) {
        let Self { entries, definitions, .. } = self;
        let columns = definitions.get(section).map(|definition| definition.layout.columns()).unwrap_or_default();
        let column = columns.iter().position(|column| column.metric == metric).and_then(|at| u32::try_from(at).ok());
        let entry = place_of(entries, id).and_then(Option::as_mut);
        if let (Some(column), Some(totals)) = (column, entry.and_then(|entry| entry.totals.get_mut(section))) {
            totals.cause(column, culprit, amount);
        }
    }

    /// Ends a sweep: an entity of whom nothing living was read is gone. One that is called differently since then
    /// has to be delivered once more.
    pub fn finish(&mut self, now: Instant, naming: &impl Naming) {
        for id in std::mem::take(&mut self.unnamed) {
            if let Some(entry) = self.entry(id) {
                let named = naming.name(&entry.entity);
                if *entry.named != named {
                    entry.named = named.into();
                }
            }
        }
        let sequence = self.sequence;
        for entry in self.entries.iter_mut().flatten() {
            match &mut entry.gone {
                None if entry.present => {}
                None => {
                    entry.gone = Some(Gone { sequence, at: now, named: entry.named.clone() });
                    self.changes += 1;
                }
                Some(gone) if gone.named != entry.named => {
                    gone.named = entry.named.clone();
                    gone.sequence = sequence;
                }
                Some(_) => {}
            }
        }
        if std::mem::take(&mut self.unordered) {
            self.changes += 1;
            let entries = self.entries.iter().zip(0..);
            let mut named: Vec<(&EntityKey, EntityId)> =
                entries.filter_map(|(entry, id)| Some((&entry.as_ref()?.named, EntityId(id)))).collect();
            named.sort_by(|one, other| one.0.cmp(other.0));
            self.order.clear();
            self.order.extend(named.iter().map(|(_, id)| *id));
        }
    }

    /// Everyone whose names may still be asked for though no cgroup may be left: entities of whom something is gone, and
    /// those who made others wait.
    #[must_use]
    pub fn entities(&self) -> HashSet<&EntityKey, RandomState> {
        let entries = || self.entries.iter().flatten();
        let all = entries().chain(self.carried.values().map(|carried| &carried.entry));
        let caused = all.flat_map(|entry| &entry.totals).flat_map(Totals::caused);
        let ended = entries().filter(|entry| entry.has_ended()).map(|entry| &entry.entity);
        ended.chain(caused.map(|caused| &caused.culprit)).collect()
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

    /// Takes the memory of a snapshot that nobody needs any more.
    pub fn recycle(&mut self, snapshot: Snapshot) {
        for old in snapshot.sections {
            let mut sections = self.sections.iter_mut();
            if let Some(section) = sections.find(|section| Arc::ptr_eq(section.layout(), old.layout())) {
                *section = old;
            }
        }
    }

    /// Entities whose final values were dropped before an exporter had them.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Entities that are gone and not yet forgotten.
    #[must_use]
    pub fn gone(&self) -> usize {
        self.entries.iter().flatten().filter(|entry| entry.gone.is_some()).count()
    }

    /// Grows whenever the entities of a snapshot or their names, order or state are not those of the last one.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn entry(&mut self, id: EntityId) -> Option<&mut Entry> {
        place_of(&mut self.entries, id)?.as_mut()
    }

    fn forget(&mut self, now: Instant, naming: &impl Naming) {
        let linger = self.linger;
        self.exporters.retain(|_, exporter| now.duration_since(exporter.at) < linger);
        let slowest = self.exporters.values().map(|exporter| exporter.acknowledged).min();
        let mut forgotten = Vec::new();
        for (place, id) in self.entries.iter_mut().zip(0..) {
            let is_forgotten = |entry: &mut Entry| {
                let Some(gone) = &entry.gone else { return false };
                let delivered = slowest.is_some_and(|acknowledged| acknowledged >= gone.sequence);
                let age = now.duration_since(gone.at);
                let over = age >= linger;
                let awaited = age < NAMES_AWAITED && naming.is_pending(&entry.entity) || entry.named != gone.named;
                self.expired += u64::from(over && !delivered);
                over || delivered && !awaited
            };
            if let Some(entry) = place.take_if(is_forgotten) {
                self.ids.remove(&entry.entity);
                self.free.push(EntityId(id));
                self.unordered = true;
                forgotten.push(entry);
            }
        }
        if !forgotten.is_empty() {
            // Among them may be culprits, which nobody may cause any more.
            self.culprits.clear();
        }
        let carried = (self.carried.len(), forgotten.len());
        carried::carry_on(&mut self.carried, forgotten, &self.entries, &self.definitions, now);
        self.changes += u64::from(carried != (self.carried.len(), 0));
    }
}

fn place_of(entries: &mut [Option<Entry>], id: EntityId) -> Option<&mut Option<Entry>> {
    entries.get_mut(usize::try_from(id.0).ok()?)
}

#[cfg(test)]
mod tests;
