//! The configuration from all its sources, and the order in which they win.

use super::{
    super::{
        Config, Error, Inputs, Origin, Wanted,
        keys::{KEYS, Set},
        load, reference, setting,
    },
    COLLECTORS, config, expected_defaults, inputs, load_file,
};

#[test]
fn nothing_given_means_the_documented_defaults() {
    assert_eq!(load(&inputs(&[])).unwrap().config, expected_defaults());
    for yaml in ["", "# nothing\n", "---\n", "---\n...\n", "{}", "\u{feff}", "otlp:\n", "log: ~\ncollectors: {}\n"] {
        assert_eq!(config(yaml, &[]), expected_defaults(), "{yaml}");
    }
    for key in KEYS.iter().filter(|key| !key.default.starts_with('(')) {
        let path = key.path.replace("<name>", "scheduler");
        let mut config = Config::defaults(COLLECTORS);
        let origin = || Origin::flag(&path);
        setting::set(&mut config, &path, key.example, origin).unwrap();
        assert_ne!(config, Config::defaults(COLLECTORS), "the example of {path} is its default");
        setting::set(&mut config, &path, key.default, origin).unwrap();
        assert_eq!(config, Config::defaults(COLLECTORS), "default of {path}");
    }
}

/// The fields of `Config`, as its pretty `Debug` names them, by dotted path.
fn fields_of_the_struct() -> Vec<String> {
    let text = format!("{:#?}", Config::defaults(COLLECTORS));
    let mut fields = Vec::new();
    let mut section = String::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let Some((name, value)) = line.trim().split_once(": ") else {
            continue;
        };
        let is_section = value.ends_with(" {");
        match indent {
            4 if is_section => section = format!("{name}."),
            4 => {
                section.clear();
                fields.push(name.to_owned());
            }
            8 if !section.is_empty() => fields.push(format!("{section}{name}")),
            _ => {}
        }
    }
    // The same keys, for events.
    fields.retain(|field| !field.starts_with("logs."));
    fields.sort();
    fields
}

#[test]
fn the_list_of_keys_and_the_struct_agree() {
    let mut keys: Vec<String> = KEYS.iter().map(|key| key.path.replace(".<name>", "")).collect();
    keys.sort();
    assert_eq!(keys, fields_of_the_struct());
}

#[test]
fn each_key_is_set_alike_by_file_and_by_variable() {
    for key in KEYS {
        if key.path.starts_with("otlp.client_") {
            continue;
        }
        let path = key.path.replace("<name>", "scheduler");
        let variable = format!("PODLENS_{}", path.replace('.', "_").to_uppercase());
        let by_variable = load(&inputs(&[(&variable, key.example)])).unwrap().config;
        let value = match (&key.set, key.example.split_once('=')) {
            (Set::Map { .. }, Some((name, value))) => format!("{{{name}: {}}}", value.replace("%20", " ")),
            _ => key.example.to_owned(),
        };
        let nested = path.split('.').enumerate().map(|(depth, part)| format!("\n{}{part}:", "  ".repeat(depth)));
        let yaml = format!("{} {value}\n", nested.collect::<String>());
        assert_ne!(by_variable, expected_defaults(), "{variable}");
        assert_eq!(config(&yaml, &[]), by_variable, "{path}");
        assert_eq!(config("", &[(&variable, key.example)]), by_variable, "{variable}");
    }
}

#[test]
fn a_client_certificate_and_its_key_are_set_together() {
    let both = config("otlp:\n  client_certificate: /c\n  client_key: /k\n", &[]);
    assert_eq!((both.otlp.client_certificate, both.otlp.client_key), (Some("/c".into()), Some("/k".into())));
    let error = load_file("otlp: {client_key: /k}", &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`otlp.client_certificate` and `otlp.client_key` belong together, but only one of them is set; set both or none"
    );
}

#[test]
fn the_probes_have_a_port_of_their_own() {
    let load = |listen: &str, health: &str| load_file(&format!("listen: '{listen}'\nhealth_listen: '{health}'"), &[]);
    for (listen, health) in [
        ("127.0.0.1:9464", "127.0.0.1:9464"),
        ("[::]:9464", "127.0.0.1:9464"),
        ("[::]:9464", "0.0.0.0:9464"),
        ("[::1]:9464", "[::]:9464"),
        ("0.0.0.0:9464", "10.0.0.1:9464"),
    ] {
        assert_eq!(
            load(listen, health).unwrap_err().to_string(),
            format!(
                "`listen` and `health_listen` have an address in common, {listen} and {health}; give `health_listen` another port, or leave it out"
            )
        );
    }
    for (listen, health) in [
        ("[::]:9464", "[::]:9465"),
        ("127.0.0.1:9464", "127.0.0.2:9464"),
        ("0.0.0.0:9464", "[::1]:9464"),
        ("[::]:0", "127.0.0.1:0"),
    ] {
        assert!(load(listen, health).is_ok(), "{listen} {health}");
    }
}

#[test]
fn patterns_that_no_metric_fits_are_told_with_the_nearest_name() {
    let series =
        config("series: {allow: 'default, podlens_cpu_*, podlens_tsks', deny: 'podlens_tcp_*, *_tasks'}", &[]).series;
    assert_eq!(
        series.strays(&["podlens_cpu_seconds_total", "podlens_tasks"]),
        [
            "no metric fits `podlens_tsks` of `series.allow`; the nearest name is podlens_tasks",
            "no metric fits `podlens_tcp_*` of `series.deny`; the nearest name is podlens_tasks",
        ]
    );
}

#[test]
fn each_source_wins_over_the_one_before() {
    let endpoint = |config: &Config| config.otlp.endpoint.as_ref().unwrap().url.to_string();
    let standard = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://standard:1");
    let own = ("PODLENS_OTLP_ENDPOINT", "http://own:1");
    let yaml = "otlp: {endpoint: 'http://file:1'}";
    assert_eq!(endpoint(&config("", &[standard])), "http://standard:1/");
    assert_eq!(endpoint(&config(yaml, &[standard])), "http://file:1/");
    assert_eq!(endpoint(&config(yaml, &[standard, own])), "http://own:1/");

    let flags = vec![("node", "by-flag".to_owned())];
    let variables = [("PODLENS_NODE", "by-variable"), ("NODE_NAME", "by-node-name")];
    assert_eq!(config("node: by-file", &[]).node, "by-file");
    assert_eq!(config("node: by-file", &variables).node, "by-variable");
    assert_eq!(config("", &variables[1..]).node, "by-node-name");
    assert_eq!(load(&Inputs { flags, ..inputs(&variables) }).unwrap().config.node, "by-flag");
}

#[test]
fn the_kubelet_is_at_the_nodes_address_unless_a_url_is_given() {
    let url = |yaml: &str, variables: &[(&str, &str)]| config(yaml, variables).kubernetes.kubelet_url.to_string();
    let file = "kubernetes: {kubelet_url: 'https://file:1'}";
    assert_eq!(url("", &[]), "https://127.0.0.1:10250/");
    assert_eq!(url("", &[("NODE_IP", "10.0.0.5")]), "https://10.0.0.5:10250/");
    assert_eq!(url("", &[("NODE_IP", "fd00::5")]), "https://[fd00::5]:10250/");
    assert_eq!(url(file, &[("NODE_IP", "10.0.0.5")]), "https://file:1/");
    let by_variable = ("PODLENS_KUBERNETES_KUBELET_URL", "https://variable:1");
    assert_eq!(url(file, &[("NODE_IP", "10.0.0.5"), by_variable]), "https://variable:1/");
}

#[test]
fn podlens_config_names_the_file_and_the_flag_wins() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("1.yaml"), directory.path().join("2.yaml"));
    std::fs::write(&one, "slots: 100").unwrap();
    std::fs::write(&two, "slots: 200").unwrap();
    let by_variable = inputs(&[("PODLENS_CONFIG", one.to_str().unwrap())]);
    assert_eq!(load(&by_variable).unwrap().config.slots, Some(100));
    assert_eq!(load(&Inputs { file: Some(two), ..by_variable }).unwrap().config.slots, Some(200));
}

#[test]
fn headers_of_a_later_source_replace_those_of_an_earlier_one() {
    let headers = |config: &Config| config.otlp.headers.values.clone().into_iter().collect::<Vec<_>>();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let yaml = "otlp:\n  headers:\n    Authorization: Bearer x.y=\n    a.b: \"\"\n";
    let by_file = config(yaml, &[("OTEL_EXPORTER_OTLP_HEADERS", "c=d")]);
    assert_eq!(headers(&by_file), [pair("a.b", ""), pair("authorization", "Bearer x.y=")]);
    assert_eq!(headers(&config(yaml, &[("PODLENS_OTLP_HEADERS", "e=f%20g")])), [pair("e", "f g")]);
    assert!(!format!("{by_file:?}").contains("Bearer"));
}

#[test]
fn a_header_that_is_there_twice_in_other_letters_is_refused() {
    let yaml = "otlp:\n  headers:\n    Authorization: secret1\n    authorization: secret2\n";
    let told = load_file(yaml, &[]).err().unwrap().to_string();
    assert!(told.contains("c.yaml:4:5: `otlp.headers` is malformed at `authorization`"), "{told}");
    assert!(load_file("", &[("PODLENS_OTLP_HEADERS", "a=secret1,A=secret2")]).is_err());
    let both =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret1,A=secret2")];
    let loaded = load_file("", &both).unwrap();
    assert!(
        !loaded.config.otlp.enabled
            && loaded.warnings[0].contains("header `A` of OTEL_EXPORTER_OTLP_HEADERS (it is there twice)")
    );
}

#[test]
fn texts_that_yaml_takes_for_numbers_stay_texts() {
    for (yaml, node) in [
        ("node: 1e3", "1e3"),
        ("node: 0x10", "0x10"),
        ("node: 'null'", "null"),
        ("node: no", "no"),
        ("node: \"1\"", "1"),
    ] {
        assert_eq!(config(yaml, &[]).node, node, "{yaml}");
    }
}

#[test]
fn variables_that_tests_or_kubernetes_set_are_passed_over() {
    let variables = [
        ("PODLENS_TEST_ANYTHING", ""),
        ("PODLENS_SERVICE_HOST", "10.96.3.4"),
        ("PODLENS_SERVICE_PORT", "9464"),
        ("PODLENS_SERVICE_PORT_METRICS", "9464"),
        ("PODLENS_PORT", "tcp://10.96.3.4:9464"),
        ("PODLENS_PORT_9464_TCP", "tcp://10.96.3.4:9464"),
        ("PODLENS_PORT_9464_TCP_PROTO", "tcp"),
        ("PODLENS_PORT_9464_TCP_PORT", "9464"),
        ("PODLENS_PORT_9464_TCP_ADDR", "10.96.3.4"),
        ("PODLENS_METRICS_SERVICE_HOST", "10.96.3.4"),
        ("PODLENS_METRICS_PORT", "tcp://10.96.3.4:9464"),
        ("PODLENS_IPV6_SERVICE_HOST", "fd00:96::4"),
        ("PODLENS_IPV6_PORT", "tcp://[fd00:96::4]:9464"),
        ("PODLENS_IPV6_PORT_9464_TCP_ADDR", "fd00:96::4"),
        ("PODLENSX", "1"),
    ];
    assert_eq!(load(&inputs(&variables)).unwrap().config, expected_defaults());
    for (name, value) in [("PODLENS_PORT", "9464"), ("PODLENS_SERVICE_HOST", "x"), ("PODLENS_PORT_9464_TCP_PROTO", "x")]
    {
        assert!(matches!(load(&inputs(&[(name, value)])), Err(Error::UnknownVariable { .. })), "{name}={value}");
    }
}

#[test]
fn a_collector_that_is_off_by_itself_runs_where_it_is_asked_for() {
    for (variables, runs) in [(&[][..], false), (&[("PODLENS_COLLECTORS_SCHEDULER", "true")][..], true)] {
        let config = load(&Inputs { on_demand: COLLECTORS, ..inputs(variables) }).unwrap().config;
        assert_eq!(config.collectors["scheduler"], runs);
    }
}

#[test]
fn the_reference_has_one_row_for_each_key() {
    let reference = reference();
    let rows: Vec<&str> = reference.lines().collect();
    assert_eq!(rows[0], "| key | variable | value | default | example | meaning |");
    assert_eq!(
        rows[2],
        "| `listen` | `PODLENS_LISTEN` | an IP address and a port, such as 0.0.0.0:9464 or [::]:9464 | `[::]:9464` | `127.0.0.1:9100` | Address on which the agent serves /metrics and its health. [::] is every IPv6 and IPv4 address of the host; without a port, the port is 9464 |"
    );
    for key in KEYS {
        let start = format!("| `{}` |", key.path);
        assert_eq!(rows.iter().filter(|row| row.starts_with(&start)).count(), 1, "{start}");
    }
    assert!(reference.contains("| `otlp.interval` | `PODLENS_OTLP_INTERVAL` | a duration from 100ms to 1h, such as 15s or 1m | `15s` | `30s` | The time between two pushes. Where it is not set: `OTEL_METRIC_EXPORT_INTERVAL` |\n"));
    assert!(reference.contains("| `collectors.<name>` | `PODLENS_COLLECTORS_<NAME>` |"));
    assert!(rows[2..].iter().take(KEYS.len()).all(|row| row.matches('|').count() == 7));
}

#[test]
fn a_metric_that_is_named_leaves_the_node_whole_and_others_as_their_definitions_say() {
    let wanted = |allow: &str, deny: &str| {
        let variables = [("PODLENS_SERIES_ALLOW", allow), ("PODLENS_SERIES_DENY", deny)];
        let given = variables.into_iter().filter(|(_, value)| !value.is_empty());
        let series = config("", &given.collect::<Vec<_>>()).series;
        ["podlens_tcp_segments_total", "podlens_tasks"].map(|name| series.wanted(name))
    };
    assert_eq!(config("", &[]).series.wanted("podlens_tasks"), Wanted::ByDefault);
    assert_eq!(wanted("default", "podlens_tcp_*"), [Wanted::Nothing, Wanted::ByDefault]);
    assert_eq!(wanted("default, podlens_tcp_*", ""), [Wanted::All, Wanted::ByDefault]);
    assert_eq!(wanted("podlens_tasks", ""), [Wanted::Nothing, Wanted::All]);
    assert_eq!(wanted("*", "*_tasks"), [Wanted::All, Wanted::Nothing]);
}
