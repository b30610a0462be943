//! The real components answer and refuse as the other tests rely on, against a page that this file serves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{path::Path, time::Duration};

use serde_json::json;
use testkit::{
    components::{Collector, Prometheus, promtool_check_metrics},
    http::{Reply, Server},
    wait_for,
};

const LIMIT: Duration = Duration::from_secs(20);

const PAGE: &str = "# HELP test_cpu_seconds_total CPU time.
# TYPE test_cpu_seconds_total counter
test_cpu_seconds_total{pod=\"a\"} 12.5
test_cpu_seconds_total{pod=\"b\"} 3
";

fn page_server(page: &'static str) -> Server {
    Server::start(move |_| Reply { content_type: "text/plain; version=0.0.4", body: page.to_owned() })
}

fn runs(id: u32) -> bool {
    Path::new(&format!("/proc/{id}")).exists()
}

#[test]
fn prometheus_scrapes_a_page_and_answers_queries_with_its_values() {
    let server = page_server(PAGE);
    let prometheus = Prometheus::start(server.address());
    prometheus.wait_until_up(LIMIT);
    let points = prometheus.wait_for("sum by (pod) (test_cpu_seconds_total)", LIMIT, |points| points.len() == 2);
    let value = |pod: &str| points.iter().find(|point| point.labels["pod"] == pod).map(|point| point.value);
    assert_eq!((value("a"), value("b")), (Some(12.5), Some(3.0)));
    assert_eq!(prometheus.complaints(), Vec::<String>::new());
    let refused = prometheus.query("sum(").unwrap_err();
    assert!(refused.contains("parse error"), "{refused}");
}

#[test]
fn prometheus_tells_what_is_wrong_with_a_page() {
    let server = page_server("test_total{pod=\"a} 1\n");
    let prometheus = Prometheus::start(server.address());
    prometheus.wait_for("up", LIMIT, |points| points.len() == 1);
    let (health, error) = prometheus.target().unwrap();
    assert_eq!(health, "down");
    assert!(!error.is_empty());
}

#[test]
fn prometheus_complains_in_its_log_of_a_sample_that_it_drops() {
    let server = page_server("# TYPE test_ratio gauge\ntest_ratio 1\ntest_ratio 2\n");
    let prometheus = Prometheus::start(server.address());
    prometheus.wait_until_up(LIMIT);
    let complaints = wait_for("a complaint", LIMIT, || match prometheus.complaints() {
        none if none.is_empty() => Err("none so far".to_owned()),
        complaints => Ok(complaints),
    });
    assert!(complaints[0].contains("different value but same timestamp"), "{complaints:?}");
}

#[test]
fn prometheus_ends_with_its_value() {
    let server = page_server(PAGE);
    let prometheus = Prometheus::start(server.address());
    let id = prometheus.id();
    assert!(runs(id));
    drop(prometheus);
    assert!(!runs(id));
}

#[test]
fn promtool_is_silent_on_a_good_page_and_names_the_fault_of_a_bad_one() {
    assert_eq!(promtool_check_metrics(PAGE), Ok(()));
    let lint = promtool_check_metrics("# HELP test_cpu CPU time.\n# TYPE test_cpu counter\ntest_cpu 1\n").unwrap_err();
    assert!(lint.contains("_total"), "{lint}");
}

#[test]
fn the_collector_hands_over_what_it_received_and_ends_with_its_value() {
    let collector = Collector::start();
    let point =
        json!({"asInt": "42", "timeUnixNano": "1700000000000000000", "startTimeUnixNano": "1600000000000000000"});
    let metric = json!({
        "name": "test.cpu",
        "unit": "s",
        "sum": {"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [point]}
    });
    let body = json!({"resourceMetrics": [{
        "resource": {"attributes": [{"key": "k8s.pod.name", "value": {"stringValue": "a"}}]},
        "scopeMetrics": [{"scope": {"name": "test"}, "metrics": [metric]}]
    }]});
    collector.send_json("/v1/metrics", &body).unwrap();
    let received = collector.wait_for_metrics(LIMIT, |bodies| bodies.first().cloned());
    let resource = &received["resourceMetrics"][0];
    assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "a");
    assert_eq!(resource["scopeMetrics"][0]["metrics"][0]["sum"]["dataPoints"][0]["asInt"], "42");
    assert!(collector.logs().is_empty());

    let refused = collector.send_json("/v1/metrics", &json!("no request")).unwrap_err();
    assert!(refused.contains("400"), "{refused}");

    let id = collector.id();
    assert!(runs(id));
    drop(collector);
    assert!(!runs(id));
}
