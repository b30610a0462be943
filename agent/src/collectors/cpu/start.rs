//! What the collector `cpu` is made of, and how it starts. It reads files; one program tells what a quota had done by a
//! cgroup's removal.

use std::{error::Error, sync::Arc};

use podlens_common::cpu::LAST_WORDS;

use super::{Cpu, metrics};
use crate::{
    collectors::{
        lifecycle,
        spec::{Kind, Part, Program, Spec, Start, Started, Wish},
    },
    kernel::cgroupfs::hierarchies::Hierarchies,
    signal::Loss,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "cpu",
    about: "CPU quota and what it stopped, CPU time by mode",
    kind: Kind::Files,
    is_optional: true,
    parts: &[Part {
        without: Some(NO_LAST_FIGURES),
        for_events: false,
        programs: &[Program::on_tracepoint("cpu_last_words", lifecycle::REMOVAL, &["cgroup", "char"])],
        maps: &[],
    }],
    wishes: &[&[Wish { of: "bandwidth", without: NO_LAST_FIGURES }]],
    without: None,
    metrics: &[&metrics::THROTTLED, &metrics::PERIODS, &metrics::MODE, &metrics::LIMIT],
    records: &[LAST_WORDS],
    events: &[],
    losses: &[&LATE_FILE],
    start,
};

/// A value is older than it should be.
pub(super) static LATE_FILE: Loss = Loss {
    reason: "late_file",
    means: "a value of a cgroup's file was older than 20 s when it was asked for: some file of a cgroup hangs (thread `cgroup-files`), or the node is far too busy. The value read last is served",
};

const NO_LAST_FIGURES: &str = "what a quota did between the last reading and the cgroup's end is missing";

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let lacks: Vec<String> = lacking_controllers(start.hierarchies).map(str::to_owned).into_iter().collect();
    let files = start.files().map_err(|cause| format!("cannot start the reader of cgroups' files: {cause}"))?;
    Ok(Started { lacks, ..Started::whole(Cpu::new(Arc::clone(&start.layout), start.hierarchies.clone(), files)) })
}

/// What the controllers of this node leave untold, in words.
fn lacking_controllers(hierarchies: &Hierarchies) -> Option<&'static str> {
    if hierarchies.of("cpu").is_none() {
        Some("the node's cgroup tree has no cpu controller: quotas and what they stop are missing")
    } else if hierarchies.keyed_v1().is_some() && hierarchies.v1("cpuacct").is_none() {
        Some("the node has no cpuacct hierarchy: CPU time by mode is missing")
    } else {
        None
    }
}
