//! The owner of a cgroup by its path alone: what values are exported under until Kubernetes names are known.
//!
//! A pure function; the owner table calls it for every cgroup, and replaces the result where a source of names
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

use super::path::{Place, parse};
use crate::registry::{Container, Owner};

/// As long as `docker ps` and `crictl ps` show an id.
const SHORT_ID_DIGITS: usize = 12;

/// The owner of the cgroup at `path`, absolute within its hierarchy.
#[must_use]
pub fn owner(path: &str) -> Owner {
    match parse(path) {
        Place::Container { pod_uid, container_id, .. } => pod_owner(&pod_uid, container_id),
        Place::Pod { pod_uid, .. } => pod_owner(&pod_uid, ""),
        Place::StandaloneContainer { runtime, container_id } => {
            Owner::Unit(format!("{}/{}", runtime.as_str(), short(container_id)).into())
        }
        Place::Unit { name, manager: Some(manager) } => Owner::Unit(format!("{manager}/{name}").into()),
        Place::Unit { name, manager: None } => Owner::unit(name),
        Place::Plain(path) => Owner::unit(path),
        Place::Root => Owner::unit("/"),
    }
}

fn pod_owner(pod_uid: &str, container_id: &str) -> Owner {
    let pod_uid: Arc<str> = pod_uid.into();
    Owner::Container(Container {
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

    use super::owner;
    use crate::registry::{Container, Owner};

    const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";
    const UID: &str = "0b1e7c52-6a3d-4c1f-9f7e-2d5a8b9c0d1e";

    #[track_caller]
    fn check_unit(path: &str, name: &str) {
        assert_eq!(owner(path), Owner::unit(name), "{path}");
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
        assert_eq!(owner(path), Owner::Container(expected), "{path}");
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
    fn the_same_unit_name_of_the_node_and_of_two_users_are_three_owners() {
        check_unit("/system.slice/dbus.service", "dbus.service");
        for user in [1000, 1001] {
            check_unit(
                &format!("/user.slice/user-{user}.slice/user@{user}.service/session.slice/dbus.service"),
                &format!("user@{user}.service/dbus.service"),
            );
        }
    }
}
