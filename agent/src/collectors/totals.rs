//! One slot's durations by what they are of, since the slot got its holder, in 64 bits. Pure; for collectors whose programs
//! count in 32.

use podlens_common::histogram::{BUCKETS, Lengths};

use super::{distribution, extend};
use crate::signal::Histogram;

/// The counts of `N` histograms, at each hashed bucket, and the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals<const N: usize>([Long; N]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Long {
    counts: [u64; BUCKETS],
    sum_ns: u64,
}

impl<const N: usize> Default for Totals<N> {
    fn default() -> Self {
        Self([Long { counts: [0; BUCKETS], sum_ns: 0 }; N])
    }
}

impl<const N: usize> Totals<N> {
    /// Goes on to what the programs have counted for one histogram by now, of whose counts these are the lower halves.
    pub fn follow(&mut self, which: usize, found: &Lengths) {
        if let Some(long) = self.0.get_mut(which) {
            extend(&mut long.counts, &found.counts);
            long.sum_ns = found.sum_ns;
        }
    }

    /// The cells of one histogram; none without any observation.
    #[must_use]
    pub fn cells(&self, which: usize) -> Option<[u64; Histogram::CELLS]> {
        let long = self.0.get(which)?;
        let is_empty = long.counts.iter().all(|count| *count == 0);
        (!is_empty).then(|| distribution(&long.counts, long.sum_ns))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use podlens_common::histogram::bucket;

    use super::{Histogram, Lengths, Totals};

    fn lengths(hashed: usize, count: u32, sum_ns: u64) -> Lengths {
        let mut lengths = Lengths { sum_ns, ..Lengths::EMPTY };
        lengths.counts[hashed] = count;
        lengths
    }

    #[test]
    fn a_count_that_has_begun_anew_goes_on_from_2_to_the_32() {
        let mut totals = Totals::<7>::default();
        assert_eq!(totals.cells(2), None);
        for (low, expected) in [(7, 7), (u32::MAX, (1 << 32) - 1), (3, (1 << 32) + 3), (3, (1 << 32) + 3)] {
            totals.follow(2, &lengths(9, low, 500));
            let cells = totals.cells(2).unwrap_or([0; Histogram::CELLS]);
            assert_eq!(cells[bucket(9).unwrap_or_default()], expected);
            assert_eq!(cells.last(), Some(&500));
            assert_eq!(cells.iter().sum::<u64>(), expected + 500);
        }
        assert!([0, 1, 3, 4, 5, 6].into_iter().all(|which| totals.cells(which).is_none()));
    }
}
