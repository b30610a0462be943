//! A distribution in powers of two, as the kernel programs count it and all exporters write it.

/// A distribution of durations in powers of two, as it stands in a row.
///
/// Bucket 0 counts durations up to 2^-24 s (59.6 ns), zero among them; bucket `i` from 1 to 30 those in
/// `(2^(i-25), 2^(i-24)]` seconds; bucket 31 those above 64 s. The bounds are exactly Prometheus' native
/// histogram schema 0 and OTLP's exponential histogram scale 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram<'a>(&'a [u64; Histogram::CELLS]);

impl Histogram<'_> {
    /// Number of buckets.
    pub const BUCKETS: usize = 32;
    /// Cells of a row: the buckets, then the sum of all observations in nanoseconds.
    pub const CELLS: usize = Self::BUCKETS + 1;

    /// The binary logarithm of bucket `index`'s inclusive upper bound in seconds; none for the last one.
    #[must_use]
    pub fn upper_bound_exponent(index: usize) -> Option<i32> {
        let exponent = i32::try_from(index).ok()? - 24;
        (index + 1 < Self::BUCKETS).then_some(exponent)
    }
}

impl<'a> Histogram<'a> {
    /// The distribution of these cells.
    #[must_use]
    pub fn new(cells: &'a [u64; Histogram::CELLS]) -> Self {
        Self(cells)
    }

    /// The distribution that stands at the beginning of these cells; none if they are too few.
    #[must_use]
    pub fn at(cells: &'a [u64]) -> Option<Self> {
        cells.first_chunk().map(Self)
    }

    /// The cells: the buckets, then the sum.
    #[must_use]
    pub fn cells(self) -> &'a [u64; Histogram::CELLS] {
        self.0
    }

    /// Observations per bucket, not cumulative.
    #[must_use]
    pub fn buckets(self) -> &'a [u64] {
        self.0.get(..Self::BUCKETS).unwrap_or_default()
    }

    /// Sum of all observations.
    #[must_use]
    pub fn sum_ns(self) -> u64 {
        self.0.last().copied().unwrap_or_default()
    }

    /// Nothing was observed.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.buckets().iter().all(|count| *count == 0)
    }

    /// The number of observations.
    #[must_use]
    pub fn count(self) -> u64 {
        self.buckets().iter().sum()
    }
}
