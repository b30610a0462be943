//! Who waits for whom: victims by culprits.

use super::{
    CLUSTER, NODE,
    build::{Dashboard, Panel, Unit, Variable},
    rate, top,
};

const HERE: &str = "cluster=~\"$cluster\", node=~\"$node\", namespace=~\"$namespace\"";
const VICTIM: &str = "namespace, pod, workload, unit";
const CULPRIT: &str = "culprit_namespace, culprit_pod, culprit_workload, culprit_unit";

pub(super) fn dashboard() -> Dashboard {
    // Units of the node are in no namespace, and `.*` matches them too.
    let of = "podlens_cpu_wait_caused_seconds_total{cluster=~\"$cluster\", node=~\"$node\"}";
    let variables = vec![CLUSTER, NODE, Variable { label: "namespace", of, single: false }];
    Dashboard {
        name: "neighbors",
        title: "Neighbors",
        about: "Who waits for a CPU, and who held it meanwhile: pods by name, the node's units, the kernel. The namespace is the victim's.",
        variables,
        rows: vec![("Now", vec![pairs()]), ("Over time", over_time())],
    }
}

fn caused(by: &str) -> String {
    rate(&format!("podlens_cpu_wait_caused_seconds_total{{{HERE}}}"), by)
}

fn pairs() -> Panel {
    let labels = [VICTIM, CULPRIT].iter().flat_map(|labels| labels.split(", "));
    Panel::table(
        "Victim and culprit",
        std::iter::once("node").chain(labels).collect(),
        vec![("waiting", Unit::TASKS, format!("topk(100, {})", caused(&format!("node, {VICTIM}, {CULPRIT}"))))],
    )
    .about("Tasks of the victim that wanted to run while the culprit held the CPU, on average. (other) stands for culprits without a name of their own.")
}

fn over_time() -> Vec<Panel> {
    let waits = format!("podlens_cpu_wait_seconds_total{{{HERE}, cause=~\"neighbor|system\"}}");
    let wanted = |metric: &str| rate(&format!("{metric}{{{HERE}}}"), VICTIM);
    vec![
        Panel::graph(
            "Culprits",
            Unit::TASKS,
            vec![(top(&caused(CULPRIT)), "{{culprit_namespace}} {{culprit_pod}}{{culprit_workload}}{{culprit_unit}}")],
        )
        .about("Tasks of others that waited while this one held the CPU, on average."),
        Panel::graph(
            "Victims",
            Unit::TASKS,
            vec![(top(&rate(&waits, VICTIM)), "{{namespace}} {{pod}}{{workload}}{{unit}}")],
        )
        .about("Tasks that waited while another pod, a unit or the kernel held the CPU, on average."),
        Panel::graph(
            "Share of its time that a victim waits for others",
            Unit::SHARE,
            vec![(
                top(&format!(
                    "{} / ({} + {})",
                    rate(&waits, VICTIM),
                    wanted("podlens_cpu_seconds_total"),
                    wanted("podlens_cpu_wait_seconds_total")
                )),
                "{{namespace}} {{pod}}{{workload}}{{unit}}",
            )],
        )
        .about("Of the time in which its tasks wanted a CPU. The alert PodDelayedByNeighbor fires from a fifth on.")
        .wide(24),
    ]
}
