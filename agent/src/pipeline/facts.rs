//! What the source of names knows about pods and containers, as metrics beside those of the collectors.
//!
//! A fact that is not known has no sample, and nothing is told about a container that is gone. Facts change rarely: a
//! snapshot takes those of the last one where nothing has changed since.

use std::{collections::HashSet, sync::Arc};

use crate::{
    attribution::kubernetes::{Facts as Known, Names, pod::Resources},
    collectors::{Spec, cpu, memory},
    registry::{EntityState, Info, Section, Snapshot},
    signal::{ByDefault, Container, Entity, InfoMetric, Kind, Layout, Metric, Naming as _, Shown, Unit},
};

/// Facts about a pod.
pub static POD_INFO: InfoMetric =
    InfoMetric { name: "podlens_pod_info", help: "Always 1; facts about a pod", of_pod: true, source: "pod object" };

/// Facts about a container.
pub static CONTAINER_INFO: InfoMetric = InfoMetric {
    name: "podlens_container_info",
    help: "Always 1; facts about a container",
    of_pod: false,
    source: "pod object, or the runtime's annotations",
};

const RESOURCE: Metric = Metric {
    kind: Kind::Gauge,
    // kube-state-metrics tells the same of the pod object.
    by_default: ByDefault::Nothing,
    source: "pod object",
    must_equal: "status.containerStatuses[].resources, else spec.containers[].resources; of a pod spec.resources",
    ..Metric::BASE
};

/// Requested CPU.
pub static CPU_REQUEST: Metric = Metric {
    name: "podlens_cpu_request_cores",
    otlp_name: "podlens.cpu.request",
    unit: Unit::Cpus,
    help: "CPUs that the container requests: what the Kubernetes scheduler reserves for it",
    ..RESOURCE
};

/// Requested memory.
pub static MEMORY_REQUEST: Metric = Metric {
    name: "podlens_memory_request_bytes",
    otlp_name: "podlens.memory.request",
    unit: Unit::Bytes,
    help: "Memory that the container requests: what the Kubernetes scheduler reserves for it",
    ..RESOURCE
};

/// A metric and where its value is, in the metric's unit.
type Gauge = (&'static Metric, fn(&Resources) -> Option<f64>);

const GAUGES: [Gauge; 4] = [
    (&CPU_REQUEST, |resources| resources.cpu_request_cores.map(|cores| cores * 1e9)),
    (&cpu::metrics::LIMIT, |resources| resources.cpu_limit_cores.map(|cores| cores * 1e9)),
    (&MEMORY_REQUEST, |resources| resources.memory_request_bytes),
    (&memory::metrics::LIMIT, |resources| resources.memory_limit_bytes),
];

/// The names of all that is told here, which nobody has measured.
pub fn names() -> impl Iterator<Item = &'static str> {
    GAUGES.iter().map(|(metric, _)| metric.name).chain([POD_INFO.name, CONTAINER_INFO.name])
}

/// The facts of the last snapshot, and how to find them.
pub(super) struct Facts {
    layout: Arc<Layout>,
    /// Those metrics of facts that leave the node.
    shown: Vec<&'static InfoMetric>,
    /// Versions of the names and of the entities that the facts are of.
    as_of: Option<(u64, u64)>,
    infos: Arc<[Info]>,
    section: Section,
}

impl Facts {
    /// Nothing yet. What an active collector reads from the kernel is left to it, which knows it better, that there is
    /// none included.
    pub(super) fn new(active: impl IntoIterator<Item = &'static Spec>, shown: impl Fn(&str) -> Shown) -> Self {
        let of_collectors: Vec<&'static Metric> = active.into_iter().flat_map(|spec| spec.metrics).copied().collect();
        let metrics = GAUGES.iter().map(|(metric, _)| *metric).filter(|metric| !of_collectors.contains(metric));
        let layout = Layout::new(&metrics.collect::<Vec<_>>()).showing(|metric| shown(metric.name));
        let layout = Arc::new(layout);
        let shown = [&POD_INFO, &CONTAINER_INFO].into_iter().filter(|metric| shown(metric.name) != Shown::Nothing);
        Self {
            shown: shown.collect(),
            as_of: None,
            infos: Arc::new([]),
            section: Section::new(Arc::clone(&layout)),
            layout,
        }
    }

    /// Adds to a snapshot what is known about its entities, which are as of that version.
    pub(super) fn describe(&mut self, snapshot: &mut Snapshot, names: &Names, version: u64) {
        let as_of = Some((names.version(), version));
        if self.as_of != as_of {
            self.as_of = as_of;
            let known = known(&snapshot.entities, names);
            let infos = infos(&known).into_iter();
            self.infos = infos.filter(|info| self.shown.contains(&info.metric)).collect();
            self.section = self.resources(snapshot.entities.len(), &known);
        }
        snapshot.infos = Arc::clone(&self.infos);
        snapshot.sections.push(self.section.clone());
    }

    /// What is set for a pod as a whole is told once, though its own cgroup and its sandbox are two entities.
    fn resources(&self, entities: usize, known: &[(u32, &Container, Known)]) -> Section {
        let mut told: HashSet<&Arc<str>> = HashSet::new();
        let rows = known.iter().filter_map(|(entity, container, facts)| {
            if container.container.is_empty() && !told.insert(&container.pod_uid) {
                return None;
            }
            let mut row = self.layout.row();
            for (metric, value) in GAUGES {
                if let Some(value) = value(&facts.resources) {
                    row.add(&self.layout, metric, 0, whole(value));
                }
            }
            (!row.is_empty()).then_some((*entity, row))
        });
        Section::of_rows(Arc::clone(&self.layout), entities, rows, Vec::new())
    }
}

/// Facts about these entities, for whoever has no snapshot.
pub(super) fn infos_of(entities: &[EntityState], names: &Names) -> Arc<[Info]> {
    infos(&known(entities, names)).into()
}

/// What is known of those that live.
fn known<'a>(entities: &'a [EntityState], names: &Names) -> Vec<(u32, &'a Container, Known)> {
    let living = (0_u32..).zip(entities).filter_map(|(entity, state)| Some((entity, living(state)?)));
    living.map(|(entity, container)| (entity, container, names.facts(container))).collect()
}

/// The nearest whole number; a quantity can be a part of a byte.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

fn living(state: &EntityState) -> Option<&Container> {
    match &*state.entity {
        Entity::Container(container) if !state.gone && !state.carried => Some(container),
        _ => None,
    }
}

fn infos(known: &[(u32, &Container, Known)]) -> Vec<Info> {
    let mut infos = Vec::new();
    let mut told: HashSet<&Arc<str>> = HashSet::new();
    for (entity, container, facts) in known {
        if let Some(pod) = &facts.pod
            && told.insert(&container.pod_uid)
        {
            let host_network = if pod.host_network { "true" } else { "false" };
            let labels = vec![
                ("uid", Arc::clone(&pod.uid)),
                ("workload", Arc::clone(&pod.workload)),
                ("workload_type", Arc::clone(&pod.workload_type)),
                ("qos", Arc::clone(&pod.qos)),
                ("host_network", host_network.into()),
            ];
            infos.push(Info { metric: &POD_INFO, entity: *entity, labels });
        }
        // The sandbox and the pod's own cgroup are no containers to anyone but the runtime.
        if let Some(image) = facts.image.as_ref().filter(|_| !container.container.is_empty()) {
            let labels = vec![("container_id", Arc::clone(&container.container_id)), ("image", Arc::clone(image))];
            infos.push(Info { metric: &CONTAINER_INFO, entity: *entity, labels });
        }
    }
    infos
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::{
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use serde_json::json;

    use super::Facts;
    use crate::{
        attribution::kubernetes::{Names, pod::PodList, table::ContainerFacts},
        collectors::ALL,
        registry::{EntityState, Snapshot, Value},
        signal::{Container, Entity, EntityKey, Naming as _, Shown, Since},
    };

    const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";
    const SANDBOX: &str = "91d3b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf0";

    fn list(of_pod: &serde_json::Value) -> PodList {
        let list = json!({ "kind": "PodList", "items": [{
            "metadata": { "namespace": "shop", "name": "web-0", "uid": "u",
                "ownerReferences": [{ "kind": "StatefulSet", "name": "web", "controller": true }] },
            "spec": { "resources": of_pod, "containers": [{ "name": "app", "image": "app:1",
                "resources": { "requests": { "cpu": "500m" }, "limits": { "memory": "1Ki" } } }] },
            "status": { "qosClass": "Burstable", "containerStatuses": [
                { "name": "app", "containerID": format!("containerd://{ID}"), "state": { "running": {} } }] },
        }]});
        PodList::decode(list.to_string().as_bytes()).unwrap()
    }

    fn entity(id: &str) -> Entity {
        Entity::Container(Container {
            namespace: "".into(),
            pod: "u".into(),
            container: id.get(..12).unwrap_or("").into(),
            pod_uid: "u".into(),
            container_id: id.into(),
        })
    }

    /// A snapshot with the pod's own cgroup, its container, the same container gone, a unit, and the pod's sandbox.
    fn described(facts: &mut Facts, names: &Names) -> Snapshot {
        let state = |entity: Entity, gone| {
            let entity = EntityKey::from(entity);
            EntityState { id: entity.clone(), entity, since: Since::NEVER, gone, carried: false }
        };
        let called = |id: &str| names.name(&entity(id));
        let mut snapshot = Snapshot {
            sequence: 1,
            taken: SystemTime::UNIX_EPOCH,
            node: "n".into(),
            entities: Arc::new(vec![
                state(called(""), false),
                state(called(ID), false),
                state(called(ID), true),
                state(Entity::unit("x"), false),
                state(called(SANDBOX), false),
            ]),
            sections: Vec::new(),
            infos: Arc::new([]),
        };
        facts.describe(&mut snapshot, names, 1);
        snapshot
    }

    fn values(snapshot: &Snapshot) -> Vec<(&'static str, u32, Value<'_>)> {
        let samples = snapshot.families().flat_map(|family| family.samples().map(move |one| (family, one)));
        samples.map(|(family, one)| (family.metric().name, one.entity, one.value)).collect()
    }

    #[test]
    fn facts_requests_and_limits_are_told_once_for_what_lives() {
        let names = Names::new(Duration::from_mins(5));
        let mut facts = Facts::new(ALL.iter().copied(), |_| Shown::All);
        let nothing = described(&mut facts, &names);
        assert!(nothing.infos.is_empty() && values(&nothing).is_empty());
        names.replace_all(list(&json!(null)).pods);
        let snapshot = described(&mut facts, &names);
        let labels =
            |at: usize| snapshot.infos[at].labels.iter().map(|(name, value)| (*name, &**value)).collect::<Vec<_>>();
        let infos: Vec<_> = snapshot.infos.iter().map(|info| (info.metric.name, info.entity)).collect();
        let pod = vec![
            ("uid", "u"),
            ("workload", "web"),
            ("workload_type", "statefulset"),
            ("qos", "Burstable"),
            ("host_network", "false"),
        ];
        let container = vec![("container_id", ID), ("image", "app:1")];
        assert_eq!(infos, [("podlens_pod_info", 0), ("podlens_container_info", 1)]);
        assert_eq!((labels(0), labels(1)), (pod, container));
        assert_eq!(
            values(&snapshot),
            [("podlens_cpu_request_cores", 1, Value::Float(0.5))],
            "what is not set has no value, and limits are the collectors'"
        );
    }

    #[test]
    fn what_is_set_for_the_whole_pod_is_on_its_own_series_once() {
        let names = Names::new(Duration::from_mins(5));
        let mut facts = Facts::new(ALL.iter().copied(), |_| Shown::All);
        names.replace_all(list(&json!({ "requests": { "cpu": "1500m", "memory": "1.5Gi" } })).pods);
        let sandbox = ContainerFacts {
            pod_uid: "u".into(),
            container_id: SANDBOX.into(),
            namespace: "shop".into(),
            pod: "web-0".into(),
            container: None,
            image: "".into(),
        };
        names.learn(&sandbox);
        let snapshot = described(&mut facts, &names);
        assert_eq!(
            values(&snapshot),
            [
                ("podlens_cpu_request_cores", 0, Value::Float(1.5)),
                ("podlens_cpu_request_cores", 1, Value::Float(0.5)),
                ("podlens_memory_request_bytes", 0, Value::Integer(1_610_612_736)),
            ]
        );
    }

    #[test]
    fn facts_are_found_again_only_when_names_or_entities_have_changed() {
        let names = Names::new(Duration::from_mins(5));
        let mut facts = Facts::new(ALL.iter().copied(), |_| Shown::All);
        names.replace_all(list(&json!(null)).pods);
        let first = described(&mut facts, &names);
        assert!(Arc::ptr_eq(&first.infos, &described(&mut facts, &names).infos));
        names.delete("u");
        assert!(!Arc::ptr_eq(&first.infos, &described(&mut facts, &names).infos));
    }
}
