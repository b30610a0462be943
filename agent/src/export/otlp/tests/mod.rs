//! Tests of the OTLP encoder: against the text page of the same snapshot, and the rules one by one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{KeyValue, any_value},
    metrics::v1::{metric::Data, number_data_point},
    resource::v1::Resource,
};
use proptest::prelude::*;
use prost::Message;

use super::{Options, REQUEST_BYTES, Request, Requests, points, requests, requests_of, resource, unix_ns};
use crate::{
    config::Identity,
    export::{
        fixture::{
            ALL, CAUSED, CPU, LATENCY, LIMIT, MEMORY, SWITCHES, Series, Values, any_snapshot, any_two_snapshots,
            caused, container, distribution, large, parse, snapshot, snapshot_of, state, taken, values, with_facts,
        },
        prometheus::{self, Format},
    },
    registry::{Snapshot, snapshot::Culprit},
    signal::{Container, Entity, Histogram, Label, LabelValues, Metric},
};

mod beginnings;

const NO_RECORDED_VALUE: u32 = 1;

fn message(request: &Request) -> ExportMetricsServiceRequest {
    ExportMetricsServiceRequest::decode(request.bytes.clone()).unwrap()
}

/// All requests of a snapshot, with nothing said about entities that are gone.
pub(crate) fn encode(snapshot: &Snapshot) -> Vec<ExportMetricsServiceRequest> {
    requests(snapshot, None).map(|request| message(&request)).collect()
}

fn strings(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone().unwrap().value.unwrap() {
        any_value::Value::StringValue(text) => text,
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

/// The requests' values as Prometheus would name them, histograms folded into the text page's buckets.
pub(in crate::export) fn as_prometheus(requests: &[Request]) -> BTreeMap<Series, f64> {
    messages_as_prometheus(&requests.iter().map(message).collect::<Vec<_>>())
}

pub(crate) fn messages_as_prometheus(messages: &[ExportMetricsServiceRequest]) -> BTreeMap<Series, f64> {
    let mut found = BTreeMap::new();
    let mut add = |name: String, labels: &BTreeMap<String, String>, value: f64| {
        let before = found.insert((name, labels.clone()), value);
        assert_eq!(before, None);
    };
    for of_entity in messages.iter().flat_map(|message| &message.resource_metrics) {
        let identity = strings(&of_entity.resource.as_ref().unwrap().attributes);
        for metric in of_entity.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
            let name = ALL.iter().find(|known| known.otlp_name == metric.name).unwrap().name;
            let labels = |attributes: &[KeyValue]| {
                let own = strings(attributes);
                let renamed = identity.iter().chain(&own).filter_map(|(key, value)| {
                    let label = match key.as_str() {
                        "k8s.node.name" => "node",
                        "k8s.namespace.name" => "namespace",
                        "k8s.pod.name" => "pod",
                        "k8s.container.name" => "container",
                        "podlens.unit" => "unit",
                        "k8s.deployment.name" | "podlens.workload" => "workload",
                        "podlens.workload.type" => "workload_type",
                        "podlens.culprit.workload" => "culprit_workload",
                        "podlens.culprit.namespace" => "culprit_namespace",
                        "podlens.culprit.pod" => "culprit_pod",
                        "podlens.culprit.unit" => "culprit_unit",
                        "k8s.pod.uid" | "container.id" => return None,
                        other => other,
                    };
                    Some((label.to_owned(), value.clone()))
                });
                let mut labels = renamed.collect::<BTreeMap<_, _>>();
                if identity.contains_key("k8s.deployment.name") {
                    labels.insert("workload_type".to_owned(), "deployment".to_owned());
                }
                labels
            };
            match metric.data.as_ref().unwrap() {
                Data::Sum(sum) => {
                    assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
                    for point in &sum.data_points {
                        add(name.into(), &labels(&point.attributes), number(point.value.unwrap()));
                    }
                }
                Data::Gauge(gauge) => {
                    for point in &gauge.data_points {
                        add(name.into(), &labels(&point.attributes), number(point.value.unwrap()));
                    }
                }
                Data::ExponentialHistogram(histogram) => {
                    assert_eq!(histogram.aggregation_temporality, 2);
                    for point in &histogram.data_points {
                        let mut labels = labels(&point.attributes);
                        add(format!("{name}_sum"), &labels, point.sum.unwrap());
                        add(format!("{name}_count"), &labels, point.count as f64);
                        let positive = point.positive.clone().unwrap_or_default();
                        for exponent in (-20..=2).step_by(2) {
                            let below = (positive.offset..)
                                .zip(&positive.bucket_counts)
                                .filter(|(index, _)| *index < exponent)
                                .map(|(_, count)| count)
                                .sum::<u64>();
                            labels.insert("le".into(), prometheus_number(2_f64.powi(exponent)));
                            add(format!("{name}_bucket"), &labels, (below + point.zero_count) as f64);
                        }
                        labels.insert("le".into(), "+Inf".into());
                        let all = positive.bucket_counts.iter().sum::<u64>() + point.zero_count;
                        add(format!("{name}_bucket"), &labels, all as f64);
                    }
                }
                Data::Histogram(histogram) => {
                    assert_eq!(histogram.aggregation_temporality, 2);
                    for point in &histogram.data_points {
                        let mut labels = labels(&point.attributes);
                        add(format!("{name}_sum"), &labels, point.sum.unwrap());
                        add(format!("{name}_count"), &labels, point.count as f64);
                        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                        let bounds = point.explicit_bounds.iter().map(|bound| prometheus_number(*bound));
                        let mut cumulative = 0;
                        for (count, bound) in point.bucket_counts.iter().zip(bounds.chain(["+Inf".to_owned()])) {
                            cumulative += count;
                            labels.insert("le".into(), bound);
                            add(format!("{name}_bucket"), &labels, cumulative as f64);
                        }
                    }
                }
                other @ Data::Summary(_) => panic!("{other:?}"),
            }
        }
    }
    found
}

fn number(value: number_data_point::Value) -> f64 {
    match value {
        number_data_point::Value::AsDouble(value) => value,
        number_data_point::Value::AsInt(value) => value as f64,
    }
}

fn prometheus_number(value: f64) -> String {
    if value < 1e-4 { format!("{value:e}").replace("e-", "e-0") } else { value.to_string() }
}

fn from_text(snapshot: &Snapshot) -> BTreeMap<Series, f64> {
    parse(&String::from_utf8(prometheus::encode(snapshot, None, Format::Text)).unwrap())
}

#[test]
fn values_equal_those_of_the_text_page() {
    let snapshot = snapshot(1);
    let requests: Vec<Request> = requests(&snapshot, None).collect();
    assert_eq!(as_prometheus(&requests), from_text(&snapshot));
}

proptest! {
    #[test]
    fn explicit_buckets_are_those_of_the_text_page(snapshot in any_snapshot()) {
        let options = Options { explicit_histograms: true, ..Options::default() };
        let requests: Vec<Request> = requests(&snapshot, None).with(&options).collect();
        prop_assert_eq!(as_prometheus(&requests), from_text(&snapshot));
    }

    #[test]
    fn bytes_are_those_of_the_generated_encoder(snapshot in any_snapshot()) {
        let attributes = vec![("k8s.cluster.name".to_owned(), "prod".to_owned())];
        let (explicit_histograms, service_attributes, identity) = (true, true, Identity::Both);
        let all = Options { explicit_histograms, service_attributes, delta: false, identity, attributes };
        let delta = Options { delta: true, identity: Identity::Attributes, ..Options::default() };
        for options in [Options::default(), all, delta] {
            for request in requests(&snapshot, Some(&super::tests::snapshot(0))).with(&options) {
                prop_assert_eq!(message(&request).encode_to_vec(), request.bytes.to_vec());
            }
        }
    }

    #[test]
    fn a_difference_is_what_was_added_since_the_last_push_and_begins_there(
        [before, mut after, added] in any_two_snapshots(),
    ) {
        after.taken = taken() + Duration::from_secs(15);
        let delta = Options { delta: true, ..Options::default() };
        let pushed = requests(&after, Some(&before)).with(&delta);
        let mut pushed: Vec<_> = pushed.map(|request| message(&request)).collect();
        for (temporality, start, point) in totals(&mut pushed) {
            prop_assert_eq!((*temporality, start), (1, unix_ns(before.taken)));
            prop_assert_eq!(point, unix_ns(after.taken));
            *temporality = 2;
        }
        // Gauges are what they are now.
        let of_now = messages_as_prometheus(&encode(&after));
        let is_gauge = |(name, _): &Series| [MEMORY.name, LIMIT.name].contains(&name.as_str());
        let mut expected = messages_as_prometheus(&encode(&added));
        expected.retain(|series, _| !is_gauge(series));
        expected.extend(of_now.clone().into_iter().filter(|(series, _)| is_gauge(series)));
        let mut found = messages_as_prometheus(&pushed);
        prop_assert_eq!(found.len(), of_now.len(), "what was not added to is there with 0");
        found.retain(|series, value| expected.contains_key(series) || *value != 0.0);
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn entities_passed_over_are_those_that_came_first(snapshot in any_snapshot(), passed in 0_usize..8) {
        let previous = super::tests::snapshot(0);
        let resources = |requests: Requests<'_>| -> Vec<_> {
            requests.flat_map(|request| message(&request).resource_metrics).collect()
        };
        let all = resources(requests(&snapshot, Some(&previous)));
        let rest = resources(requests(&snapshot, Some(&previous)).skip_entities(passed));
        prop_assert_eq!(&rest[..], all.get(passed..).unwrap_or_default());
        let counted: usize = requests(&snapshot, Some(&previous)).map(|request| request.entities).sum();
        prop_assert_eq!(counted, all.len());
    }

    #[test]
    fn splitting_loses_and_doubles_nothing_and_keeps_to_the_limit(
        snapshot in any_snapshot(), limit_bytes in 1_usize..8000,
    ) {
        let whole: Vec<Request> = requests(&snapshot, None).collect();
        let split: Vec<Request> = requests_of(&snapshot, None, limit_bytes).collect();
        for request in &split {
            let small = request.bytes.len() <= limit_bytes;
            prop_assert!(small || message(request).resource_metrics.len() == 1);
        }
        let sum = |requests: &[Request]| requests.iter().map(|request| request.points).sum::<u64>();
        prop_assert_eq!(sum(&split), points(&snapshot));
        prop_assert_eq!(sum(&whole), points(&snapshot));
        let resources = |requests: Vec<Request>| -> Vec<_> {
            requests.iter().flat_map(|request| message(request).resource_metrics).collect()
        };
        prop_assert_eq!(resources(split), resources(whole));
    }
}

/// The temporality of each total or distribution in the messages, and of each of its points the start and the time.
fn totals(messages: &mut [ExportMetricsServiceRequest]) -> Vec<(&mut i32, u64, u64)> {
    let resources = messages.iter_mut().flat_map(|message| &mut message.resource_metrics);
    let metrics = resources.flat_map(|of| &mut of.scope_metrics).flat_map(|scope| &mut scope.metrics);
    metrics.filter_map(total).collect()
}

fn total(metric: &mut opentelemetry_proto::tonic::metrics::v1::Metric) -> Option<(&mut i32, u64, u64)> {
    match metric.data.as_mut().unwrap() {
        Data::Sum(sum) => {
            let [first, ..] = &sum.data_points[..] else { panic!("no points") };
            assert!(sum.data_points.iter().all(|point| point.start_time_unix_nano == first.start_time_unix_nano));
            Some((&mut sum.aggregation_temporality, first.start_time_unix_nano, first.time_unix_nano))
        }
        Data::ExponentialHistogram(of) => {
            let [first, ..] = &of.data_points[..] else { panic!("no points") };
            assert!(of.data_points.iter().all(|point| point.start_time_unix_nano == first.start_time_unix_nano));
            Some((&mut of.aggregation_temporality, first.start_time_unix_nano, first.time_unix_nano))
        }
        _ => None,
    }
}

#[test]
fn a_difference_is_all_of_it_for_who_is_new_and_where_a_total_began_anew() {
    let delta = Options { delta: true, ..Options::default() };
    let of = |pods: &[&str], used: &[u64]| {
        let entities = pods.iter().map(|pod| state(container("shop", pod, "nginx"))).collect();
        let cells: Vec<[u64; 1]> = used.iter().map(|used| [*used]).collect();
        let cells: Vec<(u32, &[u64])> = (0..).zip(cells.iter().map(|cells| &cells[..])).collect();
        snapshot_of(entities, &[values(&CPU, &cells), values(&MEMORY, &[(0, &[4096])])])
    };
    let before = of(&["web-1", "web-2", "web-3"], &[5_000_000_000, 7_000_000_000, 1]);
    let after = of(&["web-2", "web-1", "web-4"], &[9_000_000_000, 1_000_000_000, 3_000_000_000]);
    let requests: Vec<Request> = requests(&after, Some(&before)).with(&delta).collect();
    let mut found = BTreeMap::new();
    for of_entity in requests.iter().flat_map(|request| message(request).resource_metrics) {
        let pod = strings(&of_entity.resource.as_ref().unwrap().attributes)["k8s.pod.name"].clone();
        for metric in of_entity.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            match metric.data.unwrap() {
                Data::Sum(sum) => {
                    let point = &sum.data_points[0];
                    found.insert(pod.clone(), (number(point.value.unwrap()), point.start_time_unix_nano));
                }
                // The gauge of web-1, which only its first snapshot has, ends.
                Data::Gauge(gauge) => {
                    let ended = gauge.data_points[0].flags == NO_RECORDED_VALUE;
                    assert_eq!(ended, pod == "web-1", "{gauge:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let (since, pushed) = (unix_ns(state(Entity::unit("")).since.moment()), unix_ns(before.taken));
    // web-1 began anew, web-2 goes on, web-4 is new; of web-3 there is no more.
    let expected = [("web-1", (1.0, since)), ("web-2", (2.0, pushed)), ("web-4", (3.0, since))];
    assert_eq!(found, expected.map(|(pod, value)| (pod.to_owned(), value)).into());
}

#[test]
fn an_entitys_names_are_on_the_resource_on_points_or_on_both() {
    let names = |attributes: &[KeyValue]| {
        let mut attributes = attributes.to_vec();
        attributes.retain(|one| one.key != "container.image.tags");
        strings(&attributes)
    };
    let of = |identity: Identity, explicit_histograms: bool| {
        let options = Options { explicit_histograms, identity, ..Options::default() };
        let snapshot = Snapshot { infos: with_facts().infos, ..snapshot(1) };
        let requests: Vec<Request> = requests(&snapshot, None).with(&options).collect();
        let first = message(&requests[0]).resource_metrics.remove(0);
        let resource = first.resource.unwrap();
        let mut points = Vec::new();
        for metric in first.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            match metric.data.unwrap() {
                Data::Sum(sum) => points.extend(sum.data_points.into_iter().map(|point| point.attributes)),
                Data::Gauge(gauge) => points.extend(gauge.data_points.into_iter().map(|point| point.attributes)),
                Data::ExponentialHistogram(of) => {
                    points.extend(of.data_points.into_iter().map(|point| point.attributes));
                }
                Data::Histogram(of) => points.extend(of.data_points.into_iter().map(|point| point.attributes)),
                other @ Data::Summary(_) => panic!("{other:?}"),
            }
        }
        let points: Vec<BTreeMap<String, String>> = points.iter().map(|point| names(point)).collect();
        (names(&resource.attributes), resource.entity_refs.len(), points)
    };
    for explicit in [false, true] {
        let (resource, refs, plain) = of(Identity::Resource, explicit);
        assert!(refs > 0 && plain.len() > 4);
        let mut on_points = resource.clone();
        on_points.remove("container.image.name");
        for key in ["k8s.node.name", "k8s.pod.name", "k8s.pod.uid", "container.id", "k8s.deployment.name"] {
            assert!(on_points.contains_key(key), "{key}");
        }
        let with_names = |plain: &BTreeMap<String, String>| {
            on_points.iter().chain(plain).map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let labelled: Vec<BTreeMap<String, String>> = plain.iter().map(with_names).collect();
        assert_eq!(of(Identity::Both, explicit), (resource.clone(), refs, labelled.clone()));
        let node = [("k8s.node.name".to_owned(), resource["k8s.node.name"].clone())].into();
        assert_eq!(of(Identity::Attributes, explicit), (node, 0, labelled));
    }
}

#[test]
fn large_snapshots_are_split_below_the_receivers_limit() {
    let snapshot = large(500, 100);
    let sizes: Vec<usize> = requests(&snapshot, None).map(|request| request.bytes.len()).collect();
    assert!(sizes.len() > 1 && sizes.iter().all(|size| *size <= REQUEST_BYTES), "{sizes:?}");
}

#[test]
fn identity_is_told_as_far_as_it_is_known() {
    let check = |entity: &Entity, expected: &[(&str, &str)], entities: &[&str]| {
        let mut bytes = Vec::new();
        resource::write(&mut bytes, entity, "node-1", |_| None, &Options::default());
        let resource = Resource::decode(bytes.as_slice()).unwrap();
        let expected = expected.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        assert_eq!(strings(&resource.attributes), expected, "{entity:?}");
        let kinds: Vec<&str> = resource.entity_refs.iter().map(|entity| entity.r#type.as_str()).collect();
        assert_eq!(kinds, entities, "{entity:?}");
        for entity in &resource.entity_refs {
            for key in entity.id_keys.iter().chain(&entity.description_keys) {
                assert!(resource.attributes.iter().any(|attribute| attribute.key == *key));
            }
        }
    };
    let known = Container {
        namespace: "shop".into(),
        pod: "web-1".into(),
        container: "nginx".into(),
        pod_uid: "2af1".into(),
        container_id: "0123456789abcdef".into(),
    };
    check(
        &Entity::Container(known.clone()),
        &[
            ("k8s.node.name", "node-1"),
            ("k8s.namespace.name", "shop"),
            ("k8s.pod.name", "web-1"),
            ("k8s.pod.uid", "2af1"),
            ("k8s.container.name", "nginx"),
            ("container.id", "0123456789abcdef"),
        ],
        &["k8s.pod", "container"],
    );
    let unknown =
        Container { namespace: "".into(), pod: "2af1".into(), container: "0123456789ab".into(), ..known.clone() };
    check(
        &Entity::Container(unknown),
        &[("k8s.node.name", "node-1"), ("k8s.pod.uid", "2af1"), ("container.id", "0123456789abcdef")],
        &["k8s.pod", "container"],
    );
    let pod_itself = Container { container: "".into(), container_id: "".into(), ..known };
    check(
        &Entity::Container(pod_itself),
        &[
            ("k8s.node.name", "node-1"),
            ("k8s.namespace.name", "shop"),
            ("k8s.pod.name", "web-1"),
            ("k8s.pod.uid", "2af1"),
        ],
        &["k8s.pod"],
    );
    check(
        &Entity::unit("kubelet.service"),
        &[("k8s.node.name", "node-1"), ("podlens.unit", "kubelet.service")],
        &["podlens.unit"],
    );
}

#[test]
fn each_bucket_lands_between_the_bounds_that_the_kernel_counted() {
    for bucket in 0..Histogram::BUCKETS {
        let entities = vec![state(container("shop", "web-1", "nginx"))];
        let snapshot = snapshot_of(entities, &[values(&LATENCY, &[(0, &distribution(&[(bucket, 3)], 0))])]);
        let message = &encode(&snapshot)[0];
        let metric = &message.resource_metrics[0].scope_metrics[0].metrics[0];
        let Some(Data::ExponentialHistogram(data)) = &metric.data else { panic!("{metric:?}") };
        let point = &data.data_points[0];
        assert_eq!((point.count, point.scale), (3, 0));
        assert_eq!(point.zero_threshold.to_bits(), 2_f64.powi(-24).to_bits());
        if bucket == 0 {
            assert_eq!((point.zero_count, &point.positive), (3, &None));
            continue;
        }
        let positive = point.positive.as_ref().unwrap();
        assert_eq!(positive.bucket_counts, [3], "bucket {bucket}");
        // Index i of scale 0 is (2^i, 2^(i+1)].
        let upper = Histogram::upper_bound_exponent(bucket).unwrap_or(7);
        assert_eq!(positive.offset + 1, upper, "bucket {bucket}");
    }
}

#[test]
fn points_carry_their_entities_start_and_the_sweeps_time() {
    for of_entity in &encode(&snapshot(1))[0].resource_metrics {
        assert_eq!(of_entity.schema_url, "https://opentelemetry.io/schemas/1.44.0");
        for metric in &of_entity.scope_metrics[0].metrics {
            let start = unix_ns(state(Entity::unit("")).since.moment());
            let times: Vec<(u64, u64)> = match metric.data.as_ref().unwrap() {
                Data::Sum(sum) => times(&sum.data_points),
                // A gauge has no start.
                Data::Gauge(gauge) => times(&gauge.data_points).iter().map(|(from, to)| (from + start, *to)).collect(),
                Data::ExponentialHistogram(histogram) => histogram
                    .data_points
                    .iter()
                    .map(|point| (point.start_time_unix_nano, point.time_unix_nano))
                    .collect(),
                other => panic!("{other:?}"),
            };
            assert!(!times.is_empty());
            assert!(times.iter().all(|time| *time == (start, unix_ns(taken()))), "{metric:?}");
        }
    }
}

fn times(points: &[opentelemetry_proto::tonic::metrics::v1::NumberDataPoint]) -> Vec<(u64, u64)> {
    points.iter().map(|point| (point.start_time_unix_nano, point.time_unix_nano)).collect()
}

#[test]
fn an_entity_that_left_gets_one_last_point_a_series_without_a_value() {
    let previous = snapshot(1);
    let mut current = snapshot(2);
    // The first entity has another container now.
    std::sync::Arc::make_mut(&mut current.entities)[0] = state(container("shop", "web-2", "nginx"));
    let gone = previous.families().flat_map(crate::registry::Family::samples);
    let gone = gone.filter(|sample| sample.entity == 0).count() as u64;

    let whole: Requests<'_> = requests(&current, Some(&previous));
    let whole: Vec<Request> = whole.collect();
    assert_eq!(whole.iter().map(|request| request.points).sum::<u64>(), points(&current) + gone);
    let resources = message(&whole[0]).resource_metrics;
    let last = resources.last().unwrap();
    assert_eq!(strings(&last.resource.as_ref().unwrap().attributes)["k8s.pod.name"], "web-1");
    let mut seen = 0;
    for metric in &last.scope_metrics[0].metrics {
        match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => {
                for point in &sum.data_points {
                    assert_eq!((point.flags, point.value), (NO_RECORDED_VALUE, None));
                    assert_eq!(point.time_unix_nano, unix_ns(current.taken));
                    seen += 1;
                }
            }
            Data::Gauge(gauge) => {
                for point in &gauge.data_points {
                    assert_eq!((point.flags, point.value), (NO_RECORDED_VALUE, None));
                    seen += 1;
                }
            }
            Data::ExponentialHistogram(histogram) => {
                for point in &histogram.data_points {
                    assert_eq!((point.flags, point.count, point.sum), (NO_RECORDED_VALUE, 0, None));
                    seen += 1;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, gone);
    let same: Vec<Request> = requests(&current, Some(&current)).collect();
    assert_eq!(same.iter().map(|request| request.points).sum::<u64>(), points(&current));
}

#[test]
#[ignore = "a measurement: run it alone with --release --nocapture"]
fn fifty_thousand_points_take_milliseconds() {
    let snapshot = large(500, 100);
    let (mut best, mut best_gzip) = (Duration::MAX, Duration::MAX);
    for _ in 0..10 {
        let began = Instant::now();
        let messages: Vec<bytes::Bytes> = requests(&snapshot, None).map(|request| request.bytes).collect();
        best = best.min(began.elapsed());
        let began = Instant::now();
        for message in std::hint::black_box(messages) {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            encoder.write_all(&message).unwrap();
            std::hint::black_box(encoder.finish().unwrap());
        }
        best_gzip = best_gzip.min(began.elapsed());
    }
    println!("50,000 points as OTLP: {best:?}, gzip at level 6: {best_gzip:?}");
    assert!(best < Duration::from_millis(100));
}

#[test]
fn a_series_that_ends_before_its_entity_gets_one_last_point_without_a_value() {
    let of = |bytes: [u64; 2]| {
        let entities = vec![state(container("shop", "web-1", "nginx"))];
        snapshot_of(entities, &[values(&CPU, &[(0, &[5])]), values(&MEMORY, &[(0, &bytes)])])
    };
    let (both, one) = (of([1, 2]), of([0, 2]));
    let ended = |previous: &Snapshot, current: &Snapshot| {
        let requests: Vec<Request> = requests(current, Some(previous)).collect();
        let of_entities = requests.iter().flat_map(|request| message(request).resource_metrics).skip(1);
        let metrics = of_entities.flat_map(|of| of.scope_metrics).flat_map(|scope| scope.metrics);
        let mut ended = Vec::new();
        for metric in metrics {
            let Data::Gauge(gauge) = metric.data.unwrap() else { panic!("no gauge") };
            for point in gauge.data_points {
                ended.push((metric.name.clone(), strings(&point.attributes)["type"].clone(), point.flags, point.value));
            }
        }
        ended
    };
    let last = ("podlens.memory".to_owned(), "anon".to_owned(), NO_RECORDED_VALUE, None);
    assert_eq!(ended(&both, &one), [last]);
    assert_eq!(ended(&one, &both), []);
}

#[test]
fn a_metric_of_two_collectors_is_one_in_each_format() {
    static OTHER: Metric =
        Metric { labels: &[Label { name: "kind", values: LabelValues::Fixed(&["unknown"]) }], ..SWITCHES };
    let entities = vec![state(container("shop", "web-1", "nginx"))];
    let of_all = [values(&SWITCHES, &[(0, &[1, 2])]), values(&CPU, &[(0, &[5])]), values(&OTHER, &[(0, &[3])])];
    let snapshot = snapshot_of(entities, &of_all);
    let metrics = encode(&snapshot)[0].resource_metrics[0].scope_metrics[0].metrics.clone();
    let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!(names, ["podlens.context.switches", "container.cpu.time"]);
    let Data::Sum(sum) = metrics[0].data.as_ref().unwrap() else { panic!("no sum") };
    let kinds: Vec<String> = sum.data_points.iter().map(|point| strings(&point.attributes)["kind"].clone()).collect();
    assert_eq!(kinds, ["voluntary", "involuntary", "unknown"]);
    let document: serde_json::Value = serde_json::from_str(&crate::export::json::encode(&snapshot)).unwrap();
    let families = document["families"].as_array().unwrap().iter();
    let families: Vec<(&str, usize)> = families
        .map(|family| (family["metric"].as_str().unwrap(), family["samples"].as_array().unwrap().len()))
        .collect();
    assert_eq!(families, [(SWITCHES.name, 3), (CPU.name, 1)]);
}

#[test]
fn facts_about_a_pod_and_its_image_are_on_the_resource() {
    let requests = encode(&with_facts());
    let resource = requests[0].resource_metrics[0].resource.as_ref().unwrap();
    let facts: Vec<String> =
        resource.attributes[6..].iter().map(|one| format!("{} {:?}", one.key, one.value)).collect();
    assert!(facts[0].starts_with("k8s.deployment.name ") && facts[0].contains("\"web\""), "{facts:?}");
    assert!(facts[1].starts_with("container.image.name ") && facts[1].contains("\"registry:5000/nginx\""), "{facts:?}");
    assert!(facts[2].starts_with("container.image.tags ") && facts[2].contains("\"1\""), "{facts:?}");
    assert_eq!(facts.len(), 3);
    let other = requests[0].resource_metrics[1].resource.as_ref().unwrap();
    assert_eq!(other.attributes.len(), 6, "facts are nobody else's");
}

#[test]
fn an_image_is_split_at_its_tag_or_digest() {
    for (text, expected) in [
        ("nginx", ("nginx", "")),
        ("nginx:1.27", ("nginx", "1.27")),
        ("registry:5000/nginx", ("registry:5000/nginx", "")),
        ("registry:5000/nginx:1", ("registry:5000/nginx", "1")),
        ("nginx@sha256:00", ("nginx", "")),
        ("nginx:1@sha256:00", ("nginx", "")),
        ("", ("", "")),
    ] {
        assert_eq!(resource::image(text), expected, "{text}");
    }
}

/// The attributes of each resource of a snapshot, lists aside.
fn resources(snapshot: &Snapshot, options: &Options) -> Vec<BTreeMap<String, String>> {
    let requests: Vec<Request> = requests(snapshot, None).with(options).collect();
    let messages = requests.iter().flat_map(|request| message(request).resource_metrics);
    let attributes = messages.map(|of_entity| {
        let mut attributes = of_entity.resource.unwrap().attributes;
        attributes.retain(|one| one.key != "container.image.tags");
        strings(&attributes)
    });
    attributes.collect()
}

#[test]
fn a_users_attributes_are_on_each_resource_but_replace_nothing() {
    let attributes = [("k8s.cluster.name", "prod"), ("k8s.node.name", "other")];
    let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let options = Options { attributes, ..Options::default() };
    let (with, without) = (resources(&snapshot(1), &options), resources(&snapshot(1), &Options::default()));
    assert!(!with.is_empty());
    for (with, mut without) in with.into_iter().zip(without) {
        without.insert("k8s.cluster.name".to_owned(), "prod".to_owned());
        assert_eq!(with, without);
    }
}

#[test]
fn what_names_a_pod_a_container_or_a_service_is_told_from_what_names_a_place() {
    for key in
        ["k8s.pod.name", "k8s.namespace.name", "container.id", "service.name", "k8s.deployment.name", "podlens.unit"]
    {
        assert!(super::is_of_entity(key), "{key}");
    }
    for key in ["k8s.cluster.name", "cloud.region", "deployment.environment.name", "k8s.node.uid", "host.name", "team"]
    {
        assert!(!super::is_of_entity(key), "{key}");
    }
}

#[test]
fn as_services_all_resources_differ_by_their_instance() {
    let options = Options { service_attributes: true, ..Options::default() };
    let mut entities = with_facts().entities.to_vec();
    // The same container made again: its last values come beside the first ones of its successor.
    let Entity::Container(again) = &*entities[0].entity else { panic!("no container") };
    let again = Container { container_id: "f".repeat(64).into(), ..again.clone() };
    entities.push(state(Entity::Container(again)));
    let of_each = [values(&CPU, &[(0, &[1]), (1, &[2]), (2, &[3]), (3, &[4])])];
    let snapshot = Snapshot { infos: with_facts().infos, ..snapshot_of(entities, &of_each) };
    let found = resources(&snapshot, &options);
    let mut instances: Vec<&str> = found.iter().map(|one| one["service.instance.id"].as_str()).collect();
    let all = instances.len();
    instances.sort_unstable();
    instances.dedup();
    assert!(all >= 3 && instances.len() == all, "{found:?}");
    assert_eq!(found[0]["service.name"], "web", "a workload is the service of its pods");
    assert_eq!(found[0]["service.namespace"], found[0]["k8s.namespace.name"]);
    let unit = found.iter().find(|one| one.contains_key("podlens.unit")).expect("a unit");
    assert_eq!(unit["service.name"], unit["podlens.unit"]);
    assert_eq!(unit["service.instance.id"], format!("{}/{}", unit["k8s.node.name"], unit["podlens.unit"]));
}
