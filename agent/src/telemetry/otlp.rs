//! What the OTLP clients count about themselves.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{OwnMetric, SelfTelemetryError, metrics};

/// The counters of the agent's one client for metrics.
pub static COUNTERS: OtlpCounters = OtlpCounters::new();

/// What became of the points. Plain atomics, so that the client needs no registry.
#[derive(Debug, Default)]
pub struct OtlpCounters {
    /// Points that were to be sent: those below, and those that wait.
    pub made: AtomicU64,
    /// Points that the receiver took.
    pub sent: AtomicU64,
    /// Points never delivered: their snapshot left a full queue, their request was refused for good, or podlens stopped.
    pub dropped: AtomicU64,
    /// Points in delivered requests that the receiver reports as rejected.
    pub rejected: AtomicU64,
    /// Attempts that failed, repetitions included.
    pub failed_attempts: AtomicU64,
}

impl OtlpCounters {
    /// All at 0.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            made: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            failed_attempts: AtomicU64::new(0),
        }
    }
}

/// What became of the log records that events go out as.
#[derive(Debug, Default)]
pub struct LogRecordCounters {
    /// Records that the receiver took.
    pub sent: AtomicU64,
    /// Records never delivered: they left a full journal, their request was refused for good, or podlens stopped.
    pub dropped: Arc<AtomicU64>,
    /// Records in delivered requests that the receiver reports as rejected.
    pub rejected: AtomicU64,
}

/// Metrics whose values are read from atomics each time that they are gathered.
pub(super) struct Read<F> {
    descriptions: Vec<Desc>,
    /// Each metric's values, by what its label says; a metric without a label has one.
    values: F,
}

type Values = Vec<(&'static OwnMetric, Vec<(Option<&'static str>, u64)>)>;

/// What became of points, and failed attempts.
pub(super) fn points(counters: &'static OtlpCounters) -> Result<impl Collector, SelfTelemetryError> {
    let values = move || {
        let OtlpCounters { made, sent, dropped, rejected, failed_attempts } = counters;
        let failed = failed_attempts.load(Ordering::Relaxed);
        // In this order: no point has become something before it was made.
        let results = results(sent, dropped, rejected);
        let made = made.load(Ordering::Relaxed);
        vec![
            (&metrics::OTLP_POINTS, results),
            (&metrics::OTLP_POINTS_MADE, vec![(None, made)]),
            (&metrics::OTLP_FAILED_ATTEMPTS, vec![(None, failed)]),
        ]
    };
    Read::new(&[&metrics::OTLP_POINTS, &metrics::OTLP_POINTS_MADE, &metrics::OTLP_FAILED_ATTEMPTS], values)
}

/// What became of log records.
pub(super) fn log_records(counters: Arc<LogRecordCounters>) -> Result<impl Collector, SelfTelemetryError> {
    let values = move || {
        let LogRecordCounters { sent, dropped, rejected } = &*counters;
        vec![(&metrics::OTLP_LOG_RECORDS, results(sent, dropped, rejected))]
    };
    Read::new(&[&metrics::OTLP_LOG_RECORDS], values)
}

fn results(sent: &AtomicU64, dropped: &AtomicU64, rejected: &AtomicU64) -> Vec<(Option<&'static str>, u64)> {
    let value = |(result, counter): (&'static str, &AtomicU64)| (Some(result), counter.load(Ordering::Relaxed));
    [("sent", sent), ("dropped", dropped), ("rejected", rejected)].map(value).to_vec()
}

impl<F: Fn() -> Values> Read<F> {
    fn new(metrics: &[&OwnMetric], values: F) -> Result<Self, SelfTelemetryError> {
        let descriptions = metrics.iter().map(|metric| metric.description()).collect::<Result<_, _>>()?;
        Ok(Self { descriptions, values })
    }
}

impl<F: Fn() -> Values + Send + Sync> Collector for Read<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let family = |(metric, values): (&OwnMetric, Vec<(Option<&str>, u64)>)| {
            let counters = metric.counters().ok()?;
            for (label, value) in values {
                counters.with_label_values(label.as_slice()).inc_by(value as f64);
            }
            Some(counters.collect())
        };
        (self.values)().into_iter().filter_map(family).flatten().collect()
    }
}
