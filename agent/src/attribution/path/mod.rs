//! The grammar of cgroup paths: from a path to the container, pod or systemd unit that it denotes.
//!
//! A pure function of the path. It reads no file, asks no runtime and knows no pod's name; `entity` and the
//! Kubernetes sources call it.
//!
//! Four rules settle nested cases:
//! 1. The deepest pod wins: a node of kind is itself a container, and its pods stand below it.
//! 2. Below a pod's container everything is that container's, other engines' containers (Docker in a pod)
//!    included: the pod's status lists only the outer one, and the kernel's own totals of it include them.
//! 3. Outside pods the deepest container wins.
//! 4. A systemd unit counts only where the node's own manager, or a user's (`user@UID.service`), made it. Below any
//!    other service, scope or plain cgroup a second systemd is at work (nspawn, LXC), whose `cron.service` is not the node's.

use std::borrow::Cow;

/// What a cgroup is, by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupKind<'a> {
    /// A container of a pod, or a cgroup inside one.
    Container {
        /// The pod's uid with dashes; a static pod's is 32 hexadecimal digits without any.
        pod_uid: Cow<'a, str>,
        /// The runtime's id: 64 hexadecimal digits.
        container_id: &'a str,
        /// The pod's class.
        qos: Qos,
    },
    /// The pod's own cgroup, or one in it that is no container.
    Pod {
        /// As in [`CgroupKind::Container`].
        pod_uid: Cow<'a, str>,
        /// The pod's class.
        qos: Qos,
    },
    /// A container outside all pods.
    StandaloneContainer {
        /// Who made it.
        runtime: Runtime,
        /// As in [`CgroupKind::Container`].
        container_id: &'a str,
    },
    /// A systemd unit, or a plain cgroup below it.
    Unit {
        /// The unit's name as systemd spells it, escapes such as `\x2d` kept.
        name: &'a str,
        /// `user@UID.service` for a unit of a user's manager: the node may have a unit of the same name.
        manager: Option<&'a str>,
    },
    /// A cgroup that none of the above describes: the whole path.
    Plain(&'a str),
    /// The root of the hierarchy.
    Root,
}

/// The quality-of-service class that the kubelet gave to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qos {
    /// Limits equal requests.
    Guaranteed,
    /// Some request or limit is set.
    Burstable,
    /// Neither is set.
    BestEffort,
}

impl Qos {
    /// As Kubernetes spells it in a pod's status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The engine that made a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd, whether through CRI or nerdctl.
    Containerd,
    /// CRI-O.
    Crio,
    /// The path does not tell.
    Unknown,
}

impl Runtime {
    /// Lower-case name; `container` where the runtime is unknown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::Crio => "crio",
            Self::Unknown => "container",
        }
    }
}

/// What the cgroup at `path`, absolute within its hierarchy, denotes. Takes any text; linear in its length.
#[must_use]
pub fn parse(path: &str) -> CgroupKind<'_> {
    let mut place = CgroupKind::Root;
    let (mut grandparent, mut parent) = ("", "");
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        place = match pod_part(grandparent, parent, segment) {
            Some(pod) => pod,
            None => descend(place, path, parent, segment),
        };
        (grandparent, parent) = (parent, segment);
    }
    place
}

/// The place of `segment`, which is no pod's, one level below `outer`.
fn descend<'a>(outer: CgroupKind<'a>, path: &'a str, parent: &str, segment: &'a str) -> CgroupKind<'a> {
    match outer {
        CgroupKind::Container { .. } => outer,
        CgroupKind::Pod { pod_uid, qos } => match container(parent, segment) {
            Some((_, container_id)) => CgroupKind::Container { pod_uid, container_id, qos },
            None => CgroupKind::Pod { pod_uid, qos },
        },
        CgroupKind::StandaloneContainer { .. } | CgroupKind::Unit { .. } | CgroupKind::Plain(_) | CgroupKind::Root => {
            match standalone(parent, segment) {
                Some(inner) => inner,
                None => descend_to_unit(outer, path, segment),
            }
        }
    }
}

/// Rule 4: a unit is one only directly below the root, a slice or a user's manager.
fn descend_to_unit<'a>(outer: CgroupKind<'a>, path: &'a str, segment: &'a str) -> CgroupKind<'a> {
    let is_unit = UNIT_SUFFIXES.iter().any(|suffix| has_stem(segment, suffix));
    match outer {
        CgroupKind::Root if is_unit => CgroupKind::Unit { name: segment, manager: None },
        CgroupKind::Root => CgroupKind::Plain(path),
        CgroupKind::Unit { name, manager } if is_unit && has_stem(name, ".slice") => {
            CgroupKind::Unit { name: segment, manager }
        }
        CgroupKind::Unit { name, .. } if is_unit && is_user_manager(name) => {
            CgroupKind::Unit { name: segment, manager: Some(name) }
        }
        other => other,
    }
}

/// The unit types that have a cgroup.
const UNIT_SUFFIXES: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// The name has that suffix, and something before it.
pub(super) fn has_stem(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|stem| !stem.is_empty())
}

/// The unit is a user's own manager, which has units of its own.
pub(super) fn is_user_manager(unit: &str) -> bool {
    unit.strip_prefix("user@")
        .and_then(|rest| rest.strip_suffix(".service"))
        .is_some_and(|uid| !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A pod's own directory in either driver's spelling, or the single segment of mixed drivers that names both.
fn pod_part<'a>(grandparent: &str, parent: &str, segment: &'a str) -> Option<CgroupKind<'a>> {
    if let Some((slice, _, container_id)) = mixed_drivers(segment) {
        let (pod_uid, qos) = pod_slice(slice)?;
        return Some(CgroupKind::Container { pod_uid, container_id, qos });
    }
    let (pod_uid, qos) =
        pod_slice(segment).or_else(|| Some((pod_directory(segment)?.into(), directory_qos(grandparent, parent)?)))?;
    Some(CgroupKind::Pod { pod_uid, qos })
}

/// `kubepods-burstable-podUID.slice`, with any prefix that a cgroup root set for the kubelet puts before it.
fn pod_slice(segment: &str) -> Option<(Cow<'_, str>, Qos)> {
    let (head, uid) = segment.strip_suffix(".slice")?.rsplit_once("-pod")?;
    let (root, qos) = if let Some(root) = head.strip_suffix("-burstable") {
        (root, Qos::Burstable)
    } else if let Some(root) = head.strip_suffix("-besteffort") {
        (root, Qos::BestEffort)
    } else {
        (head, Qos::Guaranteed)
    };
    if root != "kubepods" && !root.ends_with("-kubepods") {
        return None;
    }
    // In a slice's name a dash means a level, so the kubelet writes the uid's dashes as underscores.
    let is_uid = !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let uid = if uid.contains('_') { Cow::Owned(uid.replace('_', "-")) } else { Cow::Borrowed(uid) };
    is_uid.then_some((uid, qos))
}

fn pod_directory(segment: &str) -> Option<&str> {
    let uid = segment.strip_prefix("pod")?;
    let is_uid = !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_uid.then_some(uid)
}

/// The class by the directories above a pod's; none where they are not the kubelet's.
fn directory_qos(grandparent: &str, parent: &str) -> Option<Qos> {
    match (grandparent, parent) {
        (_, "kubepods") => Some(Qos::Guaranteed),
        ("kubepods", "burstable") => Some(Qos::Burstable),
        ("kubepods", "besteffort") => Some(Qos::BestEffort),
        _ => None,
    }
}

/// `SLICE:PREFIX:ID`: systemd's notation, taken for a directory name by a runtime that drives cgroupfs itself.
fn mixed_drivers(segment: &str) -> Option<(&str, &str, &str)> {
    let (slice, rest) = segment.split_once(".slice:")?;
    let slice = segment.get(..slice.len() + ".slice".len())?;
    let (prefix, container_id) = rest.split_once(':')?;
    is_container_id(container_id).then_some((slice, prefix, container_id))
}

fn standalone<'a>(parent: &str, segment: &'a str) -> Option<CgroupKind<'a>> {
    let (runtime, container_id) = match mixed_drivers(segment) {
        Some((_, prefix, container_id)) => (runtime_of_prefix(prefix)?, container_id),
        None => container(parent, segment)?,
    };
    Some(CgroupKind::StandaloneContainer { runtime, container_id })
}

/// A container's directory: `PREFIX-ID.scope`, `PREFIX-ID` or the id alone.
fn container<'a>(parent: &str, segment: &'a str) -> Option<(Runtime, &'a str)> {
    if is_container_id(segment) {
        return Some((runtime_of_parent(parent)?, segment));
    }
    let (prefix, container_id) = segment.strip_suffix(".scope").unwrap_or(segment).rsplit_once('-')?;
    is_container_id(container_id).then_some((runtime_of_prefix(prefix)?, container_id))
}

/// Monitors of CRI-O and Podman (`crio-conmon`, `libpod-conmon`) carry the id of a container but are none.
fn runtime_of_prefix(prefix: &str) -> Option<Runtime> {
    match prefix {
        "docker" => Some(Runtime::Docker),
        "libpod" => Some(Runtime::Podman),
        "cri-containerd" | "nerdctl" => Some(Runtime::Containerd),
        "crio" => Some(Runtime::Crio),
        _ => None,
    }
}

/// `/docker/ID`; containerd's directory is named after its namespace. A bare id below Podman's parent is a Podman pod.
fn runtime_of_parent(parent: &str) -> Option<Runtime> {
    match parent {
        "docker" => Some(Runtime::Docker),
        "default" | "k8s.io" => Some(Runtime::Containerd),
        "libpod_parent" => None,
        _ => Some(Runtime::Unknown),
    }
}

fn is_container_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
