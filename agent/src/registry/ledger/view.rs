//! From the ledger to a snapshot.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use foldhash::fast::RandomState;

use super::{Entry, Ledger, Section, totals::Totals};
use crate::{
    registry::{EntityState, Family, Sample, Snapshot, Value, snapshot::Culprit},
    signal::{Column, Entity, EntityKey, Histogram, Kind, Naming, Row, Unit},
};

/// One entity's values in one section.
struct Total<'a> {
    /// Position among the snapshot's entities.
    entity: u32,
    totals: &'a Totals,
    row: Cow<'a, Row>,
}

impl Ledger {
    /// The view of the sweep that has ended, under the names that were known at it.
    #[must_use]
    pub fn snapshot(&self, taken: SystemTime, node: Arc<str>, naming: &impl Naming) -> Snapshot {
        let mut listed: Vec<(&Entity, bool, &Entry)> =
            self.entries.iter().map(|entry| (entry.named(), false, entry)).collect();
        if !self.carried.is_empty() {
            let series: HashSet<Entity> = listed.iter().map(|(named, ..)| named.series()).collect();
            let carried = self.carried.iter().filter(|(carried, _)| series.contains(*carried));
            listed.extend(carried.map(|(series, carried)| (series, true, &carried.entry)));
            listed.sort_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
        }
        let state = |(named, carried, entry): &(&Entity, bool, &Entry)| EntityState {
            entity: (*named).clone(),
            since: entry.since,
            gone: entry.gone.is_some(),
            carried: *carried,
        };
        let mut entities: Vec<EntityState> = listed.iter().map(state).collect();
        let mut culprits = Culprits { sorted: entities.len(), positions: HashMap::default() };
        let mut families = Vec::new();
        for (number, section) in self.sections.iter().enumerate().filter(|(_, section)| section.active) {
            let totals: Vec<Total<'_>> = (0_u32..)
                .zip(&listed)
                .filter_map(|(entity, (_, _, entry))| {
                    let totals = entry.totals.get(number)?;
                    let row = totals.total();
                    (!row.is_empty() || !totals.caused_ns().is_empty()).then_some(Total { entity, totals, row })
                })
                .collect();
            for column in section.layout.columns() {
                let samples = if section.split.is_some_and(|(metric, ..)| std::ptr::eq(metric, column.metric)) {
                    let mut samples = Vec::new();
                    for total in &totals {
                        let named = |culprit: &EntityKey| culprits.position(&mut entities, naming, culprit);
                        push_split(section, total, named, &mut samples);
                    }
                    samples
                } else {
                    samples_of(*column, &totals)
                };
                families.push(Family { metric: column.metric, samples });
            }
        }
        Snapshot { sequence: self.sequence, taken, node, entities, families, infos: Vec::new() }
    }
}

/// Positions of culprits among a snapshot's entities; one that has no values of its own is added behind them.
struct Culprits {
    /// How many entities are in the order of their names.
    sorted: usize,
    positions: HashMap<EntityKey, u32, RandomState>,
}

impl Culprits {
    fn position(&mut self, entities: &mut Vec<EntityState>, naming: &impl Naming, culprit: &EntityKey) -> u32 {
        if let Some(position) = self.positions.get(culprit) {
            return *position;
        }
        let named = naming.name(culprit);
        let sorted = entities.get(..self.sorted).unwrap_or_default();
        let mut position = sorted.partition_point(|state| state.entity < named);
        if sorted.get(position).is_none_or(|state| state.entity != named) {
            position = entities.len();
            entities.push(EntityState { entity: named, since: SystemTime::UNIX_EPOCH, gone: true, carried: false });
        }
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        self.positions.insert(culprit.clone(), position);
        position
    }
}

/// The split by culprit; what no name totals for is the other culprits'.
fn push_split(
    section: &Section,
    total: &Total<'_>,
    mut position: impl FnMut(&EntityKey) -> u32,
    samples: &mut Vec<Sample>,
) {
    let Some((_, of, label_values)) = section.split else { return };
    let cells = section.layout.column(of).and_then(|column| total.row.cells(column)).unwrap_or_default();
    let whole_ns: u64 = label_values.iter().filter_map(|value| cells.get(*value)).sum();
    let mut by_name: Vec<(u32, u64)> =
        total.totals.caused_ns().iter().map(|(culprit, ns)| (position(culprit), *ns)).collect();
    by_name.sort_unstable();
    by_name.dedup_by(|(next, more_ns), (kept, ns)| {
        let same = next == kept;
        *ns += if same { *more_ns } else { 0 };
        same
    });
    let named_ns: u64 = by_name.iter().map(|(_, ns)| ns).sum();
    let mut push = |culprit, ns| {
        let value = Value::Nanoseconds(ns);
        samples.push(Sample { entity: total.entity, label_value: 0, culprit: Some(culprit), value });
    };
    for (culprit, ns) in by_name {
        push(Culprit::Entity(culprit), ns);
    }
    let other_ns = whole_ns.saturating_sub(named_ns);
    if other_ns > 0 {
        push(Culprit::Other, other_ns);
    }
}

fn samples_of(column: Column, totals: &[Total<'_>]) -> Vec<Sample> {
    let metric = column.metric;
    let is_histogram = metric.kind == Kind::Histogram;
    let mut samples = Vec::with_capacity(totals.len() * if is_histogram { 1 } else { column.cells });
    for Total { entity, row, .. } in totals {
        let Some(cells) = row.cells(column) else { continue };
        if is_histogram {
            let value = Value::Histogram(Arc::new(histogram(cells)));
            samples.push(Sample { entity: *entity, label_value: 0, culprit: None, value });
            continue;
        }
        for (label_value, cell) in (0_u8..).zip(cells) {
            let value = match metric.unit {
                Unit::Seconds => Value::Nanoseconds(*cell),
                Unit::Bytes | Unit::Count(_) => Value::Integer(*cell),
                Unit::Cpus => Value::Float(*cell as f64 / 1e9),
            };
            samples.push(Sample { entity: *entity, label_value, culprit: None, value });
        }
    }
    // A metric that few entities have would keep room for all.
    if samples.len() < samples.capacity() / 2 {
        samples.shrink_to_fit();
    }
    samples
}

fn histogram(cells: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    for (bucket, count) in histogram.buckets.iter_mut().zip(cells) {
        *bucket = *count;
    }
    histogram.sum_ns = cells.last().copied().unwrap_or_default();
    histogram
}
