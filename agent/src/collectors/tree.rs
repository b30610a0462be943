//! Runs a walk of the kernel programs through a tree of cgroups until it has come round, and says when one is due. For any
//! collector that has one; the walk through tasks is due by the same rule.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytemuck::Pod;
use podlens_common::tree::{BATCH, TreeWalk};

use crate::kernel::{host, iterator::Iterator, mapped::MappedArray};

/// Cgroups that one walk meets at most.
const MOST: u64 = 131_072;
/// Cgroups that a run meets at least, however much there is to be read of each.
const LEAST: u32 = 8;
/// As many CPUs' counts take as long to be read as one memory node's.
const CPUS_A_NODE: u32 = 16;
/// Walks that are begun, one after the other, if the cgroup at which one had stopped has gone.
const WALKS: u32 = 3;
/// Walks that are made for a cgroup which none has met.
const WALKS_FOR_NEW: u32 = 3;
/// What the kernel tells of the machine's memory nodes.
const NODES: &str = "/sys/devices/system/node";

/// A walk and what it writes: a record for each cgroup that it meets.
#[derive(Debug)]
pub(super) struct TreeReader<R> {
    iterator: Iterator,
    walk: MappedArray<TreeWalk>,
    records: MappedArray<R>,
    nodes: u32,
    /// So much longer than a simple one a cgroup takes.
    effort: u32,
}

impl<R: Pod> TreeReader<R> {
    pub(super) fn new(iterator: Iterator, walk: MappedArray<TreeWalk>, records: MappedArray<R>) -> Self {
        let nodes = host::memory_nodes(Path::new(NODES));
        Self { iterator, walk, records, nodes, effort: nodes }
    }

    /// The same where something is read of each CPU, of which there may be so many.
    pub(super) fn of_cpus(self, cpus: u32) -> Self {
        Self { effort: cpus / CPUS_A_NODE, ..self }
    }

    /// Memory nodes of the machine.
    pub(super) fn nodes(&self) -> u32 {
        self.nodes
    }

    /// Walks through all cgroups of the only tree that the walk knows, each before those below it, and takes each record in; none if
    /// the walk did not come round.
    /// `new`: nothing taken in, from which a walk begins, perhaps not for the first time.
    pub(super) fn walk<S>(&self, new: impl Fn() -> S, take: impl FnMut(&mut S, &R)) -> Option<S> {
        self.walk_through(TreeWalk::default().tree, new, take)
    }

    /// The same through one of several trees that the walk knows.
    pub(super) fn walk_through<S>(
        &self,
        tree: u64,
        new: impl Fn() -> S,
        mut take: impl FnMut(&mut S, &R),
    ) -> Option<S> {
        (0..WALKS).find_map(|_| self.walk_round(tree, new(), &mut take))
    }

    fn walk_round<S>(&self, tree: u64, mut taken: S, take: &mut impl FnMut(&mut S, &R)) -> Option<S> {
        let most = u64::from((BATCH / self.effort.max(1)).max(LEAST));
        self.walk.set(0, TreeWalk { most, nodes: self.nodes.into(), tree, ..TreeWalk::default() });
        for run in 1..=MOST / most {
            self.iterator.run().ok()?;
            let now = self.walk.get(0)?;
            if now.runs != run || now.lost == 1 {
                return None;
            }
            for at in 0..usize::try_from(now.records).ok()? {
                take(&mut taken, &self.records.get(at)?);
            }
            if now.finished == 1 {
                return Some(taken);
            }
        }
        None
    }
}

/// When a collector walks. Pure, with the caller's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct WalkSchedule {
    /// Least time between two walks, unless there is a new cgroup.
    interval: Duration,
    /// When the last walk began; none before the first.
    last: Option<Instant>,
    unfinished: u64,
}

impl WalkSchedule {
    pub(super) fn every(interval: Duration) -> Self {
        Self { interval, last: None, unfinished: 0 }
    }

    /// It is time for a walk. `unmet`: of each cgroup that no walk has met how many have looked for it, in vain.
    pub(super) fn is_due(&self, now: Instant, unmet: impl IntoIterator<Item = u32>) -> bool {
        self.last.is_none_or(|last| now.duration_since(last) >= self.interval)
            || unmet.into_iter().any(|walks| walks < WALKS_FOR_NEW)
    }

    /// A walk begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// The walk did not come round.
    pub(super) fn lose(&mut self) {
        self.unfinished += 1;
    }

    /// When the last walk began; none before the first.
    pub(super) fn last(&self) -> Option<Instant> {
        self.last
    }

    /// Walks that did not come round.
    pub(super) fn unfinished(&self) -> u64 {
        self.unfinished
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    #[test]
    fn a_walk_is_due_at_first_then_after_its_interval_and_three_times_for_a_new_cgroup() {
        let (began, interval) = (Instant::now(), Duration::from_secs(10));
        let mut walks = WalkSchedule::every(interval);
        assert!(walks.is_due(began, iter::empty()), "none was made");
        walks.begin(began);
        let soon = began + Duration::from_secs(1);
        for (unmet, expected) in [(&[][..], false), (&[0], true), (&[3, 2], true), (&[3, 4], false)] {
            assert_eq!(walks.is_due(soon, unmet.iter().copied()), expected, "{unmet:?}");
        }
        assert!(!walks.is_due(began + Duration::from_millis(9_999), iter::empty()));
        assert!(walks.is_due(began + interval, iter::empty()));
    }
}
