//! How the path of a cgroup is read, in words, for `podlens check --cgroup`. Pure; asks neither the kernel nor any server.

use std::fmt::Write as _;

use super::{
    entity::{entity, folded, subtree},
    path::{CgroupKind, Reading, read, segments},
};
use crate::{
    config::Units,
    signal::{Entity, Subtree},
};

/// One line per fact.
#[must_use]
pub fn explain(path: &str, units: Units) -> String {
    let Reading { kind, group_at, container_at } = read(path);
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:14} {value}");
    };
    line("path", path);
    line("entity", &labels(&folded(path, units)));
    if folded(path, units) != entity(path) {
        line("unfolded", &format!("{}, without the setting `units`", labels(&entity(path))));
    }
    let by = |number: usize| match segments(path).nth(number.wrapping_sub(1)) {
        Some(name) => format!("according to name {number} of the path, `{name}`"),
        None => "according to no name of the path".to_owned(),
    };
    match &kind {
        CgroupKind::Container { pod_uid, container_id, qos } => {
            line("pod", &format!("{pod_uid}, {}, {}", qos.as_str(), by(group_at)));
            line("container", &format!("{container_id}, {}", by(container_at)));
        }
        CgroupKind::Pod { pod_uid, qos } => {
            line("pod", &format!("{pod_uid}, {}, {}", qos.as_str(), by(group_at)));
            line("container", "none: it is the pod's own");
        }
        CgroupKind::StandaloneContainer { runtime, container_id } => {
            line("pod", "none");
            line("container", &format!("{container_id} of {}, {}", runtime.as_str(), by(container_at)));
        }
        CgroupKind::Unit { name, manager } => {
            line("pod", "none");
            let manager = manager.map_or(String::new(), |manager| format!(" of {manager}"));
            line("unit", &format!("{name}{manager}, {}", by(container_at)));
        }
        CgroupKind::Plain(_) | CgroupKind::Root => line("pod", "none"),
    }
    line("why", why(&kind));
    let figures = match subtree(path) {
        Some(Subtree::Own) => "of this cgroup with all below it",
        Some(Subtree::Shared) => "of this directory alone: what is below it has entities of its own",
        None => "counted for each of its tasks; files are read at the entity's topmost cgroup, if at all",
    };
    line("figures", figures);
    text
}

fn why(kind: &CgroupKind<'_>) -> &'static str {
    match kind {
        CgroupKind::Container { .. } => {
            "the deepest pod counts; in it the container that is nearest to the pod, whatever runs inside of that"
        }
        CgroupKind::Pod { .. } => "the deepest pod counts, and no name below it is a container's",
        CgroupKind::StandaloneContainer { .. } => "no name is a pod's; the deepest container counts",
        CgroupKind::Unit { .. } => {
            "no name is a pod's or a container's; a unit counts where slices and users' managers alone are above it"
        }
        CgroupKind::Plain(_) => "no name is a pod's, a container's or a unit's of this node",
        CgroupKind::Root => "it is the root",
    }
}

fn labels(entity: &Entity) -> String {
    match entity {
        Entity::Container(container) => format!(
            "namespace=\"{}\", pod=\"{}\", container=\"{}\" until a source of names knows better",
            container.namespace, container.pod, container.container
        ),
        Entity::Unit(_) | Entity::Workload(_) => format!("unit=\"{entity}\""),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use super::explain;
    use crate::config::Units;

    const UID: &str = "0b1e7c52-6a3d-4c1f-9f7e-2d5a8b9c0d1e";
    const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";

    #[track_caller]
    fn check(path: &str, units: Units, expected: &[&str]) {
        let text = explain(path, units);
        for part in expected {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    #[test]
    fn each_kind_of_path_tells_its_entity_and_why() {
        let each = Units::Each;
        check(
            &format!("/kubepods/burstable/pod{UID}/{ID}/init.scope"),
            each,
            &[
                "entity         namespace=\"\", pod=\"0b1e7c52-",
                "Burstable, according to name 3 of the path, `pod0b1e7c52-",
                "according to name 4 of the path, `3f1b0c5a9d7e",
            ],
        );
        check(&format!("/kubepods/pod{UID}/init"), each, &["Guaranteed", "it is the pod's own"]);
        check(&format!("/docker/{ID}"), each, &["unit=\"docker/3f1b0c5a9d7e\"", "of docker", "deepest container"]);
        check(
            "/system.slice/system-sshd.slice/sshd@1-192.0.2.1:22-192.0.2.2:5.service",
            each,
            &["entity         unit=\"sshd@.service\"", "unit           sshd@1-192.0.2.1:22-192.0.2.2:5.service"],
        );
        check("/lxc/101", each, &["unit=\"/lxc/101\"", "no name is a pod's"]);
        check("/", each, &["unit=\"/\"", "it is the root"]);
        check(
            "/system.slice/kubelet.service",
            Units::Slice,
            &["entity         unit=\"system.slice\"", "unfolded       unit=\"kubelet.service\""],
        );
    }
}
