//! What forgotten instances have used, kept for as long as a later one of the same names lives or may come.

use std::{
    collections::{HashMap, HashSet, hash_map},
    time::{Duration, Instant},
};

use super::{Entry, Forgotten};
use crate::signal::{Entity, Layout};

/// So long, and for so many series at most, what a forgotten instance has used is kept though its pod or unit is gone
/// as well: one that is made again under the same name goes on from there. It would otherwise begin below or, worse,
/// above where the series ended, which a reader of counters does not see as a new beginning.
const MADE_AGAIN: Duration = Duration::from_mins(1);
pub(super) const MADE_AGAIN_SERIES: usize = 256;

#[derive(Debug)]
pub(super) struct Carried {
    pub(super) of: Forgotten,
    /// Since when nothing of its pod or unit is there.
    absent: Option<Instant>,
}

/// Adds the forgotten to what is carried, and drops what no entry will go on from.
pub(super) fn carry_on(
    carried: &mut HashMap<Entity, Carried>,
    forgotten: Vec<Forgotten>,
    entries: &[Option<Entry>],
    layouts: &[&Layout],
    now: Instant,
) {
    for mut one in forgotten {
        one.totals.iter_mut().zip(layouts).for_each(|(totals, layout)| totals.forget_kept_after_removal(layout));
        if let Some(series) = one.entry.gone.as_ref().map(|gone| gone.named.series()) {
            carry(carried, series, one, layouts);
        }
    }
    if carried.is_empty() {
        return;
    }
    // The whole pod counts: a container may be about to start again, or to get its name.
    let present: HashSet<(&str, &str)> = entries.iter().flatten().map(|entry| pod(&entry.named)).collect();
    carried.retain(|series, carried| {
        if present.contains(&pod(series)) {
            carried.absent = None;
            return true;
        }
        now.duration_since(*carried.absent.get_or_insert(now)) < MADE_AGAIN
    });
    let mut absent: Vec<(Instant, Entity)> =
        carried.iter().filter_map(|(series, carried)| Some((carried.absent?, series.clone()))).collect();
    absent.sort_unstable();
    let excess = absent.len().saturating_sub(MADE_AGAIN_SERIES);
    for (_, series) in absent.into_iter().take(excess) {
        carried.remove(&series);
    }
}

fn carry(carried: &mut HashMap<Entity, Carried>, series: Entity, of: Forgotten, layouts: &[&Layout]) {
    match carried.entry(series) {
        hash_map::Entry::Vacant(vacant) => {
            vacant.insert(Carried { of, absent: None });
        }
        hash_map::Entry::Occupied(mut occupied) => {
            let carried = &mut occupied.get_mut().of;
            carried.entry.since = carried.entry.since.min(of.entry.since);
            for ((totals, more), layout) in carried.totals.iter_mut().zip(&of.totals).zip(layouts) {
                totals.add(layout, more);
            }
        }
    }
}

/// What all containers of a pod have in common in Prometheus: its namespace and name. No pod is without a name, so no
/// unit is mistaken for one.
fn pod(entity: &Entity) -> (&str, &str) {
    match entity {
        Entity::Container(container) => (&container.namespace, &container.pod),
        Entity::Unit(unit) => (unit, ""),
        // Comes into being behind the ledger.
        Entity::Workload(of) => (&of.namespace, &of.name),
    }
}
