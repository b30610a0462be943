//! Pushes snapshots, and in [`logs`] events, to an OpenTelemetry collector over gRPC or HTTP, for as long as podlens
//! runs.
//!
//! Builds no message itself ([`crate::export::otlp`] does) and decides nothing about identity. Snapshots wait in
//! a bounded queue, as snapshots and not as messages, which take many times their memory; an outage so costs
//! a few snapshots, and the oldest is dropped and counted. Started by the pipeline.

mod config;
pub(crate) mod connection;
mod logs;
mod queue;
mod sender;
mod size;
pub(crate) mod transport;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, MissedTickBehavior};

pub use self::{
    config::{OtlpConfig, OtlpConfigError, OtlpTls, Protocol},
    logs::OtlpLogClient,
    transport::{
        SdkExporterError,
        tls::{PemError, certificates, key},
    },
};
use self::{queue::Queue, sender::Sender, transport::Transport};
use crate::{
    backoff::hash,
    export::{SnapshotSource, otlp},
    signal::shutdown::{Shutdown, until_stopped},
    telemetry::otlp::OtlpCounters,
};

/// The name under which the client acknowledges snapshots.
pub const EXPORTER: &str = "otlp";

/// How long the last export may take after a stop was asked for.
pub(super) const LAST_EXPORT: Duration = Duration::from_secs(2);

/// How long a request that is under way when a stop is asked for may wait for its answer: without it, it would be sent again.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// The push exporter.
pub struct OtlpClient<S> {
    source: Arc<S>,
    counters: &'static OtlpCounters,
    sender: Sender,
    queue: Queue,
    interval: Duration,
    node: Arc<str>,
}

impl<S: SnapshotSource> OtlpClient<S> {
    /// A client that has not connected yet. `node` decides the moment of its exports.
    ///
    /// # Errors
    /// If the configuration cannot work whatever the receiver does.
    pub fn new(
        config: &OtlpConfig,
        node: &str,
        source: Arc<S>,
        counters: &'static OtlpCounters,
    ) -> Result<Self, OtlpConfigError> {
        Ok(Self {
            sender: Sender::new(config, node, counters)?,
            queue: Queue::new(config.queue_snapshots, config.options.delta, counters),
            interval: config.interval,
            node: node.into(),
            source,
            counters,
        })
    }

    /// Exports until a stop is asked for, then once more within two seconds.
    pub async fn run(mut self, shutdown: Shutdown) {
        let acknowledge = |sequence| self.source.exported(EXPORTER, sequence);
        let collecting = collect(&*self.source, &self.queue, &self.node, self.interval);
        tokio::select! {
            () = self.sender.run(&self.queue, acknowledge, shutdown.clone()) => {}
            () = last_answer(until_stopped(shutdown, collecting)) => {}
        }
        let last = async {
            self.queue.push(self.source.snapshot().await);
            self.queue.keep_last();
            self.sender.send_rest(&self.queue, acknowledge).await;
        };
        if tokio::time::timeout(LAST_EXPORT, last).await.is_err() {
            tracing::warn!(bound = ?LAST_EXPORT, "the last OTLP export did not end in time and was given up");
        }
        self.queue.drop_all();
        tracing::debug!(
            made = self.counters.made.load(Ordering::Relaxed),
            sent = self.counters.sent.load(Ordering::Relaxed),
            dropped = self.counters.dropped.load(Ordering::Relaxed),
            "OTLP export ended"
        );
    }
}

/// Tries settings out, for metrics and for events, without a connection. Call it within a runtime.
///
/// # Errors
/// They cannot work whatever the receiver does.
pub fn check(config: &OtlpConfig) -> Result<(), OtlpConfigError> {
    // The services of all signals are reached alike.
    Transport::new(config, transport::METRICS).map(drop)
}

/// Ends so long after `work` as a last answer may take.
async fn last_answer(work: impl Future<Output = ()>) {
    work.await;
    tokio::time::sleep(LAST_ANSWER).await;
}

/// Queues a snapshot at this node's moment of each interval. Never ends.
async fn collect<S: SnapshotSource>(source: &S, queue: &Queue, node: &str, interval: Duration) {
    let delay = first_delay(node, interval, SystemTime::now());
    let mut ticks = tokio::time::interval_at(Instant::now() + delay, interval);
    // After the machine slept, one export is due and not all that were missed.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        queue.push(source.snapshot().await);
    }
}

/// The time until this node's moment within the interval, which its name decides: the nodes of a cluster, started
/// together by one roll-out, so do not meet at the collector.
pub(super) fn first_delay(node: &str, interval: Duration, now: SystemTime) -> Duration {
    let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    let moment = hash(node.as_bytes()) % interval_ns;
    let passed = otlp::unix_ns(now) % interval_ns;
    Duration::from_nanos(if moment >= passed { moment - passed } else { interval_ns - passed + moment })
}

#[cfg(test)]
mod tests;
