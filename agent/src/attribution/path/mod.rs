//! The grammar of cgroup paths: from a path to the container, pod or systemd unit that it denotes.
//!
//! A pure function of the path. It reads no file, asks no runtime and knows no pod's name; `entity` and
//! `podlens check --cgroup` call it. What one name denotes is decided in agent-common, whose `Lineage` goes up the same
//! path in the kernel; the tests compare the two.
//!
//! Four rules settle nested cases:
//! 1. The deepest pod wins: a node of kind is itself a container, and its pods stand below it.
//! 2. Below a pod's container everything is that container's, other engines' containers (Docker in a pod)
//!    included: the pod's status lists only the outer one, and the kernel's own totals of it include them.
//! 3. Outside pods the deepest container wins.
//! 4. A systemd unit counts only where the node's own manager, or a user's (`user@UID.service`), made it: each cgroup
//!    above it is a slice or a user's manager. Below any other service, scope or plain cgroup a second systemd is at
//!    work (nspawn, LXC), whose `cron.service` is not the node's.

use std::borrow::Cow;

use podlens_common::path::{
    BARE_ID, CLASS, CONTAINER, MANAGER, POD_CONTAINER, POD_DIRECTORY, POD_SLICE, PODMAN_PARENT, PODS, SLICE,
    STANDALONE, UNIT,
};

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
        /// As in [`CgroupKind::Container`]; of ECS 32 digits, a dash and the container's number.
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
    /// Amazon ECS, which puts the task's id before the container's number.
    Ecs,
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
            Self::Ecs => "ecs",
            Self::Unknown => "container",
        }
    }
}

/// How a path was read: what its cgroup is, and which of its names made it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    /// What it is.
    pub kind: CgroupKind<'a>,
    /// The number of the name, counted from 1, that is the pod's, or the container's outside pods; 0 for anything else.
    pub group_at: usize,
    /// The number of the name that is the container's, the pod's where it is in no container, or the unit's; 0 for
    /// anything else. All names below it change nothing.
    pub container_at: usize,
}

/// One name of a path and what it denotes.
#[derive(Clone, Copy)]
struct Segment<'a> {
    number: usize,
    text: &'a str,
    kind: u32,
}

impl Segment<'_> {
    /// Above all names.
    const ROOT: Self = Self { number: 0, text: "", kind: podlens_common::path::OTHER };
}

/// What the cgroup at `path`, absolute within its hierarchy, denotes. Takes any text; linear in its length.
#[must_use]
pub fn parse(path: &str) -> CgroupKind<'_> {
    read(path).kind
}

/// The same with the names that decide it.
#[must_use]
pub fn read(path: &str) -> Reading<'_> {
    let mut reading = Reading { kind: CgroupKind::Root, group_at: 0, container_at: 0 };
    let (mut grandparent, mut parent) = (Segment::ROOT, Segment::ROOT);
    for (number, text) in (1..).zip(segments(path)) {
        let segment = Segment { number, text, kind: podlens_common::path::kind(text) };
        reading = match pod_part(grandparent, parent, segment) {
            Some(kind) => Reading { kind, group_at: number, container_at: number },
            None => descend(reading, path, parent, segment),
        };
        (grandparent, parent) = (parent, segment);
    }
    reading
}

/// The names of a path, from the root down.
pub fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// The reading of `segment`, which is no pod's, one level below `outer`.
fn descend<'a>(outer: Reading<'a>, path: &'a str, parent: Segment<'a>, segment: Segment<'a>) -> Reading<'a> {
    let Reading { kind, group_at, container_at } = outer;
    let outer = |kind| Reading { kind, group_at, container_at };
    let found = container(parent, segment);
    match (kind, found) {
        (CgroupKind::Pod { pod_uid, qos }, Some((_, container_id))) if segment.kind != STANDALONE => Reading {
            kind: CgroupKind::Container { pod_uid, container_id, qos },
            group_at,
            container_at: segment.number,
        },
        (kind @ (CgroupKind::Container { .. } | CgroupKind::Pod { .. }), _) => outer(kind),
        (_, Some((runtime, container_id))) => Reading {
            kind: CgroupKind::StandaloneContainer { runtime, container_id },
            group_at: segment.number,
            container_at: segment.number,
        },
        (kind, None) => match unit(&kind, container_at + 1 == segment.number, parent, segment) {
            Some(unit) => Reading { kind: unit, group_at: 0, container_at: segment.number },
            None if kind == CgroupKind::Root => outer(CgroupKind::Plain(path)),
            None => outer(kind),
        },
    }
}

/// Rule 4: a unit is one only directly below the root, a slice or a user's manager.
fn unit<'a>(
    outer: &CgroupKind<'a>,
    is_direct: bool,
    parent: Segment<'a>,
    segment: Segment<'a>,
) -> Option<CgroupKind<'a>> {
    let manager = match outer {
        CgroupKind::Root => None,
        CgroupKind::Unit { manager, .. } if is_direct && parent.kind == SLICE => *manager,
        CgroupKind::Unit { .. } if is_direct && parent.kind == MANAGER => Some(parent.text),
        _ => return None,
    };
    matches!(segment.kind, UNIT | SLICE | MANAGER).then_some(CgroupKind::Unit { name: segment.text, manager })
}

/// A pod's own directory in either driver's spelling, or the single segment of mixed drivers that names both.
fn pod_part<'a>(grandparent: Segment<'_>, parent: Segment<'_>, segment: Segment<'a>) -> Option<CgroupKind<'a>> {
    let text = segment.text;
    match segment.kind {
        POD_SLICE => {
            let (pod_uid, qos) = of_slice(text.strip_suffix(".slice")?)?;
            Some(CgroupKind::Pod { pod_uid, qos })
        }
        POD_CONTAINER => {
            let (slice, container_id) = text.rsplit_once(':')?;
            let (slice, _) = slice.rsplit_once(".slice:")?;
            let (pod_uid, qos) = of_slice(slice)?;
            Some(CgroupKind::Container { pod_uid, container_id, qos })
        }
        POD_DIRECTORY => {
            let qos = match (grandparent.kind, parent.kind) {
                (_, PODS) => Qos::Guaranteed,
                (PODS, CLASS) if parent.text == "burstable" => Qos::Burstable,
                (PODS, CLASS) => Qos::BestEffort,
                _ => return None,
            };
            Some(CgroupKind::Pod { pod_uid: text.strip_prefix("pod")?.into(), qos })
        }
        _ => None,
    }
}

/// The uid and the class in `kubepods-burstable-podUID`.
fn of_slice(stem: &str) -> Option<(Cow<'_, str>, Qos)> {
    let (head, uid) = stem.rsplit_once("-pod")?;
    let qos = if head.ends_with("-burstable") {
        Qos::Burstable
    } else if head.ends_with("-besteffort") {
        Qos::BestEffort
    } else {
        Qos::Guaranteed
    };
    // In a slice's name a dash means a level, so the kubelet writes the uid's dashes as underscores.
    let uid = if uid.contains('_') { Cow::Owned(uid.replace('_', "-")) } else { Cow::Borrowed(uid) };
    Some((uid, qos))
}

/// The engine and the id of a container by its directory's name.
fn container<'a>(parent: Segment<'_>, segment: Segment<'a>) -> Option<(Runtime, &'a str)> {
    let text = segment.text;
    match segment.kind {
        // containerd's directory is named after its namespace.
        BARE_ID => match parent.text {
            _ if parent.kind == PODMAN_PARENT => None,
            "docker" => Some((Runtime::Docker, text)),
            "default" | "k8s.io" => Some((Runtime::Containerd, text)),
            _ => Some((Runtime::Unknown, text)),
        },
        CONTAINER => {
            let (prefix, container_id) = text.strip_suffix(".scope").unwrap_or(text).rsplit_once('-')?;
            Some((runtime_of(prefix), container_id))
        }
        STANDALONE => match text.rsplit_once(':') {
            Some((rest, container_id)) => {
                let (_, prefix) = rest.rsplit_once(':')?;
                Some((runtime_of(prefix), container_id))
            }
            None => Some((Runtime::Ecs, text)),
        },
        _ => None,
    }
}

fn runtime_of(prefix: &str) -> Runtime {
    match prefix {
        "docker" => Runtime::Docker,
        "libpod" => Runtime::Podman,
        "cri-containerd" | "nerdctl" => Runtime::Containerd,
        "crio" => Runtime::Crio,
        _ => Runtime::Unknown,
    }
}

#[cfg(test)]
mod tests;
