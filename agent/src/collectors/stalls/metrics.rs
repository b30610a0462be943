//! Metrics of stalls for memory, and of major faults.

use podlens_common::stalls::StallReason;

use crate::signal::{Kind, Label, LabelValues, Metric, Unit};

/// Stalls for memory.
pub static STALLS: Metric = Metric {
    name: "podlens_memory_stall_seconds",
    otlp_name: "podlens.memory.stall",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    help: "How long tasks did not go on for want of memory, each time: freeing memory since the node is short of it, or waiting until others have freed some (direct_reclaim) or since their cgroup is at a limit or above memory.high (memcg_reclaim), put to sleep for being above memory.high (memory_high), moving pages together (compaction), waiting for a page that was in memory a short while ago or in swap (refault). What a user asked for, as by memory.reclaim, is none. Who took the memory meanwhile is not told: see docs/overhead.md",
    labels: &[Label { name: "reason", values: LabelValues::Fixed(&StallReason::NAMES) }],
    source: "mm_vmscan_direct_reclaim_*, mm_vmscan_memcg_reclaim_*, mm_compaction_*, sleeps with in_memstall",
    must_equal: "the sum: memory.pressure of the cgroup of a pinned task, within 2 %, but for what is pressure there and CPU time here: what the task runs to hand over the reading of a page that comes back, and to take a page after direct_reclaim (docs/stalls.md)",
    ..Metric::BASE
};

/// Major faults.
pub static FAULTS: Metric = Metric {
    name: "podlens_major_fault_seconds",
    otlp_name: "podlens.major_fault",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    help: "How long tasks slept for a device in each major page fault, without the time that it took to get a CPU again: the task's last such sleep since its fault before, and 0 if there was none. Faults of the kernel on a task's behalf, as for direct input and output, are not among them",
    source: "the software event of major faults, sched_switch",
    must_equal: "the count: ru_majflt of getrusage, exactly; the sum: io.pressure of the cgroup of a pinned task that waits for nothing else, within 2 %",
    ..Metric::BASE
};
