//! The agent's metrics about itself: one registry, which `export::own` serves beside the pods' values and pushes with
//! them.
//!
//! Pods' values never come here: the registry of the `prometheus` crate is for the handful of numbers that the
//! agent itself counts, each defined in [`metrics`]. How the numbers leave the node is no matter of this folder.

pub mod definition;
pub mod events;
pub mod fleet;
pub mod metrics;
pub mod otlp;
mod server;

use std::{
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
    time::Duration,
};

use prometheus::{
    Histogram, Registry,
    core::{Collector, Desc},
    process_collector::ProcessCollector,
    proto::MetricFamily,
};

pub use self::definition::{OwnLabel, OwnMetric, OwnValues};
pub use self::server::Refusal;
use self::{
    otlp::{LogRecordCounters, OtlpCounters},
    server::ServerCounters,
};

use crate::signal::lock;

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
    /// It stands in no list.
    #[error("the agent's own metric {name} is not declared: add it to the list in telemetry::metrics")]
    Undeclared {
        /// Name of the metric.
        name: String,
    },
}

/// The agent's own metrics at work.
pub struct SelfTelemetry {
    registry: Registry,
    /// What is in the registry, which does not give it out again.
    collectors: Mutex<Vec<Arc<dyn Collector>>>,
    /// Served and never pushed: the conventions name a process's metrics differently, and a collector has a receiver for
    /// them.
    process: Registry,
    scrape_seconds: Histogram,
    server: ServerCounters,
    otlp: Option<&'static OtlpCounters>,
}

impl SelfTelemetry {
    /// The metrics that export itself has: the build, the process, scrapes and what the OTLP client does. `otlp` is left
    /// out where nothing is pushed.
    ///
    /// # Errors
    /// If a definition is wrong.
    pub fn new(version: &str, otlp: Option<&'static OtlpCounters>) -> Result<Self, SelfTelemetryError> {
        let scrape_seconds = metrics::SCRAPE.durations()?;
        let telemetry = Self {
            registry: Registry::new(),
            collectors: Mutex::new(Vec::new()),
            process: Registry::new(),
            scrape_seconds: scrape_seconds.clone(),
            server: ServerCounters::new()?,
            otlp,
        };
        telemetry.register(scrape_seconds)?;
        for family in telemetry.server.families() {
            telemetry.register(family)?;
        }
        let build_info = metrics::BUILD_INFO.gauges()?;
        build_info.with_label_values(&[version]).set(1.0);
        telemetry.register(build_info)?;
        if let Some(counters) = otlp {
            telemetry.register(otlp::points(counters)?)?;
        }
        telemetry.process.register(Box::new(ProcessCollector::for_self())).map_err(named("process_*"))?;
        Ok(telemetry)
    }

    /// Adds what becomes of log records.
    ///
    /// # Errors
    /// They are there already.
    pub fn add_log_records(&self, counters: Arc<LogRecordCounters>) -> Result<(), SelfTelemetryError> {
        self.register(otlp::log_records(counters)?)
    }

    /// Adds a collector's metrics.
    ///
    /// # Errors
    /// If one of them exists already, or is not in [`metrics::ALL`].
    pub fn register(&self, collector: impl Collector + 'static) -> Result<(), SelfTelemetryError> {
        if let Some(stray) = collector.desc().into_iter().find(|desc| metrics::find(&desc.fq_name).is_none()) {
            return Err(SelfTelemetryError::Undeclared { name: stray.fq_name.clone() });
        }
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

    /// The server refused or broke something off.
    pub(crate) fn observe_refusal(&self, refusal: Refusal) {
        self.server.refused(refusal);
    }

    /// The web configuration has changed.
    pub(crate) fn observe_web_reload(&self, is_applied: bool) {
        self.server.reloaded(is_applied);
    }

    /// A push of these very metrics has failed.
    pub(crate) fn observe_failed_push(&self) {
        if let Some(counters) = self.otlp {
            counters.failed_attempts.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn collectors(&self) -> MutexGuard<'_, Vec<Arc<dyn Collector>>> {
        lock(&self.collectors)
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
