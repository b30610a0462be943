//! What the collector `disk` is made of, and how it starts.

use std::{error::Error, sync::Arc};

use super::{Disk, metrics};
use crate::{
    collectors::spec::{Kind, Part, Program, Spec, Start, Started},
    kernel::{cgroupfs::hierarchies::Hierarchies, maps::Map},
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "disk",
    about: "requests to block devices: how many, how much, and how long they took",
    kind: Kind::Programs,
    is_optional: true,
    parts: &[Part {
        without: None,
        for_events: false,
        // The error is a number of another type before 5.16.
        programs: &[Program::on_tracepoint("disk_complete", "block_rq_complete", &["request"])],
        maps: &[Map::per_slot("DISK", 1)],
    }],
    wishes: &[],
    without: None,
    metrics: &[&metrics::LATENCY, &metrics::BYTES, &metrics::OPERATIONS, &metrics::ERRORS],
    records: &[],
    events: &[],
    losses: &[],
    start,
};

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let lacks = lacking_controller(start.hierarchies).map(str::to_owned).into_iter().collect();
    Ok(Started { lacks, ..Started::whole(Disk::new(Arc::clone(&start.layout), start.object.array("DISK")?)) })
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
