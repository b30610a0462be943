//! Pushes events as log records, for as long as podlens runs.
//!
//! While the receiver is away one batch waits here and the others in the journal, which is bounded; whatever is not
//! delivered in the end is counted, so that records made are those sent, dropped and rejected.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use tokio::time::MissedTickBehavior;

use super::{
    LAST_EXPORT, OtlpConfig, OtlpConfigError,
    connection::{Connection, Outcome},
    transport::LOGS,
};
use crate::{
    export::{
        EventSource,
        otlp::{Options, logs},
    },
    signal::shutdown::{Shutdown, stopped},
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
    /// A request that was taken from the journal and is not settled, and its records.
    open: Option<(Bytes, u64)>,
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
        Ok(Self { source, counters, connection, own_resource, options, open: None })
    }

    /// Exports until a stop is asked for, then what is left within two seconds.
    pub async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = stopped(shutdown) => {}
            () = self.follow() => {}
        }
        if tokio::time::timeout(LAST_EXPORT, self.finish()).await.is_err() {
            tracing::warn!(bound = ?LAST_EXPORT, "the last events did not get through in time and were given up");
        }
        self.give_up();
    }

    /// Never ends.
    async fn follow(&mut self) {
        let mut ticks = tokio::time::interval(GATHER);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            while self.fill(false) {
                if let Some(pause) = self.offer().await {
                    tokio::time::sleep(pause).await;
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

    /// There is a request to offer: the one that is open, or the next.
    fn fill(&mut self, at_once: bool) -> bool {
        if self.open.is_none() {
            let batch = self.source.take(EXPORTER, RECORDS, at_once);
            let records = batch.events.len() as u64;
            self.open = (records > 0)
                .then(|| (logs::request(&batch, &self.own_resource, &self.options).encode_to_vec().into(), records));
        }
        self.open.is_some()
    }

    /// One attempt with the open request. The pause to make, if it is to be repeated.
    async fn offer(&mut self) -> Option<Duration> {
        // It stays open while it is under way: whoever stops meanwhile still has it.
        let (bytes, records) = self.open.clone()?;
        match self.connection.offer(bytes).await {
            Outcome::Accepted { rejected } => {
                let rejected = rejected.min(records);
                self.counters.rejected.fetch_add(rejected, Ordering::Relaxed);
                self.counters.sent.fetch_add(records - rejected, Ordering::Relaxed);
                self.connection.delivered();
            }
            Outcome::Retry(pause) => return Some(pause),
            Outcome::Refused => {
                self.counters.dropped.fetch_add(records, Ordering::Relaxed);
            }
        }
        self.open = None;
        None
    }

    /// Counts what is left.
    fn give_up(&mut self) {
        while self.fill(true) {
            let records = self.open.take().map_or(0, |(_, records)| records);
            self.counters.dropped.fetch_add(records, Ordering::Relaxed);
        }
    }
}
