//! Tests of the names that a snapshot gets, and of what is told about pods.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{sync::Arc, time::SystemTime};

use serde_json::json;

use super::{Names, pod::PodList};
use crate::{
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

fn list() -> PodList {
    let list = json!({ "kind": "PodList", "items": [{
        "metadata": { "name": "web-0", "namespace": "shop", "uid": "u",
            "ownerReferences": [{ "kind": "StatefulSet", "name": "web", "controller": true }] },
        "spec": { "containers": [{ "name": "app", "image": "app:1",
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
    view.describe(&mut snapshot);
    snapshot
}

#[test]
fn facts_requests_and_limits_are_told_once_for_what_lives() {
    let names = Names::new(std::time::Duration::from_mins(5));
    assert!(described(&names).infos.is_empty() && described(&names).families.is_empty());
    names.replace_all(list().pods);
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
fn a_name_is_pending_only_while_there_is_a_source() {
    let names = Names::new(std::time::Duration::from_mins(5));
    assert!(!names.view().is_pending(&entity(ID)));
    names.set_synced(false);
    assert!(names.view().is_pending(&entity(ID)));
    assert!(!names.view().is_pending(&Entity::unit("x")));
    names.replace_all(list().pods);
    assert!(!names.view().is_pending(&entity(ID)));
}

#[tokio::test]
async fn what_is_wanted_is_handed_out_once_and_only_to_those_who_ask() {
    let names = Arc::new(Names::new(std::time::Duration::from_mins(5)));
    names.born(&entity(ID), true);
    let seeker = tokio::spawn({
        let names = Arc::clone(&names);
        async move { names.next_wanted().await }
    });
    tokio::task::yield_now().await;
    assert!(!seeker.is_finished(), "nobody listened when it was born");
    names.born(&entity(ID), true);
    names.born(&entity(ID), true);
    names.born(&Entity::unit("x"), true);
    names.born(&entity(""), true);
    let wanted = seeker.await.unwrap();
    assert_eq!(wanted.len(), 1);
    assert_eq!(&*wanted[0].container_id, ID);
    assert!(names.wanted().is_empty());
}
