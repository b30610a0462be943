//! Collector `memory`: what each cgroup uses, by type; its limits, and what happened at them; faults.
//!
//! A walk of the kernel programs through the memory controller's tree tells of the topmost cgroup of each entity what the kernel
//! counts exactly, at most every 10 s. Its other statistics are read from memory.stat (files.rs), until it is known which word of
//! the kernel's is which line of that (learn.rs). Where there is no walk, all comes from files.
//!
//! The memory controller may have a tree of its own (version 1), whose cgroups have other ids than those that podlens knows them
//! by. There a cgroup is found by its path, which is the same in all trees, and its last words may come after its removal is told.

mod figures;
mod files;
mod learn;
pub mod metrics;
mod start;

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use podlens_common::{
    cgroup::{CgroupKey, KEY_MARKS, KEY_V1},
    memory::{EndWords, LAST_WORDS_V1, MemoryEnd, MemoryEndAt, MemoryEvent, MemoryRecord, NODES},
};

pub use self::start::SPEC;
use self::{
    figures::{Figures, Machine, MinorFaults, Used},
    files::{MemoryFiles, Said},
    learn::{ALL_UNKNOWN, Learner},
};
use super::{
    Collector, EntityCgroup, Noticed, Readings, SlotsInUse, Spec, Sweep,
    apart::{Ids, Leaving},
    subtrees::{Found, Subtrees},
    tree::{TreeReader, WalkSchedule},
};
use crate::{
    kernel::{
        cgroupfs::{
            files::{FileReader, Watch},
            hierarchies::Hierarchies,
        },
        events::{Malformed, Record},
        mapped::MappedArray,
    },
    signal::{Layout, Loss, Row, Subtree},
};

/// Least time between two walks, unless there is a new cgroup.
const WALK_INTERVAL: Duration = Duration::from_secs(10);
/// A value that is older was not read in its turn: memory.stat is read every 30 s, or as seldom as every 5 min.
const STALE_AFTER: Duration = Duration::from_secs(330);

/// The collector at work.
pub struct Memory {
    hierarchies: Hierarchies,
    reader: FileReader,
    layout: Arc<Layout>,
    machine: Machine,
    programs: Programs,
    learner: Learner,
    /// What of memory.stat the learner does not know yet.
    unknown: Arc<AtomicU32>,
    /// Each in memory of its own: half of a table is empty.
    watched: HashMap<CgroupKey, Box<Watched>, RandomState>,
    /// Whose cgroup of the memory tree it is.
    ids: Ids,
    leaving: Leaving<Box<Watched>>,
    /// Paths of those that are watched by their version 2 cgroup beside a version 1 CPU hierarchy.
    stand_ins: HashSet<Box<str>, RandomState>,
    walks: WalkSchedule,
    stale: u64,
    /// Tells by one number whether a cgroup's statistics are others than before.
    hash: RandomState,
    /// The walk reads statistics: some were not 0.
    has_words: bool,
    /// The present cgroup's row.
    found: Row,
}

/// What of the kernel programs works here.
#[derive(Default)]
struct Programs {
    walk: Option<TreeReader<MemoryRecord>>,
    /// Where last words find their statistics; none where there are no last words.
    ends: Option<MappedArray<EndWords>>,
}

struct Watched {
    path: Box<str>,
    subtree: Subtree,
    since: Instant,
    files: Watch<Said>,
    /// What the last walk that met it found, as a hash, and how often that was something else.
    statistics: u64,
    changes: Arc<AtomicU32>,
    /// Its id in the memory tree, once it has one.
    id: Option<u64>,
    /// What the last walk found; none if it did not meet it.
    walked: Option<Figures>,
    /// Walks that did not meet it, since one did.
    missed: u32,
    /// Some walk has met it: it has been in the memory tree.
    was_met: bool,
    /// When it was read and when it was walked, of what is in `row`.
    booked: (Option<Instant>, Option<Instant>),
    /// The reading that was compared with words.
    compared: Option<Instant>,
    minor_faults: MinorFaults,
    /// Its values as of then; counters only rise.
    row: Row,
    /// It has left the memory tree since, and so may begin anew.
    has_left: bool,
    /// What had been counted by then, if it did.
    before: Option<Row>,
    end: Option<Box<MemoryEnd>>,
}

impl Memory {
    fn new(
        layout: Arc<Layout>,
        hierarchies: Hierarchies,
        reader: FileReader,
        machine: Machine,
        programs: Programs,
    ) -> Self {
        let found = layout.row();
        Self {
            hierarchies,
            reader,
            layout,
            machine,
            programs,
            learner: Learner::new(machine),
            unknown: Arc::new(AtomicU32::new(ALL_UNKNOWN)),
            watched: HashMap::default(),
            ids: Ids::default(),
            leaving: Leaving::default(),
            stand_ins: HashSet::default(),
            walks: WalkSchedule::every(WALK_INTERVAL),
            stale: 0,
            hash: RandomState::default(),
            has_words: false,
            found,
        }
    }

    /// This cgroup is watched: of one that is in several trees the one with the CPU controller, or else the one in version 2, as of a
    /// unit that has no accounting of its CPU time.
    fn is_for(&mut self, key: CgroupKey, path: &str) -> bool {
        let Some(keyed) = self.hierarchies.keyed_v1() else { return key & KEY_V1 == 0 };
        if key & KEY_V1 != 0 {
            return !self.stand_ins.contains(path);
        }
        let stands_in = self.machine.is_v1 && key & KEY_MARKS == 0 && !keyed.directory(path).exists();
        stands_in && self.stand_ins.insert(path.into())
    }

    /// The memory tree is that of the keys: ids are keys.
    fn is_keyed(&self) -> bool {
        !self.machine.is_v1 && self.hierarchies.keyed_v1().is_none()
    }

    /// The memory tree is that of version 2 beside the one whose keys are watched: both tell of their cgroups.
    fn has_ids_of_its_own(&self) -> bool {
        !self.machine.is_v1 && self.hierarchies.keyed_v1().is_some()
    }

    /// Takes note of the ids that have become known.
    fn take_ids(&mut self) {
        for (key, watched) in self.watched.iter_mut().filter(|(_, watched)| watched.id.is_none()) {
            watched.id = watched.files.last().and_then(|reading| reading.value.id);
            if let Some(id) = watched.id {
                self.ids.learn(*key, id);
            }
        }
    }

    /// Walks through the tree.
    fn walk_through(&mut self, now: Instant) {
        let Some(walk) = &self.programs.walk else { return };
        self.walks.begin(now);
        let ids = &self.ids;
        let done = walk.walk(Subtrees::new, |met, record| {
            met.take(record.depth, record.lists, ids.of(record.id).map(|key| (key, record)));
        });
        let Some(done) = done.map(Subtrees::finish) else {
            self.walks.lose();
            return;
        };
        let has_lists = walk.nodes() <= NODES;
        for watched in self.watched.values_mut() {
            watched.walked = None;
            watched.missed += 1;
        }
        // Those that are found, with all below, and what of it is other entities'.
        let mut figures: Vec<(Figures, Used)> = Vec::with_capacity(done.found.len());
        for Found { record, sums, above, .. } in &done.found {
            let exact = Figures::of_record(record, has_lists.then_some(sums), self.machine);
            let known = exact.or(&self.learner.figures(&record.words));
            if let Some((_, below)) = above.and_then(|above| figures.get_mut(above)) {
                below.add(&known);
            }
            figures.push((known, Used::default()));
        }
        for (Found { key, record, sums: lists, .. }, (known, below)) in done.found.iter().zip(figures) {
            let Some(watched) = self.watched.get_mut(key) else { continue };
            // Some kernels do not let them be read.
            self.has_words |= record.words.iter().any(|word| *word != 0);
            if self.has_words {
                watched.compare(self.hash.hash_one((record.words, lists)));
            }
            let is_new = watched.files.read_at().is_some_and(|at| watched.compared != Some(at));
            if is_new && let Some(reading) = watched.files.last() {
                watched.compared = Some(reading.at);
                self.learner.compare(&record.words, &reading.value.figures);
            }
            watched.walked = Some(known.less(&below));
            (watched.missed, watched.was_met) = (0, true);
        }
        self.look_anew();
        self.learner.walked();
        if let Some(ends) = &self.programs.ends {
            ends.set(0, self.learner.end_words());
        }
        self.unknown.store(self.learner.unknown(), Ordering::Relaxed);
    }

    /// Has its files read.
    fn files(&self, path: &str, changes: &Arc<AtomicU32>) -> Option<Watch<Said>> {
        let directory = self.hierarchies.of("memory")?.directory(path);
        let unknown = Arc::clone(&self.unknown);
        let alone = self.programs.walk.is_none();
        let changes = Arc::clone(changes);
        let files = MemoryFiles::of(&self.reader, directory, self.machine.is_v1, alone, unknown, changes);
        Some(self.reader.watch(files))
    }

    /// What the walk meets no more has left the memory tree, since the controller was switched off for it (version 2) or its
    /// directory there was removed (version 1). It may come back, in version 1 with another id.
    fn look_anew(&mut self) {
        let mut left = Vec::new();
        for (key, watched) in &mut self.watched {
            if watched.was_met && watched.walked.is_none() {
                watched.was_met = false;
                left.push((*key, watched.path.clone()));
            }
        }
        let is_keyed = self.is_keyed();
        for (key, path) in left {
            let changes = Arc::default();
            let Some(files) = self.files(&path, &changes) else { continue };
            let Some(watched) = self.watched.get_mut(&key) else { continue };
            (watched.files, watched.changes) = (files, changes);
            if let Some(id) = watched.id.take_if(|_| !is_keyed) {
                self.ids.forget(key, Some(id));
                watched.id = self.ids.add(key, &path);
            }
        }
    }

    /// Last words, and whose they are.
    fn last_words(&self, record: &Record) -> Result<(Option<CgroupKey>, MemoryEnd), Malformed> {
        if record.kind != LAST_WORDS_V1 {
            return Ok((self.ids.of(record.key), record.body()?));
        }
        let MemoryEndAt { end, path } = record.body()?;
        let tree = self.hierarchies.of("memory");
        Ok((tree.and_then(|tree| self.ids.of_end(record.key, &path, tree)), end))
    }
}

impl Collector for Memory {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn born(&mut self, cgroup: EntityCgroup<'_>) {
        let EntityCgroup { key, path, subtree } = cgroup;
        if self.has_ids_of_its_own()
            && key & KEY_MARKS == 0
            && let Some(whose) = self.ids.tell(path, key)
            && let Some(watched) = self.watched.get_mut(&whose)
        {
            watched.id = Some(key);
        }
        if self.watched.contains_key(&key) || !self.is_for(key, path) {
            return;
        }
        let changes = Arc::default();
        let Some(files) = self.files(path, &changes) else { return };
        let id = if self.is_keyed() {
            self.ids.learn(key, key);
            Some(key)
        } else {
            self.ids.add(key, path)
        };
        let watched = Watched {
            path: path.into(),
            subtree,
            since: Instant::now(),
            files,
            statistics: 0,
            changes,
            id,
            walked: None,
            missed: 0,
            was_met: false,
            booked: (None, None),
            compared: None,
            minor_faults: MinorFaults::default(),
            row: self.layout.row(),
            has_left: false,
            before: None,
            end: None,
        };
        self.watched.insert(key, Box::new(watched));
    }

    fn walk_is_due(&self, now: Instant) -> bool {
        let unmet = self.watched.values().filter(|watched| watched.has_id() && watched.walked.is_none());
        self.programs.walk.is_some() && self.walks.is_due(now, unmet.map(|watched| watched.missed))
    }

    fn walk(&mut self, now: Instant, _: &SlotsInUse) {
        self.take_ids();
        self.walk_through(now);
    }

    fn read(&mut self, sweep: &Sweep<'_>, readings: &mut dyn Readings) {
        if !sweep.whole {
            return;
        }
        let now = Instant::now();
        self.reader.taken(now);
        self.take_ids();
        for (key, watched) in &mut self.watched {
            let read = watched.take(self.walks.last(), &self.layout, &mut self.found);
            if watched.is_away() {
                watched.row.remove_gauges(&self.layout);
                watched.has_left = true;
            }
            self.stale += u64::from(now.saturating_duration_since(read.unwrap_or(watched.since)) > STALE_AFTER);
            readings.cgroup(*key, &watched.row);
        }
        for (key, watched) in self.leaving.iter() {
            readings.cgroup(key, &watched.row);
        }
    }

    fn event(&mut self, record: &Record) -> Result<Option<Noticed>, Malformed> {
        let (key, end) = self.last_words(record)?;
        let Some(key) = key else { return Ok(None) };
        if let Some(watched) = self.leaving.get_mut(key).or_else(|| self.watched.get_mut(&key)) {
            watched.end = Some(Box::new(end));
        }
        Ok(None)
    }

    fn removed(&mut self, key: CgroupKey) -> Option<Row> {
        if self.has_ids_of_its_own() && key & KEY_MARKS == 0 {
            self.ids.untell(key);
        }
        let mut watched = self.watched.remove(&key)?;
        if key & KEY_V1 == 0 {
            self.stand_ins.remove(&watched.path);
        }
        watched.take(self.walks.last(), &self.layout, &mut self.found);
        let waits = watched.end.is_none() && self.programs.ends.is_some() && !self.is_keyed();
        if waits {
            watched.row.remove_gauges_at_removal(&self.layout);
            self.leaving.hold(key, watched);
            return None;
        }
        self.ids.forget(key, watched.id);
        Some(watched.into_final(&self.layout, self.machine.page_bytes))
    }

    fn removed_later(&mut self) -> Vec<(CgroupKey, Row)> {
        let mut rows = Vec::new();
        for (key, watched) in self.leaving.over(|watched| watched.end.is_some()) {
            self.ids.forget(key, watched.id);
            rows.push((key, watched.into_final(&self.layout, self.machine.page_bytes)));
        }
        rows
    }

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        vec![(&start::WALK_UNFINISHED, self.walks.unfinished()), (&start::LATE_FILE, self.stale)]
    }
}

impl Watched {
    /// Its id in the memory tree is known, or has become known and was not taken yet.
    fn has_id(&self) -> bool {
        self.id.is_some() || self.files.last().is_some_and(|reading| reading.value.id.is_some())
    }

    /// A walk has met it and found statistics of this hash.
    fn compare(&mut self, statistics: u64) {
        let is_first = self.changes.load(Ordering::Relaxed) == 0;
        if is_first || self.statistics != statistics {
            self.statistics = statistics;
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Books what is known since the last time. `found` is a row to work in. Gives when its files were read last.
    fn take(&mut self, walked: Option<Instant>, layout: &Layout, found: &mut Row) -> Option<Instant> {
        let read = self.files.read_at();
        if self.booked == (read, walked) {
            return read;
        }
        let reading = self.files.last();
        let read = reading.map(|reading| reading.at);
        self.booked = (read, walked);
        let said = reading.map(|reading| reading.value.figures).unwrap_or_default();
        let mut known = self.walked.as_ref().map_or(said, |walked| walked.or(&said));
        if self.subtree == Subtree::Shared {
            // Files tell what is in use together with what lies below.
            known = known.using_what(self.walked.as_ref());
        }
        if !self.is_away() {
            self.begin_anew(layout, &known);
        }
        let are_walked = self.walked.as_ref().is_some_and(Figures::knows_faults);
        if let Some(at) = if are_walked { walked } else { read } {
            self.minor_faults.settle(at, &mut known);
        }
        found.clear();
        known.book(found, layout, self.subtree);
        // Statistics are told by two that do not run at the same moment, and the kernel's CPUs hand theirs on one after another:
        // they can fall for a moment.
        self.row.remove_gauges(layout);
        if let Some(before) = &self.before {
            found.add_row(layout, before);
        }
        self.row.at_least(found);
        read
    }

    /// Where it has left the memory tree and come back the kernel counts from 0. It did, if its events are fewer than before: of those
    /// all are exact.
    fn begin_anew(&mut self, layout: &Layout, known: &Figures) {
        let events = if self.subtree == Subtree::Own { known.events } else { known.local_events };
        let (true, Some(events)) = (self.has_left, events) else { return };
        self.has_left = false;
        let column = layout.column(&metrics::EVENTS);
        let told =
            |row: &Row| column.and_then(|column| row.cells(column)?.try_into().ok()).unwrap_or([0; MemoryEvent::COUNT]);
        let begun = self.before.as_ref().map_or([0; MemoryEvent::COUNT], told);
        let is_fewer = |((told, begun), now): ((u64, u64), u64)| now < told.saturating_sub(begun);
        if told(&self.row).into_iter().zip(begun).zip(events).any(is_fewer) {
            let mut before = self.row.clone();
            before.remove_gauges(layout);
            self.before = Some(before);
            self.minor_faults = MinorFaults::default();
        }
    }

    /// It is not in the memory tree, whatever was known of it when it was.
    fn is_away(&self) -> bool {
        let are_there = || self.files.last().is_none_or(|reading| reading.value.are_there);
        self.walked.is_none() && (self.missed > 0 || !are_there())
    }

    /// The final values: those of the last words, and where they say nothing the last ones.
    fn into_final(mut self, layout: &Layout, page_bytes: u64) -> Row {
        let mut row = layout.row();
        let end = self.end.as_ref().map(|end| Figures::of_end(end, page_bytes));
        if let Some(end) = &end {
            self.begin_anew(layout, end);
            end.book(&mut row, layout, self.subtree);
            self.row.remove_gauges(layout);
        } else {
            self.row.remove_gauges_at_removal(layout);
        }
        // Where nobody will say which of them were major ones.
        let minor = self.minor_faults.not_yet_told().filter(|_| self.subtree == Subtree::Own);
        if let Some(minor) = minor.filter(|_| !end.is_some_and(|end| end.knows_faults())) {
            row.add_all(layout, &metrics::FAULTS, &[minor, 0]);
        }
        if let Some(before) = &self.before {
            row.add_row(layout, before);
        }
        row.at_least(&self.row);
        row
    }
}
