//! What the collector `lifecycle` is made of, and how it starts.

use std::error::Error;

use podlens_common::{
    event::{CGROUP_BORN, CGROUP_REMOVED},
    lifecycle::INIT_ENDED,
};

use super::{events, losses};
use crate::{
    collectors::{
        Collector, Readings, Sweep,
        spec::{Kind, Part, Program, Spec, Start, Started},
    },
    kernel::{maps::Map, missed::MissedRuns},
    signal::Loss,
};

/// The tracepoint that tells a removal. Other collectors' programs on it are attached before this collector's.
pub const REMOVAL: &str = "cgroup_rmdir";

/// The collector.
pub static SPEC: Spec = Spec {
    name: "lifecycle",
    about: "births and removals of cgroups, so that short-lived ones have a name",
    kind: Kind::Programs,
    is_optional: false,
    switch: None,
    parts: &[
        Part {
            programs: &[
                Program::on_tracepoint("cgroup_mkdir", "cgroup_mkdir", &["cgroup", "char"]),
                Program::on_tracepoint("cgroup_rmdir", REMOVAL, &["cgroup", "char"]),
            ],
            maps: &[Map::fixed("EVENTS"), Map::fixed("EVENT_BUFFER")],
            ..Part::BASE
        },
        Part {
            without: Some("only the pod status reports ends of containers"),
            for_events: true,
            programs: &[Program::on_tracepoint(END, "sched_process_exit", &["task_struct"])],
            ..Part::BASE
        },
    ],
    wishes: &[],
    without: Some("podlens finds cgroups by walking the trees, and short-lived ones have no name"),
    metrics: &[],
    records: &[CGROUP_BORN, CGROUP_REMOVED, INIT_ENDED],
    events: &[&events::EXITED, &events::FAILED],
    losses: &[
        &losses::NO_FREE_SLOT,
        &losses::TABLE_FULL,
        &losses::EVENT_LOST,
        &losses::PATH_UNREADABLE,
        &losses::NO_CGROUP,
        &losses::LATE_CPU,
        &losses::SLOT_BUSY,
        &losses::SLOT_STUCK,
        &losses::MALFORMED_EVENT,
        &losses::END_UNKNOWN,
        &losses::MISSED_END,
    ],
    start,
};

const END: &str = "init_exit";

/// It has no values of its own; the pipeline reads its events.
struct Announced {
    /// Ends of processes that no program was told of.
    missed: MissedRuns,
}

impl Collector for Announced {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn read(&mut self, _: &Sweep<'_>, _: &mut dyn Readings) {}

    fn lost(&self) -> Vec<(&'static Loss, u64)> {
        vec![(&losses::MISSED_END, self.missed.count())]
    }
}

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let events = start.object.events("EVENTS")?;
    let programs: &[_] = if start.runs(END) { &[END] } else { &[] };
    let missed = start.object.missed_runs(programs)?;
    Ok(Started { events: Some(events), ..Started::whole(Announced { missed }) })
}
