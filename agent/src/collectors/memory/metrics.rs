//! Metrics of a cgroup's memory.

use podlens_common::memory::{MemoryEvent, MemoryType};

use crate::signal::{Aggregation, ByDefault, Kind, Label, LabelValues, Metric, Unit};

const BYTES: Metric = Metric { kind: Kind::Gauge, unit: Unit::Bytes, ..Metric::BASE };

/// Memory by what it is used for.
pub static MEMORY: Metric = Metric {
    name: "podlens_memory_bytes",
    otlp_name: "podlens.memory",
    help: "Memory by its use, including the cgroups below; the other types do not include swap and zswap. The values of a pod's own cgroup (container=\"\") and of a plain one leave out the cgroups below that have values of their own, and exist only where the walk runs. A type has no sample if it is 0 or if this kernel does not report it: version 1 reports neither the kernel's own types nor sockets",
    labels: &[Label { name: "type", values: LabelValues::Fixed(&MemoryType::NAMES) }],
    sparse: true,
    by_default: ByDefault::Only(&[
        MemoryType::Anon.index(),
        MemoryType::FileActive.index(),
        MemoryType::Shmem.index(),
        MemoryType::Swap.index(),
    ]),
    source: "lists of pages and the page counter of swap in a walk through the memory tree at most 10 s ago; all else memory.stat, read every 30 s, or the same words in the walk where podlens knows their places",
    must_equal: "lines of memory.stat (version 1: the total_ lines) and memory.swap.current",
    ..BYTES
};

/// What counts against the limit.
pub static USAGE: Metric = Metric {
    name: "podlens_memory_usage_bytes",
    otlp_name: "container.memory.usage",
    help: "All memory that counts against the limit, including pages of files that the kernel can reclaim at any time. A pod's own cgroup (container=\"\") has the memory that no living container of the pod has, such as files in memory that an ended one left behind: the sum over a pod counts against the pod's limit. A pod's own cgroup and a plain one have a sample only where the walk runs",
    source: "page counter of the memory controller, at most 10 s ago; else memory.current",
    must_equal: "memory.current (version 1: memory.usage_in_bytes)",
    ..BYTES
};

/// What the kubelet goes by.
pub static WORKING_SET: Metric = Metric {
    name: "podlens_memory_working_set_bytes",
    otlp_name: "container.memory.working_set",
    help: "Usage without the pages of files that were not used for long, as the kubelet counts it. It includes active pages of files, which the kernel can reclaim: see podlens_memory_unreclaimable_bytes",
    source: "page counter and lists of pages, at most 10 s ago; else memory.current and memory.stat",
    must_equal: "memory.current less inactive_file of memory.stat",
    ..BYTES
};

/// What no reclaim gives back.
pub static UNRECLAIMABLE: Metric = Metric {
    name: "podlens_memory_unreclaimable_bytes",
    otlp_name: "podlens.memory.unreclaimable",
    help: "Usage without all pages of files except those in tmpfs, and without the kernel's objects that can be reclaimed: the memory that reclaim cannot free without swap. When it reaches the limit, the next allocation ends in an OOM kill. No sample where the kernel does not report its objects (version 1)",
    source: "page counter, lists of pages and slab_reclaimable, as above",
    must_equal: "memory.current less active_file, inactive_file and slab_reclaimable of memory.stat",
    ..BYTES
};

/// The most that there ever was.
pub static PEAK: Metric = Metric {
    name: "podlens_memory_peak_bytes",
    otlp_name: "podlens.memory.peak",
    aggregation: Aggregation::Max,
    kept_after_removal: true,
    help: "The highest usage since the cgroup was made, or since somebody reset the value; a removed cgroup keeps its highest usage until that is exported",
    source: "page counter, at most 10 s ago and at the removal; else memory.peak",
    must_equal: "memory.peak (version 1: memory.max_usage_in_bytes)",
    ..BYTES
};

/// The limit. Where this collector is off, `names` tells that of the pod's specification under this name.
pub static LIMIT: Metric = Metric {
    name: "podlens_memory_limit_bytes",
    otlp_name: "podlens.memory.limit",
    help: "Memory that the cgroup may use at most; no sample without a limit. A pod's own limit has container=\"\"",
    source: "page counter, at most 10 s ago; else memory.max; the pod object where the collector is off",
    must_equal: "memory.max (version 1: memory.limit_in_bytes)",
    ..BYTES
};

/// Where it is slowed down.
pub static HIGH: Metric = Metric {
    name: "podlens_memory_high_bytes",
    otlp_name: "podlens.memory.high",
    help: "Usage above which the kernel reclaims the cgroup's memory and slows its tasks down; no sample without such a limit",
    source: "page counter, at most 10 s ago; else memory.high",
    must_equal: "memory.high",
    ..BYTES
};

/// What others' reclaim leaves to it.
pub static PROTECTION: Metric = Metric {
    name: "podlens_memory_protection_bytes",
    otlp_name: "podlens.memory.protection",
    help: "Usage up to which the kernel spares the cgroup when others need memory: always (min), or as long as it can reclaim anything else (low); no sample without a protection",
    labels: &[Label { name: "kind", values: LabelValues::Fixed(&["min", "low"]) }],
    sparse: true,
    source: "page counter, at most 10 s ago; else memory.min and memory.low",
    must_equal: "memory.min and memory.low",
    ..BYTES
};

/// What happened at the limits.
pub static EVENTS: Metric = Metric {
    name: "podlens_memory_events_total",
    otlp_name: "podlens.memory.events",
    kind: Kind::Counter,
    unit: Unit::Count("event"),
    help: "Events at the cgroup's limits, including those of cgroups below (version 1: its own alone); a pod's own cgroup has only its own events, such as that its limit was reached. Exact up to the cgroup's end. A kernel before 5.17 does not count oom_group_kill and leaves it at 0",
    labels: &[Label { name: "event", values: LabelValues::Fixed(&MemoryEvent::NAMES) }],
    by_default: ByDefault::Nonzero,
    lifetime: true,
    source: "memory_events of the memory controller, at most 10 s ago and at the removal; else memory.events",
    must_equal: "memory.events, exactly; of a pod's own cgroup memory.events.local",
    ..Metric::BASE
};

/// Faults.
pub static FAULTS: Metric = Metric {
    name: "podlens_page_faults_total",
    otlp_name: "podlens.page_faults",
    kind: Kind::Counter,
    unit: Unit::Count("fault"),
    help: "Page faults: major ones waited for a disk",
    labels: &[Label { name: "type", values: LabelValues::Fixed(&["minor", "major"]) }],
    by_default: ByDefault::Nothing,
    lifetime: true,
    source: "memory.stat, read every 30 s; where podlens knows their places, the same words in the walk and at the removal, with the counts of each CPU that the kernel has not added up yet. Minor faults as of the reading before: which faults were major is known only then",
    must_equal: "pgfault less pgmajfault, and pgmajfault, of memory.stat",
    ..Metric::BASE
};

/// Pages that were missed.
pub static REFAULTS: Metric = Metric {
    name: "podlens_refaults_total",
    otlp_name: "podlens.refaults",
    kind: Kind::Counter,
    unit: Unit::Count("page"),
    help: "Pages that the kernel reclaimed and soon had to read again: the working set does not fit",
    labels: &[Label { name: "type", values: LabelValues::Fixed(&["anon", "file"]) }],
    by_default: ByDefault::Nothing,
    lifetime: true,
    source: "as podlens_page_faults_total",
    must_equal: "workingset_refault_anon and workingset_refault_file of memory.stat",
    ..Metric::BASE
};
