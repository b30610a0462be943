//! Views for people. They read the same snapshots as the exporters.

mod model;
pub mod table;
