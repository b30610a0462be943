//! One immutable view of all values, and its parts.

use std::{sync::Arc, time::SystemTime};

use super::{InfoMetric, Metric, Owner};

/// Everything podlens knows about the node's owners at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows by one with every snapshot; exporters acknowledge it.
    pub sequence: u64,
    /// The moment of the sweep.
    pub taken: SystemTime,
    /// Label `node` and resource attribute `k8s.node.name`.
    pub node: Arc<str>,
    /// All owners; a sample refers to its owner by position.
    pub owners: Vec<OwnerState>,
    /// One family a metric that has samples, in the collectors' order.
    pub families: Vec<Family>,
    /// Facts about owners.
    pub infos: Vec<Info>,
}

/// Facts about an owner.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// The definition.
    pub metric: &'static InfoMetric,
    /// Position in [`Snapshot::owners`].
    pub owner: u32,
    /// Label names and values, the same names in the same order for each of one metric. An empty value is not known.
    pub labels: Vec<(&'static str, Arc<str>)>,
}

/// An owner in a snapshot.
#[derive(Clone, Debug)]
pub struct OwnerState {
    /// Who it is.
    pub owner: Owner,
    /// When its first cgroup was made, or when podlens started if that is later: the start of its counters.
    pub since: SystemTime,
    /// Its last cgroup is gone: these are its final values.
    pub gone: bool,
    /// What instances that are gone and delivered have used under the same namespace, pod and container as one
    /// that lives. Series that are not told apart by the instance go on from there; others leave it out.
    pub carried: bool,
}

/// All samples of one metric.
#[derive(Clone, Debug)]
pub struct Family {
    /// The definition.
    pub metric: &'static Metric,
    /// The samples, ordered by owner.
    pub samples: Vec<Sample>,
}

/// One value of one owner.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Position in [`Snapshot::owners`].
    pub owner: u32,
    /// Position in the values of the metric's own label; 0 where it has none.
    pub label_value: u8,
    /// For values split by who caused them.
    pub culprit: Option<Culprit>,
    /// The value.
    pub value: Value,
}

/// Who caused a part of somebody else's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Culprit {
    /// Position in [`Snapshot::owners`].
    Owner(u32),
    /// All those that have no sample of their own.
    Other,
}

/// A value, exact as the kernel counted it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number of things or bytes.
    Integer(u64),
    /// A duration, exported in seconds.
    Nanoseconds(u64),
    /// A ratio or a fraction.
    Float(f64),
    /// A distribution.
    Histogram(Arc<Histogram>),
}

/// A distribution of durations in powers of two.
///
/// Bucket 0 counts durations up to 2^-24 s (59.6 ns), zero among them; bucket `i` from 1 to 30 those in
/// `(2^(i-25), 2^(i-24)]` seconds; bucket 31 those above 64 s. The bounds are exactly Prometheus' native
/// histogram schema 0 and OTLP's exponential histogram scale 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Observations a bucket, not cumulative.
    pub buckets: [u64; Histogram::BUCKETS],
    /// Sum of all observations.
    pub sum_ns: u64,
}

impl Histogram {
    /// Number of buckets.
    pub const BUCKETS: usize = 32;

    /// The binary logarithm of bucket `index`'s inclusive upper bound in seconds; none for the last one.
    #[must_use]
    pub fn upper_bound_exponent(index: usize) -> Option<i32> {
        let exponent = i32::try_from(index).ok()? - 24;
        (index + 1 < Self::BUCKETS).then_some(exponent)
    }

    /// The number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl Snapshot {
    /// The owner of a sample.
    #[must_use]
    pub fn owner(&self, sample: &Sample) -> Option<&OwnerState> {
        self.owners.get(usize::try_from(sample.owner).ok()?)
    }
}
