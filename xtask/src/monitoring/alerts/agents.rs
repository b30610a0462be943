//! Alerts about the agents: do they answer, do they measure, do they lose. Pure.

use crate::monitoring::{
    query::{AGENT, rate, rate_over},
    rules::{Alert, Severity},
};

/// A series that each agent has from the start, and nothing else of podlens.
const OF_EACH: &str = "podlens_sweep_seconds";

pub(super) fn alerts() -> Vec<Alert> {
    vec![agents_absent(), agent_down(), collector_lost(), losses(), attribution_low(), names_stale(), otlp_loses()]
}

fn agents_absent() -> Alert {
    Alert {
        name: "PodlensAbsent",
        expression: format!("absent({OF_EACH})"),
        hold: "15m",
        severity: Severity::Warning,
        summary: "No podlens agent is scraped at all",
        description: "Prometheus has had no sample of any agent. All of podlens' other alerts are blind until it has.",
        means: "Not one agent answers a scrape, or nothing scrapes them.",
        limits: "15 minutes outlast an installation and a restart of Prometheus.",
        steps: &[
            "`kubectl get pods -A -l app.kubernetes.io/name=podlens`: are there agents, and are they ready?",
            "If they are: does Prometheus have a target for them (in its own pages: Status, Target health)? The chart makes one with `podMonitor.enabled`; its `podMonitor.labels` must be those that the operator selects (`kubectl get prometheus -A -o jsonpath='{..podMonitorSelector}'`).",
            "If a target is there and down, it tells the error; a NetworkPolicy has to let Prometheus in on port 9464.",
        ],
    }
}

fn agent_down() -> Alert {
    Alert {
        name: "PodlensAgentDown",
        expression: format!("up == 0\nand on (cluster, job, instance)\nmax_over_time({OF_EACH}[1d])"),
        hold: "15m",
        severity: Severity::Warning,
        summary: "The podlens agent on {{ or $labels.node $labels.instance }} does not answer",
        description: "Its target is still there, so its pod or host is expected to be, but every scrape fails. Nothing is measured there, or it is not collected.",
        means: "An agent that was scraped within the last day does not answer any more, though it is still a target.",
        limits: "A rolling update replaces a target within a few minutes and takes the old one away; 15 minutes outlast the reboot of a node. Which targets are agents is told by their series `podlens_sweep_seconds` of the last day, not by the name of the job.",
        steps: &[
            "`kubectl get pods -A -o wide -l app.kubernetes.io/name=podlens`: is the pod on that node running, and is the node ready? An agent that was never there at all is the DaemonSet's matter: `podlens fleet --once` tells why, and the alert DaemonSetPodMissing where `podlens fleet` runs.",
            "`kubectl logs --previous` of the pod: an agent that ends says why in its last line. `OOMKilled` means that `resources.limits.memory` is too small for the number of containers on the node.",
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
        summary: "The collector {{ $labels.collector }} of the podlens agent on {{ or $labels.node $labels.instance }} is {{ $labels.state }}",
        description: "Its metrics are absent or incomplete on this node, and whatever is built on them is blind there. The agent says why: its log, or /readyz.",
        means: "A collector failed, or it is degraded or unsupported where it was running within the last day.",
        limits: "What a kernel has never been able to do is no alert: it is known from the first `podlens check` on, and nothing but another kernel helps. What worked yesterday is one, such as after an update of the node: the `instance` must be the same then, for which the chart's monitors and deploy/examples take the node's name.",
        steps: &[
            "`kubectl -n NAMESPACE exec POD -- /podlens check --config /etc/podlens/config.yaml`, with the alert's `namespace` and `pod`, names what is lacking and how to get it. On a host: `podlens check`.",
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
            rate_over(
                "podlens_lost_total{reason!~\"missed_switch|unknown_sleep\"}",
                &format!("{AGENT}, collector, reason"),
                "15m"
            )
        ),
        hold: "15m",
        severity: Severity::Warning,
        summary: "The podlens agent on {{ or $labels.node $labels.instance }} loses {{ $value | humanize }} a second: {{ $labels.collector }}, {{ $labels.reason }}",
        description: "Something could not be counted, named or told, and goes on. Numbers of this node are too low by what was lost, or under `unattributed`.",
        means: "An agent has lost more than one thing a second for half an hour, for one and the same reason.",
        limits: "Single losses are usual at an agent's start and when thousands of cgroups come at once; at less than one a second a node that switches tasks thousands of times a second stays exact to a tenth of a percent. `missed_switch` is left out, since its CPU time is made good (where it is not, PodlensAttributionLow tells), and so is `unknown_sleep`, which mostly follows from it: beside another tracer both go on for as long as that runs, and only sleeps are too low.",
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
        summary: "The podlens agent on {{ or $labels.node $labels.instance }} cannot learn the names of pods",
        description: "Containers that began since then have ids for names, and no workload. They are measured all the same, and get their names when the source answers again.",
        means: "An agent's source of names, such as the API server, has not answered for 15 minutes.",
        limits: "The source is asked again at once and then more and more seldom, so 15 minutes are more than an API server's restart.",
        steps: &[
            "`podlens_names_requests_total` by `result` tells what is wrong: `forbidden` is the role (`rbac.create`), `unauthorized` the token, `certificate` the authority, `unreachable` or `timeout` the network.",
            "If it is all agents, it is the API server or a NetworkPolicy; if it is one, its node: `kubectl logs` of its pod has the answer that it gets.",
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
        summary: "Points that the podlens agent on {{ or $labels.node $labels.instance }} pushes by OTLP are {{ $labels.result }}",
        description: "What is `rejected` the receiver does not want, what is `dropped` could not be delivered in time. Both are missing there for good.",
        means: "An agent has lost points on their way to the OTLP receiver for 15 minutes on end.",
        limits: "Attempts that fail and are repeated with success lose nothing, and are no alert; nor is the gap of a receiver's restart. Where `otlp.interval` is longer than 4 minutes it is silent, since it looks at 5; lost log records (`podlens_otlp_log_records_total`) are as rare as events and no part of it.",
        steps: &[
            "The agent's log (`kubectl logs`) has the receiver's own answer: a warning that begins with \"the OTLP receiver\".",
            "`dropped`: is the collector up, does its Service have endpoints, may the agent reach it? Its own queue may be full (`otelcol_exporter_queue_size`).",
            "`rejected`: the receiver's limits, most of all of the number of series or attributes: `series.detail`, `series.limit`.",
        ],
    }
}
