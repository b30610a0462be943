//! Collector `udp`: bytes, datagrams and errors of each cgroup's UDP sockets, which the kernel programs count by slot.

pub mod metrics;
mod start;

use std::sync::Arc;

use podlens_common::udp::UdpAccount;

pub use self::start::SPEC;
pub(super) use self::start::{CALLS, ENDS};
use super::{Collector, Readings, Spec, Sweep};
use crate::{
    kernel::{mapped::MappedArray, missed::MissedRuns},
    signal::{Layout, Loss, Row},
};

/// The collector at work.
pub struct Udp {
    layout: Arc<Layout>,
    accounts: MappedArray<UdpAccount>,
    missed: MissedRuns,
    /// Calls are counted, and not only what comes in vain.
    sees_calls: bool,
    /// The present slot's row.
    found: Row,
}

impl Udp {
    /// A collector over the programs' map.
    #[must_use]
    pub fn new(layout: Arc<Layout>, accounts: MappedArray<UdpAccount>, missed: MissedRuns, sees_calls: bool) -> Self {
        let found = layout.row();
        Self { layout, accounts, missed, sees_calls, found }
    }
}

impl Collector for Udp {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        for (number, _) in sweep.wanted.iter() {
            // Most cgroups have no UDP, and so no row.
            let account = usize::try_from(number).ok().and_then(|entry| self.accounts.get_used(entry));
            let Some(account) = account else { continue };
            self.found.clear();
            book(&mut self.found, &self.layout, &account, self.sees_calls);
            readings.slot(number, &self.found);
        }
    }

    fn clear(&mut self, slot: u32) {
        if let Ok(entry) = usize::try_from(slot) {
            self.accounts.set(entry, UdpAccount::EMPTY);
        }
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        vec![(&start::MISSED_DATAGRAM, self.missed.count())]
    }
}

fn book(row: &mut Row, layout: &Layout, account: &UdpAccount, sees_calls: bool) {
    if sees_calls {
        row.add_all(layout, &metrics::BYTES, &account.bytes);
        row.add_all(layout, &metrics::DATAGRAMS, &account.datagrams);
    }
    row.add_all(layout, &metrics::ERRORS, &account.errors);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_not_counted_here_is_absent() {
        let layout = Layout::new(SPEC.metrics);
        let account = UdpAccount { bytes: [10, 20], datagrams: [1, 2], errors: [3, 4, 5, 6] };
        for (sees_calls, bytes, datagrams) in
            [(true, Some([10, 20].as_slice()), Some([1, 2].as_slice())), (false, None, None)]
        {
            let mut row = layout.row();
            book(&mut row, &layout, &account, sees_calls);
            let cells = |metric| row.cells(layout.column(metric).unwrap());
            assert_eq!((cells(&metrics::BYTES), cells(&metrics::DATAGRAMS)), (bytes, datagrams));
            assert_eq!(cells(&metrics::ERRORS), Some([3, 4, 5, 6].as_slice()));
        }
    }
}
