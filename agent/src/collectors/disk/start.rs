//! What the collector `disk` is made of, and how it starts.

use std::{error::Error, sync::Arc};

use super::{Disk, metrics};
use crate::{
    collectors::spec::{Kind, Part, Program, Spec, Start, Started},
    kernel::{cgroupfs::hierarchies::Hierarchies, maps::Map},
    signal::Loss,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "disk",
    about: "requests to block devices: number, bytes, errors and latency",
    kind: Kind::Programs,
    is_optional: true,
    switch: None,
    parts: &[Part {
        programs: &[Program::on_tracepoint(
            "disk_complete",
            "block_rq_complete",
            // The error was a number of errno until 5.16 made it the block layer's own.
            &["request", "unsigned char|int", "unsigned int"],
        )],
        maps: &[Map::per_slot("DISK", 1)],
        ..Part::BASE
    }],
    wishes: &[],
    without: None,
    metrics: &[&metrics::LATENCY, &metrics::BYTES, &metrics::OPERATIONS, &metrics::ERRORS],
    records: &[],
    events: &[],
    losses: &[&MISSED_COMPLETION],
    start,
};

/// The program did not run.
pub(super) static MISSED_COMPLETION: Loss = Loss {
    reason: "missed_completion",
    means: "a request completed in an interrupt while the completion of another was being counted on the same CPU: it is in no metric of disks",
};

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let lacks = lacking_controller(start.hierarchies).map(str::to_owned).into_iter().collect();
    let (accounts, missed) = (start.object.array("DISK")?, start.missed_runs()?);
    Ok(Started { lacks, ..Started::whole(Disk::new(Arc::clone(&start.layout), accounts, missed)) })
}

/// Why requests cannot be told apart by cgroup here.
fn lacking_controller(hierarchies: &Hierarchies) -> Option<&'static str> {
    if hierarchies.v2().is_some_and(|tree| tree.has("io")) {
        return None;
    }
    match hierarchies.v1("blkio") {
        Some(tree) if tree.number != 0 => None,
        Some(_) => Some("the number of the blkio hierarchy is not known: all requests to disks are unattributed"),
        None => Some("the node has no io controller: all requests to disks count for the root cgroup"),
    }
}
