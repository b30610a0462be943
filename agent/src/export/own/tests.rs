//! Tests of the agent's own metrics on their way out: as text, as `OpenMetrics` and as OTLP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{Duration, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{KeyValue, any_value},
    metrics::v1::{Metric, NumberDataPoint, metric::Data, number_data_point},
};
use prost::Message as _;

use super::{request, resource_attributes};
use crate::{
    export::{fixture::parse, prometheus::Format},
    telemetry::{SelfTelemetry, otlp::OtlpCounters},
};

fn telemetry() -> (SelfTelemetry, &'static OtlpCounters) {
    let counters: &OtlpCounters = Box::leak(Box::default());
    (SelfTelemetry::new("1.2.3", Some(counters)).unwrap(), counters)
}

fn value(page: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    parse(page).get(&(name.to_owned(), labels)).copied()
}

#[test]
fn a_page_tells_build_process_scrapes_points_and_what_was_added() {
    let (telemetry, counters) = telemetry();
    counters.sent.store(10, Ordering::Relaxed);
    counters.dropped.store(2, Ordering::Relaxed);
    counters.failed_attempts.store(3, Ordering::Relaxed);
    telemetry.observe_scrape(Duration::from_millis(2));
    let slots = telemetry.integer_gauge("podlens_slots", "Slots", &["state"]).unwrap();
    slots.with_label_values(&["live"]).set(5);
    let lost = telemetry.counter("podlens_lost_total", "Lost", &["collector", "reason"]).unwrap();
    lost.with_label_values(&["scheduler", "full"]).inc();
    let page = super::page(&telemetry, Format::Text);
    for (name, labels, expected) in [
        ("podlens_build_info", &[("version", "1.2.3")][..], 1.0),
        ("podlens_otlp_points_total", &[("result", "sent")], 10.0),
        ("podlens_otlp_points_total", &[("result", "dropped")], 2.0),
        ("podlens_otlp_points_total", &[("result", "rejected")], 0.0),
        ("podlens_otlp_failed_attempts_total", &[], 3.0),
        ("podlens_scrape_seconds_bucket", &[("le", "0.001")], 0.0),
        ("podlens_scrape_seconds_bucket", &[("le", "0.003")], 1.0),
        ("podlens_slots", &[("state", "live")], 5.0),
        ("podlens_lost_total", &[("collector", "scheduler"), ("reason", "full")], 1.0),
    ] {
        assert_eq!(value(&page, name, labels), Some(expected), "{name} {labels:?}\n{page}");
    }
    assert!(value(&page, "process_resident_memory_bytes", &[]).unwrap() > 0.0);
    let twice = telemetry.integer_gauge("podlens_slots", "Slots", &["state"]);
    assert!(twice.err().unwrap().to_string().contains("podlens_slots"));
}

#[test]
fn nothing_is_said_about_points_where_nothing_is_pushed() {
    let telemetry = SelfTelemetry::new("1.2.3", None).unwrap();
    assert!(!super::page(&telemetry, Format::Text).contains("podlens_otlp_points"));
}

#[test]
fn open_metrics_names_counter_families_without_their_suffix() {
    let (telemetry, _) = telemetry();
    let counter = telemetry.counter("podlens_x_total", "A \"quoted\" \\ help", &[]).unwrap();
    counter.with_label_values::<&str>(&[]).inc();
    let page = super::page(&telemetry, Format::OpenMetrics);
    let expected = "# HELP podlens_x A \\\"quoted\\\" \\\\ help\n# TYPE podlens_x counter\npodlens_x_total 1\n";
    assert!(page.contains(expected), "{page}");
    assert!(page.contains("# TYPE podlens_scrape_seconds histogram\n"), "{page}");
}

#[test]
fn the_same_numbers_are_pushed_under_a_resource_of_the_agents_own() {
    let (telemetry, counters) = telemetry();
    counters.sent.store(10, Ordering::Relaxed);
    let slots = telemetry.integer_gauge("podlens_slots", "Slots", &["state"]).unwrap();
    slots.with_label_values(&["live"]).set(5);
    for duration in [Duration::from_millis(2), Duration::from_millis(2), Duration::from_secs(3)] {
        telemetry.observe_scrape(duration);
    }
    let now = UNIX_EPOCH + Duration::from_hours(500_000);
    let message = ExportMetricsServiceRequest::decode(request(
        &telemetry,
        &resource_attributes("node-1", &BTreeMap::new(), None),
        now,
    ))
    .unwrap();
    let [of_agent] = &message.resource_metrics[..] else { panic!("{message:?}") };
    let resource = of_agent.resource.as_ref().unwrap();
    let identity: BTreeMap<&str, String> =
        resource.attributes.iter().map(|pair| (pair.key.as_str(), string(pair))).collect();
    assert_eq!(identity["service.name"], "podlens");
    assert_eq!(identity["service.instance.id"], "node-1");
    assert_eq!(identity["k8s.node.name"], "node-1");

    let metrics = &of_agent.scope_metrics[0].metrics;
    assert!(metrics.iter().all(|metric| metric.name.starts_with("podlens.")), "{metrics:?}");
    let found = |name: &str| metrics.iter().find(|metric| metric.name == name).expect(name);
    assert_eq!(numbers(found("podlens.otlp.points")), ["dropped 0", "rejected 0", "sent 10"]);
    assert_eq!(numbers(found("podlens.otlp.failed.attempts")), [" 0"]);
    assert_eq!(numbers(found("podlens.slots")), ["live 5"]);

    let Some(Data::Histogram(scrapes)) = &found("podlens.scrape").data else { panic!("no histogram") };
    let point = &scrapes.data_points[0];
    assert_eq!((point.count, point.time_unix_nano), (3, 1_800_000_000_000_000_000));
    assert!(point.start_time_unix_nano > 0);
    assert_eq!(point.explicit_bounds, [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]);
    assert_eq!(point.bucket_counts, [0, 0, 0, 2, 0, 0, 0, 0, 0, 1]);
    assert!((point.sum.unwrap() - 3.004).abs() < 1e-9);
}

/// The labels' values and the number of each point.
fn numbers(metric: &Metric) -> Vec<String> {
    let points: &[NumberDataPoint] = match metric.data.as_ref().unwrap() {
        Data::Sum(sum) => {
            assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
            &sum.data_points
        }
        Data::Gauge(gauge) => &gauge.data_points,
        other => panic!("{other:?}"),
    };
    let text = |point: &NumberDataPoint| {
        let labels: Vec<String> = point.attributes.iter().map(string).collect();
        let number_data_point::Value::AsDouble(value) = point.value.unwrap() else { panic!("{point:?}") };
        format!("{} {value}", labels.join(","))
    };
    points.iter().map(text).collect()
}

fn string(pair: &KeyValue) -> String {
    match pair.value.clone().unwrap().value.unwrap() {
        any_value::Value::StringValue(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_agents_resource_takes_what_a_user_gives_over_what_it_says_of_itself() {
    let check = |given: &[(&str, &str)], service_name: Option<&str>, expected: &[(&str, &str)]| {
        let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let found = resource_attributes("node-1", &given, service_name);
        for (key, value) in expected {
            assert_eq!(found.get(*key).map(String::as_str), Some(*value), "{found:?}");
        }
    };
    check(&[], None, &[("service.name", "podlens"), ("service.instance.id", "node-1")]);
    let given = [("service.name", "a"), ("service.instance.id", "b"), ("k8s.pod.name", "podlens-x"), ("team", "c")];
    check(&given, None, &given);
    check(&given, Some("d"), &[("service.name", "d"), ("team", "c")]);
}
