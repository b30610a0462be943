//! How the walks through trees of cgroups are told to go and tell how far they are. What they write is each one's own record.

use bytemuck::{Pod, Zeroable};

/// Cgroups that one run of a walk meets at most, and so many records it may write: the daemon takes them before the next run.
pub const BATCH: u32 = 64;

/// One walk through a tree of cgroups. The daemon sets `runs` to 0 to have it begin anew.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct TreeWalk {
    /// Cgroups that a run may meet, [`BATCH`] at most; the daemon's.
    pub most: u64,
    /// Memory nodes of the machine; the daemon's.
    pub nodes: u64,
    /// Which tree, for a walk that knows several; the daemon's.
    pub tree: u64,
    /// Runs that it took so far; 0 has the next one begin anew.
    pub runs: u64,
    /// 1: it came round to where it began.
    pub finished: u64,
    /// 1: it cannot go on.
    pub lost: u64,
    /// Records that the last run wrote.
    pub records: u64,
    /// Cgroups that the last run met.
    pub met: u64,
    /// Where it began: the root's state, as the address in the kernel.
    pub root: u64,
    /// Where it is, likewise.
    pub at: u64,
    /// What tells that there is no other one by now; as of a run's end.
    pub serial: u64,
    /// The state above that one; 0 at the root.
    pub above: u64,
    /// How far below the root that is.
    pub depth: u64,
    /// 1: all below has been met.
    pub climbs: u64,
}

const _: () = assert!(size_of::<TreeWalk>() == 112);
