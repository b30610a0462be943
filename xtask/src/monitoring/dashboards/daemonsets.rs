//! What daemon sets cost: on every node, and beside what they requested.

use super::{
    CLUSTER,
    build::{Dashboard, Panel, Unit, Variable},
};

const HERE: &str =
    "cluster=~\"$cluster\", workload_type=\"daemonset\", namespace=~\"$namespace\", workload=~\"$workload\"";

pub(super) fn dashboard() -> Dashboard {
    let variables = vec![
        CLUSTER,
        Variable {
            label: "namespace",
            of: "podlens:workload_cpu:cores{cluster=~\"$cluster\", workload_type=\"daemonset\"}",
            single: false,
        },
        Variable {
            label: "workload",
            of: "podlens:workload_cpu:cores{cluster=~\"$cluster\", workload_type=\"daemonset\", namespace=~\"$namespace\"}",
            single: false,
        },
    ];
    Dashboard {
        name: "daemonsets",
        title: "DaemonSets",
        about: "The cost of DaemonSets on every node, including the waits of others. Needs podlens' recording rules (rules.enabled).",
        variables,
        rows: vec![("Per node, on average", vec![averages()]), ("Over time", over_time()), ("Nodes", nodes())],
    }
}

fn by(function: &str, rule: &str) -> String {
    // `direction`, `operation` and the like are added up first.
    let on_nodes = format!("sum by (node, namespace, workload) (podlens:workload_{rule}{{{HERE}}})");
    format!("{function} by (namespace, workload) ({on_nodes})")
}

fn averages() -> Panel {
    let of = |used: &str, requested: &str| format!("{} / {}", by("sum", used), by("sum", requested));
    Panel::table(
        "DaemonSets",
        vec!["namespace", "workload"],
        vec![
            ("others wait for it", Unit::TASKS, by("avg", "cpu_wait_caused:tasks")),
            ("nodes", Unit::NUMBER, by("count", "cpu:cores")),
            ("CPU", Unit::CPUS, by("avg", "cpu:cores")),
            ("of its request", Unit::SHARE, of("cpu:cores", "cpu_request:cores")),
            ("memory", Unit::BYTES, by("avg", "memory:bytes")),
            ("of that request", Unit::SHARE, of("memory:bytes", "memory_request:bytes")),
            ("network", Unit::BYTES_PER_SECOND, by("avg", "network:bytes_per_second")),
            ("disks", Unit::BYTES_PER_SECOND, by("avg", "disk:bytes_per_second")),
            ("waits for others", Unit::TASKS, by("avg", "cpu_wait_suffered:tasks")),
        ],
    )
    .about("Means over the nodes on which it has a pod. Waits are tasks, on average: 0.05 are 3 seconds of waiting in each minute. A column is missing where it has no values.")
    .or_nothing("No DaemonSet is known: rules.enabled?")
}

fn over_time() -> Vec<Panel> {
    let graph = |title, unit, function: &str, rule: &str| {
        Panel::graph(title, unit, vec![(by(function, rule), "{{namespace}}/{{workload}}")])
    };
    vec![
        graph("CPU of all nodes together", Unit::CPUS, "sum", "cpu:cores").stacked().about("CPUs in use."),
        graph("Others waiting for it, all nodes together", Unit::TASKS, "sum", "cpu_wait_caused:tasks")
            .stacked()
            .about("Tasks of other pods and units that waited while this DaemonSet held the CPU, on average.")
            .or_nothing("No task waited for a DaemonSet."),
        graph("Memory of all nodes together", Unit::BYTES, "sum", "memory:bytes").stacked().about("Working sets."),
        graph("Network of all nodes together", Unit::BYTES_PER_SECOND, "sum", "network:bytes_per_second")
            .stacked()
            .about("Sent and received.")
            .or_nothing("No DaemonSet sent or received anything."),
    ]
}

fn nodes() -> Vec<Panel> {
    let worst = |rule: &str| format!("topk(10, podlens:workload_{rule}{{{HERE}}})");
    let legend = "{{workload}} on {{node}}";
    vec![
        Panel::graph("Where others wait for it most", Unit::TASKS, vec![(worst("cpu_wait_caused:tasks"), legend)])
            .about("The ten pairs of DaemonSet and node.")
            .or_nothing("No task waited for a DaemonSet."),
        Panel::graph("Where it uses most CPU", Unit::CPUS, vec![(worst("cpu:cores"), legend)])
            .about("The ten pairs of DaemonSet and node."),
        Panel::graph(
            "Where it is under pressure",
            Unit::SHARE,
            vec![(worst("pressure:share"), "{{workload}} on {{node}}, {{resource}}")],
        )
        .about("Share of time in which some task of it stalled.")
        .or_nothing("No pressure, or a kernel without PSI in cgroups."),
        Panel::graph("Where it needs most memory", Unit::BYTES, vec![(worst("memory:bytes"), legend)])
            .about("The ten pairs of DaemonSet and node."),
    ]
}
