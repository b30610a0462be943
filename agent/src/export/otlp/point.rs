//! Metrics and their data points: how each kind and value is written in OTLP.
//!
//! Called by the encoder only.

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, DataPointFlags, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Metric,
        NumberDataPoint, Sum, exponential_histogram_data_point::Buckets, metric::Data, number_data_point,
    },
};

use super::resource::attribute;
use crate::registry::{self, Histogram, Kind, Owner, Sample, Snapshot, Unit, Value, snapshot::Culprit};

/// Attribute with the namespace of the pod that caused a wait.
pub const CULPRIT_NAMESPACE_KEY: &str = "podlens.culprit.namespace";
/// Attribute with the pod that caused a wait, or `(other)`.
pub const CULPRIT_POD_KEY: &str = "podlens.culprit.pod";
/// Attribute with the unit that caused a wait.
pub const CULPRIT_UNIT_KEY: &str = "podlens.culprit.unit";

/// Upper bound of the histogram's first bucket in seconds, 2^-24: what OTLP counts as zero.
const ZERO_THRESHOLD_SECONDS: f64 = 1.0 / 16_777_216.0;

/// OTLP index at scale 0 of the histogram's bucket 1, which ends at 2^-23: index `i` ends at `2^(i+1)`.
/// Bucket 31, everything above 64 s, so lands on index 6, as if it ended at 128 s: the format has no open end.
const FIRST_INDEX: i32 = -24;

/// When a point's value began and was taken.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    pub(super) start_unix_ns: u64,
    pub(super) time_unix_ns: u64,
    /// The series has ended: its last point says so and has no value.
    pub(super) ended: bool,
}

impl Moment {
    fn flags(self) -> u32 {
        if self.ended { DataPointFlags::NoRecordedValueMask as u32 } else { 0 }
    }
}

/// A metric without points.
pub(super) fn empty_metric(metric: &registry::Metric) -> Metric {
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let data_points = Vec::new();
    let data = match metric.kind {
        Kind::Counter => Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true }),
        Kind::Gauge => Data::Gauge(Gauge { data_points }),
        Kind::Histogram => {
            Data::ExponentialHistogram(ExponentialHistogram { data_points: Vec::new(), aggregation_temporality })
        }
    };
    let unit = match metric.unit {
        Unit::Seconds => "s".into(),
        Unit::Bytes => "By".into(),
        Unit::Count(thing) => format!("{{{thing}}}"),
        Unit::Cpus => "{cpu}".into(),
    };
    Metric {
        name: metric.otlp_name.into(),
        description: metric.help.into(),
        unit,
        data: Some(data),
        ..Metric::default()
    }
}

/// Adds a sample to its metric. False if it refers to a name that the snapshot does not have, or if its value
/// is not of the metric's kind: such a sample is left out.
pub(super) fn push(
    metric: &mut Metric,
    definition: &registry::Metric,
    sample: &Sample,
    snapshot: &Snapshot,
    moment: Moment,
) -> bool {
    let Some(attributes) = attributes(definition, sample, snapshot) else {
        return false;
    };
    match (&mut metric.data, &sample.value) {
        (Some(Data::ExponentialHistogram(to)), Value::Histogram(histogram)) => {
            to.data_points.push(histogram_point(histogram, attributes, moment));
        }
        (Some(Data::Sum(Sum { data_points, .. }) | Data::Gauge(Gauge { data_points })), value) => {
            let value = match *value {
                Value::Nanoseconds(value_ns) => number_data_point::Value::AsDouble(seconds(value_ns)),
                Value::Float(value) => number_data_point::Value::AsDouble(value),
                Value::Integer(value) => number_data_point::Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX)),
                Value::Histogram(_) => return false,
            };
            let is_counter = definition.kind == Kind::Counter;
            data_points.push(NumberDataPoint {
                attributes,
                start_time_unix_nano: if is_counter { moment.start_unix_ns } else { 0 },
                time_unix_nano: moment.time_unix_ns,
                flags: moment.flags(),
                value: (!moment.ended).then_some(value),
                ..NumberDataPoint::default()
            });
        }
        _ => return false,
    }
    true
}

fn attributes(definition: &registry::Metric, sample: &Sample, snapshot: &Snapshot) -> Option<Vec<KeyValue>> {
    let mut attributes = Vec::new();
    if let Some(label) = definition.label {
        let value = label.values.get(usize::from(sample.label_value))?;
        attributes.push(attribute(label.name, value));
    }
    match sample.culprit {
        None => {}
        Some(Culprit::Other) => attributes.push(attribute(CULPRIT_POD_KEY, "(other)")),
        Some(Culprit::Owner(position)) => match &snapshot.owners.get(usize::try_from(position).ok()?)?.owner {
            Owner::Container(container) => {
                if !container.namespace.is_empty() {
                    attributes.push(attribute(CULPRIT_NAMESPACE_KEY, &container.namespace));
                }
                attributes.push(attribute(CULPRIT_POD_KEY, &container.pod));
            }
            Owner::Unit(unit) => attributes.push(attribute(CULPRIT_UNIT_KEY, unit)),
        },
    }
    Some(attributes)
}

fn histogram_point(histogram: &Histogram, attributes: Vec<KeyValue>, moment: Moment) -> ExponentialHistogramDataPoint {
    let mut point = ExponentialHistogramDataPoint {
        attributes,
        start_time_unix_nano: moment.start_unix_ns,
        time_unix_nano: moment.time_unix_ns,
        flags: moment.flags(),
        zero_threshold: ZERO_THRESHOLD_SECONDS,
        ..ExponentialHistogramDataPoint::default()
    };
    if moment.ended {
        return point;
    }
    let [zero, positive @ ..] = &histogram.buckets;
    // Empty buckets at both ends are not sent.
    if let (Some(first), Some(last)) =
        (positive.iter().position(|count| *count > 0), positive.iter().rposition(|count| *count > 0))
    {
        point.positive = Some(Buckets {
            offset: i32::try_from(first).map_or(FIRST_INDEX, |first| FIRST_INDEX + first),
            bucket_counts: positive.get(first..=last).unwrap_or_default().to_vec(),
        });
    }
    point.count = histogram.count();
    point.sum = Some(seconds(histogram.sum_ns));
    point.zero_count = *zero;
    point
}

fn seconds(value_ns: u64) -> f64 {
    value_ns as f64 / 1e9
}
