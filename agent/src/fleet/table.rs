//! The view of all `DaemonSets` for a terminal. Pure; `podlens fleet --once` prints it.

use std::{collections::BTreeMap, fmt::Write as _};

use k8s_openapi::jiff::Timestamp;

use super::{causes::Lack, rollout::Rollout, state::Report};

/// Nodes that are told one by one for each `DaemonSet` and reason.
const NODES: usize = 5;

/// The whole view: a line for each `DaemonSet`, then what is lacking.
#[must_use]
pub fn render(reports: &[Report], now: Timestamp) -> String {
    let mut text = String::new();
    let title = "DAEMONSET";
    let names: Vec<String> = reports.iter().map(|report| format!("{}/{}", report.namespace, report.name)).collect();
    let width = names.iter().map(String::len).chain([title.len()]).max().unwrap_or_default();
    let _ = writeln!(
        text,
        "{title:width$} {:>7} {:>7} {:>7} {:>7} {:>9}  ROLL-OUT",
        "NODES", "PRESENT", "READY", "CURRENT", "MISPLACED"
    );
    for (report, name) in reports.iter().zip(&names) {
        let _ = writeln!(
            text,
            "{name:width$} {:>7} {:>7} {:>7} {:>7} {:>9}  {}",
            report.wanted,
            report.present,
            report.ready,
            report.current,
            report.misplaced,
            rolling(report, now)
        );
    }
    for (report, name) in reports.iter().zip(&names) {
        lacking(&mut text, name, report, now);
        paused(&mut text, name, report);
        excluded(&mut text, name, report);
    }
    if !reports.is_empty() && reports.iter().all(|report| report.lacking.is_empty()) {
        let _ = writeln!(text, "\nEvery node that should have a pod has one that works.");
    }
    text
}

fn rolling(report: &Report, now: Timestamp) -> String {
    let state = match &report.rollout {
        Rollout::Stuck { node, lack } => format!("stuck{} on {node}: {}", ago(lack.since, now), lack.reason.name()),
        Rollout::Paused => format!("paused: OnDelete, {} old", report.present.saturating_sub(report.current)),
        Rollout::Rolling => format!("rolling, {} old", report.present.saturating_sub(report.current)),
        Rollout::Settled => "settled".to_owned(),
    };
    if report.rolled_back { format!("{state}, rolled back") } else { state }
}

/// Nodes that lack the same for the same reason stand together.
fn lacking(text: &mut String, name: &str, report: &Report, now: Timestamp) {
    let mut alike = BTreeMap::<(_, &str), Vec<(&str, &Lack)>>::new();
    for (node, lack) in &report.lacking {
        alike.entry((lack.reason, &lack.detail)).or_default().push((node, lack));
    }
    for ((reason, detail), nodes) in alike {
        let since = nodes.iter().filter_map(|(_, lack)| lack.since).min();
        let _ = writeln!(
            text,
            "\n{name}: {}{} on {}",
            reason.name(),
            ago(since, now),
            some(nodes.iter().map(|(node, _)| *node))
        );
        let _ = writeln!(text, "    {detail}");
    }
}

/// Nobody but somebody who deletes them replaces these.
fn paused(text: &mut String, name: &str, report: &Report) {
    if report.rollout == Rollout::Paused {
        for (revision, nodes) in &report.old {
            let _ = writeln!(
                text,
                "\n{name}: of revision {revision} until it is deleted on {}",
                some(nodes.iter().map(|node| &**node))
            );
        }
    }
}

fn excluded(text: &mut String, name: &str, report: &Report) {
    let mut alike = BTreeMap::<String, Vec<&str>>::new();
    for (node, why) in &report.just_missed {
        alike.entry(why.to_string()).or_default().push(node);
    }
    for (why, nodes) in alike {
        let _ = writeln!(text, "\n{name}: not wanted on {}, for one requirement only", some(nodes.into_iter()));
        let _ = writeln!(text, "    {why}");
    }
    if !report.taints.is_empty() {
        let _ = writeln!(text, "\n{name}: not wanted for taints");
        for (taint, nodes) in &report.taints {
            let _ = writeln!(text, "    {taint}: {nodes} {}", if *nodes == 1 { "node" } else { "nodes" });
        }
    }
}

fn some<'a>(nodes: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = nodes.len();
    let told: Vec<&str> = nodes.take(NODES).collect();
    let rest = if count > NODES { format!(" and {} more", count - NODES) } else { String::new() };
    format!("{}{rest}", told.join(", "))
}

fn ago(since: Option<Timestamp>, now: Timestamp) -> String {
    let Some(since) = since else { return String::new() };
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!(" for {seconds} s"),
        120..7200 => format!(" for {} min", seconds / 60),
        7200..172_800 => format!(" for {} h", seconds / 3600),
        _ => format!(" for {} d", seconds / 86400),
    }
}
