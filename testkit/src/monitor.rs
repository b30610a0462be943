//! What the Prometheus operator makes of the chart's monitors: a scrape configuration of a rendered endpoint. Only of what
//! the chart renders; the chart's own checks and the agent's tests use it.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

/// The one endpoint of the one monitor of that kind in rendered manifests.
pub fn endpoint(manifests: &str, kind: &str) -> Value {
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifests).expect("the manifests are YAML");
    let of_kind: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
    let [monitor] = of_kind[..] else { panic!("there are {} objects of kind {kind}, not one", of_kind.len()) };
    let spec = &monitor["spec"];
    let endpoints = spec["podMetricsEndpoints"].as_array().or_else(|| spec["endpoints"].as_array());
    let [endpoint] = endpoints.map_or(&[][..], Vec::as_slice) else { panic!("{monitor} has not one endpoint") };
    endpoint.clone()
}

/// The scrape configuration of an endpoint, for a target with these labels, such as what the operator knows of its pod
/// (`__meta_kubernetes_...`). `honored` tells whether the Prometheus object
/// leaves the monitor's `honorLabels` as it is.
pub fn scrape_config(
    name: &str,
    endpoint: &Value,
    honored: bool,
    target: SocketAddr,
    labels: &[(&str, &str)],
) -> Value {
    let rules = |key: &str| -> Vec<Value> {
        endpoint[key].as_array().map_or(&[][..], Vec::as_slice).iter().map(in_snake_case).collect()
    };
    let labels: Map<String, Value> = labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!({
        "job_name": name,
        "metrics_path": endpoint["path"],
        "honor_labels": honored && endpoint["honorLabels"] == true,
        "static_configs": [{ "targets": [target.to_string()], "labels": labels }],
        "relabel_configs": rules("relabelings"),
        "metric_relabel_configs": rules("metricRelabelings"),
    })
}

/// A relabelling rule in Prometheus' spelling, `sourceLabels` as `source_labels`.
fn in_snake_case(rule: &Value) -> Value {
    let spelled = |key: &str| {
        let letter =
            |c: char| if c.is_ascii_uppercase() { format!("_{}", c.to_ascii_lowercase()) } else { c.to_string() };
        key.chars().map(letter).collect::<String>()
    };
    rule.as_object().into_iter().flatten().map(|(key, value)| (spelled(key), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{endpoint, in_snake_case, scrape_config};

    #[test]
    fn a_rule_is_spelled_as_prometheus_spells_it() {
        let rule = json!({ "action": "replace", "sourceLabels": ["unit"], "targetLabel": "pod", "replacement": "" });
        let wanted =
            json!({ "action": "replace", "source_labels": ["unit"], "target_label": "pod", "replacement": "" });
        assert_eq!(in_snake_case(&rule), wanted);
    }

    #[test]
    fn labels_are_honored_only_where_monitor_and_prometheus_both_do() {
        let target = ([127, 0, 0, 1], 1).into();
        for (monitor, honored, wanted) in [(true, true, true), (true, false, false), (false, true, false)] {
            let job = scrape_config("a", &json!({ "path": "/metrics", "honorLabels": monitor }), honored, target, &[]);
            assert_eq!(job["honor_labels"], wanted, "{monitor} {honored}");
        }
    }

    #[test]
    fn an_endpoint_is_found_among_other_objects() {
        let manifests = "kind: Service\n---\nkind: ServiceMonitor\nspec:\n  endpoints: [{ path: /metrics }]\n";
        assert_eq!(endpoint(manifests, "ServiceMonitor"), json!({ "path": "/metrics" }));
    }
}
