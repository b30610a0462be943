//! Collector `oom`: each process that the kernel killed for want of memory, once, and whose limit led to it.
//!
//! The kernel programs tell each mark of a victim; what a mark is, [`judge`] decides. What the kernel itself has counted
//! (`memory_events_local`) stands behind that: a kill whose record was lost is found in the kernel's files, or in the cgroup's
//! last words, and counts as well.

mod counts;
pub mod events;
mod judge;
pub mod metrics;
mod start;
mod story;

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, mpsc},
    thread,
};

use foldhash::fast::RandomState;
use podlens_common::{
    cgroup::{CgroupKey, KEY_V1, SLOT_KERNEL},
    oom::{LAST_WORDS, LastWords, OomScope, Victim},
};

pub use self::start::SPEC;
use rustix::param::page_size;

use self::{counts::Counts, judge::Judge, story::Stories};
use super::{Collector, HeldBack, Noticed, Readings, Spec, Sweep};
use crate::{
    kernel::{
        cgroupfs::hierarchies::Hierarchies,
        events::{Malformed, Record},
        mapped::MappedArray,
        missed::MissedRuns,
    },
    signal::{Layout, Loss, Row},
};

/// The collector at work.
pub struct Oom {
    layout: Arc<Layout>,
    hierarchies: Hierarchies,
    marks: Marks,
    judge: Judge,
    stories: Stories,
    /// Kills by scope, of cgroups that had some; under key 0, which no cgroup has, those of nobody knows whom.
    kills: HashMap<CgroupKey, [u64; OomScope::COUNT], RandomState>,
    recount: Recount,
    untold: u64,
    /// The present cgroup's row.
    found: Row,
}

/// Marks of victims: what the programs have counted, and what has come.
struct Marks {
    counted: MappedArray<u64>,
    /// Those for which the kernel has left the program out, and how many were known at the last sweep.
    left_out: MissedRuns,
    left_out_before: u64,
    /// The number of the last one that came, and how many did not come before it.
    last: u64,
    missing: u64,
    /// What was counted at the last sweep: by the next one, those have come that will.
    at_sweep: u64,
}

/// Reading what the kernel's files have counted, where a record was lost.
enum Recount {
    /// None is needed.
    Idle,
    /// A thread reads.
    Reading(mpsc::Receiver<Counts>),
    /// It was read during the last sweep: records of kills that it has counted have come by now.
    Read(Counts),
}

impl Oom {
    /// A collector that counts from now on.
    #[must_use]
    pub fn new(layout: Arc<Layout>, hierarchies: Hierarchies, marks: MappedArray<u64>, left_out: MissedRuns) -> Self {
        let mut judge = Judge::default();
        let counts = Counts::read(&hierarchies);
        for count in &counts.cgroups {
            judge.begin(count.id, count.ooms, count.kills);
        }
        if counts.complete {
            judge.complete();
        }
        let stories = Stories::new(u64::try_from(page_size()).unwrap_or(4096));
        let found = layout.row();
        let left_out_before = left_out.count();
        let marks = Marks { counted: marks, left_out, left_out_before, last: 0, missing: 0, at_sweep: 0 };
        Self {
            layout,
            hierarchies,
            marks,
            judge,
            stories,
            kills: HashMap::default(),
            recount: Recount::Idle,
            untold: 0,
            found,
        }
    }

    fn count(&mut self, key: CgroupKey, scope: OomScope, kills: u64) {
        if kills > 0
            && let Some(count) = self.kills.entry(key).or_default().get_mut(scope.index())
        {
            *count += kills;
        }
    }

    /// Kills of a cgroup that are known by the kernel's count alone.
    fn count_untold(&mut self, key: CgroupKey, kills: u64) {
        self.untold += kills;
        self.count(key, OomScope::Other, kills);
    }

    fn marked(&mut self, record: &Record, victim: &Victim) {
        self.marks.came(victim.mark);
        let ruling = self.judge.judge(victim, record.at_ns);
        self.count_untold(record.key, ruling.untold);
        if let Some(kill) = ruling.kill {
            self.count(record.key, kill.scope, 1);
            self.stories.enter(record.key, record.at_ns, victim, kill);
        }
    }

    fn last_words(&mut self, record: &Record, words: LastWords) {
        let untold = self.judge.untold(words.id, words.kills);
        self.judge.forget(words.id);
        // A tree of its own has no keys, and its cgroup may be removed after the one that has.
        self.count_untold(record.key, untold);
    }

    /// Reads what the kernel's files have counted, if a record was lost, and takes what was read. Not on this thread: it may
    /// take long.
    fn make_good(&mut self) {
        if let Recount::Idle = self.recount
            && self.marks.take_missing()
        {
            let (sender, receiver) = mpsc::channel();
            let hierarchies = self.hierarchies.clone();
            // Without a thread it is tried again when the next record is lost.
            let started = thread::Builder::new().name("oom-recount".to_owned()).spawn(move || {
                // Nobody takes it where the collector has ended.
                let _ = sender.send(Counts::read(&hierarchies));
            });
            if started.is_ok() {
                self.recount = Recount::Reading(receiver);
            }
            return;
        }
        self.recount = match mem::replace(&mut self.recount, Recount::Idle) {
            Recount::Idle => Recount::Idle,
            Recount::Reading(receiver) => match receiver.try_recv() {
                Ok(counts) => Recount::Read(counts),
                Err(mpsc::TryRecvError::Empty) => Recount::Reading(receiver),
                Err(mpsc::TryRecvError::Disconnected) => Recount::Idle,
            },
            Recount::Read(counts) => {
                for count in counts.cgroups {
                    let untold = self.judge.untold(count.id, count.kills);
                    self.count_untold(count.key, untold);
                }
                Recount::Idle
            }
        };
    }
}

impl Collector for Oom {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        // From 0 on, so that the first kill is seen as an increase.
        self.found.clear();
        self.found.add_all(&self.layout, &metrics::OOM_KILLS, &[0; OomScope::COUNT]);
        for (number, _) in sweep.wanted.iter().filter(|(number, _)| *number != SLOT_KERNEL) {
            readings.slot(number, &self.found);
        }
        if !sweep.whole {
            return;
        }
        self.make_good();
        for (key, kills) in &self.kills {
            self.found.clear();
            self.found.add_all(&self.layout, &metrics::OOM_KILLS, kills);
            readings.cgroup(*key, &self.found);
        }
    }

    fn event(&mut self, record: &Record) -> Result<Option<Noticed>, Malformed> {
        if record.kind == LAST_WORDS {
            self.last_words(record, record.body()?);
        } else {
            self.marked(record, &record.body()?);
        }
        Ok(None)
    }

    fn held_back(&mut self, now_ns: u64) -> Vec<HeldBack> {
        self.stories.take(now_ns)
    }

    fn removed(&mut self, key: CgroupKey) -> Option<Row> {
        // Where memory is counted in the tree that has the keys, its ids are theirs.
        if key & KEY_V1 == 0 && self.hierarchies.v1("memory").is_none() {
            self.judge.forget(key);
        }
        let kills = self.kills.remove(&key)?;
        let mut row = self.layout.row();
        row.add_all(&self.layout, &metrics::OOM_KILLS, &kills);
        Some(row)
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        vec![(&start::UNTOLD, self.untold)]
    }
}

impl Marks {
    fn came(&mut self, number: u64) {
        self.missing += number.saturating_sub(self.last + 1);
        self.last = self.last.max(number);
    }

    /// Some did not come.
    fn take_missing(&mut self) -> bool {
        let due = mem::replace(&mut self.at_sweep, self.counted.get(0).unwrap_or(0));
        if due > self.last {
            self.missing += due - self.last;
            self.last = due;
        }
        let left_out = self.left_out.count();
        self.missing += left_out.saturating_sub(mem::replace(&mut self.left_out_before, left_out));
        mem::take(&mut self.missing) > 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::{
        fs,
        os::{fd::AsFd as _, unix::fs::MetadataExt as _},
        time::{Duration, Instant},
    };

    use podlens_common::oom::{Level, VICTIM};

    use super::*;
    use crate::{collectors::SlotsInUse, signal::Metric};

    /// A collector on a node with one container, in which there was one kill before the start.
    struct Node {
        root: tempfile::TempDir,
        key: CgroupKey,
        oom: Oom,
    }

    impl Node {
        fn start() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::write(root.path().join("cgroup.controllers"), "memory\n").unwrap();
            let directory = root.path().join("one");
            fs::create_dir(&directory).unwrap();
            let key = fs::metadata(&directory).unwrap().ino();
            fs::write(directory.join("memory.events.local"), "oom 1\noom_kill 1\n").unwrap();
            let file = tempfile::tempfile().unwrap();
            file.set_len(8).unwrap();
            let marks = MappedArray::new(file.as_fd(), 1, 8).unwrap();
            let hierarchies = Hierarchies::find(root.path()).unwrap();
            let oom = Oom::new(Arc::new(Layout::new(SPEC.metrics)), hierarchies, marks, MissedRuns::default());
            Self { root, key, oom }
        }

        /// The kernel has counted so many kills.
        fn count(&self, kills: u64) {
            let text = format!("oom {kills}\noom_kill {kills}\n");
            fs::write(self.root.path().join("one/memory.events.local"), text).unwrap();
        }

        fn event(&mut self, kind: u32, body: &[u8]) {
            let mut event = Vec::new();
            event.extend(kind.to_ne_bytes());
            event.extend(u32::try_from(24 + body.len()).unwrap().to_ne_bytes());
            event.extend(self.key.to_ne_bytes());
            event.extend(7_u64.to_ne_bytes());
            event.extend(body);
            assert_eq!(self.oom.event(&Record::decode(&event).unwrap()), Ok(None));
        }

        fn mark(&mut self, mark: u64, kills: u64) {
            let own = Level { id: self.key, usage_pages: 100, limit_pages: 100, ooms: kills };
            let mut victim = Victim { mark, process: u32::try_from(mark).unwrap(), kills, ..Victim::default() };
            (victim.level_count, victim.levels[0]) = (1, own);
            self.event(VICTIM, bytemuck::bytes_of(&victim));
        }

        /// Kills by scope, as a sweep tells them.
        fn sweep(&mut self) -> Option<Vec<u64>> {
            /// What was told of cgroups.
            struct Told(Vec<(CgroupKey, Row)>);
            impl Readings for Told {
                fn slot(&mut self, _: u32, _: &Row) {}
                fn cgroup(&mut self, key: CgroupKey, row: &Row) {
                    self.0.push((key, row.clone()));
                }
                fn caused(&mut self, _: &'static Metric, _: u32, _: u32, _: u64) {}
            }
            let (none, mut told) = (SlotsInUse::default(), Told(Vec::new()));
            self.oom.read(
                &Sweep { wanted: &none, in_use: &none, generation: &|_| None, expired: &none, whole: true },
                &mut told,
            );
            assert!(told.0.iter().all(|(key, _)| *key == self.key), "{:?}", told.0);
            told.0.pop().map(|(_, row)| row.cells)
        }
    }

    #[test]
    fn a_kill_whose_record_is_lost_counts_when_the_kernels_files_have_been_read() {
        let mut node = Node::start();
        assert_eq!(node.sweep(), None);
        node.mark(1, 2);
        node.oom.marks.counted.set(0, 3);
        node.count(4);
        assert_eq!(node.sweep(), Some(vec![1, 0, 0, 0, 0]), "the records may come yet");
        let began = Instant::now();
        while node.sweep() != Some(vec![1, 0, 0, 0, 2]) {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", node.sweep());
            thread::sleep(Duration::from_millis(1));
        }
        node.mark(4, 5);
        assert_eq!(node.sweep(), Some(vec![2, 0, 0, 0, 2]));
        assert_eq!(node.oom.lost(), [(&start::UNTOLD, 2)]);
    }

    #[test]
    fn last_words_tell_kills_whose_record_was_lost_and_a_removal_has_all() {
        let mut node = Node::start();
        node.mark(1, 2);
        node.event(LAST_WORDS, bytemuck::bytes_of(&LastWords { id: node.key, kills: 3 }));
        let row = node.oom.removed(node.key).unwrap();
        assert_eq!(row.cells, [1, 0, 0, 0, 1]);
        assert_eq!(node.oom.lost(), [(&start::UNTOLD, 1)]);
        assert_eq!((node.sweep(), node.oom.removed(node.key)), (None, None));
    }
}
