//! The agent's metrics about itself: one registry, served beside the pods' values and pushed as OTLP.
//!
//! Pods' values never come here: the registry of the `prometheus` crate is for the handful of numbers that the
//! agent itself counts. Whoever has such a number makes its collector here once and keeps the handle.

pub mod events;
pub mod pipeline;
mod push;

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::{Collector, Desc},
    process_collector::ProcessCollector,
    proto::{MetricFamily, MetricType},
};

pub use self::push::{SelfPush, SelfPushError};
use crate::export::{
    otlp_client::{OtlpCounters, OtlpLogCounters},
    prometheus::Format,
};

/// Bounds for durations within the agent, in seconds: from 0.1 ms to 1 s in steps of about three.
const DURATION_BOUNDS: [f64; 9] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0];

const POINTS_NAME: &str = "podlens_otlp_points_total";
const POINTS_HELP: &str = "OTLP points by what became of them";
const RECORDS_NAME: &str = "podlens_otlp_log_records_total";
const RECORDS_HELP: &str = "OTLP log records by what became of them";

/// Why one of the agent's own metrics cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SelfTelemetryError {
    /// Its name or its labels are not valid, or it exists already.
    #[error("the agent's own metric {name} cannot be registered: correct its definition")]
    Register {
        /// Name of the metric.
        name: String,
        /// What the library says.
        source: prometheus::Error,
    },
}

/// The agent's own metrics.
pub struct SelfTelemetry {
    registry: Registry,
    scrape_seconds: Histogram,
    /// Everything that is pushed as OTLP too.
    pushed: Mutex<Vec<Arc<dyn Collector>>>,
}

impl SelfTelemetry {
    /// The metrics that export itself has: the build, the process, scrapes and OTLP points. `otlp` is left out where
    /// nothing is pushed.
    ///
    /// # Errors
    /// If a definition is wrong.
    pub fn new(version: &str, otlp: Option<Arc<OtlpCounters>>) -> Result<Self, SelfTelemetryError> {
        let scrape_seconds = "podlens_scrape_seconds";
        let options =
            HistogramOpts::new(scrape_seconds, "Time from the request for a metrics page until its answer is ready")
                .buckets(DURATION_BOUNDS.to_vec());
        let histogram = Histogram::with_opts(options).map_err(named(scrape_seconds))?;
        let telemetry =
            Self { registry: Registry::new(), scrape_seconds: histogram.clone(), pushed: Mutex::new(Vec::new()) };
        telemetry.register(histogram)?;
        let build = "podlens_build_info";
        let options = Opts::new(build, "Always 1; the label tells the version").const_label("version", version);
        let build_info = IntGauge::with_opts(options).map_err(named(build))?;
        build_info.set(1);
        telemetry.register(build_info)?;
        if let Some(counters) = otlp {
            let read = move || {
                let OtlpCounters { sent, dropped, rejected, .. } = &*counters;
                [sent, dropped, rejected].map(|counter| counter.load(Ordering::Relaxed))
            };
            telemetry.register(Results::new(POINTS_NAME, POINTS_HELP, read)?)?;
        }
        // Not pushed: the conventions name a process' metrics differently, and a collector has a receiver for them.
        telemetry.registry.register(Box::new(ProcessCollector::for_self())).map_err(named("process_*"))?;
        Ok(telemetry)
    }

    /// What becomes of log records.
    ///
    /// # Errors
    /// If the metric exists.
    pub fn count_log_records(&self, counters: Arc<OtlpLogCounters>) -> Result<(), SelfTelemetryError> {
        let read = move || {
            let OtlpLogCounters { sent, dropped, rejected } = &*counters;
            [sent, dropped, rejected].map(|counter| counter.load(Ordering::Relaxed))
        };
        self.register(Results::new(RECORDS_NAME, RECORDS_HELP, read)?)
    }

    /// A gauge of whole numbers, for example `podlens_slots` by `state`.
    ///
    /// # Errors
    /// If the definition is wrong or the metric exists.
    pub fn integer_gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, SelfTelemetryError> {
        let gauge = IntGaugeVec::new(Opts::new(name, help), labels).map_err(named(name))?;
        self.register(gauge.clone())?;
        Ok(gauge)
    }

    /// A gauge of fractions, for example `podlens_unattributed_ratio` by `collector`.
    ///
    /// # Errors
    /// If the definition is wrong or the metric exists.
    pub fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, SelfTelemetryError> {
        let gauge = GaugeVec::new(Opts::new(name, help), labels).map_err(named(name))?;
        self.register(gauge.clone())?;
        Ok(gauge)
    }

    /// A counter, for example `podlens_lost_total` by `collector` and `reason`.
    ///
    /// # Errors
    /// If the definition is wrong or the metric exists.
    pub fn counter(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, SelfTelemetryError> {
        let counter = IntCounterVec::new(Opts::new(name, help), labels).map_err(named(name))?;
        self.register(counter.clone())?;
        Ok(counter)
    }

    /// A distribution of durations within the agent, for example `podlens_sweep_seconds`. Not pushed as OTLP.
    ///
    /// # Errors
    /// If the definition is wrong or the metric exists.
    pub fn durations(&self, name: &str, help: &str) -> Result<Histogram, SelfTelemetryError> {
        let options = HistogramOpts::new(name, help).buckets(DURATION_BOUNDS.to_vec());
        let histogram = Histogram::with_opts(options).map_err(named(name))?;
        self.register(histogram.clone())?;
        Ok(histogram)
    }

    /// Serves a collector's metrics, and pushes its counters and gauges.
    ///
    /// # Errors
    /// If one of them exists already.
    pub fn register(&self, collector: impl Collector + Clone + 'static) -> Result<(), SelfTelemetryError> {
        let name = collector.desc().first().map(|desc| desc.fq_name.clone()).unwrap_or_default();
        self.registry.register(Box::new(collector.clone())).map_err(named(&name))?;
        self.pushed.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(collector));
        Ok(())
    }

    /// All of the agent's own metrics as text, without the page's end.
    #[must_use]
    pub fn encode(&self, format: Format) -> String {
        let families = self.registry.gather();
        let mut page = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&families, &mut page) {
            // The rest of the page is worth having.
            tracing::error!(%error, "the agent's own metrics could not be encoded");
            return String::new();
        }
        let page = String::from_utf8(page).unwrap_or_default();
        match format {
            Format::Text => page,
            Format::OpenMetrics => open_metrics(&page),
        }
    }

    /// One answered request for a metrics page.
    pub(crate) fn observe_scrape(&self, duration: Duration) {
        self.scrape_seconds.observe(duration.as_secs_f64());
    }

    fn pushed(&self) -> Vec<Arc<dyn Collector>> {
        self.pushed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn named(name: &str) -> impl FnOnce(prometheus::Error) -> SelfTelemetryError {
    let name = name.to_owned();
    move |source| SelfTelemetryError::Register { name, source }
}

/// Text 0.0.4 as `OpenMetrics`: a counter's family loses the suffix of its samples, quotes in help are escaped.
fn open_metrics(text: &str) -> String {
    let mut page = String::with_capacity(text.len() + 64);
    // TYPE follows HELP, and only TYPE tells what the family is.
    let mut help: Option<(&str, &str)> = None;
    let mut push = |parts: &[&str]| parts.iter().for_each(|part| page.push_str(part));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest.split_once(' ').unwrap_or((rest, "")));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let family = match kind {
                "counter" => name.strip_suffix("_total").unwrap_or(name),
                _ => name,
            };
            if let Some((_, text)) = help.take() {
                push(&["# HELP ", family, " ", &text.replace('"', "\\\""), "\n"]);
            }
            push(&["# TYPE ", family, " ", kind, "\n"]);
        } else {
            push(&[line, "\n"]);
        }
    }
    page
}

/// What became of a client's points or records, as a metric. Clients keep plain atomics, so that they need no registry.
#[derive(Clone)]
struct Results {
    name: &'static str,
    help: &'static str,
    desc: Desc,
    /// Sent, dropped, rejected.
    read: Arc<dyn Fn() -> [u64; 3] + Send + Sync>,
}

impl Results {
    fn new(
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> [u64; 3] + Send + Sync + 'static,
    ) -> Result<Self, SelfTelemetryError> {
        let desc = Desc::new(name.into(), help.into(), vec!["result".into()], std::collections::HashMap::new())
            .map_err(named(name))?;
        Ok(Self { name, help, desc, read: Arc::new(read) })
    }
}

impl Collector for Results {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(vector) = IntCounterVec::new(Opts::new(self.name, self.help), &["result"]) else {
            return Vec::new();
        };
        for (result, count) in ["sent", "dropped", "rejected"].into_iter().zip((self.read)()) {
            vector.with_label_values(&[result]).inc_by(count);
        }
        vector.collect()
    }
}

/// The value of a counter's or a gauge's sample.
fn number(kind: MetricType, metric: &prometheus::proto::Metric) -> Option<f64> {
    match kind {
        MetricType::COUNTER => Some(metric.get_counter().get_value()),
        MetricType::GAUGE => Some(metric.get_gauge().get_value()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
