//! The protobuf format: messages `io.prometheus.client.MetricFamily`, each behind its length. Called by
//! [`super::write_samples`], and for its fields by whoever writes the agent's own metrics.
//!
//! It alone carries native histograms, whose schema 0 has the very bounds of the kernel's buckets. No created timestamps:
//! Prometheus 3.5 fails at a native histogram that has one (prometheus#16318).

use std::{
    io::{self, Write},
    ops::Range,
};

use super::{CHUNK_BYTES, Filter, NODE, Named, Style, histogram::classic, identity, info, samples, stem, unit};
use crate::{
    export::proto,
    registry::{Family, Snapshot, Value},
    signal::{Histogram, Kind, Metric},
};

/// Field numbers, by message, and members of its enumeration.
pub(in crate::export) mod field {
    pub(in crate::export) const FAMILY_NAME: u32 = 1;
    pub(in crate::export) const FAMILY_HELP: u32 = 2;
    pub(in crate::export) const FAMILY_TYPE: u32 = 3;
    pub(in crate::export) const FAMILY_METRIC: u32 = 4;
    pub(in crate::export) const FAMILY_UNIT: u32 = 5;

    pub(in crate::export) const TYPE_COUNTER: u64 = 0;
    pub(in crate::export) const TYPE_GAUGE: u64 = 1;
    pub(in crate::export) const TYPE_HISTOGRAM: u64 = 4;

    pub(in crate::export) const METRIC_LABEL: u32 = 1;
    pub(in crate::export) const METRIC_GAUGE: u32 = 2;
    pub(in crate::export) const METRIC_COUNTER: u32 = 3;
    pub(in crate::export) const METRIC_HISTOGRAM: u32 = 7;

    pub(in crate::export) const LABEL_NAME: u32 = 1;
    pub(in crate::export) const LABEL_VALUE: u32 = 2;

    /// Of a gauge and of a counter.
    pub(in crate::export) const NUMBER_VALUE: u32 = 1;

    pub(in crate::export) const HISTOGRAM_COUNT: u32 = 1;
    pub(in crate::export) const HISTOGRAM_SUM: u32 = 2;
    pub(in crate::export) const HISTOGRAM_BUCKET: u32 = 3;
    pub(in crate::export) const HISTOGRAM_SCHEMA: u32 = 5;
    pub(in crate::export) const HISTOGRAM_ZERO_THRESHOLD: u32 = 6;
    pub(in crate::export) const HISTOGRAM_ZERO_COUNT: u32 = 7;
    pub(in crate::export) const HISTOGRAM_POSITIVE_SPAN: u32 = 12;
    pub(in crate::export) const HISTOGRAM_POSITIVE_DELTA: u32 = 13;

    pub(in crate::export) const BUCKET_CUMULATIVE_COUNT: u32 = 1;
    pub(in crate::export) const BUCKET_UPPER_BOUND: u32 = 2;

    pub(in crate::export) const SPAN_OFFSET: u32 = 1;
    pub(in crate::export) const SPAN_LENGTH: u32 = 2;
}

/// Upper bound of the kernel's first bucket in seconds, 2^-24: what a native histogram counts as zero.
const ZERO_THRESHOLD_SECONDS: f64 = 1.0 / 16_777_216.0;

/// Index in schema 0 of the kernel's bucket 1, which ends at 2^-23 s: index `i` ends at `2^i`. Bucket 31, everything
/// above 64 s, so lands on index 7, as if it ended at 128 s: the format has no open end.
const FIRST_INDEX: i32 = -23;

/// Writes the whole page.
pub(super) fn write(
    snapshot: &Snapshot,
    filter: Option<&Filter>,
    style: Style,
    writer: &mut impl Write,
) -> io::Result<()> {
    let page = Page { snapshot, filter, has_classic: style.has_classic(), identities: Identities::of(snapshot) };
    let mut out = Vec::with_capacity(2 * CHUNK_BYTES);
    for parts in snapshot.grouped_families() {
        page.push_family(&mut out, &parts);
        if out.len() >= CHUNK_BYTES {
            writer.write_all(&out)?;
            out.clear();
        }
    }
    for (metric, of_metric) in info::families(snapshot, filter) {
        push_family(&mut out, metric.name, metric.help, field::TYPE_GAUGE, |out| {
            for facts in of_metric {
                proto::nested_long(out, field::FAMILY_METRIC, |out| {
                    facts.labels().for_each(|(name, value)| push_label(out, name, value));
                    push_label(out, NODE, &snapshot.node);
                    push_value(out, field::METRIC_GAUGE, 1.0);
                });
            }
        });
    }
    writer.write_all(&out)
}

/// Writes a family with the metrics that `metrics` writes.
pub(in crate::export) fn push_family(
    out: &mut Vec<u8>,
    name: &str,
    help: &str,
    kind: u64,
    metrics: impl FnOnce(&mut Vec<u8>),
) {
    proto::delimited(out, |out| {
        proto::string(out, field::FAMILY_NAME, name);
        proto::string(out, field::FAMILY_HELP, help);
        proto::number_always(out, field::FAMILY_TYPE, kind);
        metrics(out);
    });
}

/// Writes a label of a metric.
pub(in crate::export) fn push_label(out: &mut Vec<u8>, name: &str, value: &str) {
    proto::nested(out, field::METRIC_LABEL, |out| {
        proto::strings(out, field::LABEL_NAME, &[name]);
        proto::strings(out, field::LABEL_VALUE, &[value]);
    });
}

/// Writes a metric's value; `of` is its field, that of a counter or of a gauge.
pub(in crate::export) fn push_value(out: &mut Vec<u8>, of: u32, value: f64) {
    proto::nested(out, of, |out| proto::fixed_always(out, field::NUMBER_VALUE, value.to_bits()));
}

/// Writes what every distribution has.
pub(in crate::export) fn push_count_and_sum(out: &mut Vec<u8>, count: u64, sum: f64) {
    proto::number_always(out, field::HISTOGRAM_COUNT, count);
    proto::fixed_always(out, field::HISTOGRAM_SUM, sum.to_bits());
}

/// Writes a classic bucket of a distribution.
pub(in crate::export) fn push_bucket(out: &mut Vec<u8>, cumulative: u64, upper_bound: f64) {
    proto::nested(out, field::HISTOGRAM_BUCKET, |out| {
        proto::number_always(out, field::BUCKET_CUMULATIVE_COUNT, cumulative);
        proto::fixed_always(out, field::BUCKET_UPPER_BOUND, upper_bound.to_bits());
    });
}

/// What all families of a page have in common.
struct Page<'a> {
    snapshot: &'a Snapshot,
    filter: Option<&'a Filter>,
    has_classic: bool,
    identities: Identities,
}

/// The labels of each entity, the node among them, one behind the other.
struct Identities {
    labels: Vec<u8>,
    places: Vec<Range<usize>>,
}

impl Identities {
    fn of(snapshot: &Snapshot) -> Self {
        let mut labels = Vec::with_capacity(128 * snapshot.entities.len());
        let places = snapshot.entities.iter().map(|state| {
            let start = labels.len();
            identity(&state.entity).for_each(|(name, value)| push_label(&mut labels, name, value));
            push_label(&mut labels, NODE, &snapshot.node);
            start..labels.len()
        });
        Self { places: places.collect(), labels }
    }

    fn get(&self, entity: u32) -> &[u8] {
        let place = usize::try_from(entity).ok().and_then(|entity| self.places.get(entity));
        place.and_then(|place| self.labels.get(place.clone())).unwrap_or_default()
    }
}

impl Page<'_> {
    fn push_family(&self, out: &mut Vec<u8>, parts: &[Family<'_>]) {
        let mut written = parts.iter().filter(|part| samples(self.snapshot, self.filter, **part).next().is_some());
        let Some(metric) = written.next().map(|part| part.metric()) else { return };
        let kind = match metric.kind {
            Kind::Counter => field::TYPE_COUNTER,
            Kind::Gauge => field::TYPE_GAUGE,
            Kind::Histogram => field::TYPE_HISTOGRAM,
        };
        push_family(out, metric.name, metric.help, kind, |out| {
            // The suffix of a counter stands behind the unit in its name.
            let name = if metric.kind == Kind::Counter { stem(metric.name) } else { metric.name };
            proto::string(out, field::FAMILY_UNIT, unit(metric, name));
            for part in parts {
                self.push_part(out, *part);
            }
        });
    }

    fn push_part(&self, out: &mut Vec<u8>, part: Family<'_>) {
        let (metric, column) = (part.metric(), part.column());
        let of_combination = |combination| {
            let mut labels = Vec::new();
            column.values(combination).for_each(|(name, value)| push_label(&mut labels, name, value));
            labels
        };
        let own_labels: Vec<Vec<u8>> = (0..column.combinations()).map(of_combination).collect();
        for named in samples(self.snapshot, self.filter, part) {
            let own_labels = own_labels.get(named.sample.combination).map(Vec::as_slice).unwrap_or_default();
            proto::nested_long(out, field::FAMILY_METRIC, |out| self.push_metric(out, metric, own_labels, &named));
        }
    }

    fn push_metric(&self, out: &mut Vec<u8>, metric: &Metric, own_labels: &[u8], named: &Named<'_>) {
        out.extend_from_slice(self.identities.get(named.sample.entity));
        out.extend_from_slice(own_labels);
        if let Some(culprit) = &named.culprit {
            culprit.labels().for_each(|(name, value)| push_label(out, name, value));
        }
        let of = if metric.kind == Kind::Counter { field::METRIC_COUNTER } else { field::METRIC_GAUGE };
        match named.sample.value {
            Value::Integer(value) => push_value(out, of, value as f64),
            Value::Nanoseconds(value_ns) => push_value(out, of, seconds(value_ns)),
            Value::Float(value) => push_value(out, of, value),
            Value::Histogram(histogram) => {
                proto::nested_long(out, field::METRIC_HISTOGRAM, |out| self.push_histogram(out, histogram));
            }
        }
    }

    fn push_histogram(&self, out: &mut Vec<u8>, histogram: Histogram<'_>) {
        push_count_and_sum(out, histogram.count(), seconds(histogram.sum_ns()));
        if self.has_classic {
            for (bucket, cumulative) in classic(histogram) {
                let Some(exponent) = Histogram::upper_bound_exponent(bucket) else { continue };
                push_bucket(out, cumulative, 2_f64.powi(exponent));
            }
        }
        // Written even where they are 0: that they are there tells that the histogram is a native one.
        proto::number_always(out, field::HISTOGRAM_SCHEMA, proto::zigzag(0));
        proto::fixed_always(out, field::HISTOGRAM_ZERO_THRESHOLD, ZERO_THRESHOLD_SECONDS.to_bits());
        let Some((zero, positive)) = histogram.buckets().split_first() else { return };
        proto::number_always(out, field::HISTOGRAM_ZERO_COUNT, *zero);
        // Empty buckets at both ends are not sent.
        let (Some(first), Some(last)) =
            (positive.iter().position(|count| *count > 0), positive.iter().rposition(|count| *count > 0))
        else {
            return;
        };
        let counts = positive.get(first..=last).unwrap_or_default();
        proto::nested(out, field::HISTOGRAM_POSITIVE_SPAN, |out| {
            proto::signed(
                out,
                field::SPAN_OFFSET,
                i32::try_from(first).map_or(FIRST_INDEX, |first| FIRST_INDEX + first),
            );
            proto::number(out, field::SPAN_LENGTH, counts.len() as u64);
        });
        proto::nested(out, field::HISTOGRAM_POSITIVE_DELTA, |out| {
            let mut before = 0_u64;
            for count in counts {
                proto::varint(out, proto::zigzag(count.wrapping_sub(before).cast_signed()));
                before = *count;
            }
        });
    }
}

fn seconds(value_ns: u64) -> f64 {
    value_ns as f64 / 1e9
}
