//! Which workload a container or a pod belongs to, remembered. Pure; called by the budget.
//!
//! Who was counted in a workload stays there until it leaves the snapshot, whatever becomes of its names and of the facts
//! about it: the workload's counters would decrease otherwise. A pod's facts go before its last values do.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{EntityState, Snapshot};
use crate::signal::{Container, Entity, Workload};

/// Names of a pod's facts that tell its workload.
const WORKLOAD: &str = "workload";
const KIND: &str = "workload_type";

/// A pod, by its namespace and its name: one that is made again under the same name is the same here.
pub(super) type Pod = (Arc<str>, Arc<str>);

pub(super) fn pod(container: &Container) -> Pod {
    (Arc::clone(&container.namespace), Arc::clone(&container.pod))
}

/// The first workload that was told of each.
#[derive(Default)]
pub(super) struct Homes {
    /// By the uid of a pod and by the id of a container.
    of_ids: HashMap<Arc<str>, Workload>,
    /// For what the ledger carries on, which has no ids.
    of_names: HashMap<Pod, Workload>,
}

impl Homes {
    /// Takes in the facts of a snapshot.
    pub(super) fn learn(&mut self, snapshot: &Snapshot) {
        for (uid, workload) in told(snapshot) {
            self.of_ids.entry(uid).or_insert(workload);
        }
        for container in containers(snapshot).filter_map(|(container, carried)| (!carried).then_some(container)) {
            let Some(workload) = self.of_instance(container).cloned() else { continue };
            // Its pod's uid may change as well: a static pod's cgroup has another one than the API server tells.
            if !container.container_id.is_empty() {
                self.of_ids.entry(Arc::clone(&container.container_id)).or_insert_with(|| workload.clone());
            }
            self.of_names.entry(pod(container)).or_insert(workload);
        }
    }

    /// Forgets whoever is not in the snapshot any more. Those of the pods `kept` may yet be carried on.
    pub(super) fn forget(&mut self, snapshot: &Snapshot, kept: &HashSet<Pod>) {
        let instances = containers(snapshot).filter(|(_, carried)| !carried);
        let ids: HashSet<&str> = instances.flat_map(|(one, _)| [&*one.pod_uid, &*one.container_id]).collect();
        let pods: HashSet<Pod> = containers(snapshot).map(|(container, _)| pod(container)).collect();
        self.of_ids.retain(|id, _| ids.contains(&**id));
        self.of_names.retain(|pod, _| pods.contains(pod) || kept.contains(pod));
    }

    /// None if it is not known.
    pub(super) fn of(&self, state: &EntityState) -> Option<&Workload> {
        match &*state.entity {
            Entity::Container(container) if state.carried => self.of_names.get(&pod(container)),
            Entity::Container(container) => self.of_instance(container),
            Entity::Unit(_) | Entity::Workload(_) => None,
        }
    }

    fn of_instance(&self, container: &Container) -> Option<&Workload> {
        self.of_ids.get(&container.container_id).or_else(|| self.of_ids.get(&container.pod_uid))
    }
}

/// All containers, and whether the ledger carries them on.
fn containers(snapshot: &Snapshot) -> impl Iterator<Item = (&Container, bool)> {
    snapshot.entities.iter().filter_map(|state| match &*state.entity {
        Entity::Container(container) => Some((container, state.carried)),
        Entity::Unit(_) | Entity::Workload(_) => None,
    })
}

/// The workload of each pod that has facts, by the pod's uid.
fn told(snapshot: &Snapshot) -> impl Iterator<Item = (Arc<str>, Workload)> {
    snapshot.infos.iter().filter(|info| info.metric.of_pod).filter_map(|info| {
        let label = |name: &str| info.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| value);
        let (name, kind) = (label(WORKLOAD).filter(|name| !name.is_empty())?, label(KIND)?);
        let Entity::Container(container) = &*snapshot.entity(info.entity)?.entity else { return None };
        let namespace = Arc::clone(&container.namespace);
        let workload = Workload { namespace, kind: Arc::clone(kind), name: Arc::clone(name) };
        Some((Arc::clone(&container.pod_uid), workload))
    })
}
