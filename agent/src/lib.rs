//! podlens: measures what every pod of a node uses, and who delayed whom.
//!
//! Data goes one way: the kernel programs' records (`kernel`) are read by `collectors`, joined with entities by
//! `attribution`, added up in the `registry`, and handed out by `export` and `views`. All speak in the terms of
//! `signal`; `pipeline` ties them together, and `commands` are what a person starts.

pub mod attribution;
pub mod backoff;
pub mod cli;
pub mod collectors;
pub mod commands;
pub mod config;
pub mod export;
pub mod files;
pub mod fleet;
pub mod kernel;
pub mod log;
pub mod pipeline;
pub mod registry;
pub mod signal;
pub mod telemetry;
pub mod views;
