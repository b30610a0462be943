//! Arithmetic of counts, number by number. Pure.

use bytemuck::cast;
use podlens_common::tcp::{COUNTS, Counts};

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

#[cfg(test)]
mod tests {
    use super::{Counts, less, most, plus};

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
}
