//! What is known of a cgroup's memory, whoever told it, and how it becomes a row. Pure.

use std::time::{Duration, Instant};

use podlens_common::memory::{EndWord, LruList, MemoryEnd, MemoryEvent, MemoryRecord, MemoryType};

use super::metrics;
use crate::signal::{Layout, Row, Subtree};

/// Bytes and counts; what nobody has told is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) usage: Option<u64>,
    pub(super) peak: Option<u64>,
    /// None without a limit, as the two that follow.
    pub(super) limit: Option<u64>,
    pub(super) high: Option<u64>,
    pub(super) min: Option<u64>,
    pub(super) low: Option<u64>,
    pub(super) types: [Option<u64>; MemoryType::COUNT],
    pub(super) events: Option<[u64; MemoryEvent::COUNT]>,
    pub(super) local_events: Option<[u64; MemoryEvent::COUNT]>,
    pub(super) words: [Option<u64>; EndWord::COUNT],
}

/// What several cgroups have in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    usage: u64,
    types: [u64; MemoryType::COUNT],
}

impl Used {
    /// One more, with all below it.
    pub(super) fn add(&mut self, figures: &Figures) {
        self.usage = self.usage.saturating_add(figures.usage.unwrap_or_default());
        for (sum, more) in self.types.iter_mut().zip(figures.types) {
            *sum = sum.saturating_add(more.unwrap_or_default());
        }
    }
}

/// Each CPU hands its counts on by itself, at the latest every 2 s (`FLUSH_TIME` of mm/memcontrol.c); this is twice that.
const HANDED_ON: Duration = Duration::from_secs(4);

/// Minor faults: all faults less the major ones. The kernel counts that a fault is a major one before its task sleeps, and the fault
/// behind that, perhaps on another CPU: until both have handed that on the difference is too great, in memory.stat as well, and a
/// counter that was told too high stays so. So what was so at two readings is told, with enough time between them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MinorFaults {
    /// The least since the reading at that moment.
    least: Option<(Instant, u64)>,
    told: u64,
}

impl MinorFaults {
    /// Leaves in the figures of a reading at some moment as many faults as may be told beside the major ones.
    pub(super) fn settle(&mut self, at: Instant, figures: &mut Figures) {
        let [Some(faults), Some(major), ..] = &mut figures.words else { return };
        let minor = faults.saturating_sub(*major);
        let (since, least) = self.least.map_or((at, minor), |(since, least)| (since, least.min(minor)));
        self.least = Some((since, least));
        if at.saturating_duration_since(since) >= HANDED_ON {
            self.told = least;
            self.least = Some((at, minor));
        }
        *faults = self.told.saturating_add(*major);
    }

    /// How many there are at last, where no reading will come; none if there was none.
    pub(super) fn not_yet_told(&self) -> Option<u64> {
        self.least.map(|(_, least)| least.max(self.told))
    }
}

/// What the walk tells is as this machine and its memory tree are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    pub(super) page_bytes: u64,
    /// The memory tree is a hierarchy of version 1.
    pub(super) is_v1: bool,
}

impl Figures {
    /// What a record of the walk tells, with its pages by list, those of cgroups below included, where they are known.
    pub(super) fn of_record(record: &MemoryRecord, lists: Option<&[u64; LruList::COUNT]>, machine: Machine) -> Self {
        let Machine { page_bytes, is_v1 } = machine;
        let bytes = |pages: u64| pages.saturating_mul(page_bytes);
        // `PAGE_COUNTER_MAX` of linux/page_counter.h.
        let unlimited = i64::MAX.unsigned_abs() / page_bytes;
        let limit = |pages: u64| (pages < unlimited).then(|| bytes(pages));
        let protection = |pages: u64| (pages > 0).then(|| bytes(pages.min(unlimited)));
        let mut types = [None; MemoryType::COUNT];
        if let Some(lists) = lists {
            for (of, list) in [
                (MemoryType::FileActive, LruList::ActiveFile),
                (MemoryType::FileInactive, LruList::InactiveFile),
                (MemoryType::Unevictable, LruList::Unevictable),
            ] {
                set(&mut types, of, lists.get(list.index()).map(|pages| bytes(*pages)));
            }
        }
        // Version 1 counts memory and swap together; what of that is in swap only its file tells.
        set(&mut types, MemoryType::Swap, (!is_v1).then(|| bytes(record.swap)));
        Self {
            usage: Some(bytes(record.usage)),
            peak: Some(bytes(record.peak)),
            limit: limit(record.max),
            high: limit(record.high),
            min: protection(record.min),
            low: protection(record.low),
            types,
            events: Some(record.events),
            local_events: Some(record.local_events),
            words: [None; EndWord::COUNT],
        }
    }

    /// What is known by a cgroup's last words.
    pub(super) fn of_end(end: &MemoryEnd, page_bytes: u64) -> Self {
        let mut words = end.words.map(Some);
        for (at, word) in words.iter_mut().enumerate() {
            *word = word.filter(|_| end.known >> at & 1 == 1);
        }
        let (events, local_events) = (Some(end.events), Some(end.local_events));
        let peak = Some(end.peak.saturating_mul(page_bytes));
        Self { peak, events, local_events, words, ..Self::default() }
    }

    /// What is known here, and where that is nothing what `other` knows. Limits are known together with the usage, and faults together
    /// with the major ones among them.
    pub(super) fn or(&self, other: &Self) -> Self {
        let mut both = *self;
        if both.usage.is_none() {
            let Self { usage, peak, limit, high, min, low, .. } = *other;
            both = Self { usage, peak, limit, high, min, low, ..both };
        }
        let fill = |one: &mut [Option<u64>], other: &[Option<u64>]| {
            one.iter_mut().zip(other).for_each(|(one, other)| *one = one.or(*other));
        };
        fill(&mut both.types, &other.types);
        // Minor faults are the difference of two numbers. Of two moments it would be too great, and counters only rise.
        if !both.knows_faults() && other.knows_faults() {
            let [faults, major, ..] = &mut both.words;
            (*faults, *major) = (None, None);
        }
        fill(&mut both.words, &other.words);
        both.events = both.events.or(other.events);
        both.local_events = both.local_events.or(other.local_events);
        both
    }

    /// What is in use here and not in the cgroups below that are other entities'. The kernel's counters hand their values up one after
    /// another, so that a cgroup can be a moment behind those below it.
    pub(super) fn less(&self, below: &Used) -> Self {
        let mut types = self.types;
        for (of, below) in types.iter_mut().zip(below.types) {
            *of = of.map(|bytes| bytes.saturating_sub(below));
        }
        Self { usage: self.usage.map(|usage| usage.saturating_sub(below.usage)), types, ..*self }
    }

    /// The same figures without what is in use, unless `other` knows that.
    pub(super) fn using_what(&self, other: Option<&Self>) -> Self {
        let (usage, types) = other.map_or((None, [None; MemoryType::COUNT]), |other| (other.usage, other.types));
        Self { usage, types, ..*self }
    }

    /// All faults and the major ones among them are known.
    pub(super) fn knows_faults(&self) -> bool {
        matches!(self.words, [Some(_), Some(_), ..])
    }

    pub(super) fn of_type(&self, of: MemoryType) -> Option<u64> {
        self.types.get(of.index()).copied().flatten()
    }

    /// Enters them into an empty row. A cgroup that holds other entities' has settings, events and what is in use of its own.
    pub(super) fn book(&self, row: &mut Row, layout: &Layout, subtree: Subtree) {
        let mut gauge = |metric, value: Option<u64>| {
            if let Some(value) = value {
                row.add(layout, metric, 0, value);
            }
        };
        gauge(&metrics::LIMIT, self.limit);
        gauge(&metrics::HIGH, self.high);
        gauge(&metrics::USAGE, self.usage);
        if subtree == Subtree::Own {
            gauge(&metrics::PEAK, self.peak);
        }
        let inactive = self.of_type(MemoryType::FileInactive);
        let working_set = self.usage.zip(inactive).map(|(usage, inactive)| usage.saturating_sub(inactive));
        gauge(&metrics::WORKING_SET, working_set);
        let reclaimable = [MemoryType::FileActive, MemoryType::SlabReclaimable].map(|of| self.of_type(of));
        if let (Some(rest), [Some(active), Some(slab)]) = (working_set, reclaimable) {
            gauge(&metrics::UNRECLAIMABLE, Some(rest.saturating_sub(active).saturating_sub(slab)));
        }
        if self.types.iter().any(Option::is_some) {
            row.add_all(layout, &metrics::MEMORY, &self.types.map(Option::unwrap_or_default));
        }
        if self.min.or(self.low).is_some() {
            row.add_all(layout, &metrics::PROTECTION, &[self.min, self.low].map(Option::unwrap_or_default));
        }
        self.book_counters(row, layout, subtree);
    }

    fn book_counters(&self, row: &mut Row, layout: &Layout, subtree: Subtree) {
        let events = if subtree == Subtree::Own { self.events } else { self.local_events };
        if let Some(events) = events {
            row.add_all(layout, &metrics::EVENTS, &events);
        }
        let [faults, major, anon, file] = self.words;
        if subtree == Subtree::Own {
            if let (Some(faults), Some(major)) = (faults, major) {
                row.add_all(layout, &metrics::FAULTS, &[faults.saturating_sub(major), major]);
            }
            if let (Some(anon), Some(file)) = (anon, file) {
                row.add_all(layout, &metrics::REFAULTS, &[anon, file]);
            }
        }
    }
}

pub(super) fn set(types: &mut [Option<u64>; MemoryType::COUNT], of: MemoryType, value: Option<u64>) {
    if let Some(place) = types.get_mut(of.index()) {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use bytemuck::Zeroable as _;

    use super::*;
    use crate::{collectors::memory::SPEC, signal::Metric};

    const MACHINE: Machine = Machine { page_bytes: 4096, is_v1: false };

    fn record() -> MemoryRecord {
        MemoryRecord {
            usage: 100,
            peak: 200,
            max: 300,
            high: u64::MAX >> 13,
            low: 7,
            swap: 5,
            events: [1, 2, 3, 4, 5, 6],
            local_events: [0, 0, 1, 1, 0, 0],
            ..MemoryRecord::zeroed()
        }
    }

    fn cells(figures: &Figures, subtree: Subtree, metric: &Metric) -> Option<Vec<u64>> {
        let layout = Layout::new(SPEC.metrics);
        let mut row = layout.row();
        figures.book(&mut row, &layout, subtree);
        layout.column(metric).and_then(|column| row.cells(column)).map(<[u64]>::to_vec)
    }

    #[test]
    fn a_record_is_told_in_bytes_and_without_limits_that_there_are_not() {
        let figures = Figures::of_record(&record(), Some(&[0, 0, 30, 20, 1]), MACHINE);
        let check = |metric: &Metric, expected: Option<&[u64]>| {
            assert_eq!(cells(&figures, Subtree::Own, metric).as_deref(), expected, "{}", metric.name);
        };
        check(&metrics::USAGE, Some(&[409_600]));
        check(&metrics::PEAK, Some(&[819_200]));
        check(&metrics::WORKING_SET, Some(&[286_720]));
        check(&metrics::UNRECLAIMABLE, None);
        check(&metrics::LIMIT, Some(&[1_228_800]));
        check(&metrics::HIGH, None);
        check(&metrics::PROTECTION, Some(&[0, 28_672]));
        check(&metrics::EVENTS, Some(&[1, 2, 3, 4, 5, 6]));
        check(&metrics::FAULTS, None);
        let types = cells(&figures, Subtree::Own, &metrics::MEMORY).unwrap();
        assert_eq!(types, [0, 81_920, 122_880, 0, 0, 0, 0, 0, 0, 20_480, 0, 4096]);
    }

    #[test]
    fn of_a_cgroup_that_holds_others_its_settings_its_own_events_and_what_is_in_use_beside_them_are_told() {
        let container = Figures::of_record(&MemoryRecord { usage: 70, swap: 9, ..record() }, Some(&[0; 5]), MACHINE);
        let mut below = Used::default();
        below.add(&container);
        below.add(&Figures { usage: Some(4096), ..Figures::default() });
        let figures = Figures::of_record(&record(), Some(&[0; LruList::COUNT]), MACHINE).less(&below);
        assert_eq!(cells(&figures, Subtree::Shared, &metrics::USAGE), Some(vec![29 * 4096]));
        assert_eq!(figures.of_type(MemoryType::Swap), Some(0), "it is behind its container");
        let figures = figures.using_what(None);
        let told: Vec<&str> = SPEC
            .metrics
            .iter()
            .filter(|metric| cells(&figures, Subtree::Shared, metric).is_some())
            .map(|metric| metric.name)
            .collect();
        assert_eq!(
            told,
            ["podlens_memory_limit_bytes", "podlens_memory_protection_bytes", "podlens_memory_events_total"]
        );
        assert_eq!(cells(&figures, Subtree::Shared, &metrics::EVENTS), Some(vec![0, 0, 1, 1, 0, 0]));
    }

    #[test]
    fn what_nobody_knows_is_taken_from_the_other() {
        let walked = Figures::of_record(&record(), None, MACHINE);
        let slab = MemoryType::SlabReclaimable.index();
        let inactive = MemoryType::FileInactive.index();
        let mut files = Figures { usage: Some(1), words: [Some(9), Some(2), None, Some(3)], ..Figures::default() };
        (files.types[slab], files.types[inactive]) = (Some(11), Some(12));
        let both = walked.or(&files);
        assert_eq!((both.usage, both.types[slab], both.types[inactive]), (Some(409_600), Some(11), Some(12)));
        assert_eq!(cells(&both, Subtree::Own, &metrics::FAULTS), Some(vec![7, 2]));
        assert_eq!(cells(&both, Subtree::Own, &metrics::REFAULTS), None, "one of two is not known");
        assert_eq!(Figures::default().or(&files), files);
    }

    #[test]
    fn faults_and_major_ones_are_those_of_one_moment() {
        let later = |words| Figures { words, ..Figures::default() };
        let files = later([Some(9), Some(2), Some(5), Some(6)]);
        for (walked, expected) in [
            ([Some(20), None, Some(7), None], [Some(9), Some(2), Some(7), Some(6)]),
            ([None, Some(8), None, Some(7)], [Some(9), Some(2), Some(5), Some(7)]),
            ([Some(20), Some(8), None, None], [Some(20), Some(8), Some(5), Some(6)]),
        ] {
            assert_eq!(later(walked).or(&files).words, expected, "{walked:?}");
        }
        let walked = later([Some(20), None, None, None]);
        assert_eq!(walked.or(&Figures::default()), walked);
    }

    #[test]
    fn minor_faults_are_told_once_each_cpu_has_handed_on_which_were_major_ones() {
        let mut minor = MinorFaults::default();
        let began = Instant::now();
        for (second, read, told) in [
            (0, (90, 0), 0),
            (1, (100, 0), 0),
            // Six of the first are known as major ones only now.
            (3, (100, 6), 0),
            (4, (100, 6), 90),
            (14, (150, 16), 94),
            (14, (150, 16), 94),
            // Four are not known as such yet.
            (24, (200, 26), 134),
            (34, (200, 30), 170),
            (44, (200, 30), 170),
        ] {
            let mut figures = Figures { words: [Some(read.0), Some(read.1), None, None], ..Figures::default() };
            minor.settle(began + Duration::from_secs(second), &mut figures);
            assert_eq!(cells(&figures, Subtree::Own, &metrics::FAULTS), Some(vec![told, read.1]), "{second}: {read:?}");
        }
        assert_eq!((minor.not_yet_told(), MinorFaults::default().not_yet_told()), (Some(170), None));
        let mut alone = Figures { words: [Some(5), None, None, None], ..Figures::default() };
        minor.settle(began, &mut alone);
        assert_eq!(alone.words, [Some(5), None, None, None]);
    }

    #[test]
    fn last_words_tell_of_the_statistics_those_that_are_known() {
        let end = MemoryEnd { words: [9, 2, 4, 3], known: 0b0011, events: [1; 6], peak: 3, ..MemoryEnd::default() };
        let figures = Figures::of_end(&end, 4096);
        assert_eq!(figures.words, [Some(9), Some(2), None, None]);
        assert_eq!(cells(&figures, Subtree::Own, &metrics::EVENTS), Some(vec![1; 6]));
        assert_eq!(cells(&figures, Subtree::Own, &metrics::PEAK), Some(vec![12_288]));
        assert_eq!(cells(&figures, Subtree::Own, &metrics::USAGE), None);
    }
}
