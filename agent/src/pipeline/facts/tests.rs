#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::time::SystemTime;

use serde_json::json;

use super::describe;
use crate::{
    attribution::kubernetes::{Names, pod::PodList},
    registry::{EntityState, Family, Snapshot, Value},
    signal::{Container, Entity, Naming as _},
};

const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";

fn entity(id: &str) -> Entity {
    Entity::Container(Container {
        namespace: "".into(),
        pod: "u".into(),
        container: id.into(),
        pod_uid: "u".into(),
        container_id: id.into(),
    })
}

fn list(of_pod: &serde_json::Value) -> PodList {
    let list = json!({ "kind": "PodList", "items": [{
        "metadata": { "name": "web-0", "namespace": "shop", "uid": "u",
            "ownerReferences": [{ "kind": "StatefulSet", "name": "web", "controller": true }] },
        "spec": { "resources": of_pod, "containers": [{ "name": "app", "image": "app:1",
            "resources": { "requests": { "cpu": "500m" }, "limits": { "memory": "1Ki" } } }] },
        "status": { "qosClass": "Burstable", "containerStatuses": [
            { "name": "app", "containerID": format!("containerd://{ID}"), "state": { "running": {} } }] },
    }]});
    PodList::decode(list.to_string().as_bytes()).unwrap()
}

/// A snapshot with the pod's own cgroup, its container, the same container gone, and a unit.
fn described(names: &Names) -> Snapshot {
    let state = |entity, gone| EntityState { entity, since: SystemTime::UNIX_EPOCH, gone, carried: false };
    let view = names.view();
    let called = |id: &str| view.name(&entity(id));
    let mut snapshot = Snapshot {
        sequence: 1,
        taken: SystemTime::UNIX_EPOCH,
        node: "n".into(),
        entities: vec![
            state(called(""), false),
            state(called(ID), false),
            state(called(ID), true),
            state(Entity::unit("x"), false),
        ],
        families: Vec::new(),
        infos: Vec::new(),
    };
    describe(&view, &mut snapshot);
    snapshot
}

#[test]
fn facts_requests_and_limits_are_told_once_for_what_lives() {
    let names = Names::new(std::time::Duration::from_mins(5));
    assert!(described(&names).infos.is_empty() && described(&names).families.is_empty());
    names.replace_all(list(&json!(null)).pods);
    let snapshot = described(&names);
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
    let values: Vec<(&str, u32, &Value)> = snapshot
        .families
        .iter()
        .flat_map(|Family { metric, samples }| samples.iter().map(|one| (metric.name, one.entity, &one.value)))
        .collect();
    let (half, kibibyte) = (Value::Float(0.5), Value::Float(1024.0));
    assert_eq!(
        values,
        [("podlens_cpu_request_cores", 1, &half), ("podlens_memory_limit_bytes", 1, &kibibyte)],
        "what is not set has no value"
    );
}

#[test]
fn what_is_set_for_the_whole_pod_is_on_its_own_series_once() {
    let names = Names::new(std::time::Duration::from_mins(5));
    names.replace_all(list(&json!({ "requests": { "cpu": "1500m", "memory": "1.5Gi" } })).pods);
    let snapshot = described(&names);
    let values: Vec<(&str, u32, &Value)> = snapshot
        .families
        .iter()
        .flat_map(|Family { metric, samples }| samples.iter().map(|one| (metric.name, one.entity, &one.value)))
        .collect();
    let (pods, containers) = (Value::Float(1.5), Value::Float(0.5));
    let (memory, limit) = (Value::Float(1_610_612_736.0), Value::Float(1024.0));
    assert_eq!(
        values,
        [
            ("podlens_cpu_request_cores", 0, &pods),
            ("podlens_cpu_request_cores", 1, &containers),
            ("podlens_memory_request_bytes", 0, &memory),
            ("podlens_memory_limit_bytes", 1, &limit),
        ]
    );
}
