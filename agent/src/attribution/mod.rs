//! Attribution: from cgroups to owners. It knows paths and pods, and nothing of metrics.

pub mod cgroups;
pub mod names;
pub mod owner;
pub mod path;
