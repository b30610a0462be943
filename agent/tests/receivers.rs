//! Two receivers of different make get the very same requests, and have the same of them: OpenTelemetry's collector and
//! `VictoriaMetrics`. Names, units, values and times are compared, of everything that was pushed of one container.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{collections::BTreeMap, thread, time::Duration};

use common::{Agent, Load, TestCgroup, Work, container_id, pod_uid, wait_until};
use serde_json::Value;
use testkit::{
    components::{Collector, Stored, VictoriaMetrics},
    http::{self, Reply, Server},
};

const LIMIT: Duration = Duration::from_secs(30);
const NUMBER: u32 = 77;

type Labels = BTreeMap<String, String>;

fn attributes(of: &Value) -> Labels {
    let text = |value: &Value| match value.as_object().and_then(|value| value.values().next()) {
        Some(Value::String(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    let attributes = of["attributes"].as_array().cloned().unwrap_or_default();
    attributes.iter().map(|one| (sanitized(one["key"].as_str().unwrap()), text(&one["value"]))).collect()
}

fn sanitized(name: &str) -> String {
    name.replace(['.', '-'], "_")
}

/// A metric's name as Prometheus' conventions make it of a name and a unit in OTLP.
fn prometheus_name(metric: &Value) -> String {
    let unit = match metric["unit"].as_str().unwrap_or_default() {
        "s" => "_seconds",
        "By" => "_bytes",
        // What is counted is a remark, no unit.
        other => {
            assert!(other.starts_with('{') && other.ends_with('}'), "{metric}");
            ""
        }
    };
    let total = if metric.get("sum").is_some() { "_total" } else { "" };
    format!("{}{unit}{total}", sanitized(metric["name"].as_str().unwrap()))
}

/// Series by name and labels, at each time in ms their value.
type All = BTreeMap<(String, Labels), BTreeMap<u64, f64>>;

/// What the collector got of the container, but for points without a value; of a distribution its number and its sum.
fn collected(bodies: &[Value], id: &str) -> All {
    let mut found = All::new();
    let resources = bodies.iter().flat_map(|body| body["resourceMetrics"].as_array().cloned().unwrap_or_default());
    for of_entity in resources {
        let resource = attributes(&of_entity["resource"]);
        if resource.get("container_id").is_none_or(|found| found != id) {
            continue;
        }
        for metric in
            of_entity["scopeMetrics"].as_array().unwrap().iter().flat_map(|of| of["metrics"].as_array().unwrap())
        {
            let name = prometheus_name(metric);
            let data = ["sum", "gauge", "exponentialHistogram"].iter().find_map(|kind| metric.get(*kind)).unwrap();
            if metric.get("gauge").is_none() {
                assert_eq!(data["aggregationTemporality"], 2, "{metric}");
            }
            for point in data["dataPoints"].as_array().unwrap() {
                if point["flags"] == 1 {
                    continue;
                }
                let ns = |name: &str| point[name].as_str().unwrap_or("0").parse::<u64>().unwrap();
                let labels: Labels = resource.clone().into_iter().chain(attributes(point)).collect();
                if metric.get("gauge").is_none() {
                    let start = ns("startTimeUnixNano");
                    assert!(start > 0 && start <= ns("timeUnixNano"), "{point}");
                }
                let mut add = |suffix: &str, value: f64| {
                    let series = found.entry((format!("{name}{suffix}"), labels.clone())).or_default();
                    series.insert(ns("timeUnixNano") / 1_000_000, value);
                };
                if metric.get("exponentialHistogram").is_some() {
                    add("_count", point["count"].as_str().unwrap().parse().unwrap());
                    add("_sum", point["sum"].as_f64().unwrap_or(0.0));
                } else {
                    let whole = || point["asInt"].as_str().map(|text| text.parse().unwrap());
                    add("", point["asDouble"].as_f64().or_else(whole).unwrap());
                }
            }
        }
    }
    found
}

/// The same of what `VictoriaMetrics` has stored.
fn kept(stored: &[Stored]) -> All {
    let mut found = All::new();
    for series in stored {
        let mut labels = series.labels.clone();
        let name = labels.remove("__name__").unwrap();
        // The scope, and buckets, which each make cuts in its own way.
        labels.retain(|label, _| !label.starts_with("scope_") && !label.starts_with("otel_scope_"));
        if labels.contains_key("vmrange") || labels.contains_key("le") {
            continue;
        }
        let samples = series.samples.iter().filter(|(_, value)| !value.is_nan()).copied();
        found.entry((name, labels)).or_default().extend(samples);
    }
    found
}

#[test]
fn a_receiver_of_another_make_has_the_same_names_units_values_and_times() {
    let (collector, victoria_metrics) = (Collector::start(), VictoriaMetrics::start());
    let receivers =
        [(collector.http_address(), "/v1/metrics"), (victoria_metrics.address(), "/opentelemetry/v1/metrics")];
    // Both get each request as podlens has sent it.
    let tee = Server::start(move |request| {
        let content_type = request.header("content-type").unwrap().to_owned();
        // From threads of their own, since the server's has a runtime.
        thread::scope(|scope| {
            for (address, path) in receivers {
                let (content_type, body) = (&content_type, &request.body);
                scope.spawn(move || {
                    let (code, answer) = http::send(address, "POST", path, content_type, body).unwrap();
                    assert!((200..300).contains(&code), "{address}{path}: {code} {answer}");
                });
            }
        });
        Reply { content_type: "application/x-protobuf", body: String::new() }
    });
    let endpoint = format!("http://{}", tee.address());
    let agent = Agent::start(&[
        ("PODLENS_MAX_AGE", "0s"),
        ("PODLENS_OTLP_PROTOCOL", "http/protobuf"),
        ("PODLENS_OTLP_ENDPOINT", &endpoint),
        ("PODLENS_OTLP_INTERVAL", "1s"),
        ("PODLENS_EVENTS_ENABLED", "false"),
    ]);
    let cgroup = TestCgroup::container(&pod_uid(NUMBER), NUMBER);
    let work = Work::Wake { times: 50, sleep: Duration::from_millis(1), spin: Duration::from_millis(2) };
    let mut load = Load::start(Some(&cgroup), work, None);
    load.run();
    load.figures();
    let cpu_ns = agent.metrics().ns("podlens_cpu_seconds_total", &cgroup.labels()).unwrap();
    let id = container_id(NUMBER);
    collector.wait_for_metrics(LIMIT, |bodies| {
        let all = collected(bodies, &id);
        let cpu = all.iter().find(|((name, _), _)| name == "container_cpu_time_seconds_total");
        let newest = cpu.and_then(|(_, samples)| samples.values().next_back().copied());
        newest.filter(|seconds| (seconds * 1e9 - cpu_ns as f64).abs() < 0.5)
    });
    drop(agent);
    // The collector hands on what it has gathered.
    thread::sleep(Duration::from_millis(500));
    let of_collector = collected(&collector.metrics(), &id);
    // What it has taken can be asked for a moment later.
    let selector = format!("{{container_id={id:?}}}");
    let stored = wait_until("series in VictoriaMetrics", LIMIT, || {
        let stored = victoria_metrics.stored(&selector)?;
        let is_whole = kept(&stored).len() >= of_collector.len();
        is_whole.then_some(stored).ok_or_else(|| format!("{:?}", victoria_metrics.stored("{__name__!=\"\"}")))
    });
    let of_victoria = kept(&stored);
    assert!(of_collector.len() > 20, "{} series", of_collector.len());
    let names = |all: &All| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&of_victoria), names(&of_collector));
    for (series, samples) in &of_collector {
        assert_eq!(&of_victoria[series], samples, "{series:?}");
    }
    let buckets = stored.iter().filter(|series| series.labels.contains_key("vmrange")).count();
    println!("{} series agree, besides {buckets} of buckets", of_collector.len());
    assert!(buckets > 0, "a distribution has buckets");
}
