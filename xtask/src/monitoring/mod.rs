//! What is made of podlens' metrics for Prometheus and Grafana: recording rules, alerts with their runbook, dashboards. Each is
//! defined here once and written into files by `cargo xtask chart`, which compares them and lets promtool test them.
//!
//! | file | holds |
//! | --- | --- |
//! | rules.rs | what a rule and an alert are, and the files made of them |
//! | workloads.rs | recording rules: what workloads cost on each node |
//! | alerts/ | the alerts: a file for each whom they are about |
//! | dashboards/ | the dashboards: what one is made of, and a file for each |
//! | query.rs | pieces of queries |
//! | draw.rs | pictures of the dashboards |
//! | promtool.rs, tests/ | what promtool says of the rules, and the cases that it tries |
//!
//! That each expression asks for what podlens serves, and has an answer, agent/tests/monitoring.rs shows: it has a running
//! agent.

mod alerts;
mod dashboards;
mod draw;
mod promtool;
mod query;
mod rules;
mod workloads;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub(crate) use self::draw::{Choice, run};

/// A file that is made here: its path in the repository and its text.
pub(crate) struct Made {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// Where the chart finds the rules.
const RULES: &str = "deploy/chart/files/alerts/podlens.yaml";

/// Where it finds the dashboards.
const DASHBOARDS: &str = "deploy/chart/files/dashboards";

/// All files.
pub(crate) fn files() -> Vec<Made> {
    let (recordings, alerts, dashboards) = (workloads::recordings(), alerts::alerts(), dashboards::all());
    let made = |path: &str, text| Made { path: PathBuf::from(path), text };
    let mut files = vec![
        made(RULES, rules::file(&recordings, &alerts)),
        made(rules::RUNBOOK, rules::runbook(&recordings, &alerts, &dashboards)),
    ];
    files.extend(dashboards.iter().map(|one| made(&format!("{DASHBOARDS}/{}.json", one.name), one.text())));
    files
}

/// Whether the files hold what they promise, as far as can be told without an agent.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    promtool::check(&workspace.join(RULES), &alerts::alerts())
}
