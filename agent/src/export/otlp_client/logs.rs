//! Pushes events as log records, for as long as podlens runs.
//!
//! While the receiver is away one batch waits here and the others in the journal, which is bounded; whatever is not
//! delivered in the end is counted, so that records made are those sent, dropped and rejected.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use prost::Message as _;
use tokio::time::MissedTickBehavior;

use super::{
    LAST_EXPORT, OtlpConfig, OtlpConfigError,
    connection::{Connection, Outcome},
    last_answer,
    size::Size,
    transport::LOGS,
};
use crate::{
    export::{
        EventSource,
        otlp::{Options, logs},
    },
    registry::EventBatch,
    signal::shutdown::{Shutdown, stopped, until_stopped},
    telemetry::otlp::LogRecordCounters,
};

/// The name under which the client takes events.
const EXPORTER: &str = "otlp";
/// Most records in a request; one takes less than 2 KiB.
const RECORDS: usize = 512;
/// Events of so long go into one request.
const GATHER: Duration = Duration::from_secs(1);

/// The push exporter of events.
pub struct OtlpLogClient<S> {
    source: Arc<S>,
    counters: Arc<LogRecordCounters>,
    connection: Connection,
    /// Attributes of the agent's own resource.
    own_resource: BTreeMap<String, String>,
    options: Options,
    /// Records of a request.
    size: Size,
    /// What was taken from the journal and is not settled.
    open: Option<EventBatch>,
}

impl<S: EventSource> OtlpLogClient<S> {
    /// A client that has not connected yet. Events wait for it from now on.
    ///
    /// # Errors
    /// If the configuration cannot work whatever the receiver does.
    pub fn new(
        config: &OtlpConfig,
        node: &str,
        source: Arc<S>,
        counters: Arc<LogRecordCounters>,
    ) -> Result<Self, OtlpConfigError> {
        let connection = Connection::new(config, LOGS, node)?;
        source.subscribe(EXPORTER, Arc::clone(&counters.dropped));
        let (own_resource, options) = (config.own_resource.clone(), config.options.clone());
        Ok(Self { source, counters, connection, own_resource, options, size: Size::new(RECORDS, 1), open: None })
    }

    /// Exports until a stop is asked for, then what is left within two seconds.
    pub async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = self.follow(shutdown.clone()) => {}
            () = last_answer(stopped(shutdown)) => {}
        }
        if tokio::time::timeout(LAST_EXPORT, self.finish()).await.is_err() {
            tracing::warn!(bound = ?LAST_EXPORT, "the last events did not get through in time and were given up");
        }
        self.give_up();
    }

    /// Ends once a stop is asked for; a request that is under way then gets its answer.
    async fn follow(&mut self, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(GATHER);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_stopped = || *shutdown.borrow();
        while !is_stopped() {
            tokio::select! {
                () = stopped(shutdown.clone()) => return,
                _ = ticks.tick() => {}
            }
            while !is_stopped() && self.fill(false) {
                if let Some(pause) = self.offer().await {
                    until_stopped(shutdown.clone(), tokio::time::sleep(pause)).await;
                }
            }
        }
    }

    /// Offers all that is left, without repeating what fails.
    async fn finish(&mut self) {
        while self.fill(true) {
            if self.offer().await.is_some() {
                return;
            }
        }
    }

    /// There is something to offer: what is left of the last batch, or the next.
    fn fill(&mut self, at_once: bool) -> bool {
        if self.open.as_ref().is_none_or(|batch| batch.events.is_empty()) {
            let batch = self.source.take(EXPORTER, RECORDS, at_once);
            self.open = (!batch.events.is_empty()).then_some(batch);
        }
        self.open.is_some()
    }

    /// One attempt with the oldest records. The pause to make, if it is to be repeated.
    async fn offer(&mut self) -> Option<Duration> {
        // They stay in the batch while they are under way: whoever stops meanwhile still has them.
        let batch = self.open.as_mut()?;
        let records = batch.events.len().min(self.size.limit());
        let first = batch.events.get(..records)?;
        let request = logs::request(first, &batch.described, &self.own_resource, &self.options);
        let outcome = self.connection.offer(request.encode_to_vec().into()).await;
        let count = records as u64;
        match outcome {
            Outcome::Accepted { rejected } => {
                self.size.accepted();
                let rejected = rejected.min(count);
                self.counters.rejected.fetch_add(rejected, Ordering::Relaxed);
                self.counters.sent.fetch_add(count - rejected, Ordering::Relaxed);
                self.connection.delivered(count - rejected);
            }
            Outcome::Retry(pause) => return Some(pause),
            Outcome::TooLarge if self.size.refused(records, true) => {
                self.connection.divide();
                return None;
            }
            Outcome::TooLarge | Outcome::Refused => {
                self.connection.give_up();
                self.counters.dropped.fetch_add(count, Ordering::Relaxed);
            }
        }
        batch.events.drain(..records);
        None
    }

    /// Counts what is left.
    fn give_up(&mut self) {
        while self.fill(true) {
            let records = self.open.take().map_or(0, |batch| batch.events.len() as u64);
            self.counters.dropped.fetch_add(records, Ordering::Relaxed);
        }
    }
}
