//! What the collector `tasks` is made of, and how it starts.

use std::{error::Error, sync::Arc};

use podlens_common::tasks::{Processes, TaskRecord, TaskWalk};

use super::{Tasks, metrics};
use crate::{
    collectors::spec::{Kind, Part, Program, Spec, Start, Started},
    kernel::{hooks::Hook, iterator::Iterator, mapped::MappedArray, maps::Map, missed::MissedRuns},
    signal::Loss,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "tasks",
    about: "tasks by state, processes that began and ended",
    kind: Kind::Programs,
    is_optional: true,
    switch: None,
    parts: &[
        Part {
            without: Some("counts of processes are missing"),
            programs: &[
                Program::on_tracepoint(FORK, "sched_process_fork", &["task_struct", "task_struct"]),
                Program::on_tracepoint(EXIT, "sched_process_exit", &["task_struct"]),
            ],
            maps: &[Map::per_slot("PROCESSES", 1), Map::fixed("ENDED")],
            ..Part::BASE
        },
        Part {
            without: Some("tasks by state are missing"),
            programs: &[Program::on("task_walk", Hook::TaskIterator)],
            maps: &[Map::fixed("TASK_RECORDS_OF"), Map::fixed("TASK_WALK"), Map::fixed("WALK")],
            ..Part::BASE
        },
    ],
    wishes: &[],
    without: None,
    metrics: &[&metrics::TASKS, &metrics::CREATED, &metrics::EXITED],
    records: &[],
    events: &[],
    losses: &[&WALK_UNFINISHED, &MISSED_PROCESS],
    start,
};

const FORK: &str = "process_fork";
const EXIT: &str = "process_exit";

/// The tasks by state are not those of now.
pub(super) static WALK_UNFINISHED: Loss = Loss {
    reason: "walk_unfinished",
    means: "a walk through the node's tasks did not finish, three times in a row: there are more than 131,072 tasks and processes, tasks end faster than the walk advances, or this kernel's lists differ. `podlens_tasks` is absent until a walk finishes; report it if it continues",
};

/// A program did not run.
pub(super) static MISSED_PROCESS: Loss = Loss {
    reason: "missed_process",
    means: "a process or thread began or ended while another one was being counted on the same CPU, which is possible on kernels from 7.0 on, where a task can be preempted in the middle of that: a process is missing in `podlens_processes_created_total` or `podlens_processes_exited_total`",
};

/// What counts processes.
#[derive(Debug)]
pub struct ProcessMaps {
    /// By slot.
    pub counts: MappedArray<Processes>,
    /// How often a program was left out.
    pub missed: MissedRuns,
}

/// The walk through all tasks and what it writes.
#[derive(Debug)]
pub struct WalkMaps {
    /// Starts it.
    pub iterator: Iterator,
    /// What it met.
    pub records: MappedArray<TaskRecord>,
    /// How it ended.
    pub result: MappedArray<TaskWalk>,
}

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let processes = if start.runs(FORK) {
        let missed = start.object.missed_runs(&[FORK, EXIT])?;
        Some(ProcessMaps { counts: start.object.array("PROCESSES")?, missed })
    } else {
        None
    };
    let walk = if start.runs("task_walk") {
        Some(WalkMaps {
            iterator: start.object.iterator("task_walk")?,
            records: start.object.array("TASK_RECORDS_OF")?,
            result: start.object.array("TASK_WALK")?,
        })
    } else {
        None
    };
    Ok(Started::whole(Tasks::new(Arc::clone(&start.layout), processes, walk)))
}
