//! The objects whose pods have a known amount of CPU, and what is to be told of them. Pure. Called by the checks.

use serde_json::{Value, json};

use super::world::BURN_IMAGE;

/// Namespace of all loads.
pub(super) const NAMESPACE: &str = "shop";
/// A pod that uses a tenth of a CPU for as long as it lives.
pub(super) const STEADY: &str = "steady";

/// What is true of a pod.
pub(super) struct Expected {
    /// The pod's name, or how it begins where it ends in a dash.
    pub(super) pod: &'static str,
    /// Empty: the pod's own name.
    pub(super) workload: &'static str,
    pub(super) workload_type: &'static str,
    pub(super) qos: &'static str,
    /// Containers that end their load, and how often each does.
    pub(super) containers: &'static [(&'static str, u32)],
    pub(super) pods: usize,
}

const fn expected(
    pod: &'static str,
    workload: &'static str,
    workload_type: &'static str,
    qos: &'static str,
    containers: &'static [(&'static str, u32)],
) -> Expected {
    Expected { pod, workload, workload_type, qos, containers, pods: 1 }
}

/// Every kind of pod.
pub(super) const ALL: &[Expected] = &[
    Expected { pods: 2, ..expected("web-", "web", "deployment", "guaranteed", &[("app", 1)]) },
    expected("db-0", "db", "statefulset", "burstable", &[("postgres", 1)]),
    expected("each-", "each", "daemonset", "besteffort", &[("app", 1)]),
    expected("report-", "report", "job", "burstable", &[("app", 1)]),
    expected("short-", "short", "job", "besteffort", &[("app", 1)]),
    expected("tick-", "tick", "cronjob", "besteffort", &[("app", 1)]),
    expected("fixed-podlens-node", "", "staticpod", "besteffort", &[("app", 1)]),
    expected("parts", "", "barepod", "burstable", &[("prepare", 1), ("proxy", 1), ("main", 1), ("second", 1)]),
    expected("crash", "", "barepod", "besteffort", &[("app", 3)]),
    // Deleted and created again: one run of each of the two.
    expected("again", "", "barepod", "besteffort", &[("app", 2)]),
];

impl Expected {
    pub(super) fn is(&self, pod: &str) -> bool {
        if self.pod.ends_with('-') { pod.starts_with(self.pod) } else { pod == self.pod }
    }
}

/// Everything but the static pod and the second life of `again`.
pub(super) fn objects() -> Vec<Value> {
    let app = |words: &[&str]| container("app", words, &json!({}));
    let guaranteed = json!({ "cpu": "250m", "memory": "16Mi" });
    let burstable = json!({ "requests": { "cpu": "20m" } });
    let end = json!({ "restartPolicy": "Never" });
    vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
        workload("Deployment", "web", 2, container("app", &["300", "stay"], &json!({ "limits": guaranteed }))),
        workload("StatefulSet", "db", 1, container("postgres", &["400", "stay"], &burstable)),
        workload("DaemonSet", "each", 0, app(&["200", "stay"])),
        object(
            "batch/v1",
            "Job",
            "report",
            json!({ "template": template("", container("app", &["500", "exit"], &burstable), &end) }),
        ),
        object("batch/v1", "Job", "short", json!({ "template": template("", app(&["100", "exit"]), &end) })),
        object(
            "batch/v1",
            "CronJob",
            "tick",
            json!({
                "schedule": "* * * * *",
                "jobTemplate": { "spec": { "template": template("", app(&["150", "exit"]), &end) } },
            }),
        ),
        object(
            "v1",
            "Pod",
            "parts",
            json!({
                "initContainers": [
                    container("prepare", &["200", "exit"], &json!({})),
                    with(container("proxy", &["250", "stay"], &json!({})), &json!({ "restartPolicy": "Always" })),
                ],
                "containers": [
                    container("main", &["300", "stay"], &burstable),
                    container("second", &["150", "stay"], &json!({})),
                ],
                "terminationGracePeriodSeconds": 1,
            }),
        ),
        pod("crash", &["200", "exit", "1"]),
        pod("again", &["300", "stay"]),
        pod(STEADY, &["10", "always"]),
    ]
}

/// A pod of one's own with one container.
pub(super) fn pod(name: &str, words: &[&str]) -> Value {
    let containers = [container("app", words, &json!({}))];
    object("v1", "Pod", name, json!({ "containers": containers, "terminationGracePeriodSeconds": 1 }))
}

/// A container with the program of known size.
pub(super) fn container(name: &str, words: &[&str], resources: &Value) -> Value {
    json!({ "name": name, "image": BURN_IMAGE, "imagePullPolicy": "Never", "args": words, "resources": resources })
}

#[allow(clippy::needless_pass_by_value, reason = "each caller makes the value for it")]
fn object(version: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec })
}

#[allow(clippy::needless_pass_by_value, reason = "each caller makes the value for it")]
fn template(app: &str, container: Value, more: &Value) -> Value {
    let spec = with(json!({ "containers": [container], "terminationGracePeriodSeconds": 1 }), more);
    json!({ "metadata": { "labels": { "app": app } }, "spec": spec })
}

fn workload(kind: &str, name: &str, replicas: u32, container: Value) -> Value {
    let mut spec = json!({
        "selector": { "matchLabels": { "app": name } },
        "template": template(name, container, &json!({})),
    });
    if kind != "DaemonSet" {
        spec = with(spec, &json!({ "replicas": replicas }));
    }
    if kind == "StatefulSet" {
        spec = with(spec, &json!({ "serviceName": name }));
    }
    object("apps/v1", kind, name, spec)
}

/// A `DaemonSet` of this pod.
#[allow(clippy::needless_pass_by_value, reason = "each caller makes the value for it")]
pub(super) fn daemon_set(namespace: &str, name: &str, pod: Value) -> Value {
    let labels = json!({ "app": name });
    let template = json!({ "metadata": { "labels": labels }, "spec": pod });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "selector": { "matchLabels": labels }, "template": template },
    })
}

/// With these members as well.
pub(super) fn with(mut object: Value, more: &Value) -> Value {
    if let (Some(into), Some(from)) = (object.as_object_mut(), more.as_object()) {
        into.extend(from.clone());
    }
    object
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{ALL, objects};

    #[test]
    fn each_pod_is_expected_once() {
        for (pod, workload) in [("web-7d4b9c6f5-x2k8p", "web"), ("db-0", "db"), ("tick-29301840-qz7wd", "tick")] {
            let found: Vec<&str> = ALL.iter().filter(|one| one.is(pod)).map(|one| one.workload).collect();
            assert_eq!(found, [workload], "{pod}");
        }
        assert!(ALL.iter().all(|one| !one.is("steady") && !one.is("db-01")));
    }

    #[test]
    fn every_object_has_its_kind_and_its_name() {
        for object in objects() {
            for place in ["/apiVersion", "/kind", "/metadata/name"] {
                assert!(object.pointer(place).is_some_and(Value::is_string), "{place} of {object}");
            }
        }
    }
}
