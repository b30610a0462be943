//! Views for people. They read the same snapshots as the exporters.

pub mod table;
