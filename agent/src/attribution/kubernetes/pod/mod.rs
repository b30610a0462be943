//! One pod as the API server and the kubelet describe it, reduced to what names need.
//!
//! Pure decoding: from JSON to [`Pod`]. Fields that podlens does not use, the values of environment variables
//! among them, are skipped while parsing and never held. `api` and `kubelet` call it, `table` keeps the result.

mod ended;

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;

pub use self::ended::Ended;
use self::ended::WireTerminated;
use super::{quantity, workload::Workload};

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// `metadata.uid`: names the cgroup, except for a static pod's.
    pub uid: Arc<str>,
    /// The uid in the cgroup of a static pod, where it is another: the annotation `kubernetes.io/config.hash`.
    pub cgroup_uid: Option<Arc<str>>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Who made it.
    pub workload: Workload,
    /// Quality of service as Kubernetes spells it; empty while the status has none.
    pub qos: Arc<str>,
    /// It shares the node's network namespace.
    pub host_network: bool,
    /// Containers of every kind, by the specification's order.
    pub containers: Vec<Container>,
    /// Its runtime puts a sandbox beside the containers. CRI-O by default does not.
    pub has_sandbox: bool,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Its name.
    pub name: Arc<str>,
    /// Its image as the specification names it.
    pub image: Arc<str>,
    /// What it is guaranteed and allowed.
    pub resources: Resources,
    /// The runtime's id of the present instance.
    pub id: Option<Arc<str>>,
    /// The id of the instance before, as far as the status still lists it.
    pub previous_id: Option<Arc<str>>,
    /// What the status says about the present instance.
    pub phase: Phase,
    /// Whether another instance may follow one that has ended.
    pub restart: Restart,
    /// Instances whose end the status tells: the present one and the one before.
    pub ended: Vec<Ended>,
}

/// What a container is for.
#[derive(Clone, Copy)]
enum Role {
    /// Runs before the others; a sidecar keeps running.
    Init,
    /// An ordinary one.
    Main,
    /// Added for debugging.
    Ephemeral,
}

/// The state of a container's present instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not started, about to be restarted, or not told.
    #[default]
    Waiting,
    /// It runs.
    Running,
    /// It has ended.
    Ended {
        /// With exit code 0.
        well: bool,
    },
}

/// When a container that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Never: it has one instance only.
    Never,
    /// If it has failed.
    OnFailure,
    /// In any case, or by rules of its own.
    Always,
}

impl Restart {
    /// By the pod's policy and the container's own, which only newer clusters and sidecars have.
    fn of(role: Role, pod: &str, spec: &WireContainer) -> Self {
        if spec.restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty()) {
            return Self::Always;
        }
        let own = Some(&*spec.restart_policy).filter(|policy| !policy.is_empty());
        match (role, own.unwrap_or(pod)) {
            (Role::Ephemeral, _) | (_, "Never") => Self::Never,
            (_, "OnFailure") => Self::OnFailure,
            // An init container that has done its work is not run again; a sidecar says so itself.
            (Role::Init, _) if own.is_none() => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

/// Requests and limits of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources {
    /// In cores.
    pub cpu_request_cores: Option<f64>,
    /// In cores.
    pub cpu_limit_cores: Option<f64>,
    /// In bytes.
    pub memory_request_bytes: Option<f64>,
    /// In bytes.
    pub memory_limit_bytes: Option<f64>,
}

/// Why an answer is not a pod or a list of pods.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// It is no JSON, or not of the known form.
    #[error(
        "cannot decode a pod in the answer: {0}; if this lasts, something between podlens and the server changes answers"
    )]
    Json(#[from] serde_json::Error),
    /// It lacks what identifies a pod.
    #[error(
        "a pod in the answer has no usable {0}; if this lasts, something between podlens and the server changes answers"
    )]
    Identity(&'static str),
}

/// A list of pods, and the version that a watch goes on from.
#[derive(Clone, Debug, PartialEq)]
pub struct PodList {
    /// `metadata.resourceVersion`; empty in a kubelet's answer.
    pub version: String,
    /// The pods.
    pub pods: Vec<Pod>,
}

impl PodList {
    /// Decodes a `PodList`.
    ///
    /// # Errors
    /// The text is no such list.
    pub fn decode(json: &[u8]) -> Result<Self, PodError> {
        let list: WireList = serde_json::from_slice(json)?;
        if list.kind != "PodList" {
            return Err(PodError::Identity("kind PodList"));
        }
        let pods = list.items.unwrap_or_default().into_iter().map(WirePod::into_pod).collect::<Result<_, _>>()?;
        Ok(Self { version: list.metadata.resource_version, pods })
    }
}

/// A container id without its scheme; none if it is not 64 hexadecimal digits.
pub(super) fn bare_id(id: &str) -> Option<Arc<str>> {
    let bare = id.rsplit_once("://").map_or(id, |(_, bare)| bare);
    (bare.len() == 64 && bare.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then(|| bare.into())
}

#[derive(Deserialize)]
struct WireList {
    kind: String,
    #[serde(default)]
    metadata: WireListMeta,
    items: Option<Vec<WirePod>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireListMeta {
    pub(super) resource_version: String,
}

/// A pod in JSON.
#[derive(Deserialize)]
pub(super) struct WirePod {
    pub(super) metadata: WireMeta,
    #[serde(default)]
    spec: WireSpec,
    #[serde(default)]
    status: WireStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireMeta {
    name: String,
    namespace: String,
    uid: String,
    pub(super) resource_version: String,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, serde_json::Value>>,
    owner_references: Option<Vec<WireOwner>>,
}

#[derive(Deserialize)]
struct WireOwner {
    kind: String,
    name: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireSpec {
    host_network: bool,
    restart_policy: String,
    init_containers: Option<Vec<WireContainer>>,
    containers: Option<Vec<WireContainer>>,
    ephemeral_containers: Option<Vec<WireContainer>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireContainer {
    name: String,
    #[serde(default)]
    image: String,
    #[serde(default)]
    resources: WireResources,
    #[serde(default)]
    restart_policy: String,
    #[serde(default)]
    restart_policy_rules: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireResources {
    requests: Option<WireQuantities>,
    limits: Option<WireQuantities>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireQuantities {
    cpu: Option<serde_json::Value>,
    memory: Option<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireStatus {
    qos_class: String,
    init_container_statuses: Option<Vec<WireContainerStatus>>,
    container_statuses: Option<Vec<WireContainerStatus>>,
    ephemeral_container_statuses: Option<Vec<WireContainerStatus>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireContainerStatus {
    name: String,
    #[serde(rename = "containerID")]
    container_id: String,
    state: WireState,
    last_state: WireState,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireState {
    running: Option<serde::de::IgnoredAny>,
    terminated: Option<WireTerminated>,
}

impl WirePod {
    pub(super) fn into_pod(self) -> Result<Pod, PodError> {
        let Self { metadata, spec, status } = self;
        for (value, what) in [(&metadata.name, "name"), (&metadata.namespace, "namespace"), (&metadata.uid, "uid")] {
            if value.is_empty() || value.len() > 253 {
                return Err(PodError::Identity(what));
            }
        }
        let annotation = |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key)?.as_str());
        // The API server shows a static pod as a mirror with a uid of its own.
        let is_mirror = annotation("kubernetes.io/config.mirror").is_some();
        let cgroup_uid = annotation("kubernetes.io/config.hash")
            .filter(|hash| is_mirror && !hash.is_empty() && *hash != metadata.uid)
            .map(Arc::from);
        let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller);
        let template_hash = metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
        let workload = Workload::of(
            controller.map(|owner| (owner.kind.as_str(), owner.name.as_str())),
            template_hash.map(String::as_str),
            &metadata.name,
        );
        let statuses =
            [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
        let has_sandbox =
            statuses.into_iter().flatten().flatten().all(|status| !status.container_id.starts_with("cri-o://"));
        let groups = [
            (Role::Init, spec.init_containers, status.init_container_statuses),
            (Role::Main, spec.containers, status.container_statuses),
            (Role::Ephemeral, spec.ephemeral_containers, status.ephemeral_container_statuses),
        ];
        Ok(Pod {
            uid: metadata.uid.into(),
            cgroup_uid,
            namespace: metadata.namespace.into(),
            name: metadata.name.into(),
            workload,
            qos: status.qos_class.into(),
            host_network: spec.host_network,
            containers: groups
                .into_iter()
                .flat_map(|(role, specs, statuses)| containers(role, &spec.restart_policy, specs, statuses))
                .collect(),
            has_sandbox,
        })
    }
}

fn containers(
    role: Role,
    pod_policy: &str,
    specs: Option<Vec<WireContainer>>,
    statuses: Option<Vec<WireContainerStatus>>,
) -> Vec<Container> {
    let mut statuses = statuses.unwrap_or_default();
    let mut containers: Vec<Container> = specs
        .unwrap_or_default()
        .into_iter()
        .map(|spec| {
            let status = statuses.iter().position(|status| status.name == spec.name).map(|at| statuses.swap_remove(at));
            container(role, pod_policy, spec, status.unwrap_or_default())
        })
        .collect();
    // Statuses that the specification does not have any more still name their ids.
    containers.extend(statuses.into_iter().map(|status| {
        let spec = WireContainer { name: status.name.clone(), ..WireContainer::default() };
        container(role, pod_policy, spec, status)
    }));
    containers
}

fn container(role: Role, pod_policy: &str, spec: WireContainer, status: WireContainerStatus) -> Container {
    let amount = |quantities: &Option<WireQuantities>, cpu: bool| {
        let quantities = quantities.as_ref()?;
        match if cpu { &quantities.cpu } else { &quantities.memory } {
            Some(serde_json::Value::String(text)) => quantity::parse(text),
            Some(serde_json::Value::Number(number)) => quantity::parse(&number.to_string()),
            _ => None,
        }
    };
    let phase = match (&status.state.running, &status.state.terminated) {
        (Some(_), _) => Phase::Running,
        (None, Some(ended)) => Phase::Ended { well: ended.exit_code == 0 },
        (None, None) => Phase::Waiting,
    };
    let terminated = [&status.state, &status.last_state].into_iter().filter_map(|state| state.terminated.as_ref());
    Container {
        ended: terminated.filter_map(WireTerminated::to_ended).collect(),
        restart: Restart::of(role, pod_policy, &spec),
        name: spec.name.into(),
        image: spec.image.into(),
        resources: Resources {
            cpu_request_cores: amount(&spec.resources.requests, true),
            cpu_limit_cores: amount(&spec.resources.limits, true),
            memory_request_bytes: amount(&spec.resources.requests, false),
            memory_limit_bytes: amount(&spec.resources.limits, false),
        },
        id: bare_id(&status.container_id),
        previous_id: status.last_state.terminated.and_then(|ended| bare_id(&ended.container_id)),
        phase,
    }
}

#[cfg(test)]
mod tests;
