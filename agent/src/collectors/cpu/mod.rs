//! Collector `cpu`: a cgroup's CPU quota, what that did, and CPU time by mode.
//!
//! Called so and not after throttling alone, since the kernel tells both together. It tells of an entity's topmost cgroup
//! only, whose figures include all below. A walk of the kernel programs through the CPU controller's tree reads what the kernel
//! has, and with it a second one CPU time by mode where version 1 counts it in another hierarchy (accounts.rs); where there is no
//! walk the files are read. What there was by a cgroup's end comes as an event, of that other hierarchy perhaps after the removal.

mod accounts;
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
    cpu::{CpuFigures, CpuRecord, CpuTimesAt, LAST_TIMES, QUOTAS},
};

pub use self::start::SPEC;
use self::{
    accounts::{AccountId, Accounts},
    figures::{Figures, book},
    files::{CpuFiles, Wanted},
};
use super::{
    Collector, EntityCgroup, Noticed, Readings, SlotsInUse, Spec, Sweep,
    apart::Leaving,
    subtrees::{Found, Subtrees},
    tree::{TreeReader, WalkSchedule},
};
use crate::{
    kernel::{
        cgroupfs::{
            files::{FileReader, STALE_AFTER, Watch},
            hierarchies::Hierarchies,
        },
        events::{Malformed, Record},
    },
    signal::{Layout, Loss, Row, Subtree},
};

/// Least time between two walks, unless there is a new cgroup. Whoever asks every 5 s has a walk each time.
const WALK_INTERVAL: Duration = Duration::from_secs(4);

/// Where the figures come from.
#[derive(Default)]
pub(super) struct Sources {
    /// The walk, if there is one.
    walk: Option<TreeReader<CpuRecord>>,
    /// It tells CPU time by mode as well.
    walk_tells_modes: bool,
    /// What does where that is counted in a hierarchy without the quotas.
    accounts: Option<Accounts>,
    /// The files, where something is to be read from them.
    files: Option<FileReader>,
}

/// The collector at work.
pub struct Cpu {
    hierarchies: Hierarchies,
    sources: Sources,
    layout: Arc<Layout>,
    /// Each in memory of its own: half of a table is empty.
    watched: HashMap<CgroupKey, Box<Watched>, RandomState>,
    leaving: Leaving<Box<Watched>>,
    walks: WalkSchedule,
    /// Values that were asked for and had not been read in time.
    stale: u64,
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
    /// Walks in a row that have not told all of it.
    missed: u32,
    /// Where its CPU time by mode is counted in another hierarchy.
    account: Option<AccountId>,
    /// Its last times from there have come.
    has_ended: bool,
    figures: Figures,
    /// Its values as of then; counters only rise.
    row: Row,
}

impl Cpu {
    /// A collector over these trees.
    pub(super) fn new(layout: Arc<Layout>, hierarchies: Hierarchies, sources: Sources) -> Self {
        let (watched, leaving, found) = (HashMap::default(), Leaving::default(), layout.row());
        let walks = WalkSchedule::every(WALK_INTERVAL);
        Self { hierarchies, sources, layout, watched, leaving, walks, stale: 0, found }
    }

    /// What of a cgroup is read from files; nothing where the walk tells all.
    fn wanted(&self, subtree: Subtree) -> Option<Wanted> {
        match (&self.sources, subtree) {
            (Sources { walk: None, .. }, Subtree::Own) => Some(Wanted::All),
            (Sources { walk: None, .. }, Subtree::Shared) => Some(Wanted::Quota),
            (Sources { walk_tells_modes: false, accounts: None, .. }, Subtree::Own) => Some(Wanted::Modes),
            _ => None,
        }
    }

    /// Walks through the tree of quotas.
    fn walk_quotas(&mut self) {
        let Some(walk) = &self.sources.walk else { return };
        let (mark, watched) = (self.hierarchies.cpu_mark(), &self.watched);
        let done = walk.walk_through(QUOTAS, Subtrees::new, |met, record| {
            let key = record.id | mark;
            let is_wanted = record.id != 0 && watched.contains_key(&key);
            met.take(record.depth, figures::pending(&record.figures), is_wanted.then_some((key, record)));
        });
        let Some(done) = done.map(Subtrees::finish) else {
            self.walks.lose();
            return;
        };
        for Found { key, record, sums, .. } in done.found {
            let Some(watched) = self.watched.get_mut(&key) else { continue };
            watched.is_met = true;
            watched.figures.learn(&record.figures, sums, mark != 0);
            watched.book(&self.layout, &mut self.found);
        }
    }

    /// Walks through the other hierarchy.
    fn walk_accounts(&mut self) {
        let Sources { walk: Some(walk), accounts: Some(accounts), .. } = &mut self.sources else { return };
        for (key, watched) in &mut self.watched {
            if let Some(account) = &mut watched.account {
                accounts.learn(*key, account);
            }
        }
        let Some(found) = accounts.walk(walk) else {
            self.walks.lose();
            return;
        };
        for (key, modes) in found {
            let Some(watched) = self.watched.get_mut(&key) else { continue };
            watched.figures.mode_ns = Some(modes);
            watched.book(&self.layout, &mut self.found);
        }
    }

    /// A cgroup of the other hierarchy is gone.
    fn end_account(&mut self, id: u64, end: &CpuTimesAt) {
        let key = self.sources.accounts.as_ref().and_then(|accounts| accounts.of_end(id, &end.path));
        let Some(key) = key else { return };
        if let Some(watched) = self.leaving.get_mut(key).or_else(|| self.watched.get_mut(&key)) {
            watched.figures.mode_ns = Some(accounts::of_end(end));
            watched.has_ended = true;
            watched.book(&self.layout, &mut self.found);
        }
    }

    /// The final values of a cgroup that is gone.
    fn end(&mut self, key: CgroupKey, mut watched: Box<Watched>) -> Row {
        if let (Some(accounts), Some(account)) = (&mut self.sources.accounts, &watched.account) {
            accounts.forget(key, account);
        }
        watched.row.remove_gauges(&self.layout);
        watched.row
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
        let accounts = self.sources.accounts.as_mut().filter(|_| subtree == Subtree::Own);
        let watched = Watched {
            subtree,
            since: Instant::now(),
            files,
            read: None,
            is_met: false,
            missed: 0,
            account: accounts.map(|accounts| accounts.born(key, path)),
            has_ended: false,
            figures: Figures::default(),
            row: self.layout.row(),
        };
        self.watched.insert(key, Box::new(watched));
    }

    fn walk_is_due(&self, now: Instant) -> bool {
        let untold = self.watched.values().filter(|watched| !watched.is_told()).map(|watched| watched.missed);
        self.sources.walk.is_some() && self.walks.is_due(now, untold)
    }

    fn walk(&mut self, now: Instant, _: &SlotsInUse) {
        self.walks.begin(now);
        self.walk_quotas();
        self.walk_accounts();
        for watched in self.watched.values_mut() {
            watched.missed = if watched.is_told() { 0 } else { watched.missed.saturating_add(1) };
        }
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        if !sweep.whole {
            return;
        }
        let now = Instant::now();
        if let Some(reader) = &self.sources.files {
            reader.taken(now);
        }
        for (key, watched) in &mut self.watched {
            watched.take_files(&self.layout, &mut self.found);
            self.stale += u64::from(watched.is_stale(now));
            readings.cgroup(*key, &watched.row);
        }
        for (key, watched) in self.leaving.iter() {
            readings.cgroup(key, &watched.row);
        }
    }

    fn event(&mut self, record: &Record) -> Result<Option<Noticed>, Malformed> {
        if record.kind == LAST_TIMES {
            self.end_account(record.key, &record.body()?);
            return Ok(None);
        }
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
        let tells_ends = self.sources.accounts.as_ref().is_some_and(|accounts| accounts.tells_ends);
        if tells_ends && watched.account.is_some() && !watched.has_ended {
            watched.row.remove_gauges(&self.layout);
            self.leaving.hold(key, watched);
            return None;
        }
        Some(self.end(key, watched))
    }

    fn removed_later(&mut self) -> Vec<(CgroupKey, Row)> {
        let over = self.leaving.over(|watched| watched.has_ended);
        over.into_iter().map(|(key, watched)| (key, self.end(key, watched))).collect()
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        vec![(&start::WALK_UNFINISHED, self.walks.unfinished()), (&start::LATE_FILE, self.stale)]
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

    /// Walks have told all that they can tell of it.
    fn is_told(&self) -> bool {
        let is_known = matches!(self.account, Some(AccountId::Known(_)));
        self.is_met && (!is_known || self.figures.mode_ns.is_some())
    }

    /// What is read of it from files is too old.
    fn is_stale(&self, now: Instant) -> bool {
        self.files.is_some() && now.saturating_duration_since(self.read.unwrap_or(self.since)) > STALE_AFTER
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
    use crate::signal::Metric;

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
}
