//! The agent's own metrics as OTLP, by OpenTelemetry's SDK and under a resource of their own.
//!
//! Observable instruments read the very collectors that `/metrics` serves, so the two cannot differ. The SDK has no
//! instrument that takes a distribution ready-made, so of one its count and its sum are pushed. These points are no part of
//! what the OTLP client counts as sent, dropped and rejected.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{AsyncInstrument, Meter, MeterProvider as _},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{PeriodicReader, SdkMeterProvider, Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
};
use prometheus::proto::{Metric, MetricFamily};
use tokio::sync::oneshot;

use crate::{
    export::{
        otlp::{SCHEMA_URL, unit},
        otlp_client::{
            LAST_EXPORT, OtlpConfig, SdkExporterError, first_delay,
            transport::{self, SdkExporter},
        },
    },
    signal::{
        Kind, lock,
        shutdown::{Shutdown, stopped},
    },
    telemetry::{OwnMetric, SelfTelemetry, metrics},
};

/// The push of the agent's own metrics.
pub struct OwnPush {
    telemetry: Arc<SelfTelemetry>,
    exporter: SdkExporter,
    resource: Resource,
    interval: Duration,
    first_delay: Duration,
}

impl OwnPush {
    /// A push that has not connected yet. `node` decides its moment within the interval. Call it within a runtime.
    ///
    /// # Errors
    /// If the configuration cannot work whatever the receiver does.
    pub fn new(config: &OtlpConfig, node: &str, telemetry: Arc<SelfTelemetry>) -> Result<Self, SdkExporterError> {
        let attributes = config.own_resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        Ok(Self {
            telemetry,
            exporter: transport::exporter(config)?,
            resource: Resource::builder_empty().with_schema_url(attributes, SCHEMA_URL).build(),
            interval: config.interval,
            first_delay: first_delay(node, config.interval, SystemTime::now()),
        })
    }

    /// Pushes what was registered before until a stop is asked for, then once more within two seconds.
    pub async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = stopped(shutdown.clone()) => return push_last(self.start()).await,
            () = tokio::time::sleep(self.first_delay) => {}
        }
        let provider = self.start();
        let first = provider.clone();
        // What comes of it the exporter tells.
        on_a_thread(move || first.force_flush());
        stopped(shutdown).await;
        push_last(provider).await;
    }

    fn start(self) -> SdkMeterProvider {
        let exporter = Told { inner: self.exporter, telemetry: Arc::clone(&self.telemetry), failed: AtomicU64::new(0) };
        let reader = PeriodicReader::builder(exporter).with_interval(self.interval).build();
        let provider = SdkMeterProvider::builder().with_resource(self.resource).with_reader(reader).build();
        let scope = InstrumentationScope::builder("podlens").with_version(env!("CARGO_PKG_VERSION")).build();
        let meter = provider.meter_with_scope(scope);
        let families = self.telemetry.gather_all();
        let readings = Arc::new(Readings { telemetry: self.telemetry, last: Mutex::default() });
        for metric in families.iter().filter_map(|family| metrics::find(family.name())) {
            observe(&meter, &readings, metric);
        }
        provider
    }
}

/// The library's exporter, whose failures are counted. The log tells of the first in a row, and when they are over.
struct Told {
    inner: SdkExporter,
    telemetry: Arc<SelfTelemetry>,
    /// Failures in a row.
    failed: AtomicU64,
}

impl Told {
    fn tell(&self, outcome: &OTelSdkResult) {
        match outcome {
            Ok(()) => {
                let attempts = self.failed.swap(0, Ordering::Relaxed);
                if attempts > 0 {
                    tracing::info!(
                        endpoint = self.inner.endpoint,
                        attempts,
                        "the agent's own metrics are pushed again"
                    );
                }
            }
            Err(cause) => {
                self.telemetry.observe_failed_push();
                if self.failed.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(
                        endpoint = self.inner.endpoint,
                        cause = self.inner.cause(&cause.to_string()),
                        "the push of the agent's own metrics fails; further failures are counted and not logged"
                    );
                }
            }
        }
    }
}

impl PushMetricExporter for Told {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let outcome = self.inner.exporter.export(metrics).await;
        self.tell(&outcome);
        outcome
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.exporter.temporality()
    }
}

async fn push_last(provider: SdkMeterProvider) {
    let end = on_a_thread(move || provider.shutdown());
    match tokio::time::timeout(LAST_EXPORT, end).await {
        Ok(Ok(Ok(()))) => {}
        outcome => tracing::debug!(?outcome, "the last push of the agent's own metrics failed"),
    }
}

/// The agent's resource: what it says of itself, over which a user's attributes go, and over those the name of its service.
#[must_use]
pub fn resource_attributes(
    node: &str,
    given: &BTreeMap<String, String>,
    service_name: Option<&str>,
) -> BTreeMap<String, String> {
    let own = [
        ("service.name", "podlens"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", node),
        ("k8s.node.name", node),
    ];
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let mut attributes: BTreeMap<String, String> = own.into_iter().map(owned).collect();
    attributes.extend(given.clone());
    attributes.extend(service_name.map(|name| owned(("service.name", name))));
    attributes
}

/// The SDK blocks until the receiver has answered, and for longer than it is told. A plain thread can be left behind then; one
/// of the runtime would hold up its end.
fn on_a_thread<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (ended, end) = oneshot::channel();
    let act = move || {
        // Nobody may be waiting any more.
        let _ = ended.send(act());
    };
    if let Err(cause) = thread::Builder::new().name("podlens-own".into()).spawn(act) {
        tracing::warn!(%cause, "no thread for a push of the agent's own metrics");
    }
    end
}

/// Readings of all collectors, one for all instruments of a push.
struct Readings {
    telemetry: Arc<SelfTelemetry>,
    last: Mutex<Reading>,
}

#[derive(Default)]
struct Reading {
    families: Vec<MetricFamily>,
    /// Instruments that have had it: one that comes again comes for the next push.
    taken: HashSet<String>,
}

impl Readings {
    /// Gives an instrument the metrics of its family.
    fn take(&self, instrument: &str, family: &str, mut each: impl FnMut(&Metric)) {
        let mut reading = lock(&self.last);
        if reading.taken.is_empty() || reading.taken.contains(instrument) {
            *reading = Reading { families: self.telemetry.gather_all(), taken: HashSet::new() };
        }
        reading.taken.insert(instrument.to_owned());
        let metrics = reading.families.iter().filter(|found| found.name() == family).flat_map(MetricFamily::get_metric);
        metrics.for_each(&mut each);
    }
}

/// Makes the instruments of one metric. They live in their meter; their handles do nothing.
fn observe(meter: &Meter, readings: &Arc<Readings>, metric: &'static OwnMetric) {
    let name = metric.otlp_name();
    let unit = unit(metric.unit).concat();
    let callback = |instrument: &str, value: fn(&Metric) -> f64| {
        let (readings, instrument) = (Arc::clone(readings), instrument.to_owned());
        move |observer: &dyn AsyncInstrument<f64>| {
            readings.take(&instrument, metric.name, |one| observer.observe(value(one), &attributes(one)));
        }
    };
    let counter = |name: String, unit: String, value: fn(&Metric) -> f64| {
        let callback = callback(&name, value);
        let builder = meter.f64_observable_counter(name).with_description(metric.help);
        let _ = builder.with_unit(unit).with_callback(callback).build();
    };
    match metric.kind {
        Kind::Counter => counter(name, unit, |one| one.get_counter().get_value()),
        Kind::Gauge => {
            let callback = callback(&name, |one| one.get_gauge().get_value());
            let builder = meter.f64_observable_gauge(name).with_description(metric.help);
            let _ = builder.with_unit(unit).with_callback(callback).build();
        }
        Kind::Histogram => {
            counter(format!("{name}.count"), "1".to_owned(), |one| one.get_histogram().get_sample_count() as f64);
            counter(format!("{name}.sum"), unit, |one| one.get_histogram().get_sample_sum());
        }
    }
}

fn attributes(metric: &Metric) -> Vec<KeyValue> {
    metric.get_label().iter().map(|label| KeyValue::new(label.name().to_owned(), label.value().to_owned())).collect()
}
