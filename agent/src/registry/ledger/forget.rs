//! Who leaves the ledger: entities that are gone, and culprits whom nobody's loss names any more.

use std::time::{Duration, Instant};

use super::{Entry, Forgotten, Ledger, carried, culprits, place, totals::Totals};
use crate::signal::{Layout, Naming};

/// So long the final values of an entity whose names are about to come are kept, though they were delivered
/// without: a container that lived for a moment is gone before the API server has heard of it.
const NAMES_AWAITED: Duration = Duration::from_secs(30);

/// Culprits are looked through for those that nobody names any more when there are twice as many as were left the last time,
/// and this many more.
pub(super) const SPARE_CULPRITS: usize = 256;

impl Ledger {
    /// Forgets those who are gone and were delivered, or for whom nobody will come.
    pub(super) fn forget(&mut self, now: Instant, naming: &impl Naming) {
        let linger = self.linger;
        self.exporters.retain(|_, exporter| now.duration_since(exporter.at) < linger);
        let slowest = self.exporters.values().map(|exporter| exporter.acknowledged).min();
        let mut forgotten = Vec::new();
        let Self { entries, gone, sections, ids, free, expired, .. } = self;
        gone.retain(|id| {
            let is_forgotten = |entry: &mut Entry| {
                let Some(gone) = &entry.gone else { return false };
                let delivered = slowest.is_some_and(|acknowledged| acknowledged >= gone.sequence);
                let age = now.duration_since(gone.at);
                let over = age >= linger;
                let awaited = age < NAMES_AWAITED && naming.is_pending(&entry.entity) || entry.named != gone.named;
                *expired += u64::from(over && !delivered);
                over || delivered && !awaited
            };
            let Some(entry) = entries.get_mut(place(*id)).and_then(|entry| entry.take_if(is_forgotten)) else {
                return true;
            };
            ids.remove(&entry.entity);
            free.push(*id);
            let totals = sections.iter_mut().filter_map(|ledger| ledger.totals.get_mut(place(*id)).map(std::mem::take));
            forgotten.push(Forgotten { entry, totals: totals.collect() });
            false
        });
        if !forgotten.is_empty() {
            self.unordered = true;
            self.epoch += 1;
        }
        let carried = (self.carried.len(), forgotten.len());
        let layouts: Vec<&Layout> = self.sections.iter().map(|ledger| &*ledger.definition.layout).collect();
        carried::carry_on(&mut self.carried, forgotten, &self.entries, &layouts, now);
        self.changes += u64::from(carried != (self.carried.len(), 0));
        if self.culprits.len() > self.most_culprits {
            self.forget_culprits();
        }
    }

    /// Drops culprits whom nothing names any more.
    fn forget_culprits(&mut self) {
        let is_named = self.named_culprits();
        let new = self.culprits.retain(|id| is_named.get(culprits::place(id)) == Some(&true));
        let renumbered = |id| new.get(culprits::place(id)).copied().flatten().unwrap_or(id);
        let carried = self.carried.values_mut().flat_map(|carried| &mut carried.of.totals);
        for totals in self.sections.iter_mut().flat_map(|ledger| &mut ledger.totals).chain(carried) {
            totals.renumber(renumbered);
        }
        self.most_culprits = 2 * self.culprits.len() + SPARE_CULPRITS;
        self.epoch += 1;
    }

    /// For each culprit by its number whether somebody's loss still names it.
    pub(super) fn named_culprits(&self) -> Vec<bool> {
        let mut is_named = vec![false; self.culprits.len()];
        let carried = self.carried.values().flat_map(|carried| &carried.of.totals);
        for culprit in self.sections.iter().flat_map(|ledger| &ledger.totals).chain(carried).flat_map(Totals::culprits)
        {
            if let Some(is_named) = is_named.get_mut(culprits::place(culprit)) {
                *is_named = true;
            }
        }
        is_named
    }
}
