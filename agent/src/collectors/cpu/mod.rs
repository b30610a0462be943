//! Collector `cpu`: a cgroup's CPU quota, what that did, and CPU time by mode.
//!
//! Called so and not after throttling alone, since the kernel tells both together. It tells of an entity's topmost cgroup
//! only, whose figures include all below. A walk of the kernel programs through the CPU controller's tree reads what the kernel
//! has; where there is no walk the files are read, and CPU time by mode too where version 1 counts it in another hierarchy than
//! that of the quotas. What there was by a cgroup's end comes as an event before the removal.

mod figures;
mod files;
pub mod metrics;
mod start;
mod times;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use podlens_common::{
    cgroup::{CgroupKey, KEY_MARKS},
    cpu::{CpuFigures, CpuRecord},
};

pub use self::start::SPEC;
use self::{
    figures::{Figures, book},
    files::{CpuFiles, Wanted},
};
use super::{Collector, EntityCgroup, Noticed, Readings, Spec, Sweep, subtrees::Subtrees, tree::TreeReader};
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

/// Least time between two walks, unless there is a new cgroup. Whoever asks every 5 s has a walk each time.
const WALK_INTERVAL: Duration = Duration::from_secs(4);
/// Walks that are made for a cgroup which none has met.
const WALKS_FOR_NEW: u32 = 3;

/// Where the figures come from.
#[derive(Default)]
pub(super) struct Sources {
    /// The walk, if there is one.
    walk: Option<TreeReader<CpuRecord>>,
    /// It tells CPU time by mode as well.
    walk_tells_modes: bool,
    /// The files, where something is to be read from them.
    files: Option<FileReader>,
}

/// The collector at work.
pub struct Cpu {
    hierarchies: Hierarchies,
    sources: Sources,
    layout: Arc<Layout>,
    watched: HashMap<CgroupKey, Watched, RandomState>,
    walked: Option<Instant>,
    unfinished: u64,
    /// Values that were asked for and had not been read in time.
    late: u64,
    /// The present cgroup's row.
    found: Row,
}

struct Watched {
    subtree: Subtree,
    since: Instant,
    /// What is read of it from files.
    files: Option<Watch<Figures>>,
    /// The reading that is in `figures`.
    read: Option<Instant>,
    /// A walk has met it.
    is_met: bool,
    /// Walks that have not met it.
    missed: u32,
    figures: Figures,
    /// Its values as of then; counters only rise.
    row: Row,
}

impl Cpu {
    /// A collector over these trees.
    pub(super) fn new(layout: Arc<Layout>, hierarchies: Hierarchies, sources: Sources) -> Self {
        let (watched, found) = (HashMap::default(), layout.row());
        Self { hierarchies, sources, layout, watched, walked: None, unfinished: 0, late: 0, found }
    }

    /// What of a cgroup is read from files; nothing where the walk tells all.
    fn wanted(&self, subtree: Subtree) -> Option<Wanted> {
        match (&self.sources, subtree) {
            (Sources { walk: None, .. }, Subtree::Own) => Some(Wanted::All),
            (Sources { walk: None, .. }, Subtree::Shared) => Some(Wanted::Quota),
            (Sources { walk_tells_modes: false, .. }, Subtree::Own) => Some(Wanted::Modes),
            _ => None,
        }
    }

    /// Walks through the tree anew, if it is time to.
    fn walk(&mut self, now: Instant) {
        let Some(walk) = &self.sources.walk else { return };
        let is_due = self.walked.is_none_or(|at| now.duration_since(at) >= WALK_INTERVAL);
        let is_new = |watched: &Watched| !watched.is_met && watched.missed < WALKS_FOR_NEW;
        if !is_due && !self.watched.values().any(is_new) {
            return;
        }
        self.walked = Some(now);
        let (mark, watched) = (self.hierarchies.cpu_mark(), &self.watched);
        let done = walk.walk(Subtrees::new, |met, record| {
            let key = record.id | mark;
            let is_wanted = record.id != 0 && watched.contains_key(&key);
            met.take(record.depth, figures::pending(&record.figures), is_wanted.then_some((key, record)));
        });
        let Some(done) = done.map(Subtrees::finish) else {
            self.unfinished += 1;
            return;
        };
        self.watched.values_mut().for_each(|watched| watched.missed += 1);
        for (key, record, below) in done.found {
            let Some(watched) = self.watched.get_mut(&key) else { continue };
            (watched.is_met, watched.missed) = (true, 0);
            watched.figures.learn(&record.figures, below, mark != 0);
            watched.book(&self.layout, &mut self.found);
        }
    }
}

impl Collector for Cpu {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn born(&mut self, cgroup: EntityCgroup<'_>) {
        let EntityCgroup { key, path, subtree } = cgroup;
        if key & KEY_MARKS != self.hierarchies.cpu_mark() || self.watched.contains_key(&key) {
            return;
        }
        let files = self.sources.files.as_ref().and_then(|reader| {
            Some(reader.watch(CpuFiles::of(&self.hierarchies, reader, key, path, self.wanted(subtree)?)?))
        });
        let (since, figures, row) = (Instant::now(), Figures::default(), self.layout.row());
        let watched = Watched { subtree, since, files, read: None, is_met: false, missed: 0, figures, row };
        self.watched.insert(key, watched);
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        if !sweep.whole {
            return;
        }
        let now = Instant::now();
        if let Some(reader) = &self.sources.files {
            reader.taken(now);
        }
        self.walk(now);
        for (key, watched) in &mut self.watched {
            watched.take_files(&self.layout, &mut self.found);
            self.late += u64::from(watched.is_late(now));
            readings.cgroup(*key, &watched.row);
        }
    }

    fn event(&mut self, record: &Record) -> Result<Option<Noticed>, Malformed> {
        let last_words: CpuFigures = record.body()?;
        if let Some(watched) = self.watched.get_mut(&record.key) {
            watched.take_files(&self.layout, &mut self.found);
            watched.figures.learn(&last_words, figures::pending(&last_words), self.hierarchies.cpu_mark() != 0);
            watched.book(&self.layout, &mut self.found);
        }
        Ok(None)
    }

    fn removed(&mut self, key: CgroupKey) -> Option<Row> {
        let mut watched = self.watched.remove(&key)?;
        watched.take_files(&self.layout, &mut self.found);
        watched.row.remove_gauges(&self.layout);
        Some(watched.row)
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        vec![(&start::WALK_UNFINISHED, self.unfinished), (&start::LATE_FILE, self.late)]
    }
}

impl Watched {
    /// Books what the files said last, unless that is done. `found` is a row to work in.
    fn take_files(&mut self, layout: &Layout, found: &mut Row) {
        let reading = self.files.as_ref().and_then(Watch::last);
        let Some(reading) = reading.filter(|reading| self.read != Some(reading.at)) else { return };
        self.read = Some(reading.at);
        self.figures.read(&reading.value, self.is_met);
        self.book(layout, found);
    }

    /// What is read of it from files is too old.
    fn is_late(&self, now: Instant) -> bool {
        self.files.is_some() && now.saturating_duration_since(self.read.unwrap_or(self.since)) > LATE
    }

    /// Of a cgroup that is being removed the last values stay, but for gauges. Numbers that belong together are read one after
    /// another, so a difference of two can fall for a moment.
    fn book(&mut self, layout: &Layout, found: &mut Row) {
        found.clear();
        book(found, layout, self.subtree, &self.figures);
        self.row.remove_gauges(layout);
        self.row.at_least(found);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::{fs, thread, time::Duration};

    use super::*;
    use crate::{collectors::SlotsInUse, signal::Metric};

    /// A collector over a version 2 tree of plain files with so many containers.
    fn collector_of(containers: u64) -> (tempfile::TempDir, Cpu) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu\n").unwrap();
        let hierarchies = Hierarchies::find(root.path()).unwrap();
        let sources = Sources { files: Some(FileReader::start().unwrap()), ..Sources::default() };
        let mut cpu = Cpu::new(Arc::new(Layout::new(SPEC.metrics)), hierarchies, sources);
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
        cpu.read(
            &Sweep { wanted: &none, in_use: &none, generation: &|_| None, expired: &none, whole: true },
            &mut count,
        );
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
        assert!(cpu.lost().iter().all(|(_, times)| *times == 0));
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
}
