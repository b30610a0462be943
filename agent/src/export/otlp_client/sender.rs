//! The sending half: takes the oldest snapshot, sends its requests one after the other, repeats what failed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tonic::{
    Status,
    client::Grpc,
    codec::CompressionEncoding,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use super::{
    OtlpConfig, OtlpConfigError, OtlpCounters,
    queue::{Front, Queue},
    retry::{Verdict, verdict},
    wire,
};
use crate::{backoff::Backoff, export::otlp, registry::Snapshot};

/// Sends requests and keeps what must be remembered between them.
pub(super) struct Sender {
    endpoint: Endpoint,
    metadata: MetadataMap,
    timeout: Duration,
    gzip: bool,
    counters: Arc<OtlpCounters>,
    client: Option<Grpc<Channel>>,
    backoff: Backoff,
    health: Health,
    /// The last snapshot that was accepted completely: entities in it that are in no later one get their last point.
    accepted: Option<Arc<Snapshot>>,
}

/// The state that the log tells, once a change.
struct Health {
    endpoint: String,
    state: State,
    rejecting: bool,
}

#[derive(Clone, Copy)]
enum State {
    Unknown,
    Working,
    Failing { since: Instant, attempts: u64 },
}

impl Sender {
    pub(super) fn new(config: &OtlpConfig, node: &str, counters: Arc<OtlpCounters>) -> Result<Self, OtlpConfigError> {
        let endpoint = config.to_endpoint()?;
        // Without what a URL can hide before the host, such as a password.
        let target = format!(
            "{}://{}{}",
            endpoint.uri().scheme_str().unwrap_or_default(),
            endpoint.uri().host().unwrap_or_default(),
            endpoint.uri().port().map(|port| format!(":{port}")).unwrap_or_default(),
        );
        Ok(Self {
            metadata: config.to_metadata()?,
            timeout: config.timeout,
            gzip: config.gzip,
            client: None,
            backoff: Backoff::new(config.first_pause, node),
            health: Health { endpoint: target, state: State::Unknown, rejecting: false },
            accepted: None,
            endpoint,
            counters,
        })
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
        let requests = otlp::requests(&snapshot, accepted.as_deref()).skip(front.done_requests);
        for request in requests {
            match self.attempt(request.bytes).await {
                Ok(rejected) => {
                    let rejected = rejected.min(request.points);
                    self.counters.rejected.fetch_add(rejected, Ordering::Relaxed);
                    self.counters.sent.fetch_add(request.points - rejected, Ordering::Relaxed);
                    queue.settle(snapshot.sequence, request.points, false);
                    self.backoff.reset();
                }
                Err((status, verdict)) => {
                    self.counters.failed_attempts.fetch_add(1, Ordering::Relaxed);
                    self.health.failed(&status, verdict);
                    match verdict {
                        Verdict::Retry(delay) => return Some(self.backoff.pause(delay)),
                        Verdict::Refused => {
                            self.counters.dropped.fetch_add(request.points, Ordering::Relaxed);
                            queue.settle(snapshot.sequence, request.points, true);
                        }
                    }
                }
            }
        }
        // A snapshot with a refused request is not acknowledged: what was final in it gets another chance in the
        // next one.
        if queue.finish(snapshot.sequence) {
            self.health.worked();
            acknowledge(snapshot.sequence);
            self.accepted = Some(snapshot);
        }
        None
    }

    /// One attempt. The number of rejected points, or what went wrong. After a failure on this side, a timeout above all, the
    /// connection is made anew: the peer may be gone without a word, and the old one would find out much later.
    async fn attempt(&mut self, bytes: Bytes) -> Result<u64, (Status, Verdict)> {
        let (endpoint, gzip) = (&self.endpoint, self.gzip);
        let client = self.client.get_or_insert_with(|| connect(endpoint, gzip));
        let mut request = tonic::Request::new(bytes);
        *request.metadata_mut() = self.metadata.clone();
        request.set_timeout(self.timeout);
        let answer = tokio::time::timeout(self.timeout, wire::export(client, request)).await;
        match answer {
            Ok(Ok(response)) => {
                let partial = response.into_inner().partial_success.unwrap_or_default();
                let rejected = u64::try_from(partial.rejected_data_points).unwrap_or_default();
                self.health.partly(rejected, &partial.error_message);
                Ok(rejected)
            }
            Ok(Err(status)) => {
                let verdict = verdict(&status);
                // A status with a source was made on this side, also when its timer ends first.
                if std::error::Error::source(&status).is_some() {
                    self.client = None;
                }
                Err((status, verdict))
            }
            Err(_) => {
                self.client = None;
                let status = Status::deadline_exceeded("no answer within the timeout");
                Err((status, Verdict::Retry(None)))
            }
        }
    }
}

fn connect(endpoint: &Endpoint, gzip: bool) -> Grpc<Channel> {
    let client = Grpc::new(endpoint.connect_lazy());
    if gzip { client.send_compressed(CompressionEncoding::Gzip) } else { client }
}

impl Health {
    fn worked(&mut self) {
        let endpoint = &self.endpoint;
        match self.state {
            State::Working => return,
            State::Unknown => tracing::info!(endpoint, "OTLP export works"),
            State::Failing { since, attempts } => {
                let failed_for = since.elapsed();
                tracing::info!(endpoint, ?failed_for, attempts, "OTLP export works again");
            }
        }
        self.state = State::Working;
    }

    fn failed(&mut self, status: &Status, verdict: Verdict) {
        if let State::Failing { attempts, .. } = &mut self.state {
            *attempts = attempts.saturating_add(1);
            return;
        }
        self.state = State::Failing { since: Instant::now(), attempts: 1 };
        let cause = innermost(status);
        tracing::warn!(
            endpoint = self.endpoint,
            code = ?status.code(),
            message = status.message(),
            cause,
            will_retry = verdict != Verdict::Refused,
            "OTLP export fails; further failures are counted and not logged"
        );
    }

    fn partly(&mut self, rejected: u64, message: &str) {
        if rejected > 0 && !self.rejecting {
            let endpoint = &self.endpoint;
            tracing::warn!(endpoint, rejected, message, "the OTLP receiver rejects points");
        }
        self.rejecting = rejected > 0;
    }
}

/// The text of the first cause, such as "connection refused", which a status does not show by itself.
fn innermost(status: &Status) -> Option<String> {
    let mut cause = std::error::Error::source(status)?;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Some(cause.to_string())
}
