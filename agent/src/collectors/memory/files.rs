//! The kernel's files of one cgroup's memory, of both versions, and what their text says.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use podlens_common::memory::{EndWord, MemoryEvent, MemoryType};

use super::{
    figures::{Figures, set},
    learn::are_zero,
};
use crate::{
    collectors::apart::id_at,
    kernel::cgroupfs::files::{CgroupFile, FileReader, Source, TURN, Turn},
};

/// Reading memory.stat can make the kernel collect all its CPUs' counts.
const STATISTICS_HOLD: Duration = Duration::from_secs(30);
/// Turns that pass meanwhile.
const STATISTICS_REST: u32 = 5;
/// The same where the walk tells all that is not 0 on this node, or in this cgroup as long as no walk finds it changed.
const KNOWN_STATISTICS_HOLD: Duration = Duration::from_mins(5);

/// The files of a cgroup.
pub(super) struct MemoryFiles {
    directory: PathBuf,
    is_v1: bool,
    /// What of the file the walk cannot tell yet: [`Learner::unknown`](super::learn::Learner::unknown).
    unknown: Arc<AtomicU32>,
    /// How often a walk has found the kernel's statistics of this cgroup changed, the first time included.
    changes: Arc<AtomicU32>,
    /// The same before memory.stat was read last.
    read_after: u32,
    /// Its id in the memory tree.
    id: Option<u64>,
    statistics: CgroupFile,
    /// What the walk tells, where there is none.
    counters: Option<Box<Counters>>,
    since: Instant,
    /// When memory.stat was read last; none where that failed since.
    read: Option<Instant>,
}

/// The files with what else the walk tells.
struct Counters {
    usage: CgroupFile,
    peak: CgroupFile,
    limit: CgroupFile,
    rest: Option<OfVersion2>,
    /// What memory.stat said last, without what these say.
    said: Figures,
}

struct OfVersion2 {
    high: CgroupFile,
    low: CgroupFile,
    min: CgroupFile,
    swap: CgroupFile,
    events: CgroupFile,
    local_events: CgroupFile,
}

/// What the files say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// The cgroup's id in the memory tree; none while it has no directory there.
    pub(super) id: Option<u64>,
    /// They could be read this time. Otherwise the figures are as of then.
    pub(super) are_there: bool,
    pub(super) figures: Figures,
}

impl MemoryFiles {
    /// The files in that directory of the memory tree. `alone`: no walk tells anything.
    pub(super) fn of(
        reader: &FileReader,
        directory: PathBuf,
        is_v1: bool,
        alone: bool,
        unknown: Arc<AtomicU32>,
        changes: Arc<AtomicU32>,
    ) -> Self {
        let file = |name: &str| reader.file(directory.join(name));
        let counters = alone.then(|| {
            let [usage, peak, limit] = if is_v1 {
                ["memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes"].map(file)
            } else {
                ["memory.current", "memory.peak", "memory.max"].map(file)
            };
            let rest = (!is_v1).then(|| OfVersion2 {
                high: file("memory.high"),
                low: file("memory.low"),
                min: file("memory.min"),
                swap: file("memory.swap.current"),
                events: file("memory.events"),
                local_events: file("memory.events.local"),
            });
            Box::new(Counters { usage, peak, limit, rest, said: Figures::default() })
        });
        let statistics = file("memory.stat");
        let since = Instant::now();
        Self { directory, is_v1, unknown, changes, read_after: 0, id: None, statistics, counters, since, read: None }
    }
}

impl Source for MemoryFiles {
    type Value = Said;

    fn read(&mut self, turn: &mut Turn) -> Said {
        self.read_again(turn, Said::default())
    }

    fn read_again(&mut self, turn: &mut Turn, before: Said) -> Said {
        if self.id.is_none() {
            self.id = id_at(&self.directory);
        }
        let mut said = self.counters.as_ref().map_or(before.figures, |counters| counters.said);
        // Before the reading: what changes meanwhile is read anew.
        let changes = self.changes.load(Ordering::Relaxed);
        let unknown = self.unknown.load(Ordering::Relaxed);
        let is_known = unknown == 0 || is_unchanged(self.read_after, changes) && are_zero(&said, unknown);
        let holds = if is_known { KNOWN_STATISTICS_HOLD } else { STATISTICS_HOLD };
        if is_due(self.since, self.read, turn.now, holds) {
            let is_v1 = self.is_v1;
            // One that cannot be read, as where the controller was switched off, is looked for again at the next turn.
            self.read = None;
            if let Some(found) = self.statistics.read(turn, |text| parse_statistics(text, is_v1)) {
                self.read = Some(turn.now);
                self.read_after = changes;
                said = found;
            }
        }
        let (mut are_there, mut figures) = (self.read.is_some(), said);
        if let Some(counters) = &mut self.counters {
            counters.said = said;
            let counted = counters.read(turn);
            are_there &= counted.usage.is_some();
            figures = counted.or(&said);
        }
        Said { id: self.id, are_there, figures }
    }

    /// A cgroup that has had no directory in the memory tree for so long hardly gets one.
    fn rest(&self, now: Instant) -> u32 {
        let reads_only_statistics = self.counters.is_none();
        if reads_only_statistics && now.duration_since(self.since) >= STATISTICS_HOLD { STATISTICS_REST } else { 0 }
    }
}

/// memory.stat has to be read again. A new cgroup fills up in its first moments. Turns come a moment sooner or later, so half of
/// one is granted.
fn is_due(since: Instant, read: Option<Instant>, now: Instant, holds: Duration) -> bool {
    read.is_none_or(|read| read.duration_since(since) < TURN || now.duration_since(read) + TURN / 2 >= holds)
}

/// A walk was made before the reading, and none since has found anything else.
fn is_unchanged(read_after: u32, changes: u32) -> bool {
    changes != 0 && read_after == changes
}

impl Counters {
    fn read(&mut self, turn: &mut Turn) -> Figures {
        let number = |file: &mut CgroupFile, turn: &mut Turn| file.read(turn, parse_number).flatten();
        let mut figures = Figures {
            usage: number(&mut self.usage, turn),
            peak: number(&mut self.peak, turn),
            limit: number(&mut self.limit, turn).filter(|limit| !is_unlimited(*limit)),
            ..Figures::default()
        };
        if let Some(rest) = &mut self.rest {
            figures.high = number(&mut rest.high, turn);
            figures.low = rest.low.read(turn, parse_protection).flatten();
            figures.min = rest.min.read(turn, parse_protection).flatten();
            set(&mut figures.types, MemoryType::Swap, number(&mut rest.swap, turn));
            figures.events = rest.events.read(turn, parse_events).flatten();
            figures.local_events = rest.local_events.read(turn, parse_events).flatten();
        }
        figures
    }
}

/// Version 1 has the greatest whole number of pages for no limit. No machine has an eighth of that.
fn is_unlimited(limit: u64) -> bool {
    limit > u64::MAX >> 4
}

/// A number; none for `max`.
fn parse_number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Bytes that are protected; none without a protection. All that there is are as many as the walk tells: the greatest whole number
/// of pages.
fn parse_protection(text: &str) -> Option<u64> {
    if text.trim() == "max" {
        let page_bytes = u64::try_from(rustix::param::page_size()).ok()?;
        return Some(i64::MAX.unsigned_abs() / page_bytes * page_bytes);
    }
    parse_number(text).filter(|bytes| *bytes > 0)
}

/// The lines `key number` of a file that are whole: the last one may have been cut.
fn lines(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.split_inclusive('\n').filter_map(|line| {
        let (key, number) = line.strip_suffix('\n')?.split_once(' ')?;
        Some((key, number.parse().ok()?))
    })
}

/// Events of a version 2 file; none if one is missing that all kernels count.
fn parse_events(text: &str) -> Option<[u64; MemoryEvent::COUNT]> {
    let mut events = [None; MemoryEvent::COUNT];
    for (key, count) in lines(text) {
        if let Some(at) = MemoryEvent::NAMES.iter().position(|name| *name == key)
            && let Some(event) = events.get_mut(at)
        {
            *event = Some(count);
        }
    }
    let [low, high, max, oom, oom_kill, oom_group_kill] = events;
    Some([low?, high?, max?, oom?, oom_kill?, oom_group_kill.unwrap_or(0)])
}

/// memory.stat. Version 1 has a cgroup's own figures first and, as `total_`, those with all below.
fn parse_statistics(text: &str, is_v1: bool) -> Figures {
    let mut figures = Figures::default();
    for (key, number) in lines(text) {
        let key = if is_v1 {
            let Some(key) = key.strip_prefix("total_") else { continue };
            key
        } else {
            key
        };
        if let Some(at) = EndWord::NAMES.iter().position(|name| *name == key)
            && let Some(word) = figures.words.get_mut(at)
        {
            *word = Some(number);
        } else if let Some(of) = type_of(key, is_v1) {
            set(&mut figures.types, of, Some(number));
        }
    }
    figures
}

fn type_of(key: &str, is_v1: bool) -> Option<MemoryType> {
    Some(match (key, is_v1) {
        ("rss", true) | ("anon", false) => MemoryType::Anon,
        ("swap", true) => MemoryType::Swap,
        ("active_file", _) => MemoryType::FileActive,
        ("inactive_file", _) => MemoryType::FileInactive,
        ("shmem", _) => MemoryType::Shmem,
        ("slab_reclaimable", _) => MemoryType::SlabReclaimable,
        ("slab_unreclaimable", _) => MemoryType::SlabUnreclaimable,
        ("kernel_stack", _) => MemoryType::KernelStack,
        ("pagetables", _) => MemoryType::PageTables,
        ("sock", _) => MemoryType::Socket,
        ("zswap", _) => MemoryType::Zswap,
        ("unevictable", _) => MemoryType::Unevictable,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::unwrap_used)]

    use super::*;

    /// Each type's value and the words', as a version's text tells them.
    #[track_caller]
    fn check(text: &str, is_v1: bool, types: &[(MemoryType, u64)], words: [Option<u64>; EndWord::COUNT]) {
        let mut expected = Figures { words, ..Figures::default() };
        for (of, bytes) in types {
            expected.types[of.index()] = Some(*bytes);
        }
        assert_eq!(parse_statistics(text, is_v1), expected);
    }

    #[test]
    fn both_versions_of_memory_stat_are_understood() {
        check(
            "anon 1\nfile 2\nkernel_stack 3\npagetables 4\nsock 5\nshmem 6\nzswap 7\ninactive_file 8\nactive_file 9\nunevictable 10\nslab_reclaimable 11\nslab_unreclaimable 12\nslab 23\nworkingset_refault_anon 13\nworkingset_refault_file 14\npgfault 15\npgmajfault 16\n",
            false,
            &[
                (MemoryType::Anon, 1),
                (MemoryType::KernelStack, 3),
                (MemoryType::PageTables, 4),
                (MemoryType::Socket, 5),
                (MemoryType::Shmem, 6),
                (MemoryType::Zswap, 7),
                (MemoryType::FileInactive, 8),
                (MemoryType::FileActive, 9),
                (MemoryType::Unevictable, 10),
                (MemoryType::SlabReclaimable, 11),
                (MemoryType::SlabUnreclaimable, 12),
            ],
            [Some(15), Some(16), Some(13), Some(14)],
        );
        check(
            "cache 1\nrss 2\npgfault 3\nhierarchical_memory_limit 9\ntotal_cache 4\ntotal_rss 5\ntotal_swap 6\ntotal_pgfault 7\ntotal_pgmajfault 8\ntotal_active_file 10\n",
            true,
            &[(MemoryType::Anon, 5), (MemoryType::Swap, 6), (MemoryType::FileActive, 10)],
            [Some(7), Some(8), None, None],
        );
    }

    #[test]
    fn what_is_cut_or_no_number_is_not_known() {
        check("anon 12\nfile x\nshmem\nsock -1\npgfault 1", false, &[(MemoryType::Anon, 12)], [None; EndWord::COUNT]);
        check("", false, &[], [None; EndWord::COUNT]);
    }

    #[test]
    fn events_are_known_together_and_older_kernels_count_no_group_kills() {
        let check = |text, expected| assert_eq!(parse_events(text), expected, "{text:?}");
        check(
            "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\nsock_throttled 7\n",
            Some([1, 2, 3, 4, 5, 6]),
        );
        check("low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\n", Some([1, 2, 3, 4, 5, 0]));
        check("low 1\nhigh 2\nmax 3\noom 4\noom_kill 5", None);
        check("", None);
    }

    #[test]
    fn no_limit_of_either_version_is_none() {
        for (text, expected) in [("max\n", None), ("1048576\n", Some(1_048_576)), ("", None)] {
            assert_eq!(parse_number(text), expected);
        }
        for (text, expected) in [("0\n", None), ("4096\n", Some(4096)), ("", None)] {
            assert_eq!(parse_protection(text), expected);
        }
        assert!(parse_protection("max\n").is_some_and(is_unlimited), "all of it");
        assert!(is_unlimited(9_223_372_036_854_771_712) && !is_unlimited(1 << 50));
    }

    #[test]
    fn a_file_is_known_to_be_unchanged_only_by_walks_from_before_and_after_it_was_read() {
        for (read_after, changes, expected) in
            [(0, 0, false), (0, 1, false), (1, 1, true), (1, 2, false), (u32::MAX, u32::MAX, true)]
        {
            assert_eq!(is_unchanged(read_after, changes), expected, "{read_after} {changes}");
        }
    }

    /// Lines of the file.
    const ANON: u32 = 0;
    const SHMEM: u32 = 1;

    #[test]
    fn memory_stat_is_read_less_where_the_walk_tells_all_that_is_not_0_until_a_walk_finds_something_changed() {
        let directory = tempfile::tempdir().unwrap();
        let tell = |bytes: u64| {
            std::fs::write(directory.path().join("memory.stat"), format!("anon {bytes}\nshmem 0\n")).unwrap();
        };
        let reader = FileReader::without_thread(1);
        let changes = Arc::new(AtomicU32::new(1));
        let path = directory.path().to_owned();
        let unknown = Arc::new(AtomicU32::new(1 << SHMEM));
        let mut files = MemoryFiles::of(&reader, path, false, false, Arc::clone(&unknown), Arc::clone(&changes));
        let since = files.since;
        let mut said = Said::default();
        let mut read = |after_s| {
            said = files.read_again(&mut Turn::at(since + Duration::from_secs(after_s)), said);
            said.figures
        };
        let anon = |figures: Figures| figures.of_type(MemoryType::Anon);
        tell(1);
        assert_eq!(anon(read(6)), Some(1));
        tell(2);
        assert_eq!(anon(read(60)), Some(1), "no walk has found anything else");
        changes.store(2, Ordering::Relaxed);
        assert_eq!(anon(read(61)), Some(2));
        tell(3);
        changes.store(3, Ordering::Relaxed);
        assert_eq!(anon(read(70)), Some(2), "too early");
        assert_eq!(anon(read(92)), Some(3));
        tell(4);
        assert_eq!(anon(read(400)), Some(4), "after five minutes in any case");
        tell(5);
        unknown.store(1 << ANON, Ordering::Relaxed);
        assert_eq!(anon(read(440)), Some(5), "what the walk cannot tell is read every half minute");
    }

    #[test]
    fn memory_stat_is_read_at_each_look_while_the_cgroup_is_new_and_then_every_half_minute() {
        let check = |read_ms: Option<u64>, now_ms, expected| {
            let since = Instant::now();
            let at = |ms| since + Duration::from_millis(ms);
            assert_eq!(
                is_due(since, read_ms.map(at), at(now_ms), STATISTICS_HOLD),
                expected,
                "read at {read_ms:?} ms, now {now_ms} ms"
            );
        };
        check(None, 60_000, true);
        check(Some(250), 500, true);
        check(Some(5_000), 10_000, false);
        check(Some(5_000), 34_900, true);
    }
}
