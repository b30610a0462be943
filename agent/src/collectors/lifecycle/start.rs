//! What the collector `lifecycle` is made of, and how it starts.

use std::error::Error;

use crate::{
    collectors::{
        Collector,
        spec::{Kind, Part, Program, Spec, Start, Started},
    },
    kernel::maps::Map,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "lifecycle",
    about: "births and removals of cgroups, so that short lives have a name",
    kind: Kind::Programs,
    is_optional: false,
    parts: &[Part {
        without: None,
        programs: &[
            Program::on_tracepoint("cgroup_mkdir", "cgroup_mkdir", 2),
            Program::on_tracepoint("cgroup_rmdir", "cgroup_rmdir", 2),
        ],
        maps: &[Map::fixed("EVENTS"), Map::fixed("EVENT_BUFFER")],
    }],
    wishes: &[],
    without: Some("cgroups are found by walking the trees, and short-lived ones stay without a name"),
    metrics: &[],
    split: None,
    losses: &[
        "no_free_slot",
        "table_full",
        "event_lost",
        "path_unreadable",
        "no_cgroup",
        "slot_stuck",
        "malformed_event",
    ],
    start,
};

/// It has no values of its own; the pipeline reads its events.
struct Announced;

impl Collector for Announced {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }
}

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let events = start.object.ring("EVENTS")?;
    Ok(Started { events: Some(events), ..Started::whole(Announced) })
}
