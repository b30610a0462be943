//! Views for people. They read the same snapshots as the exporters.

mod format;
mod model;
mod resources;
pub mod table;
pub mod workloads;
