//! Recording rules: what the pods of a workload cost on each node. Pure.

use super::{
    query::{WINDOW, WORKLOAD, requested},
    rules::Recording,
};

/// A pod, or what is folded into a workload, with all that says whose it is.
const POD_OF_WORKLOAD: &str = "cluster, node, namespace, pod, workload, workload_type";
/// Which workload a pod belongs to.
const HOME: &str = "podlens:pod_workload";

pub(super) fn recordings() -> Vec<Recording> {
    vec![
        home(),
        Recording {
            name: "podlens:workload_cpu:cores",
            expression: of_workloads("", &counted("podlens_cpu_seconds_total", "")),
            about: "CPUs in use",
        },
        Recording {
            name: "podlens:workload_cpu_request:cores",
            expression: of_workloads("", &|whose| requested("podlens_cpu_request_cores", whose, POD_OF_WORKLOAD)),
            about: "CPUs requested",
        },
        Recording {
            name: "podlens:workload_memory:bytes",
            expression: of_workloads("", &|whose| format!("podlens_memory_working_set_bytes{{{whose}}}")),
            about: "bytes of memory in use",
        },
        Recording {
            name: "podlens:workload_memory_request:bytes",
            expression: of_workloads("", &|whose| requested("podlens_memory_request_bytes", whose, POD_OF_WORKLOAD)),
            about: "bytes of memory requested",
        },
        Recording {
            name: "podlens:workload_network:bytes_per_second",
            expression: of_workloads("direction", &counted("podlens_network_bytes_total", "")),
            about: "bytes per second sent and received, by `direction`",
        },
        Recording {
            name: "podlens:workload_disk:bytes_per_second",
            expression: of_workloads("operation", &counted("podlens_disk_bytes_total", "")),
            about: "bytes per second on disks, by `operation`",
        },
        Recording {
            name: "podlens:workload_cpu_wait_suffered:tasks",
            expression: of_workloads("", &counted("podlens_cpu_wait_seconds_total", ", cause=~\"neighbor|system\"")),
            about: "tasks that waited while another pod, a unit or the kernel held the CPU, on average",
        },
        Recording {
            name: "podlens:workload_cpu_wait_caused:tasks",
            expression: of_workloads("", &counted("podlens_cpu_wait_inflicted_seconds_total", "")),
            about: "tasks of other pods and units that waited while this workload held the CPU, on average",
        },
        Recording {
            name: "podlens:workload_pressure:share",
            expression: format!(
                "max{}",
                of_workloads("resource", &counted("podlens_pressure_seconds_total", ", stall=\"some\""))
                    .trim_start_matches("sum")
            ),
            about: "share of time in which some task stalled, of the container for which it is highest, by `resource`",
        },
    ]
}

/// One workload for each pod: to have two at once, a pod that is made again under the same name by another controller,
/// would end the evaluation of all rules that use it.
fn home() -> Recording {
    Recording {
        name: HOME,
        expression: format!(
            "topk by (cluster, node, namespace, pod) (1,\n  group by (cluster, node, namespace, pod, workload, workload_type) (\n    max_over_time(podlens_pod_info[{WINDOW}])\n  )\n)"
        ),
        about: "1: which workload a pod belongs to",
    }
}

/// A value of pods, added up over those of a workload, and of what is folded into the workload already. `value` makes its
/// expression of the matchers that say whose it is.
fn of_workloads(more_labels: &str, value: &dyn Fn(&str) -> String) -> String {
    let (of_pods, of_folded) = (value("pod!=\"\""), value("workload!=\"\""));
    let comma = if more_labels.is_empty() { "" } else { ", " };
    format!(
        "sum by ({WORKLOAD}{comma}{more_labels}) (\n    {of_pods}\n  * on (cluster, node, namespace, pod) group_left (workload, workload_type)\n    {HOME}\n  or\n    {of_folded}\n)"
    )
}

fn counted(metric: &'static str, matchers: &'static str) -> impl Fn(&str) -> String {
    move |whose| format!("rate({metric}{{{whose}{matchers}}}[{WINDOW}])")
}
