//! Durations by length: the buckets of every histogram, and how a kernel program finds one without a branch.

use bytemuck::{Pod, Zeroable};

/// Buckets of a histogram of durations; see [`bucket`].
pub const BUCKETS: usize = 32;

/// Durations by length, and their sum. Any CPU adds to them, by atomic additions.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Lengths {
    /// How many, each counted at its [`hashed_bucket`]. Goes on from 0 after 2^32: whoever reads
    /// takes differences, and reads before any length has come 2^32 times.
    pub counts: [u32; BUCKETS],
    /// All of them together.
    pub sum_ns: u64,
}

impl Lengths {
    /// None.
    pub const EMPTY: Self = Self { counts: [0; BUCKETS], sum_ns: 0 };
}

const _: () = assert!(size_of::<Lengths>() == 136);

/// Where a duration counts in an array of counts: the hash of its bucket, for which a program needs no table.
/// [`bucket`] tells which bucket is counted there.
#[inline(always)]
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "what is not large has 32 bits left when it is shifted")]
pub const fn hashed_bucket(duration_ns: u64) -> usize {
    if duration_ns >> LARGE_BITS != 0 {
        return (u32::MAX.wrapping_mul(DE_BRUIJN) >> 27) as usize;
    }
    // In units of 2^-25 s, so that the buckets' bounds are powers of two: 2^25 / 10^9 = 72057594.04 / 2^31. With the
    // factor cut off, a duration that is such a bound comes out just below it, and so in the bucket that ends there. What
    // is not large leaves room for the product.
    // Smeared to all ones below the highest bit, and those hashed, in a straight line: there is no instruction for the
    // logarithm, and branches on it are mispredicted.
    let mut ones = ((duration_ns * 72_057_594) >> 31) as u32 | 1;
    ones |= ones >> 1;
    ones |= ones >> 2;
    ones |= ones >> 4;
    ones |= ones >> 8;
    ones |= ones >> 16;
    (ones.wrapping_mul(DE_BRUIJN) >> 27) as usize
}

/// The bucket of a [`hashed_bucket`]: bucket 0 takes up to 2^-24 s, bucket `i` takes (2^(i-25), 2^(i-24)] s, the last one
/// everything above 64 s.
#[must_use]
pub fn bucket(hashed: usize) -> Option<usize> {
    BUCKET_AT.get(hashed).copied().map(usize::from)
}

/// Longer ones than so many bits of nanoseconds are in the last bucket.
const LARGE_BITS: u32 = 36;
/// A de Bruijn sequence of 32 bits: its products with numbers of all ones differ in their top 5 bits.
const DE_BRUIJN: u32 = 0x07c4_acdd;
/// The logarithm of the number that [`hashed_bucket`] smears, by the top bits of its product.
static BUCKET_AT: [u8; BUCKETS] = [
    0, 9, 1, 10, 13, 21, 2, 29, 11, 14, 16, 18, 22, 25, 3, 30, 8, 12, 20, 28, 15, 17, 24, 7, 19, 27, 23, 6, 26, 5, 4,
    31,
];

#[cfg(test)]
mod tests {
    use super::{BUCKETS, bucket, hashed_bucket};

    /// Bucket `i` takes (2^(i-25), 2^(i-24)] seconds.
    fn expected(duration_ns: u64) -> Option<usize> {
        let seconds = duration_ns as f64 / 1e9;
        (0..31).zip(0..).find(|(power, _)| seconds <= 2f64.powi(power - 24)).map_or(Some(31), |(_, index)| Some(index))
    }

    fn counted(duration_ns: u64) -> Option<usize> {
        bucket(hashed_bucket(duration_ns))
    }

    #[test]
    fn every_duration_is_in_the_bucket_of_its_power_of_two() {
        let mut duration_ns = 1_u64;
        while duration_ns < 1 << 60 {
            for near in [duration_ns - 1, duration_ns, duration_ns + 1, duration_ns + duration_ns / 3] {
                // Within a nanosecond of a bound either bucket is right: the bounds are no whole nanoseconds.
                let right = [expected(near.saturating_sub(1)), expected(near), expected(near + 1)];
                assert!(right.contains(&counted(near)), "{near} ns: bucket {:?}, expected {right:?}", counted(near));
            }
            duration_ns = duration_ns * 9 / 8 + 1;
        }
        assert_eq!((counted(0), counted(u64::MAX)), (Some(0), Some(31)));
        assert_eq!(
            (counted(1_000_000_000), counted(1_000_000_002)),
            (Some(24), Some(25)),
            "1 s is the upper bound of its bucket"
        );
    }

    #[test]
    fn each_hash_has_a_bucket_of_its_own() {
        for sought in 0..BUCKETS {
            let hashes = (0..BUCKETS).filter(|hash| bucket(*hash) == Some(sought)).count();
            assert_eq!(hashes, 1, "bucket {sought}");
        }
        assert_eq!(bucket(BUCKETS), None, "no hash");
    }
}
