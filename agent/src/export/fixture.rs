//! What the tests of export share: metrics of every shape, snapshots of them, a source, and a reader of text pages
//! that is independent of the writer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proptest::prelude::*;

use super::SnapshotSource;
use crate::{
    registry::{EntityState, Family, Info, Sample, Snapshot, Value, snapshot::Culprit},
    signal::{Container, Entity, Histogram, InfoMetric, Kind, Label, Metric, Unit},
};

const fn metric(name: &'static str, otlp_name: &'static str, kind: Kind, unit: Unit, label: Option<Label>) -> Metric {
    let help = "Help with a \\ and a \"quote\"";
    Metric { name, otlp_name, kind, unit, help, label, source: "", must_equal: "" }
}

pub(crate) static CPU: Metric =
    metric("podlens_cpu_seconds_total", "container.cpu.time", Kind::Counter, Unit::Seconds, None);
pub(crate) static SWITCHES: Metric = metric(
    "podlens_context_switches_total",
    "podlens.context.switches",
    Kind::Counter,
    Unit::Count("switch"),
    Some(Label { name: "kind", values: &["voluntary", "involuntary"] }),
);
pub(crate) static LATENCY: Metric =
    metric("podlens_runqueue_latency_seconds", "podlens.runqueue.latency", Kind::Histogram, Unit::Seconds, None);
pub(crate) static CAUSED: Metric =
    metric("podlens_cpu_wait_caused_seconds_total", "podlens.cpu.wait.caused", Kind::Counter, Unit::Seconds, None);
pub(crate) static MEMORY: Metric = metric(
    "podlens_memory_bytes",
    "podlens.memory",
    Kind::Gauge,
    Unit::Bytes,
    Some(Label { name: "type", values: &["anon", "file"] }),
);
pub(crate) static LIMIT: Metric =
    metric("podlens_cpu_limit_cores", "podlens.cpu.limit", Kind::Gauge, Unit::Count("core"), None);

pub(crate) static ALL: [&Metric; 6] = [&CPU, &SWITCHES, &LATENCY, &CAUSED, &MEMORY, &LIMIT];

pub(crate) static POD_INFO: InfoMetric =
    InfoMetric { name: "podlens_pod_info", help: "Facts about a pod", of_pod: true, source: "" };
pub(crate) static CONTAINER_INFO: InfoMetric =
    InfoMetric { name: "podlens_container_info", help: "Facts about a container", of_pod: false, source: "" };

pub(crate) fn container(namespace: &str, pod: &str, name: &str) -> Entity {
    Entity::Container(Container {
        namespace: namespace.into(),
        pod: pod.into(),
        container: name.into(),
        pod_uid: format!("uid-of-{namespace}-{pod}").into(),
        container_id: format!("{:0<64}", format!("c0ffee{}", hex(&format!("{namespace}/{pod}/{name}")))).into(),
    })
}

fn hex(text: &str) -> String {
    text.bytes().take(24).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

pub(crate) fn state(entity: Entity) -> EntityState {
    EntityState { entity, since: UNIX_EPOCH + Duration::from_secs(1_700_000_000), gone: false, carried: false }
}

pub(crate) fn sample(entity: u32, value: Value) -> Sample {
    Sample { entity, label_value: 0, culprit: None, value }
}

pub(crate) fn taken() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_123)
}

/// One value of every shape.
pub(crate) fn snapshot(sequence: u64) -> Snapshot {
    let mut histogram = Histogram::default();
    histogram.buckets[0] = 1;
    histogram.buckets[4] = 2;
    histogram.buckets[5] = 3;
    histogram.buckets[30] = 4;
    histogram.buckets[31] = 5;
    histogram.sum_ns = 700_000_000_001;
    let families = vec![
        Family {
            metric: &CPU,
            samples: vec![
                sample(0, Value::Nanoseconds(1_500_000_000)),
                sample(1, Value::Nanoseconds(1)),
                sample(2, Value::Nanoseconds(0)),
            ],
        },
        Family {
            metric: &SWITCHES,
            samples: vec![
                sample(0, Value::Integer(7)),
                Sample { label_value: 1, ..sample(0, Value::Integer(9_007_199_254_740_993)) },
            ],
        },
        Family { metric: &LATENCY, samples: vec![sample(0, Value::Histogram(Arc::new(histogram)))] },
        Family {
            metric: &CAUSED,
            samples: vec![
                Sample { culprit: Some(Culprit::Entity(1)), ..sample(0, Value::Nanoseconds(2_000_000_000)) },
                Sample { culprit: Some(Culprit::Entity(2)), ..sample(0, Value::Nanoseconds(30_000_000)) },
                Sample { culprit: Some(Culprit::Other), ..sample(0, Value::Nanoseconds(4)) },
            ],
        },
        Family { metric: &MEMORY, samples: vec![sample(1, Value::Integer(4096))] },
        Family { metric: &LIMIT, samples: vec![sample(0, Value::Float(0.25))] },
    ];
    Snapshot {
        sequence,
        taken: taken(),
        node: "node-1".into(),
        entities: vec![
            state(container("shop", "web-1", "nginx")),
            state(container("team \"a\"\\b\n", "db-0", "postgres")),
            state(Entity::unit("containerd.service")),
        ],
        families,
        infos: Vec::new(),
    }
}

/// The same with facts about the first entity.
pub(crate) fn with_facts() -> Snapshot {
    let pod = vec![("uid", "u-1".into()), ("workload", "web".into()), ("workload_type", "deployment".into())];
    let infos = vec![
        Info { metric: &POD_INFO, entity: 0, labels: pod },
        Info { metric: &CONTAINER_INFO, entity: 0, labels: vec![("image", "registry:5000/nginx:1".into())] },
    ];
    Snapshot { infos, ..snapshot(1) }
}

/// The counters of durations.
const ALL_COUNTERS: [&Metric; 2] = [&CPU, &CAUSED];

/// A large snapshot: `entities` containers with `per_entity` counters each.
pub(crate) fn large(entities: u32, per_entity: usize) -> Snapshot {
    let family = |number: usize| Family {
        metric: ALL_COUNTERS[number % ALL_COUNTERS.len()],
        samples: (0..entities)
            .map(|entity| {
                // Digits without a pattern, as real totals have, since compression is measured with them.
                let seed = (u64::from(entity) + 1) * (number as u64 + 1);
                sample(entity, Value::Nanoseconds(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 14))
            })
            .collect(),
    };
    Snapshot {
        sequence: 1,
        taken: taken(),
        node: "node-1.example.org".into(),
        entities: (0..entities)
            .map(|entity| {
                state(container(
                    &format!("namespace-{}", entity % 20),
                    &format!("deployment-7d4b9c6f5-{entity:05}"),
                    "application",
                ))
            })
            .collect(),
        families: (0..per_entity).map(family).collect(),
        infos: Vec::new(),
    }
}

/// Any snapshot with distinct, known entities, whose numbers a `f64` holds exactly.
pub(crate) fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let number = || 0_u64..1 << 53;
    let name = "[a-z\"\\\\\n\u{e4}]{1,6}";
    let entity = prop_oneof![
        (name, name, name).prop_map(|(namespace, pod, name)| container(&namespace, &pod, &name)),
        name.prop_map(|unit| Entity::unit(&unit)),
    ];
    let histogram = (prop::collection::vec(0_u64..1 << 40, Histogram::BUCKETS), number())
        .prop_map(|(buckets, sum_ns)| Histogram { buckets: buckets.try_into().unwrap(), sum_ns });
    let values = (number(), number(), any::<u8>(), histogram);
    let entities = prop::collection::hash_set(entity, 1..6);
    (entities, prop::collection::vec(values, 6)).prop_map(|(entities, values)| {
        let count = u32::try_from(entities.len()).unwrap();
        let families = ALL.iter().map(|metric| {
            let samples = (0..count).zip(&values).flat_map(|(entity, value)| {
                let (first, second, float, histogram) = value;
                let numbers = match metric.unit {
                    Unit::Seconds => [Value::Nanoseconds(*first), Value::Nanoseconds(*second)],
                    _ => [Value::Integer(*first), Value::Integer(*second)],
                };
                let [one, two] = numbers;
                if metric.kind == Kind::Histogram {
                    return vec![sample(entity, Value::Histogram(Arc::new(histogram.clone())))];
                }
                if metric.name == LIMIT.name {
                    return vec![sample(entity, Value::Float(f64::from(*float) / 7.0))];
                }
                if metric.name == CAUSED.name {
                    let culprit = Some(Culprit::Entity((entity + 1) % count));
                    return vec![
                        Sample { culprit, ..sample(entity, one) },
                        Sample { culprit: Some(Culprit::Other), ..sample(entity, two) },
                    ];
                }
                if metric.label.is_some() {
                    return vec![sample(entity, one), Sample { label_value: 1, ..sample(entity, two) }];
                }
                vec![sample(entity, one)]
            });
            Family { metric, samples: samples.collect() }
        });
        Snapshot {
            sequence: 1,
            taken: taken(),
            node: "node-1".into(),
            families: families.collect(),
            infos: Vec::new(),
            entities: entities.into_iter().map(state).collect(),
        }
    })
}

/// A series: its name and its labels.
pub(crate) type Series = (String, BTreeMap<String, String>);

/// Reads the samples of a text page. Panics at anything that is not well formed.
pub(crate) fn parse(page: &str) -> BTreeMap<Series, f64> {
    let mut found = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, mut rest) = match line.find(['{', ' ']) {
            Some(end) => line.split_at(end),
            None => panic!("no value: {line}"),
        };
        let mut labels = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            while !rest.starts_with('}') {
                let (label, value) = rest.split_once("=\"").expect(line);
                let mut text = String::new();
                let mut characters = value.char_indices();
                let end = loop {
                    match characters.next().expect(line) {
                        (at, '"') => break at,
                        (_, '\\') => text.push(match characters.next().expect(line).1 {
                            'n' => '\n',
                            escaped @ ('\\' | '"') => escaped,
                            other => panic!("escape {other:?}: {line}"),
                        }),
                        (_, character) => text.push(character),
                    }
                };
                let before = labels.insert(label.to_owned(), text);
                assert_eq!(before, None, "label twice: {line}");
                rest = &value[end + 1..];
                rest = rest.strip_prefix(',').unwrap_or(rest);
            }
            rest = &rest[1..];
        }
        let value = rest.strip_prefix(' ').expect(line).parse().expect(line);
        let before = found.insert((name.to_owned(), labels), value);
        assert_eq!(before, None, "series twice: {line}");
    }
    found
}

/// A source that counts what it is asked and notes what it is told.
pub(crate) struct FakeSource {
    pub(crate) snapshot: Mutex<Snapshot>,
    /// Whether each call makes a new sequence number.
    pub(crate) moving: bool,
    pub(crate) asked: AtomicU64,
    pub(crate) exported: Mutex<Vec<(String, u64)>>,
}

impl FakeSource {
    pub(crate) fn new(snapshot: Snapshot, moving: bool) -> Arc<Self> {
        let exported = Mutex::new(Vec::new());
        let asked = AtomicU64::new(0);
        Arc::new(Self { snapshot: Mutex::new(snapshot), moving, asked, exported })
    }

    pub(crate) fn exported(&self) -> Vec<(String, u64)> {
        self.exported.lock().unwrap().clone()
    }
}

impl SnapshotSource for FakeSource {
    async fn snapshot(&self) -> Arc<Snapshot> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut snapshot = self.snapshot.lock().unwrap();
        snapshot.sequence += u64::from(self.moving);
        Arc::new(snapshot.clone())
    }

    fn exported(&self, exporter: &str, sequence: u64) {
        self.exported.lock().unwrap().push((exporter.to_owned(), sequence));
    }
}

/// Waits for something that another task brings about, at most five seconds.
pub(crate) async fn eventually(what: &str, met: impl Fn() -> bool) {
    for _ in 0..1000 {
        if met() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within five seconds: {what}");
}
