//! Metrics of stalls for memory, and of major faults.

use podlens_common::stalls::StallReason;

use crate::signal::{Kind, Label, LabelValues, Metric, Unit};

/// Stalls for memory.
pub static STALLS: Metric = Metric {
    name: "podlens_memory_stall_seconds",
    otlp_name: "podlens.memory.stall",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    help: "How long each stall of a task for want of memory lasted. The task frees memory because the node is short of it, or waits until others have freed some (direct_reclaim); frees memory because its cgroup is at a limit or above memory.high (memcg_reclaim); sleeps because its cgroup is above memory.high (memory_high); moves pages together (compaction); or waits for a page that was in memory a short while ago, or is in swap (refault). Reclaim that a user requests, as by memory.reclaim, is no stall. podlens does not know which cgroup took the memory: see docs/overhead.md",
    labels: &[Label { name: "reason", values: LabelValues::Fixed(&StallReason::NAMES) }],
    source: "mm_vmscan_direct_reclaim_*, mm_vmscan_memcg_reclaim_*, mm_compaction_*, sleeps with in_memstall",
    must_equal: "the sum: memory.pressure of the cgroup of a pinned task, within 2 %, except for CPU time of the task that the kernel counts as pressure: to hand over the reading of a page that comes back, and to take a page after direct_reclaim (docs/stalls.md)",
    ..Metric::BASE
};

/// Major faults.
pub static FAULTS: Metric = Metric {
    name: "podlens_major_fault_seconds",
    otlp_name: "podlens.major_fault",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    help: "How long a task slept for a device in each major page fault, without its wait for a CPU after that: the task's last such sleep since its previous fault, and 0 if there was none. Faults of the kernel on a task's behalf, as for direct input and output, do not count",
    source: "the software event of major faults, sched_switch",
    must_equal: "the count: ru_majflt of getrusage, exactly; the sum: io.pressure of the cgroup of a pinned task that waits for nothing else, within 2 %",
    ..Metric::BASE
};
