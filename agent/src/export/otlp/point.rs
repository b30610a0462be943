//! Metrics and their data points: how each kind and value is written in OTLP.
//!
//! Called by the encoder only.

use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, DataPointFlags};

use super::{
    Options, field,
    resource::{PointIdentity, attribute},
};
use crate::{
    export::{prometheus::histogram::BOUNDS, proto},
    registry::{Family, Sample, Snapshot, Value, snapshot::Culprit},
    signal::{Entity, Histogram, Kind, Metric, Unit},
};

/// Attribute with the namespace of the pod that caused a wait.
pub const CULPRIT_NAMESPACE_KEY: &str = "podlens.culprit.namespace";
/// Attribute with the pod that caused a wait, or `(other)`.
pub const CULPRIT_POD_KEY: &str = "podlens.culprit.pod";
/// Attribute with the workload whose pods caused a wait, where they are folded.
pub const CULPRIT_WORKLOAD_KEY: &str = "podlens.culprit.workload";
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
    /// 0 if that is not known.
    pub(super) start_unix_ns: u64,
    /// Its entity was there before podlens.
    pub(super) found: bool,
    pub(super) time_unix_ns: u64,
    /// The series has ended: its last point says so and has no value.
    pub(super) ended: bool,
}

impl Moment {
    /// The same for the values of this metric.
    pub(super) fn of(self, metric: &Metric) -> Self {
        let start_unix_ns = if self.found && metric.lifetime { 0 } else { self.start_unix_ns };
        Self { start_unix_ns, ..self }
    }

    fn flags(self) -> u64 {
        if self.ended { DataPointFlags::NoRecordedValueMask as u64 } else { 0 }
    }
}

/// A unit's name in OTLP, in pieces.
pub(in crate::export) fn unit(unit: Unit) -> [&'static str; 3] {
    match unit {
        Unit::Seconds => ["s", "", ""],
        Unit::Bytes => ["By", "", ""],
        Unit::Count(thing) => ["{", thing, "}"],
        Unit::Cpus => ["{", "cpu", "}"],
    }
}

/// What all entities' points of a metric have in common, written once for a push.
pub(super) struct Frame {
    /// What comes before the points.
    head: Vec<u8>,
    /// The metric's own labels as attributes, by combination.
    attributes: Vec<Vec<u8>>,
    /// The field that holds a point's attributes.
    attributes_field: u32,
    explicit: bool,
    /// Its values are differences.
    pub(super) delta: bool,
}

impl Frame {
    pub(super) fn of(family: Family<'_>, options: &Options) -> Self {
        let (metric, explicit) = (family.metric(), options.explicit_histograms);
        let mut head = Vec::new();
        proto::string(&mut head, field::METRIC_NAME, metric.otlp_name);
        proto::string(&mut head, field::METRIC_DESCRIPTION, metric.help);
        proto::strings(&mut head, field::METRIC_UNIT, &unit(metric.unit));
        let attributes_field = match metric.kind {
            Kind::Counter | Kind::Gauge => field::NUMBER_ATTRIBUTES,
            Kind::Histogram if explicit => field::EXPLICIT_ATTRIBUTES,
            Kind::Histogram => field::HISTOGRAM_ATTRIBUTES,
        };
        let of_combination = |combination| {
            let mut attributes = Vec::new();
            for (name, value) in family.column().values(combination) {
                attribute(&mut attributes, attributes_field, name, value);
            }
            attributes
        };
        let attributes = (0..family.column().combinations()).map(of_combination).collect();
        let delta = options.delta && metric.kind != Kind::Gauge;
        Self { head, attributes, attributes_field, explicit, delta }
    }
}

/// Writes a metric with the points that `points` writes.
pub(super) fn metric(out: &mut Vec<u8>, frame: &Frame, metric: &Metric, points: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&frame.head);
    let data = match metric.kind {
        Kind::Counter => field::METRIC_SUM,
        Kind::Gauge => field::METRIC_GAUGE,
        Kind::Histogram if frame.explicit => field::METRIC_HISTOGRAM,
        Kind::Histogram => field::METRIC_EXPONENTIAL_HISTOGRAM,
    };
    // One number is short; values by label are several, and a distribution has many.
    let is_long = !metric.labels.is_empty() || metric.kind == Kind::Histogram;
    let content = |out: &mut Vec<u8>| {
        points(out);
        if metric.kind != Kind::Gauge {
            let temporality =
                if frame.delta { AggregationTemporality::Delta } else { AggregationTemporality::Cumulative };
            proto::number(out, field::DATA_AGGREGATION_TEMPORALITY, temporality as u64);
        }
        if metric.kind == Kind::Counter {
            proto::number(out, field::SUM_IS_MONOTONIC, 1);
        }
    };
    if is_long { proto::nested_long(out, data, content) } else { proto::nested(out, data, content) }
}

/// Writes a sample of a metric. False if it refers to an entity that the snapshot does not have: it is left out.
pub(super) fn point(
    out: &mut Vec<u8>,
    frame: &Frame,
    family: Family<'_>,
    sample: Sample<'_>,
    snapshot: &Snapshot,
    moment: Moment,
    identity: &PointIdentity,
) -> bool {
    let Some(attributes) = Attributes::of(frame, &sample, snapshot, identity) else { return false };
    if let Value::Histogram(histogram) = sample.value {
        let write = if frame.explicit { write_explicit } else { write_exponential };
        proto::nested(out, field::DATA_POINTS, |out| write(out, histogram, &attributes, moment));
        return true;
    }
    let start_unix_ns = if family.metric().kind == Kind::Counter { moment.start_unix_ns } else { 0 };
    proto::nested(out, field::DATA_POINTS, |out| {
        proto::fixed(out, field::POINT_START_TIME, start_unix_ns);
        proto::fixed(out, field::POINT_TIME, moment.time_unix_ns);
        if !moment.ended {
            write_number(out, sample.value);
        }
        attributes.write(out);
        proto::number(out, field::NUMBER_FLAGS, moment.flags());
    });
    true
}

fn write_number(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Nanoseconds(value_ns) => {
            proto::fixed_always(out, field::NUMBER_AS_DOUBLE, seconds(value_ns).to_bits());
        }
        Value::Float(value) => proto::fixed_always(out, field::NUMBER_AS_DOUBLE, value.to_bits()),
        Value::Integer(value) => {
            // The format's number is signed.
            proto::fixed_always(out, field::NUMBER_AS_INT, value.min(i64::MAX.cast_unsigned()));
        }
        Value::Histogram(_) => {}
    }
}

/// What tells a sample from others of its metric and entity.
struct Attributes<'a> {
    /// Its entity's names, where they stand on points.
    identity: &'a [u8],
    /// The metric's own.
    own: &'a [u8],
    culprit: Option<Named<'a>>,
    field: u32,
}

enum Named<'a> {
    Other,
    Entity(&'a Entity),
}

impl<'a> Attributes<'a> {
    fn of(frame: &'a Frame, sample: &Sample<'_>, snapshot: &'a Snapshot, identity: &'a PointIdentity) -> Option<Self> {
        let culprit = match sample.culprit {
            None => None,
            Some(Culprit::Other) => Some(Named::Other),
            Some(Culprit::Entity(position)) => Some(Named::Entity(&snapshot.entity(position)?.entity)),
        };
        let own = frame.attributes.get(sample.combination).map(Vec::as_slice).unwrap_or_default();
        let (field, identity) = (frame.attributes_field, identity.in_field(frame.attributes_field));
        Some(Self { identity, own, culprit, field })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.identity);
        out.extend_from_slice(self.own);
        let field = self.field;
        match self.culprit {
            None => {}
            Some(Named::Other) => attribute(out, field, CULPRIT_POD_KEY, "(other)"),
            Some(Named::Entity(Entity::Container(container))) => {
                if !container.namespace.is_empty() {
                    attribute(out, field, CULPRIT_NAMESPACE_KEY, &container.namespace);
                }
                attribute(out, field, CULPRIT_POD_KEY, &container.pod);
            }
            Some(Named::Entity(Entity::Unit(unit))) => attribute(out, field, CULPRIT_UNIT_KEY, unit),
            Some(Named::Entity(Entity::Workload(of))) => {
                attribute(out, field, CULPRIT_NAMESPACE_KEY, &of.namespace);
                attribute(out, field, CULPRIT_WORKLOAD_KEY, &of.name);
            }
        }
    }
}

fn write_exponential(out: &mut Vec<u8>, histogram: Histogram<'_>, attributes: &Attributes<'_>, moment: Moment) {
    attributes.write(out);
    proto::fixed(out, field::POINT_START_TIME, moment.start_unix_ns);
    proto::fixed(out, field::POINT_TIME, moment.time_unix_ns);
    if !moment.ended {
        let Some((zero, positive)) = histogram.buckets().split_first() else { return };
        proto::fixed(out, field::HISTOGRAM_COUNT, histogram.count());
        proto::fixed_always(out, field::HISTOGRAM_SUM, seconds(histogram.sum_ns()).to_bits());
        proto::fixed(out, field::HISTOGRAM_ZERO_COUNT, *zero);
        // Empty buckets at both ends are not sent.
        if let (Some(first), Some(last)) =
            (positive.iter().position(|count| *count > 0), positive.iter().rposition(|count| *count > 0))
        {
            let offset = i32::try_from(first).map_or(FIRST_INDEX, |first| FIRST_INDEX + first);
            proto::nested(out, field::HISTOGRAM_POSITIVE, |out| {
                proto::signed(out, field::BUCKETS_OFFSET, offset);
                proto::nested(out, field::BUCKETS_COUNTS, |out| {
                    let counts = positive.get(first..=last).unwrap_or_default();
                    for count in counts {
                        proto::varint(out, *count);
                    }
                });
            });
        }
    }
    proto::number(out, field::HISTOGRAM_FLAGS, moment.flags());
    proto::fixed_always(out, field::HISTOGRAM_ZERO_THRESHOLD, ZERO_THRESHOLD_SECONDS.to_bits());
}

/// The buckets of the Prometheus page, each alone, and one for what is above the last bound.
fn write_explicit(out: &mut Vec<u8>, histogram: Histogram<'_>, attributes: &Attributes<'_>, moment: Moment) {
    proto::fixed(out, field::POINT_START_TIME, moment.start_unix_ns);
    proto::fixed(out, field::POINT_TIME, moment.time_unix_ns);
    if !moment.ended {
        proto::fixed(out, field::HISTOGRAM_COUNT, histogram.count());
        proto::fixed_always(out, field::HISTOGRAM_SUM, seconds(histogram.sum_ns()).to_bits());
        let ends = BOUNDS.iter().map(|(last, _)| last + 1).chain([Histogram::BUCKETS]);
        let counts = ends.scan(0, |first, end| {
            let within = histogram.buckets().get(std::mem::replace(first, end)..end).unwrap_or_default();
            Some(within.iter().sum())
        });
        proto::fixed_list(out, field::EXPLICIT_BUCKET_COUNTS, counts);
        let bounds = BOUNDS.iter().filter_map(|(last, _)| Histogram::upper_bound_exponent(*last));
        proto::fixed_list(out, field::EXPLICIT_BOUNDS, bounds.map(|exponent| 2_f64.powi(exponent).to_bits()));
    }
    attributes.write(out);
    proto::number(out, field::HISTOGRAM_FLAGS, moment.flags());
}

fn seconds(value_ns: u64) -> f64 {
    value_ns as f64 / 1e9
}
