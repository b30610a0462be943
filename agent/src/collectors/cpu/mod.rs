//! Collector `cpu`: what the kernel's own files of a cgroup tell of its quota and of its CPU time by mode.
//!
//! Called so and not after throttling alone, since one file tells both. It reads the directory of an entity's
//! topmost cgroup only, whose figures include all below. A removal takes the files along: what the quota had
//! done by then comes as an event before the removal.

mod files;
pub mod metrics;
mod start;

use std::{collections::HashMap, sync::Arc, time::Instant};

use foldhash::fast::RandomState;
use podlens_common::{cgroup::CgroupKey, cpu::Bandwidth};

use self::files::{CpuFiles, Figures};
pub use self::start::SPEC;
use super::{Collector, EntityCgroup, Noticed, Readings, Spec, Sweep};
use crate::{
    kernel::{
        cgroupfs::{
            files::{FileReader, LATE, Watch},
            hierarchies::Hierarchies,
        },
        events::{Malformed, Record},
    },
    signal::{Layout, Loss, Row, Subtree},
};

/// The collector at work.
pub struct Cpu {
    hierarchies: Hierarchies,
    reader: FileReader,
    layout: Arc<Layout>,
    watched: HashMap<CgroupKey, Watched, RandomState>,
    /// Values that were asked for and had not been read in time.
    late: u64,
    /// The present cgroup's row.
    found: Row,
}

struct Watched {
    subtree: Subtree,
    since: Instant,
    files: Watch<Figures>,
    /// The reading that is in `row`.
    booked: Option<Instant>,
    /// Its values as of that reading; counters only rise.
    row: Row,
    /// What its quota had done by its removal.
    last_words: Option<Bandwidth>,
}

impl Cpu {
    /// A collector over the files of these trees, which `reader` reads.
    #[must_use]
    pub fn new(layout: Arc<Layout>, hierarchies: Hierarchies, reader: FileReader) -> Self {
        let found = layout.row();
        Self { hierarchies, reader, layout, watched: HashMap::default(), late: 0, found }
    }
}

impl Collector for Cpu {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn born(&mut self, cgroup: EntityCgroup<'_>) {
        if self.watched.contains_key(&cgroup.key) {
            return;
        }
        let EntityCgroup { key, path, subtree } = cgroup;
        if let Some(files) = CpuFiles::of(&self.hierarchies, &self.reader, key, path, subtree == Subtree::Own) {
            let files = self.reader.watch(files);
            let (since, row) = (Instant::now(), self.layout.row());
            let watched = Watched { subtree, since, files, booked: None, row, last_words: None };
            self.watched.insert(key, watched);
        }
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        if !sweep.whole {
            return;
        }
        let now = Instant::now();
        self.reader.taken(now);
        for (key, watched) in &mut self.watched {
            watched.take(&self.layout, &mut self.found);
            let last = watched.booked.unwrap_or(watched.since);
            self.late += u64::from(now.saturating_duration_since(last) > LATE);
            readings.cgroup(*key, &watched.row);
        }
    }

    fn event(&mut self, record: &Record) -> Result<Option<Noticed>, Malformed> {
        let last_words = record.body()?;
        if let Some(watched) = self.watched.get_mut(&record.key) {
            watched.last_words = Some(last_words);
        }
        Ok(None)
    }

    fn removed(&mut self, key: CgroupKey) -> Option<Row> {
        let mut watched = self.watched.remove(&key)?;
        watched.take(&self.layout, &mut self.found);
        let mut row = self.layout.row();
        if let Some(bandwidth) = watched.last_words {
            book_bandwidth(&mut row, &self.layout, &bandwidth);
        }
        watched.row.remove_gauges(&self.layout);
        row.at_least(&watched.row);
        Some(row)
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        vec![(&start::LATE_FILE, self.late)]
    }
}

impl Watched {
    /// Books what the files said last, unless that is done. `found` is a row to work in.
    fn take(&mut self, layout: &Layout, found: &mut Row) {
        let Some(reading) = self.files.last().filter(|reading| self.booked != Some(reading.at)) else { return };
        self.booked = Some(reading.at);
        found.clear();
        book(found, layout, self.subtree, &reading.value);
        // Of a cgroup that is being removed the last values stay, but for gauges. The kernel writes a file's
        // numbers one after another, so a difference of two can fall for a moment.
        self.row.remove_gauges(layout);
        self.row.at_least(found);
    }
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
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::{fs, thread, time::Duration};

    use super::*;
    use crate::{collectors::SlotsInUse, signal::Metric};

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

    /// A collector over a version 2 tree of plain files with so many containers.
    fn collector_of(containers: u64) -> (tempfile::TempDir, Cpu) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu\n").unwrap();
        let hierarchies = Hierarchies::find(root.path()).unwrap();
        let mut cpu = Cpu::new(Arc::new(Layout::new(SPEC.metrics)), hierarchies, FileReader::start().unwrap());
        for key in 1..=containers {
            let directory = root.path().join(key.to_string());
            fs::create_dir(&directory).unwrap();
            let stat = "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 7\nnr_throttled 3\nthrottled_usec 9\n";
            fs::write(directory.join("cpu.stat"), stat).unwrap();
            fs::write(directory.join("cpu.max"), "20000 100000\n").unwrap();
            cpu.born(EntityCgroup { key, path: &format!("/{key}"), subtree: Subtree::Own });
        }
        (root, cpu)
    }

    /// How many cgroups have values in a sweep.
    fn sweep(cpu: &mut Cpu) -> usize {
        /// Counts the cgroups that have values.
        struct Count(usize);
        impl Readings for Count {
            fn slot(&mut self, _: u32, _: &Row) {}
            fn cgroup(&mut self, _: CgroupKey, row: &Row) {
                self.0 += usize::from(!row.is_empty());
            }
            fn caused(&mut self, _: &'static Metric, _: u32, _: u32, _: u64) {}
        }
        let (none, mut count) = (SlotsInUse::default(), Count(0));
        cpu.read(&Sweep { wanted: &none, in_use: &none, generation: &|_| None, whole: true }, &mut count);
        count.0
    }

    fn sweep_until_read(cpu: &mut Cpu, containers: usize) {
        let began = Instant::now();
        while sweep(cpu) != containers {
            assert!(began.elapsed() < Duration::from_secs(20), "not all were read");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_sweep_tells_what_was_read_before_and_the_end_as_well() {
        let (root, mut cpu) = collector_of(2);
        sweep_until_read(&mut cpu, 2);
        root.close().unwrap();
        assert_eq!(sweep(&mut cpu), 2, "without a file to open");
        let row = cpu.removed(1).unwrap();
        let cells = |metric| cpu.layout.column(metric).and_then(|column| row.cells(column));
        assert_eq!(cells(&metrics::MODE), Some([10_000, 20_000].as_slice()));
        assert_eq!(cells(&metrics::LIMIT), None, "what is gone has no limit");
        assert_eq!(cpu.lost(), [(&start::LATE_FILE, 0)]);
    }

    /// Not a test: prints what a sweep costs here.
    #[test]
    #[ignore = "measures"]
    fn the_cost_of_a_sweep_with_500_cgroups() {
        let (_root, mut cpu) = collector_of(500);
        sweep_until_read(&mut cpu, 500);
        let mut took: Vec<Duration> = (0..50)
            .map(|_| {
                let began = Instant::now();
                sweep(&mut cpu);
                began.elapsed()
            })
            .collect();
        took.sort();
        println!("a sweep with 500 cgroups: {:?}, the longest {:?}", took[25], took[49]);
    }

    #[test]
    fn a_pods_own_directory_has_a_quota_and_no_cpu_time() {
        let figures = Figures { mode_ns: Some([1, 2]), bandwidth: Some(STOPPED), limit: Some(5) };
        check(Subtree::Shared, figures, Some([9000, 4, 3]), None, Some(5));
    }
}
