//! What the OTLP client counts about itself.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use prometheus::{
    IntCounter, IntCounterVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{SelfTelemetryError, named};

const POINTS_NAME: &str = "podlens_otlp_points_total";
const POINTS_HELP: &str = "OTLP points by what became of them";
const FAILED_NAME: &str = "podlens_otlp_failed_attempts_total";
const FAILED_HELP: &str = "OTLP requests that failed, each repetition counted";

/// The counters of the agent's one client for metrics.
pub static COUNTERS: OtlpCounters = OtlpCounters::new();

/// What became of the points. Plain atomics, so that the client needs no registry.
#[derive(Debug, Default)]
pub struct OtlpCounters {
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
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            failed_attempts: AtomicU64::new(0),
        }
    }
}

/// The counters as metrics.
pub(super) struct OtlpCollector {
    counters: &'static OtlpCounters,
    descriptions: [Desc; 2],
}

impl OtlpCollector {
    pub(super) fn new(counters: &'static OtlpCounters) -> Result<Self, SelfTelemetryError> {
        let description = |name: &str, help: &str, labels: Vec<String>| {
            Desc::new(name.into(), help.into(), labels, HashMap::new()).map_err(named(name))
        };
        let points = description(POINTS_NAME, POINTS_HELP, vec!["result".into()])?;
        Ok(Self { counters, descriptions: [points, description(FAILED_NAME, FAILED_HELP, Vec::new())?] })
    }
}

impl Collector for OtlpCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (Ok(points), Ok(failed)) = (
            IntCounterVec::new(Opts::new(POINTS_NAME, POINTS_HELP), &["result"]),
            IntCounter::new(FAILED_NAME, FAILED_HELP),
        ) else {
            return Vec::new();
        };
        let counters = self.counters;
        for (result, counter) in
            [("sent", &counters.sent), ("dropped", &counters.dropped), ("rejected", &counters.rejected)]
        {
            points.with_label_values(&[result]).inc_by(counter.load(Ordering::Relaxed));
        }
        failed.inc_by(counters.failed_attempts.load(Ordering::Relaxed));
        [points.collect(), failed.collect()].concat()
    }
}
