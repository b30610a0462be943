//! Collector `pressure`: for how long tasks of each cgroup stalled for want of CPU, memory or a disk, as the kernel counts it
//! (PSI).
//!
//! The kernel counts by cgroup of the version 2 tree alone, whatever hierarchy limits a resource. A walk of the kernel programs
//! through that tree reads its totals at most every 10 s; where there is no walk the files are read. The rest up to a cgroup's end
//! comes as an event before the removal.

mod files;
pub mod metrics;
mod start;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use podlens_common::{
    cgroup::{CgroupKey, KEY_V1},
    pressure::{PressureRecord, Resource, STATES, Stall, Stalls},
};

pub use self::start::SPEC;
use self::{files::PressureFiles, metrics::COMBINATIONS};
use super::{
    Collector, EntityCgroup, Noticed, Readings, SlotsInUse, Spec, Sweep,
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

/// Least time between two walks, unless there is a new cgroup.
const WALK_INTERVAL: Duration = Duration::from_secs(10);

/// Nanoseconds by resource and stall; none for what the kernel does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals([Option<u64>; COMBINATIONS]);

/// The kernel's number of the state that is a resource's stall; none where it does not count it.
#[derive(Clone, Copy, Debug)]
pub(super) struct States([Option<usize>; COMBINATIONS]);

/// Where the totals come from.
pub(super) enum Reader {
    /// The walk.
    Walk(TreeReader<PressureRecord>),
    /// The files.
    Files(FileReader),
    /// Nobody counts.
    Nobody,
}

/// The collector at work.
pub struct Pressure {
    hierarchies: Hierarchies,
    layout: Arc<Layout>,
    reader: Reader,
    states: States,
    watched: HashMap<CgroupKey, Watched, RandomState>,
    walks: WalkSchedule,
    stale: u64,
}

struct Watched {
    since: Instant,
    /// Where its files are read.
    files: Option<Watch<Totals>>,
    /// The last walk has met it, or its files are read.
    is_met: bool,
    missed: u32,
    /// Its values; they only rise.
    row: Row,
}

impl Pressure {
    pub(super) fn new(layout: Arc<Layout>, hierarchies: Hierarchies, reader: Reader, states: States) -> Self {
        let (watched, walks) = (HashMap::default(), WalkSchedule::every(WALK_INTERVAL));
        Self { hierarchies, layout, reader, states, watched, walks, stale: 0 }
    }

    /// Walks through the tree.
    fn walk_through(&mut self, now: Instant) {
        let Reader::Walk(walk) = &self.reader else { return };
        self.walks.begin(now);
        let watched = &self.watched;
        let found = walk.walk(Vec::new, |found: &mut Vec<PressureRecord>, record| {
            if watched.contains_key(&record.id) {
                found.push(*record);
            }
        });
        let Some(found) = found else {
            self.walks.lose();
            return;
        };
        for watched in self.watched.values_mut() {
            watched.is_met = false;
            watched.missed += 1;
        }
        for PressureRecord { id, stalls } in found {
            let Some(watched) = self.watched.get_mut(&id) else { continue };
            watched.is_met = true;
            watched.missed = 0;
            watched.raise(&self.layout, &self.states.totals(&stalls));
        }
    }
}

impl Collector for Pressure {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn born(&mut self, cgroup: EntityCgroup<'_>) {
        let EntityCgroup { key, path, subtree } = cgroup;
        // The stalls of a cgroup that holds other entities' are theirs.
        let is_counted = key & KEY_V1 == 0 && subtree == Subtree::Own && !matches!(self.reader, Reader::Nobody);
        if !is_counted || self.watched.contains_key(&key) {
            return;
        }
        let files = match (&self.reader, self.hierarchies.v2()) {
            (Reader::Files(reader), Some(tree)) => Some(reader.watch(PressureFiles::of(reader, &tree.directory(path)))),
            _ => None,
        };
        let (since, is_met, row) = (Instant::now(), files.is_some(), self.layout.row());
        self.watched.insert(key, Watched { since, files, is_met, missed: 0, row });
    }

    fn walk_is_due(&self, now: Instant) -> bool {
        let unmet = self.watched.values().filter(|watched| !watched.is_met).map(|watched| watched.missed);
        matches!(self.reader, Reader::Walk(_)) && self.walks.is_due(now, unmet)
    }

    fn walk(&mut self, now: Instant, _: &SlotsInUse) {
        self.walk_through(now);
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        if !sweep.whole {
            return;
        }
        let now = Instant::now();
        if let Reader::Files(reader) = &self.reader {
            reader.taken(now);
        }
        for (key, watched) in &mut self.watched {
            self.stale += u64::from(watched.take_files(&self.layout, now));
            if watched.is_met {
                readings.cgroup(*key, &watched.row);
            }
        }
    }

    fn event(&mut self, record: &Record) -> Result<Option<Noticed>, Malformed> {
        let stalls: Stalls = record.body()?;
        if let Some(watched) = self.watched.get_mut(&record.key) {
            watched.raise(&self.layout, &self.states.totals(&stalls));
        }
        Ok(None)
    }

    fn removed(&mut self, key: CgroupKey) -> Option<Row> {
        let mut watched = self.watched.remove(&key)?;
        watched.take_files(&self.layout, Instant::now());
        Some(watched.row)
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        vec![(&start::WALK_UNFINISHED, self.walks.unfinished()), (&start::LATE_FILE, self.stale)]
    }
}

impl Watched {
    /// Takes what its files said last, where they are read; tells whether that is too old.
    fn take_files(&mut self, layout: &Layout, now: Instant) -> bool {
        let Some(files) = &self.files else { return false };
        let reading = files.last();
        if let Some(reading) = reading {
            self.raise(layout, &reading.value);
        }
        now.saturating_duration_since(reading.map_or(self.since, |reading| reading.at)) > STALE_AFTER
    }

    fn raise(&mut self, layout: &Layout, totals: &Totals) {
        if totals.0.iter().all(Option::is_none) {
            return;
        }
        let mut row = layout.row();
        row.add_all(layout, &metrics::PRESSURE, &totals.0.map(Option::unwrap_or_default));
        self.row.at_least(&row);
    }
}

impl States {
    /// The states by the kernel's names, whose numbers `of` tells.
    pub(super) fn new(of: impl Fn(&str) -> Option<i64>) -> Self {
        let kernel_name = |resource| match resource {
            Resource::Cpu => "CPU",
            Resource::Memory => "MEM",
            Resource::Io => "IO",
            Resource::Irq => "IRQ",
        };
        let names = Resource::ALL.into_iter().flat_map(|resource| {
            Stall::NAMES.map(|stall| format!("PSI_{}_{}", kernel_name(resource), stall.to_uppercase()))
        });
        let mut states = [None; COMBINATIONS];
        for (state, name) in states.iter_mut().zip(names) {
            *state = of(&name).and_then(|number| usize::try_from(number).ok()).filter(|number| *number < STATES);
        }
        Self(states)
    }

    fn totals(&self, stalls: &Stalls) -> Totals {
        Totals(self.0.map(|state| stalls.ns.get(state?).copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_those_that_the_kernel_names() {
        let names = ["PSI_IO_SOME", "PSI_IO_FULL", "PSI_MEM_SOME", "PSI_MEM_FULL", "PSI_CPU_SOME", "PSI_NONIDLE"];
        let states = States::new(|name| names.iter().zip(0..).find(|(known, _)| **known == name).map(|(_, at)| at));
        let totals = states.totals(&Stalls { ns: [1, 2, 3, 4, 5, 6, 7, 8] });
        assert_eq!(totals.0, [Some(5), None, Some(3), Some(4), Some(1), Some(2), None, None]);
    }
}
