//! The entity of a cgroup by its path alone: what values are exported under until Kubernetes names are known.
//!
//! A pure function; the entity table calls it for every cgroup, and replaces the result where a source of names
//! knows better.
//!
//! | place | labels |
//! | --- | --- |
//! | container of a pod | pod = the pod's uid, container = first 12 digits of its id, namespace empty |
//! | pod's own cgroup | pod = the pod's uid, container and namespace empty |
//! | container outside pods | unit = `docker/` and the first 12 digits; likewise `podman/`, `containerd/`, `crio/`, `container/`; `ecs/`, 12 digits of the task and the container's number |
//! | unit of the node | unit = its name, that of all instances of a template and of units that are numbered the same (`unit_name.rs`) |
//! | unit of a user's manager | unit = `user@1000.service/` and its name, since the node may have one of the same name |
//! | plain cgroup | unit = its path |
//! | root | unit = `/` |
//!
//! [`folded`] gives all that is in no pod fewer names where the configuration asks for that.

use std::sync::Arc;

use podlens_common::path::{CLASS, MANAGER, OTHER, PODMAN_PARENT, PODS, SLICE, kind};

use super::{
    path::{CgroupKind, Runtime, parse, segments},
    unit_name,
};
use crate::{
    config::Units,
    signal::{Container, Entity, Subtree},
};

/// Everything outside pods, where the configuration wants no units.
const ALL_UNITS: &str = "(units)";

/// As long as `docker ps` and `crictl ps` show an id.
const SHORT_ID_DIGITS: usize = 12;

/// The entity of the cgroup at `path`, absolute within its hierarchy.
#[must_use]
pub fn entity(path: &str) -> Entity {
    match parse(path) {
        CgroupKind::Container { pod_uid, container_id, .. } => pod_entity(&pod_uid, container_id),
        CgroupKind::Pod { pod_uid, .. } => pod_entity(&pod_uid, ""),
        CgroupKind::StandaloneContainer { runtime, container_id } => {
            Entity::Unit(format!("{}/{}", runtime.as_str(), short_of(runtime, container_id)).into())
        }
        CgroupKind::Unit { name, manager: Some(manager) } => {
            Entity::Unit(format!("{manager}/{}", unit_name::common(name)).into())
        }
        CgroupKind::Unit { name, manager: None } => Entity::unit(&unit_name::common(name)),
        CgroupKind::Plain(path) => Entity::unit(path),
        CgroupKind::Root => Entity::unit("/"),
    }
}

/// The same with units folded as the configuration says: what is in no pod counts under its topmost slice or directory,
/// or all of it under one name. The root's own tasks stay apart.
#[must_use]
pub fn folded(path: &str, units: Units) -> Entity {
    let entity = entity(path);
    let (Entity::Unit(_), Some(topmost)) = (&entity, segments(path).next()) else { return entity };
    match units {
        Units::Each => entity,
        Units::Off => Entity::unit(ALL_UNITS),
        Units::Slice => match kind(topmost) {
            SLICE => Entity::unit(&unit_name::common(topmost)),
            OTHER | PODS | CLASS | PODMAN_PARENT => Entity::Unit(format!("/{topmost}").into()),
            _ => entity,
        },
    }
}

/// What lies below the cgroup at `path`, if it is the topmost one of its entity; none for one further down, and for
/// those whose figures are mostly others': the root, slices and users' managers.
#[must_use]
pub fn subtree(path: &str) -> Option<Subtree> {
    let subtree = match parse(path) {
        CgroupKind::Root => return None,
        CgroupKind::Unit { name, .. } if matches!(kind(name), SLICE | MANAGER) => return None,
        CgroupKind::Container { .. } | CgroupKind::StandaloneContainer { .. } | CgroupKind::Unit { .. } => Subtree::Own,
        // Each plain cgroup below it is an entity of its own.
        CgroupKind::Pod { .. } | CgroupKind::Plain(_) => Subtree::Shared,
    };
    let (above, _) = path.trim_end_matches('/').rsplit_once('/')?;
    (entity(above) != entity(path)).then_some(subtree)
}

/// The entity of the cgroup at `path` is a container, in a pod or outside.
#[must_use]
pub fn is_container(path: &str) -> bool {
    matches!(parse(path), CgroupKind::Container { .. } | CgroupKind::StandaloneContainer { .. })
}

/// A container of a pod as its cgroup's path would tell it, or without an id the pod's own cgroup.
#[must_use]
pub fn pod_entity(pod_uid: &str, container_id: &str) -> Entity {
    let pod_uid: Arc<str> = pod_uid.into();
    Entity::Container(Container {
        namespace: "".into(),
        pod: Arc::clone(&pod_uid),
        container: short(container_id).into(),
        pod_uid,
        container_id: container_id.into(),
    })
}

/// The containers of one task of ECS differ in their numbers alone.
fn short_of(runtime: Runtime, container_id: &str) -> String {
    match (runtime, container_id.rsplit_once('-')) {
        (Runtime::Ecs, Some((task, number))) => format!("{}-{number}", short(task)),
        _ => short(container_id).to_owned(),
    }
}

fn short(container_id: &str) -> &str {
    container_id.get(..SHORT_ID_DIGITS).unwrap_or(container_id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::collections::HashSet;

    use super::{entity, folded, subtree};
    use crate::{
        config::Units,
        signal::{Container, Entity, Subtree},
    };

    const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";
    const UID: &str = "0b1e7c52-6a3d-4c1f-9f7e-2d5a8b9c0d1e";

    #[track_caller]
    fn check_unit(path: &str, name: &str) {
        assert_eq!(entity(path), Entity::unit(name), "{path}");
    }

    #[track_caller]
    fn check_pod(path: &str, container: &str, container_id: &str) {
        let expected = Container {
            namespace: "".into(),
            pod: UID.into(),
            container: container.into(),
            pod_uid: UID.into(),
            container_id: container_id.into(),
        };
        assert_eq!(entity(path), Entity::Container(expected), "{path}");
    }

    #[test]
    fn a_container_is_named_by_its_pods_uid_and_the_first_digits_of_its_id() {
        check_pod(&format!("/kubepods/burstable/pod{UID}/{ID}"), "3f1b0c5a9d7e", ID);
    }

    #[test]
    fn a_pods_own_cgroup_has_no_container() {
        check_pod(&format!("/kubepods/pod{UID}"), "", "");
    }

    #[test]
    fn what_is_outside_pods_is_a_unit_of_a_telling_name() {
        check_unit(&format!("/system.slice/docker-{ID}.scope"), "docker/3f1b0c5a9d7e");
        check_unit(&format!("/machine.slice/libpod-{ID}.scope/container"), "podman/3f1b0c5a9d7e");
        check_unit(&format!("/k8s.io/{ID}"), "containerd/3f1b0c5a9d7e");
        check_unit(&format!("/system.slice/crio-{ID}.scope"), "crio/3f1b0c5a9d7e");
        check_unit(&format!("/build/{ID}"), "container/3f1b0c5a9d7e");
        check_unit("/system.slice/kubelet.service", "kubelet.service");
        check_unit("/kubepods/burstable", "/kubepods/burstable");
        check_unit("/", "/");
        check_unit("", "/");
    }

    #[test]
    fn the_same_unit_name_of_the_node_and_of_two_users_are_three_entities() {
        check_unit("/system.slice/dbus.service", "dbus.service");
        for user in [1000, 1001] {
            check_unit(
                &format!("/user.slice/user-{user}.slice/user@{user}.service/session.slice/dbus.service"),
                &format!("user@{user}.service/dbus.service"),
            );
        }
    }

    const TASK: &str = "3f1b0c5a9d7e2468ace013579bdf0246";

    #[test]
    fn each_container_of_an_ecs_task_has_one_short_name() {
        check_unit(&format!("/ecs/{TASK}/{TASK}-265927825"), "ecs/3f1b0c5a9d7e-265927825");
        check_unit(&format!("/ecs/{TASK}/{TASK}-2659278251/inner"), "ecs/3f1b0c5a9d7e-2659278251");
        check_unit(&format!("/ecs/{TASK}/{ID}"), "container/3f1b0c5a9d7e");
        let pod = format!("/kubepods/pod{UID}");
        check_pod(&format!("{pod}/{TASK}-265927825"), "", "");
    }

    #[test]
    fn a_thousand_connections_and_a_thousand_monitors_are_two_entities() {
        let all: HashSet<Entity> = (0..1000)
            .flat_map(|number| {
                let address = format!("192.0.2.10:22-198.51.100.7:{}", 40_000 + number);
                [
                    format!("/system.slice/system-sshd.slice/sshd@{number}-{address}.service"),
                    format!("/system.slice/crio-conmon-{number:064x}.scope"),
                ]
            })
            .map(|path| entity(&path))
            .collect();
        assert_eq!(all, HashSet::from(["sshd@.service", "crio-conmon-*.scope"].map(Entity::unit)));
    }

    #[test]
    fn a_monitor_in_its_pods_own_slice_is_the_pods() {
        let slice = format!("/kubepods.slice/kubepods-pod{}.slice", UID.replace('-', "_"));
        check_pod(&format!("{slice}/crio-conmon-{ID}.scope"), "", "");
    }

    #[test]
    fn units_are_folded_into_topmost_slices_or_into_one() {
        let check = |path: &str, slice: &str, off: &str| {
            assert_eq!(folded(path, Units::Each), entity(path), "{path}");
            assert_eq!(folded(path, Units::Slice), Entity::unit(slice), "{path}");
            assert_eq!(folded(path, Units::Off), Entity::unit(off), "{path}");
        };
        check("/system.slice/kubelet.service", "system.slice", "(units)");
        check("/system.slice", "system.slice", "(units)");
        check("/system.slice/system-getty.slice/getty@tty1.service", "system.slice", "(units)");
        check("/user.slice/user-1000.slice/user@1000.service/app.slice/a.service", "user.slice", "(units)");
        check(&format!("/system.slice/docker-{ID}.scope"), "system.slice", "(units)");
        check(&format!("/docker/{ID}"), "/docker", "(units)");
        check("/lxc/101/ns", "/lxc", "(units)");
        check("/kubepods/burstable", "/kubepods", "(units)");
        check("/init.scope", "init.scope", "(units)");
        check("/", "/", "/");
        for units in [Units::Each, Units::Slice, Units::Off] {
            for path in [format!("/kubepods/pod{UID}"), format!("/kubepods/pod{UID}/{ID}")] {
                assert_eq!(folded(&path, units), entity(&path), "pods are never folded");
            }
        }
    }

    #[track_caller]
    fn check_extent(path: &str, expected: Option<Subtree>) {
        assert_eq!(subtree(path), expected, "{path}");
    }

    #[test]
    fn only_the_topmost_cgroup_of_an_entity_stands_for_it() {
        let pod = format!("/kubepods/burstable/pod{UID}");
        check_extent(&pod, Some(Subtree::Shared));
        check_extent(&format!("{pod}/inner"), None);
        check_extent(&format!("{pod}/{ID}"), Some(Subtree::Own));
        check_extent(&format!("{pod}/{ID}/init.scope"), None);
        check_extent(&format!("/system.slice/docker-{ID}.scope"), Some(Subtree::Own));
        check_extent(&format!("/system.slice/docker-{ID}.scope/inner"), None);
        check_extent("/system.slice/kubelet.service", Some(Subtree::Own));
        check_extent("/system.slice/kubelet.service/inner", None);
        check_extent("/lxc/one", Some(Subtree::Shared));
    }

    #[test]
    fn what_mostly_holds_others_stands_for_nobody() {
        check_extent("/", None);
        check_extent("", None);
        check_extent("/system.slice", None);
        check_extent("/user.slice/user-1000.slice/user@1000.service", None);
        check_extent("/user.slice/user-1000.slice/user@1000.service/dbus.service", Some(Subtree::Own));
    }
}
