//! Alerts about `DaemonSets`, as `podlens fleet` sees them, and about `podlens fleet` itself. Pure.
//!
//! Two replicas may be scraped, of which one tells; who that is changes, so no label of the replica is kept.

use crate::monitoring::rules::{Alert, Severity};

/// Which `DaemonSet`.
const DAEMON_SET: &str = "cluster, namespace, daemonset";

pub(super) fn alerts() -> Vec<Alert> {
    vec![pod_missing(), rollout_stuck(), blind()]
}

fn pod_missing() -> Alert {
    let lacking = |reasons: &str| format!("podlens_fleet_lacking_since_timestamp_seconds{{reason{reasons}}}");
    let node = format!("{DAEMON_SET}, node, reason");
    // The time since when begins anew with each container that runs for a moment, and with each pod that is made instead of a
    // failed one.
    let again = lacking("=~\"crash_loop|out_of_memory|failed\"");
    let within = |window: &str| format!("group by ({node}) (last_over_time({again}{window}))");
    Alert {
        name: "DaemonSetPodMissing",
        expression: format!(
            "count by ({DAEMON_SET}, reason) (\n    time() - max by ({node}) ({}) > 900\n  or\n    {}\n  and\n    {}\n)",
            lacking("!=\"node_not_ready\""),
            within("[5m]"),
            within("[10m] offset 10m")
        ),
        hold: "5m",
        severity: Severity::Warning,
        summary: "Nodes on which {{ $labels.namespace }}/{{ $labels.daemonset }} has no pod that works: {{ $value }} ({{ $labels.reason }})",
        description: "They should have one.{{ range printf `bottomk(3, max by (node) (podlens_fleet_lacking_since_timestamp_seconds{cluster=\"%s\", namespace=\"%s\", daemonset=\"%s\", reason=\"%s\"}))` $labels.cluster $labels.namespace $labels.daemonset $labels.reason | query }} {{ .Labels.node }}: since {{ .Value | humanizeTimestamp }}.{{ end }}",
        means: "Nodes that should have a pod of a DaemonSet have had none that works for 20 minutes, or have one that ends again and again, all of them for the same reason.",
        limits: "15 minutes in the expression and 5 of waiting outlast the download of a large image and the start of a node. A container that ends again and again works for a moment each time, so for it the alert requires only that it lacked within the last 5 minutes, and 10 to 20 minutes ago as well; the alert ends at most 5 minutes after the repair. It leaves out nodes whose kubelet does not answer: every DaemonSet lacks its pod there, because of the node. Only `podlens_fleet_lacking_nodes` counts nodes beyond `fleet.lacking_series`, so the number may be too low.",
        steps: &[
            "`podlens fleet --once` lists each node with the message of the component that refuses; the event `podlens.daemonset.lacking` has it as well.",
            "[fleet.md](fleet.md#why-a-node-lacks-its-pod) says for each reason what to do.",
            "If several DaemonSets lack pods on the same nodes for the same reason (`network`, `volume`, `clock`, `image`), the cause is the node, not the DaemonSet. The dashboard \"podlens / Fleet\" lists them beside each other.",
            "If a node should have no pod, give the node a taint, or the DaemonSet a node selector: then podlens expects none there.",
        ],
    }
}

fn rollout_stuck() -> Alert {
    Alert {
        name: "DaemonSetRolloutStuck",
        expression: format!("max by ({DAEMON_SET}) (podlens_fleet_rollout_state{{state=\"stuck\"}}) == 1"),
        hold: "10m",
        severity: Severity::Warning,
        summary: "The roll-out of {{ $labels.namespace }}/{{ $labels.daemonset }} is stuck",
        description: "So many pods of its new revision do not work that no more are replaced.{{ range printf `max(podlens_fleet_nodes{cluster=\"%s\", namespace=\"%s\", daemonset=\"%s\", state=\"current\"})` $labels.cluster $labels.namespace $labels.daemonset | query }} Nodes that have the new revision: {{ .Value }}.{{ end }}",
        means: "As many pods of a DaemonSet's new revision as may be unavailable at once do not work, so its roll-out stands still.",
        limits: "A roll-out is stuck only once a reason does not pass by itself, or after 10 minutes ([fleet.md](fleet.md#roll-outs)); 10 more give the person who rolls out time to see it first. There is no alert for a paused one (`OnDelete`).",
        steps: &[
            "`podlens fleet --once` names a node, the reason and the message of the component that refuses; so does the event `podlens.daemonset.rollout.stuck`.",
            "`kubectl rollout undo daemonset/NAME` brings the former revision back to the nodes that have the new one.",
            "With `maxSurge` the old pods still work and no node lacks anything. With `maxUnavailable` those nodes have no pod: DaemonSetPodMissing shows which ones.",
        ],
    }
}

fn blind() -> Alert {
    Alert {
        name: "PodlensFleetBlind",
        // A replica that does not answer does not lead: its `up` is the 0 of those that do not.
        expression: "max by (cluster, kind) (\n  podlens_fleet_synced == 0\n  and on (cluster, job, instance)\n  podlens_fleet_leader == 1\n)\nor\nmax by (cluster) (\n  podlens_fleet_leader\n  or\n  up == 0 and on (cluster, job, instance) max_over_time(podlens_fleet_leader[1d])\n) == 0".to_owned(),
        hold: "15m",
        severity: Severity::Warning,
        summary: "podlens fleet {{ if $labels.kind }}cannot watch {{ $labels.kind }}{{ else }}reports on no DaemonSet, since no replica leads{{ end }}",
        description: "{{ if $labels.kind }}The information that only those have is absent: reasons, or the state of roll-outs.{{ else }}The alerts about DaemonSets are blind until one does.{{ end }}",
        means: "No replica of `podlens fleet` leads, or the leading one cannot watch a kind of objects.",
        limits: "A new replica leads within 17 seconds, and a watch that breaks off begins again within a minute, so 15 minutes outlast the restart of an API server. There is no alert for one replica that is away while another leads.",
        steps: &[
            "`kubectl logs` and `/readyz` of the replicas name the verb and the resource that they lack; `podlens_fleet_requests_total` by `result` shows the rest: `forbidden` is the role (`rbac.create`), `unauthorized` the token, `unreachable` or `timeout` the network.",
            "If no replica leads and all watches work (`podlens_fleet_synced`), the cause is the Lease. See `podlens_fleet_lease_requests_total` by `result`, and `kubectl get lease` in its namespace for the holder.",
            "If no replica answers, `kubectl get pods -l app.kubernetes.io/name=podlens-fleet` shows whether they run, and `kubectl describe` why not.",
        ],
    }
}
