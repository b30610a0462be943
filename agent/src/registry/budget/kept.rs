//! What members of a fold had that are gone: its counters go on from there for as long as it has members.
//!
//! The ledger keeps what a container had until all exporters have it, and carries it on under the same names while there is
//! a later instance. What leaves the snapshot altogether is taken over here, and given back should the ledger carry it on
//! after all.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Folded, Snapshot, at,
    homes::{self, Pod},
    targets::Targets,
};
use crate::{
    registry::snapshot::{Caused, Culprit},
    signal::{Entity, EntityKey, Row, Since},
};

/// So long after its pod the ledger may still carry a container on; twice the ledger's own time.
const REVIVED: Duration = Duration::from_mins(2);
/// Of what members that are gone lost to others, by name; beyond it the rest has no name.
const CULPRITS: usize = 64;

/// All folds' leftovers, and the last snapshot.
#[derive(Default)]
pub(super) struct Kept {
    /// Without their instances: a pod that is made again under the same name goes on as the same series.
    folds: HashMap<Entity, Fold>,
    last: Option<Last>,
}

struct Last {
    raw: Arc<Snapshot>,
    into: Vec<Vec<u32>>,
    /// The entities, with the folds among them.
    targets: Vec<EntityKey>,
}

/// What is kept of one fold.
struct Fold {
    /// The earliest beginning of a member.
    since: Since,
    /// Whose names the ledger may carry on.
    members: HashMap<Entity, Member>,
    rest: Leftover,
}

struct Member {
    had: Leftover,
    /// Since when nothing of its pod is there.
    absent: Option<SystemTime>,
}

/// By section.
#[derive(Clone, Default)]
struct Leftover {
    rows: HashMap<usize, Row>,
    caused: HashMap<(usize, u32, Option<EntityKey>), u64>,
}

impl Kept {
    /// Takes over what has left the snapshot since the last one, and adds what is kept to the folds.
    pub(super) fn settle(&mut self, raw: &Arc<Snapshot>, targets: &mut Targets, folded: &mut Folded) {
        if let Some(last) = self.last.take()
            && !Arc::ptr_eq(&last.raw.entities, &raw.entities)
        {
            self.take_over(&last, raw, targets);
            self.give_back(raw, targets);
        }
        let wholes: HashSet<u32> = folded.into.iter().flat_map(|into| moved(into)).collect();
        // Who is only named as a culprit is no member: it has no beginning, and no values.
        let is_member = |position| raw.entity(position).is_some_and(|state| state.since != Since::NEVER);
        let into = folded.into.iter().flat_map(|into| (0_u32..).zip(into));
        let there: HashSet<u32> = into.filter(|(position, _)| is_member(*position)).map(|(_, whole)| *whole).collect();
        let mut there: Vec<(u32, Entity)> =
            there.into_iter().filter_map(|position| Some((position, targets.series(position)?))).collect();
        // A pod that has only its own cgroup left has what its containers had all the same; its sandbox is called as it is.
        let is_pod = |position| targets.pod(position) == position;
        there.retain(|(position, series)| {
            wholes.contains(position) || is_pod(*position) && self.folds.contains_key(series)
        });
        let names: HashSet<&Entity> = there.iter().map(|(_, series)| series).collect();
        self.folds.retain(|whole, _| names.contains(whole));
        for (position, series) in there {
            let Some(state) = usize::try_from(position).ok().and_then(|at| targets.entities.get_mut(at)) else {
                continue;
            };
            let fold = self.folds.entry(series).or_insert_with(|| Fold {
                since: state.since,
                members: HashMap::new(),
                rest: Leftover::default(),
            });
            fold.since = fold.since.min(state.since);
            state.since = fold.since;
            let members = fold.members.values().map(|member| &member.had);
            for leftover in members.chain([&fold.rest]) {
                leftover.add_to(position, targets, folded);
            }
        }
        for section in &mut folded.sections {
            section.order_caused();
        }
        if !self.folds.is_empty() {
            let targets = targets.entities.iter().map(|state| state.entity.clone()).collect();
            self.last = Some(Last { raw: Arc::clone(raw), into: folded.into.clone(), targets });
        }
    }

    /// Something is kept of a container that was called so.
    pub(super) fn has(&self, series: &Entity) -> bool {
        self.folds.values().any(|fold| fold.members.contains_key(series))
    }

    /// The pods of those of whom something is kept by name.
    pub(super) fn pods(&self) -> HashSet<Pod> {
        let members = self.folds.values().flat_map(|fold| fold.members.keys());
        members.filter_map(pod).collect()
    }

    /// Keeps what containers had whose names are in the snapshot no more.
    fn take_over(&mut self, last: &Last, raw: &Snapshot, targets: &Targets) {
        let ids: HashSet<&Arc<str>> = raw.entities.iter().filter_map(|state| instance(&state.entity)).collect();
        let wholes: Vec<HashSet<u32>> = last.into.iter().map(|into| moved(into).collect()).collect();
        for (position, state) in (0_u32..).zip(&*last.raw.entities) {
            let series = state.entity.series();
            // One that is called differently now is there all the same.
            let is_renamed = || !state.carried && instance(&state.entity).is_some_and(|id| ids.contains(id));
            if !matches!(*state.entity, Entity::Container(_)) || targets.has(&series) || is_renamed() {
                continue;
            }
            for (number, ((section, into), wholes)) in last.raw.sections.iter().zip(&last.into).zip(&wholes).enumerate()
            {
                let whole = at(into, position).filter(|whole| wholes.contains(whole));
                let Some(whole) = whole.and_then(|whole| last.targets.get(usize::try_from(whole).ok()?)) else {
                    continue;
                };
                let Some(fold) = self.folds.get_mut(&whole.series()) else { continue };
                let member = fold
                    .members
                    .entry(series.clone())
                    .or_insert_with(|| Member { had: Leftover::default(), absent: None });
                if let Some(mut row) = section.row(position) {
                    row.remove_gauges(section.layout());
                    match member.had.rows.get_mut(&number) {
                        Some(sum) => sum.add_row(section.layout(), &row),
                        None => drop(member.had.rows.insert(number, row)),
                    }
                }
                for caused in section.caused().iter().filter(|caused| caused.entity == position) {
                    let culprit = match caused.culprit {
                        Culprit::Other => None,
                        // As who it counted: itself, or its pod or workload.
                        Culprit::Entity(culprit) => {
                            let counted = at(into, culprit).unwrap_or(culprit);
                            usize::try_from(counted).ok().and_then(|at| last.targets.get(at)).cloned()
                        }
                    };
                    *member.had.caused.entry((number, caused.column, culprit)).or_default() += caused.amount;
                }
            }
        }
    }

    /// Lets go of those whom the ledger carries on, and forgets the names of those that will not come again.
    fn give_back(&mut self, raw: &Snapshot, targets: &Targets) {
        let carried: HashSet<Entity> =
            raw.entities.iter().filter(|state| state.carried).map(|state| state.entity.series()).collect();
        let pods: HashSet<Pod> = raw.entities.iter().filter_map(|state| pod(&state.entity)).collect();
        let layouts: Vec<_> = raw.sections.iter().map(|section| Arc::clone(section.layout())).collect();
        for fold in self.folds.values_mut() {
            fold.members.retain(|series, _| !carried.contains(series));
            let ended = fold.members.extract_if(|series, member| {
                if targets.has(series) || pod(series).is_some_and(|pod| pods.contains(&pod)) {
                    member.absent = None;
                    return false;
                }
                let since = *member.absent.get_or_insert(raw.taken);
                raw.taken.duration_since(since).is_ok_and(|absent| absent >= REVIVED)
            });
            for (_, member) in ended {
                for (section, row) in member.had.rows {
                    match (fold.rest.rows.get_mut(&section), layouts.get(section)) {
                        (Some(sum), Some(layout)) => sum.add_row(layout, &row),
                        _ => drop(fold.rest.rows.insert(section, row)),
                    }
                }
                for ((section, column, culprit), amount) in member.had.caused {
                    let is_full = fold.rest.caused.len() >= CULPRITS;
                    let named = (section, column, culprit);
                    let key =
                        if is_full && !fold.rest.caused.contains_key(&named) { (section, column, None) } else { named };
                    *fold.rest.caused.entry(key).or_default() += amount;
                }
            }
        }
    }
}

impl Leftover {
    fn add_to(&self, position: u32, targets: &mut Targets, folded: &mut Folded) {
        for (section, row) in &self.rows {
            if let Some(section) = folded.sections.get_mut(*section) {
                section.add_row(position, row);
            }
        }
        for ((section, column, culprit), amount) in &self.caused {
            let culprit = culprit.as_ref().map_or(Culprit::Other, |culprit| Culprit::Entity(targets.position(culprit)));
            if let Some(section) = folded.sections.get_mut(*section) {
                section.push_caused(Caused { entity: position, column: *column, culprit, amount: *amount });
            }
        }
    }
}

/// Where the values of others went.
fn moved(into: &[u32]) -> impl Iterator<Item = u32> {
    (0_u32..).zip(into).filter(|(position, whole)| position != *whole).map(|(_, whole)| *whole)
}

/// What tells an instance of a container from all others, whatever it is called.
pub(super) fn instance(entity: &Entity) -> Option<&Arc<str>> {
    match entity {
        Entity::Container(container) if container.container_id.is_empty() => Some(&container.pod_uid),
        Entity::Container(container) => Some(&container.container_id),
        Entity::Unit(_) | Entity::Workload(_) => None,
    }
}

fn pod(entity: &Entity) -> Option<Pod> {
    match entity {
        Entity::Container(container) => Some(homes::pod(container)),
        Entity::Unit(_) | Entity::Workload(_) => None,
    }
}
