//! What is known of a cgroup's CPU quota and time, whoever told it, and how it becomes a row. Pure.

use podlens_common::cpu::{Bandwidth, CpuFigures, CpuTimes, HAS_GROUP, HAS_TIMES, NO_QUOTA};

use super::{files::cpus, metrics, times, times::Modes};
use crate::signal::{Layout, Row, Subtree};

/// What is not told, or not there, is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// User and system.
    pub(super) mode_ns: Option<Modes>,
    /// The same to the nanosecond, where the walk tells it of version 2.
    pub(super) exact_ns: Option<Modes>,
    pub(super) bandwidth: Option<Bandwidth>,
    /// CPUs that the quota allows, in billionths; none without one.
    pub(super) limit: Option<u64>,
}

/// The times of a cgroup that the kernel has not handed up, as figures that add up over a subtree.
pub(super) fn pending(figures: &CpuFigures) -> [u64; 3] {
    let CpuTimes { user, system, run } = figures.pending;
    [user, system, run]
}

impl Figures {
    /// What the kernel's memory has. `below`: [`pending`] of the whole subtree.
    pub(super) fn learn(&mut self, figures: &CpuFigures, below: [u64; 3], is_v1: bool) {
        if figures.known & HAS_GROUP != 0 {
            self.limit = (figures.quota_ns != NO_QUOTA).then(|| cpus(figures.quota_ns, figures.period_ns)).flatten();
            let Bandwidth { throttled_ns, .. } = figures.bandwidth;
            let throttled_ns = if is_v1 { throttled_ns } else { as_in_file(throttled_ns) };
            self.bandwidth = Some(Bandwidth { throttled_ns, ..figures.bandwidth });
        } else {
            self.limit = None;
        }
        if figures.known & HAS_TIMES == 0 {
            return;
        }
        if is_v1 {
            let CpuTimes { user, system, .. } = figures.handed_up;
            self.mode_ns = Some([user, system]);
        } else {
            let [user, system, run] = below;
            let exact_ns = times::of_version_2(figures, &CpuTimes { user, system, run }, self.exact_ns);
            (self.exact_ns, self.mode_ns) = (Some(exact_ns), Some(exact_ns.map(as_in_file)));
        }
    }

    /// What files say. `in_part`: the walk tells the quota and what it did.
    pub(super) fn read(&mut self, said: &Self, in_part: bool) {
        *self = if in_part { Self { mode_ns: said.mode_ns, ..*self } } else { *said };
    }
}

/// Version 2's files tell whole microseconds, and so does this.
fn as_in_file(ns: u64) -> u64 {
    ns / 1000 * 1000
}

/// Enters them into an empty row. Of a cgroup that holds other entities' only what is its own.
pub(super) fn book(row: &mut Row, layout: &Layout, subtree: Subtree, figures: &Figures) {
    let Figures { mode_ns, bandwidth, limit, .. } = figures;
    if let Some(limit) = limit {
        row.add(layout, &metrics::LIMIT, 0, *limit);
    }
    if let Some(bandwidth) = bandwidth.filter(|bandwidth| limit.is_some() || bandwidth.periods > 0) {
        let Bandwidth { periods, throttled_periods, throttled_ns } = bandwidth;
        row.add(layout, &metrics::THROTTLED, 0, throttled_ns);
        row.add_all(layout, &metrics::PERIODS, &[periods.saturating_sub(throttled_periods), throttled_periods]);
    }
    if let Some(mode_ns) = mode_ns
        && subtree == Subtree::Own
    {
        row.add_all(layout, &metrics::MODE, mode_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::cpu::SPEC;

    const STOPPED: Bandwidth = Bandwidth { periods: 7, throttled_periods: 3, throttled_ns: 9000 };

    fn check(
        subtree: Subtree,
        figures: Figures,
        quota: Option<[u64; 3]>,
        mode_ns: Option<[u64; 2]>,
        limit: Option<u64>,
    ) {
        let layout = Layout::new(SPEC.metrics);
        let mut row = layout.row();
        book(&mut row, &layout, subtree, &figures);
        let cells = |metric| layout.column(metric).and_then(|column| row.cells(column));
        let stopped =
            cells(&metrics::THROTTLED).map(|stopped| [stopped, cells(&metrics::PERIODS).unwrap_or(&[])].concat());
        assert_eq!(stopped, quota.map(|quota| quota.to_vec()));
        assert_eq!(cells(&metrics::MODE), mode_ns.as_ref().map(<[u64; 2]>::as_slice));
        assert_eq!(cells(&metrics::LIMIT), limit.as_ref().map(std::slice::from_ref));
    }

    #[test]
    fn without_a_quota_now_or_before_nothing_is_told_of_one() {
        let (unused, mode_ns) = (Some(Bandwidth::default()), Some([1, 2]));
        let stopped = Some([9000, 4, 3]);
        let of = |bandwidth, limit| Figures { mode_ns, bandwidth, limit, ..Figures::default() };
        check(Subtree::Own, of(unused, None), None, mode_ns, None);
        check(Subtree::Own, of(unused, Some(5)), Some([0; 3]), mode_ns, Some(5));
        check(Subtree::Own, of(Some(STOPPED), None), stopped, mode_ns, None);
        check(Subtree::Own, Figures::default(), None, None, None);
    }

    #[test]
    fn a_pods_own_directory_has_a_quota_and_no_cpu_time() {
        let figures = Figures { mode_ns: Some([1, 2]), bandwidth: Some(STOPPED), limit: Some(5), ..Figures::default() };
        check(Subtree::Shared, figures, Some([9000, 4, 3]), None, Some(5));
    }

    const RECORD: CpuFigures = CpuFigures {
        known: HAS_GROUP | HAS_TIMES,
        quota_ns: 50_000_000,
        period_ns: 100_000_000,
        bandwidth: Bandwidth { periods: 7, throttled_periods: 3, throttled_ns: 9999 },
        handed_up: CpuTimes { user: 3, system: 1, run: 8000 },
        pending: CpuTimes { user: 0, system: 0, run: 100 },
        told: [0; 2],
    };

    #[track_caller]
    fn learn(figures: &CpuFigures, is_v1: bool) -> Figures {
        let mut learnt = Figures::default();
        learnt.learn(figures, pending(figures), is_v1);
        learnt
    }

    #[test]
    fn what_the_walk_tells_is_what_the_files_of_that_version_tell() {
        let of = |is_v1| {
            let Figures { mode_ns, bandwidth, limit, .. } = learn(&RECORD, is_v1);
            (mode_ns, bandwidth.map(|bandwidth| bandwidth.throttled_ns), limit)
        };
        assert_eq!(of(true), (Some([3, 1]), Some(9999), Some(500_000_000)));
        assert_eq!(of(false), (Some([6000, 2000]), Some(9000), Some(500_000_000)));
    }

    #[test]
    fn what_the_walk_does_not_tell_stays_but_for_the_quota() {
        let mut figures = learn(&RECORD, false);
        let mode_ns = figures.mode_ns;
        figures.learn(&CpuFigures::default(), [0; 3], false);
        assert_eq!((figures.mode_ns, figures.limit), (mode_ns, None));
        let unlimited = CpuFigures { quota_ns: NO_QUOTA, ..RECORD };
        assert_eq!(learn(&unlimited, false).limit, None);
    }

    #[test]
    fn files_tell_all_or_what_the_walk_leaves_untold() {
        let said = Figures { mode_ns: Some([8, 9]), ..Figures::default() };
        let mut figures = learn(&CpuFigures { known: HAS_GROUP, ..RECORD }, true);
        figures.read(&said, true);
        assert_eq!((figures.mode_ns, figures.limit), (Some([8, 9]), Some(500_000_000)));
        figures.read(&said, false);
        assert_eq!(figures, said);
    }
}
