//! Nodes, pods, revisions and events as the API server describes them, reduced to what the fleet's questions need. Pure
//! decoding: `null` is the same as a missing field, and what is not used is skipped while parsing.
//!
//! `DaemonSets` are few and keep the library's whole type; what a cluster has by the ten thousand does not.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NodeAffinity, Taint},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time},
};
use serde::Deserialize;

use crate::attribution::kubernetes::{pod::nullable, quantity};

/// The label of a pod that tells its `DaemonSet`'s revision.
pub const REVISION: &str = "controller-revision-hash";

/// What all objects have.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Its namespace; empty for a node.
    #[serde(deserialize_with = "nullable")]
    pub namespace: String,
    /// Its identity.
    #[serde(deserialize_with = "nullable")]
    pub uid: String,
    /// Its labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Who made it.
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Vec<Owner>,
    /// When it was made.
    pub creation_timestamp: Option<Time>,
    /// When it has to be gone, once somebody deletes it.
    pub deletion_timestamp: Option<Time>,
}

/// Who made an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// Its identity.
    #[serde(deserialize_with = "nullable")]
    pub uid: String,
    /// It is the one that controls the object.
    #[serde(deserialize_with = "nullable")]
    pub controller: bool,
}

impl Meta {
    /// The identity of the controller.
    #[must_use]
    pub fn controller(&self) -> Option<&str> {
        self.owner_references.iter().find(|owner| owner.controller).map(|owner| &*owner.uid)
    }
}

/// A node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Name, labels.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Meta,
    /// What an operator or a controller has set.
    #[serde(deserialize_with = "nullable")]
    pub spec: NodeSpec,
    /// What its kubelet tells.
    #[serde(deserialize_with = "nullable")]
    pub status: NodeStatus,
}

/// What an operator or a controller has set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Who is kept away.
    #[serde(deserialize_with = "nullable")]
    pub taints: Vec<Taint>,
    /// It is cordoned.
    #[serde(deserialize_with = "nullable")]
    pub unschedulable: bool,
}

/// What its kubelet tells.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its health.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// What pods may ask for together.
    #[serde(deserialize_with = "nullable")]
    pub allocatable: BTreeMap<String, Quantity>,
}

/// One condition of a node or a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(deserialize_with = "nullable")]
    pub status: String,
    /// Why, in one word.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// Why, for people.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
    /// Since when.
    pub last_transition_time: Option<Time>,
}

/// The condition of that kind.
#[must_use]
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Names, labels, owner.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Meta,
    /// What it asks for.
    #[serde(deserialize_with = "nullable")]
    pub spec: PodSpec,
    /// What became of it.
    #[serde(deserialize_with = "nullable")]
    pub status: PodStatus,
}

/// What a pod asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Where it was put; empty before.
    #[serde(deserialize_with = "nullable")]
    pub node_name: String,
    #[serde(deserialize_with = "nullable")]
    affinity: Affinity,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    overhead: BTreeMap<String, Quantity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    #[serde(deserialize_with = "nullable")]
    ports: Vec<Port>,
    #[serde(deserialize_with = "nullable")]
    resources: Resources,
    #[serde(deserialize_with = "nullable")]
    restart_policy: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    #[serde(deserialize_with = "nullable")]
    requests: BTreeMap<String, Quantity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    #[serde(deserialize_with = "nullable")]
    host_port: u16,
    #[serde(deserialize_with = "nullable")]
    protocol: String,
}

/// What became of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(deserialize_with = "nullable")]
    pub phase: String,
    /// Why it failed, in one word.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// Why it failed, for people.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
    /// What it has reached.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// Containers that run before the others.
    #[serde(deserialize_with = "nullable")]
    pub init_container_statuses: Vec<ContainerStatus>,
    /// The others.
    #[serde(deserialize_with = "nullable")]
    pub container_statuses: Vec<ContainerStatus>,
}

/// One container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Its name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Its image.
    #[serde(deserialize_with = "nullable")]
    pub image: String,
    /// How often it was started again.
    #[serde(deserialize_with = "nullable")]
    pub restart_count: u32,
    /// What it is now.
    #[serde(deserialize_with = "nullable")]
    pub state: ContainerState,
    /// What the instance before was last.
    #[serde(deserialize_with = "nullable")]
    pub last_state: ContainerState,
}

/// What a container is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// It is not started.
    pub waiting: Option<Waiting>,
    /// It has ended.
    pub terminated: Option<Terminated>,
}

/// Why a container is not started.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// In one word.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// For people.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
}

/// How a container ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    /// Its exit code.
    #[serde(deserialize_with = "nullable")]
    pub exit_code: i64,
    /// In one word.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// Its last words.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
}

impl Pod {
    /// The node it is for: where it was put, or where its controller wants it.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        if !self.spec.node_name.is_empty() {
            return Some(&self.spec.node_name);
        }
        let required = self.spec.affinity.node_affinity.as_ref()?;
        let required = required.required_during_scheduling_ignored_during_execution.as_ref()?;
        let mut fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
        let name = fields.find(|field| field.key == "metadata.name")?;
        name.values.as_ref()?.first().map(String::as_str)
    }

    /// It has come to its end and holds nothing any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(&*self.status.phase, "Succeeded" | "Failed")
    }

    /// It does its work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        condition(&self.status.conditions, "Ready").is_some_and(|ready| ready.status == "True")
    }

    /// What it is guaranteed of each resource: what its containers have together, or one that runs before them if that is
    /// more. A sidecar counts from its start on.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<&str, f64> {
        let mut sidecars = BTreeMap::new();
        let mut most_before = BTreeMap::new();
        for container in &self.spec.init_containers {
            let is_sidecar = container.restart_policy == "Always";
            let mut before = sidecars.clone();
            add(&mut before, &container.resources.requests);
            for (name, amount) in &before {
                let most: &mut f64 = most_before.entry(*name).or_default();
                *most = most.max(*amount);
            }
            if is_sidecar {
                sidecars = before;
            }
        }
        let mut requests = sidecars;
        for container in &self.spec.containers {
            add(&mut requests, &container.resources.requests);
        }
        for (name, most) in most_before {
            let request = requests.entry(name).or_default();
            *request = request.max(most);
        }
        add(&mut requests, &self.spec.overhead);
        requests
    }

    /// Ports of the node that it takes, with their protocols.
    pub fn host_ports(&self) -> impl Iterator<Item = (u16, &str)> {
        let containers = self.spec.containers.iter().chain(&self.spec.init_containers);
        let ports = containers.flat_map(|container| &container.ports).filter(|port| port.host_port != 0);
        ports.map(|port| (port.host_port, if port.protocol.is_empty() { "TCP" } else { &*port.protocol }))
    }
}

fn add<'a>(sum: &mut BTreeMap<&'a str, f64>, amounts: &'a BTreeMap<String, Quantity>) {
    for (name, Quantity(amount)) in amounts {
        *sum.entry(name).or_default() += quantity::parse(amount).unwrap_or_default();
    }
}

/// One revision of a `DaemonSet`, without what it holds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Revision {
    /// Its owner, its labels, when it was made.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Meta,
    /// The highest one is at work.
    #[serde(deserialize_with = "nullable")]
    pub revision: i64,
}

/// What happened to an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Event {
    /// Its namespace.
    #[serde(deserialize_with = "nullable")]
    pub metadata: Meta,
    /// To whom.
    #[serde(deserialize_with = "nullable")]
    pub involved_object: Involved,
    /// What, in one word.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// What, for people.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
    /// The last time, where it is told by the old field.
    pub last_timestamp: Option<Time>,
}

/// The object of an event.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Involved {
    /// Its identity.
    #[serde(deserialize_with = "nullable")]
    pub uid: String,
}

impl Event {
    /// When it was last seen.
    #[must_use]
    pub fn at(&self) -> Option<&Time> {
        self.last_timestamp.as_ref().or(self.metadata.creation_timestamp.as_ref())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::Pod;

    fn pod(spec: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p", "labels": null }, "spec": spec })).unwrap()
    }

    #[test]
    fn a_pod_that_waits_is_for_the_node_that_its_controller_wants() {
        let terms = json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n1"] }] }]);
        let affinity = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } });
        assert_eq!(pod(&json!({ "affinity": affinity })).node(), Some("n1"));
        assert_eq!(pod(&json!({ "affinity": affinity, "nodeName": "n2" })).node(), Some("n2"));
        assert_eq!(pod(&json!({ "affinity": null, "containers": null })).node(), None);
    }

    #[test]
    fn requests_are_those_of_the_dearest_moment() {
        let of =
            |cpu: &str, restart: &str| json!({ "resources": { "requests": { "cpu": cpu } }, "restartPolicy": restart });
        for (before, beside, expected) in [
            (vec![], vec![of("100m", ""), of("0.2", "")], 0.3),
            (vec![of("1", "")], vec![of("100m", "")], 1.0),
            (vec![of("50m", "Always"), of("100m", "")], vec![of("200m", "")], 0.25),
            (vec![of("50m", "Always"), of("1", "")], vec![of("200m", "")], 1.05),
        ] {
            let pod = pod(&json!({ "initContainers": before, "containers": beside, "overhead": { "cpu": "1" } }));
            let told = pod.requests().get("cpu").copied().unwrap_or_default();
            assert!((told - expected - 1.0).abs() < 1e-9, "{before:?} {beside:?}: {told}");
        }
    }

    #[test]
    fn ports_of_the_node_have_a_protocol() {
        let ports = json!([{ "containerPort": 1 }, { "hostPort": 53, "protocol": "UDP" }, { "hostPort": 80 }]);
        let pod = pod(&json!({ "containers": [{ "ports": ports }] }));
        assert_eq!(pod.host_ports().collect::<Vec<_>>(), [(53, "UDP"), (80, "TCP")]);
    }
}
