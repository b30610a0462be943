//! What the collector `cpu` is made of, and how it starts. It walks, and reads files where it cannot.

use std::{error::Error, sync::Arc};

use podlens_common::cpu::{LAST_TIMES, LAST_WORDS};

use super::{Cpu, Sources, accounts::Accounts, metrics};
use crate::{
    collectors::{
        lifecycle,
        losses::{late_file, walk_unfinished},
        spec::{Kind, Part, Program, Spec, Start, Started, Wish},
        tree::TreeReader,
    },
    kernel::{
        cgroupfs::hierarchies::{Hierarchies, Tree},
        hooks::Hook,
        host::Cpus,
        maps::Map,
    },
    signal::Loss,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "cpu",
    about: "CPU quota and throttling, CPU time by mode",
    kind: Kind::Files,
    is_optional: true,
    switch: None,
    parts: &[
        Part {
            without: Some("quotas and CPU time by mode are read from files, every 5 s"),
            programs: &[Program::on("cpu_walk", Hook::TaskIterator)],
            maps: &[Map::fixed("CPU_WALK"), Map::fixed("CPU_RECORDS")],
            ..Part::BASE
        },
        Part {
            without: Some(NO_LAST_FIGURES),
            programs: &[Program::on_tracepoint("cpu_last_words", lifecycle::REMOVAL, &["cgroup", "char"])],
            maps: &[Map::fixed("CPU_READ")],
            ..Part::BASE
        },
    ],
    wishes: &[&[Wish { of: "bandwidth", without: NO_LAST_FIGURES }]],
    without: None,
    metrics: &[&metrics::THROTTLED, &metrics::PERIODS, &metrics::MODE, &metrics::LIMIT],
    records: &[LAST_WORDS, LAST_TIMES],
    events: &[],
    losses: &[&WALK_UNFINISHED, &LATE_FILE],
    start,
};

/// The values are not those of now.
pub(super) static WALK_UNFINISHED: Loss = walk_unfinished!("the CPU controller's tree");

/// A value is older than it should be.
pub(super) static LATE_FILE: Loss = late_file!(
    "where podlens reads files: a value was older than 20 s when a sweep asked for it, because",
    "podlens serves the value read last"
);

const NO_LAST_FIGURES: &str =
    "throttling and CPU time by mode between the last reading and the cgroup's end are missing";

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let lacks: Vec<String> = lacking_controllers(start.hierarchies).map(str::to_owned).into_iter().collect();
    let mut sources = Sources::default();
    if start.runs("cpu_walk") && start.has("bandwidth") {
        let iterator = start.object.iterator("cpu_walk")?;
        let (walk, records) = (start.object.array("CPU_WALK")?, start.object.array("CPU_RECORDS")?);
        let cpus = Cpus::of_node().map_or(start.cpus, |cpus| cpus.possible);
        sources.walk_tells_modes = walk_tells_modes(start);
        if let Some(tree) = accounts_apart(start.hierarchies).filter(|_| start.has("accounting")) {
            let (tree, tells_ends) = (tree.clone(), start.runs("cpu_last_words"));
            sources.accounts = Some(Accounts::new(tree, start.files()?, tells_ends));
        }
        sources.walk = Some(TreeReader::new(iterator, walk, records).of_cpus(cpus));
    }
    if !sources.walk_tells_modes {
        sources.files = Some(start.files()?);
    }
    Ok(Started { lacks, ..Started::whole(Cpu::new(Arc::clone(&start.layout), start.hierarchies.clone(), sources)) })
}

/// The hierarchy in which version 1 counts CPU time by mode, if it is another one than that of the quotas.
fn accounts_apart(hierarchies: &Hierarchies) -> Option<&Tree> {
    hierarchies.keyed_v1().filter(|tree| !tree.has("cpuacct")).and_then(|_| hierarchies.v1("cpuacct"))
}

/// CPU time by mode lies in the tree that is walked through.
fn walk_tells_modes(start: &Start<'_>) -> bool {
    match start.hierarchies.keyed_v1() {
        Some(tree) => tree.has("cpuacct") && start.has("accounting"),
        None => start.has("times"),
    }
}

/// What the controllers of this node leave untold, in words.
fn lacking_controllers(hierarchies: &Hierarchies) -> Option<&'static str> {
    if hierarchies.of("cpu").is_none() {
        Some("the node's cgroup tree has no cpu controller: quotas and throttling are missing")
    } else if hierarchies.keyed_v1().is_some() && hierarchies.v1("cpuacct").is_none() {
        Some("the node has no cpuacct hierarchy: CPU time by mode is missing")
    } else {
        None
    }
}
