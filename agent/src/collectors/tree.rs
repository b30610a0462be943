//! Runs a walk of the kernel programs through a tree of cgroups until it has come round. For any collector that has one.

use std::path::Path;

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

    /// Walks through all cgroups, each before those below it, and takes each record in; none if the walk did not come round.
    /// `new`: nothing taken in, from which a walk begins, perhaps not for the first time.
    pub(super) fn walk<S>(&self, new: impl Fn() -> S, take: impl FnMut(&mut S, &R)) -> Option<S> {
        self.walk_through(0, new, take)
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
