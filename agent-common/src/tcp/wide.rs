//! Numbers that the kernel counts in 32 bits for each socket, told in 64.
//!
//! At 10 Gb/s a connection's segments begin again at 0 after 83 minutes. So a socket that has come half as far in one of these
//! numbers is remembered, each with what it is in 64 bits. Whoever reads the number later takes the nearest one that ends in the
//! same 32 bits: the walk, which remembers that in turn, and the socket's closing, which is the last one to ask. All that is added
//! up of sockets has 64 bits then, and whose they are, which have closed and which a walk has passed is nobody's concern here.
//!
//! It is exact for a socket that is met by a walk once in 2^31 of what it counts, and unlike a rule for sums it cannot take a socket
//! that is missing in one walk for one that began again.

use bytemuck::{Pod, Zeroable};

use super::{Counts, Direction, Limit};

/// How many numbers a socket has of that kind.
pub const NARROW: usize = 6;
/// How many sockets are remembered.
pub const SOCKETS: u32 = 1024;
/// From here on a number is.
const LARGE: u32 = 1 << 31;

/// What the kernel has counted in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Narrow {
    /// Segments by direction.
    pub segments: [u32; Direction::COUNT],
    /// Segments that were sent again.
    pub retransmits: u32,
    /// Connections that a listening socket had no room for.
    pub overflows: u32,
    /// How long it could not send more, in ticks.
    pub limited: [u32; Limit::COUNT],
}

impl Narrow {
    /// Nothing.
    pub const NONE: Self = Self { segments: [0; 2], retransmits: 0, overflows: 0, limited: [0; 2] };

    #[inline(always)]
    const fn numbers(self) -> [u32; NARROW] {
        let Self { segments: [sent, came], retransmits, overflows, limited: [by_window, by_buffer] } = self;
        [sent, came, retransmits, overflows, by_window, by_buffer]
    }

    /// The socket is to be remembered.
    #[inline(always)]
    #[must_use]
    pub const fn is_large(self) -> bool {
        let [sent, came, retransmits, overflows, by_window, by_buffer] = self.numbers();
        sent | came | retransmits | overflows | by_window | by_buffer >= LARGE
    }
}

/// A socket that is remembered.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Wide {
    /// The hash of its connection, which it has for life: another one at the same address has another one.
    pub hash: u64,
    /// What it had when it was last met.
    pub numbers: [u64; NARROW],
}

impl Wide {
    /// One that is met for the first time.
    #[inline(always)]
    #[must_use]
    pub const fn new(hash: u32, narrow: Narrow) -> Self {
        let [sent, came, retransmits, overflows, by_window, by_buffer] = narrow.numbers();
        Self {
            hash: hash as u64,
            numbers: [
                sent as u64,
                came as u64,
                retransmits as u64,
                overflows as u64,
                by_window as u64,
                by_buffer as u64,
            ],
        }
    }

    /// As it is now.
    #[inline(always)]
    #[must_use]
    pub const fn now(self, narrow: Narrow) -> Self {
        let [sent, came, retransmits, overflows, by_window, by_buffer] = narrow.numbers();
        let before = self.numbers;
        let numbers = [
            nearest(before[0], sent),
            nearest(before[1], came),
            nearest(before[2], retransmits),
            nearest(before[3], overflows),
            nearest(before[4], by_window),
            nearest(before[5], by_buffer),
        ];
        Self { numbers, ..self }
    }

    /// Enters its numbers.
    #[inline(always)]
    #[must_use]
    pub const fn counts(self, bytes: [u64; Direction::COUNT]) -> Counts {
        let [sent, came, retransmits, overflows, by_window, by_buffer] = self.numbers;
        Counts { bytes, segments: [sent, came], retransmits, overflows, limited: [by_window, by_buffer] }
    }
}

/// The number nearest to `before` that ends in these 32 bits. It may be less: of a span that just ends nothing is told.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the lower half of it")]
const fn nearest(before: u64, now: u32) -> u64 {
    let step = now.wrapping_sub(before as u32).cast_signed();
    before.wrapping_add_signed(step as i64)
}

const _: () = assert!(size_of::<Wide>() == 56);

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation)]

    use super::{Narrow, Wide, nearest};

    const ROUND: u64 = 1 << 32;

    fn sent(segments: u64) -> Narrow {
        Narrow { segments: [segments as u32, 0], ..Narrow::NONE }
    }

    #[test]
    fn a_number_goes_on_where_the_kernels_begins_again() {
        // 0.86 million segments a second, met each 100 s, from half of the way on.
        let step = 86_000_000;
        let mut now = 1 << 31;
        let mut wide = Wide::new(7, sent(now));
        for _ in 0..500 {
            now += step;
            wide = wide.now(sent(now));
            assert_eq!((wide.numbers[0], wide.hash), (now, 7));
        }
        assert!(now > 10 * ROUND, "ten times round");
    }

    #[test]
    fn the_nearest_number_is_the_right_one_up_to_half_of_the_way() {
        for (before, now, what) in [
            (ROUND - 1, ROUND, "the very moment"),
            (ROUND - 1, ROUND + (1 << 31) - 2, "as far as it can be"),
            (5 * ROUND + 9, 5 * ROUND + 9, "nothing new"),
            (3 * ROUND + 2, 3 * ROUND - 2, "a little less, over the end"),
            (0, 5, "one that was never large"),
        ] {
            assert_eq!(nearest(before, now as u32), now, "{what}");
        }
        assert_eq!(nearest(ROUND, 1 << 31), ROUND - (1 << 31), "beyond that it is not");
    }

    #[test]
    fn any_number_makes_a_socket_large() {
        let half = 1 << 31;
        let none = Narrow::NONE;
        for (narrow, expected) in [
            (
                Narrow { segments: [half - 1; 2], retransmits: half - 1, overflows: half - 1, limited: [half - 1; 2] },
                false,
            ),
            (Narrow { segments: [half, 0], ..none }, true),
            (Narrow { segments: [0, half + 5], ..none }, true),
            (Narrow { retransmits: half, ..none }, true),
            (Narrow { overflows: half, ..none }, true),
            (Narrow { limited: [half, 0], ..none }, true),
            (Narrow { limited: [0, u32::MAX], ..none }, true),
        ] {
            assert_eq!(narrow.is_large(), expected, "{narrow:?}");
        }
    }

    #[test]
    fn each_number_has_its_own_place() {
        let narrow = Narrow { segments: [1, 2], retransmits: 3, overflows: 4, limited: [5, 6] };
        let first = Wide::new(7, narrow).counts([8, 9]);
        assert_eq!((first.bytes, first.segments, first.retransmits), ([8, 9], [1, 2], 3));
        assert_eq!((first.overflows, first.limited), (4, [5, 6]));
        let later = Narrow { segments: [11, 12], retransmits: 13, overflows: 14, limited: [15, 16] };
        assert_eq!(Wide::new(7, narrow).now(later), Wide::new(7, later));
    }
}
