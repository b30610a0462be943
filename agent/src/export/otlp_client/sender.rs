//! The sending half: takes the oldest snapshot, sends its requests one after the other, repeats what failed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;

use super::{
    OtlpConfig, OtlpConfigError,
    connection::{Connection, Outcome},
    queue::{Front, Queue},
    transport::METRICS,
};
use crate::{export::otlp, registry::Snapshot, telemetry::otlp::OtlpCounters};

/// Sends requests and keeps what must be remembered between them.
pub(super) struct Sender {
    connection: Connection,
    counters: &'static OtlpCounters,
    options: otlp::Options,
    /// The last snapshot that was accepted completely: entities in it that are in no later one get their last point.
    accepted: Option<Arc<Snapshot>>,
    /// Memory for requests.
    room: Vec<u8>,
}

impl Sender {
    pub(super) fn new(
        config: &OtlpConfig,
        node: &str,
        counters: &'static OtlpCounters,
    ) -> Result<Self, OtlpConfigError> {
        let connection = Connection::new(config, METRICS, node)?;
        Ok(Self { connection, counters, options: config.options.clone(), accepted: None, room: Vec::new() })
    }

    /// Sends whatever comes into the queue. Never ends.
    pub(super) async fn run(&mut self, queue: &Queue, acknowledge: impl Fn(u64)) {
        loop {
            let front = queue.front().await;
            if let Some(pause) = self.send(queue, front, &acknowledge).await {
                // The snapshot may leave the queue meanwhile, so the next round looks anew.
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Sends the oldest snapshot without repeating what fails.
    pub(super) async fn send_once(&mut self, queue: &Queue, acknowledge: impl Fn(u64)) {
        if let Some(front) = queue.try_front() {
            self.send(queue, front, &acknowledge).await;
        }
    }

    /// Sends what is left of a snapshot. The pause to make, if an attempt is to be repeated.
    async fn send(&mut self, queue: &Queue, front: Front, acknowledge: &impl Fn(u64)) -> Option<Duration> {
        let snapshot = front.snapshot;
        let accepted = self.accepted.clone();
        let mut requests = otlp::requests(&snapshot, accepted.as_deref()).with(&self.options);
        let mut done_requests = 0;
        loop {
            requests.reuse(std::mem::take(&mut self.room));
            let Some(request) = requests.next() else { break };
            done_requests += 1;
            if done_requests <= front.done_requests {
                self.room = emptied(request.bytes);
                continue;
            }
            let outcome = self.connection.offer(request.bytes.clone()).await;
            // It is nobody else's any more, unless the connection hangs.
            self.room = emptied(request.bytes);
            match outcome {
                Outcome::Accepted { rejected } => {
                    let rejected = rejected.min(request.points);
                    self.counters.rejected.fetch_add(rejected, Ordering::Relaxed);
                    self.counters.sent.fetch_add(request.points - rejected, Ordering::Relaxed);
                    queue.settle(snapshot.sequence, request.points, false);
                }
                Outcome::Retry(pause) => {
                    self.counters.failed_attempts.fetch_add(1, Ordering::Relaxed);
                    return Some(pause);
                }
                Outcome::Refused => {
                    self.counters.failed_attempts.fetch_add(1, Ordering::Relaxed);
                    self.counters.dropped.fetch_add(request.points, Ordering::Relaxed);
                    queue.settle(snapshot.sequence, request.points, true);
                }
            }
        }
        self.room = requests.into_room();
        // A snapshot with a refused request is not acknowledged: what was final in it gets another chance in the
        // next one.
        if queue.finish(snapshot.sequence) {
            self.connection.delivered();
            acknowledge(snapshot.sequence);
            self.accepted = Some(snapshot);
        }
        None
    }
}

/// The memory alone, unless somebody still reads what is in it.
fn emptied(bytes: Bytes) -> Vec<u8> {
    let Ok(mut bytes) = bytes.try_into_mut() else { return Vec::new() };
    bytes.clear();
    bytes.into()
}
