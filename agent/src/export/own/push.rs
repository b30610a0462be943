//! The agent's own metrics as OTLP, under a resource of their own.
//!
//! A few dozen points per push, so they are built as messages. They travel with the pods' values, over the same connection
//! and under the same rules.

use std::{collections::BTreeMap, time::SystemTime};

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point::Value,
    },
    resource::v1::Resource,
};
use prometheus::proto::{self, MetricFamily, MetricType};
use prost::Message as _;

use crate::{
    export::otlp::{SCHEMA_URL, unix_ns},
    telemetry::SelfTelemetry,
};

/// The agent's resource: what it says of itself, over which a user's attributes go, and over those the name of its service.
#[must_use]
pub fn resource_attributes(
    node: &str,
    given: &BTreeMap<String, String>,
    service_name: Option<&str>,
) -> BTreeMap<String, String> {
    let own = [
        ("service.name", "podlens"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", node),
        ("k8s.node.name", node),
    ];
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let mut attributes: BTreeMap<String, String> = own.into_iter().map(owned).collect();
    attributes.extend(given.clone());
    attributes.extend(service_name.map(|name| owned(("service.name", name))));
    attributes
}

/// An encoded `ExportMetricsServiceRequest` with all own metrics but those of the process.
#[must_use]
pub fn request(telemetry: &SelfTelemetry, resource: &BTreeMap<String, String>, now: SystemTime) -> Bytes {
    let moment = Moment { start_unix_ns: unix_ns(telemetry.started()), time_unix_ns: unix_ns(now) };
    let attributes = resource.iter().map(|(key, value)| attribute(key, value)).collect();
    let resource = Resource { attributes, ..Resource::default() };
    let scope = InstrumentationScope {
        name: "podlens".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    let metrics = telemetry.gather().iter().filter_map(|family| metric(family, moment)).collect();
    let schema_url = SCHEMA_URL.to_owned();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, schema_url: schema_url.clone() }];
    let resource_metrics = vec![ResourceMetrics { resource: Some(resource), scope_metrics, schema_url }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec().into()
}

#[derive(Clone, Copy)]
struct Moment {
    start_unix_ns: u64,
    time_unix_ns: u64,
}

/// None for a kind of metric that the agent does not have.
fn metric(family: &MetricFamily, moment: Moment) -> Option<Metric> {
    let cumulative = AggregationTemporality::Cumulative.into();
    let metrics = family.get_metric();
    let numbers = |start_unix_ns: u64, value: fn(&proto::Metric) -> f64| {
        let point = |metric: &proto::Metric| NumberDataPoint {
            attributes: attributes(metric),
            start_time_unix_nano: start_unix_ns,
            time_unix_nano: moment.time_unix_ns,
            value: Some(Value::AsDouble(value(metric))),
            ..NumberDataPoint::default()
        };
        metrics.iter().map(point).collect()
    };
    let data = match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: numbers(moment.start_unix_ns, |metric| metric.get_counter().get_value()),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        MetricType::GAUGE => Data::Gauge(Gauge { data_points: numbers(0, |metric| metric.get_gauge().get_value()) }),
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: metrics.iter().map(|metric| distribution(metric, moment)).collect(),
            aggregation_temporality: cumulative,
        }),
        _ => return None,
    };
    Some(Metric {
        name: otlp_name(family.name()),
        description: family.help().to_owned(),
        unit: unit(family.name()).to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

/// The library counts each bucket with all below; OTLP wants each alone, and one more for what is above the last bound.
fn distribution(metric: &proto::Metric, moment: Moment) -> HistogramDataPoint {
    let histogram = metric.get_histogram();
    let count = histogram.get_sample_count();
    let bounds = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let (explicit_bounds, mut cumulative): (Vec<f64>, Vec<u64>) =
        bounds.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).unzip();
    cumulative.push(count);
    let below = std::iter::once(0).chain(cumulative.iter().copied());
    HistogramDataPoint {
        attributes: attributes(metric),
        start_time_unix_nano: moment.start_unix_ns,
        time_unix_nano: moment.time_unix_ns,
        count,
        sum: Some(histogram.get_sample_sum()),
        bucket_counts: cumulative.iter().zip(below).map(|(upto, below)| upto.saturating_sub(below)).collect(),
        explicit_bounds,
        ..HistogramDataPoint::default()
    }
}

fn attributes(metric: &proto::Metric) -> Vec<KeyValue> {
    metric.get_label().iter().map(|label| attribute(label.name(), label.value())).collect()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = any_value::Value::StringValue(value.to_owned());
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// A metric's name in OTLP: dots, and neither unit nor `_total`.
fn otlp_name(name: &str) -> String {
    let stem = name.strip_suffix("_total").unwrap_or(name);
    let stem = ["_seconds", "_bytes"].iter().find_map(|unit| stem.strip_suffix(unit)).unwrap_or(stem);
    stem.replace('_', ".")
}

fn unit(name: &str) -> &'static str {
    let stem = name.strip_suffix("_total").unwrap_or(name);
    if stem.ends_with("_seconds") {
        "s"
    } else if stem.ends_with("_bytes") {
        "By"
    } else {
        "1"
    }
}

#[cfg(test)]
mod tests {
    use super::{otlp_name, unit};

    #[test]
    fn names_and_units_are_taken_from_the_prometheus_name() {
        for (name, otlp, in_unit) in [
            ("podlens_otlp_points_total", "podlens.otlp.points", "1"),
            ("podlens_bpf_run_seconds_total", "podlens.bpf.run", "s"),
            ("podlens_bpf_memory_bytes", "podlens.bpf.memory", "By"),
            ("podlens_slots", "podlens.slots", "1"),
        ] {
            assert_eq!((otlp_name(name).as_str(), unit(name)), (otlp, in_unit), "{name}");
        }
    }
}
