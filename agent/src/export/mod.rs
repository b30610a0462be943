//! Export: the snapshot as Prometheus text and as OTLP, and the server and the client that hand it out.
//!
//! The encoders ([`prometheus`], [`otlp`]) are functions from a snapshot to bytes or messages; [`own`] writes the agent's
//! own metrics. The server and
//! the client ask the pipeline for a snapshot and tell it what has left the node; they know no collector and
//! no metric by name.

#[cfg(test)]
pub(crate) mod fixture;
pub mod json;
pub mod otlp;
pub mod otlp_client;
pub mod own;
pub mod prometheus;
pub mod server;

use std::{future::Future, sync::Arc};

use crate::registry::Snapshot;

/// Where the exporters get their snapshots. The pipeline implements it.
pub trait SnapshotSource: Send + Sync + 'static {
    /// A snapshot that is fresh enough; two callers at one moment get the same one.
    fn snapshot(&self) -> impl Future<Output = Arc<Snapshot>> + Send;

    /// `exporter` has delivered the snapshot of this sequence number completely, so what was final in it may be
    /// forgotten as far as this exporter is concerned.
    fn exported(&self, exporter: &str, sequence: u64);
}
