//! Metrics that the kernel's own files of a cgroup tell.

use crate::signal::{Kind, Label, LabelValues, Metric, Unit};

/// Stopped by the quota: time.
pub static THROTTLED: Metric = Metric {
    name: "podlens_cpu_throttled_seconds_total",
    otlp_name: "podlens.cpu.throttled",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "Time for which the CPU quota stopped the cgroup, summed over CPUs; exact to the cgroup's end; none while no reading has met a quota",
    source: "cpu.stat, read at most every 5 s; cfs_bandwidth of the task group at the removal",
    must_equal: "throttled_usec (version 1: throttled_time) of cpu.stat, exactly",
    ..Metric::BASE
};

/// Stopped by the quota: how often.
pub static PERIODS: Metric = Metric {
    name: "podlens_cpu_periods_total",
    otlp_name: "podlens.cpu.periods",
    kind: Kind::Counter,
    unit: Unit::Count("period"),
    help: "Periods of the CPU quota in which the cgroup had something to run, by whether it ran to their end or was stopped in them; exact to the cgroup's end; none while no reading has met a quota",
    labels: &[Label { name: "result", values: LabelValues::Fixed(&["ran", "throttled"]) }],
    source: "cpu.stat, read at most every 5 s; cfs_bandwidth of the task group at the removal",
    must_equal: "nr_periods less nr_throttled, and nr_throttled, of cpu.stat, exactly",
    ..Metric::BASE
};

/// CPU time by mode.
pub static MODE: Metric = Metric {
    name: "podlens_cpu_mode_seconds_total",
    otlp_name: "podlens.cpu.mode",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "CPU time in user and in kernel mode, by the kernel's own files; after the cgroup's end as of the last reading before, and none of a cgroup that lived between two readings: podlens_cpu_seconds_total is exact there",
    labels: &[Label { name: "mode", values: LabelValues::Fixed(&["user", "system"]) }],
    source: "cpu.stat, version 1: cpuacct.usage_user and cpuacct.usage_sys; read at most every 5 s",
    must_equal: "user_usec and system_usec of cpu.stat (version 1: those files), exactly",
    ..Metric::BASE
};

/// The quota. Where this collector is off, `names` tells the limit of the pod's specification under this name.
pub static LIMIT: Metric = Metric {
    name: "podlens_cpu_limit_cores",
    otlp_name: "podlens.cpu.limit",
    kind: Kind::Gauge,
    unit: Unit::Cpus,
    help: "CPUs that the cgroup's quota allows at most; none without a quota. A pod's own quota is that of container=\"\"",
    source: "cpu.max, version 1: cpu.cfs_quota_us and cpu.cfs_period_us, read at most every 10 s; the pod object where the collector is off",
    must_equal: "quota by period of those files",
    ..Metric::BASE
};
