//! One node or several: who uses what, and what is short.

use super::{
    CLUSTER, NODE,
    build::{Dashboard, Panel, Unit},
    bytes_on_disks, culprits, quantile, rate, time_in_device, top,
};
use crate::monitoring::query;

const HERE: &str = "cluster=~\"$cluster\", node=~\"$node\"";

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "node",
        title: "Node",
        about: "Use of a node's CPU, memory, disks and network, and shortages. Namespaces for pods, units for everything else.",
        variables: vec![CLUSTER, NODE],
        rows: vec![("CPU", cpu()), ("Memory", memory()), ("Disks", disks()), ("Network", network())],
    }
}

fn of(metric: &str, more: &str) -> String {
    format!("{metric}{{{HERE}{more}}}")
}

fn cpu() -> Vec<Panel> {
    let latency = of("podlens_runqueue_latency_seconds", "");
    vec![
        Panel::graph(
            "CPU in use",
            Unit::CPUS,
            vec![(rate(&of("podlens_cpu_seconds_total", ""), "namespace, unit"), "{{namespace}}{{unit}}")],
        )
        .stacked()
        .about("By namespace, and by unit of the node outside pods."),
        Panel::graph(
            "Waiting for a CPU, by who held it",
            Unit::TASKS,
            vec![(rate(&of("podlens_cpu_wait_seconds_total", ""), "cause"), "{{cause}}")],
        )
        .stacked()
        .about("Tasks that wanted to run and did not, on average. neighbor: another pod held the CPU; system: a unit of the node or the kernel; self and pod: the container itself and its pod; idle: nobody, such as while a CPU woke up."),
        Panel::graph(
            "Time from ready to running",
            Unit::SECONDS,
            vec![
                quantile(0.5, "half are below", &latency, ""),
                quantile(0.99, "99 % are below", &latency, ""),
            ],
        )
        .about("Run-queue latency of all tasks. A few milliseconds are one turn of another task."),
        Panel::graph("Who makes others wait", Unit::TASKS, culprits(of))
        .stacked()
        .about("Tasks of others that waited while this culprit held the CPU, on average. All lines together are causes neighbor and system; (other) stands for culprits without a name or with too little for a line. More in podlens / Neighbors."),
    ]
}

fn memory() -> Vec<Panel> {
    vec![
        Panel::graph(
            "Memory in use",
            Unit::BYTES,
            vec![(
                format!("sum by (namespace, unit) ({})", of("podlens_memory_working_set_bytes", "")),
                "{{namespace}}{{unit}}",
            )],
        )
        .stacked()
        .about("Working sets: without pages of files that were not used for long."),
        Panel::graph(
            "Memory above what was requested",
            Unit::BYTES,
            vec![(
                top(&format!(
                    "sum by (namespace, pod) ({}) - {} > 0",
                    of("podlens_memory_working_set_bytes", ", pod!=\"\""),
                    query::requested("podlens_memory_request_bytes", &format!("{HERE}, pod!=\"\""), "namespace, pod")
                )),
                "{{namespace}}/{{pod}}",
            )],
        )
        .about("By how much pods are above their requests. On a node that runs out of memory, these pods took it.")
        .or_nothing("No pod is above its request."),
        Panel::graph(
            "Standing still for want of memory",
            Unit::TASKS,
            vec![(
                query::histogram_sum(&of("podlens_memory_stall_seconds", ""), "reason", super::WINDOW),
                "{{reason}}",
            )],
        )
        .stacked()
        .about("Tasks, on average. direct_reclaim and compaction: the node is short; memcg_reclaim and memory_high: a container is at its limit; refault: pages were evicted too early.")
        .or_nothing("No task stalled."),
        Panel::graph(
            "Killed for want of memory",
            Unit::NUMBER,
            vec![(
                format!(
                    "round({}) > 0",
                    query::grown(&of("podlens_oom_kills_total", ""), "namespace, pod, unit, scope", super::WINDOW)
                ),
                "{{namespace}} {{pod}}{{unit}}, limit of the {{scope}}",
            )],
        )
        .about("Processes, by the limit that led to the kill.")
        .or_nothing("Nothing was killed."),
    ]
}

fn disks() -> Vec<Panel> {
    let bytes = bytes_on_disks(of, "namespace, unit, operation", "{{namespace}}{{unit}} {{operation}}");
    vec![bytes.stacked(), time_in_device(of)]
}

fn network() -> Vec<Panel> {
    let share = format!(
        "{} / {}",
        rate(&of("podlens_tcp_retransmits_total", ""), "node"),
        rate(&of("podlens_tcp_segments_total", ", direction=\"transmit\""), "node")
    );
    vec![
        Panel::graph(
            "Bytes sent and received",
            Unit::BYTES_PER_SECOND,
            vec![(
                rate(&of("podlens_network_bytes_total", ""), "namespace, unit, direction"),
                "{{namespace}}{{unit}} {{direction}}",
            )],
        )
        .about("Payload of sockets, over loopback too.")
        .wide(8),
        Panel::graph("Segments sent again", Unit::SHARE, vec![(share, "{{node}}")])
            .about("Share of all TCP segments sent. Within a data center less than 0.1 % is usual.")
            .wide(8),
        Panel::graph(
            "Packets dropped by the kernel",
            Unit::PER_SECOND,
            vec![(top(&rate(&of("podlens_network_drops_total", ""), "reason")), "{{reason}}")],
        )
        .about("By the kernel's own reasons. Some are ordinary, such as no_socket of a port scan.")
        .or_nothing("Nothing was dropped, or the kernel is older than 5.17.")
        .wide(8),
    ]
}
