//! `DaemonSets` as `podlens fleet` sees them: which nodes lack their pod, and how roll-outs go. What they cost is daemonsets.rs.

use super::{
    CLUSTER,
    build::{Dashboard, Panel, Unit, Variable},
    rate, top,
};

const HERE: &str = "cluster=~\"$cluster\", namespace=~\"$namespace\", daemonset=~\"$daemonset\"";
/// Where no `DaemonSet` is chosen.
const IN_CLUSTER: &str = "cluster=~\"$cluster\"";
const DAEMON_SET: &str = "cluster, namespace, daemonset";
const ABSENT: &str = "podlens fleet does not run (fleet.enabled), or no replica leads.";

pub(super) fn dashboard() -> Dashboard {
    let variables = vec![
        CLUSTER,
        Variable { label: "namespace", of: "podlens_fleet_nodes{cluster=~\"$cluster\"}", single: false },
        Variable {
            label: "daemonset",
            of: "podlens_fleet_nodes{cluster=~\"$cluster\", namespace=~\"$namespace\"}",
            single: false,
        },
    ];
    Dashboard {
        name: "fleet",
        title: "Fleet",
        about: "Nodes that lack the pod of a DaemonSet, since when and why, and the progress of roll-outs. Needs podlens fleet (fleet.enabled).",
        variables,
        rows: vec![
            ("DaemonSets", vec![daemon_sets()]),
            ("Nodes that lack their pod", lacking()),
            ("Roll-outs", rollouts()),
            ("podlens fleet itself", itself()),
        ],
    }
}

/// What the leader tells, whichever replica that is.
fn told(metric: &str, more: &str, by: &str) -> String {
    format!("max by ({DAEMON_SET}{by}) (podlens_fleet_{metric}{{{HERE}{more}}})")
}

fn nodes(state: &str) -> String {
    told("nodes", &format!(", state=\"{state}\""), "")
}

fn labels(more: &[&'static str]) -> Vec<&'static str> {
    DAEMON_SET.split(", ").chain(more.iter().copied()).collect()
}

fn daemon_sets() -> Panel {
    let column = |name, state| (name, Unit::NUMBER, nodes(state));
    Panel::table(
        "DaemonSets",
        labels(&[]),
        vec![
            column("lacking", "lacking"),
            column("wanted", "wanted"),
            column("present", "present"),
            column("ready", "ready"),
            column("current", "current"),
            column("misplaced", "misplaced"),
            column("just missed", "just_missed"),
        ],
    )
    .about("Nodes that lack a pod that works, should have one, have one, have one that works, have the newest revision; pods where none should be; nodes that would have one but for a single requirement.")
    .or_nothing(ABSENT)
}

fn lacking() -> Vec<Panel> {
    let over_time = |by: &str| {
        let known = told("lacking_nodes", "", ", reason");
        top(&format!("sum by ({by}) ({known})"))
    };
    let since = told("lacking_since_timestamp_seconds", "", ", node, reason");
    vec![
        Panel::graph("By reason", Unit::NUMBER, vec![(over_time("reason"), "{{reason}}")])
            .stacked()
            .about("docs/fleet.md says what each reason means and what to do. The alert DaemonSetPodMissing fires after 15 minutes.")
            .or_nothing("No node lacks its pod, or podlens fleet does not run."),
        Panel::graph(
            "By DaemonSet",
            Unit::NUMBER,
            vec![(over_time("namespace, daemonset"), "{{namespace}}/{{daemonset}}")],
        )
        .stacked()
        .about("The ten that lack on most nodes.")
        .or_nothing("No node lacks its pod, or podlens fleet does not run."),
        Panel::table(
            "Nodes",
            labels(&["node", "reason"]),
            vec![("for", Unit::SECONDS, format!("topk(200, time() - {since})"))],
        )
        .about("The 200 that have lacked longest. Only the numbers above count nodes beyond fleet.lacking_series; `podlens fleet --once` lists each with the message of the component that refuses.")
        .or_nothing("No node lacks its pod, or podlens fleet does not run."),
        Panel::graph(
            "Nodes that should have none, by reason",
            Unit::NUMBER,
            vec![(format!("sum by (reason) ({}) > 0", told("excluded_nodes", "", ", reason")), "{{reason}}")],
        )
        .about("By the first rule that says so.")
        .or_nothing("Every node should have one, or podlens fleet does not run."),
        Panel::graph(
            "Lacking, without a row of their own",
            Unit::NUMBER,
            vec![(
                format!("max by (cluster) (podlens_fleet_lacking_folded{{{IN_CLUSTER}}})"),
                "{{cluster}} beyond fleet.lacking_series",
            )],
        )
        .about("They count in all panels but the table. Raise fleet.lacking_series if they matter.")
        .or_nothing(ABSENT),
    ]
}

fn rollouts() -> Vec<Panel> {
    let state = format!("{} == 1", told("rollout_state", ", state!=\"settled\"", ", state"));
    let of_state = |value: &str| format!("({state}) * on ({DAEMON_SET}) group_left () ({value})");
    let current = format!("{} / {}", nodes("current"), nodes("wanted"));
    let since = told("rollout_since_timestamp_seconds", "", "");
    vec![
        Panel::table(
            "Under way",
            labels(&["state"]),
            vec![
                ("newest revision", Unit::SHARE, of_state(&current)),
                ("for", Unit::SECONDS, of_state(&format!("time() - {since}"))),
                ("rolled back", Unit::NUMBER, of_state(&told("rolled_back", "", ""))),
            ],
        )
        .about("Share of the nodes that have the newest revision; for how long in this state, if a replica saw it begin; 1 if the newest template existed before. The alert DaemonSetRolloutStuck fires after 10 minutes.")
        .or_nothing("No roll-out is under way, or podlens fleet does not run."),
        Panel::graph(
            "Nodes that have the newest revision",
            Unit::SHARE,
            vec![(format!("bottomk(10, {current})"), "{{namespace}}/{{daemonset}}")],
        )
        .about("Of those that should have a pod; the ten DaemonSets with the smallest share.")
        .or_nothing(ABSENT),
        Panel::graph(
            "By state",
            Unit::NUMBER,
            vec![(format!("count by (state) ({} == 1)", told("rollout_state", "", ", state")), "{{state}}")],
        )
        .stacked()
        .about("Number of DaemonSets.")
        .or_nothing(ABSENT),
    ]
}

fn itself() -> Vec<Panel> {
    let of = |metric: &str, more: &str| format!("podlens_fleet_{metric}{{{IN_CLUSTER}{more}}}");
    vec![
        Panel::graph(
            "Who leads",
            Unit::NUMBER,
            vec![(of("leader", ""), "{{instance}}")],
        )
        .about("1 for the replica that reports on DaemonSets. The alert PodlensFleetBlind fires after 15 minutes without one.")
        .or_nothing("podlens fleet does not run (fleet.enabled).")
        .wide(8),
        Panel::graph(
            "Time since the API server's last message",
            Unit::SECONDS,
            vec![(top(&format!("time() - {}", of("heard_timestamp_seconds", ""))), "{{instance}} {{kind}}")],
        )
        .about("While nothing changes, one comes about once a minute.")
        .or_nothing("podlens fleet does not run (fleet.enabled).")
        .wide(8),
        Panel::graph(
            "Watches that do not work",
            Unit::NUMBER,
            vec![(format!("{} == 0", of("synced", "")), "{{instance}} {{kind}}")],
        )
        .about("A line for each, at 0. /readyz of the replica says why.")
        .or_nothing("All work, or podlens fleet does not run.")
        .wide(8),
        Panel::graph(
            "Requests that fail, objects left out",
            Unit::PER_SECOND,
            vec![
                (rate(&of("requests_total", ", result!=\"ok\""), "kind, verb, result"), "{{verb}} {{kind}}: {{result}}"),
                (rate(&of("lease_requests_total", ", result!=\"ok\""), "result"), "Lease: {{result}}"),
                (format!("{} > 0", rate(&of("odd_objects_total", ""), "kind")), "{{kind}} left out"),
            ],
        )
        .about("It is usual that the server ends a watch now and then. podlens leaves out objects that make no sense.")
        .or_nothing("None failed, or podlens fleet does not run."),
        Panel::graph(
            "Objects that are held",
            Unit::NUMBER,
            vec![(format!("max by (cluster, kind) ({})", of("objects", "")), "{{cluster}} {{kind}}")],
        )
        .about("By kind.")
        .or_nothing("podlens fleet does not run (fleet.enabled)."),
    ]
}
