//! The alerts: what is wrong, from when on, and what to do. Pure.
//!
//! What is merely high or merely new is none. Each one is fired, and kept silent, in tests/ beside this file.

use super::{
    query::{AGENT, POD, grown, histogram_count, histogram_sum, rate, rate_over},
    rules::{AT_ONCE, Alert, Severity},
};

/// Matches what runs in pods, and not the node's own units.
const IN_PODS: &str = "unit=\"\"";

pub(super) fn alerts() -> Vec<Alert> {
    let agents =
        [agents_absent(), agent_down(), collector_lost(), losses(), attribution_low(), names_stale(), otlp_loses()];
    let pods = [
        delayed_by_neighbor(),
        throttled_while_idle(),
        oom_kills(),
        node_out_of_memory(),
        stalled_for_memory(),
        retransmitting(),
        disk_slow(),
    ];
    agents.into_iter().chain(pods).collect()
}

fn agents_absent() -> Alert {
    Alert {
        name: "PodlensAbsent",
        expression: "absent(podlens_build_info)".to_owned(),
        hold: "15m",
        severity: Severity::Warning,
        summary: "No podlens agent is scraped at all",
        description: "Prometheus has had no sample of any agent. All of podlens' other alerts are blind until it has.",
        means: "Not one agent answers a scrape, or nothing scrapes them.",
        limits: "15 minutes outlast an installation and a restart of Prometheus.",
        steps: &[
            "`kubectl get pods -A -l app.kubernetes.io/name=podlens`: are there agents, and are they ready?",
            "If they are: does Prometheus have a target for them (Status, Targets)? The chart makes one with `podMonitor.enabled`; its `labels` must be those that the operator selects.",
            "If a target is there and down, it tells the error; a NetworkPolicy has to let Prometheus in on port 9464.",
        ],
    }
}

fn agent_down() -> Alert {
    Alert {
        name: "PodlensAgentDown",
        expression: "up == 0\nand on (cluster, job, instance)\nmax_over_time(podlens_build_info[1d])".to_owned(),
        hold: "15m",
        severity: Severity::Warning,
        summary: "The podlens agent {{ $labels.pod }} ({{ $labels.instance }}) does not answer",
        description: "Its target is still there, so its pod or host is expected to be, but every scrape fails. Nothing is measured there, or it is not collected.",
        means: "An agent that was scraped within the last day does not answer any more, though it is still a target.",
        limits: "A rolling update replaces a target within a few minutes and takes the old one away; 15 minutes outlast the reboot of a node. A target is known for an agent's by its own series of the last day, whatever the job is called.",
        steps: &[
            "`kubectl get pod -o wide` of the pod: is it running, and is its node ready? An agent that was never there at all is the DaemonSet's matter: `podlens fleet --once` tells why.",
            "`kubectl logs --previous`: an agent that ends says why in its last line. `OOMKilled` means that `resources.limits.memory` is too small for the number of containers on the node.",
            "If it runs and is ready, the way from Prometheus to it is closed: NetworkPolicy, firewall, `metrics.address`.",
        ],
    }
}

fn collector_lost() -> Alert {
    let state = |states: &str| {
        format!("max by ({AGENT}, collector, state) (podlens_collector_state{{state=~\"{states}\"}}) == 1")
    };
    Alert {
        name: "PodlensCollectorLost",
        expression: format!(
            "{}\nor\n{}\nand on (cluster, instance, collector)\nmax_over_time(podlens_collector_state{{state=\"running\"}}[1d]) == 1",
            state("failed"),
            state("degraded|unsupported")
        ),
        hold: "15m",
        severity: Severity::Warning,
        summary: "The collector {{ $labels.collector }} of the podlens agent {{ $labels.instance }} is {{ $labels.state }}",
        description: "Its metrics are absent or incomplete on this node, and whatever is built on them is blind there. The agent says why: its log, or /readyz.",
        means: "A collector failed, or it is degraded or unsupported where it was running within the last day.",
        limits: "What a kernel has never been able to do is no alert: it is known from the first `podlens check` on, and nothing but another kernel helps. What worked yesterday is one, such as after an update of the node.",
        steps: &[
            "`kubectl exec POD -- /podlens check --config /etc/podlens/config.yaml` names what is lacking and how to get it.",
            "Has the node another kernel, or have the pod's capabilities or its seccomp profile changed? See [troubleshooting.md](troubleshooting.md).",
            "A collector that this cluster shall do without: `collectors.NAME: false`, and its state is `disabled`, which is no alert.",
        ],
    }
}

fn losses() -> Alert {
    Alert {
        name: "PodlensLosing",
        expression: format!(
            "{} > 1",
            rate_over("podlens_lost_total{reason!=\"missed_switch\"}", &format!("{AGENT}, collector, reason"), "15m")
        ),
        hold: "15m",
        severity: Severity::Warning,
        summary: "The podlens agent {{ $labels.instance }} loses {{ $value | humanize }} a second: {{ $labels.collector }}, {{ $labels.reason }}",
        description: "Something could not be counted, named or told, and goes on. Numbers of this node are too low by what was lost, or under `unattributed`.",
        means: "An agent has lost more than one thing a second for half an hour, for one and the same reason.",
        limits: "Single losses are usual at an agent's start and when thousands of cgroups come at once; at less than one a second a node that switches tasks thousands of times a second stays exact to a tenth of a percent. `missed_switch` is left out, since its CPU time is made good; where it is not, PodlensAttributionLow tells.",
        steps: &[
            "Look the reason up in [troubleshooting.md](troubleshooting.md#podlens_lost_total-grows).",
            "`no_free_slot`, `table_full`: the node has more cgroups than slots. Raise `slots`.",
            "`no_room`: the journal or a table is too small for a burst that does not end: what makes so many containers, processes or connections there?",
            "`malformed_event` and `contradiction` are bugs: report them with the kernel's version.",
        ],
    }
}

fn attribution_low() -> Alert {
    let by = "cluster, instance, node";
    let all = rate_over("podlens_cpu_seconds_total", by, "15m");
    let nobodys = rate_over("podlens_cpu_seconds_total{unit=\"unattributed\"}", by, "15m");
    let unseen = rate_over("podlens_cpu_unseen_seconds_total", "cluster, instance", "15m");
    Alert {
        name: "PodlensAttributionLow",
        expression: format!(
            "(\n  ({nobodys} or 0 * {all})\n  + on (cluster, instance) group_left ()\n  {unseen}\n)\n/ {all}\n> 0.01\nand\n{all} > 0.1"
        ),
        hold: "15m",
        severity: Severity::Warning,
        summary: "{{ $value | humanizePercentage }} of the CPU time on {{ $labels.node }} belongs to nobody",
        description: "Less than 99 % of the CPU time that tasks had is charged to a pod or a unit. Costs and causes of this node are too low by as much.",
        means: "More than 1 % of a node's CPU time is `unattributed` or was not seen at all.",
        limits: "podlens promises 99 %. Of less than a tenth of a CPU a single lost slice is a percent, so an idle node is left out.",
        steps: &[
            "`podlens_lost_total` by reason tells why: most of all `no_free_slot` (raise `slots`), `event_lost` and `path_unreadable`.",
            "If nearly everything is `unit=\"outside\"` or unattributed, the agent sees another cgroup tree than the kernel: `cgroups.hostPath` must be the host's /sys/fs/cgroup.",
            "If `podlens_cpu_unseen_seconds_total` grows, another program on the node keeps the kernel from reporting switches: other tracers, one after another, until it stops.",
        ],
    }
}

fn names_stale() -> Alert {
    Alert {
        name: "PodlensNamesStale",
        expression: format!("max by ({AGENT}) (podlens_names_synced) == 0"),
        hold: "15m",
        severity: Severity::Warning,
        summary: "The podlens agent {{ $labels.instance }} cannot learn the names of pods",
        description: "Containers that began since then have ids for names, and no workload. They are measured all the same, and get their names when the source answers again.",
        means: "An agent's source of names, such as the API server, has not answered for 15 minutes.",
        limits: "The source is asked again at once and then more and more seldom, so 15 minutes are more than an API server's restart.",
        steps: &[
            "`podlens_names_requests_total` by `result` tells what is wrong: `forbidden` is the role (`rbac.create`), `unauthorized` the token, `certificate` the authority, `unreachable` or `timeout` the network.",
            "If it is all agents, it is the API server or a NetworkPolicy; if it is one, its node.",
        ],
    }
}

fn otlp_loses() -> Alert {
    Alert {
        name: "PodlensOtlpFailing",
        expression: format!(
            "{} > 0",
            rate("podlens_otlp_points_total{result=~\"dropped|rejected\"}", &format!("{AGENT}, result"))
        ),
        hold: "15m",
        severity: Severity::Warning,
        summary: "Points that the podlens agent {{ $labels.instance }} pushes by OTLP are {{ $labels.result }}",
        description: "What is `rejected` the receiver does not want, what is `dropped` could not be delivered in time. Both are missing there for good.",
        means: "An agent has lost points on their way to the OTLP receiver for 15 minutes on end.",
        limits: "Attempts that fail and are repeated with success lose nothing, and are no alert; nor is the gap of a receiver's restart.",
        steps: &[
            "The agent's log names the receiver's answer once.",
            "`dropped`: is the collector up, does its Service have endpoints, may the agent reach it? Its own queue may be full (`otelcol_exporter_queue_size`).",
            "`rejected`: the receiver's limits, most of all of the number of series or attributes: `series.detail`, `series.limit`.",
        ],
    }
}

fn delayed_by_neighbor() -> Alert {
    let waits = |matchers: &str| rate(&format!("podlens_cpu_wait_seconds_total{{{IN_PODS}{matchers}}}"), POD);
    let (of_neighbors, all) = (waits(", cause=\"neighbor\""), waits(""));
    let cpu = rate(&format!("podlens_cpu_seconds_total{{{IN_PODS}}}"), POD);
    Alert {
        name: "PodDelayedByNeighbor",
        expression: format!(
            "{of_neighbors}\n/ ({cpu} + {all})\n> 0.2\nand {of_neighbors} > 0.1\nand {cpu} < sum by ({POD}) (podlens_cpu_request_cores)"
        ),
        hold: "15m",
        severity: Severity::Warning,
        summary: "{{ $labels.namespace }}/{{ $labels.pod }}{{ $labels.workload }} on {{ $labels.node }} spends {{ $value | humanizePercentage }} of its time waiting for another pod",
        description: "It uses less CPU than it requested and still waits while other pods hold the CPU.{{ range printf `topk(1, sum by (culprit_namespace, culprit_pod, culprit_workload) (rate(podlens_cpu_wait_caused_seconds_total{node=\"%s\", namespace=\"%s\", pod=\"%s\", culprit_unit=\"\"}[5m])))` $labels.node $labels.namespace $labels.pod | query }} Most of all {{ .Labels.culprit_namespace }}/{{ .Labels.culprit_pod }}{{ .Labels.culprit_workload }}: {{ printf `%.2f` .Value }} tasks waited for it on average.{{ end }}",
        means: "A pod that uses less CPU than it requested waits for a CPU, for more than a fifth of the time in which it wants one, because of other pods.",
        limits: "A pod has a claim to what it requested and to no more: one that uses more than that, or requested nothing, waits rightly when the node is full. A fifth makes each request noticeably slower; below a tenth of a task that waits on average there is too little work to speak of.",
        steps: &[
            "The dashboard \"podlens / Neighbors\" shows who held the CPU meanwhile; `podlens snapshot --by workload` on the node does as well.",
            "Is the culprit's CPU request far below what it uses? Then it has been given a place that it does not fit in. Raise its request to what it uses, or set a limit, so that the scheduler moves it.",
            "Is it the pod's own request that is low beside its bursts? Waits of a few milliseconds come from CPUs being shared by time; a request is a share, not a promise of latency. Whole CPUs are (static CPU manager, QoS Guaranteed).",
            "If it is a DaemonSet, the dashboard \"podlens / DaemonSets\" tells what it costs on every node.",
        ],
    }
}

fn throttled_while_idle() -> Alert {
    let periods = |matchers: &str| rate(&format!("podlens_cpu_periods_total{{{IN_PODS}{matchers}}}"), POD);
    let by_node = |metric: &str| rate(metric, "cluster, node");
    Alert {
        name: "PodThrottledWhileNodeIdles",
        expression: format!(
            "{} / {}\n> 0.25\nand {} > 0.1\nand on (cluster, node)\n{}\n< 0.05 * {}",
            periods(", result=\"throttled\""),
            periods(""),
            rate(&format!("podlens_cpu_throttled_seconds_total{{{IN_PODS}}}"), POD),
            by_node("podlens_cpu_wait_seconds_total{cause=~\"neighbor|system\"}"),
            by_node("podlens_cpu_seconds_total"),
        ),
        hold: "15m",
        severity: Severity::Warning,
        summary: "{{ $labels.namespace }}/{{ $labels.pod }}{{ $labels.workload }} is stopped by its CPU limit in {{ $value | humanizePercentage }} of its periods, and {{ $labels.node }} has CPU to spare",
        description: "Its limit makes it slow and helps nobody: next to nobody on the node waits for another.",
        means: "A CPU limit stops a pod in more than a quarter of its periods, while next to nobody on the node waits for a CPU that another holds.",
        limits: "A quarter of the periods, each up to 100 ms long, is a delay that users see; a tenth of a CPU's time stopped leaves out what hardly runs. A limit that stops somebody on a node whose CPUs are contended does what it is for: all waits for others must be less than a twentieth of the CPU time in use.",
        steps: &[
            "Raise the limit, or take it away and keep the request: that is what guards the neighbors.",
            "If the limit is there on purpose, such as in a quota by contract, give the program as many threads as it has CPUs (GOMAXPROCS, `-XX:ActiveProcessorCount`): many threads use up a period at once.",
            "`podlens_cpu_throttle_latency_seconds` tells how long each stop was.",
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
            "The event `podlens.oom.kill` tells the victim, who wanted the memory, and the sizes at that moment.",
            "`podlens_memory_unreclaimable_bytes` beside `podlens_memory_limit_bytes`: did it grow steadily (a leak), or at once (a request too large)?",
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
            "Whose memory: the dashboard \"podlens / Node\", working sets beside requests. A pod that uses far more than it requested took it.",
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
            "`memcg_reclaim`, `memory_high`: the pod is at its own limit. Raise it, or have less in the page cache.",
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
        description: "Segments are lost on their way, or the other side is too slow to answer. Each costs at least 200 ms.",
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
