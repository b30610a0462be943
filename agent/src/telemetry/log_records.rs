//! What becomes of the log records that events go out as.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus::{
    IntCounterVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{SelfTelemetryError, named};

const NAME: &str = "podlens_otlp_log_records_total";
const HELP: &str = "OTLP log records by what became of them";

/// What became of the records. Plain atomics, so that the client needs no registry.
#[derive(Debug, Default)]
pub struct LogRecordCounters {
    /// Records that the receiver took.
    pub sent: AtomicU64,
    /// Records never delivered: they left a full journal, their request was refused for good, or podlens stopped.
    pub dropped: Arc<AtomicU64>,
    /// Records in delivered requests that the receiver reports as rejected.
    pub rejected: AtomicU64,
}

/// The counters as a metric.
pub struct LogRecords {
    counters: Arc<LogRecordCounters>,
    description: Desc,
}

impl LogRecords {
    /// The metric over these counters.
    ///
    /// # Errors
    /// Its definition is wrong.
    pub fn new(counters: Arc<LogRecordCounters>) -> Result<Self, SelfTelemetryError> {
        let description =
            Desc::new(NAME.into(), HELP.into(), vec!["result".into()], HashMap::new()).map_err(named(NAME))?;
        Ok(Self { counters, description })
    }
}

impl Collector for LogRecords {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(records) = IntCounterVec::new(Opts::new(NAME, HELP), &["result"]) else { return Vec::new() };
        let LogRecordCounters { sent, dropped, rejected } = &*self.counters;
        for (result, counter) in [("sent", sent), ("dropped", dropped), ("rejected", rejected)] {
            records.with_label_values(&[result]).inc_by(counter.load(Ordering::Relaxed));
        }
        records.collect()
    }
}
