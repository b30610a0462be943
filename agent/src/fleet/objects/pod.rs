//! A pod: whose it is, where it is, what it takes there, and, while it does not work, what is the matter with it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::{api::core::v1::NodeAffinity, apimachinery::pkg::api::resource::Quantity, jiff::Timestamp};
use serde::Deserialize;

use super::{Condition, Meta, REVISION, Uid, condition};
use crate::attribution::kubernetes::{pod::nullable, quantity};

/// A pod.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "WirePod")]
pub struct Pod {
    /// Its identity.
    pub uid: Uid,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Box<str>,
    /// Whose it is; none if it is no `DaemonSet`'s.
    pub daemon_set: Option<Uid>,
    /// The hash of its revision, where its controller has some.
    pub revision: Option<Arc<str>>,
    /// The node it is for: where it was put, or where its controller wants it.
    pub node: Option<Box<str>>,
    /// It was put there.
    pub is_scheduled: bool,
    /// It has come to its end and holds nothing any more.
    pub is_over: bool,
    /// It does its work, and nobody deletes it.
    pub works: bool,
    /// What it takes of its node.
    pub claim: Arc<Claim>,
    /// What is the matter with it; none of one that works or is no `DaemonSet`'s.
    pub story: Option<Box<Story>>,
}

/// What a pod takes of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Claim {
    /// What it is guaranteed of each resource, in thousandths: what its containers have together, or one that runs before them
    /// if that is more. A sidecar counts from its start on.
    requests: Box<[(Box<str>, u64)]>,
    /// Ports of the node with their protocols.
    ports: Box<[(u16, Box<str>)]>,
}

impl Claim {
    /// What it is guaranteed of each resource.
    pub fn requests(&self) -> impl Iterator<Item = (&str, f64)> {
        self.requests.iter().map(|(name, thousandths)| (&**name, *thousandths as f64 / 1000.0))
    }

    /// What it is guaranteed of this resource.
    #[must_use]
    pub fn request(&self, resource: &str) -> f64 {
        self.requests().find(|(name, _)| *name == resource).map_or(0.0, |(_, amount)| amount)
    }

    /// Ports of the node that it takes, with their protocols.
    pub fn host_ports(&self) -> impl Iterator<Item = (u16, &str)> {
        self.ports.iter().map(|(port, protocol)| (*port, &**protocol))
    }
}

/// What is told of a pod that does not work.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Story {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: Box<str>,
    /// Why it failed, in one word.
    pub reason: Box<str>,
    /// Why it failed, for people.
    pub message: Box<str>,
    /// When it was made.
    pub made: Option<Timestamp>,
    /// When it has to be gone, once somebody deletes it.
    pub deleted: Option<Timestamp>,
    /// Since when it is not ready.
    pub unready: Option<Timestamp>,
    /// What the scheduler says of one that it has not put anywhere.
    pub unscheduled: Option<Condition>,
    /// Where it says why it is not ready, if it is one of podlens' own agents.
    pub agent: Option<SocketAddr>,
    /// Containers that run before the others, those of which something is told.
    pub init_containers: Vec<ContainerStatus>,
    /// The others.
    pub containers: Vec<ContainerStatus>,
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// It is not started.
    pub waiting: Option<Waiting>,
    /// It has ended.
    pub terminated: Option<Terminated>,
}

/// Why a container is not started.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
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

#[derive(Default, Deserialize)]
#[serde(default)]
struct WirePod {
    #[serde(deserialize_with = "nullable")]
    metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    spec: WireSpec,
    #[serde(deserialize_with = "nullable")]
    status: WireStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireSpec {
    #[serde(deserialize_with = "nullable")]
    node_name: String,
    #[serde(deserialize_with = "nullable")]
    affinity: Affinity,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    overhead: BTreeMap<String, Quantity>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    args: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<Port>,
    #[serde(deserialize_with = "nullable")]
    resources: Resources,
    #[serde(deserialize_with = "nullable")]
    restart_policy: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    #[serde(deserialize_with = "nullable")]
    requests: BTreeMap<String, Quantity>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(rename = "containerPort", deserialize_with = "nullable")]
    of_container: u16,
    #[serde(rename = "hostPort", deserialize_with = "nullable")]
    of_node: u16,
    #[serde(deserialize_with = "nullable")]
    protocol: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireStatus {
    #[serde(deserialize_with = "nullable")]
    phase: String,
    #[serde(deserialize_with = "nullable")]
    reason: String,
    #[serde(deserialize_with = "nullable")]
    message: String,
    #[serde(rename = "podIP", deserialize_with = "nullable")]
    address: String,
    #[serde(deserialize_with = "nullable")]
    conditions: Vec<Condition>,
    #[serde(deserialize_with = "nullable")]
    init_container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "nullable")]
    container_statuses: Vec<ContainerStatus>,
}

impl From<WirePod> for Pod {
    fn from(WirePod { mut metadata, spec, status }: WirePod) -> Self {
        let ready = condition(&status.conditions, "Ready");
        let is_over = matches!(&*status.phase, "Succeeded" | "Failed");
        let is_deleted = metadata.deletion_timestamp.is_some();
        let works = ready.is_some_and(|ready| ready.status == "True") && !is_deleted && !is_over;
        let unready = ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|at| at.0);
        Self {
            uid: metadata.uid,
            daemon_set: metadata.daemon_set(),
            revision: metadata.labels.remove(REVISION).map(Into::into),
            node: spec.node().map(Into::into),
            is_scheduled: !spec.node_name.is_empty(),
            is_over,
            works,
            claim: Arc::new(spec.claim()),
            story: (!works && metadata.daemon_set().is_some())
                .then(|| Box::new(story(&spec, status, unready, &metadata))),
            namespace: metadata.namespace.into(),
            name: metadata.name.into(),
        }
    }
}

fn story(spec: &WireSpec, status: WireStatus, unready: Option<Timestamp>, metadata: &Meta) -> Story {
    let agent = status.address.parse().ok().and_then(|address| spec.agent(address));
    let told = |statuses: Vec<ContainerStatus>| {
        let told = statuses.into_iter().filter(|one| one.state.waiting.is_some() || one.state.terminated.is_some());
        told.collect()
    };
    let is_unscheduled = |condition: &Condition| condition.kind == "PodScheduled" && condition.status != "True";
    Story {
        phase: status.phase.into(),
        reason: status.reason.into(),
        message: status.message.into(),
        made: metadata.creation_timestamp.as_ref().map(|at| at.0),
        deleted: metadata.deletion_timestamp.as_ref().map(|at| at.0),
        unready,
        agent,
        unscheduled: status.conditions.into_iter().find(is_unscheduled),
        init_containers: told(status.init_container_statuses),
        containers: told(status.container_statuses),
    }
}

impl WireSpec {
    fn node(&self) -> Option<&str> {
        if !self.node_name.is_empty() {
            return Some(&self.node_name);
        }
        let required = self.affinity.node_affinity.as_ref()?;
        let required = required.required_during_scheduling_ignored_during_execution.as_ref()?;
        let mut fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
        let name = fields.find(|field| field.key == "metadata.name")?;
        name.values.as_ref()?.first().map(String::as_str)
    }

    /// Where an agent answers that runs as the chart runs it: at the port of its probes.
    fn agent(&self, address: IpAddr) -> Option<SocketAddr> {
        let is_agent = |container: &&Container| {
            container.name == "podlens" && container.args.first().is_some_and(|word| word == "run")
        };
        let ports = &self.containers.iter().find(is_agent)?.ports;
        let named = |name: &str| ports.iter().find(|port| port.name == name);
        Some(SocketAddr::new(address, named("health").or_else(|| named("metrics"))?.of_container))
    }

    fn claim(&self) -> Claim {
        let containers = self.containers.iter().chain(&self.init_containers);
        let ports = containers.flat_map(|container| &container.ports).filter(|port| port.of_node != 0);
        let protocol = |port: &Port| if port.protocol.is_empty() { "TCP" } else { &*port.protocol }.into();
        let requests = self.requests().into_iter().filter(|(_, amount)| *amount > 0.0);
        // Thousandths are the least that can be asked for; the conversion saturates.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let thousandths = |(name, amount): (&str, f64)| (name.into(), (amount * 1000.0).round() as u64);
        Claim {
            requests: requests.map(thousandths).collect(),
            ports: ports.map(|port| (port.of_node, protocol(port))).collect(),
        }
    }

    fn requests(&self) -> BTreeMap<&str, f64> {
        let mut sidecars = BTreeMap::new();
        let mut most_before = BTreeMap::new();
        for container in &self.init_containers {
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
        for container in &self.containers {
            add(&mut requests, &container.resources.requests);
        }
        for (name, most) in most_before {
            let request = requests.entry(name).or_default();
            *request = request.max(most);
        }
        add(&mut requests, &self.overhead);
        requests
    }
}

fn add<'a>(sum: &mut BTreeMap<&'a str, f64>, amounts: &'a BTreeMap<String, Quantity>) {
    for (name, Quantity(amount)) in amounts {
        *sum.entry(name).or_default() += quantity::parse(amount).unwrap_or_default();
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
        let node = |spec| pod(&spec).node;
        assert_eq!(node(json!({ "affinity": affinity })).as_deref(), Some("n1"));
        assert_eq!(node(json!({ "affinity": affinity, "nodeName": "n2" })).as_deref(), Some("n2"));
        assert_eq!(node(json!({ "affinity": null, "containers": null })), None);
    }

    #[test]
    fn an_agent_that_is_not_ready_is_asked_at_the_port_of_its_probes() {
        let agent = |ports: &[(&str, u16)], args: &[&str]| {
            let ports: Vec<_> =
                ports.iter().map(|(name, port)| json!({ "name": name, "containerPort": port })).collect();
            let metadata =
                json!({ "uid": "p", "ownerReferences": [{ "kind": "DaemonSet", "uid": "ds", "controller": true }] });
            let spec = json!({ "containers": [{ "name": "podlens", "args": args, "ports": ports }] });
            let pod = json!({ "metadata": metadata, "spec": spec, "status": { "podIP": "fd00::5" } });
            let story = serde_json::from_value::<Pod>(pod).unwrap().story.unwrap();
            story.agent.map(|address| address.to_string())
        };
        assert_eq!(agent(&[("metrics", 9464)], &["run"]).as_deref(), Some("[fd00::5]:9464"));
        assert_eq!(agent(&[("metrics", 9464), ("health", 9465)], &["run", "--x"]).as_deref(), Some("[fd00::5]:9465"));
        assert_eq!(agent(&[("metrics", 9464)], &["fleet"]), None);
        assert_eq!(agent(&[("other", 1)], &["run"]), None);
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
            let told = pod.claim.request("cpu");
            assert!((told - expected - 1.0).abs() < 1e-9, "{before:?} {beside:?}: {told}");
        }
    }

    #[test]
    fn ports_of_the_node_have_a_protocol() {
        let ports = json!([{ "containerPort": 1 }, { "hostPort": 53, "protocol": "UDP" }, { "hostPort": 80 }]);
        let pod = pod(&json!({ "containers": [{ "ports": ports }] }));
        assert_eq!(pod.claim.host_ports().collect::<Vec<_>>(), [(53, "UDP"), (80, "TCP")]);
    }
}
