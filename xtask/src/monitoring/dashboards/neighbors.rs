//! Who waits for whom: victims by culprits.

use super::{
    CLUSTER, CULPRIT, FOR_OTHERS, NAMED, NODE,
    build::{Dashboard, Panel, Unit, Variable},
    culprits, rate, top,
};

const HERE: &str = "cluster=~\"$cluster\", node=~\"$node\", namespace=~\"$namespace\"";
const VICTIM: &str = "namespace, pod, workload, unit";

pub(super) fn dashboard() -> Dashboard {
    // Units of the node are in no namespace, and `.*` matches them too.
    let of = "podlens_cpu_wait_caused_seconds_total{cluster=~\"$cluster\", node=~\"$node\"}";
    let variables = vec![CLUSTER, NODE, Variable { label: "namespace", of, single: false }];
    Dashboard {
        name: "neighbors",
        title: "Neighbors",
        about: "Victims that wait for a CPU, and culprits that held it meanwhile: pods by name, the node's units, the kernel. The namespace is the victim's.",
        variables,
        rows: vec![("Now", vec![pairs()]), ("Over time", over_time())],
    }
}

fn of(metric: &str, more: &str) -> String {
    format!("{metric}{{{HERE}{more}}}")
}

/// A row for each pair with a name, and one for the rest of each victim, so that all rows together are what was lost to others.
fn pairs() -> Panel {
    let labels = [VICTIM, CULPRIT].iter().flat_map(|labels| labels.split(", "));
    let victim = format!("node, {VICTIM}");
    let named = rate(&of("podlens_cpu_wait_caused_seconds_total", NAMED), &format!("{victim}, {CULPRIT}"));
    let named = format!("topk(100, {named})");
    let lost = rate(&of("podlens_cpu_wait_seconds_total", FOR_OTHERS), &victim);
    let rest = format!("{lost} - (sum by ({victim}) ({named}) or 0 * {lost}) > 0");
    Panel::table(
        "Victim and culprit",
        std::iter::once("node").chain(labels).collect(),
        vec![("waiting", Unit::TASKS, format!("{named} or label_replace({rest}, \"culprit_pod\", \"(other)\", \"\", \"\")"))],
    )
    .about("Tasks of the victim that wanted to run while the culprit held the CPU, on average. (other) stands for culprits without a name of their own and for pairs beyond the first hundred: all rows together are the time that the victims lost to others.")
}

fn over_time() -> Vec<Panel> {
    let waits = of("podlens_cpu_wait_seconds_total", FOR_OTHERS);
    let wanted = |metric: &str| rate(&of(metric, ""), VICTIM);
    vec![
        Panel::graph("Culprits", Unit::TASKS, culprits(of))
            .stacked()
            .about("Tasks of others that waited while this culprit held the CPU, on average. All lines together are the time that the victims lost to others; (other) stands for culprits without a name or with too little for a line."),
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
