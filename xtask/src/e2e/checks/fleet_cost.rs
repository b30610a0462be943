//! A `DaemonSet` that burns CPU: what others waited for it, as the agent's metric, the recording rule, the dashboard and the table
//! have it.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    agent::{self, Form},
    cluster::NODE_NAME,
    e2e::{
        wait::within,
        workloads::{container, daemon_set},
        world::World,
    },
    places, process,
};

const SPACE: &str = "fleet-cost";
const BURNER: &str = "burner";
const RULE: &str = "podlens:workload_cpu_wait_caused:tasks";
/// What is read from the same samples, and what is measured a moment earlier or later.
const SAME: f64 = 0.03;
const ALIKE: f64 = 0.2;
const LIMIT: Duration = Duration::from_mins(1);
/// How long the table measures: the longer, the less it matters that it begins a moment earlier or later than the metric's window.
const SECONDS: u32 = 20;
/// For some tables.
const TABLES: Duration = Duration::from_mins(2);

pub(super) fn waited_for(world: &mut World) -> Result<String> {
    // With the series that there are by default.
    world.install(&json!({ "fleet": { "enabled": true } }), true)?;
    let burn = |name: &str| container(name, &["100", "always"], &json!({}));
    let pod = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|name| burn(name)).collect();
        json!({ "containers": containers, "terminationGracePeriodSeconds": 1 })
    };
    world.apply(&[
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SPACE } }),
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "victim", "namespace": SPACE }, "spec": pod(&["app"]) }),
        daemon_set(SPACE, BURNER, pod(&["a", "b", "c"])),
    ])?;
    let told = compared(world);
    world.kubectl(&["delete", "namespace", SPACE, "--wait=false"])?;
    told
}

fn compared(world: &World) -> Result<String> {
    let inflicted = |window: &str| {
        format!(
            "sum(rate(podlens_cpu_wait_inflicted_seconds_total{{namespace=\"{SPACE}\", pod=~\"{BURNER}-.*\"}}[{window}]))"
        )
    };
    // What victims tell of it by name, which they do of the heaviest.
    let named = format!(
        "sum(podlens_cpu_wait_caused_seconds_total{{culprit_namespace=\"{SPACE}\", culprit_pod=~\"{BURNER}-.*\"}})"
    );
    let told = format!(
        "{named} / sum(podlens_cpu_wait_inflicted_seconds_total{{namespace=\"{SPACE}\", pod=~\"{BURNER}-.*\"}})"
    );
    // Nothing is lost between those who wait and those who make them: what has no culprit by name is `(other)`.
    let all =
        "sum(podlens_cpu_wait_caused_seconds_total) / sum(podlens_cpu_wait_seconds_total{cause=~\"neighbor|system\"})";
    let rule = format!("{RULE}{{namespace=\"{SPACE}\", workload=\"{BURNER}\"}}");
    let panels = panels()?;
    let (tasks, rules) = within(LIMIT, || {
        // Of the same moment, at which the rule was evaluated.
        let at = one(world, &format!("timestamp({rule})"), None)?;
        let (metric, rule) = (one(world, &inflicted("5m"), Some(at))?, one(world, &rule, Some(at))?);
        if metric < 0.01 {
            bail!("nobody waits for it: {metric:.3} tasks");
        }
        alike("the rule", rule, metric, SAME)?;
        for panel in &panels {
            alike(panel, one(world, panel, Some(at))?, rule, SAME)?;
        }
        Ok((metric, panels.len()))
    })?;
    // A scrape that is late leaves none until the next one.
    alike("what victims lost to all", within(TABLES, || one(world, all, None))?, 1.0, 1e-9)?;
    let told = within(TABLES, || one(world, &told, None))?;
    if !(0.3..=1.0 + 1e-9).contains(&told) {
        bail!("victims tell {told:.3} of it by name");
    }
    let table = within(TABLES, || {
        let table = table(world)?;
        let metric = one(world, &inflicted(&format!("{SECONDS}s")), None)?;
        alike("the table", table, metric, ALIKE).map(|()| table)
    })?;
    Ok(format!(
        "{tasks:.3} tasks in metric, rule and {rules} panels, {:.0} % of them by name with victims; {table:.3} in the table of {SECONDS} s",
        told * 100.0
    ))
}

fn alike(what: &str, found: f64, wanted: f64, tolerance: f64) -> Result<()> {
    if (found - wanted).abs() > wanted * tolerance {
        bail!("{what} is {found:.4}, not {wanted:.4}");
    }
    Ok(())
}

/// The value of an expression that has one.
fn one(world: &World, expression: &str, at: Option<f64>) -> Result<f64> {
    let series = world.prometheus.at(expression, at)?;
    let [series] = &series[..] else { bail!("{expression} has {} series, not one", series.len()) };
    series.samples.first().map(|(_, value)| *value).with_context(|| format!("{expression} has no value"))
}

/// The dashboard's expressions of it, with its variables set.
fn panels() -> Result<Vec<String>> {
    let path = places::workspace()?.join("deploy/chart/files/dashboards/daemonsets.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut found = Vec::new();
    collect(&serde_json::from_str(&text).context("a dashboard is no JSON")?, &mut found);
    if found.is_empty() {
        bail!("no panel of {} has {RULE}", path.display());
    }
    let set =
        |panel: &String| panel.replace("$cluster", ".*").replace("$namespace", SPACE).replace("$workload", BURNER);
    Ok(found.iter().map(set).collect())
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            let expression = members.get("expr").and_then(Value::as_str).filter(|text| text.contains(RULE));
            found.extend(expression.map(str::to_owned));
            members.values().for_each(|member| collect(member, found));
        }
        Value::Array(elements) => elements.iter().for_each(|element| collect(element, found)),
        _ => {}
    }
}

/// Tasks that waited for it by `podlens snapshot --by workload`, which measures for itself.
fn table(world: &World) -> Result<f64> {
    let program = agent::place(Form { release: true, static_binary: true })?;
    let text = process::output(
        Command::new(&program)
            .args(["snapshot", "--by", "workload", "--seconds", &SECONDS.to_string(), "--kubeconfig"])
            .arg(world.cluster.kubeconfig())
            .env("PODLENS_NODE", NODE_NAME)
            .env_remove("KUBERNETES_SERVICE_HOST"),
    )
    .with_context(|| format!("cannot run {}; make it with cargo xtask build --release --static", program.display()))?;
    let name = format!("{SPACE}/daemonset/{BURNER} ");
    let row = text.lines().find(|line| line.starts_with(&name)).with_context(|| format!("no {name}in {text}"))?;
    // The last column but one.
    let caused = row.split_whitespace().rev().nth(1).and_then(|word| word.parse().ok());
    caused.with_context(|| format!("no number of tasks in {row}"))
}
