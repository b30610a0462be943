//! What is made of podlens' metrics for Prometheus and Grafana: recording rules, alerts with their runbook, dashboards. Each is
//! defined here once and written into files by `cargo xtask chart`, which compares them and lets promtool test them.
//!
//! | file | holds |
//! | --- | --- |
//! | rules.rs | what a rule and an alert are, and the files made of them |
//! | workloads.rs | recording rules: what workloads cost on each node |
//! | alerts.rs | the alerts |
//! | query.rs | pieces of PromQL |
//! | promtool.rs, tests/ | what promtool says of the rules, and the cases that it tries |
//!
//! That each expression asks for what podlens serves, and has an answer, agent/tests/monitoring.rs shows: it has a running
//! agent.

mod alerts;
mod promtool;
mod query;
mod rules;
mod workloads;

use std::path::{Path, PathBuf};

use anyhow::Result;

/// A file that is made here: its path in the repository and its text.
pub(crate) struct Made {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// Where the chart finds the rules.
const RULES: &str = "deploy/chart/files/alerts/podlens.yaml";

/// All files.
pub(crate) fn files() -> Result<Vec<Made>> {
    let (recordings, alerts) = (workloads::recordings(), alerts::alerts());
    let made = |path: &str, text| Made { path: PathBuf::from(path), text };
    Ok(vec![made(RULES, rules::file(&recordings, &alerts)), made(rules::RUNBOOK, rules::runbook(&recordings, &alerts))])
}

/// Whether the files hold what they promise, as far as can be told without an agent.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    promtool::check(&workspace.join(RULES), &alerts::alerts())
}
