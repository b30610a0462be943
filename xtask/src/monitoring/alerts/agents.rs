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
        summary: "Prometheus scrapes no podlens agent at all",
        description: "Prometheus has no sample of any agent. All other alerts of podlens are blind until it has some.",
        means: "No agent answers a scrape, or nothing scrapes the agents.",
        limits: "15 minutes outlast an installation and a restart of Prometheus.",
        steps: &[
            "`kubectl get pods -A -l app.kubernetes.io/name=podlens`: are there agents, and are they ready?",
            "If they are: does Prometheus have a target for them (in its own pages: Status, Target health)? The chart makes one with `podMonitor.enabled`; its `podMonitor.labels` must be those that the operator selects (`kubectl get prometheus -A -o jsonpath='{..podMonitorSelector}'`).",
            "If there is a target and it is down, it shows the error; a NetworkPolicy must let Prometheus in on port 9464.",
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
        description: "Prometheus still has its target, so its pod or host should exist, but every scrape fails. Either the agent measures nothing, or nothing collects its values.",
        means: "An agent that was scraped within the last day does not answer any more, though it is still a target.",
        limits: "A rolling update replaces a target within a few minutes and removes the old one; 15 minutes outlast the reboot of a node. A target is an agent if it had the series `podlens_sweep_seconds` within the last day, whatever the name of the job.",
        steps: &[
            "`kubectl get pods -A -o wide -l app.kubernetes.io/name=podlens`: is the pod on that node running, and is the node ready? If an agent was never there at all, look at the DaemonSet: `podlens fleet --once` says why, and so does the alert DaemonSetPodMissing where `podlens fleet` runs.",
            "`kubectl logs --previous` of the pod: an agent that ends says why in its last line. `OOMKilled` means that `resources.limits.memory` is too small for the number of containers on the node.",
            "If it runs and is ready, Prometheus cannot reach it: look at NetworkPolicy, firewall, `metrics.address`.",
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
        description: "Its metrics are absent or incomplete on this node, and all alerts and panels that use them are blind there. The agent's log and /readyz say why.",
        means: "A collector failed, or it is degraded or unsupported and was running within the last day.",
        limits: "There is no alert for something that a kernel never could do: the first `podlens check` shows it, and only another kernel helps. There is one for something that worked yesterday, such as before an update of the node. For that the `instance` must be the same, so the chart's monitors and deploy/examples use the node's name.",
        steps: &[
            "`kubectl -n NAMESPACE exec POD -- /podlens check --config /etc/podlens/config.yaml`, with the alert's `namespace` and `pod`, says what is lacking and how to get it. On a host: `podlens check`.",
            "Does the node have another kernel now, or did the pod's capabilities or its seccomp profile change? See [troubleshooting.md](troubleshooting.md).",
            "If this cluster does not need the collector, set `collectors.NAME: false`: its state is then `disabled`, for which there is no alert.",
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
        description: "podlens continues to lose things that it could not count, name or report. Values of this node are too low by that much, or count as `unattributed`.",
        means: "An agent has lost more than one thing a second for half an hour, all for the same reason.",
        limits: "Single losses are usual at an agent's start and when thousands of cgroups come at once; with less than one a second, a node that switches tasks thousands of times a second stays exact to a tenth of a percent. The alert leaves out `missed_switch`, since podlens corrects its CPU time (PodlensAttributionLow fires where it cannot), and `unknown_sleep`, which mostly follows from it: while another tracer runs, both continue, and only sleeps are too low.",
        steps: &[
            "Look the reason up in [troubleshooting.md](troubleshooting.md#podlens_lost_total-grows).",
            "`no_free_slot`, `table_full`: the node has more cgroups than slots. Raise `slots`.",
            "`no_room`: the journal or a table is too small for a burst that does not end. Find the workload that makes so many containers, processes or connections there.",
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
        summary: "{{ $value | humanizePercentage }} of the CPU time on {{ $labels.node }} is charged to no pod or unit",
        description: "Less than 99 % of the CPU time that tasks had is charged to a pod or a unit. Costs and causes of this node are too low by the rest.",
        means: "More than 1 % of a node's CPU time is `unattributed`, or podlens did not see it at all.",
        limits: "podlens promises 99 %. The alert leaves out idle nodes: of less than a tenth of a CPU, a single lost slice is one percent.",
        steps: &[
            "`podlens_lost_total` by reason shows why: mostly `no_free_slot` (raise `slots`), `event_lost` and `path_unreadable`.",
            "If nearly everything is `unit=\"outside\"` or unattributed, the agent sees another cgroup tree than the kernel: `cgroups.hostPath` must be the host's /sys/fs/cgroup.",
            "If `podlens_cpu_unseen_seconds_total` grows, another program on the node keeps the kernel from reporting switches: stop other tracers one after another, until it no longer grows.",
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
        description: "Containers that began since then have ids for names, and no workload. The agent measures them, and they get their names when the source answers again.",
        means: "An agent's source of names, such as the API server, has not answered for 15 minutes.",
        limits: "The agent asks the source again at once and then less and less often; 15 minutes outlast the restart of an API server.",
        steps: &[
            "`podlens_names_requests_total` by `result` shows the cause: `forbidden` is the role (`rbac.create`), `unauthorized` the token, `certificate` the authority, `unreachable` or `timeout` the network.",
            "If all agents have it, the cause is the API server or a NetworkPolicy; if one has it, its node: `kubectl logs` of its pod has the answer that it gets.",
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
        description: "The receiver refused the points that are `rejected`; the agent could not deliver in time the points that are `dropped`. Both are missing there for good.",
        means: "An agent has lost points on their way to the OTLP receiver for 15 minutes without a break.",
        limits: "An attempt that fails and is repeated with success loses nothing, so there is no alert for it, nor for the gap of a receiver's restart. Where `otlp.interval` is longer than 4 minutes the alert is silent, since it looks at 5 minutes. It does not include lost log records (`podlens_otlp_log_records_total`), which are as rare as events.",
        steps: &[
            "The agent's log (`kubectl logs`) has the receiver's own answer: a warning that begins with \"the OTLP receiver\".",
            "`dropped`: is the OpenTelemetry collector up, does its Service have endpoints, may the agent reach it? The collector's own queue may be full (`otelcol_exporter_queue_size`).",
            "`rejected`: look at the receiver's limits, mostly of the number of series or attributes: `series.detail`, `series.limit`.",
        ],
    }
}
