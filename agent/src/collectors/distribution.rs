//! From a histogram as the kernel programs count it to the cells of a row, though a count runs over. Pure; for any collector that has one.

use podlens_common::histogram::{BUCKETS, bucket};

use crate::signal::Histogram;

/// A distribution's cells: its buckets, from what is counted at each hash, then its sum.
#[must_use]
pub fn distribution(hashed: &[u64; BUCKETS], sum_ns: u64) -> [u64; Histogram::CELLS] {
    let mut cells = [0; Histogram::CELLS];
    // As most are: nobody waits for what most kinds of wait are for.
    if sum_ns == 0 && hashed.iter().all(|count| *count == 0) {
        return cells;
    }
    for (hash, count) in hashed.iter().enumerate() {
        if let Some(cell) = bucket(hash).and_then(|bucket| cells.get_mut(bucket)) {
            *cell = *count;
        }
    }
    if let Some(sum) = cells.last_mut() {
        *sum = sum_ns;
    }
    cells
}

/// Brings totals up to counts that are the same modulo 2^32 and have not grown by more since.
pub fn extend(totals: &mut [u64; BUCKETS], counts: &[u32; BUCKETS]) {
    for (total, count) in totals.iter_mut().zip(counts) {
        let low = u32::try_from(*total & u64::from(u32::MAX)).unwrap_or_default();
        *total += u64::from(count.wrapping_sub(low));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use podlens_common::histogram::hashed_bucket;

    use super::{BUCKETS, Histogram, distribution, extend};

    #[test]
    fn each_count_stands_in_its_bucket_and_the_sum_behind_all() {
        let mut hashed = [0; BUCKETS];
        // Up to 2^-24 s, 1 s, and more than 64 s.
        for (duration_ns, count) in [(0, 2), (1_000_000_000, 3), (u64::MAX, 5)] {
            hashed[hashed_bucket(duration_ns)] = count;
        }
        let cells = distribution(&hashed, 77);
        let expected = [(0, 2), (24, 3), (31, 5), (Histogram::CELLS - 1, 77)];
        assert!(expected.iter().all(|(at, count)| cells[*at] == *count), "{cells:?}");
        assert_eq!(cells.iter().sum::<u64>(), 2 + 3 + 5 + 77);
    }

    #[test]
    fn a_count_that_runs_over_goes_on_in_its_total() {
        let mut totals = [0; BUCKETS];
        for (count, total) in [(7, 7), (7, 7), (u32::MAX, u64::from(u32::MAX)), (4, (1 << 32) + 4)] {
            extend(&mut totals, &[count; BUCKETS]);
            assert_eq!(totals, [total; BUCKETS]);
        }
    }
}
