//! Which pod and which workload each entity belongs to, as entities of a snapshot. Pure; called by the budget.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    EntityState, Snapshot, at,
    homes::{Homes, Pod, pod},
};
use crate::signal::{Container, Entity, EntityKey, Since};

/// A snapshot's entities, with pods and workloads that had no values of their own behind them.
pub(super) struct Targets {
    pub(super) entities: Vec<EntityState>,
    /// By position.
    pub(super) pod: Vec<u32>,
    /// By position.
    workload: Vec<u32>,
    positions: HashMap<EntityKey, u32>,
    /// All containers without their instances.
    series: HashSet<Entity>,
}

impl Targets {
    pub(super) fn of(snapshot: &Snapshot, homes: &Homes) -> Self {
        let uids = uids(snapshot);
        let positions = (0_u32..).zip(&*snapshot.entities).filter(|(_, state)| !state.carried);
        let positions = positions.map(|(position, state)| (state.entity.clone(), position)).collect();
        let count = snapshot.entities.len();
        let mut targets = Self {
            entities: (*snapshot.entities).clone(),
            pod: Vec::with_capacity(count),
            workload: Vec::with_capacity(count),
            positions,
            series: HashSet::new(),
        };
        for (position, state) in (0_u32..).zip(&*snapshot.entities) {
            let Entity::Container(container) = &*state.entity else {
                targets.pod.push(position);
                targets.workload.push(position);
                continue;
            };
            targets.series.insert(state.entity.series());
            let key = pod(container);
            let whole = Container {
                container: "".into(),
                container_id: "".into(),
                pod_uid: uids.get(&key).unwrap_or(&container.pod_uid).clone(),
                ..container.clone()
            };
            let pod = targets.join(Entity::Container(whole), state, |_| state.id.as_culprit());
            let workload = match homes.of(state) {
                Some(workload) => targets.join(Entity::Workload(workload.clone()), state, EntityKey::clone),
                None => pod,
            };
            targets.pod.push(pod);
            targets.workload.push(workload);
        }
        targets
    }

    /// The pod of the entity at this position; the entity itself if it is in none.
    pub(super) fn pod(&self, position: u32) -> u32 {
        at(&self.pod, position).unwrap_or(position)
    }

    /// The workload of the entity at this position; its pod if that is not known.
    pub(super) fn workload(&self, position: u32) -> u32 {
        at(&self.workload, position).unwrap_or(position)
    }

    /// A container of these names is there.
    pub(super) fn has(&self, series: &Entity) -> bool {
        self.series.contains(series)
    }

    /// The entity at this position without its instance.
    pub(super) fn series(&self, position: u32) -> Option<Entity> {
        Some(self.entities.get(usize::try_from(position).ok()?)?.entity.series())
    }

    /// Where this entity is, if anywhere.
    fn find(&self, entity: &EntityKey) -> Option<u32> {
        self.positions.get(entity).copied()
    }

    /// The position of one who is added if need be.
    pub(super) fn position(&mut self, entity: &EntityKey) -> u32 {
        self.find(entity).unwrap_or_else(|| {
            let (entity, id) = (entity.clone(), entity.clone());
            self.push(EntityState { entity, id, since: Since::NEVER, gone: true, carried: false })
        })
    }

    /// The position of a pod or workload of which this is a part; `id` tells who it is if it has no values of its own.
    fn join(&mut self, whole: Entity, part: &EntityState, id: impl FnOnce(&EntityKey) -> EntityKey) -> u32 {
        let whole = EntityKey::from(whole);
        let Some(position) = self.find(&whole) else {
            let (id, since, gone) = (id(&whole), part.since, part.gone);
            return self.push(EntityState { entity: whole, id, since, gone, carried: false });
        };
        // Who is only named as a culprit has no beginning so far, and no values.
        let is_part = part.since != Since::NEVER && part.entity != whole;
        if let Some(state) = usize::try_from(position).ok().and_then(|at| self.entities.get_mut(at)).filter(|_| is_part)
        {
            let begins = state.since == Since::NEVER;
            state.since = if begins { part.since } else { state.since.min(part.since) };
            state.gone &= part.gone;
        }
        position
    }

    fn push(&mut self, state: EntityState) -> u32 {
        let position = u32::try_from(self.entities.len()).unwrap_or(u32::MAX);
        self.positions.insert(state.entity.clone(), position);
        self.entities.push(state);
        position
    }
}

/// The uid of each pod; that of a living one where several have its name.
fn uids(snapshot: &Snapshot) -> HashMap<Pod, Arc<str>> {
    let mut uids = HashMap::new();
    let by_life = |lives: bool| snapshot.entities.iter().filter(move |state| !state.carried && state.gone != lives);
    for state in by_life(false).chain(by_life(true)) {
        if let Entity::Container(container) = &*state.entity {
            uids.insert(pod(container), Arc::clone(&container.pod_uid));
        }
    }
    uids
}
