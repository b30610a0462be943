//! The agent's own metrics as OTLP, by OpenTelemetry's SDK and under a resource of their own.
//!
//! Observable instruments read the very collectors that `/metrics` serves, so the two cannot differ. The SDK has no
//! instrument that takes a distribution ready-made, so of one its count and its sum are pushed. These points are no part of
//! what the OTLP client counts as sent, dropped and rejected.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{AsyncInstrument, Meter, MeterProvider as _},
};
use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
};
use prometheus::proto::{Metric, MetricFamily, MetricType};
use tokio::sync::oneshot;

use crate::{
    export::{
        otlp::SCHEMA_URL,
        otlp_client::{LAST_EXPORT, OtlpConfig, SdkExporterError, first_delay, transport},
    },
    signal::shutdown::{Shutdown, stopped},
    telemetry::SelfTelemetry,
};

/// The push of the agent's own metrics.
pub struct OwnPush {
    telemetry: Arc<SelfTelemetry>,
    exporter: MetricExporter,
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
        on_a_thread(move || first.force_flush());
        stopped(shutdown).await;
        push_last(provider).await;
    }

    fn start(self) -> SdkMeterProvider {
        let reader = PeriodicReader::builder(self.exporter).with_interval(self.interval).build();
        let provider = SdkMeterProvider::builder().with_resource(self.resource).with_reader(reader).build();
        let scope = InstrumentationScope::builder("podlens").with_version(env!("CARGO_PKG_VERSION")).build();
        let meter = provider.meter_with_scope(scope);
        let families = self.telemetry.gather_all();
        let readings = Arc::new(Readings { telemetry: self.telemetry, last: Mutex::default() });
        for family in families {
            observe(&meter, &readings, &family);
        }
        provider
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
        let mut reading = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.taken.is_empty() || reading.taken.contains(instrument) {
            *reading = Reading { families: self.telemetry.gather_all(), taken: HashSet::new() };
        }
        reading.taken.insert(instrument.to_owned());
        let metrics = reading.families.iter().filter(|found| found.name() == family).flat_map(MetricFamily::get_metric);
        metrics.for_each(&mut each);
    }
}

/// Makes the instruments of one family. They live in their meter; their handles do nothing.
fn observe(meter: &Meter, readings: &Arc<Readings>, family: &MetricFamily) {
    let name = otlp_name(family.name());
    let unit = unit(family.name());
    let help = family.help().to_owned();
    let callback = |instrument: &str, value: fn(&Metric) -> f64| {
        let (readings, instrument, family) = (Arc::clone(readings), instrument.to_owned(), family.name().to_owned());
        move |observer: &dyn AsyncInstrument<f64>| {
            readings.take(&instrument, &family, |metric| observer.observe(value(metric), &attributes(metric)));
        }
    };
    let counter = |name: String, unit: &'static str, value: fn(&Metric) -> f64| {
        let callback = callback(&name, value);
        let builder = meter.f64_observable_counter(name).with_description(help.clone());
        let _ = builder.with_unit(unit).with_callback(callback).build();
    };
    match family.get_field_type() {
        MetricType::COUNTER => counter(name, unit, |metric| metric.get_counter().get_value()),
        MetricType::GAUGE => {
            let callback = callback(&name, |metric| metric.get_gauge().get_value());
            let builder = meter.f64_observable_gauge(name).with_description(help);
            let _ = builder.with_unit(unit).with_callback(callback).build();
        }
        MetricType::HISTOGRAM => {
            counter(format!("{name}.count"), "1", |metric| metric.get_histogram().get_sample_count() as f64);
            counter(format!("{name}.sum"), unit, |metric| metric.get_histogram().get_sample_sum());
        }
        _ => {}
    }
}

fn attributes(metric: &Metric) -> Vec<KeyValue> {
    metric.get_label().iter().map(|label| KeyValue::new(label.name().to_owned(), label.value().to_owned())).collect()
}

/// A metric's name in OTLP: dots, and neither unit nor `_total`.
fn otlp_name(name: &str) -> String {
    let stem = name.strip_suffix("_total").unwrap_or(name);
    let stem = ["_seconds", "_bytes"].iter().find_map(|unit| stem.strip_suffix(unit)).unwrap_or(stem);
    stem.replace('_', ".")
}

fn unit(name: &str) -> &'static str {
    let stem = name.strip_suffix("_total").unwrap_or(name);
    if stem.ends_with("_seconds") {
        "s"
    } else if stem.ends_with("_bytes") {
        "By"
    } else {
        "1"
    }
}

#[cfg(test)]
mod tests {
    use super::{otlp_name, unit};

    #[test]
    fn names_and_units_are_taken_from_the_prometheus_name() {
        for (name, otlp, in_unit) in [
            ("podlens_otlp_points_total", "podlens.otlp.points", "1"),
            ("podlens_bpf_run_seconds_total", "podlens.bpf.run", "s"),
            ("podlens_bpf_memory_bytes", "podlens.bpf.memory", "By"),
            ("podlens_slots", "podlens.slots", "1"),
        ] {
            assert_eq!((otlp_name(name).as_str(), unit(name)), (otlp, in_unit), "{name}");
        }
    }
}
