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
    size::Size,
    transport::METRICS,
};
use crate::{
    export::otlp::{self, REQUEST_BYTES},
    registry::Snapshot,
    signal::shutdown::{Shutdown, stopped, until_stopped},
    telemetry::otlp::OtlpCounters,
};

/// No receiver's limit is below.
const LEAST_REQUEST_BYTES: usize = 32 << 10;

/// Sends requests and keeps what must be remembered between them.
pub(super) struct Sender {
    connection: Connection,
    counters: &'static OtlpCounters,
    options: otlp::Options,
    /// Bytes of a request.
    size: Size,
    /// The last snapshot that was accepted completely: entities in it that are in no later one get their last point. Of
    /// differences it is the last one that was settled: they begin there.
    accepted: Option<Arc<Snapshot>>,
    /// Memory for the requests of the snapshot that is being sent; none between two snapshots.
    room: Vec<u8>,
}

impl Sender {
    pub(super) fn new(
        config: &OtlpConfig,
        node: &str,
        counters: &'static OtlpCounters,
    ) -> Result<Self, OtlpConfigError> {
        Ok(Self {
            connection: Connection::new(config, METRICS, node)?,
            counters,
            options: config.options.clone(),
            size: Size::new(REQUEST_BYTES, LEAST_REQUEST_BYTES),
            accepted: None,
            room: Vec::new(),
        })
    }

    /// Sends whatever comes into the queue, until a stop is asked for; a request that is under way then gets its answer.
    pub(super) async fn run(&mut self, queue: &Queue, acknowledge: impl Fn(u64), shutdown: Shutdown) {
        let is_stopped = || *shutdown.borrow();
        while !is_stopped() {
            let front = tokio::select! {
                () = stopped(shutdown.clone()) => return,
                front = queue.front() => front,
            };
            if let Some(pause) = self.send(queue, front, &acknowledge, is_stopped).await {
                // The snapshot may leave the queue meanwhile, so the next round looks anew.
                until_stopped(shutdown.clone(), tokio::time::sleep(pause)).await;
            }
        }
    }

    /// Sends what is in the queue without repeating what fails.
    pub(super) async fn send_rest(&mut self, queue: &Queue, acknowledge: impl Fn(u64)) {
        while let Some(front) = queue.try_front() {
            if self.send(queue, front, &acknowledge, || false).await.is_some() {
                return;
            }
        }
    }

    /// Sends what is left of a snapshot, until a stop is asked for. The pause to make, if an attempt is to be repeated.
    async fn send(
        &mut self,
        queue: &Queue,
        front: Front,
        acknowledge: &impl Fn(u64),
        is_stopped: impl Fn() -> bool,
    ) -> Option<Duration> {
        let Front { snapshot, mut done_entities } = front;
        let previous = self.accepted.clone();
        let options = self.options.clone();
        let requests_from = |done_entities: usize, size: &Size| {
            let requests = otlp::requests(&snapshot, previous.as_deref()).with(&options);
            requests.limited(size.limit()).skip_entities(done_entities)
        };
        let mut requests = requests_from(done_entities, &self.size);
        let mut taken = 0;
        loop {
            if is_stopped() {
                queue.pause();
                return None;
            }
            requests.reuse(std::mem::take(&mut self.room));
            // What is left over is given back: it would lie there until the next export.
            let Some(mut request) = requests.next() else { break };
            let outcome = self.connection.offer(request.bytes.clone()).await;
            let size = request.bytes.len();
            // It is nobody else's any more, unless the connection hangs.
            self.room = emptied(std::mem::take(&mut request.bytes));
            match outcome {
                Outcome::Accepted { rejected } => {
                    self.size.accepted();
                    queue.settle(&request, false);
                    let rejected = rejected.min(request.points);
                    self.counters.rejected.fetch_add(rejected, Ordering::Relaxed);
                    self.counters.sent.fetch_add(request.points - rejected, Ordering::Relaxed);
                    taken += request.points - rejected;
                }
                Outcome::Retry(pause) => {
                    self.counters.failed_attempts.fetch_add(1, Ordering::Relaxed);
                    queue.pause();
                    return Some(pause);
                }
                Outcome::TooLarge if self.size.refused(size, request.entities > 1) => {
                    self.counters.failed_attempts.fetch_add(1, Ordering::Relaxed);
                    self.connection.divide();
                    requests = requests_from(done_entities, &self.size);
                    continue;
                }
                Outcome::TooLarge | Outcome::Refused => {
                    self.counters.failed_attempts.fetch_add(1, Ordering::Relaxed);
                    self.connection.give_up();
                    queue.settle(&request, true);
                    self.counters.dropped.fetch_add(request.points, Ordering::Relaxed);
                }
            }
            done_entities += request.entities;
        }
        // A snapshot of totals with a refused request is not acknowledged: what was final in it gets another chance in the
        // next one. Differences go on from it, whatever was refused.
        let accepted = queue.finish();
        if accepted {
            self.connection.delivered(taken);
        }
        if accepted || self.options.delta {
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
