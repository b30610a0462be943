//! What the Prometheus operator makes of the chart's monitors: a scrape configuration of a rendered endpoint. Only of what
//! the chart renders; the chart's own checks and the agent's tests use it.

use std::{net::SocketAddr, path::Path};

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

/// What the operator makes of the endpoint's `scheme`, `tlsConfig` and `authorization`, to be added to its scrape configuration.
/// `secrets` is a folder in which `NAME/KEY` is the value of a Secret's key, as the operator mounts them.
pub fn credentials(endpoint: &Value, secrets: &Path) -> Value {
    let file = |place: &Value| {
        let part = |key: &str| place[key].as_str().unwrap_or_else(|| panic!("{place} has no {key}"));
        secrets.join(part("name")).join(part("key"))
    };
    let tls = &endpoint["tlsConfig"];
    let mut of_tls = Map::new();
    for (name, place) in
        [("ca_file", &tls["ca"]["secret"]), ("cert_file", &tls["cert"]["secret"]), ("key_file", &tls["keySecret"])]
    {
        if place.is_object() {
            of_tls.insert(name.to_owned(), json!(file(place)));
        }
    }
    if let Some(name) = tls["serverName"].as_str() {
        of_tls.insert("server_name".to_owned(), json!(name));
    }
    let mut found = Map::new();
    if let Some(scheme) = endpoint["scheme"].as_str() {
        found.insert("scheme".to_owned(), json!(scheme));
    }
    if !of_tls.is_empty() {
        found.insert("tls_config".to_owned(), Value::Object(of_tls));
    }
    let token = &endpoint["authorization"]["credentials"];
    if token.is_object() {
        found.insert("authorization".to_owned(), json!({ "credentials_file": file(token) }));
    }
    Value::Object(found)
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

    use std::path::Path;

    use super::{credentials, endpoint, in_snake_case, scrape_config};

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
    fn secrets_are_files_and_what_the_monitor_does_not_ask_for_is_not_there() {
        let endpoint = json!({
            "scheme": "https",
            "tlsConfig": {
                "ca": { "secret": { "name": "web", "key": "ca.crt" } },
                "cert": { "secret": { "name": "own", "key": "tls.crt" } },
                "keySecret": { "name": "own", "key": "tls.key" },
                "serverName": "podlens",
            },
            "authorization": { "credentials": { "name": "own", "key": "token" } },
        });
        let wanted = json!({
            "scheme": "https",
            "tls_config": { "ca_file": "/s/web/ca.crt", "cert_file": "/s/own/tls.crt", "key_file": "/s/own/tls.key", "server_name": "podlens" },
            "authorization": { "credentials_file": "/s/own/token" },
        });
        assert_eq!(credentials(&endpoint, Path::new("/s")), wanted);
        assert_eq!(credentials(&json!({ "path": "/metrics" }), Path::new("/s")), json!({}));
    }

    #[test]
    fn an_endpoint_is_found_among_other_objects() {
        let manifests = "kind: Service\n---\nkind: ServiceMonitor\nspec:\n  endpoints: [{ path: /metrics }]\n";
        assert_eq!(endpoint(manifests, "ServiceMonitor"), json!({ "path": "/metrics" }));
    }
}
