//! Tests of the text formats: goldens, and the `prometheus` crate's encoder as oracle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, Instant},
};

use prometheus::{
    Encoder, TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};
use proptest::prelude::*;

use super::{
    Filter, Format, encode,
    histogram::BOUNDS,
    text::{push_float, push_seconds},
};
use crate::{
    export::fixture::{
        DISK, LATENCY, LIMIT, SWITCHES, Series, any_snapshot, caused, container, distribution, large, parse, snapshot,
        snapshot_of, state, values,
    },
    registry::{self, Snapshot, Value, snapshot::Culprit},
    signal::{self, Entity, Kind},
};

fn text(snapshot: &Snapshot, filter: Option<&Filter>, format: Format) -> String {
    String::from_utf8(encode(snapshot, filter, format)).unwrap()
}

/// A page's samples with bounds as numbers, which writers spell differently.
fn canonical(page: &str) -> BTreeMap<Series, f64> {
    let spelled = |((name, mut labels), value): (Series, f64)| {
        if let Some(bound) = labels.get_mut("le") {
            *bound = bound.parse::<f64>().unwrap().to_string();
        }
        ((name, labels), value)
    };
    parse(page).into_iter().map(spelled).collect()
}

/// Compares with a recorded page, or records it anew where the environment asks for it.
fn check_golden(page: &str, name: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/export/prometheus").join(name);
    if std::env::var_os("PODLENS_TEST_UPDATE").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap();
    assert_eq!(page, recorded, "{name} differs: PODLENS_TEST_UPDATE=1 cargo test records it anew");
}

#[test]
fn the_text_page_is_as_recorded() {
    check_golden(&text(&snapshot(1), None, Format::Text), "golden.txt");
}

#[test]
fn the_open_metrics_page_is_as_recorded() {
    check_golden(&text(&snapshot(1), None, Format::OpenMetrics), "golden.openmetrics.txt");
}

/// Whose label is not on the page gets that of the scraped pod, the agent's own, where a scrape honours labels.
#[test]
fn every_sample_has_the_labels_of_a_pod_if_empty() {
    let page = text(&snapshot(1), None, Format::Text);
    let (of_units, others): (Vec<&str>, Vec<&str>) = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .partition(|line| line.contains("unit=\"") && !line.contains("pod=\"w"));
    assert!(!of_units.is_empty() && !others.is_empty());
    for line in of_units {
        assert!(line.contains("{namespace=\"\",pod=\"\",container=\"\",unit=\""), "{line}");
    }
    for line in others {
        assert!(["{namespace=\"", ",pod=\"", ",container=\""].iter().all(|label| line.contains(label)), "{line}");
    }
}

#[test]
fn what_several_collectors_have_of_one_family_stands_together_under_one_head() {
    static MORE: signal::Metric = signal::Metric {
        labels: &[signal::Label { name: "kind", values: signal::LabelValues::Fixed(&["forced"]) }],
        ..SWITCHES
    };
    let page = text(
        &snapshot_of(
            vec![state(container("shop", "web", "app"))],
            &[
                values(&SWITCHES, &[(0, &[1, 2])]),
                values(&DISK, &[]),
                values(&LIMIT, &[(0, &[5])]),
                values(&MORE, &[(0, &[3])]),
            ],
        ),
        None,
        Format::OpenMetrics,
    );
    let heads: Vec<&str> = page.lines().filter(|line| line.starts_with("# TYPE")).collect();
    assert_eq!(heads.len(), 2, "{page}");
    let samples: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
    let kinds = ["voluntary", "involuntary", "forced"].map(|kind| format!("kind=\"{kind}\""));
    assert!(samples.iter().zip(&kinds).all(|(sample, kind)| sample.contains(kind)), "{page}");
}

#[test]
fn both_formats_hold_the_same_samples() {
    let snapshot = snapshot(1);
    let (plain, open_metrics) = (text(&snapshot, None, Format::Text), text(&snapshot, None, Format::OpenMetrics));
    assert_eq!(canonical(&plain), canonical(&open_metrics));
}

#[test]
fn a_filter_leaves_only_the_pods_it_names() {
    let check = |pod: Option<&str>, namespace: Option<&str>, pods: &[&str]| {
        let filter = Filter { pod: pod.map(String::from), namespace: namespace.map(String::from) };
        let page = text(&snapshot(1), Some(&filter), Format::Text);
        let mut found: Vec<String> =
            parse(&page).into_keys().map(|(_, mut labels)| labels.remove("pod").unwrap()).collect();
        found.sort();
        found.dedup();
        assert_eq!(found, pods, "{filter:?}");
        assert_eq!(page.is_empty(), pods.is_empty(), "a family without samples has no header");
    };
    check(None, None, &["db-0", "web-1"]);
    check(Some("web-1"), None, &["web-1"]);
    check(Some("web-1"), Some("shop"), &["web-1"]);
    check(None, Some("shop"), &["web-1"]);
    check(Some("web-1"), Some("other"), &[]);
    check(Some("containerd.service"), None, &[]);
}

#[test]
fn classic_bounds_are_bounds_of_the_kernels_buckets() {
    let mut before = None;
    for (last, bound) in BOUNDS {
        let exponent = signal::Histogram::upper_bound_exponent(last).unwrap();
        let exact = 2_f64.powi(exponent);
        assert_eq!(bound.parse::<f64>().unwrap().to_bits(), exact.to_bits(), "{bound}");
        // Rust's exponent form is the shortest that reads back, but has no leading zero in the exponent.
        if exact < 1e-4 {
            let shortest = format!("{exact:e}").replace("e-", "e-0");
            assert_eq!(bound, shortest);
        } else {
            assert_eq!(bound, format!("{exact:?}"));
        }
        assert!(before < Some(last), "bounds grow");
        before = Some(last);
    }
}

#[test]
fn numbers_are_written_to_the_last_digit() {
    let seconds = |value_ns: u64, expected: &str| {
        let mut out = Vec::new();
        push_seconds(&mut out, value_ns);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    };
    seconds(0, "0");
    seconds(1, "0.000000001");
    seconds(100_000_000, "0.1");
    seconds(1_000_000_000, "1");
    seconds(10_020_030_040, "10.02003004");
    seconds(u64::MAX, "18446744073.709551615");
    let float = |value: f64, expected: &str| {
        let mut out = Vec::new();
        push_float(&mut out, value);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    };
    float(0.1, "0.1");
    float(f64::NAN, "NaN");
    float(f64::INFINITY, "+Inf");
    float(f64::NEG_INFINITY, "-Inf");
}

#[test]
fn a_sample_that_refers_to_nothing_is_left_out() {
    let by_nobody = caused(&[(0, Culprit::Entity(99), 1)]);
    let snapshot = snapshot_of(vec![state(container("shop", "web-1", "nginx"))], &[by_nobody]);
    assert_eq!(text(&snapshot, None, Format::Text), "");
    let mut of_nobody = self::snapshot(1);
    std::sync::Arc::make_mut(&mut of_nobody.entities).clear();
    assert_eq!(text(&of_nobody, None, Format::Text), "");
}

#[test]
fn a_distribution_that_never_had_an_observation_makes_no_series() {
    let entities = vec![state(container("shop", "web-1", "nginx"))];
    let mut cells = [[0; signal::Histogram::CELLS]; 4];
    cells[2] = distribution(&[(4, 1)], 9);
    let of_disk = values(&DISK, &[(0, cells.as_flattened())]);
    let nothing = values(&LATENCY, &[(0, &distribution(&[], 0))]);
    let page = text(&snapshot_of(entities, &[of_disk, nothing]), None, Format::Text);
    let labels = "namespace=\"shop\",pod=\"web-1\",container=\"nginx\",node=\"node-1\"";
    let counts: Vec<&str> = page.lines().filter(|line| line.contains("_count")).collect();
    let expected = format!("podlens_disk_latency_seconds_count{{{labels},operation=\"write\",part=\"queue\"}} 1");
    assert_eq!(counts, [expected]);
}

#[test]
#[ignore = "a measurement: run it alone with --release --nocapture"]
fn fifty_thousand_samples_take_milliseconds() {
    let snapshot = large(500, 100);
    let mut best = Duration::MAX;
    let mut page = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        page = std::hint::black_box(encode(&snapshot, None, Format::Text));
        best = best.min(began.elapsed());
    }
    println!("50,000 samples, {} bytes of text: {best:?}", page.len());
    for level in [1, 6] {
        let began = Instant::now();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        encoder.write_all(&page).unwrap();
        let bytes = encoder.finish().unwrap().len();
        println!("gzip at level {level}: {bytes} bytes, {:?}", began.elapsed());
    }
    assert!(best < Duration::from_millis(10));
}

proptest! {
    #[test]
    fn any_snapshot_reads_back_as_the_prometheus_crate_writes_it(snapshot in any_snapshot()) {
        let page = text(&snapshot, None, Format::Text);
        let mut expected = Vec::new();
        TextEncoder::new().encode(&oracle(&snapshot), &mut expected).unwrap();
        let expected = String::from_utf8(expected).unwrap();
        prop_assert_eq!(canonical(&page), canonical(&expected));
        let comments = |page: &str| -> Vec<String> {
            page.lines().filter(|line| line.starts_with('#')).map(String::from).collect()
        };
        prop_assert_eq!(comments(&page), comments(&expected));
    }

    #[test]
    fn a_filtered_page_is_the_part_of_the_whole_page(snapshot in any_snapshot(), choice: prop::sample::Index) {
        let Entity::Container(chosen) = &*snapshot.entities[choice.index(snapshot.entities.len())].entity else {
            return Ok(());
        };
        let filter = Filter {
            pod: Some(chosen.pod.to_string()),
            namespace: Some(chosen.namespace.to_string()),
        };
        let mut whole = parse(&text(&snapshot, None, Format::Text));
        whole.retain(|(_, labels), _| {
            let label = |name: &str| labels.get(name).map_or("", String::as_str);
            label("pod") == &*chosen.pod && label("namespace") == &*chosen.namespace
        });
        prop_assert_eq!(parse(&text(&snapshot, Some(&filter), Format::Text)), whole);
    }
}

/// A snapshot in the `prometheus` crate's own types.
fn oracle(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let pair = |name: &str, value: &str| {
        let mut pair = LabelPair::default();
        pair.set_name(name.into());
        pair.set_value(value.into());
        pair
    };
    let metric = |family: registry::Family<'_>, sample: &registry::Sample<'_>| {
        let definition = family.metric();
        let mut labels = Vec::new();
        match &*snapshot.entity(sample.entity).unwrap().entity {
            Entity::Container(container) => {
                labels.push(pair("namespace", &container.namespace));
                labels.push(pair("pod", &container.pod));
                labels.push(pair("container", &container.container));
            }
            Entity::Unit(unit) => labels.push(pair("unit", unit)),
            Entity::Workload(of) => {
                labels.push(pair("namespace", &of.namespace));
                labels.push(pair("workload", &of.name));
                labels.push(pair("workload_type", &of.kind));
            }
        }
        labels.push(pair("node", &snapshot.node));
        labels.extend(family.column().values(sample.combination).map(|(name, value)| pair(name, value)));
        match sample.culprit.map(|culprit| match culprit {
            Culprit::Entity(position) => Some(&*snapshot.entities[position as usize].entity),
            Culprit::Other => None,
        }) {
            None => {}
            Some(None) => labels.push(pair("culprit_pod", "(other)")),
            Some(Some(Entity::Unit(unit))) => labels.push(pair("culprit_unit", unit)),
            Some(Some(Entity::Workload(of))) => {
                labels.push(pair("culprit_namespace", &of.namespace));
                labels.push(pair("culprit_workload", &of.name));
            }
            Some(Some(Entity::Container(container))) => {
                labels.push(pair("culprit_namespace", &container.namespace));
                labels.push(pair("culprit_pod", &container.pod));
            }
        }
        let mut metric = Metric::from_label(labels);
        let number = match &sample.value {
            Value::Integer(value) => *value as f64,
            Value::Nanoseconds(value_ns) => *value_ns as f64 / 1e9,
            Value::Float(value) => *value,
            Value::Histogram(from) => {
                let mut histogram = Histogram::default();
                histogram.set_sample_sum(from.sum_ns() as f64 / 1e9);
                histogram.set_sample_count(from.count());
                let buckets = BOUNDS.iter().map(|(last, _)| {
                    let mut bucket = Bucket::default();
                    let exponent = signal::Histogram::upper_bound_exponent(*last).unwrap();
                    bucket.set_upper_bound(2_f64.powi(exponent));
                    bucket.set_cumulative_count(from.buckets()[..=*last].iter().sum());
                    bucket
                });
                histogram.set_bucket(buckets.collect());
                metric.set_histogram(histogram);
                return metric;
            }
        };
        if definition.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(number);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(number);
            metric.set_gauge(gauge);
        }
        metric
    };
    let families = snapshot.families().filter(|family| family.samples().next().is_some()).map(|family| {
        let mut of_metric = MetricFamily::default();
        of_metric.set_name(family.metric().name.into());
        of_metric.set_help(family.metric().help.into());
        of_metric.set_field_type(match family.metric().kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        of_metric.set_metric(family.samples().map(|sample| metric(family, &sample)).collect());
        of_metric
    });
    families.collect()
}

#[test]
fn units_never_match_a_filter() {
    assert!(!Filter::default().admits(&Entity::unit("kubelet.service")));
    assert!(Filter::default().admits(&container("", "uid", "c0ffee")));
}
