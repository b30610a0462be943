//! Pods as a kubelet describes them: the object before any container, with ids once they have started, after
//! restarts, and at the end.

use serde_json::{Value, json};

/// A pod that is put into an API server.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its namespace.
    pub namespace: String,
    /// Its own name.
    pub name: String,
    /// The API server's id of it.
    pub uid: String,
    /// The node that it is bound to.
    pub node: String,
    /// Kind and name of its controller.
    pub controller: (&'static str, String),
    /// All of its containers.
    pub containers: Vec<Status>,
    /// So many bytes of environment variables in the specification.
    pub ballast_bytes: usize,
}

/// One container of it.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Its name in the specification.
    pub name: String,
    /// The present instance.
    pub state: State,
    /// The instance before.
    pub last_id: Option<String>,
    /// How often it was started again.
    pub restarts: u32,
}

/// A container's present instance by its runtime's id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not started yet, or not yet again.
    #[default]
    Waiting,
    /// At work.
    Running(String),
    /// Over for good.
    Ended(String),
}

impl State {
    fn id(&self) -> Option<&str> {
        match self {
            Self::Waiting => None,
            Self::Running(id) | Self::Ended(id) => Some(id),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Waiting => json!({ "waiting": { "reason": "ContainerCreating" } }),
            Self::Running(_) => json!({ "running": { "startedAt": "2026-11-24T10:00:00Z" } }),
            Self::Ended(id) => terminated(id),
        }
    }
}

fn terminated(id: &str) -> Value {
    json!({ "terminated": { "exitCode": 0, "reason": "Completed", "containerID": format!("containerd://{id}") } })
}

impl Described {
    /// The object.
    pub fn to_json(&self) -> Value {
        let (kind, controller) = &self.controller;
        let has_ended = self.containers.iter().all(|one| matches!(one.state, State::Ended(_)));
        let runs = self.containers.iter().any(|one| one.state.id().is_some());
        let phase = if has_ended {
            "Succeeded"
        } else if runs {
            "Running"
        } else {
            "Pending"
        };
        json!({
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "uid": self.uid,
                "creationTimestamp": "2026-11-24T10:00:00Z",
                "labels": { "app.kubernetes.io/name": controller },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": kind, "name": controller, "controller": true }],
            },
            "spec": {
                "nodeName": self.node,
                "restartPolicy": "Always",
                "containers": self.containers.iter().map(|one| self.specification(one)).collect::<Vec<_>>(),
                "tolerations": [{ "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute" }],
            },
            "status": {
                "phase": phase,
                "qosClass": "Burstable",
                "podIP": "10.0.0.1",
                "conditions": [{ "type": "PodScheduled", "status": "True" }],
                "containerStatuses": self.containers.iter().map(status).collect::<Vec<_>>(),
            },
        })
    }

    fn specification(&self, container: &Status) -> Value {
        let share = self.ballast_bytes / self.containers.len().max(1);
        let variables: Vec<Value> = (0..share.div_ceil(100))
            .map(|number| json!({ "name": format!("VARIABLE_{number:05}"), "value": "x".repeat(64) }))
            .collect();
        json!({
            "name": container.name,
            "image": format!("registry.example/{}:1.0", container.name),
            "env": variables,
            "resources": { "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "128Mi" } },
            "terminationMessagePath": "/dev/termination-log",
        })
    }
}

fn status(container: &Status) -> Value {
    let mut status = json!({
        "name": container.name,
        "image": format!("registry.example/{}:1.0", container.name),
        "ready": matches!(container.state, State::Running(_)),
        "restartCount": container.restarts,
        "state": container.state.to_json(),
        "lastState": container.last_id.as_deref().map_or_else(|| json!({}), terminated),
    });
    if let Some(id) = container.state.id().or(container.last_id.as_deref()) {
        // While a container waits to be started again, the status still has the id of the one before.
        status["containerID"] = format!("containerd://{id}").into();
    }
    status
}
