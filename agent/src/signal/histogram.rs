//! A distribution in powers of two, as the kernel programs count it and all exporters write it.

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
