//! How long a tick of the kernel's is, in which it counts for how long connections could not send more. Pure.
//!
//! The kernel tells it nowhere: what it tells programs of users (100 a second) is another one. But two walks give what it has
//! counted between them, and no kernel has a rate that is near another's.

/// Ticks per second that a kernel may be made with.
const RATES: [u64; 7] = [100, 128, 200, 250, 300, 500, 1000];
/// The shortest span that tells them apart: a tick more or less is 1 % of it.
const SPAN_NS: u64 = 1_000_000_000;
/// How far a rate that was measured may be from the true one, in percent. Emulated machines hand ticks in late.
const TOLERANCE_PERCENT: u64 = 5;
const SECOND_NS: u64 = 1_000_000_000;

/// The rate, once it is known.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    /// The first reading, in ticks and nanoseconds.
    first: Option<(u64, u64)>,
    per_second: Option<u64>,
}

impl Ticks {
    /// Takes a reading; gives the rate if it is known by now.
    pub(super) fn read(&mut self, ticks: u64, now_ns: u64) -> Option<u64> {
        let (first, first_ns) = *self.first.get_or_insert((ticks, now_ns));
        let span_ns = now_ns.saturating_sub(first_ns);
        if self.per_second.is_none() && span_ns >= SPAN_NS {
            self.per_second = rate(ticks.wrapping_sub(first), span_ns);
        }
        self.per_second
    }
}

/// The rate of which there are so many ticks in so long a time.
fn rate(ticks: u64, span_ns: u64) -> Option<u64> {
    let found = u128::from(ticks) * u128::from(SECOND_NS) / u128::from(span_ns.max(1));
    let found = u64::try_from(found).ok()?;
    let nearest = RATES.into_iter().min_by_key(|rate| rate.abs_diff(found))?;
    (nearest.abs_diff(found) * 100 <= nearest * TOLERANCE_PERCENT).then_some(nearest)
}

/// Ticks as nanoseconds.
pub(super) fn ns(ticks: u64, per_second: u64) -> u64 {
    let ns = u128::from(ticks) * u128::from(SECOND_NS) / u128::from(per_second.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{SECOND_NS, Ticks, ns, rate};

    #[test]
    fn a_rate_is_one_that_kernels_have_or_none() {
        for (ticks, span_ns, expected) in [
            (250, SECOND_NS, Some(250)),
            (99, SECOND_NS, Some(100)),
            (101, SECOND_NS, Some(100)),
            (3001, 10 * SECOND_NS, Some(300)),
            (998, SECOND_NS, Some(1000)),
            (0, SECOND_NS, None),
            (400, SECOND_NS, None),
            (5000, SECOND_NS, None),
        ] {
            assert_eq!(rate(ticks, span_ns), expected, "{ticks} in {span_ns} ns");
        }
    }

    #[test]
    fn a_rate_is_known_after_a_second_and_stays() {
        let mut ticks = Ticks::default();
        let start = u64::from(u32::MAX) - 10;
        assert_eq!(ticks.read(start, 5), None);
        assert_eq!(ticks.read(start + 124, 5 + SECOND_NS / 2), None, "too early");
        assert_eq!(ticks.read(start + 250, 5 + SECOND_NS), Some(250));
        assert_eq!(ticks.read(start + 251, 5 + 9 * SECOND_NS), Some(250), "whatever comes");
        assert_eq!(ns(3, 250), 12_000_000);
    }
}
