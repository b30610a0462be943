//! The agent's own metrics as OTLP, by the OpenTelemetry SDK and under a resource of their own.
//!
//! Observable instruments read the very collectors that `/metrics` serves, so the two cannot differ. Distributions
//! are left out: the SDK has no instrument that takes one ready-made.

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{AsyncInstrument, Meter, MeterProvider},
};
use opentelemetry_otlp::{Compression, ExporterBuildError, MetricExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
};
use prometheus::{
    core::Collector,
    proto::{MetricFamily, MetricType},
};

use super::{SelfTelemetry, number};
use crate::export::{
    otlp::{self, SCHEMA_URL},
    otlp_client::{OtlpConfig, OtlpConfigError},
};

/// How long the last push may take.
const LAST_PUSH: Duration = Duration::from_secs(2);

/// Why the agent's own metrics cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum SelfPushError {
    /// The configuration cannot work.
    #[error("the agent's own metrics cannot be pushed: correct the OTLP settings")]
    Config(#[from] OtlpConfigError),
    /// The library refuses its settings.
    #[error("the OpenTelemetry exporter for the agent's own metrics cannot be built: switch it off and report this")]
    Exporter(#[from] ExporterBuildError),
}

/// The running push of the agent's own metrics.
pub struct SelfPush {
    provider: SdkMeterProvider,
}

impl SelfPush {
    /// Starts pushing what is registered now; metrics registered later are not pushed. Call it within a tokio
    /// runtime.
    ///
    /// # Errors
    /// If the endpoint, its certificates or its headers cannot be used.
    pub fn start(telemetry: &SelfTelemetry, config: &OtlpConfig, node: &str) -> Result<Self, SelfPushError> {
        let exporter = MetricExporter::builder()
            .with_tonic()
            .with_channel(config.to_endpoint()?.connect_lazy())
            .with_metadata(config.to_metadata()?)
            .with_timeout(config.timeout);
        let exporter = if config.gzip { exporter.with_compression(Compression::Gzip) } else { exporter };
        let reader = PeriodicReader::builder(exporter.build()?).with_interval(config.interval).build();
        let resource = Resource::builder_empty()
            .with_schema_url(otlp::of_agent(node).map(|(key, value)| KeyValue::new(key, value.to_owned())), SCHEMA_URL)
            .build();
        let provider = SdkMeterProvider::builder().with_resource(resource).with_reader(reader).build();
        let scope = InstrumentationScope::builder("podlens").with_version(env!("CARGO_PKG_VERSION")).build();
        let meter = provider.meter_with_scope(scope);
        for collector in telemetry.pushed() {
            for family in collector.collect() {
                observe(&meter, &collector, &family);
            }
        }
        Ok(Self { provider })
    }

    /// Pushes once more, within two seconds.
    pub async fn stop(self) {
        // The SDK blocks on its own thread, for longer than it is told. A plain thread is left behind then; a blocking
        // task of the runtime would hold up the runtime's end.
        let (ended, end) = tokio::sync::oneshot::channel();
        let provider = self.provider;
        std::thread::spawn(move || ended.send(provider.shutdown_with_timeout(LAST_PUSH)));
        match tokio::time::timeout(LAST_PUSH, end).await {
            Ok(Ok(Ok(()))) => {}
            outcome => tracing::debug!(?outcome, "the last push of the agent's own metrics failed"),
        }
    }
}

/// Makes the instrument for one family of a collector.
fn observe(meter: &Meter, collector: &Arc<dyn Collector>, family: &MetricFamily) {
    let kind = family.get_field_type();
    let name = otlp_name(family.name());
    let unit = unit(family.name());
    let help = family.help().to_owned();
    let callback = {
        let (collector, family) = (Arc::clone(collector), family.name().to_owned());
        move |observer: &dyn AsyncInstrument<f64>| report(&*collector, &family, observer)
    };
    // An instrument lives in its meter; its handle does nothing.
    match kind {
        MetricType::COUNTER => {
            let builder = meter.f64_observable_counter(name).with_description(help);
            let _ = builder.with_unit(unit).with_callback(callback).build();
        }
        MetricType::GAUGE => {
            let builder = meter.f64_observable_gauge(name).with_description(help);
            let _ = builder.with_unit(unit).with_callback(callback).build();
        }
        _ => {}
    }
}

fn report(collector: &dyn Collector, family: &str, observer: &dyn AsyncInstrument<f64>) {
    for found in collector.collect().iter().filter(|found| found.name() == family) {
        for metric in found.get_metric() {
            let Some(value) = number(found.get_field_type(), metric) else {
                continue;
            };
            let attributes: Vec<KeyValue> = metric
                .get_label()
                .iter()
                .map(|label| KeyValue::new(label.name().to_owned(), label.value().to_owned()))
                .collect();
            observer.observe(value, &attributes);
        }
    }
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
