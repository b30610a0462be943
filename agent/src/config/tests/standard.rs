//! OpenTelemetry's own variables, one by one.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{Compression, Endpoint, Histograms, Loaded, LogLevel, Otlp, Protocol, Temporality, load},
    inputs, load_file,
};

fn loaded(variables: &[(&str, &str)]) -> Loaded {
    load(&inputs(variables)).unwrap()
}

/// What the variables make of the settings, without a warning.
#[track_caller]
fn otlp(variables: &[(&str, &str)]) -> Otlp {
    let loaded = loaded(variables);
    assert_eq!(loaded.warnings, Vec::<String>::new(), "{variables:?}");
    loaded.config.otlp
}

/// The same for events.
#[track_caller]
fn logs(variables: &[(&str, &str)]) -> Otlp {
    let loaded = loaded(variables);
    assert_eq!(loaded.warnings, Vec::<String>::new(), "{variables:?}");
    loaded.config.logs
}

fn defaults() -> Otlp {
    super::expected_defaults().otlp
}

#[allow(clippy::unnecessary_wraps, reason = "as the settings hold it")]
fn endpoint(url: &str, is_for_signal: bool) -> Option<Endpoint> {
    Some(Endpoint { url: url.parse().unwrap(), is_for_signal })
}

/// For one key: its variables for metrics and for logs, the one for all signals, and what is to become of a value of it.
fn check_pair<T: PartialEq + std::fmt::Debug>(
    suffix: &str,
    get: fn(&Otlp) -> T,
    [(one, of_one), (two, of_two)]: [(&str, T); 2],
) {
    let default = get(&defaults());
    let all = format!("OTEL_EXPORTER_OTLP_{suffix}");
    let of_signals = [("METRICS", "LOGS", otlp as fn(&[(&str, &str)]) -> Otlp), ("LOGS", "METRICS", logs)];
    for (signal, other, read) in of_signals {
        let [own, others] = [signal, other].map(|signal| format!("OTEL_EXPORTER_OTLP_{signal}_{suffix}"));
        let get = |variables: &[(&str, &str)]| get(&read(variables));
        assert_eq!(get(&[(&all, one)]), of_one, "{all}={one}");
        assert_eq!(get(&[(&own, two)]), of_two, "{own}={two}");
        assert_eq!(get(&[(&all, one), (&own, two)]), of_two, "the signal's own wins: {suffix}");
        assert_eq!(get(&[(&all, one), (&others, two)]), of_one, "another signal's is none: {suffix}");
        assert_eq!(get(&[(&all, one), (&own, "")]), of_one, "empty is unset: {suffix}");
        assert_eq!(get(&[(&all, ""), (&own, "  ")]), default, "empty is unset: {suffix}");
    }
}

#[test]
fn each_exporter_variable_is_read_for_metrics_for_logs_and_for_all_signals() {
    let path = |text: &str| Some(std::path::PathBuf::from(text));
    let duration = Duration::from_millis;
    let headers = |name: &str| BTreeMap::from([(name.to_owned(), "x".to_owned())]);
    check_pair(
        "ENDPOINT",
        |it| it.endpoint.clone(),
        [
            ("http://all:4317/x", endpoint("http://all:4317/x", false)),
            ("https://metrics:4317/y", endpoint("https://metrics:4317/y", true)),
        ],
    );
    check_pair("PROTOCOL", |it| it.protocol, [("HTTP/Protobuf", Protocol::HttpProtobuf), ("GRPC", Protocol::Grpc)]);
    check_pair("TIMEOUT", |it| it.timeout, [("1500", duration(1500)), ("0", duration(300_000))]);
    check_pair("HEADERS", |it| it.headers.values.clone(), [("a=x", headers("a")), ("B=x", headers("b"))]);
    check_pair("COMPRESSION", |it| it.compression, [("GZip", Compression::Gzip), ("zstd", Compression::Zstd)]);
    check_pair("CERTIFICATE", |it| it.certificate.clone(), [("/one", path("/one")), ("/two", path("/two"))]);
}

#[test]
fn each_other_variable_is_read() {
    assert_eq!(otlp(&[("OTEL_METRIC_EXPORT_INTERVAL", "2500")]).interval, Duration::from_millis(2500));
    let histograms = |value| otlp(&[("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", value)]).histograms;
    assert_eq!(histograms("explicit_bucket_histogram"), Histograms::Explicit);
    assert_eq!(histograms("base2_exponential_bucket_histogram"), Histograms::Exponential);
    assert_eq!(otlp(&[("OTEL_SERVICE_NAME", "agent")]).service_name.as_deref(), Some("agent"));
    for (value, level) in [("debug", LogLevel::Debug), ("WARN", LogLevel::Warn), ("trace", LogLevel::Trace)] {
        assert_eq!(loaded(&[("OTEL_LOG_LEVEL", value)]).config.log.level, level);
    }
    let temporality = |value| otlp(&[("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", value)]).temporality;
    assert_eq!(temporality("Delta"), Temporality::Delta);
    assert_eq!(["Cumulative", "lowmemory"].map(temporality), [Temporality::Cumulative; 2]);
    // Of other signals and of what podlens does not have.
    for name in
        ["OTEL_SOMETHING_ELSE", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_BSP_SCHEDULE_DELAY"]
    {
        assert_eq!(otlp(&[(name, "x")]), defaults());
    }
    let attributes =
        otlp(&[("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=prod, a%2Cb = c%3D%20d,")]).resource_attributes;
    let expected = [("a,b", "c= d"), ("k8s.cluster.name", "prod")];
    assert_eq!(attributes, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
}

#[test]
fn a_scheme_may_be_left_out_for_grpc_alone() {
    let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317");
    let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "TRUE");
    assert_eq!(otlp(&[all]).endpoint, endpoint("https://c:4317", false));
    assert_eq!(otlp(&[all, insecure]).endpoint, endpoint("http://c:4317", false));
    let secure_metrics = ("OTEL_EXPORTER_OTLP_METRICS_INSECURE", "false");
    assert_eq!(otlp(&[all, insecure, secure_metrics]).endpoint, endpoint("https://c:4317", false));
    let over_http = loaded(&[all, insecure, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]);
    assert_eq!(over_http.config.otlp.endpoint, None);
    assert!(over_http.warnings[0].contains("OTEL_EXPORTER_OTLP_ENDPOINT is `c:4317`, but must be a URL"));
}

#[test]
fn what_is_switched_off_is_not_pushed_unless_podlens_own_key_switches_it_on() {
    let yaml = "otlp: {endpoint: 'http://c:4317'}";
    for (variables, enabled) in [
        (&[][..], true),
        (&[("OTEL_METRICS_EXPORTER", "none")], false),
        (&[("OTEL_METRICS_EXPORTER", "None")], false),
        (&[("OTEL_METRICS_EXPORTER", "otlp")], true),
        (&[("OTEL_METRICS_EXPORTER", "prometheus")], false),
        (&[("OTEL_METRICS_EXPORTER", "prometheus, otlp")], true),
        (&[("OTEL_METRICS_EXPORTER", "")], true),
        (&[("OTEL_SDK_DISABLED", "true")], false),
        (&[("OTEL_SDK_DISABLED", "TRUE")], false),
        (&[("OTEL_SDK_DISABLED", "false")], true),
        (&[("OTEL_SDK_DISABLED", "")], true),
        (&[("OTEL_SDK_DISABLED", "false"), ("OTEL_METRICS_EXPORTER", "none")], false),
        (&[("OTEL_SDK_DISABLED", "true"), ("OTEL_METRICS_EXPORTER", "otlp")], false),
        (&[("OTEL_SDK_DISABLED", "true"), ("PODLENS_OTLP_ENABLED", "true")], true),
    ] {
        let loaded = load_file(yaml, variables).unwrap();
        assert_eq!(loaded.config.otlp.enabled, enabled, "{variables:?}");
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{variables:?}");
    }
}

#[test]
fn events_go_wherever_the_variables_for_logs_say() {
    let both = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
    let of_metrics = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m:4317");
    let of_logs = ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://l:4317");
    let off = |variable| (variable, "none");
    for (variables, metrics, events) in [
        (&[][..], false, false),
        (&[both], true, true),
        (&[of_metrics], true, false),
        (&[of_logs], false, true),
        (&[both, off("OTEL_LOGS_EXPORTER")], true, false),
        (&[both, off("OTEL_METRICS_EXPORTER")], false, true),
        (&[both, ("OTEL_SDK_DISABLED", "true")], false, false),
        (&[both, ("PODLENS_OTLP_ENABLED", "false")], false, false),
        (&[both, ("PODLENS_EVENTS_ENABLED", "false")], true, false),
        (&[both, off("OTEL_LOGS_EXPORTER"), ("PODLENS_OTLP_ENABLED", "true")], true, true),
    ] {
        let loaded = loaded(variables);
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{variables:?}");
        let config = loaded.config;
        assert_eq!(config.otlp.enabled && config.otlp.endpoint.is_some(), metrics, "{variables:?}");
        assert_eq!(config.tells_events(), events, "{variables:?}");
    }
    // Podlens' own key stands over the variables of both.
    let own = load_file("otlp: {endpoint: 'http://own:4317'}", &[of_metrics, of_logs]).unwrap().config;
    assert_eq!(
        (own.otlp.endpoint, own.logs.endpoint),
        (endpoint("http://own:4317", false), endpoint("http://own:4317", false))
    );
    // A header that cannot be sent holds back what it belongs to.
    let headers = loaded(&[both, ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "secret")]);
    assert!(headers.config.otlp.enabled && !headers.config.tells_events());
    assert_eq!(headers.warnings.len(), 1, "{:?}", headers.warnings);
    assert!(
        headers.warnings[0].contains("without pair 1 of OTEL_EXPORTER_OTLP_LOGS_HEADERS"),
        "{:?}",
        headers.warnings
    );
}

#[test]
fn a_standard_variable_that_cannot_be_used_is_passed_over_with_a_warning_that_says_why() {
    for (name, value, expects) in [
        ("OTEL_SDK_DISABLED", "1", "true or false"),
        ("OTEL_METRICS_EXPORTER", "zipkin", "otlp or none, or a list with either"),
        ("OTEL_LOGS_EXPORTER", "zipkin", "otlp or none, or a list with either"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "always", "cumulative, delta or lowmemory"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "tcp", "grpc or http/protobuf"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "unix:///x", "a URL with http:// or https://, without user or query"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "15s", "a whole number of milliseconds from 100 to 3600000"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "a whole number of milliseconds from 100 to 3600000"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "300001", "a whole number of milliseconds from 100 to 300000, or 0"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "snappy", "none, gzip or zstd"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "drop",
            "explicit_bucket_histogram or base2_exponential_bucket_histogram",
        ),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c", "key=value,key=value with percent-encoded keys and values"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c=100%", "key=value,key=value with percent-encoded keys and values"),
        ("OTEL_LOG_LEVEL", "loud", "error, warn, info, debug or trace"),
    ] {
        let loaded = loaded(&[(name, value)]);
        assert_eq!(loaded.config, super::expected_defaults(), "{name}={value}");
        let warning = format!("environment variable {name} is `{value}`, but must be {expects}; passed over");
        assert_eq!(loaded.warnings, [warning]);
    }
    // The one for all signals then counts.
    let fallen_back = loaded(&[("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "x"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500")]);
    assert_eq!(fallen_back.config.otlp.timeout, Duration::from_millis(1500));
    let json = loaded(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]);
    assert_eq!(json.config.otlp.protocol, Protocol::HttpProtobuf);
    assert_eq!(
        json.warnings,
        ["environment variable OTEL_EXPORTER_OTLP_PROTOCOL is `http/json`; podlens sends http/protobuf instead"]
    );
}

#[test]
fn a_bad_header_is_named_the_good_ones_stay_and_nothing_goes_without_it() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
    let check = |headers: &str, good: &[(&str, &str)], enabled: bool, warned: &[&str]| {
        let loaded = loaded(&[endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", headers)]);
        let good: BTreeMap<String, String> =
            good.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(loaded.config.otlp.headers.values, good, "{headers}");
        assert_eq!(loaded.config.otlp.enabled, enabled, "{headers}");
        assert_eq!(loaded.warnings.len(), warned.len(), "{:?}", loaded.warnings);
        for (warning, part) in loaded.warnings.iter().zip(warned) {
            assert!(warning.contains(part), "{warning}");
            assert!(!warning.contains("secret"), "{warning}");
        }
    };
    check(
        "authorization=Basic%20abc%3D,x-scope-orgid=prod",
        &[("authorization", "Basic abc="), ("x-scope-orgid", "prod")],
        true,
        &[],
    );
    // A % that begins nothing is what was meant to be sent.
    check(
        "authorization=Basic secret%,x-scope-orgid=prod",
        &[("authorization", "Basic secret%"), ("x-scope-orgid", "prod")],
        true,
        &["OTEL_EXPORTER_OTLP_HEADERS: the value of header `authorization` has a % that begins no"],
    );
    for (bad, named) in [
        ("secret", "without pair 2 of OTEL_EXPORTER_OTLP_HEADERS"),
        ("a secret=x", "without pair 2 of"),
        ("authorization=secret%0A", "without header `authorization` of"),
        ("authorization=secret%FF", "without header `authorization` of"),
        ("token-bin=secret", "without header `token-bin` of"),
        ("Content-Length=secret", "without header `Content-Length` of OTEL_EXPORTER_OTLP_HEADERS (each request has it"),
        ("grpc-timeout=secret", "without header `grpc-timeout` of OTEL_EXPORTER_OTLP_HEADERS (names that begin with"),
    ] {
        check(&format!("x-scope-orgid=prod,{bad}"), &[("x-scope-orgid", "prod")], false, &[named]);
    }
    // Podlens' own key replaces all of them.
    let bad = ("OTEL_EXPORTER_OTLP_HEADERS", "secret");
    let replaced = load(&inputs(&[endpoint, bad, ("PODLENS_OTLP_HEADERS", "a=b")])).unwrap();
    assert!(replaced.config.otlp.enabled && replaced.warnings.is_empty(), "{:?}", replaced.warnings);
}

#[test]
fn half_a_clients_identity_from_standard_variables_is_passed_over_and_a_relative_path_is_found() {
    let certificate = ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/c");
    let key = ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "keys/k");
    let here = std::env::current_dir().unwrap();
    // For logs it would be half of one.
    let both = otlp(&[certificate, key, ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", "/l")]);
    assert_eq!((both.client_certificate, both.client_key), (Some("/c".into()), Some(here.join("keys/k"))));
    for (half, named) in
        [(certificate, "client certificate is set without its key"), (key, "client key is set without")]
    {
        let loaded = loaded(&[half]);
        assert_eq!(loaded.config, super::expected_defaults());
        assert!(loaded.warnings[0].contains(named), "{:?}", loaded.warnings);
    }
    assert_eq!(otlp(&[("OTEL_EXPORTER_OTLP_CERTIFICATE", "./ca.pem")]).certificate, Some(here.join("ca.pem")));
    // With the other half from podlens' own key it is whole; half of podlens' own is a mistake.
    let mixed = load_file("otlp: {client_key: /k}", &[certificate]).unwrap().config.otlp;
    assert_eq!((mixed.client_certificate, mixed.client_key), (Some("/c".into()), Some("/k".into())));
    assert!(load_file("otlp: {client_certificate: /other}", &[certificate]).is_err());
}
