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

mod candidates;
mod carried;
mod culprits;
mod forget;
mod totals;
mod view;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;

pub use self::culprits::CulpritId;
use self::{candidates::HALF_LIFE, carried::Carried, culprits::Culprits, totals::Totals, view::Listing};
use super::{Section, Snapshot};
use crate::signal::{Entity, EntityKey, Layout, Loss, Metric, Naming, Row, Since};

/// Exporters whose acknowledgement is waited for. Each address that scrapes is one.
const EXPORTERS: usize = 64;

/// Final values went undelivered.
pub static EXPIRED_UNEXPORTED: Loss = Loss {
    reason: "expired_unexported",
    means: "a removed entity was dropped after `linger` before each exporter had taken its final values: scrape more often, check the OTLP receiver, or raise `linger`",
};

/// One collector's section of the ledger.
#[derive(Clone, Debug)]
pub struct Definition {
    /// How its rows are laid out.
    pub layout: Arc<Layout>,
    /// The collector is at work: only then does the node have its metrics.
    pub active: bool,
}

/// An entity's place in the ledger, for as long as the ledger's epoch lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityId(u32);

/// All entities' values.
///
/// What a sweep touches of each entity stands in lists by place; the entries themselves are looked at where somebody comes,
/// goes or is called differently.
#[derive(Debug)]
pub struct Ledger {
    sections: Vec<SectionLedger>,
    /// An entity keeps its place; places of forgotten ones are given again.
    entries: Vec<Option<Entry>>,
    free: Vec<EntityId>,
    ids: HashMap<EntityKey, EntityId, RandomState>,
    /// By place: a cgroup of the entity was read in the present sweep.
    present: Vec<bool>,
    /// Places of those that are gone.
    gone: Vec<EntityId>,
    /// All entities in the order of their names, as of the last sweep.
    order: Vec<EntityId>,
    /// Entities came or went or are called differently since the order was found.
    unordered: bool,
    /// Entities that have no name yet since they came in the present sweep.
    unnamed: Vec<EntityId>,
    /// The version of the names under which the entities are called.
    version: Option<u64>,
    culprits: Culprits,
    /// How many culprits there may be until they are looked through.
    most_culprits: usize,
    /// Who is in a snapshot, as of the last one.
    listing: Option<Listing>,
    /// What forgotten instances have used, by their series, while a later one lives or may come.
    carried: HashMap<Entity, Carried>,
    exporters: HashMap<String, Exporter>,
    linger: Duration,
    sequence: u64,
    /// The end of the first sweep.
    began: Option<Instant>,
    changes: u64,
    epoch: u64,
    expired: u64,
}

/// One section: what all entities have in one collector's metrics.
#[derive(Debug)]
struct SectionLedger {
    definition: Definition,
    /// The present sweep's rows.
    section: Section,
    /// By place: the number of the entity's row in the present sweep.
    rows: Vec<Option<u32>>,
    /// By place.
    totals: Vec<Totals>,
}

#[derive(Debug)]
struct Entry {
    entity: EntityKey,
    /// What it is called.
    named: EntityKey,
    since: Since,
    gone: Option<Gone>,
}

/// When the final values were first in a snapshot under their last names.
#[derive(Clone, Debug)]
struct Gone {
    sequence: u64,
    at: Instant,
    named: EntityKey,
}

/// One who is forgotten, with what it had in each section.
#[derive(Debug)]
struct Forgotten {
    entry: Entry,
    totals: Vec<Totals>,
}

#[derive(Debug)]
struct Exporter {
    acknowledged: u64,
    at: Instant,
}

impl SectionLedger {
    fn new(definition: Definition) -> Self {
        let section = Section::new(Arc::clone(&definition.layout));
        Self { definition, section, rows: Vec::new(), totals: Vec::new() }
    }
}

impl Ledger {
    /// An empty ledger with one section per collector.
    #[must_use]
    pub fn new(definitions: Vec<Definition>, linger: Duration) -> Self {
        Self {
            sections: definitions.into_iter().map(SectionLedger::new).collect(),
            entries: Vec::new(),
            free: Vec::new(),
            ids: HashMap::default(),
            present: Vec::new(),
            gone: Vec::new(),
            order: Vec::new(),
            unordered: false,
            unnamed: Vec::new(),
            version: None,
            culprits: Culprits::default(),
            most_culprits: forget::SPARE_CULPRITS,
            listing: None,
            carried: HashMap::new(),
            exporters: HashMap::new(),
            linger,
            sequence: 0,
            began: None,
            changes: 0,
            epoch: 0,
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
            self.culprits.forget_names();
            self.listing = None;
            for entry in self.entries.iter_mut().flatten() {
                self.unordered |= entry.rename(naming);
            }
        }
        self.forget(now, naming);
        self.present.fill(false);
        for ledger in &mut self.sections {
            ledger.rows.fill(None);
            ledger.section.clear();
        }
    }

    /// The entity's place, made if need be.
    pub fn entity(&mut self, entity: &EntityKey, since: Since) -> EntityId {
        if let Some(id) = self.ids.get(entity) {
            let id = *id;
            if let Some(entry) = self.entry(id).filter(|entry| since < entry.since) {
                entry.since = since;
                self.changes += 1;
            }
            return id;
        }
        let entry = Entry { entity: entity.clone(), named: entity.clone(), since, gone: None };
        let id = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.present.push(false);
            for ledger in &mut self.sections {
                ledger.rows.push(None);
                ledger.totals.push(Totals::default());
            }
            EntityId(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
        });
        if let Some(place) = self.entries.get_mut(place(id)) {
            *place = Some(entry);
        }
        self.ids.insert(entity.clone(), id);
        self.unnamed.push(id);
        self.unordered = true;
        id
    }

    /// The number of one who makes others wait, given if need be.
    pub fn culprit(&mut self, entity: &EntityKey) -> CulpritId {
        self.culprits.id(entity)
    }

    /// Enters what a living cgroup of the entity has used so far.
    pub fn observe(&mut self, section: usize, id: EntityId, row: &Row) {
        if let Some(present) = self.present.get_mut(place(id)) {
            *present = true;
        }
        let Some(ledger) = self.sections.get_mut(section).filter(|_| !row.is_empty()) else { return };
        if let Some(number) = ledger.rows.get_mut(place(id)) {
            match number {
                Some(number) => ledger.section.add(*number, row),
                None => *number = Some(ledger.section.push(row)),
            }
        }
    }

    /// Enters what a cgroup of the entity had used when it went. An entity that is gone already has to be delivered
    /// once more.
    pub fn retire(&mut self, section: usize, id: EntityId, row: &Row) {
        let Some(entry) = self.entry(id) else { return };
        if entry.gone.take().is_some() {
            self.gone.retain(|gone| *gone != id);
            self.changes += 1;
        }
        let Some(ledger) = self.sections.get_mut(section) else { return };
        if let Some(totals) = ledger.totals.get_mut(place(id)) {
            totals.retire(&ledger.definition.layout, row);
        }
    }

    /// Enters what one entity lost to another, by the metric that tells it. An entity is no culprit of itself.
    pub fn caused(&mut self, section: usize, metric: &Metric, id: EntityId, culprit: CulpritId, amount: u64) {
        let Some(ledger) = self.sections.get_mut(section) else { return };
        let columns = ledger.definition.layout.columns();
        let found = (0_u32..).zip(columns).find(|(_, column)| column.metric == metric);
        if let (Some((at, column)), Some(totals)) = (found, ledger.totals.get_mut(place(id))) {
            if column.names_heavy_culprits() {
                totals.cause_a_part(at, culprit, amount);
            } else {
                totals.cause(at, culprit, amount);
            }
        }
    }

    /// Ends a sweep: an entity of whom nothing living was read is gone. One that is called differently since then
    /// has to be delivered once more.
    pub fn finish(&mut self, now: Instant, naming: &impl Naming) {
        for id in std::mem::take(&mut self.unnamed) {
            if let Some(entry) = self.entry(id) {
                entry.rename(naming);
            }
        }
        let age = now.duration_since(*self.began.get_or_insert(now)).as_secs() / HALF_LIFE.as_secs();
        let (age, mut named) = (u32::try_from(age).unwrap_or(u32::MAX), Vec::new());
        for totals in self.sections.iter_mut().flat_map(|ledger| &mut ledger.totals) {
            totals.name_culprits(age, &mut named);
        }
        let Self { entries, present, gone, changes, sequence, .. } = self;
        gone.retain(|id| {
            let Some(entry) = entries.get_mut(place(*id)).and_then(Option::as_mut) else { return false };
            if present.get(place(*id)) == Some(&true) {
                entry.gone = None;
                *changes += 1;
                return false;
            }
            if let Some(gone) = entry.gone.as_mut().filter(|gone| gone.named != entry.named) {
                gone.named = entry.named.clone();
                gone.sequence = *sequence;
            }
            true
        });
        // Most are present, and their entries need not be looked at.
        let absent = (0..).zip(&*present).filter_map(|(id, present)| (!present).then_some(EntityId(id)));
        for id in absent {
            let entry = entries.get_mut(place(id)).and_then(Option::as_mut);
            if let Some(entry) = entry.filter(|entry| entry.gone.is_none()) {
                entry.gone = Some(Gone { sequence: *sequence, at: now, named: entry.named.clone() });
                gone.push(id);
                *changes += 1;
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
    pub fn entities(&self) -> impl Iterator<Item = &EntityKey> {
        let has_retired = |at: usize| {
            self.sections.iter().any(|ledger| ledger.totals.get(at).is_some_and(|totals| totals.retired().is_some()))
        };
        let entries = self.entries.iter().enumerate().filter_map(|(at, entry)| Some((at, entry.as_ref()?)));
        let ended = entries.filter(move |(at, entry)| entry.gone.is_some() || has_retired(*at));
        let culprits = self.culprits.iter().zip(self.named_culprits());
        ended
            .map(|(_, entry)| &entry.entity)
            .chain(culprits.filter_map(|(culprit, is_named)| is_named.then_some(culprit)))
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
            if let Some(ledger) = sections.find(|ledger| Arc::ptr_eq(ledger.section.layout(), old.layout())) {
                ledger.section = old;
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
        self.gone.len()
    }

    /// Grows whenever the entities of a snapshot or their names, order or state are not those of the last one.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Grows whenever a place or a number that was given before may be somebody else's.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn entry(&mut self, id: EntityId) -> Option<&mut Entry> {
        self.entries.get_mut(place(id))?.as_mut()
    }
}

impl Entry {
    /// Calls it by the name that is known now; true if that is another one.
    fn rename(&mut self, naming: &impl Naming) -> bool {
        let named = naming.name(&self.entity);
        let is_new = *self.named != named;
        if is_new {
            self.named = named.into();
        }
        is_new
    }
}

fn place(id: EntityId) -> usize {
    usize::try_from(id.0).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
