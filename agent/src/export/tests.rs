//! One snapshot says the same in every format.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::{
    fixture::{Series, any_snapshot, parse, snapshot, with_facts},
    json,
    metric_family::{self, as_text},
    otlp,
    prometheus::{Format, Style, encode, histogram::BOUNDS},
};
use crate::{config::ClassicHistograms, registry::Snapshot, signal::Histogram};

/// Samples with bounds as numbers, which the formats spell differently.
fn canonical(samples: BTreeMap<Series, f64>) -> BTreeMap<Series, f64> {
    let spelled = |((name, mut labels), value): (Series, f64)| {
        if let Some(bound) = labels.get_mut("le") {
            *bound = bound.parse::<f64>().unwrap().to_string();
        }
        ((name, labels), value)
    };
    samples.into_iter().map(spelled).collect()
}

fn text(snapshot: &Snapshot, format: Format) -> BTreeMap<Series, f64> {
    canonical(parse(&String::from_utf8(encode(snapshot, None, format)).unwrap()))
}

fn protobuf(snapshot: &Snapshot, classic: ClassicHistograms) -> Vec<u8> {
    encode(snapshot, None, Style { format: Format::Protobuf, classic })
}

/// What the document for scripts says, as Prometheus would name it.
fn from_json(snapshot: &Snapshot) -> BTreeMap<Series, f64> {
    let document: Value = serde_json::from_str(&json::encode(snapshot)).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    // Uids and ids are on no series, and a culprit's kind of workload neither.
    let told = |of: &Value, prefix: &str| {
        let all =
            of.as_object().unwrap().iter().filter(|(name, _)| !["pod_uid", "container_id"].contains(&name.as_str()));
        let all = all.filter(|(name, _)| prefix.is_empty() || !["workload_type", "container"].contains(&name.as_str()));
        all.map(|(name, value)| (format!("{prefix}{name}"), text(value))).collect::<BTreeMap<_, _>>()
    };
    let mut found = BTreeMap::new();
    for family in document["families"].as_array().unwrap() {
        let name = text(&family["metric"]);
        for sample in family["samples"].as_array().unwrap() {
            let mut labels = told(&sample["entity"], "");
            labels.insert("node".to_owned(), text(&document["node"]));
            for (label, value) in sample.as_object().unwrap() {
                match (label.as_str(), value) {
                    ("entity" | "value", _) => {}
                    ("culprit", Value::String(other)) => _ = labels.insert("culprit_pod".to_owned(), other.clone()),
                    ("culprit", culprit) => labels.extend(told(culprit, "culprit_")),
                    (label, value) => _ = labels.insert(label.to_owned(), text(value)),
                }
            }
            labels.retain(|_, value| !value.is_empty());
            let mut add = |suffix: &str, labels: &BTreeMap<String, String>, value: f64| {
                let before = found.insert((format!("{name}{suffix}"), labels.clone()), value);
                assert_eq!(before, None);
            };
            let value = &sample["value"];
            let seconds = |name: &str| value[name].as_u64().map(|ns| ns as f64 / 1e9);
            let Some(buckets) = value["buckets"].as_array() else {
                add("", &labels, value.as_f64().or_else(|| seconds("ns")).unwrap());
                continue;
            };
            let buckets: Vec<u64> = buckets.iter().map(|count| count.as_u64().unwrap()).collect();
            add("_sum", &labels, seconds("sum_ns").unwrap());
            add("_count", &labels, value["count"].as_f64().unwrap());
            let bounds =
                BOUNDS.iter().map(|(last, _)| (*last, 2_f64.powi(Histogram::upper_bound_exponent(*last).unwrap())));
            for (last, bound) in bounds.chain([(buckets.len() - 1, f64::INFINITY)]) {
                labels.insert("le".to_owned(), bound.to_string());
                add("_bucket", &labels, buckets[..=last].iter().sum::<u64>() as f64);
            }
        }
    }
    found
}

proptest! {
    #[test]
    fn any_snapshot_has_the_same_numbers_in_every_format(snapshot in any_snapshot()) {
        let expected = text(&snapshot, Format::Text);
        prop_assert_eq!(&text(&snapshot, Format::OpenMetrics), &expected);
        let page = protobuf(&snapshot, ClassicHistograms::Auto);
        prop_assert_eq!(&canonical(as_text(&page, true)), &expected);
        let page = protobuf(&snapshot, ClassicHistograms::Always);
        prop_assert_eq!(&canonical(as_text(&page, true)), &expected);
        prop_assert_eq!(&canonical(as_text(&page, false)), &expected);
        let requests: Vec<otlp::Request> = otlp::requests(&snapshot, None).collect();
        prop_assert_eq!(&canonical(otlp::tests::as_prometheus(&requests)), &expected);
        prop_assert_eq!(&from_json(&snapshot), &expected);
    }
}

#[test]
fn a_native_histogram_has_the_kernels_own_buckets() {
    let page = protobuf(&snapshot(1), ClassicHistograms::Auto);
    let families = metric_family::families(&page);
    let histogram = families.iter().find_map(|family| family.metric[0].histogram.as_ref()).unwrap();
    // Kernel bucket `i` ends at 2^(i-24) s; the last one has no end, and stands behind 64 s.
    assert_eq!((histogram.zero_count, histogram.native()), (Some(1), vec![(-20, 2), (-19, 3), (6, 4), (7, 5)]));
    assert_eq!(histogram.bucket, [], "no classic buckets unless they are asked for");
    let never = protobuf(&snapshot(1), ClassicHistograms::Never);
    assert_eq!(never, page);
}

#[test]
fn families_declare_their_unit_and_facts_are_series_of_one() {
    let families = metric_family::families(&protobuf(&with_facts(), ClassicHistograms::Auto));
    let family = |name: &str| families.iter().find(|family| family.name.as_deref() == Some(name)).unwrap();
    assert_eq!(family("podlens_cpu_seconds_total").unit(), "seconds");
    assert_eq!(family("podlens_memory_bytes").unit(), "bytes");
    assert_eq!(family("podlens_context_switches_total").unit(), "");
    assert_eq!(family("podlens_cpu_seconds_total").help(), "Help with a \\ and a \"quote\"");
    let expected = text(&with_facts(), Format::Text);
    assert_eq!(canonical(as_text(&protobuf(&with_facts(), ClassicHistograms::Auto), true)), expected);
}

#[test]
fn without_classic_buckets_text_has_the_number_and_the_sum_of_a_distribution() {
    for format in [Format::Text, Format::OpenMetrics] {
        let style = Style { format, classic: ClassicHistograms::Never };
        let page = canonical(parse(&String::from_utf8(encode(&snapshot(1), None, style)).unwrap()));
        let mut expected = text(&snapshot(1), format);
        expected.retain(|(_, labels), _| labels.get("le").is_none_or(|bound| bound == "inf"));
        assert_eq!(page, expected);
    }
}
