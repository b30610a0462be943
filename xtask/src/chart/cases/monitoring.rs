//! What the chart makes of rules and dashboards, which are files that `monitoring` writes.

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use super::{Context, same};
use crate::{
    chart::helm::{Objects, text},
    monitoring,
};

pub(super) fn rules_and_dashboards(context: &Context<'_>) -> Result<()> {
    let objects = context.objects(
        "{ rules: { enabled: true, labels: { release: prometheus }, runbooks: 'https://example.com/alerts' },
           dashboards: { enabled: true, annotations: { grafana_folder: podlens } } }",
    )?;
    let rule = objects.one("PrometheusRule")?;
    same("the rules' label", &text(rule, "/metadata/labels/release"), &"prometheus")?;
    let mut dashboards = 0;
    for file in monitoring::files() {
        let name = file.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "podlens.yaml" {
            let plain = file.text.replace("\"docs/alerts.md#", "\"https://example.com/alerts#");
            let plain: Value =
                serde_saphyr::from_str(&plain).map_err(|error| anyhow!("{name} is bad YAML: {error}"))?;
            same("the PrometheusRule", &rule.get("spec"), &Some(&plain))?;
        } else if let Some(stem) = name.strip_suffix(".json") {
            let map = config_map(&objects, &format!("podlens-{stem}"))?;
            same("the dashboard's label", &text(map, "/metadata/labels/grafana_dashboard"), &"1")?;
            same("the dashboard's folder", &text(map, "/metadata/annotations/grafana_folder"), &"podlens")?;
            let kept = map.get("data").and_then(|data| data.get(name)).and_then(Value::as_str).unwrap_or_default();
            if kept.trim_end() != file.text.trim_end() {
                bail!("the ConfigMap of {name} has other text than the file");
            }
            dashboards += 1;
        }
    }
    // What they compare with, unless the user has said which series there are to be.
    for (values, wanted) in [
        ("{ rules: { enabled: true } }", "default, podlens_cpu_request_cores, podlens_memory_request_bytes"),
        ("{ dashboards: { enabled: true } }", "default, podlens_cpu_request_cores, podlens_memory_request_bytes"),
        ("{ rules: { enabled: true }, config: { series: { allow: podlens_cpu_* } } }", "podlens_cpu_*"),
        ("{ rules: { enabled: false } }", ""),
    ] {
        let objects = context.objects(values)?;
        let config = config_map(&objects, "podlens")?.pointer("/data/config.yaml").and_then(Value::as_str);
        let config: Value = serde_saphyr::from_str(config.unwrap_or_default())
            .map_err(|error| anyhow!("the configuration with {values} is bad YAML: {error}"))?;
        same(values, &text(&config, "/series/allow"), &wanted)?;
    }
    let maps = objects.0.iter().filter(|object| text(object, "/kind") == "ConfigMap").count();
    same("the number of ConfigMaps, with the agent's configuration", &maps, &(dashboards + 1))
}

fn config_map<'a>(objects: &'a Objects, name: &str) -> Result<&'a Value> {
    let is_it = |object: &&Value| text(object, "/kind") == "ConfigMap" && text(object, "/metadata/name") == name;
    objects.0.iter().find(is_it).with_context(|| format!("there is no ConfigMap {name}"))
}
