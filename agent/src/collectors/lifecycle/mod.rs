//! Collector `lifecycle`: births and removals of cgroups and ends of containers, as the kernel reports them.
//!
//! It has no metrics of its own; attribution follows its records, so that a cgroup that lives for a moment has
//! a path all the same. `pipeline::events` hands them on.

pub mod events;

use podlens_common::event::{CGROUP_BORN, CGROUP_REMOVED, INIT_ENDED};

use super::CollectorSpec;

/// The collector.
pub static SPEC: CollectorSpec = CollectorSpec {
    name: "lifecycle",
    about: "births and removals of cgroups, so that short lives have a name",
    metrics: &[],
    records: &[CGROUP_BORN, CGROUP_REMOVED, INIT_ENDED],
    events: &[&events::EXITED, &events::FAILED],
};

/// Its programs and their tracepoints.
pub const PROGRAMS: &[(&str, &str)] = &[("cgroup_mkdir", "cgroup_mkdir"), ("cgroup_rmdir", "cgroup_rmdir")];
