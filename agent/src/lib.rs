//! podlens: measures what every pod of a node uses, and who delayed whom.
//!
//! Data goes one way: the kernel programs' records (`kernel`) are read by `collectors`, joined with owners by
//! `attribution`, added up in the `registry`, and handed out by `export` and `ui`. `pipeline` ties them together.

pub mod attribution;
pub mod backoff;
pub mod check;
pub mod cli;
pub mod collectors;
pub mod config;
pub mod export;
pub mod kernel;
pub mod log;
pub mod own_metrics;
pub mod pipeline;
pub mod probe;
pub mod registry;
pub mod run;
pub mod snapshot;
pub mod ui;
