//! What the collector `tasks` is made of, and how it starts.

use std::{error::Error, sync::Arc};

use podlens_common::tasks::{TaskRecord, TaskWalk};

use super::{Tasks, metrics};
use crate::{
    collectors::spec::{Kind, Part, Program, Spec, Start, Started},
    kernel::{hooks::Hook, iterator::Iterator, mapped::MappedArray, maps::Map},
    signal::Loss,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "tasks",
    about: "tasks by state, processes that began and ended",
    kind: Kind::Programs,
    is_optional: true,
    parts: &[
        Part {
            without: Some("counts of processes are missing"),
            for_events: false,
            programs: &[
                Program::on_tracepoint("process_fork", "sched_process_fork", &["task_struct", "task_struct"]),
                Program::on_tracepoint("process_exit", "sched_process_exit", &["task_struct"]),
            ],
            maps: &[Map::per_slot("PROCESSES", 1), Map::fixed("ENDED")],
        },
        Part {
            without: Some("tasks by state are missing"),
            for_events: false,
            programs: &[Program::on("task_walk", Hook::TaskIterator)],
            maps: &[Map::fixed("TASK_RECORDS_OF"), Map::fixed("TASK_WALK"), Map::fixed("WALK")],
        },
    ],
    wishes: &[],
    without: None,
    metrics: &[&metrics::TASKS, &metrics::CREATED, &metrics::EXITED],
    records: &[],
    events: &[],
    losses: &[&WALK_UNFINISHED],
    start,
};

/// The tasks by state are not those of now.
pub(super) static WALK_UNFINISHED: Loss = Loss {
    reason: "walk_unfinished",
    means: "a walk through the node's tasks did not come round, three times in a row: more than 131,072 tasks and processes, tasks that end faster than the walk goes on, or a kernel whose lists differ. There are no `podlens_tasks` until one does; report it if it goes on",
};

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
    let processes = if start.runs("process_fork") { Some(start.object.array("PROCESSES")?) } else { None };
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
