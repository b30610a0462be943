//! Export: the snapshot as Prometheus text or protobuf and as OTLP, events as OTLP, and the server and the clients that hand them
//! out.
//!
//! The encoders ([`prometheus`], [`otlp`]) are functions from a snapshot to bytes or messages; [`own`] writes the agent's
//! own metrics. The server and
//! the client ask the pipeline for a snapshot and tell it what has left the node; they know no collector and
//! no metric by name.

#[cfg(test)]
pub(crate) mod fixture;
pub mod json;
#[cfg(test)]
mod metric_family;
pub mod otlp;
pub mod otlp_client;
pub mod own;
pub mod prometheus;
mod proto;
pub mod server;

use std::{
    future::Future,
    sync::{Arc, atomic::AtomicU64},
};

use crate::registry::{EventBatch, Snapshot};

/// Where the exporters get their snapshots. The pipeline implements it.
pub trait SnapshotSource: Send + Sync + 'static {
    /// A snapshot that is fresh enough; two callers at one moment get the same one.
    fn snapshot(&self) -> impl Future<Output = Arc<Snapshot>> + Send;

    /// `exporter` has delivered the snapshot of this sequence number completely, so what was final in it may be
    /// forgotten as far as this exporter is concerned.
    fn exported(&self, exporter: &str, sequence: u64);
}

/// Where the exporters get events. The pipeline implements it.
pub trait EventSource: Send + Sync + 'static {
    /// Keeps events for this exporter, bounded, and adds to `dropped` what left before it was taken.
    fn subscribe(&self, exporter: &'static str, dropped: Arc<AtomicU64>);

    /// The next events for this exporter, at most so many, whose names are known or were waited for; with `at_once`
    /// whether or not they are. Each is given once: from then on it is the exporter's to deliver or to count.
    fn take(&self, exporter: &str, most: usize, at_once: bool) -> EventBatch;
}

#[cfg(test)]
mod tests;
