//! What the collector `oom` is made of, and how it starts.

use std::{error::Error, sync::Arc};

use podlens_common::oom::{LAST_WORDS, VICTIM};

use super::{Oom, events, metrics};
use crate::{
    collectors::{
        lifecycle,
        spec::{Kind, Part, Program, Spec, Start, Started},
        stalls::{MEMCG_BEGIN, RECLAIM_BEGIN},
    },
    kernel::maps::Map,
    signal::Loss,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "oom",
    about: "processes that the kernel killed for want of memory, by the limit that led to it",
    kind: Kind::Programs,
    is_optional: true,
    switch: Some("COUNTS_OOM"),
    parts: &[
        Part {
            programs: &[Program::on_tracepoint(VICTIM_PROGRAM, "mark_victim", &["task_struct", "unsigned int"])],
            maps: &[Map::fixed("OOM_MARKS"), Map::fixed("OOM_RECLAIMS")],
            ..Part::BASE
        },
        Part {
            without: Some(
                "only the cgroups' own counts show which limit led to a kill: `scope=\"other\"` where they do not decide it",
            ),
            // Those of the collector `stalls`.
            programs: &[RECLAIM_BEGIN, MEMCG_BEGIN],
            ..Part::BASE
        },
        Part {
            without: Some(
                "a kill whose record is lost is missing if its cgroup is removed before the kernel's files are read",
            ),
            programs: &[Program::on_tracepoint("oom_last_words", lifecycle::REMOVAL, &["cgroup", "char"])],
            ..Part::BASE
        },
    ],
    wishes: &[],
    without: None,
    metrics: &[&metrics::OOM_KILLS],
    records: &[VICTIM, LAST_WORDS],
    events: &[&events::KILLED],
    losses: &[&UNTOLD],
    start,
};

const VICTIM_PROGRAM: &str = "oom_victim";

/// A kill without its story.
pub(super) static UNTOLD: Loss = Loss {
    reason: "untold_kill",
    means: "an OOM kill's record did not fit the ring buffer, or the kernel did not run the program at its mark (mark_victim): the kill counts with `scope=\"other\"` as soon as podlens reads the kernel's own count, and there is no event of it",
};

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    if !start.is_running(lifecycle::SPEC.name) {
        return Err("the collector lifecycle reads the records of kernel programs, and it does not run".into());
    }
    let (marks, left_out) = (start.object.array("OOM_MARKS")?, start.object.missed_runs(&[VICTIM_PROGRAM])?);
    Ok(Started::whole(Oom::new(Arc::clone(&start.layout), start.hierarchies.clone(), marks, left_out)))
}
