//! The agent's metrics about itself: one registry, which `export::own` serves beside the pods' values and pushes with
//! them.
//!
//! Pods' values never come here: the registry of the `prometheus` crate is for the handful of numbers that the
//! agent itself counts. Whoever has such a number makes its collector here once and keeps the handle. How the numbers
//! leave the node is no matter of this folder.

pub mod events;
pub mod log_records;
pub mod otlp;
pub mod pipeline;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    process_collector::ProcessCollector,
    proto::MetricFamily,
};

use self::otlp::{OtlpCollector, OtlpCounters};

/// Bounds for durations within the agent, in seconds: from 0.1 ms to 1 s in steps of about three.
const DURATION_BOUNDS: [f64; 9] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0];

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
    /// What is in the registry, which does not give it out again.
    collectors: Mutex<Vec<Arc<dyn Collector>>>,
    /// Served and never pushed: the conventions name a process's metrics differently, and a collector has a receiver for
    /// them.
    process: Registry,
    scrape_seconds: Histogram,
}

impl SelfTelemetry {
    /// The metrics that export itself has: the build, the process, scrapes and what the OTLP client does. `otlp` is left
    /// out where nothing is pushed.
    ///
    /// # Errors
    /// If a definition is wrong.
    pub fn new(version: &str, otlp: Option<&'static OtlpCounters>) -> Result<Self, SelfTelemetryError> {
        let scrape_seconds = "podlens_scrape_seconds";
        let options =
            HistogramOpts::new(scrape_seconds, "Time from the request for a metrics page until its answer is ready")
                .buckets(DURATION_BOUNDS.to_vec());
        let histogram = Histogram::with_opts(options).map_err(named(scrape_seconds))?;
        let telemetry = Self {
            registry: Registry::new(),
            collectors: Mutex::new(Vec::new()),
            process: Registry::new(),
            scrape_seconds: histogram.clone(),
        };
        telemetry.register(histogram)?;
        let build = "podlens_build_info";
        let options = Opts::new(build, "Always 1; the label tells the version").const_label("version", version);
        let build_info = IntGauge::with_opts(options).map_err(named(build))?;
        build_info.set(1);
        telemetry.register(build_info)?;
        if let Some(counters) = otlp {
            telemetry.register(OtlpCollector::new(counters)?)?;
        }
        telemetry.process.register(Box::new(ProcessCollector::for_self())).map_err(named("process_*"))?;
        Ok(telemetry)
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

    /// A distribution of durations within the agent, for example `podlens_scrape_seconds`.
    ///
    /// # Errors
    /// If the definition is wrong or the metric exists.
    pub fn durations(&self, name: &str, help: &str) -> Result<Histogram, SelfTelemetryError> {
        let options = HistogramOpts::new(name, help).buckets(DURATION_BOUNDS.to_vec());
        let histogram = Histogram::with_opts(options).map_err(named(name))?;
        self.register(histogram.clone())?;
        Ok(histogram)
    }

    /// Adds a collector's metrics.
    ///
    /// # Errors
    /// If one of them exists already.
    pub fn register(&self, collector: impl Collector + 'static) -> Result<(), SelfTelemetryError> {
        let name = collector.desc().first().map(|desc| desc.fq_name.clone()).unwrap_or_default();
        let collector: Arc<dyn Collector> = Arc::new(collector);
        self.registry.register(Box::new(Shared(Arc::clone(&collector)))).map_err(named(&name))?;
        self.collectors().push(collector);
        Ok(())
    }

    /// All of the agent's own metrics, read now, but for those of its process.
    #[must_use]
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// The same, with the families that have no series so far.
    #[must_use]
    pub fn gather_all(&self) -> Vec<MetricFamily> {
        let collectors = self.collectors().clone();
        collectors.iter().flat_map(|collector| collector.collect()).collect()
    }

    /// The metrics of the process, read now.
    #[must_use]
    pub fn gather_process(&self) -> Vec<MetricFamily> {
        self.process.gather()
    }

    /// One answered request for a metrics page.
    pub(crate) fn observe_scrape(&self, duration: Duration) {
        self.scrape_seconds.observe(duration.as_secs_f64());
    }

    fn collectors(&self) -> MutexGuard<'_, Vec<Arc<dyn Collector>>> {
        self.collectors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A collector that the registry has and others read too.
struct Shared(Arc<dyn Collector>);

impl Collector for Shared {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.collect()
    }
}

fn named(name: &str) -> impl FnOnce(prometheus::Error) -> SelfTelemetryError {
    let name = name.to_owned();
    move |source| SelfTelemetryError::Register { name, source }
}
