//! Tests of the agent's own metrics as text and as `OpenMetrics`, and of their resource. Of their push: `otlp_client::tests`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use super::resource_attributes;
use crate::{
    export::{fixture::parse, prometheus::Format},
    telemetry::{SelfTelemetry, metrics, otlp::OtlpCounters},
};

fn telemetry() -> (SelfTelemetry, &'static OtlpCounters) {
    let counters: &OtlpCounters = Box::leak(Box::default());
    (SelfTelemetry::new("1.2.3", Some(counters)).unwrap(), counters)
}

fn text(telemetry: &SelfTelemetry, format: Format) -> String {
    String::from_utf8(super::page(telemetry, format)).unwrap()
}

fn add_live_slots(telemetry: &SelfTelemetry, count: f64) {
    let slots = metrics::SLOTS.gauges().unwrap();
    slots.with_label_values(&["live"]).set(count);
    telemetry.register(slots).unwrap();
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
    add_live_slots(&telemetry, 5.0);
    let lost = metrics::LOST.counters().unwrap();
    lost.with_label_values(&["scheduler", "full"]).inc();
    telemetry.register(lost).unwrap();
    let page = text(&telemetry, Format::Text);
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
    let twice = telemetry.register(metrics::SLOTS.gauges().unwrap());
    assert!(twice.err().unwrap().to_string().contains("podlens_slots"));
    let undeclared = telemetry.register(prometheus::IntCounter::new("podlens_x_total", "x").unwrap());
    assert!(undeclared.err().unwrap().to_string().contains("podlens_x_total is not declared"));
}

#[test]
fn nothing_is_said_about_points_where_nothing_is_pushed() {
    let telemetry = SelfTelemetry::new("1.2.3", None).unwrap();
    assert!(!text(&telemetry, Format::Text).contains("podlens_otlp_points"));
}

#[test]
fn open_metrics_names_counter_families_without_their_suffix() {
    let (telemetry, counters) = telemetry();
    counters.failed_attempts.store(1, Ordering::Relaxed);
    let page = text(&telemetry, Format::OpenMetrics);
    let expected = "# TYPE podlens_otlp_failed_attempts counter\npodlens_otlp_failed_attempts_total 1\n";
    assert!(page.contains(expected), "{page}");
    let text = "# HELP podlens_x_total A \"quoted\" \\\\ help\n# TYPE podlens_x_total counter\npodlens_x_total 1\n";
    let expected = "# HELP podlens_x A \\\"quoted\\\" \\\\ help\n# TYPE podlens_x counter\npodlens_x_total 1\n";
    assert_eq!(super::page::open_metrics(text), expected);
    assert!(page.contains("# TYPE podlens_scrape_seconds histogram\n"), "{page}");
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
