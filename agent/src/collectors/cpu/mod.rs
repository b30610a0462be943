//! Collector `cpu`: what the kernel's own files of a cgroup tell of its quota and of its CPU time by mode.
//!
//! Called so and not after throttling alone, since one file tells both. It reads the directory of an entity's
//! topmost cgroup only, whose figures include all below. A removal takes the files along: what the quota had
//! done by then comes with the removal's event.

mod files;
pub mod metrics;

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use podlens_common::cgroup::{Bandwidth, CgroupKey};

use self::files::{Figures, Files, Room, Wanted};
use super::{Collector, CollectorSpec, EntityCgroup, Readings, Sweep};
use crate::{
    kernel::hierarchy::Hierarchies,
    signal::{Layout, Row, Subtree},
};

/// The collector.
pub static SPEC: CollectorSpec = CollectorSpec {
    name: "cpu",
    about: "CPU quota and what it stopped, CPU time by mode",
    metrics: &[&metrics::THROTTLED, &metrics::PERIODS, &metrics::MODE, &metrics::LIMIT],
};

/// Least time between two readings of a cgroup's counters: a file that the caches do not hold costs some microseconds.
const COUNTERS_HOLD: Duration = Duration::from_secs(5);
/// The same of its quota, which is configuration.
const QUOTA_HOLDS: Duration = Duration::from_secs(10);

/// The collector at work.
pub struct Cpu {
    hierarchies: Hierarchies,
    layout: Layout,
    watched: HashMap<CgroupKey, Watched, RandomState>,
    room: Room,
    /// The present cgroup's row.
    found: Row,
}

struct Watched {
    subtree: Subtree,
    since: Instant,
    files: Files,
    /// By the quota as it was read last.
    limit: Option<u64>,
    /// When the quota and the counters were read last; none before the first time.
    limit_read: Option<Instant>,
    counters_read: Option<Instant>,
    /// Its values as of the last reading; counters only rise.
    row: Row,
}

impl Cpu {
    /// A collector over the files of these trees.
    ///
    /// # Errors
    /// It cannot be told how many files may be open.
    pub fn new(hierarchies: Hierarchies) -> io::Result<Self> {
        let layout = Layout::new(SPEC.metrics);
        let found = layout.row();
        Ok(Self { hierarchies, layout, watched: HashMap::default(), room: files::room()?, found })
    }
}

impl Collector for Cpu {
    fn spec(&self) -> &'static CollectorSpec {
        &SPEC
    }

    fn born(&mut self, cgroup: EntityCgroup<'_>) {
        if self.watched.contains_key(&cgroup.key) {
            return;
        }
        if let Some(files) = Files::of(&self.hierarchies, cgroup.key, cgroup.path) {
            let watched = Watched {
                subtree: cgroup.subtree,
                since: Instant::now(),
                files,
                limit: None,
                limit_read: None,
                counters_read: None,
                row: self.layout.row(),
            };
            self.watched.insert(cgroup.key, watched);
        }
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        if !sweep.whole {
            return;
        }
        let now = Instant::now();
        for (key, watched) in &mut self.watched {
            if let Some(figures) = watched.read(&self.layout, &mut self.room, now) {
                self.found.clear();
                book(&mut self.found, &self.layout, watched.subtree, &figures);
                // Of a cgroup that is being removed the last values stay, but for gauges. The kernel writes a file's
                // numbers one after another, so a difference of two can fall for a moment.
                watched.row.remove_gauges(&self.layout);
                watched.row.at_least(&self.found);
            }
            readings.cgroup(*key, &watched.row);
        }
    }

    fn removed(&mut self, key: CgroupKey, last: Option<Bandwidth>) -> Option<Row> {
        let mut watched = self.watched.remove(&key)?;
        self.room.0 += watched.files.open();
        let mut row = self.layout.row();
        if let Some(bandwidth) = last.filter(|bandwidth| bandwidth.periods > 0) {
            book_bandwidth(&mut row, &self.layout, &bandwidth);
        }
        watched.row.remove_gauges(&self.layout);
        row.at_least(&watched.row);
        Some(row)
    }
}

impl Watched {
    /// Reads what is due and no more, since most cgroups have no quota; none if nothing is.
    fn read(&mut self, layout: &Layout, room: &mut Room, now: Instant) -> Option<Figures> {
        if !is_due(self.since, self.counters_read, now, COUNTERS_HOLD) {
            return None;
        }
        self.counters_read = Some(now);
        if is_due(self.since, self.limit_read, now, QUOTA_HOLDS) {
            self.limit_read = Some(now);
            self.limit = self.files.read_limit(room);
        }
        let had_quota = layout.column(&metrics::THROTTLED).is_some_and(|column| self.row.cells(column).is_some());
        let wanted = Wanted { modes: self.subtree == Subtree::Own, bandwidth: had_quota || self.limit.is_some() };
        Some(Figures { limit: self.limit, ..self.files.read(wanted, room) })
    }
}

/// What holds for so long has to be read again, the last time being `read`. A cgroup that was made at `since` is read
/// at each look in its first moments: its runtime is still setting it up, and it may be gone soon.
fn is_due(since: Instant, read: Option<Instant>, now: Instant, holds: Duration) -> bool {
    read.is_none_or(|read| read.duration_since(since) < holds || now.duration_since(read) >= holds)
}

fn book(row: &mut Row, layout: &Layout, subtree: Subtree, figures: &Figures) {
    let Figures { mode_ns, bandwidth, limit } = figures;
    if let Some(limit) = limit {
        row.add(layout, &metrics::LIMIT, 0, *limit);
    }
    if let Some(bandwidth) = bandwidth.filter(|bandwidth| limit.is_some() || bandwidth.periods > 0) {
        book_bandwidth(row, layout, &bandwidth);
    }
    if let Some(mode_ns) = mode_ns
        && subtree == Subtree::Own
    {
        row.add_all(layout, &metrics::MODE, mode_ns);
    }
}

fn book_bandwidth(row: &mut Row, layout: &Layout, bandwidth: &Bandwidth) {
    let Bandwidth { periods, throttled_periods, throttled_ns } = *bandwidth;
    row.add(layout, &metrics::THROTTLED, 0, throttled_ns);
    row.add_all(layout, &metrics::PERIODS, &[periods.saturating_sub(throttled_periods), throttled_periods]);
}

#[cfg(test)]
mod tests {
    use super::*;

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
        check(Subtree::Own, Figures { mode_ns, bandwidth: unused, limit: None }, None, mode_ns, None);
        check(Subtree::Own, Figures { mode_ns, bandwidth: unused, limit: Some(5) }, Some([0; 3]), mode_ns, Some(5));
        check(Subtree::Own, Figures { mode_ns, bandwidth: Some(STOPPED), limit: None }, stopped, mode_ns, None);
        check(Subtree::Own, Figures::default(), None, None, None);
    }

    #[test]
    fn a_cgroup_is_read_at_each_look_while_it_is_new_and_then_once_in_a_while() {
        let check = |read_s: Option<u64>, now_s, expected| {
            let since = Instant::now();
            let at = |s| since + Duration::from_secs(s);
            let holds = Duration::from_secs(10);
            assert_eq!(
                is_due(since, read_s.map(at), at(now_s), holds),
                expected,
                "read at {read_s:?} s, now {now_s} s"
            );
        };
        check(None, 60, true);
        check(Some(0), 1, true);
        check(Some(9), 10, true);
        check(Some(10), 11, false);
        check(Some(10), 19, false);
        check(Some(10), 20, true);
    }

    #[test]
    fn a_pods_own_directory_has_a_quota_and_no_cpu_time() {
        let figures = Figures { mode_ns: Some([1, 2]), bandwidth: Some(STOPPED), limit: Some(5) };
        check(Subtree::Shared, figures, Some([9000, 4, 3]), None, Some(5));
    }
}
