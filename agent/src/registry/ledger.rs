//! The ledger: what each owner has used, over all its cgroups, living and gone.
//!
//! Pure bookkeeping. The pipeline enters rows at each sweep and takes a snapshot; exporters acknowledge
//! snapshots; an owner whose last cgroup is gone stays until every exporter that is at work has had its final
//! values, or until the linger time is over, which is counted. An instance of a container that is forgotten while
//! another with the same names lives, or comes soon, is carried on, so that a series over both never decreases.

use std::{
    collections::{HashMap, HashSet, hash_map},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Container, Family, Histogram, Kind, Layout, Metric, Naming, Owner, OwnerState, Row, Sample, Snapshot, Unit, Value,
    snapshot::Culprit,
};

/// Culprits that are told by name for one waiting owner; the lightest beyond them become "(other)".
pub const CULPRITS_PER_OWNER: usize = 16;

/// So long the final values of an owner whose names are about to come are kept, though they were delivered
/// without: a container that lived for a moment is gone before the API server has heard of it.
const NAMES_AWAITED: Duration = Duration::from_secs(30);

/// So long, and for so many series at most, what a forgotten instance has used is kept though its pod or unit is gone
/// as well: one that is made again under the same name goes on from there. It would otherwise begin below or, worse,
/// above where the series ended, which a reader of counters does not see as a new beginning.
const MADE_AGAIN: Duration = Duration::from_mins(1);
const MADE_AGAIN_SERIES: usize = 256;

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

/// All owners' values.
#[derive(Debug)]
pub struct Ledger {
    sections: Vec<Section>,
    entries: HashMap<Owner, Entry>,
    /// What forgotten instances have used, by their series, while a later one lives or may come.
    carried: HashMap<Owner, Carried>,
    exporters: HashMap<String, Exporter>,
    linger: Duration,
    sequence: u64,
    expired: u64,
}

#[derive(Debug)]
struct Entry {
    since: SystemTime,
    /// One a section.
    accounts: Vec<Account>,
    /// A cgroup of this owner was read in the present sweep.
    present: bool,
    gone: Option<Gone>,
}

#[derive(Debug)]
struct Carried {
    entry: Entry,
    /// Since when nothing of its pod or unit is there.
    absent: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Account {
    /// Values of cgroups that are gone.
    retired: Row,
    /// Values of living cgroups as of the present sweep.
    living: Row,
    /// Time lost to others by name.
    caused_ns: HashMap<Owner, u64>,
}

/// When the final values were first in a snapshot under their last names.
#[derive(Clone, Debug)]
struct Gone {
    sequence: u64,
    at: Instant,
    named: Owner,
}

#[derive(Debug)]
struct Exporter {
    acknowledged: u64,
    at: Instant,
}

impl Ledger {
    /// An empty ledger with one section a collector.
    #[must_use]
    pub fn new(sections: Vec<Section>, linger: Duration) -> Self {
        Self {
            sections,
            entries: HashMap::new(),
            carried: HashMap::new(),
            exporters: HashMap::new(),
            linger,
            sequence: 0,
            expired: 0,
        }
    }

    /// Starts a sweep: forgets who may be forgotten, and expects all others to be entered anew.
    pub fn begin(&mut self, now: Instant, naming: &impl Naming) {
        self.sequence += 1;
        self.forget(now, naming);
        for entry in self.entries.values_mut() {
            entry.present = false;
            for (account, section) in entry.accounts.iter_mut().zip(&self.sections) {
                account.living = section.layout.row();
            }
        }
    }

    /// Enters what a living cgroup of the owner has used so far.
    pub fn observe(&mut self, section: usize, owner: &Owner, since: SystemTime, row: &Row) {
        let entry = self.entry(owner, since);
        entry.present = true;
        entry.gone = None;
        if let Some(account) = entry.accounts.get_mut(section) {
            account.living.add_row(row);
        }
    }

    /// Enters what a cgroup of the owner had used when it went. An owner that is gone already has to be delivered
    /// once more.
    pub fn retire(&mut self, section: usize, owner: &Owner, since: SystemTime, row: &Row) {
        let mut row = row.clone();
        if let Some(section) = self.sections.get(section) {
            row.remove_gauges(&section.layout);
        }
        let entry = self.entry(owner, since);
        entry.gone = None;
        if let Some(account) = entry.accounts.get_mut(section) {
            account.retired.add_row(&row);
        }
    }

    /// Enters time that one owner lost to another. An owner is no culprit of itself.
    pub fn caused(&mut self, section: usize, owner: &Owner, culprit: &Owner, ns: u64) {
        let Some(account) = self.entries.get_mut(owner).and_then(|entry| entry.accounts.get_mut(section)) else {
            return;
        };
        account.cause(culprit, ns);
    }

    /// Ends a sweep: an owner of whom nothing living was read is gone. One that is called differently since then
    /// has to be delivered once more.
    pub fn finish(&mut self, now: Instant, naming: &impl Naming) {
        for (owner, entry) in &mut self.entries {
            match &mut entry.gone {
                None if entry.present => {}
                None => entry.gone = Some(Gone { sequence: self.sequence, at: now, named: naming.name(owner) }),
                Some(gone) => {
                    let named = naming.name(owner);
                    if gone.named != named {
                        gone.named = named;
                        gone.sequence = self.sequence;
                    }
                }
            }
        }
    }

    /// Everyone whose names may still be asked for: owners, and those who made them wait.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        let entries = self.entries.values().chain(self.carried.values().map(|carried| &carried.entry));
        let culprits = entries.flat_map(|entry| &entry.accounts).flat_map(|account| account.caused_ns.keys());
        self.entries.keys().chain(culprits)
    }

    /// The view of this sweep, under the names that are known now.
    #[must_use]
    pub fn snapshot(&self, taken: SystemTime, node: Arc<str>, naming: &impl Naming) -> Snapshot {
        let name = |owner: &Owner| naming.name(owner);
        let mut listed: Vec<(Owner, bool, &Entry)> =
            self.entries.iter().map(|(owner, entry)| (name(owner), false, entry)).collect();
        let series: HashSet<Owner> = listed.iter().map(|(named, ..)| named.series()).collect();
        let carried = self.carried.iter().filter(|(carried, _)| series.contains(*carried));
        listed.extend(carried.map(|(series, carried)| (series.clone(), true, &carried.entry)));
        listed.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
        let mut owners: Vec<OwnerState> = listed
            .iter()
            .map(|(named, carried, entry)| OwnerState {
                owner: named.clone(),
                since: entry.since,
                gone: entry.gone.is_some(),
                carried: *carried,
            })
            .collect();
        let mut culprits = Culprits::among(&owners);
        let mut families = Vec::new();
        for (number, section) in self.sections.iter().enumerate().filter(|(_, section)| section.active) {
            let accounts: Vec<(u32, &Account, Row)> = (0u32..)
                .zip(&listed)
                .filter_map(|(position, (_, _, entry))| Some((position, entry.accounts.get(number)?)))
                .map(|(position, account)| (position, account, account.total()))
                .collect();
            for column in section.layout.columns() {
                let mut samples = Vec::new();
                for (position, account, total) in &accounts {
                    let position = *position;
                    if section.split.is_some_and(|(metric, ..)| std::ptr::eq(metric, column.metric)) {
                        account.split(
                            section,
                            total,
                            position,
                            &mut |owner| culprits.position(&mut owners, &name, owner),
                            &mut samples,
                        );
                    } else if let Some(cells) = total.cells(*column) {
                        push_samples(column.metric, cells, position, &mut samples);
                    }
                }
                families.push(Family { metric: column.metric, samples });
            }
        }
        Snapshot { sequence: self.sequence, taken, node, owners, families, infos: Vec::new() }
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

    /// Owners whose final values were dropped before an exporter had them.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Owners that are gone and not yet forgotten.
    #[must_use]
    pub fn gone(&self) -> usize {
        self.entries.values().filter(|entry| entry.gone.is_some()).count()
    }

    fn entry(&mut self, owner: &Owner, since: SystemTime) -> &mut Entry {
        let sections = &self.sections;
        let entry = self.entries.entry(owner.clone()).or_insert_with(|| Entry {
            since,
            accounts: sections.iter().map(|section| Account::new(&section.layout)).collect(),
            present: false,
            gone: None,
        });
        entry.since = entry.since.min(since);
        entry
    }

    fn forget(&mut self, now: Instant, naming: &impl Naming) {
        let linger = self.linger;
        self.exporters.retain(|_, exporter| now.duration_since(exporter.at) < linger);
        let slowest = self.exporters.values().map(|exporter| exporter.acknowledged).min();
        let mut expired = 0;
        let forgotten = self.entries.extract_if(|owner, entry| {
            let Some(gone) = &entry.gone else { return false };
            let delivered = slowest.is_some_and(|acknowledged| acknowledged >= gone.sequence);
            let age = now.duration_since(gone.at);
            let over = age >= linger;
            let awaited = age < NAMES_AWAITED && naming.is_pending(owner) || naming.name(owner) != gone.named;
            expired += u64::from(over && !delivered);
            over || delivered && !awaited
        });
        let forgotten: Vec<Entry> = forgotten.map(|(_, entry)| entry).collect();
        self.expired += expired;
        if forgotten.is_empty() && self.carried.is_empty() {
            return;
        }
        // The whole pod counts: a container may be about to start again, or to get its name.
        let present: HashSet<Owner> = self.entries.keys().map(|owner| pod(&naming.name(owner))).collect();
        for entry in forgotten {
            if let Some(series) = entry.gone.as_ref().map(|gone| gone.named.series()) {
                self.carry(series, entry);
            }
        }
        self.carried.retain(|series, carried| {
            if present.contains(&pod(series)) {
                carried.absent = None;
                return true;
            }
            now.duration_since(*carried.absent.get_or_insert(now)) < MADE_AGAIN
        });
        let mut absent: Vec<(Instant, Owner)> =
            self.carried.iter().filter_map(|(series, carried)| Some((carried.absent?, series.clone()))).collect();
        absent.sort_unstable();
        let excess = absent.len().saturating_sub(MADE_AGAIN_SERIES);
        for (_, series) in absent.into_iter().take(excess) {
            self.carried.remove(&series);
        }
    }

    fn carry(&mut self, series: Owner, entry: Entry) {
        match self.carried.entry(series) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Carried { entry, absent: None });
            }
            hash_map::Entry::Occupied(mut occupied) => {
                let carried = &mut occupied.get_mut().entry;
                carried.since = carried.since.min(entry.since);
                for (account, more) in carried.accounts.iter_mut().zip(entry.accounts) {
                    account.retired.add_row(&more.total());
                    for (culprit, ns) in more.caused_ns {
                        account.cause(&culprit, ns);
                    }
                }
            }
        }
    }
}

impl Account {
    fn new(layout: &Layout) -> Self {
        Self { retired: layout.row(), living: layout.row(), caused_ns: HashMap::new() }
    }

    fn cause(&mut self, culprit: &Owner, ns: u64) {
        if let Some(sum_ns) = self.caused_ns.get_mut(culprit) {
            *sum_ns += ns;
            return;
        }
        if self.caused_ns.len() >= CULPRITS_PER_OWNER {
            let lightest = self.caused_ns.iter().min_by_key(|(_, ns)| **ns).map(|(culprit, ns)| (culprit.clone(), *ns));
            match lightest {
                Some((lightest, least_ns)) if least_ns < ns => self.caused_ns.remove(&lightest),
                _ => return,
            };
        }
        self.caused_ns.insert(culprit.clone(), ns);
    }

    fn total(&self) -> Row {
        let mut total = self.retired.clone();
        total.add_row(&self.living);
        total
    }

    /// The split by culprit; what no name accounts for is the other culprits'.
    fn split(
        &self,
        section: &Section,
        total: &Row,
        owner: u32,
        position: &mut dyn FnMut(&Owner) -> u32,
        samples: &mut Vec<Sample>,
    ) {
        let Some((_, of, label_values)) = section.split else { return };
        let cells = section.layout.column(of).and_then(|column| total.cells(column)).unwrap_or_default();
        let whole_ns: u64 = label_values.iter().filter_map(|value| cells.get(*value)).sum();
        let mut by_name: HashMap<u32, u64> = HashMap::new();
        for (culprit, ns) in &self.caused_ns {
            *by_name.entry(position(culprit)).or_default() += ns;
        }
        let mut by_name: Vec<(u32, u64)> = by_name.into_iter().collect();
        by_name.sort_unstable();
        let named_ns: u64 = by_name.iter().map(|(_, ns)| ns).sum();
        let mut push = |culprit, ns| {
            samples.push(Sample { owner, label_value: 0, culprit: Some(culprit), value: Value::Nanoseconds(ns) });
        };
        for (culprit, ns) in by_name {
            push(Culprit::Owner(culprit), ns);
        }
        let other_ns = whole_ns.saturating_sub(named_ns);
        if other_ns > 0 {
            push(Culprit::Other, other_ns);
        }
    }
}

/// Positions of culprits among a snapshot's owners; one that has no values of its own is added behind them.
struct Culprits {
    positions: HashMap<Owner, u32>,
}

impl Culprits {
    fn among(owners: &[OwnerState]) -> Self {
        let mut positions = HashMap::with_capacity(owners.len());
        for (position, state) in (0u32..).zip(owners) {
            positions.entry(state.owner.clone()).or_insert(position);
        }
        Self { positions }
    }

    fn position(&mut self, owners: &mut Vec<OwnerState>, name: &impl Fn(&Owner) -> Owner, culprit: &Owner) -> u32 {
        let named = name(culprit);
        *self.positions.entry(named).or_insert_with_key(|named| {
            owners.push(OwnerState { owner: named.clone(), since: SystemTime::UNIX_EPOCH, gone: true, carried: false });
            u32::try_from(owners.len() - 1).unwrap_or(u32::MAX)
        })
    }
}

/// The series of a container's pod.
fn pod(owner: &Owner) -> Owner {
    match owner.series() {
        Owner::Container(container) => Owner::Container(Container { container: "".into(), ..container }),
        unit @ Owner::Unit(_) => unit,
    }
}

fn push_samples(metric: &'static Metric, cells: &[u64], owner: u32, samples: &mut Vec<Sample>) {
    if metric.kind == Kind::Histogram {
        let mut histogram = Histogram::default();
        for (bucket, count) in histogram.buckets.iter_mut().zip(cells) {
            *bucket = *count;
        }
        histogram.sum_ns = cells.last().copied().unwrap_or_default();
        samples.push(Sample { owner, label_value: 0, culprit: None, value: Value::Histogram(Arc::new(histogram)) });
        return;
    }
    for (label_value, cell) in (0u8..).zip(cells) {
        let value = match metric.unit {
            Unit::Seconds => Value::Nanoseconds(*cell),
            Unit::Bytes | Unit::Count(_) => Value::Integer(*cell),
            Unit::Cpus => Value::Float(*cell as f64 / 1e9),
        };
        samples.push(Sample { owner, label_value, culprit: None, value });
    }
}

#[cfg(test)]
mod tests;
