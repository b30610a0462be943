//! Which word of the kernel's statistics is which line of memory.stat. Pure.
//!
//! The kernel's types do not tell (`memcg_vmstats`, whose words are ordered by a table of its own since 6.12). So words and lines
//! of the same cgroups are compared: a position is taken when it has matched three different values of a line, and no other one
//! half as many. A cgroup that is at work between the two readings matches nowhere and tells nothing. What is taken is
//! compared further on, and given up when it matches no more.
//!
//! Major faults are rare, and a node can be without any. Their word comes next after that of all faults on every kernel so far
//! (`memcg_vm_event_stat` of mm/memcontrol.c): that is taken as soon as it has held for as many cgroups as a match takes, and never
//! again after it has not held for one.

use podlens_common::memory::{EndWord, EndWords, MemoryType, WORDS};

use super::figures::{Figures, Machine, set};

/// Different values that have to match.
const VALUES: usize = 3;
/// Different values that are remembered.
const REMEMBERED: usize = 16;
/// Walks without a match after which a position is given up.
const MISSES: u32 = 60;

/// Types that come from the statistics, and the bytes of the kernel's unit; 0 stands for a page.
const TYPES: [(MemoryType, u64); 9] = [
    (MemoryType::Anon, 0),
    (MemoryType::Shmem, 0),
    (MemoryType::SlabReclaimable, 1),
    (MemoryType::SlabUnreclaimable, 1),
    (MemoryType::KernelStack, 1024),
    (MemoryType::PageTables, 0),
    (MemoryType::Socket, 0),
    (MemoryType::Swap, 0),
    (MemoryType::Zswap, 1),
];
const LINES: usize = TYPES.len() + EndWord::COUNT;

/// The lines of faults and of major ones.
const FAULTS: usize = TYPES.len() + EndWord::Fault as usize;
const MAJOR_FAULTS: usize = TYPES.len() + EndWord::MajorFault as usize;

/// What has been learned so far.
#[derive(Debug)]
pub(super) struct Learner {
    machine: Machine,
    lines: [Line; LINES],
    /// For how many cgroups the word after that of faults was that of major ones; none if once it was not.
    next_is_major: Option<usize>,
}

/// One line of the file.
#[derive(Debug, Default)]
struct Line {
    /// Where it is, once that is known.
    position: Option<usize>,
    /// It was compared since the last walk's end, and whether it matched anywhere.
    matched: Option<bool>,
    /// Walks since it matched.
    misses: u32,
    /// Its value was not 0 somewhere.
    occurs: bool,
    /// Values, and a bit for each position that matched.
    seen: Vec<(u64, u128)>,
}

const _: () = assert!(WORDS <= u128::BITS as usize);

impl Learner {
    pub(super) fn new(machine: Machine) -> Self {
        Self { machine, lines: std::array::from_fn(|_| Line::default()), next_is_major: Some(0) }
    }

    /// Compares the words of a cgroup with what its file said.
    pub(super) fn compare(&mut self, words: &[u64; WORDS], said: &Figures) {
        let page_bytes = self.machine.page_bytes;
        for (at, line) in self.lines.iter_mut().enumerate() {
            // Version 2 tells of swap in another file.
            let Some((unit, Some(value))) = value_of(said, at, page_bytes) else { continue };
            if value > 0 {
                line.compare(words, value, unit);
            }
        }
        self.compare_neighbors(words, said);
    }

    /// Compares the word after that of faults, if the cgroup was not at work between both readings.
    fn compare_neighbors(&mut self, words: &[u64; WORDS], said: &Figures) {
        let [Some(faults), Some(major), ..] = said.words else { return };
        let of_faults = self.position(FAULTS);
        let Some([word, next]) = of_faults.and_then(|position| words.get(position..position + 2)) else { return };
        if *word == faults && faults != 0 {
            self.next_is_major = self.next_is_major.filter(|_| *next == major).map(|held| held + 1);
        }
    }

    /// Where a line is.
    fn position(&self, line: usize) -> Option<usize> {
        let learned = self.lines.get(line).and_then(|line| line.position);
        if line == MAJOR_FAULTS && learned.is_none() && self.next_is_major >= Some(VALUES) {
            return self.position(FAULTS).map(|position| position + 1);
        }
        learned
    }

    /// All cgroups of a walk were compared.
    pub(super) fn walked(&mut self) {
        for line in &mut self.lines {
            line.misses = match line.matched.take() {
                Some(true) => 0,
                Some(false) => line.misses + 1,
                None => line.misses,
            };
            if line.misses > MISSES {
                *line = Line { occurs: true, ..Line::default() };
            }
        }
    }

    /// What the words tell.
    pub(super) fn figures(&self, words: &[u64; WORDS]) -> Figures {
        let mut figures = Figures::default();
        for at in 0..LINES {
            let Some(word) = self.position(at).and_then(|position| words.get(position)).copied() else { continue };
            match TYPES.get(at) {
                Some((of, unit)) => {
                    let unit = unit_of(*unit, self.machine.page_bytes);
                    // What several CPUs have handed on can be a moment apart: then it is below 0.
                    let amount = word.cast_signed().max(0).cast_unsigned();
                    set(&mut figures.types, *of, Some(amount.saturating_mul(unit)));
                }
                None => {
                    if let Some(place) = figures.words.get_mut(at - TYPES.len()) {
                        *place = Some(word);
                    }
                }
            }
        }
        figures
    }

    /// Where last words find theirs.
    pub(super) fn end_words(&self) -> EndWords {
        let mut positions = [0; EndWord::COUNT];
        for (position, line) in positions.iter_mut().zip(TYPES.len()..) {
            *position = self.position(line).map_or(0, |position| position as u64 + 1);
        }
        EndWords { positions }
    }

    /// A bit for each line that occurs on this node and is not known; all where nothing has occurred. Without major faults all
    /// faults are of no use, so where those are known they are wanted though there was none.
    pub(super) fn unknown(&self) -> u32 {
        if self.lines.iter().all(|line| !line.occurs) {
            return ALL_UNKNOWN;
        }
        let unknown = self.lines.iter().zip(0..).filter(|(line, _)| line.occurs && line.position.is_none());
        let unknown = unknown.fold(0, |bits, (_, at)| bits | 1 << at);
        let wants_major = self.position(FAULTS).is_some() && self.position(MAJOR_FAULTS).is_none();
        unknown | u32::from(wants_major) << MAJOR_FAULTS
    }
}

/// Nothing is known.
pub(super) const ALL_UNKNOWN: u32 = u32::MAX;

const _: () = assert!(LINES < u32::BITS as usize);

/// The file said 0 in all of these lines.
pub(super) fn are_zero(said: &Figures, lines: u32) -> bool {
    let is_zero = |at| value_of(said, at, 1).and_then(|(_, value)| value).unwrap_or(0) == 0;
    (0..LINES).all(|at| lines >> at & 1 == 0 || is_zero(at))
}

impl Line {
    fn compare(&mut self, words: &[u64; WORDS], value: u64, unit: u64) {
        self.occurs = true;
        let matching = words.iter().enumerate().filter(|(_, word)| word.checked_mul(unit) == Some(value));
        let matching = matching.fold(0_u128, |bits, (position, _)| bits | 1 << position);
        if let Some(position) = self.position {
            *self.matched.get_or_insert(false) |= matching >> position & 1 == 1;
            return;
        }
        if matching == 0 {
            return;
        }
        match self.seen.iter_mut().find(|(seen, _)| *seen == value) {
            Some((_, bits)) => *bits &= matching,
            None => self.seen.push((value, matching)),
        }
        if self.seen.len() > REMEMBERED {
            self.seen.remove(0);
        }
        self.position = self.found();
        if self.position.is_some() {
            self.seen = Vec::new();
        }
    }

    /// The position that has matched often enough, and no other nearly as often.
    fn found(&self) -> Option<usize> {
        let count = |position: usize| self.seen.iter().filter(|(_, bits)| bits >> position & 1 == 1).count();
        let best = (0..WORDS).max_by_key(|position| count(*position))?;
        let most = count(best);
        let rivals = (0..WORDS).filter(|position| *position != best).map(count).max().unwrap_or(0);
        (most >= VALUES && rivals * 2 < most).then_some(best)
    }
}

/// The unit of a line's word, and what the file said.
fn value_of(said: &Figures, at: usize, page_bytes: u64) -> Option<(u64, Option<u64>)> {
    match TYPES.get(at) {
        Some((of, unit)) => Some((unit_of(*unit, page_bytes), said.of_type(*of))),
        None => Some((1, *said.words.get(at.checked_sub(TYPES.len())?)?)),
    }
}

fn unit_of(unit: u64, page_bytes: u64) -> u64 {
    if unit == 0 { page_bytes } else { unit }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;

    const MACHINE: Machine = Machine { page_bytes: 4096, is_v1: false };
    const ANON: usize = 14;
    const SHMEM: usize = 19;
    const AT_FAULTS: usize = 50;

    /// A cgroup with so many pages and faults, and what its file says.
    fn cgroup(anon: u64, shmem: u64, faults: u64) -> ([u64; WORDS], Figures) {
        let mut words = [0; WORDS];
        (words[ANON], words[SHMEM], words[AT_FAULTS]) = (anon, shmem, faults);
        // Files in tmpfs are files.
        words[16] = shmem;
        let mut said = Figures { words: [Some(faults), Some(0), Some(0), Some(0)], ..Figures::default() };
        set(&mut said.types, MemoryType::Anon, Some(anon * 4096));
        set(&mut said.types, MemoryType::Shmem, Some(shmem * 4096));
        (words, said)
    }

    fn learned(cgroups: &[([u64; WORDS], Figures)]) -> Learner {
        let mut learner = Learner::new(MACHINE);
        for (words, said) in cgroups {
            learner.compare(words, said);
        }
        learner.walked();
        learner
    }

    #[test]
    fn a_word_that_matches_three_different_values_is_that_line() {
        let three = [cgroup(10, 0, 700), cgroup(11, 0, 800), cgroup(12, 0, 900)];
        let learner = learned(&three);
        let (words, _) = cgroup(33, 0, 4000);
        let figures = learner.figures(&words);
        assert_eq!(figures.of_type(MemoryType::Anon), Some(33 * 4096));
        assert_eq!(figures.words, [Some(4000), None, None, None]);
        assert_eq!(learner.end_words().positions, [AT_FAULTS as u64 + 1, 0, 0, 0], "one cgroup since faults are known");
        assert_eq!(learner.unknown(), 1 << MAJOR_FAULTS, "what else is 0 everywhere need not be known");
        let few = learned(&[cgroup(10, 0, 700), cgroup(10, 0, 700), cgroup(11, 0, 800)]);
        assert_eq!(few.figures(&words), Figures::default(), "two different values can be chance");
        let idle = Figures { words: [Some(0), None, None, None], ..Figures::default() };
        let (_, busy) = cgroup(0, 0, 700);
        assert!(are_zero(&idle, few.unknown()) && !are_zero(&busy, few.unknown()));
        assert!(are_zero(&busy, learner.unknown()) && !are_zero(&busy, Learner::new(MACHINE).unknown()));
    }

    #[test]
    fn major_faults_that_nobody_has_are_next_to_all_faults_unless_that_did_not_hold() {
        let mut learner = learned(&[cgroup(10, 0, 700), cgroup(11, 0, 800), cgroup(12, 0, 900)]);
        let places = |learner: &Learner| learner.end_words().positions[..2].to_vec();
        let (at_work, said) = (cgroup(13, 0, 1000).0, cgroup(13, 0, 1001).1);
        learner.compare(&at_work, &said);
        assert_eq!(places(&learner), [AT_FAULTS as u64 + 1, 0], "it held once");
        for faults in [2000, 3000] {
            let (words, said) = cgroup(14, 0, faults);
            learner.compare(&words, &said);
        }
        assert_eq!(places(&learner), [AT_FAULTS as u64 + 1, AT_FAULTS as u64 + 2]);
        assert_eq!(learner.figures(&cgroup(33, 0, 4000).0).words, [Some(4000), Some(0), None, None]);
        let (mut words, said) = cgroup(15, 0, 5000);
        words[AT_FAULTS + 1] = 3;
        learner.compare(&words, &said);
        let (words, said) = cgroup(16, 0, 6000);
        (0..9).for_each(|_| learner.compare(&words, &said));
        assert_eq!(places(&learner), [AT_FAULTS as u64 + 1, 0], "it is another line's word");
    }

    #[test]
    fn what_has_two_places_so_far_waits_for_a_cgroup_that_tells_them_apart() {
        let mut learner = learned(&[cgroup(1, 5, 0), cgroup(1, 6, 0), cgroup(1, 7, 0)]);
        let shmem = |learner: &Learner| learner.figures(&cgroup(0, 9, 0).0).of_type(MemoryType::Shmem);
        assert_eq!(shmem(&learner), None);
        assert_ne!(learner.unknown(), 0);
        for pages in 20..27 {
            let (mut words, said) = cgroup(1, pages, 0);
            words[16] += 3;
            learner.compare(&words, &said);
        }
        assert_eq!(shmem(&learner), Some(9 * 4096));
    }

    #[test]
    fn cgroups_at_work_tell_nothing_and_a_place_that_matches_no_more_is_given_up() {
        let mut learner = learned(&[cgroup(10, 0, 700), cgroup(11, 0, 800)]);
        let (words, said) = cgroup(12, 0, 900);
        for at_work in 1..30 {
            let mut later = words;
            (later[ANON], later[AT_FAULTS]) = (words[ANON] + at_work, words[AT_FAULTS] + 5000 * at_work);
            learner.compare(&later, &said);
        }
        assert_eq!(learner.end_words(), EndWords::default());
        learner.compare(&words, &said);
        assert_ne!(learner.end_words(), EndWords::default());
        for at_work in 1..=u64::from(MISSES) + 1 {
            assert_ne!(learner.end_words(), EndWords::default(), "{at_work}");
            let (words, _) = cgroup(12, 0, 900 + at_work);
            learner.compare(&words, &said);
            learner.compare(&words, &said);
            learner.walked();
        }
        assert_eq!(learner.end_words(), EndWords::default());
    }

    #[test]
    fn what_is_below_0_for_a_moment_is_nothing() {
        let learner = learned(&[cgroup(10, 0, 1), cgroup(11, 0, 2), cgroup(12, 0, 3)]);
        let (mut words, _) = cgroup(0, 0, 0);
        words[ANON] = u64::MAX;
        assert_eq!(learner.figures(&words).of_type(MemoryType::Anon), Some(0));
    }
}
