//! The view of all `DaemonSets` as one JSON document, for programs. Pure; `podlens fleet --output json` prints it.

use serde_json::{Value, json};

use super::{causes::Lack, rollout::Rollout, state::Report};

/// The whole view.
#[must_use]
pub fn encode(reports: &[Report]) -> String {
    let all: Vec<Value> = reports.iter().map(daemon_set).collect();
    format!("{}\n", json!({ "daemonsets": all }))
}

fn daemon_set(report: &Report) -> Value {
    let lacking: Vec<Value> = report.lacking.iter().map(|(node, lack)| with_node(node, lack)).collect();
    let just_missed = report.just_missed.iter();
    let just_missed: Vec<Value> = just_missed
        .map(|(node, why)| json!({ "node": node, "reason": why.reason(), "detail": why.to_string() }))
        .collect();
    let stuck = match &report.rollout {
        Rollout::Stuck { node, lack } => with_node(node, lack),
        Rollout::Settled | Rollout::Rolling | Rollout::Paused => Value::Null,
    };
    json!({
        "namespace": report.namespace,
        "name": report.name,
        "nodes": report.wanted,
        "present": report.present,
        "ready": report.ready,
        "current": report.current,
        "misplaced": report.misplaced,
        "lacking": lacking,
        "excluded": report.excluded,
        "taints": report.taints,
        "just_missed": just_missed,
        "old": report.old,
        "rollout": { "state": report.rollout.name(), "rolled_back": report.rolled_back, "stuck": stuck },
    })
}

fn with_node(node: &str, lack: &Lack) -> Value {
    json!({
        "node": node,
        "reason": lack.reason.name(),
        "detail": lack.detail,
        "since": lack.since.map(|since| since.to_string()),
    })
}
