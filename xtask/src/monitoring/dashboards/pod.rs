//! One pod: what it does, what it waits for, what stands in its way.

use super::{
    CLUSTER,
    build::{Dashboard, Panel, Unit, Variable},
    bytes_on_disks, culprits, quantile, rate, time_in_device,
};
use crate::monitoring::query;

const HERE: &str = "cluster=~\"$cluster\", namespace=\"$namespace\", pod=\"$pod\"";

pub(super) fn dashboard() -> Dashboard {
    let variables = vec![
        CLUSTER,
        Variable { label: "namespace", of: "podlens_pod_info{cluster=~\"$cluster\"}", single: true },
        Variable {
            label: "pod",
            of: "podlens_pod_info{cluster=~\"$cluster\", namespace=\"$namespace\"}",
            single: true,
        },
    ];
    Dashboard {
        name: "pod",
        title: "Pod",
        about: "One pod: is it slow, and why? CPU and the pods that held it, quota, memory and stalls, disks, connections, DNS.",
        variables,
        rows: vec![("CPU", cpu()), ("Memory", memory()), ("Disks and network", rest())],
    }
}

fn of(metric: &str, more: &str) -> String {
    format!("{metric}{{{HERE}{more}}}")
}

fn cpu() -> Vec<Panel> {
    let latency = of("podlens_runqueue_latency_seconds", "");
    let periods = |more| rate(&of("podlens_cpu_periods_total", more), "container");
    vec![
        Panel::graph(
            "CPU beside request and limit",
            Unit::CPUS,
            vec![
                (rate(&of("podlens_cpu_seconds_total", ""), "container"), "{{container}}"),
                (format!("sum by (container) ({})", of("podlens_cpu_request_cores", "")), "{{container}} requested"),
                (format!("sum by (container) ({})", of("podlens_cpu_limit_cores", "")), "{{container}} limit"),
            ],
        )
        .about("Use, request and limit of each container."),
        Panel::graph(
            "Waiting for a CPU, by who held it",
            Unit::TASKS,
            vec![(rate(&of("podlens_cpu_wait_seconds_total", ""), "cause"), "{{cause}}")],
        )
        .stacked()
        .about("Tasks that wanted to run and did not, on average. neighbor: another pod held the CPU; system: a unit of the node or the kernel; self and pod: the container itself and its pod; idle: nobody."),
        Panel::graph("For whom it waits", Unit::TASKS, culprits(of))
        .stacked()
        .about("The neighbors' and the node's part of the waits, by name. All lines together are causes neighbor and system; (other) stands for culprits without a name or with too little for a line.")
        .or_nothing("It waits for no other pod or unit."),
        Panel::graph(
            "Time from ready to running",
            Unit::SECONDS,
            vec![quantile(0.5, "half are below", &latency, ""), quantile(0.99, "99 % are below", &latency, "")],
        )
        .about("Run-queue latency, without the time for which its own quota stopped it."),
        Panel::graph(
            "Stopped by its CPU limit",
            Unit::SHARE,
            vec![(format!("{} / {}", periods(", result=\"throttled\""), periods("")), "{{container}}")],
        )
        .about("Share of the quota's periods in which the quota did not last.")
        .or_nothing("It has no CPU limit."),
        Panel::graph(
            "Under pressure",
            Unit::SHARE,
            vec![(rate(&of("podlens_pressure_seconds_total", ", stall=\"some\""), "container, resource"), "{{container}} {{resource}}")],
        )
        .about("Share of time in which some task stalled for want of a resource (PSI).")
        .or_nothing("No pressure, or a kernel without PSI in cgroups."),
    ]
}

fn memory() -> Vec<Panel> {
    // The pod's own cgroup has no container.
    let sum = |metric: &str| {
        let by_container = format!("sum by (container) ({})", of(metric, ""));
        format!("label_replace({by_container}, \"container\", \"(pod)\", \"container\", \"\")")
    };
    vec![
        Panel::graph(
            "Memory beside request and limit",
            Unit::BYTES,
            vec![
                (sum("podlens_memory_working_set_bytes"), "{{container}}"),
                (sum("podlens_memory_unreclaimable_bytes"), "{{container}} cannot be freed"),
                (sum("podlens_memory_request_bytes"), "{{container}} requested"),
                (sum("podlens_memory_limit_bytes"), "{{container}} limit"),
            ],
        )
        .about("Working set; memory that cannot be freed without swap (where the kernel reports it): when that reaches the limit, the next allocation ends in a kill. (pod) has the memory of no container, such as files in memory that an ended one left behind; its limit is for all of the pod.")
        .or_nothing("Its memory is not counted yet."),
        Panel::graph(
            "Memory by what it is",
            Unit::BYTES,
            vec![(format!("sum by (type) ({})", of("podlens_memory_bytes", "")), "{{type}}")],
        )
        .stacked()
        .about("The kernel can reclaim pages of files, but not anon."),
        Panel::graph(
            "Standing still for want of memory",
            Unit::TASKS,
            vec![(query::histogram_sum(&of("podlens_memory_stall_seconds", ""), "reason", super::WINDOW), "{{reason}}")],
        )
        .stacked()
        .about("Tasks, on average. memcg_reclaim and memory_high: it is at its own limit; direct_reclaim and compaction: the node is short; refault: pages were evicted too early.")
        .or_nothing("Nothing stalled.")
        .wide(8),
        Panel::graph(
            "Major page faults",
            Unit::PER_SECOND,
            vec![(
                query::histogram_count(&of("podlens_major_fault_seconds", ""), "container", super::WINDOW),
                "{{container}}",
            )],
        )
        .about("Each waits for a disk to bring a page of a program or of a mapped file.")
        .or_nothing("No page had to be brought from a disk.")
        .wide(8),
        Panel::graph(
            "Killed for want of memory",
            Unit::NUMBER,
            vec![(
                format!(
                    "round({}) > 0",
                    query::grown(&of("podlens_oom_kills_total", ""), "container, scope", super::WINDOW)
                ),
                "{{container}}, limit of the {{scope}}",
            )],
        )
        .about("Processes, by the limit that led to the kill: the container's, its pod's, one above, or none, since the node had no memory left.")
        .or_nothing("Nothing was killed.")
        .wide(8),
    ]
}

fn rest() -> Vec<Panel> {
    let rtt = of("podlens_tcp_rtt_seconds", "");
    let dns = of("podlens_dns_lookup_seconds", "");
    vec![
        bytes_on_disks(of, "container, operation", "{{container}} {{operation}}"),
        time_in_device(of),
        Panel::graph(
            "Bytes sent and received",
            Unit::BYTES_PER_SECOND,
            vec![(rate(&of("podlens_network_bytes_total", ""), "direction, protocol"), "{{direction}} {{protocol}}")],
        )
        .about("Payload of its sockets, over loopback too.")
        .or_nothing("It sent and received nothing."),
        Panel::graph(
            "TCP: round trips",
            Unit::SECONDS,
            vec![
                quantile(0.5, "round trip, half are below", &rtt, ""),
                quantile(0.99, "round trip, 99 % are below", &rtt, ""),
            ],
        )
        .about("Smoothed round-trip times of its connections.")
        .or_nothing("It has no TCP connections."),
        Panel::graph(
            "TCP: what goes wrong",
            Unit::PER_SECOND,
            vec![
                (rate(&of("podlens_tcp_retransmits_total", ""), "container"), "{{container}} sent again"),
                (
                    rate(&of("podlens_tcp_connect_failures_total", ""), "container, reason"),
                    "{{container}} cannot connect: {{reason}}",
                ),
                (
                    rate(&of("podlens_tcp_connection_errors_total", ""), "container, reason"),
                    "{{container}} connection lost: {{reason}}",
                ),
                (rate(&of("podlens_tcp_listen_overflows_total", ""), "container"), "{{container}} accept queue full"),
            ],
        )
        .about("By cause.")
        .or_nothing("It has no TCP connections."),
        Panel::graph(
            "TCP sockets",
            Unit::NUMBER,
            vec![(format!("sum by (state) ({})", of("podlens_tcp_sockets", "")), "{{state}}")],
        )
        .about("By state.")
        .or_nothing("It has no TCP sockets."),
        Panel::graph(
            "DNS: queries by result",
            Unit::PER_SECOND,
            vec![(query::histogram_count(&dns, "result", super::WINDOW), "{{result}}")],
        )
        .stacked()
        .about("nxdomain is usual where names are tried with a search list. The alert PodDnsFailing fires from one failure in twenty on.")
        .or_nothing("It asks no DNS server, or collectors.dns is off."),
        Panel::graph(
            "DNS: time until the answer",
            Unit::SECONDS,
            vec![quantile(0.5, "half are below", &dns, ""), quantile(0.99, "99 % are below", &dns, "")],
        )
        .about("Until the program took it. A timeout counts with 10 s.")
        .or_nothing("It asks no DNS server, or collectors.dns is off."),
    ]
}
