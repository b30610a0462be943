//! Collector `cpu`: what the kernel's own files of a cgroup tell of its quota and of its CPU time by mode.
//!
//! Called so and not after throttling alone, since one file tells both. It reads the directory of an owner's
//! topmost cgroup only, whose figures include all below. A removal takes the files along: what the quota had
//! done by then comes with the removal's event.

mod files;
pub mod metrics;

use std::{collections::HashMap, io};

use podlens_common::cgroup::{Bandwidth, CgroupKey};

use self::files::{Figures, Files, Room, Wanted};
use super::{Collector, CollectorSpec, Extent, Held, Place};
use crate::{
    kernel::hierarchy::Hierarchies,
    registry::{Layout, Row},
};

/// The collector.
pub static SPEC: CollectorSpec = CollectorSpec {
    name: "cpu",
    about: "CPU quota and what it stopped, CPU time by mode",
    metrics: &[&metrics::THROTTLED, &metrics::PERIODS, &metrics::MODE, &metrics::LIMIT],
    split: None,
};

/// The collector at work.
pub struct Cpu {
    hierarchies: Hierarchies,
    layout: Layout,
    watched: HashMap<CgroupKey, Watched>,
    room: Room,
}

struct Watched {
    extent: Extent,
    files: Files,
    /// Its counters as of the last reading.
    last: Row,
}

impl Cpu {
    /// A collector over the files of these trees.
    ///
    /// # Errors
    /// It cannot be told how many files may be open.
    pub fn new(hierarchies: Hierarchies) -> io::Result<Self> {
        Ok(Self { hierarchies, layout: Layout::new(SPEC.metrics), watched: HashMap::new(), room: files::room()? })
    }
}

impl Collector for Cpu {
    fn spec(&self) -> &'static CollectorSpec {
        &SPEC
    }

    fn born(&mut self, place: Place<'_>) {
        if self.watched.contains_key(&place.key) {
            return;
        }
        if let Some(files) = Files::of(&self.hierarchies, place.key, place.path) {
            let watched = Watched { extent: place.extent, files, last: self.layout.row() };
            self.watched.insert(place.key, watched);
        }
    }

    fn read_cgroups(&mut self, _held: &Held) -> Vec<(CgroupKey, Row)> {
        let (layout, room) = (&self.layout, &mut self.room);
        self.watched.iter_mut().map(|(key, watched)| (*key, watched.read(layout, room))).collect()
    }

    fn removed(&mut self, key: CgroupKey, last: Option<Bandwidth>) -> Option<Row> {
        let watched = self.watched.remove(&key)?;
        self.room.0 += watched.files.open();
        let mut row = self.layout.row();
        if let Some(bandwidth) = last.filter(|bandwidth| bandwidth.periods > 0) {
            book_bandwidth(&mut row, &self.layout, &bandwidth);
        }
        row.at_least(&watched.last);
        Some(row)
    }
}

impl Watched {
    fn read(&mut self, layout: &Layout, room: &mut Room) -> Row {
        let had_quota = layout.column(&metrics::THROTTLED).is_some_and(|column| self.last.cells(column).is_some());
        let wanted = Wanted { modes: self.extent == Extent::Own, bandwidth: had_quota };
        let figures = self.files.read(wanted, room);
        let mut row = layout.row();
        book(&mut row, layout, self.extent, &figures);
        // Of a cgroup that is being removed the last values stay. The kernel writes a file's numbers one after
        // another, so a difference of two can fall for a moment.
        row.at_least(&self.last);
        self.last = row.clone();
        self.last.remove_gauges(layout);
        row
    }
}

fn book(row: &mut Row, layout: &Layout, extent: Extent, figures: &Figures) {
    let Figures { mode_ns, bandwidth, limit } = figures;
    if let Some(limit) = limit {
        row.add(layout, &metrics::LIMIT, 0, *limit);
    }
    if let Some(bandwidth) = bandwidth.filter(|bandwidth| limit.is_some() || bandwidth.periods > 0) {
        book_bandwidth(row, layout, &bandwidth);
    }
    if let Some(mode_ns) = mode_ns
        && extent == Extent::Own
    {
        for (mode, ns) in mode_ns.iter().enumerate() {
            row.add(layout, &metrics::MODE, mode, *ns);
        }
    }
}

fn book_bandwidth(row: &mut Row, layout: &Layout, bandwidth: &Bandwidth) {
    let Bandwidth { periods, throttled_periods, throttled_ns } = *bandwidth;
    row.add(layout, &metrics::THROTTLED, 0, throttled_ns);
    row.add(layout, &metrics::PERIODS, 0, periods.saturating_sub(throttled_periods));
    row.add(layout, &metrics::PERIODS, 1, throttled_periods);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOPPED: Bandwidth = Bandwidth { periods: 7, throttled_periods: 3, throttled_ns: 9000 };

    fn check(extent: Extent, figures: Figures, quota: Option<[u64; 3]>, mode_ns: Option<[u64; 2]>, limit: Option<u64>) {
        let layout = Layout::new(SPEC.metrics);
        let mut row = layout.row();
        book(&mut row, &layout, extent, &figures);
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
        check(Extent::Own, Figures { mode_ns, bandwidth: unused, limit: None }, None, mode_ns, None);
        check(Extent::Own, Figures { mode_ns, bandwidth: unused, limit: Some(5) }, Some([0; 3]), mode_ns, Some(5));
        check(Extent::Own, Figures { mode_ns, bandwidth: Some(STOPPED), limit: None }, stopped, mode_ns, None);
        check(Extent::Own, Figures::default(), None, None, None);
    }

    #[test]
    fn a_pods_own_directory_has_a_quota_and_no_cpu_time() {
        let figures = Figures { mode_ns: Some([1, 2]), bandwidth: Some(STOPPED), limit: Some(5) };
        check(Extent::Shared, figures, Some([9000, 4, 3]), None, Some(5));
    }
}
