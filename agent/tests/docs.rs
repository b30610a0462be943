//! docs/metrics.md and docs/config.md, made from the definitions that the agent itself uses.
//!
//! Compares with the files; `cargo xtask docs` sets `PODLENS_TEST_UPDATE` and so rewrites them. The agent's own
//! metrics are read from a page that a pipeline at work has written, so the kernel programs must run here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use podlens::{
    attribution::kubernetes::source,
    collectors::{ALL, CollectorSpec, State, switchable},
    config::{self, Config, NameSource},
    export::{otlp_client::OtlpCounters, prometheus::Format},
    pipeline::{Pipeline, facts},
    signal::{Container, Entity, InfoMetric, Kind, Label, LabelValues, Metric, Unit},
    telemetry::SelfTelemetry,
    telemetry::pipeline::OwnMetrics,
};
use tokio::{sync::watch, task::JoinSet};

const METRICS: &str = "\
# Metrics

Made from the collectors' definitions by `cargo xtask docs`; change those instead.

## Labels that say whose it is

| entity | labels |
| --- | --- |
| container of a pod | `namespace`, `pod`, `container`, `node` |
| pod's own cgroup and its sandbox | the same, `container` empty |
| systemd unit, container outside pods, plain cgroup | `unit`, `node` |
| kernel threads in the root cgroup | `unit=\"kernel\"`, `node` |
| other tasks in the root cgroup | `unit=\"/\"`, `node` |
| tasks whose cgroup has no slot or no known path | `unit=\"unattributed\"`, `node` |

Until its name is known, a pod is called by its uid, a container by the first 12 digits of its id, and the namespace is
empty. No process id, address or port is ever a label. A value that cannot be measured has no sample; it is never 0.

In OTLP each entity is a resource, and the name is the one under \"OTLP\"; a metric's own labels are attributes.

Histograms are counted in 32 buckets whose bounds are powers of two in seconds, from 2^-24 s (60 ns) to 64 s. OTLP gets
them all, as an exponential histogram of scale 0; Prometheus text gets every second bound from 2^-20 s (1 us) to 4 s.
";

const CONFIG: &str = "\
# Configuration

Made from the list of keys by `cargo xtask docs`; change agent/src/config/keys.rs instead.

Every key has a default. Each source stands over the one before:

1. the standard variables of OpenTelemetry's exporters (`OTEL_...`); one whose value cannot be used is passed over with a
   warning;
2. a YAML file, named by `--config` or by `PODLENS_CONFIG`;
3. `PODLENS_...` variables;
4. flags (`podlens run --help`).

A dot in a key is a level in the file. A key or a `PODLENS_...` variable that does not exist is refused with the nearest
valid name, a wrong value with what it must be.

```yaml
listen: 127.0.0.1:9464
otlp:
  endpoint: http://collector:4317
```

`podlens check` reads the same configuration and tells whether it works on this node.

";

/// The repository's file `name` must be `wanted`, or becomes it.
fn check(name: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("PODLENS_TEST_UPDATE").is_some() {
        std::fs::write(&path, wanted).unwrap();
    }
    let present = std::fs::read_to_string(&path).unwrap_or_default();
    let difference = present.lines().zip(wanted.lines()).find(|(one, other)| one != other);
    assert!(present == wanted, "docs/{name} is not what the definitions give: run `cargo xtask docs` ({difference:?})");
}

#[test]
fn the_list_of_metrics_is_what_the_definitions_give() {
    let mut text = METRICS.to_owned();
    for spec in ALL {
        push_collector(&mut text, spec);
    }
    text.push_str("\n## names\n\nWhat the source of names tells about a pod's containers while they live.\n");
    push_info(&mut text, &facts::POD_INFO, "`uid`, `workload`, `workload_type`, `qos`, `host_network`");
    push_info(&mut text, &facts::CONTAINER_INFO, "`container_id`, `image`");
    for metric in [&facts::CPU_REQUEST, &facts::MEMORY_REQUEST, &facts::MEMORY_LIMIT] {
        push_metric(&mut text, metric);
    }
    push_own(&mut text, &own_page());
    check("metrics.md", &text);
}

#[test]
fn the_list_of_keys_is_what_the_configuration_takes() {
    check("config.md", &format!("{CONFIG}{}", config::reference()));
}

fn push_collector(text: &mut String, spec: &CollectorSpec) {
    let CollectorSpec { name, about, metrics } = spec;
    let switch = if switchable().contains(name) {
        format!("`collectors.{name}: false` switches it off.")
    } else {
        "It cannot be switched off.".to_owned()
    };
    writeln!(text, "\n## {name}\n\nCollector `{name}`: {about}. {switch}").unwrap();
    if metrics.is_empty() {
        text.push_str("\nIt has no metrics of its own.\n");
    }
    for metric in *metrics {
        push_metric(text, metric);
    }
}

fn push_metric(text: &mut String, metric: &Metric) {
    let Metric { name, otlp_name, help, source, must_equal, .. } = metric;
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let unit = match metric.unit {
        Unit::Seconds => "seconds".to_owned(),
        Unit::Bytes => "bytes".to_owned(),
        Unit::Count(thing) => format!("1 ({thing})"),
        Unit::Cpus => "1 (cpu)".to_owned(),
    };
    let of_label = |label: &Label| match label.values {
        LabelValues::Fixed(values) => {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("`{}`: {}", label.name, values.join(", "))
        }
        LabelValues::Kernel(of) => format!("`{}`: as the running kernel names them, `enum {}`", label.name, of.name),
    };
    let labels = match metric.labels {
        _ if metric.split.is_some() => {
            "`culprit_namespace` and `culprit_pod` for a pod, `culprit_unit` for anything else".to_owned()
        }
        [] => "none but the entity's".to_owned(),
        labels => labels.iter().map(of_label).collect::<Vec<_>>().join("; "),
    };
    let rows = [
        ("kind, unit", format!("{kind}, {unit}")),
        ("labels", labels),
        ("OTLP", format!("`{otlp_name}`")),
        ("source", (*source).to_owned()),
        ("must equal", (*must_equal).to_owned()),
    ];
    push_section(text, name, help, &rows);
}

fn push_info(text: &mut String, metric: &InfoMetric, labels: &str) {
    let rows = [
        ("kind, unit", "info: a gauge that is always 1".to_owned()),
        ("labels", labels.to_owned() + if metric.of_pod { ", without `container`" } else { "" }),
        ("source", metric.source.to_owned()),
    ];
    push_section(text, metric.name, metric.help, &rows);
}

fn push_section(text: &mut String, name: &str, help: &str, rows: &[(&str, String)]) {
    writeln!(text, "\n### {name}\n\n{help}.\n\n| | |\n| --- | --- |").unwrap();
    for (row, value) in rows {
        writeln!(text, "| {row} | {value} |").unwrap();
    }
}

/// A family of the agent's own page.
#[derive(Default)]
struct OwnFamily {
    kind: String,
    help: String,
    /// Label names and their values.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Labels of the agent's own metrics whose values are the same on every node.
const CLOSED: &[&str] = &["collector", "state", "reason"];

fn push_own(text: &mut String, page: &str) {
    let families = parse(page);
    text.push_str(
        "\n## The agent itself\n\nServed beside the others, without the labels of an entity. `podlens_otlp_points_total` \
         exists where an OTLP endpoint is configured, `podlens_names_...` where there is a source of names.\n\n\
         | metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for (name, family) in &families {
        let mut labels: Vec<String> = family.labels.keys().map(|label| format!("`{label}`")).collect();
        if labels.is_empty() {
            labels.push("none".to_owned());
        }
        writeln!(text, "| `{name}` | {} | {} | {} |", family.kind, labels.join(", "), family.help).unwrap();
    }
    text.push_str("\nValues of labels:\n\n| metric | label | values |\n| --- | --- | --- |\n");
    for (name, family) in &families {
        for (label, values) in family.labels.iter().filter(|(label, _)| CLOSED.contains(&label.as_str())) {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            writeln!(text, "| `{name}` | `{label}` | {} |", values.join(", ")).unwrap();
        }
    }
}

fn parse(page: &str) -> BTreeMap<String, OwnFamily> {
    let mut families: BTreeMap<String, OwnFamily> = BTreeMap::new();
    let mut family = String::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            name.clone_into(&mut family);
            help.trim_end_matches('.').clone_into(&mut families.entry(family.clone()).or_default().help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
        } else if let Some((labels, _)) = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')) {
            for (label, value) in
                labels.split(',').filter_map(|one| one.split_once('=')).filter(|(one, _)| *one != "le")
            {
                let values = families.get_mut(&family).unwrap().labels.entry(label.to_owned()).or_default();
                values.insert(value.trim_matches('"').to_owned());
            }
        }
    }
    families
}

/// The agent's own metrics as a page, each with a sample: a pipeline at work, and a source of names that was asked once.
fn own_page() -> String {
    let nobodys_run = tempfile::tempdir().unwrap();
    let mut config = Config::defaults(&switchable());
    config.kubernetes.source = NameSource::Bundle;
    nobodys_run.path().clone_into(&mut config.kubernetes.bundle_root);
    let pipeline = Arc::new(Pipeline::start(&config).unwrap());
    for (name, state) in pipeline.states() {
        assert!(matches!(state, State::Running | State::Degraded(_)), "{name} must run for its counters: {state:?}");
    }
    let telemetry = SelfTelemetry::new("any", Some(Arc::new(OtlpCounters::default()))).unwrap();
    OwnMetrics::register(&telemetry, &pipeline).unwrap();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_stop, shutdown) = watch::channel(false);
    let mut tasks = JoinSet::new();
    runtime.block_on(source::start(&config.kubernetes, "any", pipeline.names(), &mut tasks, &shutdown));
    let unknown = Entity::Container(Container {
        namespace: "".into(),
        pod: "uid".into(),
        container: "".into(),
        pod_uid: "uid".into(),
        container_id: "0".repeat(64).into(),
    });
    let until = Instant::now() + Duration::from_secs(10);
    while pipeline.names().health().requests.is_empty() {
        assert!(Instant::now() < until, "the source of names was never asked");
        pipeline.names().born(&unknown, true);
        std::thread::sleep(Duration::from_millis(20));
    }
    telemetry.encode(Format::Text)
}
