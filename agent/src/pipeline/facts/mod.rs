//! What attribution knows of a snapshot's entities beside their names: facts as labels, requests and limits as values.
//!
//! Pure; the pipeline calls it for each snapshot. Attribution answers the facts and knows no metric. A fact that is not
//! known has no sample, and nothing is told about a container that is gone.

mod metrics;

use std::{collections::HashSet, sync::Arc};

use crate::{
    attribution::kubernetes::{Facts, View, pod::Resources},
    collectors::cpu,
    registry::{EntityState, Family, Info, Sample, Snapshot, Value},
    signal::{Container, Entity, Metric},
};

/// A metric and where its value is.
type Gauge = (&'static Metric, fn(&Resources) -> Option<f64>);

const GAUGES: [Gauge; 4] = [
    (&metrics::CPU_REQUEST, |resources| resources.cpu_request_cores),
    (&cpu::metrics::LIMIT, |resources| resources.cpu_limit_cores),
    (&metrics::MEMORY_REQUEST, |resources| resources.memory_request_bytes),
    (&metrics::MEMORY_LIMIT, |resources| resources.memory_limit_bytes),
];

/// An entity of a snapshot that lives and is known.
struct Known<'a> {
    position: u32,
    container: &'a Container,
    facts: Facts<'a>,
}

/// Adds to a snapshot what is known about its entities.
pub(super) fn describe(names: &View<'_>, snapshot: &mut Snapshot) {
    let known: Vec<Known<'_>> =
        (0_u32..).zip(&snapshot.entities).filter_map(|(position, state)| of(names, position, state)).collect();
    let infos = infos(&known);
    let resources = resources(&known);
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
    snapshot.infos = infos;
}

fn of<'a>(names: &'a View<'_>, position: u32, state: &'a EntityState) -> Option<Known<'a>> {
    match &state.entity {
        Entity::Container(container) if !state.gone && !state.carried => {
            Some(Known { position, container, facts: names.facts(container) })
        }
        _ => None,
    }
}

/// What each container is guaranteed and allowed, and what a pod is as a whole: on the pod's own series, once, where its
/// own cgroup and its sandbox are two entities.
fn resources(known: &[Known<'_>]) -> Vec<(u32, Resources)> {
    let mut told: HashSet<&Arc<str>> = HashSet::new();
    known
        .iter()
        .filter_map(|Known { position, container, facts }| {
            let resources = if container.container.is_empty() {
                facts.pod.filter(|_| told.insert(&container.pod_uid))?.resources
            } else {
                facts.resources?
            };
            Some((*position, resources))
        })
        .collect()
}

fn infos(known: &[Known<'_>]) -> Vec<Info> {
    let mut infos = Vec::new();
    let mut told: HashSet<&Arc<str>> = HashSet::new();
    for Known { position, container, facts } in known {
        if let Some(pod) = facts.pod
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
            infos.push(Info { metric: &metrics::POD_INFO, entity: *position, labels });
        }
        // The sandbox and the pod's own cgroup are no containers to anyone but the runtime.
        if let Some(image) = facts.image.filter(|_| !container.container.is_empty()) {
            let labels = vec![("container_id", Arc::clone(&container.container_id)), ("image", Arc::clone(image))];
            infos.push(Info { metric: &metrics::CONTAINER_INFO, entity: *position, labels });
        }
    }
    infos
}

#[cfg(test)]
mod tests;
