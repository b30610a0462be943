//! What is known about a container beside its names. The pipeline asks [`super::Names::facts`] for it.

use std::sync::Arc;

use super::{pod::Resources, table::Table};
use crate::signal::Container;

/// Facts about a container and its pod. One that is not known is absent.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// About its pod.
    pub pod: Option<PodFacts>,
    /// Its image.
    pub image: Option<Arc<str>>,
    /// Its requests and limits; of the pod's own cgroup and of the sandbox what is set for the pod as a whole.
    pub resources: Resources,
}

/// Facts about a pod.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// The uid in its metadata.
    pub uid: Arc<str>,
    /// Name of the workload that made it.
    pub workload: Arc<str>,
    /// Kind of that workload, in lower case.
    pub workload_type: Arc<str>,
    /// Class of its quality of service.
    pub qos: Arc<str>,
    /// It is in the node's network namespace.
    pub host_network: bool,
}

impl Facts {
    pub(super) fn of(table: &Table, container: &Container) -> Self {
        let pod = table.pod(container).map(|pod| PodFacts {
            uid: Arc::clone(&pod.uid),
            workload: Arc::clone(&pod.workload.name),
            workload_type: Arc::clone(&pod.workload.kind),
            qos: Arc::clone(&pod.qos),
            host_network: pod.host_network,
        });
        let image = table.image(container).cloned();
        let resources = if container.container.is_empty() {
            table.pod(container).map(|pod| pod.resources)
        } else {
            table.container(container).map(|described| described.resources)
        };
        let resources = resources.unwrap_or_default();
        Self { pod, image, resources }
    }
}
