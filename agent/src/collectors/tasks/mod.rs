//! Collector `tasks`: how many tasks each cgroup has by state, and processes that began and ended in it.
//!
//! Processes are counted by slot. Tasks are counted by a walk through all of them, by the cgroup's key: a cgroup
//! whose tasks only sleep needs no slot for that.

pub mod metrics;
mod start;

use std::{
    collections::{HashMap, HashSet},
    iter,
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use podlens_common::{
    cgroup::{CgroupKey, SLOT_KERNEL, SLOT_ROOT, SLOT_UNATTRIBUTED},
    tasks::{KEY_KERNEL, KEY_ROOT, Processes, TaskRecord, TaskState, TaskWalk},
};

pub use self::start::{ProcessMaps, SPEC, WalkMaps};
use super::{Collector, Readings, SlotsInUse, Spec, Sweep, tree::WalkSchedule};
use crate::signal::{Layout, Loss, Row};

/// Least time between two walks: one costs in proportion to the node's tasks, not to its pods.
const WALK_INTERVAL: Duration = Duration::from_secs(10);
/// Runs of the program in one walk, of 512 tasks or processes each: 131,072 at most.
const RUNS: u64 = 256;
/// Walks that are begun, one after the other, if what one had to go on from has gone.
const WALKS: u32 = 3;

/// The collector at work.
pub struct Tasks {
    layout: Arc<Layout>,
    processes: Option<ProcessMaps>,
    walk: Option<WalkMaps>,
    walks: WalkSchedule,
    walked: Walked,
    /// The present cgroup's row.
    found: Row,
}

/// What the last walk has found.
#[derive(Debug, Default)]
struct Walked {
    /// It came to its end: only then is what it did not meet known to be nothing.
    finished: bool,
    tasks: HashMap<CgroupKey, [u64; TaskState::COUNT], RandomState>,
    /// Tasks that had to be left without a key.
    unrecorded: [u64; TaskState::COUNT],
    /// Cgroups that held a slot before it began.
    held: HashSet<CgroupKey, RandomState>,
}

impl Tasks {
    /// A collector over what of its two parts works here.
    #[must_use]
    pub fn new(layout: Arc<Layout>, processes: Option<ProcessMaps>, walk: Option<WalkMaps>) -> Self {
        let found = layout.row();
        let (walks, walked) = (WalkSchedule::every(WALK_INTERVAL), Walked::default());
        Self { layout, processes, walk, walks, walked, found }
    }

    /// Fills the row with what there is of a slot.
    fn find(&mut self, number: u32, key: CgroupKey) {
        let Self { layout, processes, walked, found, .. } = self;
        found.clear();
        let entry = usize::try_from(number).ok();
        if let Some(processes) = processes.as_ref().zip(entry).and_then(|(all, entry)| all.counts.get(entry)) {
            found.add(layout, &metrics::CREATED, 0, processes.created);
            found.add(layout, &metrics::EXITED, 0, processes.exited);
        }
        if let Some(tasks) = walked.of_slot(number, key) {
            found.add_all(layout, &metrics::TASKS, &tasks);
        }
    }

    /// Walks through all tasks.
    fn walk_through(&mut self, now: Instant, in_use: &SlotsInUse) {
        let Some(walk) = &self.walk else { return };
        let held = in_use.iter().map(|(_, slot)| slot.key).collect();
        self.walks.begin(now);
        self.walked = Walked { held, ..Walked::default() };
        let result = (0..WALKS).map(|_| walk_round(walk)).find(|result| result.finished == 1).unwrap_or_default();
        if result.finished == 1 {
            let records = (0..usize::try_from(result.records).unwrap_or(0)).filter_map(|at| walk.records.get(at));
            self.walked.fill(records, &result);
        } else {
            self.walks.lose();
        }
    }

    /// Tells the tasks of cgroups that hold no slot.
    fn read_without_slot(&mut self, in_use: &SlotsInUse, readings: &mut dyn Readings) {
        let told = in_use.iter().map(|(_, slot)| slot.key).chain([KEY_KERNEL, KEY_ROOT]);
        let told: HashSet<CgroupKey, RandomState> = told.collect();
        for (key, tasks) in self.walked.tasks.iter().filter(|(key, _)| !told.contains(*key)) {
            self.found.clear();
            self.found.add_all(&self.layout, &metrics::TASKS, tasks);
            readings.cgroup(*key, &self.found);
        }
    }
}

impl Collector for Tasks {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn walk_is_due(&self, now: Instant) -> bool {
        self.walk.is_some() && self.walks.is_due(now, iter::empty())
    }

    fn walk(&mut self, now: Instant, in_use: &SlotsInUse) {
        self.walk_through(now, in_use);
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        for (number, slot) in sweep.wanted.iter().filter(|(_, slot)| slot.is_of_tasks()) {
            self.find(number, slot.key);
            readings.slot(number, &self.found);
        }
        if sweep.whole {
            self.read_without_slot(sweep.in_use, readings);
        }
    }

    fn clear(&mut self, slot: u32) {
        if let (Some(processes), Ok(entry)) = (&self.processes, usize::try_from(slot)) {
            processes.counts.set(entry, Processes::default());
        }
    }

    fn removed(&mut self, key: CgroupKey) -> Option<Row> {
        self.walked.tasks.remove(&key);
        None
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        let missed = self.processes.as_ref().map_or(0, |processes| processes.missed.count());
        vec![(&start::WALK_UNFINISHED, self.walks.unfinished()), (&start::MISSED_PROCESS, missed)]
    }
}

/// Runs the program until the walk has come round, or cannot.
fn walk_round(walk: &WalkMaps) -> TaskWalk {
    walk.result.set(0, TaskWalk::default());
    loop {
        let before = walk.result.get(0).unwrap_or_default();
        let Ok(()) = walk.iterator.run() else { return TaskWalk::default() };
        let after = walk.result.get(0).unwrap_or_default();
        let goes_on = after.runs > before.runs && after.runs < RUNS && after.lost == 0;
        if after.finished == 1 || !goes_on {
            return after;
        }
    }
}

impl Walked {
    fn fill(&mut self, records: impl Iterator<Item = TaskRecord>, result: &TaskWalk) {
        self.finished = true;
        self.unrecorded = result.unrecorded.map(u64::from);
        for record in records {
            let sums = self.tasks.entry(record.key).or_default();
            for (sum, tasks) in sums.iter_mut().zip(record.tasks) {
                *sum += u64::from(tasks);
            }
        }
    }

    /// The tasks of a slot's holder; none if the walk cannot tell, since the cgroup came after it.
    fn of_slot(&self, number: u32, key: CgroupKey) -> Option<[u64; TaskState::COUNT]> {
        if !self.finished {
            return None;
        }
        let of = |key| self.tasks.get(&key).copied();
        match number {
            SLOT_UNATTRIBUTED => Some(self.unrecorded),
            SLOT_KERNEL => Some(of(KEY_KERNEL).unwrap_or_default()),
            SLOT_ROOT => Some(of(KEY_ROOT).unwrap_or_default()),
            _ => of(key).or_else(|| self.held.contains(&key).then_some([0; TaskState::COUNT])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: CgroupKey = 77;

    fn record(key: CgroupKey, tasks: [u32; TaskState::COUNT]) -> TaskRecord {
        TaskRecord { key, tasks }
    }

    #[track_caller]
    fn check(walked: &Walked, number: u32, key: CgroupKey, expected: Option<[u64; TaskState::COUNT]>) {
        assert_eq!(walked.of_slot(number, key), expected);
    }

    #[test]
    fn records_of_one_cgroup_are_added_up_and_the_rest_is_unattributed() {
        let mut walked = Walked::default();
        let records = [record(POD, [1, 0, 2, 0]), record(KEY_KERNEL, [0, 0, 9, 1]), record(POD, [0, 3, 1, 0])];
        walked.fill(
            records.into_iter(),
            &TaskWalk { finished: 1, records: 3, unrecorded: [0, 0, 5, 0], ..TaskWalk::default() },
        );
        check(&walked, 9, POD, Some([1, 3, 3, 0]));
        check(&walked, SLOT_KERNEL, 0, Some([0, 0, 9, 1]));
        check(&walked, SLOT_ROOT, 0, Some([0; TaskState::COUNT]));
        check(&walked, SLOT_UNATTRIBUTED, 0, Some([0, 0, 5, 0]));
    }

    #[test]
    fn what_came_after_the_walk_is_not_known_and_what_was_there_has_none() {
        let mut walked = Walked { held: HashSet::from_iter([POD]), ..Walked::default() };
        check(&walked, 9, POD, None);
        walked.fill(iter::empty(), &TaskWalk { finished: 1, ..TaskWalk::default() });
        check(&walked, 9, POD, Some([0; TaskState::COUNT]));
        check(&walked, 10, POD + 1, None);
    }
}
