//! Metrics that the kernel's own files of a cgroup tell.

use crate::signal::{ByDefault, Kind, Label, LabelValues, Metric, Unit};

/// Stopped by the quota: time.
pub static THROTTLED: Metric = Metric {
    name: "podlens_cpu_throttled_seconds_total",
    otlp_name: "podlens.cpu.throttled",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "Time for which the CPU quota stopped the cgroup, summed over CPUs; exact up to the cgroup's end; no sample until a reading finds a quota",
    lifetime: true,
    source: "cfs_bandwidth of the task group, in a walk through the CPU controller's tree at most 4 s ago, and at the removal; else cpu.stat, read every 5 s",
    must_equal: "throttled_usec (version 1: throttled_time) of cpu.stat, exactly",
    ..Metric::BASE
};

/// Stopped by the quota: how often.
pub static PERIODS: Metric = Metric {
    name: "podlens_cpu_periods_total",
    otlp_name: "podlens.cpu.periods",
    kind: Kind::Counter,
    unit: Unit::Count("period"),
    help: "Periods of the CPU quota in which the cgroup had tasks to run, by whether the quota lasted (ran) or stopped it (throttled); exact up to the cgroup's end; no sample until a reading finds a quota",
    labels: &[Label { name: "result", values: LabelValues::Fixed(&["ran", "throttled"]) }],
    lifetime: true,
    source: "cfs_bandwidth of the task group, in a walk through the CPU controller's tree at most 4 s ago, and at the removal; else cpu.stat, read every 5 s",
    must_equal: "nr_periods less nr_throttled, and nr_throttled, of cpu.stat, exactly",
    ..Metric::BASE
};

/// CPU time by mode.
pub static MODE: Metric = Metric {
    name: "podlens_cpu_mode_seconds_total",
    otlp_name: "podlens.cpu.mode",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "CPU time in user and in kernel mode, as the kernel counts it, up to the cgroup's end. Where podlens reads it from files, the value of the last reading stays, and a cgroup that lived between two readings has no sample; podlens_cpu_seconds_total is exact in both cases",
    labels: &[Label { name: "mode", values: LabelValues::Fixed(&["user", "system"]) }],
    by_default: ByDefault::Nothing,
    lifetime: true,
    source: "each CPU's count of the cgroup (version 1: cpuacct's), in a walk at most 4 s ago and at the removal; else cpu.stat, version 1: cpuacct.usage_user and cpuacct.usage_sys; read every 10 s",
    must_equal: "user_usec and system_usec of cpu.stat (version 1: those files), exactly; how version 2 splits usage_usec depends on earlier readings, and those of podlens are separate from those of the file",
    ..Metric::BASE
};

/// The quota. Where this collector is off, `names` tells the limit of the pod's specification under this name.
pub static LIMIT: Metric = Metric {
    name: "podlens_cpu_limit_cores",
    otlp_name: "podlens.cpu.limit",
    kind: Kind::Gauge,
    unit: Unit::Cpus,
    help: "CPUs that the cgroup's quota allows at most; no sample without a quota. A pod's own quota has container=\"\"",
    source: "cfs_bandwidth of the task group, in a walk at most 4 s ago; else cpu.max, version 1: cpu.cfs_quota_us and cpu.cfs_period_us, read every 10 s; the pod object where the collector is off",
    must_equal: "quota by period of cpu.max, version 1: of cpu.cfs_quota_us and cpu.cfs_period_us",
    ..Metric::BASE
};
