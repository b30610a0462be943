//! docs/metrics.md, docs/events.md and docs/config.md, made from the definitions that the agent itself uses; the tables of
//! docs/kernels.md, made from what `cargo xtask vm --record` kept.
//!
//! Compares with the files; `cargo xtask docs` sets `PODLENS_TEST_UPDATE` and so rewrites them. Needs neither root nor a
//! kernel: that a running agent has just these is for agent/tests/own.rs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use podlens::{
    attribution::kubernetes::REQUESTS,
    collectors::{ALL, Spec, map_memory, on_demand, switchable},
    config,
    fleet::{causes::Reason, events, kinds::Kind as FleetKind, placement::Exclusion, rollout::Rollout, state::STATES},
    pipeline::{facts, kinds, losses},
    signal::{ByDefault, EventKind, InfoMetric, Kind, Label, LabelValues, Layout, Metric, Unit},
    telemetry::{OwnLabel, OwnMetric, OwnValues, SelfTelemetry, fleet, metrics},
};

const METRICS: &str = "\
# Metrics

Made from the collectors' definitions by `cargo xtask docs`; change those instead.

## Labels that say whose it is

| entity | labels |
| --- | --- |
| container of a pod | `namespace`, `pod`, `container`, `node` |
| pod's own cgroup and its sandbox | the same, `container` empty |
| systemd unit, container outside pods, plain cgroup | `unit`, `node`; `namespace`, `pod` and `container` empty |
| pods of one workload, where containers are folded ([cardinality.md](cardinality.md)) | `namespace`, `workload`, `workload_type`, `node`; `pod` and `container` empty |
| kernel threads in the root cgroup | `unit=\"kernel\"`, the others as with a unit |
| other tasks in the root cgroup | `unit=\"/\"`, the others as with a unit |
| tasks whose cgroup has no slot or no known path | `unit=\"unattributed\"`, the others as with a unit |
| on a node that is itself a container (kind, k3d): whatever else runs on its host | `unit=\"outside\"`, the others as with a unit |

To Prometheus an empty label is an absent one, in queries too. The page has it all the same: where a scrape honours labels
(`honor_labels: true`), it keeps out the label of the pod that is scraped, the agent's own.

Until its name is known, a pod is called by its uid, a container by the first 12 digits of its id, and the namespace is
empty. No process id, address or port is ever a label. A value that cannot be measured has no sample; it is never 0.
A cgroup is called by the path that it had when podlens met it. That cgroup version 1 lets one be renamed is not followed.

\"By default\" says which series there are as long as `series.allow` does not name the metric; where it does, all of them
([cardinality.md](cardinality.md)).

In OTLP each entity is a resource, and the name is the one under \"OTLP\"; a metric's own labels are attributes.

Histograms are counted in 32 buckets whose bounds are powers of two in seconds, from 2^-24 s (60 ns) to 64 s. OTLP gets
them all, as an exponential histogram of scale 0, and so does a Prometheus that takes native histograms, as one of schema 0;
text gets every second bound from 2^-20 s (1 us) to 4 s ([prometheus.md](prometheus.md)).
";

const EVENTS: &str = "\
# Events

Made from the definitions by `cargo xtask docs`; change those instead.

podlens sends each event once, as an OTLP log record, to the receiver of the metrics, unless OpenTelemetry's variables for logs name
another ([otlp.md](otlp.md)). `event_name` is the name below. The record's resource is that of the entity, the same as in metrics, or
the agent's own (`service.name` = `podlens`). The time is when the event happened, the observed time when podlens noticed it. An
event waits up to 30 s for the name of a new pod. An attribute whose value is not known is absent.

While the receiver is away, 4,096 events wait; beyond that the oldest are dropped. `podlens_events_total` counts the events that
podlens noticed, `podlens_otlp_log_records_total` what became of them: sent, dropped and rejected add up to it.

`events.enabled: false` switches all events off. Then, and without an OTLP endpoint, podlens watches nothing for them.

Both the pod status and the kernel can report a container's end; podlens sends one event for it. It prefers the pod status, which has
the reason, and adds the signal from the kernel. If no pod status comes within 15 s of the container's removal, or none can come
(outside pods, where names come from annotations or from nowhere, and when the agent stops), podlens uses the kernel's report: the
end of the first process of a PID namespace in a container's cgroup, once that cgroup is removed. For a container that shares its
pod's or the node's PID namespace there is the pod status alone. podlens sends no event for a pod's sandbox, nor for what ended
before the agent's start.

An OOM kill ends a process. If that was the container's first process, the container ends as well: that is an event of its own,
`podlens.container.failed` with the reason `OOMKilled` of the pod status. If it was another process, no pod status reports it.

| event | severity | means |
| --- | --- | --- |
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

Events are log records: for them, a standard variable with `LOGS` in its name takes the place of the one with `METRICS`.

A dot in a key is a level in the file. A key or a `PODLENS_...` variable that does not exist is refused with the nearest
valid name, a wrong value with what it must be.

All of it is read at the start alone, and SIGHUP changes nothing. A file that it names is a regular one, or a link to one: a
pipe or a device is refused.

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
    for metric in [&facts::CPU_REQUEST, &facts::MEMORY_REQUEST] {
        push_metric(&mut text, metric);
    }
    push_own(&mut text);
    push_fleet(&mut text);
    check("metrics.md", &text);
}

/// The part of a document between two marks must be `wanted`, or becomes it.
fn check_part(name: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    let present = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- made by `cargo xtask docs` -->\n", "<!-- end -->");
    let (before, rest) = present.split_once(begin).unwrap_or_else(|| panic!("{name} has no line {begin:?}"));
    let (part, after) = rest.split_once(end).unwrap_or_else(|| panic!("{name} has no line {end:?}"));
    if std::env::var_os("PODLENS_TEST_UPDATE").is_some() {
        return std::fs::write(&path, [before, begin, wanted, end, after].concat()).unwrap();
    }
    assert!(part == wanted, "{name} is not what the definitions give: run `cargo xtask docs`");
}

#[test]
fn the_tables_of_memory_are_what_the_collectors_say() {
    for name in ["ARCHITECTURE.md", "docs/overhead.md"] {
        check_part(name, &map_memory::tables());
    }
}

#[test]
fn the_tables_of_kernels_are_what_was_recorded() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kernels.json");
    let runs = testkit::kernels::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
    check_part("docs/kernels.md", &testkit::kernels::tables(&runs));
}

#[test]
fn the_list_of_events_is_what_the_definitions_give() {
    let mut text = EVENTS.to_owned();
    let all = || kinds().chain(events::ALL.iter().copied());
    for kind in all() {
        writeln!(text, "| `{}` | {} | {} |", kind.name, kind.severity.text(), kind.about).unwrap();
    }
    for EventKind { name, about, entity, attributes, source, .. } in all() {
        let attributes: Vec<String> =
            attributes.iter().map(|one| format!("`{}`: {}", one.name, one.about.to_owned())).collect();
        let mut rows = vec![("about", (*entity).to_owned())];
        rows.extend(attributes.into_iter().map(|attribute| ("attribute", attribute)));
        rows.push(("source", (*source).to_owned()));
        push_section(&mut text, name, about, &rows);
    }
    check("events.md", &text);
}

#[test]
fn the_list_of_keys_is_what_the_configuration_takes() {
    let reference = config::reference();
    let collectors = reference.lines().find(|line| line.contains("collectors.<name>")).unwrap();
    let names: Vec<String> = on_demand().iter().map(|name| format!("`{name}`")).collect();
    let off = format!("`false` for {}, because of their cost |", names.join(" and "));
    assert!(collectors.contains(&off), "these are off by default: {names:?}: {collectors}");
    check("config.md", &format!("{CONFIG}{reference}"));
    check_part("docs/web.md", &config::web_reference());
}

fn push_collector(text: &mut String, spec: &Spec) {
    let Spec { name, about, metrics, .. } = spec;
    let switch = if on_demand().contains(name) {
        format!("It is off; `collectors.{name}: true` switches it on. [overhead.md](overhead.md) says what it costs.")
    } else if switchable().contains(name) {
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

fn push_metric(text: &mut String, metric: &'static Metric) {
    let Metric { name, otlp_name, help, source, must_equal, .. } = metric;
    let (kind, unit) = (kind_name(metric.kind), unit_name(metric.unit));
    let of_label = |label: &Label| match label.values {
        LabelValues::Fixed(values) => {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("`{}`: {}", label.name, values.join(", "))
        }
        LabelValues::Kernel(of) => format!("`{}`: as the running kernel names them, `enum {}`", label.name, of.name),
    };
    let labels = match metric.labels {
        _ if metric.split.is_some() => {
            "`culprit_namespace` and `culprit_pod` for a pod, or `culprit_workload` where pods are folded, `culprit_unit` for anything else".to_owned()
        }
        [] => "none but the entity's".to_owned(),
        labels => labels.iter().map(of_label).collect::<Vec<_>>().join("; "),
    };
    // Others count from the agent's start, or are no totals.
    let since = "the cgroup or socket was made, whenever the agent began ([otlp.md](otlp.md#where-counting-began))";
    let since = metric.lifetime.then(|| ("counts since", since.to_owned()));
    let mut rows = vec![("kind, unit", format!("{kind}, {unit}"))];
    rows.extend(since);
    rows.extend([
        ("labels", labels),
        ("OTLP", format!("`{otlp_name}`")),
        ("by default", by_default(metric)),
        ("source", (*source).to_owned()),
        ("must equal", (*must_equal).to_owned()),
    ]);
    push_section(text, name, help, &rows);
}

/// What of a metric leaves the node unless the configuration names it.
fn by_default(metric: &'static Metric) -> String {
    let named = |combinations: &[usize]| {
        let layout = Layout::new(&[metric]);
        let values = |combination: &usize| {
            let values = layout.columns()[0].values(*combination).map(|(name, value)| format!("`{name}=\"{value}\"`"));
            values.collect::<Vec<_>>().join(" and ")
        };
        combinations.iter().map(values).collect::<Vec<_>>().join(", ")
    };
    // A distribution without an observation, a culprit that caused nothing and what is sparse have no series in any case.
    let is_sparse = metric.sparse || metric.kind == Kind::Histogram || metric.split.is_some();
    match metric.by_default {
        ByDefault::All if is_sparse => "yes, once it is not 0".to_owned(),
        ByDefault::All => "yes, from the start".to_owned(),
        ByDefault::Nonzero => "yes, once it is not 0".to_owned(),
        ByDefault::With(other) => format!("yes, from 0 on, once `{}` is not 0", other.name),
        ByDefault::Only(combinations) => format!("{} alone, once it is not 0", named(combinations)),
        ByDefault::AtLeast(combinations) => {
            format!("{} from 0 on, the others once they are not 0", named(combinations))
        }
        ByDefault::Heavy => {
            "culprits that caused, in the last minutes, at least a millisecond and a tenth of all; the others are `(other)`".to_owned()
        }
        ByDefault::Nothing => "no".to_owned(),
    }
}

fn push_info(text: &mut String, metric: &InfoMetric, labels: &str) {
    let rows = [
        ("kind, unit", "info: a gauge that is always 1".to_owned()),
        ("labels", labels.to_owned() + if metric.of_pod { ", `container` empty" } else { "" }),
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

fn push_own(text: &mut String) {
    text.push_str(
        "\n## The agent itself\n\nServed beside the others, without the labels of an entity. Counters begin at 0.\n\n\
         | metric | kind, unit | labels | meaning | exists |\n| --- | --- | --- | --- | --- |\n",
    );
    push_own_rows(text, metrics::ALL);
    for family in SelfTelemetry::new("any", None).unwrap().gather_process() {
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        let help = family.help().trim_end_matches('.');
        writeln!(text, "| `{}` | {kind} | none | {help} | always, not pushed |", family.name()).unwrap();
    }
    push_values(text, metrics::ALL);
}

fn push_fleet(text: &mut String) {
    text.push_str(
        "\n## The fleet\n\nServed by `podlens fleet` ([fleet.md](fleet.md)), beside those of the agent itself that are about the \
         process, scrapes, OTLP and events. An agent has none of them.\n\n\
         | metric | kind, unit | labels | meaning | exists |\n| --- | --- | --- | --- | --- |\n",
    );
    push_own_rows(text, fleet::ALL);
    push_values(text, fleet::ALL);
}

fn push_own_rows(text: &mut String, all: &[&OwnMetric]) {
    for OwnMetric { name, kind, unit, help, labels, only } in all {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{}`", label.name)).collect();
        let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
        let (kind, unit) = (kind_name(*kind), unit_name(*unit));
        writeln!(text, "| `{name}` | {kind}, {unit} | {labels} | {help} | {} |", only.unwrap_or("always")).unwrap();
    }
}

fn push_values(text: &mut String, all: &[&OwnMetric]) {
    text.push_str("\nValues of labels:\n\n| metric | label | values |\n| --- | --- | --- |\n");
    for OwnMetric { name, labels, .. } in all {
        for label in *labels {
            writeln!(text, "| `{name}` | `{}` | {} |", label.name, values_of(label)).unwrap();
        }
    }
}

fn values_of(label: &OwnLabel) -> String {
    let values: BTreeSet<&str> = match label.values {
        OwnValues::Fixed(values) => return listed(values),
        OwnValues::Collectors => ALL.iter().map(|spec| spec.name).collect(),
        OwnValues::LossParts => losses().map(|(part, _)| part).collect(),
        OwnValues::LossReasons => losses().map(|(_, loss)| loss.reason).collect(),
        OwnValues::NameSources => REQUESTS.iter().map(|(source, ..)| *source).collect(),
        OwnValues::NameVerbs => REQUESTS.iter().flat_map(|(_, verbs, _)| verbs.iter().copied()).collect(),
        OwnValues::NameResults => REQUESTS.iter().flat_map(|(.., results)| results.iter().copied()).collect(),
        OwnValues::Events => return "the names in [events.md](events.md)".to_owned(),
        OwnValues::FleetKinds => return listed(&FleetKind::NAMES),
        OwnValues::FleetStates => return listed(&STATES),
        OwnValues::FleetReasons => return listed(Reason::NAMES),
        OwnValues::FleetExclusions => return listed(&Exclusion::NAMES),
        OwnValues::FleetRollouts => return listed(Rollout::NAMES),
        OwnValues::Open => return "any".to_owned(),
    };
    listed(&Vec::from_iter(values))
}

fn listed(values: &[&str]) -> String {
    values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

fn unit_name(unit: Unit) -> String {
    match unit {
        Unit::Seconds => "seconds".to_owned(),
        Unit::Bytes => "bytes".to_owned(),
        Unit::Count(thing) => format!("1 ({thing})"),
        Unit::Cpus => "1 (cpu)".to_owned(),
    }
}

#[test]
fn the_table_of_losses_is_what_the_parts_declare() {
    let mut table = "| collector or part, reason | means |\n| --- | --- |\n".to_owned();
    for (part, loss) in losses() {
        writeln!(table, "| {part}, `{}` | {} |", loss.reason, loss.means).unwrap();
    }
    check_part("docs/troubleshooting.md", &table);
}
