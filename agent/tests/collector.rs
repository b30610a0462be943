//! A real OpenTelemetry collector takes the agent's push: the same values as a scrape, under the right resource.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds become nanoseconds")]

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{Agent, Load, Page, TestCgroup, Work, container_id, pod_uid};
use serde_json::Value;
use testkit::components::Collector;

const LIMIT: Duration = Duration::from_secs(30);
const NUMBER: u32 = 77;

/// Attributes of a resource or a point, all of which are strings here.
fn attributes(of: &Value) -> BTreeMap<String, String> {
    let list = of["attributes"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value["stringValue"].as_str().map_or_else(|| value.to_string(), str::to_owned);
    list.iter().map(|one| (one["key"].as_str().unwrap().to_owned(), text(&one["value"]))).collect()
}

/// All resources with this attribute in a body.
fn resources(body: &Value, key: &str, value: &str) -> Vec<Value> {
    let all = body["resourceMetrics"].as_array().cloned().unwrap_or_default();
    let is_it = |one: &Value| attributes(&one["resource"]).get(key).is_some_and(|found| found == value);
    all.into_iter().filter(is_it).collect()
}

/// The metrics of a resource by name; one that is there twice fails the test.
fn metrics(resource: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for scope in resource["scopeMetrics"].as_array().unwrap() {
        for metric in scope["metrics"].as_array().unwrap() {
            let name = metric["name"].as_str().unwrap().to_owned();
            assert_eq!(found.insert(name, metric.clone()), None, "{metric} is there twice");
        }
    }
    found
}

/// The newest push of the container.
fn pushed(bodies: &[Value], id: &str) -> Option<(BTreeMap<String, String>, BTreeMap<String, Value>)> {
    let found = bodies.iter().flat_map(|body| resources(body, "container.id", id)).next_back()?;
    Some((attributes(&found["resource"]), metrics(&found)))
}

/// A point's value: seconds as nanoseconds, whole numbers as they are.
fn number(point: &Value) -> u64 {
    match (point["asDouble"].as_f64(), point["asInt"].as_str()) {
        (Some(seconds), _) => (seconds * 1e9).round() as u64,
        (_, Some(text)) => text.parse().unwrap(),
        _ => panic!("no value in {point}"),
    }
}

fn points(metric: &Value) -> Vec<Value> {
    let sum = &metric["sum"];
    assert_eq!(
        (&sum["isMonotonic"], &sum["aggregationTemporality"]),
        (&Value::Bool(true), &Value::from(2)),
        "{metric}"
    );
    sum["dataPoints"].as_array().unwrap().clone()
}

/// Compares everything that was pushed for a container at rest with a page of the same time.
fn assert_same(pushed: &BTreeMap<String, Value>, page: &Page, cgroup: &TestCgroup) {
    let labelled = |label: &str, value: &str, name: &str| {
        page.one(name, &cgroup.labels_and(&[(label, value)]))
            .unwrap_or_else(|| panic!("{name} {label} {value}"))
            .clone()
    };
    let cpu = points(&pushed["container.cpu.time"]);
    assert_eq!(pushed["container.cpu.time"]["unit"], "s");
    assert_eq!(cpu.len(), 1);
    assert_eq!(Some(number(&cpu[0])), page.ns("podlens_cpu_seconds_total", &cgroup.labels()));

    let switches = points(&pushed["podlens.context_switches"]);
    assert_eq!(switches.len(), 2);
    for point in switches {
        let kind = &attributes(&point)["kind"];
        assert_eq!(number(&point), labelled("kind", kind, "podlens_context_switches_total").count(), "{kind}");
    }
    for point in points(&pushed["podlens.cpu.wait"]) {
        let cause = &attributes(&point)["cause"];
        assert_eq!(number(&point), labelled("cause", cause, "podlens_cpu_wait_seconds_total").ns(), "{cause}");
    }
    let latency = &pushed["podlens.runqueue.latency"];
    let histogram = latency.get("exponentialHistogram").or_else(|| latency.get("histogram")).unwrap();
    let point = &histogram["dataPoints"][0];
    let count: u64 = point["count"].as_str().unwrap().parse().unwrap();
    let sum_ns = (point["sum"].as_f64().unwrap() * 1e9).round() as u64;
    assert!(count > 0);
    assert_eq!(Some(count), page.count("podlens_runqueue_latency_seconds_count", &cgroup.labels()));
    assert_eq!(Some(sum_ns), page.ns("podlens_runqueue_latency_seconds_sum", &cgroup.labels()));
}

fn assert_resource(found: &BTreeMap<String, String>, uid: &str) {
    let expected: BTreeMap<String, String> =
        [("k8s.node.name", "test-node"), ("k8s.pod.uid", uid), ("container.id", &container_id(NUMBER))]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    assert_eq!(*found, expected, "what is not known is left out");
}

#[test]
fn what_is_pushed_equals_what_is_scraped() {
    let collector = Collector::start();
    let endpoint = collector.grpc_endpoint();
    let agent = Agent::start(&[
        ("PODLENS_MAX_AGE", "0s"),
        ("PODLENS_OTLP_ENDPOINT", &endpoint),
        ("PODLENS_OTLP_INTERVAL", "1s"),
    ]);
    let uid = pod_uid(NUMBER);
    let cgroup = TestCgroup::container(&uid, NUMBER);
    let work = Work::Wake { times: 50, sleep: Duration::from_millis(1), spin: Duration::from_millis(2) };
    let mut load = Load::start(Some(&cgroup), work, None);
    load.run();
    load.figures();
    let page = agent.metrics();
    let cpu_ns = page.ns("podlens_cpu_seconds_total", &cgroup.labels()).unwrap();
    assert!(cpu_ns >= 100_000_000);
    let id = container_id(NUMBER);
    let (resource, metrics) = collector.wait_for_metrics(LIMIT, |bodies| {
        pushed(bodies, &id).filter(|(_, metrics)| {
            metrics.get("container.cpu.time").is_some_and(|metric| number(&points(metric)[0]) == cpu_ns)
        })
    });
    assert_resource(&resource, &uid);
    assert_same(&metrics, &page, &cgroup);

    // The agent's own metrics come under its own name.
    let own = collector.wait_for_metrics(LIMIT, |bodies| {
        bodies.iter().flat_map(|body| resources(body, "service.name", "podlens")).next_back()
    });
    assert!(!self::metrics(&own).is_empty());
    assert_eq!(agent.metrics().count("podlens_otlp_points_total", &[("result", "rejected")]), Some(0));
}

#[test]
fn the_last_export_before_the_end_carries_the_last_values() {
    let collector = Collector::start();
    let endpoint = collector.grpc_endpoint();
    let agent = Agent::start(&[
        ("PODLENS_MAX_AGE", "0s"),
        ("PODLENS_OTLP_ENDPOINT", &endpoint),
        // So that nothing is pushed but at the end.
        ("PODLENS_OTLP_INTERVAL", "1h"),
    ]);
    let uid = pod_uid(NUMBER + 1);
    let cgroup = TestCgroup::container(&uid, NUMBER + 1);
    let mut load = Load::start(Some(&cgroup), Work::Spin(Duration::from_millis(30)), None);
    load.run();
    load.figures();
    let page = agent.metrics();
    let id = container_id(NUMBER + 1);
    assert!(pushed(&collector.metrics(), &id).is_none(), "nothing was pushed before");
    let (status, time) = agent.stop();
    assert_eq!(status.code(), Some(0));
    assert!(time < Duration::from_secs(5), "it took {time:?}");
    let (_, metrics) = collector.wait_for_metrics(LIMIT, |bodies| pushed(bodies, &id));
    assert_same(&metrics, &page, &cgroup);
}
