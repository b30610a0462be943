//! Definitions of what is told about pods and containers beside their measurements. The CPU limit is the
//! collector `cpu`'s, which reads it from the kernel.

use crate::signal::{InfoMetric, Kind, Metric, Unit};

/// Facts about a pod.
pub static POD_INFO: InfoMetric =
    InfoMetric { name: "podlens_pod_info", help: "Always 1; facts about a pod", of_pod: true, source: "pod object" };

/// Facts about a container.
pub static CONTAINER_INFO: InfoMetric = InfoMetric {
    name: "podlens_container_info",
    help: "Always 1; facts about a container",
    of_pod: false,
    source: "pod object, or the runtime's annotations",
};

const fn resource(name: &'static str, otlp_name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric {
        name,
        otlp_name,
        kind: Kind::Gauge,
        unit,
        help,
        label: None,
        source: "pod object",
        must_equal: "status.containerStatuses[].resources, else spec.containers[].resources; of a pod spec.resources",
    }
}

/// Requested CPU.
pub static CPU_REQUEST: Metric = resource(
    "podlens_cpu_request_cores",
    "podlens.cpu.request",
    Unit::Cpus,
    "CPU that the scheduler set aside for the container",
);

/// Requested memory.
pub static MEMORY_REQUEST: Metric = resource(
    "podlens_memory_request_bytes",
    "podlens.memory.request",
    Unit::Bytes,
    "Memory that the scheduler set aside for the container",
);

/// Memory limit.
pub static MEMORY_LIMIT: Metric = resource(
    "podlens_memory_limit_bytes",
    "podlens.memory.limit",
    Unit::Bytes,
    "Memory that the container may use at most",
);
