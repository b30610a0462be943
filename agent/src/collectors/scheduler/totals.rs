//! One slot's figures over all CPUs, summed up at each sweep. Pure.

use podlens_common::{
    histogram::BUCKETS,
    scheduler::{Account, Cause, OffCpu, SlotTotals, WAITS_LIMIT},
};

/// The sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) on_cpu_ns: u64,
    pub(super) voluntary: u64,
    pub(super) involuntary: u64,
    pub(super) off_cpu_ns: [u64; OffCpu::COUNT],
    pub(super) wait_ns: [u64; Cause::COUNT],
    /// At each hashed bucket.
    pub(super) waits: [u64; BUCKETS],
    pub(super) throttled_wait_ns: u64,
    pub(super) migrations: u64,
    /// At each hashed bucket.
    pub(super) throttles: [u64; BUCKETS],
    pub(super) throttles_ns: u64,
}

impl Totals {
    /// The slot's own totals, to which the CPUs' accounts come. They are read before the accounts: a count of waits
    /// that runs over meanwhile is then told too low until the next sweep, and never too high.
    pub(super) fn of(slot: &SlotTotals) -> Self {
        let SlotTotals { throttles, throttles_ns, throttled_wait_ns, migrations, carried_waits, reserved: _ } = *slot;
        Self {
            on_cpu_ns: 0,
            voluntary: 0,
            involuntary: 0,
            off_cpu_ns: [0; OffCpu::COUNT],
            wait_ns: [0; Cause::COUNT],
            waits: carried_waits.map(|carried| carried * u64::from(WAITS_LIMIT)),
            throttled_wait_ns,
            migrations,
            throttles,
            throttles_ns,
        }
    }

    /// Adds what one CPU has accounted. Each field is named, so that none is forgotten.
    pub(super) fn add(&mut self, account: &Account) {
        let Account {
            on_cpu_ns,
            voluntary,
            involuntary,
            off_cpu_ns,
            wait_ns,
            culprits,
            waits,
            // What the programs remember of a throttle.
            throttle_queue: _,
            throttle_total_ns: _,
            throttle_until_ns: _,
            throttle_began_ns: _,
            throttle_from_ns: _,
        } = account;
        let sums =
            [(&mut self.on_cpu_ns, on_cpu_ns), (&mut self.voluntary, voluntary), (&mut self.involuntary, involuntary)];
        let lists = self.off_cpu_ns.iter_mut().zip(off_cpu_ns).chain(self.wait_ns.iter_mut().zip(wait_ns));
        for (sum, more) in sums.into_iter().chain(lists) {
            *sum = sum.wrapping_add(*more);
        }
        for (cause, held_ns) in culprits.waits() {
            if let Some(sum) = self.wait_ns.get_mut(cause.index()) {
                *sum = sum.wrapping_add(held_ns);
            }
        }
        for (sum, more) in self.waits.iter_mut().zip(waits) {
            *sum = sum.wrapping_add((*more).into());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use podlens_common::scheduler::culprits::Culprits;

    use super::*;

    #[test]
    fn waits_that_were_carried_from_some_cpu_are_in_the_sum() {
        let mut slot = SlotTotals::EMPTY;
        slot.carried_waits[5] = 2;
        let mut totals = Totals::of(&slot);
        for waits in [7, WAITS_LIMIT - 1] {
            let mut account = Account::EMPTY;
            account.waits[5] = waits;
            totals.add(&account);
        }
        assert_eq!(totals.waits[5], 3 * u64::from(WAITS_LIMIT) + 6);
        assert_eq!(totals.waits.iter().filter(|count| **count != 0).count(), 1);
    }

    #[test]
    fn accounts_of_all_cpus_are_summed_field_by_field() {
        let account = Account {
            on_cpu_ns: 1,
            voluntary: 2,
            involuntary: 3,
            off_cpu_ns: [4, 5],
            wait_ns: [6, 7, 8, 9, 10, 11],
            culprits: Culprits { held_low: [20, 300, 1, 0, 0, 0], of_node: 0b10, ..Culprits::EMPTY },
            throttle_queue: 99,
            ..Account::EMPTY
        };
        let mut totals = Totals::of(&SlotTotals { migrations: 12, throttled_wait_ns: 13, ..SlotTotals::EMPTY });
        totals.add(&account);
        totals.add(&account);
        let expected = Totals {
            on_cpu_ns: 2,
            voluntary: 4,
            involuntary: 6,
            off_cpu_ns: [8, 10],
            wait_ns: [12, 14, 2 * (8 + 21), 2 * (9 + 300), 20, 22],
            migrations: 12,
            throttled_wait_ns: 13,
            ..Totals::of(&SlotTotals::EMPTY)
        };
        assert_eq!(totals, expected);
    }
}
