//! What the collector `memory` is made of, and how it starts.

use std::{error::Error, sync::Arc};

use podlens_common::memory::{LAST_WORDS, LAST_WORDS_V1};

use super::{Memory, Programs, figures::Machine, metrics};
use crate::{
    collectors::{
        lifecycle,
        losses::{late_file, walk_unfinished},
        spec::{Kind, Part, Program, Spec, Start, Started, Wish},
        tree::TreeReader,
    },
    kernel::{hooks::Hook, maps::Map},
    signal::Loss,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "memory",
    about: "memory by type, limits and events at them, page faults",
    kind: Kind::Files,
    is_optional: true,
    switch: None,
    parts: &[
        Part {
            without: Some("all values are read from files, every 5 s, those of memory.stat every 30 s"),
            programs: &[Program::on("memory_walk", Hook::TaskIterator)],
            maps: &[Map::fixed("MEMORY_WALK"), Map::fixed("MEMORY_RECORDS"), Map::fixed("MEMORY_LISTS")],
            ..Part::BASE
        },
        Part {
            without: Some(NO_LAST_WORDS),
            programs: &[Program::on_tracepoint("memory_last_words", lifecycle::REMOVAL, &["cgroup", "char"])],
            maps: &[Map::fixed("MEMORY_WORDS"), Map::fixed("MEMORY_PARTS")],
            ..Part::BASE
        },
    ],
    wishes: &[&[Wish {
        of: "parts",
        without: "page faults and refaults between the last reading and a cgroup's end are missing",
    }]],
    without: None,
    metrics: &[
        &metrics::MEMORY,
        &metrics::USAGE,
        &metrics::WORKING_SET,
        &metrics::UNRECLAIMABLE,
        &metrics::PEAK,
        &metrics::LIMIT,
        &metrics::HIGH,
        &metrics::PROTECTION,
        &metrics::EVENTS,
        &metrics::FAULTS,
        &metrics::REFAULTS,
    ],
    records: &[LAST_WORDS, LAST_WORDS_V1],
    events: &[],
    losses: &[&WALK_UNFINISHED, &LATE_FILE],
    start,
};

/// The values are not those of now.
pub(super) static WALK_UNFINISHED: Loss = walk_unfinished!("the memory controller's tree");

/// Statistics are older than they should be.
pub(super) static LATE_FILE: Loss = late_file!(
    "no file of a cgroup's memory had been read for 330 s when a sweep asked for its values, because",
    "podlens serves the values read last"
);

const NO_LAST_WORDS: &str = "events and faults between the last reading and the cgroup's end are missing";

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let mut lacks = Vec::new();
    let mut programs = Programs::default();
    if start.hierarchies.of("memory").is_none() {
        lacks.push("the node's cgroup tree has no memory controller: there are no values".to_owned());
    } else {
        if start.runs("memory_walk") {
            let iterator = start.object.iterator("memory_walk")?;
            let (walk, records) = (start.object.array("MEMORY_WALK")?, start.object.array("MEMORY_RECORDS")?);
            programs.walk = Some(TreeReader::new(iterator, walk, records));
        }
        if start.runs("memory_last_words") {
            programs.ends = Some(start.object.array("MEMORY_WORDS")?);
        }
    }
    let files = start.files()?;
    let page_bytes = u64::try_from(rustix::param::page_size())?;
    let machine = Machine { page_bytes, is_v1: start.hierarchies.v1("memory").is_some() };
    let memory = Memory::new(Arc::clone(&start.layout), start.hierarchies.clone(), files, machine, programs);
    Ok(Started { lacks, ..Started::whole(memory) })
}
