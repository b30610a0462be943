//! The scheduler's metrics.

use podlens_common::scheduler::{Cause, OffCpu, SwitchKind};

use crate::signal::{ByDefault, Kind, Label, LabelValues, Metric, Split, Unit};

/// Time on a CPU.
pub static CPU: Metric = Metric {
    name: "podlens_cpu_seconds_total",
    otlp_name: "container.cpu.time",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "Time that tasks spent on a CPU, including the slices that still run and without time that the hypervisor took",
    source: "sched_switch, the run queue's clocks",
    must_equal: "cpu.stat usage and cpuacct.usage within 1 %",
    ..Metric::BASE
};

/// Waits for a CPU.
pub static RUN_QUEUE_LATENCY: Metric = Metric {
    name: "podlens_runqueue_latency_seconds",
    otlp_name: "podlens.runqueue.latency",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    help: "Waits of runnable tasks for a CPU, from the entry in its run queue to the dispatch, without throttled time; a wait that continues in another CPU's queue is one observation per queue",
    source: "sched_switch, sched_migrate_task, sched_info",
    must_equal: "the sum: run_delay of /proc/PID/schedstat, less podlens_cpu_throttled_wait_seconds_total, within 1 %",
    ..Metric::BASE
};

/// The same waits, by who ran meanwhile.
pub static CPU_WAIT: Metric = Metric {
    name: "podlens_cpu_wait_seconds_total",
    otlp_name: "podlens.cpu.wait",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "Time that runnable tasks waited for a CPU, by the holder of the CPU meanwhile: the container itself, its pod, another pod, a unit of the node or the kernel, nobody; unknown is the part of a wait that lies before the CPU's history or concerns a cgroup without a slot",
    labels: &[Label { name: "cause", values: LabelValues::Fixed(&Cause::NAMES) }],
    by_default: ByDefault::Nonzero,
    source: "sched_switch, each CPU's last 1,024 slices",
    must_equal: "the sum over causes: the sum of podlens_runqueue_latency_seconds, exactly",
    ..Metric::BASE
};

/// The neighbors' and the node's part of the waits, by name.
pub static CPU_WAIT_CAUSED: Metric = Metric {
    name: "podlens_cpu_wait_caused_seconds_total",
    otlp_name: "podlens.cpu.wait.caused",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "Time that runnable tasks waited while a named other pod or unit held the CPU; culprit_pod (other) stands for all culprits that have no series of their own",
    split: Some(Split { of: &CPU_WAIT, combinations: &[Cause::Neighbor.index(), Cause::System.index()] }),
    by_default: ByDefault::Heavy,
    source: "sched_switch, each CPU's last 1,024 slices",
    must_equal: "the sum over culprits: causes neighbor and system, exactly",
    ..Metric::BASE
};

/// The same from the other side: what each made others wait.
pub static CPU_WAIT_INFLICTED: Metric = Metric {
    name: "podlens_cpu_wait_inflicted_seconds_total",
    otlp_name: "podlens.cpu.wait.inflicted",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "Time that runnable tasks of other pods and units waited while this pod or unit held the CPU, for all victims and however short the wait; a wait for a holder whose name is not known counts for nobody",
    source: "sched_switch, each CPU's last 1,024 slices",
    must_equal: "the sum of podlens_cpu_wait_caused_seconds_total by this pod or unit, exactly, where `series.allow` names that metric, as long as all victims exist and none has more than 16 culprits",
    ..Metric::BASE
};

/// Throttled time that looked like waiting.
pub static THROTTLED_WAIT: Metric = Metric {
    name: "podlens_cpu_throttled_wait_seconds_total",
    otlp_name: "podlens.cpu.throttled_wait",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "Time that runnable tasks spent in the run queue while a quota of their own group stopped them, summed over tasks; no other metric includes it",
    by_default: ByDefault::Nothing,
    source: "the group's throttled time, read at each dispatch",
    must_equal: "run_delay of /proc/PID/schedstat less the wait",
    ..Metric::BASE
};

/// Throttles by their length.
pub static THROTTLE_LATENCY: Metric = Metric {
    name: "podlens_cpu_throttle_latency_seconds",
    otlp_name: "podlens.cpu.throttle.latency",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    help: "How long each throttle stopped tasks of the container on a CPU, because of its own quota or a quota above it. One observation per CPU and cgroup, recorded at the next dispatch there",
    source: "the group's throttled time, read at each dispatch",
    must_equal: "the sum: throttled_usec of cpu.stat, where the container's own group has the quota, within 1 %",
    ..Metric::BASE
};

/// Time off the CPU.
pub static OFF_CPU: Metric = Metric {
    name: "podlens_offcpu_seconds_total",
    otlp_name: "podlens.offcpu",
    kind: Kind::Counter,
    unit: Unit::Seconds,
    help: "Time that tasks were blocked, summed over tasks, recorded at their next dispatch: sleep (until something happens, including stopped tasks) or disk (sleep that no signal ends)",
    labels: &[Label { name: "state", values: LabelValues::Fixed(&OffCpu::NAMES) }],
    by_default: ByDefault::Nothing,
    source: "sched_switch, sched_info",
    must_equal: "time passed less CPU time and wait, of a pinned task, within 1 %",
    ..Metric::BASE
};

/// Migrations.
pub static MIGRATIONS: Metric = Metric {
    name: "podlens_cpu_migrations_total",
    otlp_name: "podlens.cpu.migrations",
    kind: Kind::Counter,
    unit: Unit::Count("migration"),
    help: "Moves of tasks from one CPU to another",
    by_default: ByDefault::Nothing,
    source: "sched_migrate_task",
    must_equal: "nr_migrations of /proc/PID/sched, exactly",
    ..Metric::BASE
};

/// Switches.
pub static CONTEXT_SWITCHES: Metric = Metric {
    name: "podlens_context_switches_total",
    otlp_name: "podlens.context_switches",
    kind: Kind::Counter,
    unit: Unit::Count("switch"),
    help: "Context switches away from a task, because it blocked (voluntary) or because another task had to run (involuntary)",
    labels: &[Label { name: "kind", values: LabelValues::Fixed(&SwitchKind::NAMES) }],
    by_default: ByDefault::Nothing,
    source: "sched_switch",
    must_equal: "ru_nvcsw and ru_nivcsw of getrusage, exactly",
    ..Metric::BASE
};
