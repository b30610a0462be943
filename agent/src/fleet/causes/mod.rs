//! Why a node that should have a working pod of a `DaemonSet` has none. Pure.
//!
//! The first cause that holds is told: what keeps a pod from being made, from being put on its node, from being started, and
//! from being ready, in this order. Words of the API server, the scheduler and the kubelet are handed on as they are.

use std::collections::HashMap;

use k8s_openapi::jiff::Timestamp;

use super::objects::{Condition, ContainerStatus, Event, Node, Pod, Story, Uid};

/// How many of those who hold what is lacking are told.
const HOLDERS: usize = 3;
/// Longer texts of others are cut.
const TEXT: usize = 300;

/// What a node lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// In one word.
    pub reason: Reason,
    /// For people.
    pub detail: String,
    /// Since when, as far as anybody tells.
    pub since: Option<Timestamp>,
}

/// Why, for the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No pod: a quota of its namespace is used up.
    Quota,
    /// No pod: Pod Security does not admit it.
    PodSecurity,
    /// No pod: something else refuses it.
    Admission,
    /// No pod, and nobody says why.
    NotMade,
    /// The pod is being removed.
    Terminating,
    /// The pod failed as a whole: evicted, or not admitted by the kubelet.
    Failed,
    /// The node does not have what the pod is to be guaranteed.
    Resources,
    /// A port of the node is taken.
    HostPort,
    /// The scheduler does not put it on its node for another reason, or has not looked at it.
    NotScheduled,
    /// The kubelet does not answer, or says that it cannot work.
    NodeNotReady,
    /// The image cannot be had.
    Image,
    /// A certificate is refused because of its time: a clock is wrong.
    Clock,
    /// A volume cannot be had.
    Volume,
    /// Its network cannot be set up.
    Network,
    /// It cannot be started as it is configured.
    Configuration,
    /// It was killed for want of memory, again and again.
    OutOfMemory,
    /// It ends again and again.
    CrashLoop,
    /// It runs and says that it is not ready.
    NotReady,
    /// It is being started.
    Starting,
}

impl Reason {
    /// All that the label `reason` can say.
    pub const NAMES: &[&'static str] = &[
        "quota",
        "pod_security",
        "admission",
        "not_made",
        "terminating",
        "failed",
        "resources",
        "host_port",
        "not_scheduled",
        "node_not_ready",
        "image",
        "clock",
        "volume",
        "network",
        "configuration",
        "out_of_memory",
        "crash_loop",
        "not_ready",
        "starting",
    ];

    /// As a label's value: one of [`Self::NAMES`].
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::PodSecurity => "pod_security",
            Self::Admission => "admission",
            Self::NotMade => "not_made",
            Self::Terminating => "terminating",
            Self::Failed => "failed",
            Self::Resources => "resources",
            Self::HostPort => "host_port",
            Self::NotScheduled => "not_scheduled",
            Self::NodeNotReady => "node_not_ready",
            Self::Image => "image",
            Self::Clock => "clock",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Configuration => "configuration",
            Self::OutOfMemory => "out_of_memory",
            Self::CrashLoop => "crash_loop",
            Self::NotReady => "not_ready",
            Self::Starting => "starting",
        }
    }

    /// It may well be over in a moment without anybody's doing.
    #[must_use]
    pub fn passes(self) -> bool {
        matches!(self, Self::NotMade | Self::Terminating | Self::NotScheduled | Self::NotReady | Self::Starting)
    }
}

/// Reasons of events that tell why there is no pod.
const NOT_MADE: &[&str] = &["FailedCreate"];
const NO_VOLUME: &[&str] = &["FailedMount", "FailedAttachVolume", "FailedMapVolume"];
const NO_SANDBOX: &[&str] = &["FailedCreatePodSandBox", "NetworkNotReady"];
/// Words of a sandbox that lacks its network, with any runtime; others lack a runtime class, or what it is made of.
const NETWORKS: &[&str] = &["network", "CNI", "cni"];
const NOT_READY: &[&str] = &["Unhealthy", "ProbeWarning"];
/// Words of a kubelet that has not yet heard of a Secret or `ConfigMap`: it asks again within a second, and says then what is wrong
/// with it, if anything is.
const NOT_HEARD: &[&str] = &["failed to sync secret cache", "failed to sync configmap cache"];

/// Most events that are kept. Each lives for an hour, and of each object only those that tell why it does not work count.
const EVENTS: usize = 50_000;

/// There are more events than are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// Events that tell why something does not work, by the identity of the object that they happened to.
#[derive(Debug, Default)]
pub struct Events {
    by_object: HashMap<Uid, Vec<Event>>,
    /// The object of each event.
    objects: HashMap<Uid, Uid>,
    /// What agents of podlens say themselves, by their pods.
    words: HashMap<Uid, Box<str>>,
}

impl Events {
    /// Enters one if it tells anything.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn put(&mut self, event: Event) -> Result<(), NoRoom> {
        let tells = [NOT_MADE, NO_VOLUME, NO_SANDBOX, NOT_READY].iter().any(|some| some.contains(&&*event.reason));
        if !tells {
            return Ok(());
        }
        if !self.objects.contains_key(&event.uid) && self.objects.len() >= EVENTS {
            return Err(NoRoom);
        }
        let object = event.object;
        self.objects.insert(event.uid, object);
        let events = self.by_object.entry(object).or_default();
        events.retain(|known| known.uid != event.uid);
        let at = events.partition_point(|known| known.at <= event.at);
        events.insert(at, event);
        Ok(())
    }

    /// Drops one; gives the object that it was about.
    pub fn remove(&mut self, event: Uid) -> Option<Uid> {
        let object = self.objects.remove(&event)?;
        if let Some(events) = self.by_object.get_mut(&object) {
            events.retain(|known| known.uid != event);
            if events.is_empty() {
                self.by_object.remove(&object);
            }
        }
        Some(object)
    }

    /// Enters what an agent says itself about why it is not ready.
    pub fn say(&mut self, pod: Uid, words: &str) {
        self.words.insert(pod, words.into());
    }

    /// What an agent has said is over.
    pub fn forget(&mut self, pod: Uid) {
        self.words.remove(&pod);
    }

    /// The identities of those about such objects.
    pub fn of(&self, is_about: impl Fn(Uid) -> bool) -> impl Iterator<Item = Uid> {
        self.objects.iter().filter(move |(_, object)| is_about(**object)).map(|(event, _)| *event)
    }

    /// The newest of these reasons.
    fn last(&self, object: Uid, reasons: &[&str]) -> Option<&Event> {
        self.by_object.get(&object)?.iter().rev().find(|event| reasons.contains(&&*event.reason))
    }
}

/// Why there is no pod. `daemon_set` is the identity of the one that wants it.
#[must_use]
pub fn without_pod(daemon_set: Uid, events: &Events) -> Lack {
    let Some(event) = events.last(daemon_set, NOT_MADE) else {
        let detail =
            "the DaemonSet's controller has made no pod and says nothing about it: see to kube-controller-manager";
        return Lack { reason: Reason::NotMade, detail: detail.to_owned(), since: None };
    };
    let message = &*event.message;
    let reason = if message.contains("exceeded quota") {
        Reason::Quota
    } else if message.contains("violates PodSecurity") {
        Reason::PodSecurity
    } else {
        Reason::Admission
    };
    Lack { reason, detail: cut(message.trim_start_matches("Error creating: ")), since: event.at }
}

/// Why this pod does not work; `beside` are all pods that are on the node.
#[must_use]
pub fn of_pod(pod: &Pod, node: &Node, beside: &[&Pod], events: &Events) -> Lack {
    let Some(story) = &pod.story else { return Lack { reason: Reason::Starting, detail: String::new(), since: None } };
    let since = story.unready.or(story.made);
    let lack = |reason, detail: String| Lack { reason, detail: cut(&detail), since };
    if let Some(until) = story.deleted {
        let detail = format!("{} should be gone since {until}", pod.name);
        return Lack { since: Some(until), ..lack(Reason::Terminating, detail) };
    }
    if &*story.phase == "Failed" {
        let is_refused = story.reason.starts_with("OutOf") || story.reason.starts_with("UnexpectedAdmission");
        let reason = if is_refused { Reason::Resources } else { Reason::Failed };
        return lack(reason, format!("{}: {}", story.reason, story.message));
    }
    if !pod.is_scheduled {
        let (reason, detail) = unscheduled(pod, story, node, beside);
        return lack(reason, detail);
    }
    if let Some(Condition { status, reason, message, last_transition_time, .. }) =
        node.ready.as_ref().filter(|ready| ready.status != "True")
    {
        let detail = format!("the node's condition Ready is {status} ({reason}): {message}");
        return Lack { since: last_transition_time.as_ref().map(|at| at.0), ..lack(Reason::NodeNotReady, detail) };
    }
    let of_init = story.init_containers.iter().find_map(|status| of_container(status, true));
    let of_main = || story.containers.iter().find_map(|status| of_container(status, false));
    let (reason, detail) = of_init.or_else(of_main).unwrap_or_else(|| being_started(pod, story, events));
    let is_heard = !NOT_HEARD.iter().any(|words| detail.contains(words));
    lack(if is_heard { reason } else { Reason::Starting }, detail)
}

/// What keeps it from the node that it is for.
fn unscheduled(pod: &Pod, story: &Story, node: &Node, beside: &[&Pod]) -> (Reason, String) {
    if let Some(detail) = taken_port(pod, beside) {
        return (Reason::HostPort, detail);
    }
    if let Some(detail) = lacking_resource(pod, node, beside) {
        return (Reason::Resources, detail);
    }
    let detail = story.unscheduled.as_ref().map_or_else(
        || "the scheduler has not looked at it: see to kube-scheduler".to_owned(),
        |scheduled| format!("{}: {}", scheduled.reason, scheduled.message),
    );
    (Reason::NotScheduled, detail)
}

fn taken_port(pod: &Pod, beside: &[&Pod]) -> Option<String> {
    pod.claim.host_ports().find_map(|port| {
        let holder = beside.iter().find(|other| other.claim.host_ports().any(|taken| taken == port))?;
        Some(format!("port {}/{} of the node is held by {}", port.0, port.1, name(holder)))
    })
}

fn lacking_resource(pod: &Pod, node: &Node, beside: &[&Pod]) -> Option<String> {
    let allocatable = |resource: &str| node.allocatable.get(resource).copied();
    let room = allocatable("pods").filter(|room| beside.len() as f64 + 1.0 > *room);
    if let Some(room) = room {
        return Some(format!("the node takes {room} pods and has {}", beside.len()));
    }
    for (resource, asked) in pod.claim.requests() {
        let all = allocatable(resource).unwrap_or_default();
        let mut holders: Vec<(f64, &Pod)> =
            beside.iter().map(|other| (other.claim.request(resource), *other)).collect();
        let held: f64 = holders.iter().map(|(held, _)| held).sum();
        // Less than a thousandth is rounding.
        if asked <= (all - held) * 1.000_001 + 1e-9 {
            continue;
        }
        holders.sort_by(|one, other| other.0.total_cmp(&one.0));
        let most = holders.iter().take(HOLDERS).filter(|(held, _)| *held > 0.0);
        let most: Vec<String> = most.map(|(held, pod)| format!("{} {}", name(pod), amount(resource, *held))).collect();
        return Some(format!(
            "{resource}: asks for {}, free are {} of {}; most is held by {}",
            amount(resource, asked),
            amount(resource, (all - held).max(0.0)),
            amount(resource, all),
            if most.is_empty() { "nobody".to_owned() } else { most.join(", ") },
        ));
    }
    None
}

/// What keeps a container from running, if anything is told about it.
fn of_container(status: &ContainerStatus, is_init: bool) -> Option<(Reason, String)> {
    let ContainerStatus { name, image, restart_count, state, last_state, .. } = status;
    let ended = state.terminated.as_ref().or(last_state.terminated.as_ref());
    let crash = || {
        let reason = match ended {
            Some(ended) if ended.reason == "OOMKilled" => Reason::OutOfMemory,
            _ => Reason::CrashLoop,
        };
        let how = ended.map_or_else(String::new, |ended| {
            let words = if ended.message.is_empty() { String::new() } else { format!(": {}", ended.message.trim()) };
            format!(", last with exit code {} ({}){words}", ended.exit_code, ended.reason)
        });
        (reason, format!("container {name} was started again {restart_count} times{how}"))
    };
    if let Some(waiting) = &state.waiting {
        let told = || format!("container {name}: {}: {}", waiting.reason, waiting.message);
        return match &*waiting.reason {
            _ if waiting.message.contains("x509") && waiting.message.contains("expired or is not yet valid") => {
                Some((Reason::Clock, told()))
            }
            "ImagePullBackOff"
            | "ErrImagePull"
            | "ErrImageNeverPull"
            | "InvalidImageName"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed" => {
                Some((Reason::Image, format!("container {name}: {}: {image}: {}", waiting.reason, waiting.message)))
            }
            "CrashLoopBackOff" => Some(crash()),
            "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "PreStartHookError"
            | "PostStartHookError" => Some((Reason::Configuration, told())),
            _ => None,
        };
    }
    // One that has failed and is about to be started again.
    let has_failed = state.terminated.as_ref().is_some_and(|ended| !is_init || ended.exit_code != 0);
    has_failed.then(crash)
}

/// Nothing has failed yet: what its events tell.
fn being_started(pod: &Pod, story: &Story, events: &Events) -> (Reason, String) {
    let found = |reasons| events.last(pod.uid, reasons);
    if &*story.phase != "Running" {
        if let Some(event) = found(NO_VOLUME) {
            return (Reason::Volume, event.message.to_string());
        }
        if let Some(event) = found(NO_SANDBOX) {
            let is_network = NETWORKS.iter().any(|word| event.message.contains(word));
            let reason = if is_network { Reason::Network } else { Reason::Configuration };
            return (reason, event.message.to_string());
        }
        return (Reason::Starting, "its containers are being made".to_owned());
    }
    if let Some(words) = events.words.get(&pod.uid) {
        return (Reason::NotReady, words.to_string());
    }
    match found(NOT_READY) {
        Some(event) => (Reason::NotReady, event.message.to_string()),
        None => (Reason::NotReady, "it runs and is not ready; no probe has failed".to_owned()),
    }
}

fn name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn amount(resource: &str, amount: f64) -> String {
    if resource.contains("memory") || resource.contains("storage") {
        format!("{:.0} MiB", amount / 1_048_576.0)
    } else if resource == "cpu" {
        format!("{:.0}m", amount * 1000.0)
    } else {
        format!("{amount}")
    }
}

/// One line of at most so many characters.
fn cut(text: &str) -> String {
    let line: Vec<char> = text.trim().chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
    match line.get(..TEXT) {
        Some(head) if line.len() > TEXT => head.iter().chain(&['.', '.', '.']).collect(),
        _ => line.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests;
