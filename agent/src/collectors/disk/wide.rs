//! Counts of 32 bits as the kernel programs keep them, followed beyond their end. Pure.

use podlens_common::{disk::DISTRIBUTIONS, histogram::BUCKETS};

use crate::collectors::extend;

/// Counts of durations by place, as the kernel programs keep them.
type Narrow = [[u32; BUCKETS]; DISTRIBUTIONS];
/// The same without an end.
pub(super) type Durations = [[u64; BUCKETS]; DISTRIBUTIONS];

/// The counts of one slot as of the last look.
#[derive(Debug)]
pub(super) struct Wide(Durations);

impl Default for Wide {
    fn default() -> Self {
        Self([[0; BUCKETS]; DISTRIBUTIONS])
    }
}

impl Wide {
    /// Goes on counting from the last look, since which none of them has grown by 2^32.
    pub(super) fn follow(&mut self, now: &Narrow) -> Durations {
        for (wide, now) in self.0.iter_mut().zip(now) {
            extend(wide, now);
        }
        self.0
    }
}

/// The counts of a slot that has not come to their end.
pub(super) fn widened(narrow: &Narrow) -> Durations {
    narrow.map(|counts| counts.map(u64::from))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn a_count_goes_on_where_32_bits_end() {
        let mut wide = Wide::default();
        let mut narrow: Narrow = [[0; BUCKETS]; DISTRIBUTIONS];
        for (count, expected) in
            [(u32::MAX - 1, 0xffff_fffe), (5, 0x1_0000_0005), (5, 0x1_0000_0005), (4, 0x2_0000_0004)]
        {
            narrow[6][31] = count;
            assert_eq!(wide.follow(&narrow)[6][31], expected);
        }
        assert_eq!(wide.follow(&narrow).iter().flatten().filter(|count| **count != 0).count(), 1);
        assert_eq!(widened(&narrow)[6][31], 4);
    }
}
