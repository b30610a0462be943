//! What a recording rule and an alert are, and the rules file that Prometheus reads. Pure.
//!
//! Which ones there are stands in workloads.rs and alerts/.

use std::fmt::Write as _;

use super::dashboards::Dashboard;

/// Where the sections about alerts are; the chart puts a URL of the reader's choice in its place.
pub(super) const RUNBOOK: &str = "docs/alerts.md";

/// For how long what is an event must have been so.
pub(super) const AT_ONCE: &str = "0m";

/// A query that is asked again and again, its answer kept under a name.
pub(super) struct Recording {
    pub(super) name: &'static str,
    pub(super) expression: String,
    /// For people, in the documentation.
    pub(super) about: &'static str,
}

/// Something that a person has to act upon.
pub(super) struct Alert {
    pub(super) name: &'static str,
    pub(super) expression: String,
    /// For how long it must have been so.
    pub(super) hold: &'static str,
    pub(super) severity: Severity,
    /// Templates of Prometheus: one line, and what a person needs to know at night.
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    /// The rest is for the runbook: what is the case, why the limits are what they are, what to do.
    pub(super) means: &'static str,
    pub(super) limits: &'static str,
    pub(super) steps: &'static [&'static str],
}

impl Alert {
    /// What the alert says, by its name in Prometheus.
    pub(super) fn annotations(&self) -> [(&'static str, String); 3] {
        [
            ("summary", self.summary.to_owned()),
            ("description", self.description.to_owned()),
            ("runbook_url", format!("{RUNBOOK}#{}", self.name.to_lowercase())),
        ]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// Somebody should get up.
    Critical,
    /// In working hours.
    Warning,
}

impl Severity {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
        }
    }
}

/// The rules file. JSON's strings are strings in YAML, and quote whatever needs it.
pub(super) fn file(recordings: &[Recording], alerts: &[Alert]) -> String {
    let mut text = String::from(
        "# Made by `cargo xtask chart` from xtask/src/monitoring; change that instead. What each alert means and what to do:\n\
         # docs/alerts.md. For a Prometheus outside its operator: name this file in `rule_files`. Inside: the chart's `rules.enabled`.\n\
         groups:\n  - name: podlens-workloads\n    rules:\n",
    );
    for Recording { name, expression, .. } in recordings {
        let _ = writeln!(text, "      - record: {name}\n        expr: |-\n{}", block(expression));
    }
    text.push_str("  - name: podlens-alerts\n    rules:\n");
    for alert in alerts {
        let _ = writeln!(text, "      - alert: {}\n        expr: |-\n{}", alert.name, block(&alert.expression));
        if alert.hold != AT_ONCE {
            let _ = writeln!(text, "        for: {}", alert.hold);
        }
        let _ = writeln!(text, "        labels:\n          severity: {}", alert.severity.name());
        text.push_str("        annotations:\n");
        for (key, value) in alert.annotations() {
            let _ = writeln!(text, "          {key}: {}", serde_json::Value::from(value));
        }
    }
    text
}

/// An expression as YAML's literal block.
fn block(expression: &str) -> String {
    expression.lines().map(|line| format!("          {line}")).collect::<Vec<_>>().join("\n")
}

/// docs/alerts.md.
pub(super) fn runbook(recordings: &[Recording], alerts: &[Alert], dashboards: &[Dashboard]) -> String {
    let mut text = String::from(INTRODUCTION);
    text.push_str("\n| alert | severity | fires when |\n| --- | --- | --- |\n");
    for Alert { name, severity, means, .. } in alerts {
        let _ = writeln!(text, "| [{name}](#{}) | {} | {means} |", name.to_lowercase(), severity.name());
    }
    for alert in alerts {
        let _ = write!(text, "\n## {}\n\n{}\n\n", alert.name, alert.means);
        for line in alert.expression.lines() {
            let _ = writeln!(text, "    {line}");
        }
        let when = if alert.hold == AT_ONCE { "At once".to_owned() } else { format!("For {}", alert.hold) };
        let _ = write!(text, "\n{when}. {}\n\nWhat to do:\n\n", alert.limits);
        for (number, step) in alert.steps.iter().enumerate() {
            let _ = writeln!(text, "{}. {step}", number + 1);
        }
    }
    text.push_str(RECORDINGS);
    for Recording { name, about, .. } in recordings {
        let _ = writeln!(text, "| `{name}` | {about} |");
    }
    text.push_str(DASHBOARDS);
    for Dashboard { name, title, about, .. } in dashboards {
        let _ = writeln!(text, "| podlens / {title} | `{name}.json` | {about} |");
    }
    text
}

const INTRODUCTION: &str = "\
# Alerts, rules and dashboards

Made by `cargo xtask chart` from xtask/src/monitoring; change that instead.

You are here because an alert of podlens fired, or because you want to install them. If one fired, look for its name below: its
section explains the alert and its limit, and says what to do, the most likely cause first. `critical` should get somebody up,
`warning` is for working hours.

An alert's labels say where the problem is:

- `node`, `namespace`, `pod`: the pod that suffers. Look at the dashboard \"podlens / Pod\" with these, and at \"podlens / Node\" for the
  other pods there. A pod that is folded into its workload ([cardinality.md](cardinality.md)) has `workload` in place of `pod`.
- `node`, `instance`: the agent, in alerts about podlens itself. There is a `node` if Prometheus gives it to the target, as with the
  chart's monitors and [deploy/examples/prometheus.yaml](../deploy/examples/prometheus.yaml); on a host, `instance` names the agent.
- `namespace`, `daemonset`: the DaemonSet, in alerts of `podlens fleet`.

## Install

The rules are one file, `podlens.yaml` in [deploy/alerts](../deploy/alerts), for `rule_files` of a Prometheus. With its
operator, the chart's `rules.enabled` makes a PrometheusRule of it, and `rules.runbooks` says where users can read this document, so
that `runbook_url` leads here.

Rules and dashboards compare with the requests of pods, which agents do not serve by default. The chart adds these metrics where
`rules.enabled` or `dashboards.enabled` is set and `config.series.allow` is not; elsewhere, set

    series: { allow: \"default, podlens_cpu_request_cores, podlens_memory_request_bytes\" }

Without them PodDelayedByNeighbor never fires, and the columns and panels that compare with requests are empty.

The rules take rates over 5 minutes, for scrapes at least once a minute, and read classic and native histograms alike. Change a
limit where your nodes differ; there is no alert for a value that is merely high.

In agent/tests/alerts.rs a real cause on a running node fires each alert, with shorter times. `promtool test rules` fires all of them
at their own times by series of the cause, and shows that they are silent where these series just fail to reach the limit
(xtask/src/monitoring/tests).

## Alerts
";

const RECORDINGS: &str = "
## Recording rules

The rules hold the cost of a workload's pods on one node, for each DaemonSet, Deployment and so on, with the labels `node`,
`namespace`, `workload` and `workload_type`. A pod counts for the workload in `podlens_pod_info`, for five minutes longer than it
lives, so that its last values are not lost. The rules add containers that are already folded into workloads
([cardinality.md](cardinality.md)).

The time that others waited for a workload is counted at the workload (`podlens_cpu_wait_inflicted_seconds_total`), however little
each of its victims lost: it does not depend on which of them have a series of their own in `podlens_cpu_wait_caused_seconds_total`.
Where `series.allow` names that metric, its sum by culprit is the same. As with any counter, no rate has the values of a container
between its start and the first scrape that saw it.

| rule | holds |
| --- | --- |
";

const DASHBOARDS: &str = "
## Dashboards

For Grafana 10 or later, in [deploy/dashboards](../deploy/dashboards): import them, or let the chart's `dashboards.enabled` make
ConfigMaps with the label that Grafana's sidecar looks for. Each panel says how to read it, and what it means if it is empty. The
variable `cluster` is for a Prometheus of several clusters; where no series has that label it matches everything.
agent/tests/monitoring.rs asks each expression of a Prometheus that scrapes running agents and `podlens fleet`, and none is without
an answer. `cargo xtask dashboards --prometheus ADDRESS:PORT` draws all of them as pictures, without a Grafana.

| dashboard | file | shows |
| --- | --- | --- |
";
