//! The list of all keys: the one place where a key is named, described, given a default and set.
//!
//! Adding a key: one field in `Config`, its default there, one entry here.

use std::{path::PathBuf, time::Duration};

use super::{
    ClassicHistograms, Compression, Config, Detail, Endpoint, Headers, Histograms, Identity, LogFormat, LogLevel,
    NameSource, Patterns, Protocol, Temporality, Units,
    value::{
        absolute_path, boolean, choice, duration, endpoint, header, is_node_name, patterns, socket_address, whole,
    },
};

/// One key of the configuration.
pub(super) struct Key {
    /// From the file's root, parts joined by dots. `<name>` stands for any collector's name.
    pub(super) path: &'static str,
    /// What a value must be, to follow "must be".
    pub(super) expects: &'static str,
    /// In the file's spelling; in parentheses where it is no constant.
    pub(super) default: &'static str,
    /// A valid value other than the default, in the spelling of variables.
    pub(super) example: &'static str,
    /// One line, without a final stop.
    pub(super) help: &'static str,
    pub(super) set: Set,
}

/// How a key's value gets into the configuration. None: the text is not what the key expects.
pub(super) enum Set {
    /// One value.
    Value(fn(&mut Config, &str) -> Option<()>),
    /// One value for each collector, whose name comes first.
    PerCollector(fn(&mut Config, &str, &str) -> Option<()>),
    /// Names of the user's choice with a value each: a mapping in the file, `name=value,...` in a variable. What a
    /// source gives replaces all that the sources before it gave.
    Map { clear: fn(&mut Config), put: fn(&mut Config, &str, &str) -> Option<()> },
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const TENTH: Duration = Duration::from_millis(100);

const DETAILS: [(&str, Detail); 3] =
    [("container", Detail::Container), ("pod", Detail::Pod), ("workload", Detail::Workload)];

pub(super) const KEYS: &[Key] = &[
    Key {
        path: "listen",
        expects: "an IP address and a port, such as 0.0.0.0:9464 or [::]:9464",
        default: "[::]:9464",
        example: "127.0.0.1:9100",
        help: "Address on which the agent serves /metrics and its health. [::] is every IPv6 and IPv4 address of the host; without a port, the port is 9464",
        set: Set::Value(|config, text| assign(&mut config.listen, socket_address(text))),
    },
    Key {
        path: "health_listen",
        expects: "none or an IP address and a port, such as [::]:9465",
        default: "none",
        example: "0.0.0.0:9465",
        help: "Address on which the agent also serves /healthz and /readyz, always without TLS and open to all; with none, it serves them only on the address of /metrics",
        set: Set::Value(|config, text| {
            let address = || text.parse().ok().map(Some);
            assign(&mut config.health_listen, if text == "none" { Some(None) } else { address() })
        }),
    },
    Key {
        path: "web.config_file",
        expects: "an absolute path",
        default: "(none: without TLS and open to all)",
        example: "/etc/podlens/web.yaml",
        help: "The server's TLS, users and headers, in the form of Prometheus' own web configuration file; docs/web.md says which fields",
        set: Set::Value(|config, text| assign_path(&mut config.web.config_file, text)),
    },
    Key {
        path: "node",
        expects: "1 to 253 letters, digits, dots, dashes or underscores",
        default: "(`NODE_NAME`, else the host's name)",
        example: "worker-1",
        help: "The node's name on every series",
        set: Set::Value(|config, text| assign(&mut config.node, is_node_name(text).then(|| text.to_owned()))),
    },
    Key {
        path: "max_age",
        expects: "a duration from 0s to 1m, such as 500ms or 1s",
        default: "1s",
        example: "250ms",
        help: "Requests within this time share one sweep of the kernel's counters",
        set: Set::Value(|config, text| assign(&mut config.max_age, duration(text, Duration::ZERO..=MINUTE))),
    },
    Key {
        path: "slots",
        expects: "auto or a whole number from 64 to 16384",
        default: "auto",
        example: "4096",
        help: "How many containers and units podlens can count at the same time; the kernel's memory for counters grows with this number and with the number of CPUs. auto chooses by the measured CPUs (those up to the highest online one, and 8 more) and by the container's memory limit, half of which may go there; `podlens check` shows the number",
        set: Set::Value(|config, text| {
            let number = || whole(text, 64..=16384).and_then(|slots| u32::try_from(slots).ok());
            assign(&mut config.slots, if text == "auto" { Some(None) } else { number().map(Some) })
        }),
    },
    Key {
        path: "cgroup_root",
        expects: "an absolute path",
        default: "/sys/fs/cgroup",
        example: "/host/sys/fs/cgroup",
        help: "Where the host's cgroup tree is mounted",
        set: Set::Value(|config, text| assign(&mut config.cgroup_root, absolute_path(text))),
    },
    Key {
        path: "linger",
        expects: "a duration from 1s to 1h, such as 90s or 5m",
        default: "5m",
        example: "90s",
        help: "How long the final values of a removed container wait for an exporter that has not taken them",
        set: Set::Value(|config, text| assign(&mut config.linger, duration(text, SECOND..=HOUR))),
    },
    Key {
        path: "units",
        expects: "each, slice or off",
        default: "each",
        example: "slice",
        help: "Detail outside pods: with `each`, every unit has series of its own; `slice` counts a unit under its topmost slice or directory; `off` counts all units as unit `(units)`. Sums stay the same",
        set: Set::Value(|config, text| {
            let choices = [("each", Units::Each), ("slice", Units::Slice), ("off", Units::Off)];
            assign(&mut config.units, choice(text, &choices))
        }),
    },
    Key {
        path: "collectors.<name>",
        expects: "true or false",
        default: "(`true`; `false` for `udp` and `dns`, because of their cost)",
        example: "false",
        help: "Whether the collector of this name runs; docs/overhead.md says what each costs",
        set: Set::PerCollector(|config, name, text| assign(config.collectors.get_mut(name)?, boolean(text))),
    },
    Key {
        path: "events.enabled",
        expects: "true or false",
        default: "true",
        example: "false",
        help: "Whether podlens sends events, such as the end of a container, to the OTLP receiver as log records; without a receiver it watches nothing for them",
        set: Set::Value(|config, text| assign(&mut config.events.enabled, boolean(text))),
    },
    Key {
        path: "log.level",
        expects: "error, warn, info, debug or trace",
        default: "info",
        example: "debug",
        help: "The least severe messages that are logged",
        set: Set::Value(|config, text| {
            assign(&mut config.log.level, LogLevel::ALL.into_iter().find(|level| level.as_str() == text))
        }),
    },
    Key {
        path: "log.format",
        expects: "text or json",
        default: "text",
        example: "json",
        help: "Format of the log lines",
        set: Set::Value(|config, text| {
            assign(&mut config.log.format, choice(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)]))
        }),
    },
    Key {
        path: "prometheus.classic_histograms",
        expects: "auto, always or never",
        default: "auto",
        example: "always",
        help: "Which pages have classic buckets: `auto` is the text formats alone, since the protobuf format has native histograms; `always` is all formats, for a Prometheus that asks for protobuf and does not store native histograms; with `never`, text has only the count and the sum of a distribution",
        set: Set::Value(|config, text| {
            let choices = [
                ("auto", ClassicHistograms::Auto),
                ("always", ClassicHistograms::Always),
                ("never", ClassicHistograms::Never),
            ];
            assign(&mut config.prometheus.classic_histograms, choice(text, &choices))
        }),
    },
    Key {
        path: "series.detail",
        expects: "container, pod or workload",
        default: "container",
        example: "pod",
        help: "Detail of pods: series of each `container`, each `pod`, or each `workload`, such as a deployment, on the node. Sums stay the same",
        set: Set::Value(|config, text| assign(&mut config.series.detail, choice(text, &DETAILS))),
    },
    Key {
        path: "series.collectors.<name>",
        expects: "default, container, pod or workload",
        default: "default",
        example: "workload",
        help: "The same for the metrics of the collector of this name; `default` is the value of `series.detail`",
        set: Set::PerCollector(|config, name, text| {
            let detail = if text == "default" { Some(None) } else { choice(text, &DETAILS).map(Some) };
            assign(config.series.collectors.get_mut(name)?, detail)
        }),
    },
    Key {
        path: "series.allow",
        expects: "names of metrics, separated by commas, in which * stands for any text, and the word default",
        default: "default",
        example: "default,podlens_cpu_mode_*,podlens_memory_bytes",
        help: "Metrics that leave the node, by their names in Prometheus, each with all of its series; `default` stands for the default series, which docs/metrics.md gives for each metric. It does not apply to the agent's own metrics",
        set: Set::Value(|config, text| {
            assign(&mut config.series.allow, patterns(text).filter(|all| !all.is_empty()).map(Patterns))
        }),
    },
    Key {
        path: "series.deny",
        expects: "names of metrics, separated by commas, in which * stands for any text",
        default: "(none)",
        example: "podlens_tcp_*",
        help: "Metrics of `series.allow` that do not leave the node",
        set: Set::Value(|config, text| assign(&mut config.series.deny, patterns(text).map(Patterns))),
    },
    Key {
        path: "series.limit",
        expects: "none or a whole number from 100 to 10000000",
        default: "none",
        example: "20000",
        help: "How many series the node has at most, a distribution counted as one. Beyond that podlens folds the least active containers into their workloads; `podlens_folded_containers` and the log report it",
        set: Set::Value(|config, text| {
            let number = || whole(text, 100..=10_000_000).and_then(|number| usize::try_from(number).ok());
            assign(&mut config.series.limit, if text == "none" { Some(None) } else { number().map(Some) })
        }),
    },
    Key {
        path: "otlp.enabled",
        expects: "true or false",
        default: "true",
        example: "false",
        help: "Whether metrics are pushed to `otlp.endpoint`",
        set: Set::Value(|config, text| assign(&mut config.otlp.enabled, boolean(text))),
    },
    Key {
        path: "otlp.protocol",
        expects: "grpc or http/protobuf",
        default: "grpc",
        example: "http/protobuf",
        help: "Protocol of the receiver; receivers have a port for each, by convention 4317 for gRPC and 4318 for HTTP",
        set: Set::Value(|config, text| {
            let choices = [("grpc", Protocol::Grpc), ("http/protobuf", Protocol::HttpProtobuf)];
            assign(&mut config.otlp.protocol, choice(text, &choices))
        }),
    },
    Key {
        path: "otlp.endpoint",
        expects: "a URL with http:// or https://, without user or query, such as http://collector:4317 or http://[fd00::5]:4317",
        default: "(none: nothing is pushed)",
        example: "http://collector:4317",
        help: "The OTLP receiver to which podlens pushes metrics; over HTTP it adds /v1/metrics to the path, but not to that of `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT`",
        set: Set::Value(|config, text| {
            let endpoint = endpoint(text).map(|url| Endpoint { url, is_for_signal: false });
            assign(&mut config.otlp.endpoint, endpoint.map(Some))
        }),
    },
    Key {
        path: "otlp.interval",
        expects: "a duration from 100ms to 1h, such as 15s or 1m",
        default: "15s",
        example: "30s",
        help: "The time between two pushes",
        set: Set::Value(|config, text| assign(&mut config.otlp.interval, duration(text, TENTH..=HOUR))),
    },
    Key {
        path: "otlp.timeout",
        expects: "a duration from 100ms to 5m, such as 10s",
        default: "10s",
        example: "3s",
        help: "How long one request may take",
        set: Set::Value(|config, text| assign(&mut config.otlp.timeout, duration(text, TENTH..=5 * MINUTE))),
    },
    Key {
        path: "otlp.headers",
        expects: "header names with values of printable ASCII; in a variable name=value,name=value with percent-encoded values",
        default: "(none)",
        example: "x-scope=team%20a",
        help: "Headers of each request, for example for authorization; never logged",
        set: Set::Map {
            clear: |config| config.otlp.headers = Headers::default(),
            put: |config, name, text| {
                let (name, text) = header(name, text)?;
                // Twice in other letters, it would not be known which one is meant.
                config.otlp.headers.values.insert(name, text).is_none().then_some(())
            },
        },
    },
    Key {
        path: "otlp.compression",
        expects: "none, gzip or zstd",
        default: "none",
        example: "zstd",
        help: "Compression of requests; not every receiver accepts zstd",
        set: Set::Value(|config, text| {
            let choices = [("none", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
            assign(&mut config.otlp.compression, choice(text, &choices))
        }),
    },
    Key {
        path: "otlp.certificate",
        expects: "an absolute path",
        default: "(the public ones, as Mozilla lists them)",
        example: "/etc/podlens/ca.pem",
        help: "PEM file of the authorities that may sign the receiver's certificate",
        set: Set::Value(|config, text| assign_path(&mut config.otlp.certificate, text)),
    },
    Key {
        path: "otlp.client_certificate",
        expects: "an absolute path",
        default: "(none)",
        example: "/etc/podlens/client.pem",
        help: "PEM file of the agent's own certificate; needs `otlp.client_key`",
        set: Set::Value(|config, text| assign_path(&mut config.otlp.client_certificate, text)),
    },
    Key {
        path: "otlp.client_key",
        expects: "an absolute path",
        default: "(none)",
        example: "/etc/podlens/client.key",
        help: "PEM file of the key of `otlp.client_certificate`",
        set: Set::Value(|config, text| assign_path(&mut config.otlp.client_key, text)),
    },
    Key {
        path: "otlp.histograms",
        expects: "exponential or explicit",
        default: "exponential",
        example: "explicit",
        help: "Form in which podlens pushes distributions: in powers of two, or with the buckets of the Prometheus page for receivers that accept no exponential histograms",
        set: Set::Value(|config, text| {
            let choices = [("exponential", Histograms::Exponential), ("explicit", Histograms::Explicit)];
            assign(&mut config.otlp.histograms, choice(text, &choices))
        }),
    },
    Key {
        path: "otlp.temporality",
        expects: "cumulative or delta",
        default: "cumulative",
        example: "delta",
        help: "Whether podlens pushes counters and distributions as totals, or as increases since the last push, for back ends that accept nothing else",
        set: Set::Value(|config, text| {
            let choices = [("cumulative", Temporality::Cumulative), ("delta", Temporality::Delta)];
            assign(&mut config.otlp.temporality, choice(text, &choices))
        }),
    },
    Key {
        path: "otlp.identity",
        expects: "resource, attributes or both",
        default: "resource",
        example: "both",
        help: "Where the names of a value's pod, container or unit stand: on the `resource`, as `attributes` of each point and log record, for receivers that drop a resource's attributes, or on `both`",
        set: Set::Value(|config, text| {
            let choices =
                [("resource", Identity::Resource), ("attributes", Identity::Attributes), ("both", Identity::Both)];
            assign(&mut config.otlp.identity, choice(text, &choices))
        }),
    },
    Key {
        path: "otlp.resource_attributes",
        expects: "attribute names with values; in a variable name=value,name=value with percent-encoded names and values",
        default: "(none)",
        example: "k8s.cluster.name=prod",
        help: "Attributes of every resource; those that would name another pod, container or service apply only to the agent's own resource",
        set: Set::Map {
            clear: |config| config.otlp.resource_attributes.clear(),
            put: |config, name, text| {
                (!name.is_empty()).then(|| _ = config.otlp.resource_attributes.insert(name.to_owned(), text.to_owned()))
            },
        },
    },
    Key {
        path: "otlp.service_name",
        expects: "a text",
        default: "(`service.name` of `otlp.resource_attributes`, else podlens)",
        example: "node-agent",
        help: "`service.name` of the agent's own metrics",
        set: Set::Value(|config, text| assign(&mut config.otlp.service_name, Some(Some(text.to_owned())))),
    },
    Key {
        path: "otlp.service_attributes",
        expects: "true or false",
        default: "false",
        example: "true",
        help: "Whether each resource has `service.name`, `service.namespace` and `service.instance.id`, by which Prometheus' own OTLP receiver distinguishes resources",
        set: Set::Value(|config, text| assign(&mut config.otlp.service_attributes, boolean(text))),
    },
    Key {
        path: "kubernetes.source",
        expects: "auto, api, kubelet, bundle or none",
        default: "auto",
        example: "bundle",
        help: "Where names come from: the API server, the kubelet, the annotations that container runtimes write to disk, or nowhere; auto takes a source that is available and logs which one",
        set: Set::Value(|config, text| {
            let choices = [
                ("auto", NameSource::Auto),
                ("api", NameSource::Api),
                ("kubelet", NameSource::Kubelet),
                ("bundle", NameSource::Bundle),
                ("none", NameSource::None),
            ];
            assign(&mut config.kubernetes.source, choice(text, &choices))
        }),
    },
    Key {
        path: "kubernetes.kubeconfig",
        expects: "an absolute path",
        default: "(the pod's service account)",
        example: "/etc/kubernetes/admin.conf",
        help: "Kubeconfig file for an agent outside a cluster",
        set: Set::Value(|config, text| assign_path(&mut config.kubernetes.kubeconfig, text)),
    },
    Key {
        path: "kubernetes.kubelet_url",
        expects: "a URL with https://, without user or query, such as https://10.0.0.5:10250 or https://[fd00::5]:10250",
        default: "(port 10250 of the address in `NODE_IP`, else of 127.0.0.1)",
        example: "https://10.0.0.5:10250",
        help: "URL of the kubelet, if that is the source",
        set: Set::Value(|config, text| {
            let url = endpoint(text).filter(|url| url.scheme_str() == Some("https"));
            assign(&mut config.kubernetes.kubelet_url, url)
        }),
    },
    Key {
        path: "kubernetes.kubelet_certificate",
        expects: "an absolute path",
        default: "(the cluster's authority, from the service account)",
        example: "/etc/kubernetes/pki/kubelet-ca.crt",
        help: "PEM file of the authorities that may sign the kubelet's certificate",
        set: Set::Value(|config, text| assign_path(&mut config.kubernetes.kubelet_certificate, text)),
    },
    Key {
        path: "kubernetes.bundle_root",
        expects: "an absolute path",
        default: "/run",
        example: "/host/run",
        help: "The host's /run as podlens sees it, or a runtime's own state directory; podlens reads the runtimes' annotations there",
        set: Set::Value(|config, text| assign(&mut config.kubernetes.bundle_root, absolute_path(text))),
    },
    Key {
        path: "fleet.lacking_series",
        expects: "a whole number from 0 to 10000",
        default: "1000",
        example: "200",
        help: "For `podlens fleet`: how many series of nodes that lack a DaemonSet's pod there are at most, one each; the rest is only in the counts by reason, and `podlens_fleet_lacking_folded` is their number",
        set: Set::Value(|config, text| {
            let number = whole(text, 0..=10_000).and_then(|number| usize::try_from(number).ok());
            assign(&mut config.fleet.lacking_series, number)
        }),
    },
];

pub(super) fn assign<T>(field: &mut T, value: Option<T>) -> Option<()> {
    *field = value?;
    Some(())
}

pub(super) fn assign_path(field: &mut Option<PathBuf>, text: &str) -> Option<()> {
    assign(field, absolute_path(text).map(Some))
}
