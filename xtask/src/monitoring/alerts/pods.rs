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
        means: "A pod that uses less CPU than it requested waits for a CPU, for more than a fifth of the time in which it wants one, because of other pods.",
        limits: "A pod has a claim to what it requested and to no more: one that uses more than that, or requested nothing, waits rightly when the node is full. A fifth makes each request noticeably slower; below a tenth of a task that waits on average there is too little work to speak of.",
        steps: &[
            "Who held the CPU meanwhile? The dashboard \"podlens / Neighbors\" shows it, as does `podlens snapshot --by workload` on the node, and the query `topk(5, sum by (culprit_namespace, culprit_pod) (rate(podlens_cpu_wait_caused_seconds_total{namespace=\"NS\", pod=\"POD\"}[5m])))`.",
            "Is the culprit's CPU request far below what it uses? Then it has been given a place that it does not fit in. Raise its request to what it uses, or set a limit, so that the scheduler moves it.",
            "Is it the pod's own request that is low beside its bursts? Waits of a few milliseconds come from CPUs being shared by time; a request is a share, not a promise of latency. Whole CPUs are (static CPU manager, QoS Guaranteed).",
            "If it is a DaemonSet, the dashboard \"podlens / DaemonSets\" tells what it costs on every node.",
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
        description: "Its limit makes it slow and helps nobody: next to nobody on the node waits for another.",
        means: "A CPU limit stops a container, or a pod as a whole, in more than a quarter of its periods, while next to nobody on the node waits for a CPU that another holds.",
        limits: "A quarter of the periods, each up to 100 ms long, is a delay that users see; a tenth of a CPU's time stopped leaves out what hardly runs. A limit that stops somebody on a node whose CPUs are contended does what it is for: all waits for others must be less than a twentieth of the CPU time in use.",
        steps: &[
            "Raise the limit, or take it away and keep the request: that is what guards the neighbors.",
            "If the limit is there on purpose, such as in a quota by contract, give the program as many threads as it has CPUs (GOMAXPROCS, `-XX:ActiveProcessorCount`): many threads use up a period at once.",
            "`podlens_cpu_throttle_latency_seconds` tells how long each stop was: `histogram_quantile(0.99, sum by (le) (rate(podlens_cpu_throttle_latency_seconds_bucket{namespace=\"NS\", pod=\"POD\"}[5m])))`.",
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
        limits: "One kill is an event, which the OTLP log and the dashboards show. The second one within an hour says that it will go on.",
        steps: &[
            "Which process? The event `podlens.process.oom_killed` (an OTLP log record, see [events.md](events.md)) tells the victim, who wanted the memory, and the sizes at that moment; without OTLP, `dmesg` on the node. `kubectl describe pod` tells only of a container's first process.",
            "How did it come to that? The dashboard \"podlens / Pod\", memory beside request and limit: if it grew steadily, the program leaks; if it rose at once, one piece of work was too large.",
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
        description: "Whoever was killed need not be who took the memory: pods within their limits die, and the kubelet or the runtime may be next.",
        means: "The kernel killed a process since the node, or a cgroup above the pods, had no memory left.",
        limits: "This never happens where what pods use is within what they request, so once is enough.",
        steps: &[
            "Whose memory? The dashboard \"podlens / Node\", memory above what was requested: a pod that uses far more than it requested took it.",
            "Give that pod a memory limit, or a request that is true.",
            "`ancestor` means kubepods or a slice of the node: kube-reserved and system-reserved, or the slice's own limit, are too small.",
            "Nothing of it in any pod: the kernel's own memory, or a unit of the node (`unit` in `podlens_memory_usage_bytes`).",
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
        description: "{{ printf `%.2f` $value }} of its tasks, on average, did nothing but wait for memory to be freed, though nothing was killed.",
        means: "Tasks of a pod stall for want of memory: a tenth of a task, on average over five minutes.",
        limits: "A tenth of a task is 6 seconds of each minute of a program with one thread: users see it. Freeing memory now and then is ordinary and far below.",
        steps: &[
            "The alert's `reason` says whose limit it is. `memcg_reclaim`, `memory_high`: the pod's own. Raise it, or have it keep fewer pages of files.",
            "`direct_reclaim`, `compaction`: the node is short. Who uses more than it requested? See NodeOutOfMemory.",
            "`refault`: pages come back as soon as they are evicted, so the working set does not fit into limit or node.",
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
        limits: "Within a data center a healthy network loses less than 0.1 %; connections through the Internet up to 1 %. From 3 % on throughput breaks down. One a second leaves out what hardly sends.",
        steps: &[
            "Do all pods of the node, or all that talk to one place? Node: its link (`ip -s link`), its driver, its MTU. Place: that side.",
            "`podlens_network_drops_total` by `reason` tells what this node's kernel drops itself.",
            "Only large transfers: the path's MTU (`podlens_tcp_connect_seconds` is fine, data is not), most often of an overlay network.",
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
        description: "That is the mean over five minutes of the time in the device, the queue before it not among it.",
        means: "Reading or writing takes a device more than 100 ms on average.",
        limits: "Flash takes less than 1 ms, a rotating disk 10, a volume over the network 20; at 100 each of them is overloaded or failing. One request a second leaves out what hardly uses a disk.",
        steps: &[
            "Who else uses the disk? The dashboard \"podlens / Node\", bytes on disks by pod. A backup or a log shipper may fill the device's own queue.",
            "A volume of a cloud has a budget of operations and bytes; beyond it, it is slowed down to just such times.",
            "Nobody uses it much: `dmesg` and `smartctl` of the device.",
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
        description: "No answer came, or the server said that it cannot or will not give one. That a name does not exist is no failure.",
        means: "More than 5 % of a pod's DNS queries have no answer, or are refused, or fail at the server.",
        limits: "A resolver tries again after 5 seconds and a name is two queries, so one failure in twenty already makes one lookup in ten slow or fails it. A tenth of a query per second is 30 failures in five minutes, which leaves out a server's restart and who hardly asks. `nxdomain` is left out: search lists make it usual. It is silent where the collector `dns` is off.",
        steps: &[
            "The dashboard \"podlens / Pod\" shows the queries by result. Do all pods have it, those of one node, or one alone?",
            "`timeout` on one node: its way to the server. `podlens_network_drops_total` by `reason`, a full table of connections (`dmesg`), the pods of the node-local cache. From one pod: a NetworkPolicy that does not let it out to port 53.",
            "`timeout` everywhere: CoreDNS has too little CPU. PodDelayedByNeighbor and PodThrottledWhileNodeIdles tell, as do its own metrics.",
            "`servfail`: the server cannot reach the one that it asks itself, such as a zone's own server (`forward` in CoreDNS' Corefile). `refused`: it does not serve this zone, or not for this client.",
            "[dns.md](dns.md) tells which queries are counted, and what makes a timeout of one that was answered.",
        ],
    }
}
