//! From the ledger to a snapshot.

use std::{collections::HashSet, sync::Arc, time::SystemTime};

use super::{Entry, Ledger};
use crate::{
    registry::{
        EntityState, Section, Snapshot,
        snapshot::{Caused, Culprit},
    },
    signal::{Entity, EntityKey, Naming},
};

/// Who is in a snapshot, in the order of the names.
struct Listed<'a> {
    named: &'a EntityKey,
    carried: bool,
    entry: &'a Entry,
}

impl Ledger {
    /// The view of the sweep that has ended, under the names that were known at it. A sweep has one.
    #[must_use]
    pub fn snapshot(&mut self, taken: SystemTime, node: Arc<str>, naming: &impl Naming) -> Snapshot {
        let mut sections = std::mem::take(&mut self.sections);
        let series: Vec<(EntityKey, &Entry)>;
        let mut listed: Vec<Listed<'_>> = self
            .order
            .iter()
            .filter_map(|id| self.entries.get(usize::try_from(id.0).ok()?)?.as_ref())
            .map(|entry| Listed { named: &entry.named, carried: false, entry })
            .collect();
        if !self.carried.is_empty() {
            let present: HashSet<Entity> = listed.iter().map(|listed| listed.named.series()).collect();
            let carried = self.carried.iter().filter(|(series, _)| present.contains(*series));
            series = carried.map(|(series, carried)| (series.clone().into(), &carried.entry)).collect();
            listed.extend(series.iter().map(|(named, entry)| Listed { named, carried: true, entry }));
            listed.sort_by(|one, other| (one.named, one.carried).cmp(&(other.named, other.carried)));
        }
        let state = |Listed { named, carried, entry }: &Listed<'_>| EntityState {
            entity: (*named).clone(),
            since: entry.since,
            gone: entry.gone.is_some(),
            carried: *carried,
        };
        let mut entities: Vec<EntityState> = listed.iter().map(state).collect();
        let sorted = entities.len();
        let culprits = &mut self.culprits;
        let mut position = |culprit: &EntityKey| {
            let named = culprits.entry(culprit.clone()).or_insert_with(|| naming.name(culprit).into());
            let known = entities.get(..sorted).unwrap_or_default();
            let mut at = known.partition_point(|state| state.entity < *named);
            if known.get(at).is_none_or(|state| state.entity != *named) {
                let added = entities.get(sorted..).unwrap_or_default();
                at = sorted + added.iter().position(|state| state.entity == *named).unwrap_or(added.len());
                if at == entities.len() {
                    let since = SystemTime::UNIX_EPOCH;
                    entities.push(EntityState { entity: named.clone(), since, gone: true, carried: false });
                }
            }
            u32::try_from(at).unwrap_or(u32::MAX)
        };
        for (number, section) in sections.iter_mut().enumerate() {
            for (entity, listed) in (0_u32..).zip(&listed) {
                let Some(totals) = listed.entry.totals.get(number) else { continue };
                // What is carried has no row of the present: it would be that of the instance that goes on from it.
                let mut row = totals.row.filter(|_| !listed.carried);
                if let Some(retired) = &totals.retired {
                    let with_retired = row.unwrap_or_else(|| section.push_row());
                    section.add(with_retired, retired);
                    row = Some(with_retired);
                }
                section.push_entity(row);
                let mut caused: Vec<(u32, u32, u64)> = totals
                    .caused()
                    .iter()
                    .map(|caused| (caused.column, position(&caused.culprit), caused.amount))
                    .collect();
                split(section, entity, &mut caused);
            }
        }
        // A collector that is not at work has no metrics at all.
        let active = sections.into_iter().zip(&self.definitions).filter(|(_, definition)| definition.active);
        let sections: Vec<Section> = active.map(|(section, _)| section).collect();
        self.sections =
            self.definitions.iter().map(|definition| Section::new(Arc::clone(&definition.layout))).collect();
        Snapshot { sequence: self.sequence, taken, node, entities, sections, infos: Arc::new([]) }
    }
}

/// Enters what an entity lost by culprit; what no name accounts for is the other culprits'. The same culprit may come
/// more than once, under several of its instances.
fn split(section: &mut Section, entity: u32, caused: &mut [(u32, u32, u64)]) {
    caused.sort_unstable();
    let layout = Arc::clone(section.layout());
    for (column, split) in (0_u32..).zip(layout.columns()).filter_map(|(at, column)| Some((at, column.metric.split?))) {
        let whole: u64 = layout
            .column(split.of)
            .and_then(|of| {
                let (cells, present) = section.cells(entity)?;
                let cells = of.of(cells, present)?;
                // A distribution's last cell is its sum.
                let one = |combination: &usize| of.combination(cells, *combination)?.last();
                Some(split.combinations.iter().filter_map(one).sum())
            })
            .unwrap_or_default();
        let mut named: u64 = 0;
        for same in caused.chunk_by(|one, next| (one.0, one.1) == (next.0, next.1)) {
            let Some((of_column, culprit, _)) = same.first() else { continue };
            if *of_column != column {
                continue;
            }
            let amount = same.iter().map(|(.., amount)| amount).sum();
            named += amount;
            section.push_caused(Caused { entity, column, culprit: Culprit::Entity(*culprit), amount });
        }
        let amount = whole.saturating_sub(named);
        if amount > 0 {
            section.push_caused(Caused { entity, column, culprit: Culprit::Other, amount });
        }
    }
}
