//! Reports over a cluster of a few nodes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::fleet::{causes::Reason, json as document, table};

const AT: &str = "2026-01-01T00:00:00Z";

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn node(name: &str, pool: &str) -> Node {
    of(json!({
        "metadata": { "name": name, "labels": { "pool": pool } },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }], "allocatable": { "pods": "10" } },
    }))
}

/// The log shipper, wanted on nodes of pool a.
fn shipper() -> DaemonSet {
    of(json!({
        "metadata": { "name": "shipper", "namespace": "logs", "uid": "ds" },
        "spec": { "selector": {}, "template": { "spec": { "containers": [], "nodeSelector": { "pool": "a" } } } },
    }))
}

fn pod(node: &str, hash: &str, status: &Value) -> Pod {
    let owner = json!([{ "uid": "ds", "controller": true }]);
    let labels = json!({ "controller-revision-hash": hash });
    let metadata = json!({ "name": format!("shipper-{node}-{hash}"), "namespace": "logs", "uid": node,
        "ownerReferences": owner, "labels": labels, "creationTimestamp": AT });
    of(json!({ "metadata": metadata, "spec": { "nodeName": node }, "status": status }))
}

fn ready() -> Value {
    json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] })
}

fn bad_image() -> Value {
    let waiting = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "not found" } });
    json!({ "phase": "Pending", "containerStatuses": [{ "name": "app", "image": "app:2", "state": waiting }] })
}

fn revision(number: i64, hash: &str) -> Revision {
    let metadata = json!({ "ownerReferences": [{ "uid": "ds", "controller": true }],
        "labels": { "controller-revision-hash": hash }, "creationTimestamp": AT });
    of(json!({ "metadata": metadata, "revision": number }))
}

fn cluster(pods: Vec<Pod>) -> Cluster {
    let nodes = [("n1", "a"), ("n2", "a"), ("n3", "a"), ("n4", "b")].map(|(name, pool)| node(name, pool)).into();
    let revisions = vec![revision(1, "old"), revision(2, "new")];
    Cluster { daemon_sets: vec![shipper()], revisions, nodes, pods, events: Vec::new() }
}

fn report(cluster: &Cluster) -> Report {
    let mut reports = cluster.reports(AT.parse().unwrap());
    assert_eq!(reports.len(), 1);
    reports.remove(0)
}

#[test]
fn nodes_and_pods_are_counted_by_what_they_should_have_have_and_lack() {
    let cluster = cluster(vec![
        pod("n1", "new", &ready()),
        pod("n2", "old", &ready()),
        pod("n4", "new", &ready()),
        pod("n3", "new", &json!({ "phase": "Failed" })),
    ]);
    let report = report(&cluster);
    assert_eq!((report.wanted, report.present, report.ready, report.current, report.misplaced), (3, 2, 2, 1, 1));
    assert_eq!(
        report.lacking.iter().map(|(node, lack)| (&**node, lack.reason)).collect::<Vec<_>>(),
        [("n3", Reason::Failed)]
    );
    assert_eq!(report.excluded, [("node_selector", 1)].into());
    assert_eq!(report.just_missed["n4"].to_string(), "label pool is b, not a");
}

#[test]
fn a_bad_image_holds_a_roll_out_up_and_one_that_starts_does_not() {
    let half = |status: &Value| {
        cluster(vec![pod("n1", "new", status), pod("n2", "old", &ready()), pod("n3", "old", &ready())])
    };
    let Rollout::Stuck { node, lack } = report(&half(&bad_image())).rollout else { panic!("it is not stuck") };
    assert_eq!((&*node, lack.reason), ("n1", Reason::Image));
    assert_eq!(report(&half(&json!({ "phase": "Pending" }))).rollout, Rollout::Rolling);
    // The old pod is gone and the new one not made yet.
    assert_eq!(
        report(&cluster(vec![pod("n2", "old", &ready()), pod("n3", "old", &ready())])).rollout,
        Rollout::Rolling
    );
}

#[test]
fn a_pod_that_is_replaced_or_doubled_for_a_moment_is_no_mystery() {
    let mut leaving = pod("n1", "old", &ready());
    leaving.metadata.deletion_timestamp = Some(of(json!(AT)));
    let replaced = report(&cluster(vec![leaving.clone()]));
    assert_eq!(replaced.lacking["n1"].detail, "shipper-n1-old is being replaced");
    let doubled = report(&cluster(vec![leaving, pod("n1", "new", &ready())]));
    assert!(!doubled.lacking.contains_key("n1") && doubled.current == 1, "{doubled:?}");
}

#[test]
fn a_taint_that_came_later_keeps_the_pod_that_is_there() {
    let mut cluster = cluster(vec![pod("n1", "new", &ready())]);
    for node in &mut cluster.nodes {
        node.spec.taints = of(json!([{ "key": "k", "effect": "NoSchedule" }]));
    }
    let report = report(&cluster);
    assert_eq!((report.wanted, report.ready, report.misplaced), (1, 1, 0));
    assert_eq!(report.excluded, [("node_selector", 1), ("taint", 2)].into());
}

#[test]
fn the_table_reads_as_the_golden_file() {
    let mut cluster = cluster(vec![pod("n1", "new", &bad_image()), pod("n2", "old", &ready())]);
    let message = "Error creating: pods \"shipper-x\" is forbidden: exceeded quota: few, requested: pods=1";
    cluster.events.push(of(
        json!({ "involvedObject": { "uid": "ds" }, "reason": "FailedCreate", "message": message, "lastTimestamp": AT }),
    ));
    let now = "2026-01-01T00:05:00Z".parse().unwrap();
    let table = table::render(&cluster.reports(now), now);
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fleet.txt");
    if std::env::var_os("PODLENS_TEST_UPDATE").is_some() {
        std::fs::write(&golden, &table).unwrap();
    }
    assert_eq!(table, std::fs::read_to_string(&golden).unwrap_or_default());
    let document: Value = serde_json::from_str(&document::encode(&cluster.reports(now))).unwrap();
    let lacking = document.pointer("/daemonsets/0/lacking").unwrap();
    assert_eq!(
        (&lacking[0]["node"], &lacking[0]["reason"], &lacking[1]["reason"]),
        (&json!("n1"), &json!("image"), &json!("quota"))
    );
    assert_eq!(document.pointer("/daemonsets/0/rollout/stuck/since"), Some(&json!(AT)));
    cluster.pods.clear();
    cluster.nodes.clear();
    assert!(
        table::render(&cluster.reports(now), now).ends_with("Every node that should have a pod has one that works.\n")
    );
}
