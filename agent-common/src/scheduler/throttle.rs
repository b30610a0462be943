//! A throttle as the kernel's total of throttled time tells it, and what of a wait lies in it. Pure; the kernel programs
//! call it at each dispatch of a group that a quota may stop.

/// A throttle that has ended, by the run queue's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// When it began.
    pub from_ns: u64,
    /// When it ended.
    pub until_ns: u64,
}

impl Throttle {
    /// The throttle by which the total has grown by `length_ns`. It began when the group was seen to leave the CPU,
    /// at `began_ns` (0: that was not seen); `seen_ns` is when the growth was seen, and it ended before.
    #[inline(always)]
    #[must_use]
    pub const fn ended(began_ns: u64, length_ns: u64, seen_ns: u64) -> Self {
        let noted_ns = began_ns.wrapping_add(length_ns);
        let until_ns = if began_ns != 0 && noted_ns < seen_ns { noted_ns } else { seen_ns };
        Self { from_ns: until_ns.wrapping_sub(length_ns), until_ns }
    }

    /// How much of a wait from `queued_ns` to `clock_ns` lies in the throttle, which ended after `queued_ns`.
    #[inline(always)]
    #[must_use]
    pub const fn of_wait_ns(self, queued_ns: u64, clock_ns: u64) -> u64 {
        let from_ns = if self.from_ns > queued_ns { self.from_ns } else { queued_ns };
        let inside_ns = self.until_ns.wrapping_sub(from_ns);
        let waited_ns = clock_ns.wrapping_sub(queued_ns);
        if inside_ns > waited_ns { waited_ns } else { inside_ns }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Throttle;

    proptest! {
        #[test]
        fn what_is_cut_of_a_wait_is_what_lies_in_the_throttle(
            began_ns in 1_u64..1_000, length_ns in 1_u64..1_000, late_ns in 0_u64..500,
            queued_ns in 0_u64..3_000, waited_ns in 0_u64..2_000,
        ) {
            let seen_ns = began_ns + length_ns + late_ns;
            let throttle = Throttle::ended(began_ns, length_ns, seen_ns);
            prop_assert_eq!(throttle.until_ns - throttle.from_ns, length_ns);
            // A wait ends when the growth is seen, or later.
            let clock_ns = seen_ns.max(queued_ns + waited_ns);
            prop_assume!(throttle.until_ns > queued_ns);
            let naive = (queued_ns..clock_ns).filter(|at| (began_ns..began_ns + length_ns).contains(at)).count() as u64;
            prop_assert_eq!(throttle.of_wait_ns(queued_ns, clock_ns), naive);
        }

        #[test]
        fn a_throttle_whose_beginning_was_not_seen_ends_when_it_is_noticed_and_cuts_no_more_than_the_wait(
            length_ns in 1_u64..1_000, seen_ns in 1_000_u64..2_000, queued_ns in 0_u64..2_000,
        ) {
            prop_assume!(queued_ns < seen_ns);
            let throttle = Throttle::ended(0, length_ns, seen_ns);
            prop_assert_eq!(throttle.until_ns, seen_ns);
            prop_assert_eq!(throttle.of_wait_ns(queued_ns, seen_ns), length_ns.min(seen_ns - queued_ns));
        }
    }
}
