//! From the ledger to a snapshot.

use std::{collections::HashSet, sync::Arc, time::SystemTime};

use super::{EntityId, Ledger, SectionLedger, place, totals::Totals};
use crate::{
    registry::{
        EntityState, Section, Snapshot,
        snapshot::{Caused, Culprit},
    },
    signal::{Column, Entity, EntityKey, Layout, Naming, Since, Split},
};

/// Who is in a snapshot. The next one has the same if nobody came, went or is called differently.
#[derive(Debug)]
pub(super) struct Listing {
    /// The ledger's count of changes that it is of.
    as_of: u64,
    /// Whose values the entities have, one for each of those that are in the order of the names.
    listed: Vec<Listed>,
    /// Culprits without values of their own stand behind the others.
    entities: Arc<Vec<EntityState>>,
}

#[derive(Debug)]
enum Listed {
    Own(EntityId),
    /// What is carried on under this series.
    Carried(Entity),
}

impl Ledger {
    /// The view of the sweep that has ended, under the names that were known at it. A sweep has one.
    #[must_use]
    pub fn snapshot(&mut self, taken: SystemTime, node: Arc<str>, naming: &impl Naming) -> Snapshot {
        let mut listing = self.listing.take().filter(|listing| listing.as_of == self.changes).unwrap_or_else(|| {
            self.culprits.forget_positions();
            self.list()
        });
        let Self { sections, culprits, carried, .. } = self;
        let mut caused = Vec::new();
        for (number, ledger) in sections.iter_mut().enumerate() {
            let layout = Arc::clone(&ledger.definition.layout);
            let splits = splits(&layout);
            for at in 0..listing.listed.len() {
                let (row, totals) = match listing.listed.get(at) {
                    Some(Listed::Own(id)) => {
                        (ledger.rows.get(place(*id)).copied().flatten(), ledger.totals.get(place(*id)))
                    }
                    // It has no row of the present: that would be the one of the instance that goes on from it.
                    Some(Listed::Carried(series)) => {
                        (None, carried.get(series).and_then(|carried| carried.of.totals.get(number)))
                    }
                    None => (None, None),
                };
                let retired = totals.and_then(Totals::retired);
                let row = match (row, retired) {
                    (Some(row), Some(retired)) => {
                        ledger.section.add_retired(row, retired);
                        Some(row)
                    }
                    (None, Some(retired)) => Some(ledger.section.push(retired)),
                    (row, None) => row,
                };
                ledger.section.push_entity(row);
                if !splits.is_empty() {
                    caused.clear();
                    caused.extend(totals.into_iter().flat_map(Totals::caused).filter_map(|caused| {
                        let find = |named: &EntityKey, id: &EntityKey| listing.position(named, id);
                        Some((caused.column, culprits.position(caused.culprit, naming, find)?, caused.amount))
                    }));
                    split(&mut ledger.section, &splits, u32::try_from(at).unwrap_or(u32::MAX), &mut caused);
                }
            }
        }
        // A collector that is not at work has no metrics at all.
        let sections =
            sections.iter_mut().filter(|ledger| ledger.definition.active).map(SectionLedger::take_section).collect();
        let entities = Arc::clone(&listing.entities);
        self.listing = Some(listing);
        Snapshot { sequence: self.sequence, taken, node, entities, sections, infos: Arc::new([]) }
    }

    /// Lists who is there, in the order of the names.
    fn list(&self) -> Listing {
        let own = |id: &EntityId| {
            let entry = self.entries.get(place(*id))?.as_ref()?;
            let (entity, of_cgroup) = (entry.named.clone(), entry.entity.clone());
            let (since, gone) = (entry.since, entry.gone.is_some());
            Some((EntityState { entity, id: of_cgroup, since, gone, carried: false }, Listed::Own(*id)))
        };
        let mut all: Vec<(EntityState, Listed)> = self.order.iter().filter_map(own).collect();
        if !self.carried.is_empty() {
            let present: HashSet<Entity> = all.iter().map(|(state, _)| state.entity.series()).collect();
            let carried = self.carried.iter().filter(|(series, _)| present.contains(*series));
            all.extend(carried.map(|(series, carried)| {
                let (entity, since) = (EntityKey::from(series.clone()), carried.of.entry.since);
                let (id, gone) = (entity.clone(), carried.of.entry.gone.is_some());
                (EntityState { entity, id, since, gone, carried: true }, Listed::Carried(series.clone()))
            }));
            let key = |state: &EntityState| (state.entity.clone(), state.carried);
            all.sort_by_cached_key(|(state, _)| key(state));
        }
        let (entities, listed) = all.into_iter().unzip();
        Listing { as_of: self.changes, listed, entities: Arc::new(entities) }
    }
}

impl Listing {
    /// The position of one who is called so, who is added if need be.
    fn position(&mut self, named: &EntityKey, id: &EntityKey) -> u32 {
        let (sorted, added) = self.entities.split_at_checked(self.listed.len()).unwrap_or_default();
        let mut at = sorted.partition_point(|state| state.entity < *named);
        if sorted.get(at).is_none_or(|state| state.entity != *named) {
            let known = added.iter().position(|state| state.entity == *named);
            at = sorted.len() + known.unwrap_or(added.len());
            if known.is_none() {
                let (entity, id, since) = (named.clone(), id.clone(), Since::NEVER);
                Arc::make_mut(&mut self.entities).push(EntityState { entity, id, since, gone: true, carried: false });
            }
        }
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}

impl SectionLedger {
    /// The rows of the sweep that has ended; an empty section takes their place.
    fn take_section(&mut self) -> Section {
        std::mem::replace(&mut self.section, Section::new(Arc::clone(&self.definition.layout)))
    }
}

/// Each metric that splits another one, with its position, and the metric that it splits.
fn splits(layout: &Layout) -> Vec<(u32, Split, Option<&Column>)> {
    let columns = (0_u32..).zip(layout.columns());
    columns.filter_map(|(at, column)| column.metric.split.map(|split| (at, split, layout.column(split.of)))).collect()
}

/// Enters what an entity lost by culprit; what no name accounts for is the other culprits'. The same culprit may come
/// more than once, under several of its instances.
fn split(section: &mut Section, splits: &[(u32, Split, Option<&Column>)], entity: u32, caused: &mut [(u32, u32, u64)]) {
    caused.sort_unstable();
    for (column, split, of) in splits {
        let column = *column;
        let whole: u64 = of
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
