//! Runs a walk of the kernel programs through a tree of cgroups until it has come round. For any collector that has one.

use std::path::Path;

use bytemuck::Pod;
use podlens_common::tree::{BATCH, TreeWalk};

use crate::kernel::{host, iterator::Iterator, mapped::MappedArray};

/// Runs of the program in one walk: 131,072 cgroups at most.
const RUNS: u64 = 1024;
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
}

impl<R: Pod> TreeReader<R> {
    pub(super) fn new(iterator: Iterator, walk: MappedArray<TreeWalk>, records: MappedArray<R>) -> Self {
        Self { iterator, walk, records, nodes: host::memory_nodes(Path::new(NODES)) }
    }

    /// Memory nodes of the machine.
    pub(super) fn nodes(&self) -> u32 {
        self.nodes
    }

    /// Walks through all cgroups, each before those below it, and takes each record in; none if the walk did not come round.
    /// `new`: nothing taken in, from which a walk begins, perhaps not for the first time.
    pub(super) fn walk<S>(&self, new: impl Fn() -> S, mut take: impl FnMut(&mut S, &R)) -> Option<S> {
        (0..WALKS).find_map(|_| self.walk_round(new(), &mut take))
    }

    fn walk_round<S>(&self, mut taken: S, take: &mut impl FnMut(&mut S, &R)) -> Option<S> {
        // A cgroup takes as much longer as there are nodes.
        let most = (BATCH / self.nodes.max(1)).max(8).into();
        self.walk.set(0, TreeWalk { most, nodes: self.nodes.into(), ..TreeWalk::default() });
        for run in 1..=RUNS {
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
