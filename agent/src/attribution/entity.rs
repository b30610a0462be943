//! The entity of a cgroup by its path alone: what values are exported under until Kubernetes names are known.
//!
//! A pure function; the entity table calls it for every cgroup, and replaces the result where a source of names
//! knows better.
//!
//! | place | labels |
//! | --- | --- |
//! | container of a pod | pod = the pod's uid, container = first 12 digits of its id, namespace empty |
//! | pod's own cgroup | pod = the pod's uid, container and namespace empty |
//! | container outside pods | unit = `docker/` and the first 12 digits; likewise `podman/`, `containerd/`, `crio/`, `container/` |
//! | unit of the node | unit = its name |
//! | unit of a user's manager | unit = `user@1000.service/` and its name, since the node may have one of the same name |
//! | plain cgroup | unit = its path |
//! | root | unit = `/` |

use std::sync::Arc;

use super::path::{CgroupKind, has_stem, is_user_manager, parse};
use crate::signal::{Container, Entity, Subtree};

/// As long as `docker ps` and `crictl ps` show an id.
const SHORT_ID_DIGITS: usize = 12;

/// The entity of the cgroup at `path`, absolute within its hierarchy.
#[must_use]
pub fn entity(path: &str) -> Entity {
    match parse(path) {
        CgroupKind::Container { pod_uid, container_id, .. } => pod_entity(&pod_uid, container_id),
        CgroupKind::Pod { pod_uid, .. } => pod_entity(&pod_uid, ""),
        CgroupKind::StandaloneContainer { runtime, container_id } => {
            Entity::Unit(format!("{}/{}", runtime.as_str(), short(container_id)).into())
        }
        CgroupKind::Unit { name, manager: Some(manager) } => Entity::Unit(format!("{manager}/{name}").into()),
        CgroupKind::Unit { name, manager: None } => Entity::unit(name),
        CgroupKind::Plain(path) => Entity::unit(path),
        CgroupKind::Root => Entity::unit("/"),
    }
}

/// What lies below the cgroup at `path`, if it is the topmost one of its entity; none for one further down, and for
/// those whose figures are mostly others': the root, slices and users' managers.
#[must_use]
pub fn subtree(path: &str) -> Option<Subtree> {
    let subtree = match parse(path) {
        CgroupKind::Root => return None,
        CgroupKind::Unit { name, .. } if has_stem(name, ".slice") || is_user_manager(name) => return None,
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

fn short(container_id: &str) -> &str {
    container_id.get(..SHORT_ID_DIGITS).unwrap_or(container_id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use super::{entity, subtree};
    use crate::signal::{Container, Entity, Subtree};

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
