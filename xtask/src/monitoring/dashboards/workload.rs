//! The workloads of a namespace, and one of them over its nodes.

use super::{
    CLUSTER,
    build::{Dashboard, Panel, Unit, Variable},
};

const HERE: &str = "cluster=~\"$cluster\", namespace=~\"$namespace\", workload=~\"$workload\"";

pub(super) fn dashboard() -> Dashboard {
    let variables = vec![
        CLUSTER,
        Variable { label: "namespace", of: "podlens:workload_cpu:cores{cluster=~\"$cluster\"}", single: false },
        Variable {
            label: "workload",
            of: "podlens:workload_cpu:cores{cluster=~\"$cluster\", namespace=~\"$namespace\"}",
            single: false,
        },
    ];
    Dashboard {
        name: "workload",
        title: "Namespace and workload",
        about: "Use of Deployments, StatefulSets and so on compared with their requests, and their waits. Needs podlens' recording rules (rules.enabled).",
        variables,
        rows: vec![("Now", vec![now()]), ("Over time", over_time())],
    }
}

/// A recorded value, added up over nodes.
fn sum(rule: &str, more: &str) -> String {
    format!("sum by (namespace, workload, workload_type) (podlens:workload_{rule}{{{HERE}{more}}})")
}

fn now() -> Panel {
    let labels = vec!["namespace", "workload", "workload_type"];
    let of = |used: &str, requested: &str| format!("{} / {}", sum(used, ""), sum(requested, ""));
    Panel::table(
        "Workloads",
        labels,
        vec![
            ("CPU", Unit::CPUS, sum("cpu:cores", "")),
            ("of its request", Unit::SHARE, of("cpu:cores", "cpu_request:cores")),
            ("memory", Unit::BYTES, sum("memory:bytes", "")),
            ("of that request", Unit::SHARE, of("memory:bytes", "memory_request:bytes")),
            ("waits for others", Unit::TASKS, sum("cpu_wait_suffered:tasks", "")),
            ("others wait for it", Unit::TASKS, sum("cpu_wait_caused:tasks", "")),
            ("network", Unit::BYTES_PER_SECOND, sum("network:bytes_per_second", "")),
            ("disks", Unit::BYTES_PER_SECOND, sum("disk:bytes_per_second", "")),
        ],
    )
    .about("Of all their pods on all nodes, over the last five minutes. Waits are tasks, on average. A column is missing where it has no values.")
    .or_nothing("No workload is known: rules.enabled?")
}

fn over_time() -> Vec<Panel> {
    let graph = |title, unit, rule: &str| {
        Panel::graph(title, unit, vec![(format!("topk(20, {})", sum(rule, "")), "{{namespace}}/{{workload}}")])
    };
    vec![
        graph("CPU in use", Unit::CPUS, "cpu:cores").stacked().about("Of all pods of the workload together."),
        graph("Memory in use", Unit::BYTES, "memory:bytes").stacked().about("Working sets."),
        graph("Waiting for other pods and units", Unit::TASKS, "cpu_wait_suffered:tasks")
            .about("Tasks that wanted to run while another pod, a unit of the node or the kernel held the CPU, on average."),
        graph("Others waiting for it", Unit::TASKS, "cpu_wait_caused:tasks")
            .about("Tasks of other pods and units that waited while this workload held the CPU, on average.")
            .or_nothing("Nobody waited for these."),
        Panel::graph(
            "Under pressure",
            Unit::SHARE,
            vec![(
                format!("topk(10, max by (namespace, workload, resource) (podlens:workload_pressure:share{{{HERE}}}))"),
                "{{namespace}}/{{workload}} {{resource}}",
            )],
        )
        .about("Share of time in which some task stalled for want of a resource, of the container for which it was highest.")
        .or_nothing("No pressure, or a kernel without PSI in cgroups."),
        graph("Network", Unit::BYTES_PER_SECOND, "network:bytes_per_second").about("Sent and received together.")
            .or_nothing("These sent and received nothing."),
    ]
}
