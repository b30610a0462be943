//! Prometheus' own OTLP receiver: containers are told apart by either of the two settings that docs/otlp.md names, and by
//! neither of its defaults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds become nanoseconds")]

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{Agent, Load, TestCgroup, Work, assert_near, container_id, pod_uid};
use serde_json::json;
use testkit::{
    components::{Point, Prometheus},
    kubernetes::{ApiServer, Described, State, Status, Store},
};

const LIMIT: Duration = Duration::from_secs(30);
/// `container.cpu.time` as the receiver calls it.
const CPU: &str = "container_cpu_time_seconds_total";
const WAIT_COUNT: &str = "histogram_count(podlens_runqueue_latency_seconds)";
const NS: u64 = 200_000;
/// The two containers of the pod.
const CONTAINERS: [&str; 2] = ["nginx", "sidecar"];

fn described() -> Described {
    Described {
        namespace: "shop".to_owned(),
        name: "web-1".to_owned(),
        uid: pod_uid(1),
        node: "test-node".to_owned(),
        controller: ("StatefulSet", "web".to_owned()),
        containers: [1, 2]
            .map(|number| Status {
                name: CONTAINERS[number as usize - 1].to_owned(),
                state: State::Running(container_id(number)),
                ..Status::default()
            })
            .into(),
        ballast_bytes: 0,
    }
}

/// The part of Prometheus' configuration that docs/otlp.md gives.
fn documented() -> String {
    let text = include_str!("../../docs/otlp.md");
    let (_, rest) = text.split_once("```yaml\notlp:\n").expect("the document has it");
    let (part, _) = rest.split_once("```").unwrap();
    format!("otlp:\n{part}")
}

/// Two containers of a pod that have used different amounts, pushed by an agent with these settings to a Prometheus with
/// that configuration: the amounts by the kernel, and what Prometheus has once `accepts` holds.
fn push(
    settings: &[(&str, &str)],
    configuration: &str,
    accepts: impl Fn(&[Point], [u64; 2]) -> bool,
) -> ([u64; 2], Vec<Point>, Prometheus) {
    let prometheus = Prometheus::start_receiver(configuration);
    let store = Arc::new(Store::default());
    let server = ApiServer::start(&store);
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = server.kubeconfig(directory.path(), &json!({}));
    store.put(&described().to_json());
    let cgroups = [1, 2].map(|number| TestCgroup::container(&pod_uid(1), number));
    let endpoint = format!("http://{}/api/v1/otlp", prometheus.address());
    let always = [
        ("PODLENS_MAX_AGE", "0s"),
        ("PODLENS_KUBERNETES_KUBECONFIG", kubeconfig.to_str().unwrap()),
        ("PODLENS_OTLP_PROTOCOL", "http/protobuf"),
        ("PODLENS_OTLP_ENDPOINT", &endpoint),
        ("PODLENS_OTLP_INTERVAL", "1s"),
    ];
    let _agent = Agent::start(&[&always[..], settings].concat());
    for (cgroup, ms) in cgroups.iter().zip([60, 180]) {
        let mut load = Load::start(Some(cgroup), Work::Spin(Duration::from_millis(ms)), None);
        load.run();
        load.end();
    }
    let used_ns = cgroups.each_ref().map(TestCgroup::final_cpu_usage_ns);
    let points = prometheus.wait_for(CPU, LIMIT, |points| accepts(points, used_ns));
    (used_ns, points, prometheus)
}

fn ns(point: &Point) -> u64 {
    (point.value * 1e9).round() as u64
}

/// By one label, what the points of each value add up to.
fn by<'a>(points: &'a [Point], label: &str) -> BTreeMap<&'a str, u64> {
    let mut sums = BTreeMap::new();
    for point in points {
        *sums.entry(point.labels.get(label).map_or("", String::as_str)).or_default() += ns(point);
    }
    sums
}

/// The containers of these values of a label have what the kernel says.
#[track_caller]
fn check(points: &[Point], label: &str, values: [&str; 2], used_ns: [u64; 2]) {
    let found = by(points, label);
    for (value, used_ns) in values.iter().zip(used_ns) {
        assert_near(value, found.get(value).copied().unwrap_or(0), used_ns, 0.0, NS);
    }
}

fn has_all(points: &[Point], label: &str, values: [&str; 2], used_ns: [u64; 2]) -> bool {
    let found = by(points, label);
    values.iter().zip(used_ns).all(|(value, ns)| found.get(value).is_some_and(|found| found.abs_diff(ns) <= NS))
}

#[test]
fn service_attributes_tell_containers_apart_for_a_receiver_with_its_defaults() {
    let ids = [1, 2].map(container_id);
    let ids = [ids[0].as_str(), ids[1].as_str()];
    let settings = [("PODLENS_OTLP_SERVICE_ATTRIBUTES", "true")];
    let (used_ns, points, prometheus) =
        push(&settings, "{}", |points, used_ns| has_all(points, "instance", ids, used_ns));
    check(&points, "instance", ids, used_ns);
    for point in points.iter().filter(|point| ids.contains(&point.labels["instance"].as_str())) {
        assert_eq!(point.labels["job"], "shop/web", "{point:?}");
    }
    let waits = prometheus.query(&format!("{WAIT_COUNT} > 0")).unwrap();
    let has_waits = |id: &&str| waits.iter().any(|point| point.labels["instance"] == **id);
    assert!(ids.iter().all(has_waits), "each container has its own histogram: {waits:?}");
}

#[test]
fn promoted_attributes_tell_containers_apart_as_documented() {
    let (used_ns, points, _prometheus) =
        push(&[], &documented(), |points, used_ns| has_all(points, "k8s_container_name", CONTAINERS, used_ns));
    check(&points, "k8s_container_name", CONTAINERS, used_ns);
    for (container, number) in CONTAINERS.iter().zip([1, 2]) {
        let point =
            points.iter().find(|point| point.labels.get("k8s_container_name").is_some_and(|it| it == container));
        let labels = &point.unwrap().labels;
        for (label, value) in [
            ("k8s_namespace_name", "shop"),
            ("k8s_pod_name", "web-1"),
            ("k8s_node_name", "test-node"),
            ("container_id", &container_id(number)),
        ] {
            assert_eq!(labels.get(label).map(String::as_str), Some(value), "{label} in {labels:?}");
        }
    }
}

#[test]
fn without_either_all_containers_share_their_series() {
    let (_, points, _prometheus) = push(&[], "{}", |points, _| !points.is_empty());
    assert_eq!(points.len(), 1, "as docs/otlp.md warns: {points:?}");
}
