//! Arithmetic of counts, number by number, and of counts that run over. Pure.

use bytemuck::cast;
use podlens_common::{
    histogram::BUCKETS,
    tcp::{COUNTS, Counts},
};

/// The sum.
pub(super) fn plus(one: Counts, other: Counts) -> Counts {
    by_number(one, other, u64::wrapping_add)
}

/// What is more; nothing where it is less.
pub(super) fn less(one: Counts, other: Counts) -> Counts {
    by_number(one, other, u64::saturating_sub)
}

/// The larger one of each number.
pub(super) fn most(one: Counts, other: Counts) -> Counts {
    by_number(one, other, u64::max)
}

fn by_number(one: Counts, other: Counts, of: fn(u64, u64) -> u64) -> Counts {
    let mut numbers: [u64; COUNTS] = cast(one);
    let others: [u64; COUNTS] = cast(other);
    for (number, other) in numbers.iter_mut().zip(others) {
        *number = of(*number, other);
    }
    cast(numbers)
}

/// Brings totals up to counts that are the same modulo 2^32 and have not grown by more since.
pub(super) fn extend(totals: &mut [u64; BUCKETS], counts: &[u32; BUCKETS]) {
    for (total, count) in totals.iter_mut().zip(counts) {
        let low = u32::try_from(*total & u64::from(u32::MAX)).unwrap_or_default();
        *total += u64::from(count.wrapping_sub(low));
    }
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, Counts, extend, less, most, plus};

    fn counts(bytes: [u64; 2], retransmits: u64) -> Counts {
        Counts { bytes, retransmits, ..Counts::NONE }
    }

    #[test]
    fn counts_are_added_taken_off_and_compared_number_by_number() {
        let (one, other) = (counts([5, 1], 3), counts([2, 4], 3));
        assert_eq!(plus(one, other), counts([7, 5], 6));
        assert_eq!(less(one, other), counts([3, 0], 0));
        assert_eq!(most(one, other), counts([5, 4], 3));
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
