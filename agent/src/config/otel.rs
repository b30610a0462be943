//! The standard environment variables of OpenTelemetry's exporters, the lowest source above the defaults.
//!
//! As the specification of OpenTelemetry wants it: an empty variable is an unset one, durations are milliseconds, words are
//! taken in any case, the variable for one signal wins over the one for all, and a value that cannot be used is passed over
//! with a warning. Variables that are not in the list are ignored. The list is read twice: for metrics, and for events,
//! which are log records, with `LOGS` in the names.
//!
//! Two decisions beyond it. A variable that switches pushing off stands for `otlp.enabled`, so that it holds for whatever
//! gives the endpoint, and that key can switch it on again. And where a header cannot be sent, nothing is pushed: without a
//! credential or a tenant the receiver might take the data for another's.

use std::{path::PathBuf, time::Duration};

use super::{
    Compression, Config, Endpoint, Headers, Histograms, LogLevel, Protocol, Temporality,
    env::Variables,
    keys::{KEYS, assign},
    setting,
    value::{self, choice, endpoint, header, pairs, whole},
};

struct Standard {
    name: &'static str,
    /// The key that it stands for.
    key: &'static str,
    /// What a value must be, to follow "must be".
    expects: &'static str,
    set: fn(&mut Config, &str, &mut Context<'_>) -> Option<Taken>,
}

/// What the receiver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Metrics,
    /// Events.
    Logs,
}

impl Signal {
    /// This signal's variable in place of the one for metrics.
    fn variable(self, name: &str) -> String {
        match self {
            Self::Metrics => name.to_owned(),
            Self::Logs => name.replace("_METRICS_", "_LOGS_"),
        }
    }
}

/// What a usable value means for the variables after it.
enum Taken {
    /// The key is set.
    Set,
    /// The value says nothing, as if the variable were unset.
    Nothing,
}

/// What a variable may look at beside its own value.
struct Context<'a> {
    signal: Signal,
    name: String,
    variables: &'a Variables<'a>,
    warnings: Vec<String>,
}

const URL: &str = "a URL with http:// or https://, without user or query";
const PROTOCOL: &str = "grpc or http/protobuf";
const TIMEOUT: &str = "a whole number of milliseconds from 100 to 300000, or 0";
const HEADERS: &str = "name=value,name=value with percent-encoded values";
const COMPRESSION: &str = "none, gzip or zstd";
const PATH: &str = "the path of a file";

/// For each key the variable that wins comes first.
const STANDARD: &[Standard] = &[
    Standard { name: "OTEL_SDK_DISABLED", key: "otlp.enabled", expects: "true or false", set: sdk_disabled },
    Standard {
        name: "OTEL_METRICS_EXPORTER",
        key: "otlp.enabled",
        expects: "otlp or none, or a list with either",
        set: metrics_exporter,
    },
    Standard { name: "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", key: "otlp.protocol", expects: PROTOCOL, set: protocol },
    Standard { name: "OTEL_EXPORTER_OTLP_PROTOCOL", key: "otlp.protocol", expects: PROTOCOL, set: protocol },
    Standard {
        name: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        key: "otlp.endpoint",
        expects: URL,
        set: |config, text, context| set_endpoint(config, text, context, true),
    },
    Standard {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT",
        key: "otlp.endpoint",
        expects: URL,
        set: |config, text, context| set_endpoint(config, text, context, false),
    },
    Standard {
        name: "OTEL_METRIC_EXPORT_INTERVAL",
        key: "otlp.interval",
        expects: "a whole number of milliseconds from 100 to 3600000",
        set: |config, text, _| set(assign(&mut config.otlp.interval, milliseconds(text, 3_600_000))),
    },
    Standard { name: "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", key: "otlp.timeout", expects: TIMEOUT, set: timeout },
    Standard { name: "OTEL_EXPORTER_OTLP_TIMEOUT", key: "otlp.timeout", expects: TIMEOUT, set: timeout },
    Standard { name: "OTEL_EXPORTER_OTLP_METRICS_HEADERS", key: "otlp.headers", expects: HEADERS, set: headers },
    Standard { name: "OTEL_EXPORTER_OTLP_HEADERS", key: "otlp.headers", expects: HEADERS, set: headers },
    Standard {
        name: "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
        key: "otlp.compression",
        expects: COMPRESSION,
        set: compression,
    },
    Standard {
        name: "OTEL_EXPORTER_OTLP_COMPRESSION",
        key: "otlp.compression",
        expects: COMPRESSION,
        set: compression,
    },
    Standard {
        name: "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
        key: "otlp.certificate",
        expects: PATH,
        set: certificate,
    },
    Standard { name: "OTEL_EXPORTER_OTLP_CERTIFICATE", key: "otlp.certificate", expects: PATH, set: certificate },
    Standard {
        name: "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
        key: "otlp.client_certificate",
        expects: PATH,
        set: client_certificate,
    },
    Standard {
        name: "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        key: "otlp.client_certificate",
        expects: PATH,
        set: client_certificate,
    },
    Standard { name: "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", key: "otlp.client_key", expects: PATH, set: client_key },
    Standard { name: "OTEL_EXPORTER_OTLP_CLIENT_KEY", key: "otlp.client_key", expects: PATH, set: client_key },
    Standard {
        name: "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        key: "otlp.histograms",
        expects: "explicit_bucket_histogram or base2_exponential_bucket_histogram",
        set: histograms,
    },
    Standard {
        name: "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        key: "otlp.temporality",
        expects: "cumulative, delta or lowmemory",
        set: temporality,
    },
    Standard {
        name: "OTEL_SERVICE_NAME",
        key: "otlp.service_name",
        expects: "a text",
        set: |config, text, _| set(assign(&mut config.otlp.service_name, Some(Some(text.to_owned())))),
    },
    Standard {
        name: "OTEL_RESOURCE_ATTRIBUTES",
        key: "otlp.resource_attributes",
        expects: "key=value,key=value with percent-encoded keys and values",
        set: resource_attributes,
    },
    Standard {
        name: "OTEL_LOG_LEVEL",
        key: "log.level",
        expects: "error, warn, info, debug or trace",
        set: |config, text, _| {
            let named = LogLevel::ALL.into_iter().find(|level| text.eq_ignore_ascii_case(level.as_str()));
            set(assign(&mut config.log.level, named))
        },
    },
];

/// Whether an address without a scheme is not encrypted. The one that wins comes first.
const INSECURE: [&str; 2] = ["OTEL_EXPORTER_OTLP_METRICS_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"];

/// The standard variables of a key, the one that wins first.
pub(super) fn variables_of(key: &str) -> impl Iterator<Item = &'static str> {
    STANDARD.iter().filter(move |standard| standard.key == key).map(|standard| standard.name)
}

/// Sets what the standard variables say, and returns a warning for each that cannot be used.
pub(super) fn apply(config: &mut Config, variables: &Variables<'_>, signal: Signal) -> Vec<String> {
    let mut context = Context { signal, name: String::new(), variables, warnings: Vec::new() };
    for key in KEYS {
        for standard in STANDARD.iter().filter(|standard| standard.key == key.path) {
            context.name = signal.variable(standard.name);
            let Some(value) = given(variables, &context.name) else { continue };
            match (standard.set)(config, &value, &mut context) {
                Some(Taken::Set) => break,
                Some(Taken::Nothing) => {}
                None => context.warn_of(&value, standard.expects),
            }
        }
    }
    context.warnings
}

/// Client certificate and key from the standard variables alone, to be told from those of other sources.
pub(super) type Identity = (Option<PathBuf>, Option<PathBuf>);

/// One half of a client's identity is of no use. Where it comes from a standard variable, it is passed over.
pub(super) fn pass_over_half_identity(config: &mut Config, standard: &Identity) -> Option<String> {
    let otlp = &mut config.otlp;
    let (half, other) = match (&otlp.client_certificate, &otlp.client_key) {
        (Some(certificate), None) if standard.0.as_ref() == Some(certificate) => ("client certificate", "key"),
        (None, Some(key)) if standard.1.as_ref() == Some(key) => ("client key", "certificate"),
        _ => return None,
    };
    (otlp.client_certificate, otlp.client_key) = (None, None);
    let [certificate, key] = ["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_KEY"];
    Some(format!(
        "an OTLP {half} is set without its {other}; passed over: set both {certificate} and {key}, or neither"
    ))
}

/// Nothing is pushed where a header cannot be sent.
pub(super) fn hold_back_without_headers(config: &mut Config) -> Option<String> {
    let otlp = &mut config.otlp;
    if !otlp.enabled || otlp.endpoint.is_none() || otlp.headers.unsendable.is_empty() {
        return None;
    }
    otlp.enabled = false;
    let headers = otlp.headers.unsendable.join(", ");
    Some(format!("nothing is pushed without {headers}: correct the variable, or set `otlp.headers`"))
}

/// What a variable holds; nothing for one that is empty or unset.
fn given(variables: &Variables<'_>, name: &str) -> Option<String> {
    // What is not UTF-8 is no valid value of any of them.
    let value = variables.raw(name)?.to_string_lossy().trim().to_owned();
    (!value.is_empty()).then_some(value)
}

impl Context<'_> {
    fn warn_of(&mut self, value: &str, expects: &str) {
        let name = &self.name;
        // Headers hold credentials.
        let found = if name.ends_with("_HEADERS") { "malformed".to_owned() } else { setting::quoted(value) };
        self.warnings.push(format!("environment variable {name} is {found}, but must be {expects}; passed over"));
    }
}

fn set(assigned: Option<()>) -> Option<Taken> {
    assigned.map(|()| Taken::Set)
}

/// True is what switches off; false says nothing.
fn sdk_disabled(config: &mut Config, text: &str, _: &mut Context<'_>) -> Option<Taken> {
    if boolean(text)? {
        config.otlp.enabled = false;
        return Some(Taken::Set);
    }
    Some(Taken::Nothing)
}

fn metrics_exporter(config: &mut Config, text: &str, context: &mut Context<'_>) -> Option<Taken> {
    let named = |wanted: &str| text.split(',').any(|name| name.trim().eq_ignore_ascii_case(wanted));
    // Prometheus is served in any case.
    let is_known = ["otlp", "none", "prometheus", "console"].into_iter().any(named);
    if named("console") {
        context.warn_of(text, "otlp or none, or a list with either: podlens has no console exporter");
    }
    set(assign(&mut config.otlp.enabled, is_known.then(|| named("otlp"))))
}

fn protocol(config: &mut Config, text: &str, context: &mut Context<'_>) -> Option<Taken> {
    // A receiver that takes JSON takes protobuf at the same address.
    if text.eq_ignore_ascii_case("http/json") {
        let name = &context.name;
        context
            .warnings
            .push(format!("environment variable {name} is `http/json`; podlens sends http/protobuf instead"));
        config.otlp.protocol = Protocol::HttpProtobuf;
        return Some(Taken::Set);
    }
    let choices = [("grpc", Protocol::Grpc), ("http/protobuf", Protocol::HttpProtobuf)];
    set(assign(&mut config.otlp.protocol, choice(&text.to_ascii_lowercase(), &choices)))
}

/// An address without a scheme is allowed for gRPC; another variable then tells whether it is encrypted.
fn set_endpoint(config: &mut Config, text: &str, context: &mut Context<'_>, is_for_signal: bool) -> Option<Taken> {
    let url = if text.contains("://") {
        endpoint(text)
    } else if config.otlp.protocol == Protocol::Grpc {
        endpoint(&format!("{}://{text}", if is_insecure(context) { "http" } else { "https" }))
    } else {
        None
    };
    set(assign(&mut config.otlp.endpoint, url.map(|url| Some(Endpoint { url, is_for_signal }))))
}

fn is_insecure(context: &mut Context<'_>) -> bool {
    let names = INSECURE.map(|name| context.signal.variable(name));
    let Some((name, value)) = names.into_iter().find_map(|name| given(context.variables, &name).map(|it| (name, it)))
    else {
        return false;
    };
    boolean(&value).unwrap_or_else(|| {
        context.name = name;
        context.warn_of(&value, "true or false");
        false
    })
}

/// 0 stands for no limit; the longest timeout stands for that.
fn timeout(config: &mut Config, text: &str, _: &mut Context<'_>) -> Option<Taken> {
    const LONGEST_MS: u64 = 300_000;
    let timeout = match whole(text, 0..=0) {
        Some(_) => Some(Duration::from_millis(LONGEST_MS)),
        None => milliseconds(text, LONGEST_MS),
    };
    set(assign(&mut config.otlp.timeout, timeout))
}

/// Keeps every pair that can be sent and names every other.
#[allow(clippy::unnecessary_wraps, reason = "one of the setters, which all have this type")]
fn headers(config: &mut Config, text: &str, context: &mut Context<'_>) -> Option<Taken> {
    let variable = context.name.clone();
    let pairs = text.split(',').map(str::trim).enumerate().filter(|(_, pair)| !pair.is_empty());
    for (at, pair) in pairs {
        let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, text) = (name.trim(), text.trim());
        let is_name = pair.contains('=') && http::HeaderName::from_bytes(name.as_bytes()).is_ok();
        // What is no name may be a piece of a credential.
        let named = if is_name { format!("header `{name}`") } else { format!("pair {}", at + 1) };
        if is_name && !value::is_percent_encoded(text) {
            context.warnings.push(format!(
                "environment variable {variable}: the value of {named} has a % that begins no percent-encoding, which is sent as it is; write %25 for %"
            ));
        }
        let Headers { values, unsendable } = &mut config.otlp.headers;
        let mut unsendable = |reason: &str| unsendable.push(format!("{named} of {variable} ({reason})"));
        match value::percent_decoded(text).filter(|_| is_name).and_then(|text| header(name, &text)) {
            Some((name, text)) => {
                if let Some(reason) = Headers::refusal(&name) {
                    unsendable(reason);
                } else if values.insert(name, text).is_some() {
                    unsendable("it is there twice");
                }
            }
            None => unsendable("it is not one that can be sent"),
        }
    }
    Some(Taken::Set)
}

fn compression(config: &mut Config, text: &str, _: &mut Context<'_>) -> Option<Taken> {
    let choices = [("none", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
    set(assign(&mut config.otlp.compression, choice(&text.to_ascii_lowercase(), &choices)))
}

fn histograms(config: &mut Config, text: &str, _: &mut Context<'_>) -> Option<Taken> {
    let choices = [
        ("explicit_bucket_histogram", Histograms::Explicit),
        ("base2_exponential_bucket_histogram", Histograms::Exponential),
    ];
    set(assign(&mut config.otlp.histograms, choice(&text.to_ascii_lowercase(), &choices)))
}

/// What takes the least memory here is cumulative: no total has to be remembered.
fn temporality(config: &mut Config, text: &str, _: &mut Context<'_>) -> Option<Taken> {
    let choices = [
        ("cumulative", Temporality::Cumulative),
        ("delta", Temporality::Delta),
        ("lowmemory", Temporality::Cumulative),
    ];
    set(assign(&mut config.otlp.temporality, choice(&text.to_ascii_lowercase(), &choices)))
}

fn certificate(config: &mut Config, text: &str, _: &mut Context<'_>) -> Option<Taken> {
    set(assign(&mut config.otlp.certificate, path(text).map(Some)))
}

fn client_certificate(config: &mut Config, text: &str, _: &mut Context<'_>) -> Option<Taken> {
    set(assign(&mut config.otlp.client_certificate, path(text).map(Some)))
}

fn client_key(config: &mut Config, text: &str, _: &mut Context<'_>) -> Option<Taken> {
    set(assign(&mut config.otlp.client_key, path(text).map(Some)))
}

/// A relative path begins at the working directory.
fn path(text: &str) -> Option<PathBuf> {
    std::path::absolute(text).ok().filter(|_| !text.contains('\0'))
}

/// One mistake makes all of it void, as the specification wants it.
fn resource_attributes(config: &mut Config, text: &str, _: &mut Context<'_>) -> Option<Taken> {
    let pairs = pairs(text).filter(|pairs| pairs.iter().all(|(name, _)| !name.is_empty()))?;
    set(assign(&mut config.otlp.resource_attributes, Some(pairs.into_iter().collect())))
}

/// The specification takes no other word for true, and a warning for any other than these two.
fn boolean(text: &str) -> Option<bool> {
    choice(&text.to_ascii_lowercase(), &[("true", true), ("false", false)])
}

fn milliseconds(text: &str, most: u64) -> Option<Duration> {
    whole(text, 100..=most).map(Duration::from_millis)
}
