//! Records of the collector `memory`.

use bytemuck::{Pod, Zeroable};

use crate::{
    event::{self, EndPath},
    label::label,
};

/// What had happened to a cgroup of the version 2 tree by its removal: [`MemoryEnd`]. Comes before the removal.
pub const LAST_WORDS: u32 = event::kind("memory.last_words");
/// The same of a cgroup of the version 1 memory hierarchy: [`MemoryEndAt`]. Its other hierarchies' removals may come before.
pub const LAST_WORDS_V1: u32 = event::kind("memory.last_words_v1");

label! {
    /// What happened at a cgroup's limits, as memory.events tells it.
    MemoryEvent {
        /// Reclaimed though it used less than its lower protection.
        Low = "low",
        /// Reclaimed and slowed down since it used more than memory.high.
        High = "high",
        /// Was about to go over its limit.
        Max = "max",
        /// Reached its limit, and an allocation was about to fail.
        Oom = "oom",
        /// A process was killed.
        OomKill = "oom_kill",
        /// All processes were killed together.
        OomGroupKill = "oom_group_kill",
    }
}

label! {
    /// The lists on which a cgroup's pages are.
    LruList {
        /// Anonymous pages and shared memory, not used for long.
        InactiveAnon = "inactive_anon",
        /// The same, used.
        ActiveAnon = "active_anon",
        /// Pages of files, not used for long.
        InactiveFile = "inactive_file",
        /// The same, used.
        ActiveFile = "active_file",
        /// Pages that cannot be reclaimed.
        Unevictable = "unevictable",
    }
}

label! {
    /// What memory is used for.
    MemoryType {
        /// Anonymous memory: heaps and stacks.
        Anon = "anon",
        /// Pages of files, used.
        FileActive = "file_active",
        /// The same, not used for long.
        FileInactive = "file_inactive",
        /// Shared memory and files in tmpfs.
        Shmem = "shmem",
        /// The kernel's objects that can be given back.
        SlabReclaimable = "slab_reclaimable",
        /// Those that cannot.
        SlabUnreclaimable = "slab_unreclaimable",
        /// Stacks of threads in the kernel.
        KernelStack = "kernel_stack",
        /// Page tables.
        PageTables = "page_tables",
        /// Buffers of sockets.
        Socket = "socket",
        /// What is in swap.
        Swap = "swap",
        /// What is in compressed swap, compressed.
        Zswap = "zswap",
        /// Pages that cannot be reclaimed.
        Unevictable = "unevictable",
    }
}

/// Memory nodes of which lists are read.
pub const NODES: u32 = 16;
/// Words of the kernel's statistics in a record.
pub const WORDS: usize = 80;

/// One cgroup of the memory tree. Amounts are pages.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct MemoryRecord {
    /// Its id in the memory tree; 0 stands for removed ones that still hold pages, any number of them together.
    pub id: u64,
    /// How far below the root it is. Those below it follow it.
    pub depth: u64,
    /// Pages that count against the limit.
    pub usage: u64,
    /// The most that it ever was.
    pub peak: u64,
    /// The limit.
    pub max: u64,
    /// `memory.high`.
    pub high: u64,
    /// `memory.low`.
    pub low: u64,
    /// `memory.min`.
    pub min: u64,
    /// Version 2: pages in swap; version 1: pages in memory and in swap.
    pub swap: u64,
    /// Events, those of cgroups below included where the kernel adds them up.
    pub events: [u64; MemoryEvent::COUNT],
    /// Its own events.
    pub local_events: [u64; MemoryEvent::COUNT],
    /// Its own pages by list, without those of cgroups below.
    pub lists: [u64; LruList::COUNT],
    /// The kernel's statistics, those of cgroups below included: their order is the kernel's own.
    pub words: [u64; WORDS],
}

label! {
    /// Statistics that a cgroup's last words have.
    EndWord {
        /// Page faults.
        Fault = "pgfault",
        /// Those of them that read from a disk.
        MajorFault = "pgmajfault",
        /// Pages of anonymous memory that came back after their eviction.
        RefaultAnon = "workingset_refault_anon",
        /// Pages of files that did.
        RefaultFile = "workingset_refault_file",
    }
}

/// Where the statistics of last words stand.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct EndWords {
    /// The position in [`MemoryRecord::words`] and 1; 0 where it is not known.
    pub positions: [u64; EndWord::COUNT],
}

/// What had happened to a cgroup of the memory tree by its removal.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct MemoryEnd {
    /// Events, those of cgroups below included where the kernel adds them up.
    pub events: [u64; MemoryEvent::COUNT],
    /// Its own events.
    pub local_events: [u64; MemoryEvent::COUNT],
    /// Statistics, with what each CPU has not yet handed on.
    pub words: [u64; EndWord::COUNT],
    /// A bit for each of them that is known.
    pub known: u64,
    /// The most that there ever was, in pages.
    pub peak: u64,
}

/// The same with the cgroup's path.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct MemoryEndAt {
    /// What had happened to it.
    pub end: MemoryEnd,
    /// Its path.
    pub path: EndPath,
}

const _: () = assert!(size_of::<MemoryRecord>() == 106 * 8);
const _: () = assert!(size_of::<EndWords>() == 32);
const _: () = assert!(size_of::<MemoryEnd>() == 144);
const _: () = assert!(size_of::<MemoryEndAt>() == 144 + EndPath::BYTES);
