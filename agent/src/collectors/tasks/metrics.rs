//! Metrics of tasks and processes.

use podlens_common::tasks::TaskState;

use crate::signal::{ByDefault, Kind, Label, LabelValues, Metric, Unit};

/// Tasks by state.
pub static TASKS: Metric = Metric {
    name: "podlens_tasks",
    otlp_name: "podlens.tasks",
    kind: Kind::Gauge,
    unit: Unit::Count("task"),
    help: "Tasks (threads) by state, as of a walk through all of them at most 10 s ago: running on a CPU, waiting for one, sleeping (including idle, stopped and traced tasks), in a sleep that no signal ends (disk)",
    labels: &[Label { name: "state", values: LabelValues::Fixed(&TaskState::NAMES) }],
    by_default: ByDefault::Only(&[TaskState::Disk.index()]),
    source: "the kernel's list of processes",
    must_equal: "states R, S and D of /proc/PID/task/TID/stat, R split by whether the task has a CPU",
    ..Metric::BASE
};

/// Births of processes.
pub static CREATED: Metric = Metric {
    name: "podlens_processes_created_total",
    otlp_name: "podlens.processes.created",
    kind: Kind::Counter,
    unit: Unit::Count("process"),
    help: "Processes (not threads) that began in the cgroup; a process that is moved later counts in the cgroup where it began",
    by_default: ByDefault::Nonzero,
    source: "sched_process_fork",
    must_equal: "the count of forks of a test, exactly",
    ..Metric::BASE
};

/// Ends of processes.
pub static EXITED: Metric = Metric {
    name: "podlens_processes_exited_total",
    otlp_name: "podlens.processes.exited",
    kind: Kind::Counter,
    unit: Unit::Count("process"),
    help: "Processes whose last thread ended in the cgroup",
    by_default: ByDefault::Nothing,
    source: "sched_process_exit",
    must_equal: "the count of ended children of a test, exactly",
    ..Metric::BASE
};
