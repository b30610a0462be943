//! Attribution: from cgroups to entities. It knows paths and pods, and nothing of metrics.

pub mod cgroups;
pub mod entity;
pub mod explain;
pub mod kubernetes;
pub mod path;
pub mod unit_name;
