//! What the collector `scheduler` is made of, and how it starts.

use std::{error::Error, sync::Arc};

use podlens_common::scheduler::{Account, Now, SlotTotals};

use super::{Offers, Scheduler, losses, metrics};
use crate::{
    collectors::spec::{Kind, Part, Program, Spec, Start, Started, Wish},
    kernel::{mapped::MappedArray, maps::Map},
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "scheduler",
    about: "CPU time, waits for a CPU and their causes, time off the CPU, migrations, context switches",
    kind: Kind::Programs,
    is_optional: true,
    switch: None,
    parts: &[
        Part {
            without: Some("migrations and the part of a wait before one are missing"),
            programs: &[Program::on_tracepoint("sched_migrate", "sched_migrate_task", &["task_struct"])],
            ..Part::BASE
        },
        Part {
            programs: &[
                Program::on_tracepoint(
                    "cgroup_attach",
                    "cgroup_attach_task",
                    &["cgroup", "char", "task_struct", "_Bool"],
                ),
                Program::on_tracepoint("sched_switch", "sched_switch", &["_Bool", "task_struct", "task_struct"]),
            ],
            maps: &[
                Map::per_cpu_and_slot("ACCOUNTS"),
                Map::per_cpu("CPUS", 1),
                Map::per_slot("SLOT_TOTALS", 1),
                // The table of threads.
                Map::fixed(".bss"),
            ],
            ..Part::BASE
        },
    ],
    wishes: &[&[
        Wish { of: "throttle", without: "time stopped by a pod's own quota counts as waiting" },
        Wish {
            of: "cfs_rq.throttled_clock_self_time",
            without: "podlens knows the time stopped by a pod's own quota from a clock that slows down with the CPU, and the time that this clock misses counts as waiting",
        },
    ]],
    without: None,
    metrics: &[
        &metrics::CPU,
        &metrics::RUN_QUEUE_LATENCY,
        &metrics::CPU_WAIT,
        &metrics::CPU_WAIT_CAUSED,
        &metrics::CPU_WAIT_INFLICTED,
        &metrics::THROTTLED_WAIT,
        &metrics::THROTTLE_LATENCY,
        &metrics::OFF_CPU,
        &metrics::MIGRATIONS,
        &metrics::CONTEXT_SWITCHES,
    ],
    records: &[],
    events: &[],
    losses: &[&losses::MISSED_SWITCH, &losses::UNKNOWN_SEGMENT, &losses::UNKNOWN_SLEEP],
    start,
};

/// The maps; accounts are indexed by CPU times slots plus slot.
#[derive(Debug)]
pub struct SchedulerMaps {
    /// Accounts, by CPU and slot.
    pub accounts: MappedArray<Account>,
    /// What all CPUs count together, by slot.
    pub totals: MappedArray<SlotTotals>,
    /// What each CPU is doing, with which each entry begins.
    pub cpus: MappedArray<Now>,
    /// How many CPUs are measured.
    pub cpu_count: u32,
    /// How many slots there are.
    pub slot_count: u32,
}

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let offers = Offers { migrations: start.runs("sched_migrate"), throttles: start.has("throttle") };
    let maps = SchedulerMaps {
        accounts: start.object.array("ACCOUNTS")?,
        totals: start.object.array("SLOT_TOTALS")?,
        cpus: start.object.array("CPUS")?,
        cpu_count: start.cpus,
        slot_count: start.slots,
    };
    Ok(Started::whole(Scheduler::new(Arc::clone(&start.layout), maps, offers)))
}
