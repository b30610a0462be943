//! The standard environment variables of OpenTelemetry's exporters, the lowest source above the defaults.
//!
//! As the specification of OpenTelemetry wants it: an empty variable is an unset one, durations are milliseconds, the
//! variable for metrics wins over the one for all signals, and a value that cannot be used is passed over with a warning.

use std::time::Duration;

use super::{
    Compression, Config,
    env::Variables,
    keys::{KEYS, Set, assign, assign_path},
    value::{choice, endpoint, pairs, whole},
};

struct Standard {
    name: &'static str,
    /// The key that it stands for.
    key: &'static str,
    set: fn(&mut Config, &str, &Variables<'_>) -> Option<()>,
}

/// For each key the variable that wins comes first.
const STANDARD: &[Standard] = &[
    Standard { name: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", key: "otlp.endpoint", set: set_endpoint },
    Standard { name: "OTEL_EXPORTER_OTLP_ENDPOINT", key: "otlp.endpoint", set: set_endpoint },
    Standard {
        name: "OTEL_METRIC_EXPORT_INTERVAL",
        key: "otlp.interval",
        set: |config, text, _| assign(&mut config.otlp.interval, milliseconds(text, 3_600_000)),
    },
    Standard { name: "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", key: "otlp.timeout", set: timeout },
    Standard { name: "OTEL_EXPORTER_OTLP_TIMEOUT", key: "otlp.timeout", set: timeout },
    Standard { name: "OTEL_EXPORTER_OTLP_METRICS_HEADERS", key: "otlp.headers", set: headers },
    Standard { name: "OTEL_EXPORTER_OTLP_HEADERS", key: "otlp.headers", set: headers },
    Standard { name: "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", key: "otlp.compression", set: compression },
    Standard { name: "OTEL_EXPORTER_OTLP_COMPRESSION", key: "otlp.compression", set: compression },
    Standard { name: "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", key: "otlp.certificate", set: certificate },
    Standard { name: "OTEL_EXPORTER_OTLP_CERTIFICATE", key: "otlp.certificate", set: certificate },
    Standard {
        name: "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
        key: "otlp.client_certificate",
        set: client_certificate,
    },
    Standard { name: "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", key: "otlp.client_certificate", set: client_certificate },
    Standard { name: "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", key: "otlp.client_key", set: client_key },
    Standard { name: "OTEL_EXPORTER_OTLP_CLIENT_KEY", key: "otlp.client_key", set: client_key },
];

/// Variables that ask for what the exporter does in one way only, and that way.
const FIXED: &[(&str, &str)] = &[
    ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative"),
];

/// The standard variables of a key, the one that wins first.
pub(super) fn variables_of(key: &str) -> impl Iterator<Item = &'static str> {
    STANDARD.iter().filter(move |standard| standard.key == key).map(|standard| standard.name)
}

/// Sets what the standard variables say, and returns a warning for each that cannot be used.
pub(super) fn apply(config: &mut Config, variables: &Variables<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, only) in FIXED {
        let asked = variables.raw(name).filter(|value| !value.is_empty());
        if asked.is_some_and(|value| !value.to_str().is_some_and(|text| text.trim().eq_ignore_ascii_case(only))) {
            warnings.push(passed_over(name));
        }
    }
    for key in KEYS {
        for standard in STANDARD.iter().filter(|standard| standard.key == key.path) {
            let Some(value) = variables.raw(standard.name).filter(|value| !value.is_empty()) else {
                continue;
            };
            let accepted = value.to_str().and_then(|text| (standard.set)(config, text.trim(), variables));
            if accepted.is_some() {
                break;
            }
            warnings.push(passed_over(standard.name));
        }
    }
    warnings
}

/// A name only: the value may hold credentials.
fn passed_over(name: &str) -> String {
    format!("environment variable {name} has no value that podlens can use; passed over")
}

fn set_endpoint(config: &mut Config, text: &str, variables: &Variables<'_>) -> Option<()> {
    assign(&mut config.otlp.endpoint, standard_endpoint(text, variables).map(Some))
}

/// An address without a scheme is allowed here; another variable then tells whether it is encrypted.
fn standard_endpoint(text: &str, variables: &Variables<'_>) -> Option<http::Uri> {
    if text.contains("://") {
        return endpoint(text);
    }
    let is_insecure = ["OTEL_EXPORTER_OTLP_METRICS_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"]
        .iter()
        .find_map(|name| variables.raw(name).filter(|value| !value.is_empty()))
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    endpoint(&format!("{}://{text}", if is_insecure { "http" } else { "https" }))
}

fn timeout(config: &mut Config, text: &str, _: &Variables<'_>) -> Option<()> {
    assign(&mut config.otlp.timeout, milliseconds(text, 300_000))
}

fn headers(config: &mut Config, text: &str, _: &Variables<'_>) -> Option<()> {
    let Set::Map { clear, put } = KEYS.iter().find(|key| key.path == "otlp.headers")?.set else {
        return None;
    };
    let pairs = pairs(text)?;
    clear(config);
    let accepted = pairs.iter().try_for_each(|(name, text)| put(config, name, text));
    if accepted.is_none() {
        clear(config);
    }
    accepted
}

fn compression(config: &mut Config, text: &str, _: &Variables<'_>) -> Option<()> {
    assign(&mut config.otlp.compression, choice(text, &[("none", Compression::None), ("gzip", Compression::Gzip)]))
}

fn certificate(config: &mut Config, text: &str, _: &Variables<'_>) -> Option<()> {
    assign_path(&mut config.otlp.certificate, text)
}

fn client_certificate(config: &mut Config, text: &str, _: &Variables<'_>) -> Option<()> {
    assign_path(&mut config.otlp.client_certificate, text)
}

fn client_key(config: &mut Config, text: &str, _: &Variables<'_>) -> Option<()> {
    assign_path(&mut config.otlp.client_key, text)
}

fn milliseconds(text: &str, most: u64) -> Option<Duration> {
    whole(text, 100..=most).map(Duration::from_millis)
}
