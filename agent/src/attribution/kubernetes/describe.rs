//! What is known about a snapshot's entities beside their names: facts as labels, requests and limits as values.
//!
//! Pure. A fact that is not known has no sample, and nothing is told about a container that is gone.

use std::{collections::HashSet, sync::Arc};

use super::{metrics, pod::Resources, table::Table};
use crate::{
    collectors::cpu,
    registry::{EntityState, Family, Info, Sample, Snapshot, Value},
    signal::{Entity, Metric},
};

/// A metric and where its value is.
type Gauge = (&'static Metric, fn(&Resources) -> Option<f64>);

const GAUGES: [Gauge; 4] = [
    (&metrics::CPU_REQUEST, |resources| resources.cpu_request_cores),
    (&cpu::metrics::LIMIT, |resources| resources.cpu_limit_cores),
    (&metrics::MEMORY_REQUEST, |resources| resources.memory_request_bytes),
    (&metrics::MEMORY_LIMIT, |resources| resources.memory_limit_bytes),
];

/// Adds to a snapshot what `table` knows about its entities.
pub(super) fn describe(table: &Table, snapshot: &mut Snapshot) {
    snapshot.infos = infos(table, &snapshot.entities);
    let resources: Vec<(u32, &Resources)> = (0_u32..)
        .zip(&snapshot.entities)
        .filter_map(|(entity, state)| Some((entity, &table.container(living(state)?)?.resources)))
        .collect();
    for (metric, value) in GAUGES {
        // A collector at work has its families in each snapshot: it reads the value from the kernel and knows it
        // better, that there is none included.
        if snapshot.families.iter().any(|family| family.metric.name == metric.name) {
            continue;
        }
        let samples: Vec<Sample> = resources
            .iter()
            .filter_map(|(entity, resources)| {
                let value = Value::Float(value(resources)?);
                Some(Sample { entity: *entity, label_value: 0, culprit: None, value })
            })
            .collect();
        if !samples.is_empty() {
            snapshot.families.push(Family { metric, samples });
        }
    }
}

fn living(state: &EntityState) -> Option<&crate::signal::Container> {
    match &state.entity {
        Entity::Container(container) if !state.gone && !state.carried => Some(container),
        _ => None,
    }
}

fn infos(table: &Table, entities: &[EntityState]) -> Vec<Info> {
    let mut infos = Vec::new();
    let mut told: HashSet<&Arc<str>> = HashSet::new();
    for (entity, state) in (0u32..).zip(entities) {
        let Some(container) = living(state) else { continue };
        if let Some(pod) = table.pod(container)
            && told.insert(&container.pod_uid)
        {
            let host_network = if pod.host_network { "true" } else { "false" };
            let labels = vec![
                ("uid", Arc::clone(&pod.uid)),
                ("workload", Arc::clone(&pod.workload.name)),
                ("workload_type", Arc::clone(&pod.workload.kind)),
                ("qos", Arc::clone(&pod.qos)),
                ("host_network", host_network.into()),
            ];
            infos.push(Info { metric: &metrics::POD_INFO, entity, labels });
        }
        // The sandbox and the pod's own cgroup are no containers to anyone but the runtime.
        if let Some(image) = table.image(container).filter(|_| !container.container.is_empty()) {
            let labels = vec![("container_id", Arc::clone(&container.container_id)), ("image", Arc::clone(image))];
            infos.push(Info { metric: &metrics::CONTAINER_INFO, entity, labels });
        }
    }
    infos
}
