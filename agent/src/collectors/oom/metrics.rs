//! Metrics of OOM kills.

use podlens_common::oom::OomScope;

use crate::signal::{ByDefault, Kind, Label, LabelValues, Metric, Unit};

/// Kills for want of memory.
pub static OOM_KILLS: Metric = Metric {
    name: "podlens_oom_kills_total",
    otlp_name: "podlens.oom.kills",
    kind: Kind::Counter,
    unit: Unit::Count("process"),
    help: "Processes that the kernel killed for want of memory, in any cgroup of the container, each once, by the limit that led to the kill: that of the container or unit itself or of a cgroup inside it (container), of its pod (pod), of a cgroup further up (ancestor), none (node: also where a cpuset or a memory policy was short of memory); other where the kill's record was lost or does not decide it",
    labels: &[Label { name: "scope", values: LabelValues::Fixed(&OomScope::NAMES) }],
    // The others are rare, and alerts count a series that begins with its first kill.
    by_default: ByDefault::AtLeast(&[OomScope::Container.index()]),
    source: "mark_victim, mm_vmscan_direct_reclaim_begin, mm_vmscan_memcg_reclaim_begin, and memory_events_local of the victim's mem_cgroup",
    must_equal: "oom_kill of memory.events (version 1: memory.oom_control), exactly, less the first victim of a group kill, which the kernel counts twice",
    ..Metric::BASE
};
