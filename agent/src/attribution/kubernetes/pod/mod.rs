//! One pod as the API server and the kubelet describe it, reduced to what names need.
//!
//! Pure decoding: from JSON to [`Pod`]. Fields that podlens does not use, the values of environment variables
//! among them, are skipped while parsing and never held. `null` is the same as a missing field. An object that is no
//! pod costs nobody else's name: a list leaves it out and tells of it. `api` and `kubelet` call it, `table` keeps the
//! result.

mod ended;

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

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
    /// What all of it is guaranteed and allowed together, where that is set for the pod.
    pub resources: Resources,
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

/// Requests and limits of a container or a pod.
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
    /// What else is in the list: which object is no pod, and why.
    pub odd: Vec<String>,
}

impl PodList {
    /// Decodes a `PodList`.
    ///
    /// # Errors
    /// The text is no such list.
    pub fn decode(json: &[u8]) -> Result<Self, PodError> {
        let list: WireList<'_> = serde_json::from_slice(json)?;
        if list.kind != "PodList" {
            return Err(PodError::Identity("kind PodList"));
        }
        let (mut pods, mut odd) = (Vec::new(), Vec::new());
        for object in list.items.unwrap_or_default() {
            match decode(object) {
                Ok(pod) => pods.push(pod),
                Err(cause) => odd.push(describe_odd(object, &cause)),
            }
        }
        Ok(Self { version: list.metadata.resource_version, pods, odd })
    }
}

/// One pod.
pub(super) fn decode(object: &RawValue) -> Result<Pod, PodError> {
    serde_json::from_str::<WirePod>(object.get())?.into_pod()
}

/// Which object is no pod, as far as it tells that, and why.
pub(super) fn describe_odd(object: &RawValue, cause: &PodError) -> String {
    let who = serde_json::from_str::<WireIdentity>(object.get()).unwrap_or_default().metadata;
    let name = |text: String| if text.is_empty() || text.len() > 253 { "?".to_owned() } else { text };
    format!("{}/{}: {cause}", name(who.namespace), name(who.name))
}

/// `null` is the same as a missing field.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A container id without its scheme; none if it is not 64 hexadecimal digits.
pub(super) fn bare_id(id: &str) -> Option<Arc<str>> {
    let bare = id.rsplit_once("://").map_or(id, |(_, bare)| bare);
    (bare.len() == 64 && bare.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then(|| bare.into())
}

#[derive(Deserialize)]
struct WireList<'a> {
    kind: String,
    #[serde(default, deserialize_with = "nullable")]
    metadata: WireListMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

/// A list in which `null` stands for nothing.
type WireItems<T> = Option<Vec<Option<T>>>;

/// What an object is called, whatever else is wrong with it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WireIdentity {
    metadata: WireName,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireName {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireListMeta {
    #[serde(deserialize_with = "nullable")]
    pub(super) resource_version: String,
}

/// A pod in JSON.
#[derive(Deserialize)]
struct WirePod {
    #[serde(default, deserialize_with = "nullable")]
    metadata: WireMeta,
    #[serde(default, deserialize_with = "nullable")]
    spec: WireSpec,
    #[serde(default, deserialize_with = "nullable")]
    status: WireStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireMeta {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    namespace: String,
    #[serde(deserialize_with = "nullable")]
    uid: String,
    #[serde(deserialize_with = "nullable")]
    labels: WireLabels,
    #[serde(deserialize_with = "nullable")]
    annotations: WireAnnotations,
    owner_references: WireItems<WireOwner>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireLabels {
    #[serde(rename = "pod-template-hash")]
    template_hash: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireAnnotations {
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<serde_json::Value>,
    #[serde(rename = "kubernetes.io/config.hash")]
    hash: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct WireOwner {
    kind: String,
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    controller: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireSpec {
    #[serde(deserialize_with = "nullable")]
    host_network: bool,
    #[serde(deserialize_with = "nullable")]
    restart_policy: String,
    #[serde(deserialize_with = "nullable")]
    resources: WireResources,
    init_containers: WireItems<WireContainer>,
    containers: WireItems<WireContainer>,
    ephemeral_containers: WireItems<WireContainer>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireContainer {
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    image: String,
    #[serde(default, deserialize_with = "nullable")]
    resources: WireResources,
    #[serde(default, deserialize_with = "nullable")]
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
    #[serde(deserialize_with = "nullable")]
    qos_class: String,
    resources: Option<WireResources>,
    allocated_resources: Option<WireQuantities>,
    init_container_statuses: WireItems<WireContainerStatus>,
    container_statuses: WireItems<WireContainerStatus>,
    ephemeral_container_statuses: WireItems<WireContainerStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireContainerStatus {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(rename = "containerID", deserialize_with = "nullable")]
    container_id: String,
    #[serde(deserialize_with = "nullable")]
    state: WireState,
    #[serde(deserialize_with = "nullable")]
    last_state: WireState,
    resources: Option<WireResources>,
    allocated_resources: Option<WireQuantities>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireState {
    running: Option<serde::de::IgnoredAny>,
    terminated: Option<WireTerminated>,
}

impl WirePod {
    fn into_pod(self) -> Result<Pod, PodError> {
        let Self { metadata, spec, status } = self;
        for (value, what) in [(&metadata.name, "name"), (&metadata.namespace, "namespace"), (&metadata.uid, "uid")] {
            if value.is_empty() || value.len() > 253 {
                return Err(PodError::Identity(what));
            }
        }
        let text = |value: &'_ Option<serde_json::Value>| value.as_ref()?.as_str().map(ToOwned::to_owned);
        // The API server shows a static pod as a mirror with a uid of its own.
        let is_mirror = text(&metadata.annotations.mirror).is_some();
        let cgroup_uid = text(&metadata.annotations.hash)
            .filter(|hash| is_mirror && !hash.is_empty() && *hash != metadata.uid)
            .map(Arc::from);
        let controller = metadata.owner_references.iter().flatten().flatten().find(|owner| owner.controller);
        let workload = Workload::of(
            controller.map(|owner| (owner.kind.as_str(), owner.name.as_str())),
            metadata.labels.template_hash.as_deref(),
            &metadata.name,
        );
        let statuses =
            [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
        let has_sandbox = statuses
            .into_iter()
            .flatten()
            .flatten()
            .flatten()
            .all(|status| !status.container_id.starts_with("cri-o://"));
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
            resources: resources(&spec.resources, status.resources.as_ref(), status.allocated_resources.as_ref()),
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
    specs: WireItems<WireContainer>,
    statuses: WireItems<WireContainerStatus>,
) -> Vec<Container> {
    let mut statuses: Vec<WireContainerStatus> = statuses.into_iter().flatten().flatten().collect();
    let mut containers: Vec<Container> = specs
        .into_iter()
        .flatten()
        .flatten()
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
        resources: resources(&spec.resources, status.resources.as_ref(), status.allocated_resources.as_ref()),
        id: bare_id(&status.container_id),
        previous_id: status.last_state.terminated.and_then(|ended| bare_id(&ended.container_id)),
        phase,
    }
}

/// What runs, which while it is resized in place is not what the specification asks for: the status tells what the
/// runtime has been given, else what the kubelet has admitted.
fn resources(asked: &WireResources, actual: Option<&WireResources>, admitted: Option<&WireQuantities>) -> Resources {
    let requests = actual.and_then(|actual| given(actual.requests.as_ref())).or_else(|| given(admitted));
    let limits = actual.and_then(|actual| given(actual.limits.as_ref()));
    let (requests, limits) = (requests.or(asked.requests.as_ref()), limits.or(asked.limits.as_ref()));
    Resources {
        cpu_request_cores: requests.and_then(|requests| amount(requests.cpu.as_ref())),
        cpu_limit_cores: limits.and_then(|limits| amount(limits.cpu.as_ref())),
        memory_request_bytes: requests.and_then(|requests| amount(requests.memory.as_ref())),
        memory_limit_bytes: limits.and_then(|limits| amount(limits.memory.as_ref())),
    }
}

/// Quantities that tell anything.
fn given(quantities: Option<&WireQuantities>) -> Option<&WireQuantities> {
    quantities.filter(|quantities| quantities.cpu.is_some() || quantities.memory.is_some())
}

fn amount(quantity: Option<&serde_json::Value>) -> Option<f64> {
    match quantity? {
        serde_json::Value::String(text) => quantity::parse(text),
        serde_json::Value::Number(number) => quantity::parse(&number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
