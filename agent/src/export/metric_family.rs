//! Prometheus' protobuf format as `prost` reads it, for tests: `io.prometheus.client` of Prometheus' client model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;

use prost::Message;

use super::{fixture::Series, prometheus::histogram::BOUNDS};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) help: Option<String>,
    #[prost(enumeration = "MetricType", optional, tag = "3")]
    pub(crate) r#type: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) metric: Vec<Metric>,
    #[prost(string, optional, tag = "5")]
    pub(crate) unit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
pub(crate) enum MetricType {
    Counter = 0,
    Gauge = 1,
    Summary = 2,
    Untyped = 3,
    Histogram = 4,
    GaugeHistogram = 5,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub(crate) label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub(crate) gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub(crate) counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    pub(crate) histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LabelPair {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) value: Option<String>,
}

/// A counter or a gauge.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Number {
    #[prost(double, optional, tag = "1")]
    pub(crate) value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(crate) sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    pub(crate) schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    pub(crate) zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub(crate) zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "13")]
    pub(crate) positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(crate) upper_bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    pub(crate) offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) length: Option<u32>,
}

/// All families of a page.
pub(crate) fn families(mut page: &[u8]) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    while !page.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut page).unwrap());
    }
    families
}

impl Histogram {
    /// Each native bucket that has observations: the binary logarithm of its upper bound, and how many. Bucket 0 has none.
    pub(crate) fn native(&self) -> Vec<(i32, u64)> {
        let (mut index, mut count, mut deltas) = (0, 0_i64, self.positive_delta.iter());
        let mut buckets = Vec::new();
        for span in &self.positive_span {
            index += span.offset.unwrap();
            for _ in 0..span.length.unwrap() {
                count += deltas.next().unwrap();
                buckets.push((index, u64::try_from(count).unwrap()));
                index += 1;
            }
        }
        assert_eq!(deltas.next(), None, "a delta without a bucket");
        let all = buckets.iter().map(|(_, count)| count).sum::<u64>() + self.zero_count.unwrap();
        assert_eq!(
            all,
            self.sample_count.unwrap(),
            "Prometheus refuses a histogram whose count is not that of its buckets"
        );
        buckets.retain(|(_, count)| *count > 0);
        buckets
    }

    /// How many native observations are up to each of the classic bounds.
    fn up_to_classic_bounds(&self) -> Vec<(f64, u64)> {
        assert_eq!((self.schema, self.zero_threshold), (Some(0), Some(2_f64.powi(-24))));
        let native = self.native();
        let up_to = |bound: f64| {
            let below = native.iter().filter(|(index, _)| 2_f64.powi(*index) <= bound);
            below.map(|(_, count)| count).sum::<u64>() + self.zero_count.unwrap()
        };
        BOUNDS.iter().map(|(_, bound)| bound.parse().unwrap()).map(|bound| (bound, up_to(bound))).collect()
    }
}

/// All samples as a text page has them. Those of a distribution come from its native buckets if `native`.
pub(crate) fn as_text(page: &[u8], native: bool) -> BTreeMap<Series, f64> {
    let mut found = BTreeMap::new();
    for family in families(page) {
        let name = family.name.clone().unwrap();
        for metric in &family.metric {
            let pairs = metric.label.iter().map(|pair| (pair.name.clone().unwrap(), pair.value.clone().unwrap()));
            let mut labels: BTreeMap<String, String> = pairs.collect();
            assert_eq!(labels.len(), metric.label.len(), "a label twice");
            labels.retain(|_, value| !value.is_empty());
            let mut add = |name: String, labels: &BTreeMap<String, String>, value: f64| {
                let before = found.insert((name, labels.clone()), value);
                assert_eq!(before, None, "a series twice: {labels:?}");
            };
            match (MetricType::try_from(family.r#type.unwrap()).unwrap(), &metric.histogram) {
                (MetricType::Counter, None) => add(name.clone(), &labels, metric.counter.as_ref().unwrap().value()),
                (MetricType::Gauge, None) => add(name.clone(), &labels, metric.gauge.as_ref().unwrap().value()),
                (MetricType::Histogram, Some(histogram)) => {
                    add(format!("{name}_count"), &labels, histogram.sample_count() as f64);
                    add(format!("{name}_sum"), &labels, histogram.sample_sum());
                    let classic =
                        histogram.bucket.iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
                    let buckets = if native { histogram.up_to_classic_bounds() } else { classic.collect() };
                    for (bound, count) in buckets.into_iter().chain([(f64::INFINITY, histogram.sample_count())]) {
                        labels.insert("le".to_owned(), bound.to_string());
                        add(format!("{name}_bucket"), &labels, count as f64);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    found
}
