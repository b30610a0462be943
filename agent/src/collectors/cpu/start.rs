//! What the collector `cpu` is made of, and how it starts. It reads files alone, but learns of cgroups and of their last
//! figures through `lifecycle`.

use std::error::Error;

use super::{Cpu, metrics};
use crate::{
    collectors::{
        lifecycle,
        spec::{Kind, Spec, Start, Started, Wish},
    },
    kernel::hierarchy::Hierarchies,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "cpu",
    about: "CPU quota and what it stopped, CPU time by mode",
    kind: Kind::Files,
    is_optional: true,
    parts: &[],
    wishes: &[&[Wish { of: "bandwidth", without: NO_LAST_FIGURES }]],
    without: None,
    metrics: &[&metrics::THROTTLED, &metrics::PERIODS, &metrics::MODE, &metrics::LIMIT],
    split: None,
    losses: &[],
    start,
};

const NO_LAST_FIGURES: &str = "what a quota did between the last reading and the cgroup's end is missing";

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let mut lacks: Vec<String> = lacking_controllers(start.hierarchies).map(str::to_owned).into_iter().collect();
    if start.has("bandwidth") && !start.is_running(lifecycle::SPEC.name) {
        lacks.push(format!("removals of cgroups are not reported: {NO_LAST_FIGURES}"));
    }
    let cpu = Cpu::new(start.hierarchies.clone())
        .map_err(|cause| format!("cannot tell how many files may be open: {cause}"))?;
    Ok(Started { lacks, ..Started::whole(cpu) })
}

/// What the controllers of this node leave untold, in words.
fn lacking_controllers(hierarchies: &Hierarchies) -> Option<&'static str> {
    let controllers = hierarchies.v2.as_ref().map(|root| std::fs::read_to_string(root.join("cgroup.controllers")));
    let in_v2 = matches!(controllers, Some(Ok(text)) if text.split_whitespace().any(|name| name == "cpu"));
    if hierarchies.v1.is_none() && !in_v2 {
        Some("the node's cgroup tree has no cpu controller: quotas and what they stop are missing")
    } else if hierarchies.v1.is_some() && hierarchies.v1_cpuacct.is_none() {
        Some("the node has no cpuacct hierarchy: CPU time by mode is missing")
    } else {
        None
    }
}
