//! Alerts about pods and nodes: who stands in whose way, and what is slow. Pure.

use crate::monitoring::{
    query::{POD, WINDOW, grown, histogram_count, histogram_sum, rate, requested},
    rules::{AT_ONCE, Alert, Severity},
};

/// Matches what runs in pods, and not the node's own units.
const IN_PODS: &str = "unit=\"\"";

pub(super) fn alerts() -> Vec<Alert> {
    vec![
        delayed_by_neighbor(),
        throttled_while_idle(),
        oom_kills(),
        node_out_of_memory(),
        stalled_for_memory(),
        retransmitting(),
        disk_slow(),
        dns_failing(),
    ]
}

fn delayed_by_neighbor() -> Alert {
    let waits = |matchers: &str| rate(&format!("podlens_cpu_wait_seconds_total{{{IN_PODS}{matchers}}}"), POD);
    let (of_neighbors, all) = (waits(", cause=\"neighbor\""), waits(""));
    let cpu = rate(&format!("podlens_cpu_seconds_total{{{IN_PODS}}}"), POD);
    Alert {
        name: "PodDelayedByNeighbor",
        expression: format!(
            "{of_neighbors}\n/ ({cpu} + {all})\n> 0.2\nand {of_neighbors} > 0.1\nand {cpu} < {}",
            requested("podlens_cpu_request_cores", "", POD)
        ),
        hold: "15m",
        severity: Severity::Warning,
        summary: "{{ $labels.namespace }}/{{ $labels.pod }}{{ $labels.workload }} on {{ $labels.node }} spends {{ $value | humanizePercentage }} of its time waiting for another pod",
        description: "It uses less CPU than it requested and still waits while other pods hold the CPU.{{ range printf `topk(1, sum by (culprit_namespace, culprit_pod, culprit_workload) (rate(podlens_cpu_wait_caused_seconds_total{cluster=\"%s\", node=\"%s\", namespace=\"%s\", pod=\"%s\", workload=\"%s\", culprit_unit=\"\"}[5m])))` $labels.cluster $labels.node $labels.namespace $labels.pod $labels.workload | query }} Most of all {{ .Labels.culprit_namespace }}/{{ .Labels.culprit_pod }}{{ .Labels.culprit_workload }}: {{ printf `%.2f` .Value }} tasks waited for it on average.{{ end }}",
        means: "A pod that uses less CPU than it requested waits for a CPU because of other pods, for more than a fifth of the time in which it wants one.",
        limits: "A pod has a claim to the CPU that it requested and to no more: a pod that uses more, or requested nothing, has to wait when the node is full. Waits of a fifth make each request noticeably slower; if less than a tenth of a task waits on average, there is too little work to matter.",
        steps: &[
            "Which pods held the CPU meanwhile? The dashboard \"podlens / Neighbors\" shows them, as does `podlens snapshot --by workload` on the node, and the query `topk(5, sum by (culprit_namespace, culprit_pod) (rate(podlens_cpu_wait_caused_seconds_total{namespace=\"NS\", pod=\"POD\"}[5m])))`.",
            "Is the culprit's CPU request far below its use? Then the scheduler put it on a node that has no room for it. Raise its request to its use, so that the scheduler moves it, or set a limit.",
            "Is the pod's own request low compared with its bursts? Waits of a few milliseconds come from sharing CPUs by time; a request is a share, not a promise of latency. Whole CPUs are such a promise (static CPU manager, QoS Guaranteed).",
            "If it is a DaemonSet, the dashboard \"podlens / DaemonSets\" shows its cost on every node.",
        ],
    }
}

fn throttled_while_idle() -> Alert {
    // A pod as a whole may have a limit beside those of its containers, and its periods are its own.
    let limited = format!("{POD}, container");
    let periods = |matchers: &str| rate(&format!("podlens_cpu_periods_total{{{IN_PODS}{matchers}}}"), &limited);
    let by_node = |metric: &str| rate(metric, "cluster, node");
    Alert {
        name: "PodThrottledWhileNodeIdles",
        expression: format!(
            "max by ({POD}) (\n  {} / {}\n  > 0.25\n  and {} > 0.1\n)\nand on (cluster, node)\n{}\n< 0.05 * {}",
            periods(", result=\"throttled\""),
            periods(""),
            rate(&format!("podlens_cpu_throttled_seconds_total{{{IN_PODS}}}"), &limited),
            by_node("podlens_cpu_wait_seconds_total{cause=~\"neighbor|system\"}"),
            by_node("podlens_cpu_seconds_total"),
        ),
        hold: "15m",
        severity: Severity::Warning,
        summary: "{{ $labels.namespace }}/{{ $labels.pod }}{{ $labels.workload }} is stopped by its CPU limit in {{ $value | humanizePercentage }} of its periods, and {{ $labels.node }} has CPU to spare",
        description: "Its limit makes it slow and helps no other pod: hardly a task on the node waits for another pod or unit.",
        means: "A CPU limit stops a container, or a pod as a whole, in more than a quarter of its periods, while hardly a task on the node waits for a CPU that another pod or unit holds.",
        limits: "A quarter of the periods, each up to 100 ms long, is a delay that users see; the minimum of a tenth of a CPU's time stopped leaves out containers that hardly run. On a node whose CPUs are contended a limit does what it is for, so all waits for others must be less than a twentieth of the CPU time in use.",
        steps: &[
            "Raise the limit, or remove it and keep the request: the request is what protects the neighbors.",
            "If the limit is there on purpose, such as in a quota by contract, give the program as many threads as it has CPUs (GOMAXPROCS, `-XX:ActiveProcessorCount`): many threads use up a period at once.",
            "`podlens_cpu_throttle_latency_seconds` shows how long each stop was: `histogram_quantile(0.99, sum by (le) (rate(podlens_cpu_throttle_latency_seconds_bucket{namespace=\"NS\", pod=\"POD\"}[5m])))`.",
        ],
    }
}

fn oom_kills() -> Alert {
    Alert {
        name: "PodOomKilledRepeatedly",
        expression: format!(
            "{} > 1.5",
            grown(
                &format!("podlens_oom_kills_total{{{IN_PODS}, scope=~\"container|pod\"}}"),
                &format!("{POD}, scope"),
                "1h"
            )
        ),
        hold: AT_ONCE,
        severity: Severity::Warning,
        summary: "Processes of {{ $labels.namespace }}/{{ $labels.pod }}{{ $labels.workload }} were killed {{ printf `%.0f` $value }} times within an hour for want of memory",
        description: "The limit of the {{ $labels.scope }} was reached. A process that is not the container's first one dies without a trace in the pod's status.",
        means: "The kernel killed processes of a pod more than once within an hour, since the container or the pod was at its own limit.",
        limits: "One kill is an event, which the OTLP log and the dashboards show. A second one within an hour means that more will follow.",
        steps: &[
            "Which process? The event `podlens.process.oom_killed` (an OTLP log record, see [events.md](events.md)) has the victim, the process that requested the memory, and the sizes at that moment; without OTLP, see `dmesg` on the node. `kubectl describe pod` shows only a container's first process.",
            "How did the memory grow? See memory, request and limit on the dashboard \"podlens / Pod\": if it grew steadily, the program leaks; if it rose at once, one piece of work was too large.",
            "Raise the limit to what the work needs, or bound the program's own heap below it (`GOMEMLIMIT`, `-Xmx`).",
        ],
    }
}

fn node_out_of_memory() -> Alert {
    Alert {
        name: "NodeOutOfMemory",
        expression: format!(
            "{} > 0.5",
            grown("podlens_oom_kills_total{scope=~\"node|ancestor\"}", "cluster, node, scope", "15m")
        ),
        hold: AT_ONCE,
        severity: Severity::Critical,
        summary: "{{ $labels.node }} had no memory left and killed processes",
        description: "The process that was killed need not be the one that took the memory: pods within their limits die, and the kubelet or the runtime may be next.",
        means: "The kernel killed a process since the node, or a cgroup above the pods, had no memory left.",
        limits: "This never happens where pods use no more than they request, so the alert fires at the first kill.",
        steps: &[
            "Which pod took the memory? See memory above requests on the dashboard \"podlens / Node\": a pod that uses far more than it requested took it.",
            "Give that pod a memory limit, or a request that matches its use.",
            "`ancestor` means kubepods or a slice of the node: kube-reserved and system-reserved are too small, or the slice's own limit is.",
            "If no pod has it, look at the kernel's own memory, or at a unit of the node (`unit` in `podlens_memory_usage_bytes`).",
        ],
    }
}

fn stalled_for_memory() -> Alert {
    let by = format!("{POD}, reason");
    Alert {
        name: "PodStalledForMemory",
        expression: format!(
            "{} > 0.1",
            histogram_sum(&format!("podlens_memory_stall_seconds{{{IN_PODS}}}"), &by, "5m")
        ),
        hold: "10m",
        severity: Severity::Warning,
        summary: "{{ $labels.namespace }}/{{ $labels.pod }}{{ $labels.workload }} on {{ $labels.node }} stands still for want of memory: {{ $labels.reason }}",
        description: "{{ printf `%.2f` $value }} of its tasks, on average, only waited for memory to be freed, though nothing was killed.",
        means: "More than a tenth of a task of a pod, on average over five minutes, stalls for want of memory.",
        limits: "For a program with one thread, a tenth of a task is 6 seconds of each minute: users see it. Freeing memory now and then is ordinary, and far below that.",
        steps: &[
            "The alert's `reason` shows which limit it is. `memcg_reclaim`, `memory_high`: the pod's own. Raise it, or make the program keep fewer pages of files.",
            "`direct_reclaim`, `compaction`: the node is short. Which pod uses more than it requested? See NodeOutOfMemory.",
            "`refault`: the kernel evicts pages and has to read them again at once, so the working set does not fit into the limit or the node.",
        ],
    }
}

fn retransmitting() -> Alert {
    let again = rate(&format!("podlens_tcp_retransmits_total{{{IN_PODS}}}"), POD);
    let sent = rate(&format!("podlens_tcp_segments_total{{{IN_PODS}, direction=\"transmit\"}}"), POD);
    Alert {
        name: "PodRetransmitting",
        expression: format!("{again} / {sent}\n> 0.03\nand {again} > 1"),
        hold: "15m",
        severity: Severity::Warning,
        summary: "{{ $labels.namespace }}/{{ $labels.pod }}{{ $labels.workload }} on {{ $labels.node }} sends {{ $value | humanizePercentage }} of its TCP segments again",
        description: "Segments are lost on their way, or the other side is too slow to answer. Each costs a round trip at least, and 200 ms and more where only a timer noticed the loss.",
        means: "A pod sends more than 3 % of its TCP segments again, and more than one a second.",
        limits: "Within a data center a healthy network loses less than 0.1 %; connections through the Internet up to 1 %. From 3 % on throughput breaks down. The minimum of one a second leaves out pods that hardly send.",
        steps: &[
            "Do all pods of the node have it, or all pods that talk to one destination? In the first case look at the node's link (`ip -s link`), driver and MTU, in the second at the destination.",
            "`podlens_network_drops_total` by `reason` shows the packets that this node's kernel drops itself.",
            "If only large transfers have it, the cause is the path's MTU, most often that of an overlay network (`podlens_tcp_connect_seconds` is fine, data is not).",
        ],
    }
}

fn disk_slow() -> Alert {
    let by = format!("{POD}, operation");
    let requests = format!("podlens_disk_latency_seconds{{{IN_PODS}, operation=~\"read|write\", part=\"device\"}}");
    let count = histogram_count(&requests, &by, "5m");
    Alert {
        name: "PodDiskSlow",
        expression: format!("{} / {count}\n> 0.1\nand {count} > 1", histogram_sum(&requests, &by, "5m")),
        hold: "15m",
        severity: Severity::Warning,
        summary: "Disks take {{ $value | humanizeDuration }} for each {{ $labels.operation }} of {{ $labels.namespace }}/{{ $labels.pod }}{{ $labels.workload }} on {{ $labels.node }}",
        description: "That is the mean over five minutes of the time in the device, without the queue before it.",
        means: "A device takes more than 100 ms on average for a read or a write.",
        limits: "Flash takes less than 1 ms, a rotating disk 10, a volume over the network 20; with 100 ms each of them is overloaded or failing. The minimum of one request a second leaves out pods that hardly use a disk.",
        steps: &[
            "Which other pods use the disk? See bytes on disks by pod on the dashboard \"podlens / Node\". A backup or a log shipper may fill the device's own queue.",
            "A volume of a cloud has a budget of operations and bytes; beyond it, the provider slows it down to such times.",
            "If no pod uses it much, check the device with `dmesg` and `smartctl`.",
        ],
    }
}

fn dns_failing() -> Alert {
    let queries = |more: &str| histogram_count(&format!("podlens_dns_lookup_seconds{{{IN_PODS}{more}}}"), POD, WINDOW);
    let failed = queries(", result=~\"servfail|refused|timeout\"");
    Alert {
        name: "PodDnsFailing",
        expression: format!("{failed}\n/ {}\n> 0.05\nand {failed} > 0.1", queries("")),
        hold: "10m",
        severity: Severity::Warning,
        summary: "{{ $value | humanizePercentage }} of the DNS queries of {{ $labels.namespace }}/{{ $labels.pod }}{{ $labels.workload }} on {{ $labels.node }} fail",
        description: "No answer came, or the server said that it cannot or will not give one. A name that does not exist is no failure.",
        means: "More than 5 % of a pod's DNS queries have no answer, or are refused, or fail at the server.",
        limits: "A resolver tries again after 5 seconds and a name takes two queries, so one failure in twenty already makes one lookup in ten slow or fails it. The minimum of a tenth of a query per second, 30 failures in five minutes, leaves out a server's restart and pods that hardly ask. `nxdomain` does not count: search lists make it usual. The alert is silent where the collector `dns` is off.",
        steps: &[
            "The dashboard \"podlens / Pod\" shows the queries by result. Do all pods have failures, those of one node, or one pod alone?",
            "`timeout` on one node: look at its path to the server (`podlens_network_drops_total` by `reason`, a full table of connections in `dmesg`, the pods of the node-local cache). From one pod: a NetworkPolicy may not let it out to port 53.",
            "`timeout` everywhere: CoreDNS has too little CPU. PodDelayedByNeighbor and PodThrottledWhileNodeIdles show it, as do its own metrics.",
            "`servfail`: the server cannot reach the server that it asks in turn, such as a zone's own server (`forward` in CoreDNS' Corefile). `refused`: it does not serve this zone, or not for this client.",
            "[dns.md](dns.md) says which queries podlens counts, and when it counts an answered query as a timeout.",
        ],
    }
}
