//! promtool: whether the rules are valid, and what they do with series of the tests' own. Called by [`super`].
//!
//! The cases are promtool's own files (tests/), without what every one would repeat: the name of the rules file, and those
//! annotations of an alert that are the same whenever it fires.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::rules::Alert;
use crate::{components, places, process, step};

/// Where the cases are.
const CASES: &str = "xtask/src/monitoring/tests";

/// Checks the rules file and runs all cases against it.
pub(super) fn check(rules: &Path, alerts: &[Alert]) -> Result<()> {
    step::ensure(&components::PROMETHEUS)?;
    let promtool = places::component("prometheus-3")?.join("promtool");
    process::output(Command::new(&promtool).args(["check", "rules", "--lint=all", "--lint-fatal"]).arg(rules))?;
    let mut cases = read(&places::workspace()?.join(CASES))?;
    covered(&cases, alerts)?;
    let folder = places::target()?.join("promtool");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut files = Vec::new();
    for (name, case) in &mut cases {
        complete(case, rules, alerts);
        let file = folder.join(name);
        fs::write(&file, case.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
        files.push(file);
    }
    let output =
        Command::new(&promtool).args(["test", "rules"]).args(&files).output().context("cannot start promtool")?;
    if !output.status.success() {
        // What fails is told on the standard output.
        bail!("promtool test rules:\n{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim());
    }
    println!("promtool passes the rules and {} files of cases for {} alerts", files.len(), alerts.len());
    Ok(())
}

/// All files of cases, by their names.
fn read(folder: &Path) -> Result<Vec<(PathBuf, Value)>> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let case = serde_saphyr::from_str(&text)
            .map_err(|error| anyhow::anyhow!("{} is bad YAML: {error}", path.display()))?;
        cases.push((path.file_name().map(PathBuf::from).unwrap_or_default(), case));
    }
    cases.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(cases)
}

/// The list under this key.
fn list<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Adds what all cases have in common.
fn complete(file: &mut Value, rules: &Path, alerts: &[Alert]) {
    if let Some(file) = file.as_object_mut() {
        file.insert("rule_files".to_owned(), json!([rules]));
        file.insert("evaluation_interval".to_owned(), json!("1m"));
    }
    for case in list(file, "tests").flat_map(|test| list(test, "alert_rule_test")) {
        let name = case.get("alertname").and_then(Value::as_str).unwrap_or_default();
        let Some(alert) = alerts.iter().find(|alert| alert.name == name) else { continue };
        let constant = alert.annotations().into_iter().filter(|(_, text)| !text.contains("{{"));
        let constant: Vec<(&str, String)> = constant.collect();
        for expected in list(case, "exp_alerts").filter_map(Value::as_object_mut) {
            let annotations = expected.entry("exp_annotations").or_insert_with(|| json!({}));
            for (key, text) in &constant {
                if let Some(annotations) = annotations.as_object_mut() {
                    annotations.insert((*key).to_owned(), json!(text));
                }
            }
        }
    }
}

/// Each alert fires somewhere and is silent somewhere else.
fn covered(cases: &[(PathBuf, Value)], alerts: &[Alert]) -> Result<()> {
    let (mut fired, mut silent) = (BTreeSet::new(), BTreeSet::new());
    let of = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    for case in cases.iter().flat_map(|(_, file)| of(file, "tests")).flat_map(|test| of(&test, "alert_rule_test")) {
        let name = case.get("alertname").and_then(Value::as_str).unwrap_or_default().to_owned();
        if of(&case, "exp_alerts").is_empty() {
            silent.insert(name)
        } else {
            fired.insert(name)
        };
    }
    let names: BTreeSet<String> = alerts.iter().map(|alert| alert.name.to_owned()).collect();
    if fired != names || silent != names {
        bail!("{CASES}: {fired:?} fire in some case and {silent:?} are silent in one, but the alerts are {names:?}");
    }
    Ok(())
}
